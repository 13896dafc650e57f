"""The stage evaluate: every contest's own metric of its own files, and what it says of files that do not fit."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fixtures.contests import draw, facts, write_images
from fixtures.layouts import KEYS, draw_contest

from pipeline import plots
from pipeline.competition import Competition
from pipeline.data import coco as annotations
from pipeline.data.contest import read_test, read_train
from pipeline.data.dataset import read_image
from pipeline.errors import ConfigError, InputError
from pipeline.files import Paths, write_coco, write_detections, write_instances
from pipeline.instances import Detections, Instances
from pipeline.masks.geometry import remove_overlaps
from pipeline.masks.runs import area, from_dense, to_coco, to_dense
from pipeline.stages.evaluate import evaluate
from pipeline.submission.case import source_ids
from pipeline.submission.rows import write


def places(root: Path) -> Paths:
    return Paths(root / "data", root / "out", root / "submissions")


def converted(root: Path, competition: Competition) -> Paths:
    """What the stage reads of `convert`: training and test images of the contest in `root`/data."""
    paths = places(root)
    write_coco(paths.annotations, read_train(paths.data, competition, "csv"))
    write_coco(paths.test, read_test(paths.data, competition))
    return paths


def rescored(competition: Competition, paths: Paths, submission: Path, truth: Path) -> dict[str, Any]:
    """What the stage writes of a submission."""
    evaluate(competition=competition, paths=paths, run="none", submission=submission, truth=truth, quiet=True)
    return json.loads((paths.output / "submission_scores.json").read_text())


def maskline(*words: str) -> subprocess.CompletedProcess[str]:
    """The command as a user gives it, from anywhere."""
    return subprocess.run([sys.executable, "-m", "pipeline", *words], capture_output=True, text=True, check=False)


# Truth against itself, in every contest's own layout ----------------------------------------------------------------


@pytest.mark.parametrize("key", KEYS)
def test_the_truth_as_a_submission_scores_one_against_the_contests_own_file(
    key: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    competition, _ = draw_contest(tmp_path / "data", key)
    paths = converted(tmp_path, competition)
    coco = read_train(paths.data, competition, "csv")
    submission = tmp_path / competition.submission_file
    write(annotations.truth(coco), competition, submission, source_ids(coco))

    content = rescored(competition, paths, submission, paths.data / competition.train_annotations)
    assert content["metric"] == competition.metric
    assert content["total"] == pytest.approx(1, abs=1e-9)
    assert {image["image_id"] for image in content["images"]} == {image["name"] for image in coco["images"]}
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].startswith(f"{competition.submission_file}: ")
    assert printed[0].endswith(f" 1.0000 over {len(coco['images'])} images")
    assert (paths.output / "submission.png").read_bytes().startswith(b"\x89PNG")
    assert "No kind of error costs anything." in (paths.output / "submission_report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("key", ["airbus", "imaterialist2019", "clouds", "hubmap2023"])
def test_a_submission_that_lacks_a_mask_scores_less(key: str, tmp_path: Path) -> None:
    competition, _ = draw_contest(tmp_path / "data", key)
    paths = converted(tmp_path, competition)
    truth = annotations.truth(read_train(paths.data, competition, "csv"))
    # Of the first image only what is not submitted stays.
    first = truth[0].select(np.array([competition.code(label) is None for label in truth[0].labels.tolist()], bool))
    write([first, *truth[1:]], competition, tmp_path / "less.csv")
    total = rescored(competition, paths, tmp_path / "less.csv", paths.data / competition.train_annotations)["total"]
    assert total < 0.95


LIVECELL = {
    "categories": ("cell",),
    "train_image": "images/livecell_train_val_images/{id}",
    "test_image": "images/livecell_train_val_images/{id}",
    "train_annotations": "livecell_coco_val.json",
    "sample_submission": "livecell_coco_val.json",
}


@pytest.mark.parametrize(
    ("competition", "folder", "wanted"),
    [
        pytest.param(facts("dsb2018"), "dsb2018_mini", 1, id="dsb2018"),
        pytest.param(facts("coco", **LIVECELL), "livecell", 1, id="livecell"),
        # Its truth overlaps itself and a submission may not: the ceiling with the small ones first, of all images .978.
        pytest.param(facts("sartorius"), "sartorius", 0.983, id="sartorius"),
    ],
)
def test_real_truth_scores_one_or_as_much_as_without_overlaps_it_can(
    competition: Competition, folder: str, wanted: float, real_data: Path, tmp_path: Path
) -> None:
    paths = Paths(real_data / folder, tmp_path / "out", tmp_path / "submissions")
    coco = read_train(paths.data, competition, "csv")
    write_coco(paths.annotations, coco)
    write_coco(paths.test, read_test(paths.data, competition))
    truth = annotations.truth(coco)
    if competition.overlap == "forbidden":
        kept = [remove_overlaps(one.runs, -area(one.runs)) for one in truth]
        truth = [Instances.of_runs(t.image_id, k, t.scores, t.labels) for t, k in zip(truth, kept, strict=True)]
    write(truth, competition, tmp_path / "truth.file", source_ids(coco))
    content = rescored(competition, paths, tmp_path / "truth.file", paths.data / competition.train_annotations)
    assert content["total"] == pytest.approx(wanted, abs=0.001 if wanted < 1 else 1e-9)


# A contest of a few pixels, worked by hand --------------------------------------------------------------------------

# a1 is 6 × 8, down the columns: truth 1-10 and 21-24. b2 is 5 × 7: truth 1-2. c3 is empty.
TRUTH = "ImageId,EncodedPixels\na1,1 10\na1,21 4\nb2,1 2\n"
# a1: IoU 6/10 with the first, the second missed. b2: nothing. c3: nothing.
FOUND = "ImageId,EncodedPixels\na1,1 6\nb2,\nc3,\n"
# a1: TP 1, FN 1 above .50 and .55, 1/2 each: 1/10. b2: 0. c3: 1.
TOTAL = (1 / 10 + 0 + 1) / 3


@pytest.fixture
def dsb(tmp_path: Path) -> Paths:
    """DSB2018's layout with the truth above as its training annotations, converted, and found.csv beside it."""
    draw(tmp_path / "data", "dsb2018", train_csv=TRUTH)
    (tmp_path / "found.csv").write_text(FOUND)
    return converted(tmp_path, facts("dsb2018"))


def test_the_score_is_that_worked_by_hand(dsb: Paths, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = rescored(facts("dsb2018"), dsb, tmp_path / "found.csv", dsb.data / "stage1_train_labels.csv")
    assert content["total"] == pytest.approx(TOTAL)
    assert [image["score"] for image in content["images"]] == pytest.approx([0.1, 0, 1])
    assert content["images"][0]["tp"] == [1, 1, 0, 0, 0, 0, 0, 0, 0, 0]
    assert content["per_class"] == {}, "the rows of this contest carry no class"
    assert content.keys() >= {"metric", "thresholds", "per_threshold", "pooled"}
    assert capsys.readouterr().out.splitlines() == [
        "found.csv: mean precision 0.3667 over 3 images",
        "  IoU over     .50  .55  .60  .65  .70  .75  .80  .85  .90  .95",
        "  per image    .50  .50  .33  .33  .33  .33  .33  .33  .33  .33",
        "  pooled       .33  .33  .00  .00  .00  .00  .00  .00  .00  .00",
    ]


def test_another_metric_of_the_same_files_is_the_contests_word_alone(dsb: Paths, tmp_path: Path) -> None:
    truth = dsb.data / "stage1_train_labels.csv"
    # F2 of a1: 5 / (5 + 4) at two of ten thresholds. Dice: 2 · 6 / (14 + 6), 0, 1.
    for metric, wanted in (("f2", (2 / 10 * 5 / 9 + 0 + 1) / 3), ("dice", (12 / 20 + 0 + 1) / 3)):
        content = rescored(facts("dsb2018", metric=metric), dsb, tmp_path / "found.csv", truth)
        assert (content["metric"], content["total"]) == (metric, pytest.approx(wanted))


def test_a_file_of_test_truth_is_about_the_test_images(dsb: Paths, tmp_path: Path) -> None:
    (tmp_path / "truth.csv").write_text("ImageId,EncodedPixels\nt1,1 10\n")
    (tmp_path / "test.csv").write_text("ImageId,EncodedPixels\nt1,1 10\nt2,\n")
    content = rescored(facts("dsb2018"), dsb, tmp_path / "test.csv", tmp_path / "truth.csv")
    assert [image["image_id"] for image in content["images"]] == ["t1", "t2"]
    # Without an instance it is about the test images too.
    (tmp_path / "truth.csv").write_text("ImageId,EncodedPixels\nt1,\n")
    content = rescored(facts("dsb2018"), dsb, tmp_path / "test.csv", tmp_path / "truth.csv")
    assert [image["score"] for image in content["images"]] == [0, 1]


def test_a_file_of_truth_may_be_about_training_and_test_images(dsb: Paths, tmp_path: Path) -> None:
    (tmp_path / "truth.csv").write_text(f"{TRUTH}t1,1 10\n")
    (tmp_path / "all.csv").write_text(f"{FOUND}t1,1 10\nt2,\n")
    content = rescored(facts("dsb2018"), dsb, tmp_path / "all.csv", tmp_path / "truth.csv")
    assert content["total"] == pytest.approx((3 * TOTAL + 1 + 1) / 5)


def test_where_the_images_are_not_there_the_score_is_and_a_picture_is_not(
    dsb: Paths, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    truth = dsb.data / "stage1_train_labels.csv"
    rescored(facts("dsb2018"), dsb, tmp_path / "found.csv", truth)
    elsewhere = Paths(tmp_path / "nowhere", dsb.output, dsb.submissions)
    capsys.readouterr()
    content = rescored(facts("dsb2018"), elsewhere, tmp_path / "found.csv", truth)
    assert content["total"] == pytest.approx(TOTAL)
    assert "mean precision 0.3667" in capsys.readouterr().out
    assert [message for message in caplog.messages if message.startswith("no picture is drawn: ")]
    assert [message for message in caplog.messages if message.startswith("the report shows no images: ")]
    assert not (dsb.output / "submission.png").exists(), "the picture of an earlier score is not this one's"


# The size at which a contest scores ---------------------------------------------------------------------------------


def test_masks_are_compared_at_the_size_of_a_submission(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    contest = facts("dsb2018", submitted_size=(3, 4))  # of 6 × 8: pixel (y, x) is (2y + 1, 2x + 1)
    masks = np.zeros((3, 6, 8), bool)
    masks[0, :4, :4] = True  # 2 × 2 pixels
    masks[1, 4:, 4:] = True  # 1 × 2
    masks[2, 0, 6] = True  # none
    truth = Instances.of_runs("a1", from_dense(masks), np.ones(3, np.float32), np.ones(3, np.int64))
    draw(tmp_path / "data", "dsb2018")
    write([truth], facts("dsb2018"), tmp_path / "data" / "stage1_train_labels.csv")
    paths = converted(tmp_path, contest)
    # Columns of three: 1-2 and 4-5 are the first mask, 9 and 12 the second.
    (tmp_path / "found.csv").write_text("ImageId,EncodedPixels\na1,1 2 4 2\na1,9 1 12 1\nb2,\nc3,\n")
    with caplog.at_level("INFO"):
        content = rescored(contest, paths, tmp_path / "found.csv", paths.data / "stage1_train_labels.csv")
    assert content["total"] == 1
    assert "instances without a pixel at the size at which the contest scores, which do not count: 1" in caplog.messages


def test_the_picture_shows_image_and_masks_on_one_canvas(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[plots.Panel] = []
    comparison = plots.comparison
    monkeypatch.setattr(plots, "comparison", lambda panels: shown.extend(panels) or comparison(panels))
    competition, _ = draw_contest(tmp_path / "data", "imaterialist2019")
    paths = converted(tmp_path, competition)
    truth = annotations.truth(read_train(paths.data, competition, "csv"))
    write(truth, competition, tmp_path / "found.csv")
    rescored(competition, paths, tmp_path / "found.csv", paths.data / competition.train_annotations)
    small, same = sorted(shown, key=lambda panel: panel.truth.size)
    # The first is 20 × 1024 and scored at half of that, the second small enough as it is.
    np.testing.assert_array_equal(small.image, read_image(paths.data / "train/a1.jpg")[::2, ::2])
    np.testing.assert_array_equal(same.image, read_image(paths.data / "train/a2.jpg"))
    for panel in shown:
        assert panel.truth.size == panel.predicted.size == panel.image.shape[:2]
        assert panel.hit_truth.all()


# The validation of a run --------------------------------------------------------------------------------------------


def validation(paths: Paths, coco: Any, found: list[Instances], part: str = "validation") -> None:
    """What `ensemble` and `postprocess` leave of a run named r."""
    folder = paths.run("r")
    folder.mkdir(parents=True, exist_ok=True)
    write_detections(folder / f"detections_{part}.npz", [Detections.empty(i.image_id, i.size, 28) for i in found])
    write_instances(folder / f"instances_{part}.json", found, coco)


@pytest.mark.parametrize("key", ["airbus", "severstal", "openimages2019", "coco"])
def test_the_validation_of_a_run_is_scored_by_the_contests_metric(key: str, tmp_path: Path) -> None:
    competition, _ = draw_contest(tmp_path / "data", key)
    paths = converted(tmp_path, competition)
    coco = read_train(paths.data, competition, "csv")
    found = annotations.truth(coco)[:1]  # one image was held out, and is as the truth has it
    validation(paths, coco, found)
    evaluate(competition=competition, paths=paths, run="r", submission=None, truth=None, quiet=True)
    content = json.loads((paths.run("r") / "scores.json").read_text())
    assert (content["metric"], content["total"]) == (competition.metric, pytest.approx(1))
    assert [image["image_id"] for image in content["images"]] == [found[0].image_id]
    assert content["per_class"], "a run knows the classes of its instances"
    assert (paths.run("r") / "evaluation.png").is_file()
    assert "Validation of r" in (paths.run("r") / "report.html").read_text(encoding="utf-8")


def test_images_that_were_held_out_are_scored_beside_the_validation(
    dsb: Paths, capsys: pytest.CaptureFixture[str]
) -> None:
    coco = read_train(dsb.data, facts("dsb2018"), "csv")
    write_coco(dsb.holdout, coco)
    truth = annotations.truth(coco)
    found = [replace(one, scores=one.scores[:0], labels=one.labels[:0], masks=()) for one in truth[:1]] + truth[1:]
    settings: dict[str, Any] = {"competition": facts("dsb2018"), "paths": dsb, "run": "r", "quiet": True}
    settings |= {"submission": None, "truth": None}
    validation(dsb, coco, truth[:1])
    evaluate(**settings)
    assert not (dsb.run("r") / "test_scores.json").exists(), "the test images were not decided yet"
    validation(dsb, coco, found, "test")
    capsys.readouterr()
    evaluate(**settings)
    assert [line.split(":")[0] for line in capsys.readouterr().out.splitlines() if " of r" in line] == [
        "validation of r",
        "test of r",
    ]
    scores = {name: json.loads((dsb.run("r") / name).read_text()) for name in ("scores.json", "test_scores.json")}
    assert scores["scores.json"]["total"] == 1
    assert [one["score"] for one in scores["test_scores.json"]["images"]] == [0] + [1] * (len(truth) - 1)
    assert (dsb.run("r") / "test_report.html").is_file()
    (dsb.run("r") / "scores.json").unlink()
    evaluate(**settings, split="test")
    assert not (dsb.run("r") / "scores.json").exists()


def test_test_images_without_a_known_truth_are_no_part_to_score(dsb: Paths) -> None:
    with pytest.raises(
        InputError, match=r"holdout\.json does not exist: .* holdout_ids= .* submission=FILE truth=FILE"
    ):
        evaluate(
            competition=facts("dsb2018"), paths=dsb, run="r", submission=None, truth=None, quiet=True, split="test"
        )


def test_the_instances_of_a_run_are_brought_to_the_size_of_a_submission(tmp_path: Path) -> None:
    competition, _ = draw_contest(tmp_path / "data", "imaterialist2019")
    paths = converted(tmp_path, competition)
    coco = read_train(paths.data, competition, "csv")
    large = annotations.truth(coco)[0]  # 20 × 1024, scored at 10 × 512
    masks = to_dense(large.runs)
    masks[:, ::2, :] = False  # rows that the smaller canvas does not look at
    validation(
        paths,
        coco,
        [Instances(large.image_id, large.size, large.scores, large.labels, tuple(to_coco(from_dense(masks))))],
    )
    evaluate(competition=competition, paths=paths, run="r", submission=None, truth=None, quiet=True)
    assert json.loads((paths.run("r") / "scores.json").read_text())["total"] == 1


# As a user types it, and wrong input --------------------------------------------------------------------------------


def test_any_submission_is_scored_at_the_command_line(dsb: Paths, tmp_path: Path) -> None:
    words = ["evaluate", "competition=dsb2018", f"paths.data={dsb.data}", f"paths.output={dsb.output}"]
    words += [f"submission={tmp_path}/found.csv"]
    done = maskline(*words, f"truth={dsb.data}/stage1_train_labels.csv")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == "found.csv: mean precision 0.3667 over 3 images"
    alone = maskline(*words)
    assert alone.returncode == 2
    assert "truth: wanted a file, got null; submission= and truth= go together" in alone.stderr
    assert "Traceback" not in alone.stderr
    missing = maskline(*words, f"truth={tmp_path}/no.csv")
    assert missing.returncode == 1
    assert "no.csv" in missing.stderr
    assert "Traceback" not in missing.stderr


def test_a_truth_without_a_submission_is_refused(dsb: Paths, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"submission: wanted a file, got null"):
        evaluate(
            competition=facts("dsb2018"), paths=dsb, run="r", submission=None, truth=tmp_path / "truth.csv", quiet=True
        )


@pytest.mark.parametrize(
    ("submission", "truth", "message"),
    [
        (FOUND, TRUTH.replace("b2", "zz"), r"truth\.csv row 4, image zz: the image is none of the 5 that are scored"),
        (FOUND.replace("b2", "zz"), TRUTH, r"(?s)found\.csv: .* row 3, image zz"),
        (FOUND.replace("b2,\n", ""), TRUTH, r"(?s)found\.csv: .*b2"),
        ("id,predicted\na1,1 2\n", TRUTH, r"found\.csv"),
        (FOUND, "id,mask\na1,1 2\n", r"truth\.csv"),
        (FOUND, '{"images": []}', r"truth\.csv"),
        (FOUND.replace("1 6", "1 60"), TRUTH, r"(?s)found\.csv: .*row 2, image a1"),
        (FOUND, TRUTH.replace("1 10", "1 100"), r"truth\.csv row 2, image a1"),
    ],
)
def test_files_that_do_not_fit_are_refused_by_name_and_nothing_is_written(
    submission: str, truth: str, message: str, dsb: Paths, tmp_path: Path
) -> None:
    (tmp_path / "found.csv").write_text(submission)
    (tmp_path / "truth.csv").write_text(truth)
    with pytest.raises(InputError, match=message):
        rescored(facts("dsb2018"), dsb, tmp_path / "found.csv", tmp_path / "truth.csv")
    assert not (dsb.output / "submission_scores.json").exists()


def test_before_convert_the_error_names_that_stage(tmp_path: Path) -> None:
    (tmp_path / "found.csv").write_text(FOUND)
    write_images(tmp_path / "data", facts("dsb2018").train_image, {"a1": (6, 8)})
    with pytest.raises(InputError, match=r"test\.json does not exist; the stage `convert` makes it"):
        rescored(facts("dsb2018"), places(tmp_path), tmp_path / "found.csv", tmp_path / "found.csv")
