"""A classifier on the whole line: trained, broken off, predicted, asked by another run, recorded and made again."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from fixtures.line import places
from fixtures.records import Made

from pipeline.__main__ import main
from pipeline.files import read_coco, read_detections, read_instances, read_presence
from pipeline.model.classifier import ImageClassifier
from pipeline.record import file_hash
from pipeline.records import lineage

CLASSIFIER = [
    "experiment=presence",
    "model.weights=none",
    "model.scale=0.25",
    "trainer.steps=4",
    "trainer.epoch_steps=2",
    "trainer.accelerator=cpu",
    "trainer.threads=1",
    "fold=0",
    "quiet=true",
]
NAMES = ("round", "spindle")


@pytest.fixture(scope="module")
def asked(made: Made, tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A copy of the toy contest that was run to its end, in whose folder a classifier was run as well."""
    folder = tmp_path_factory.mktemp("asked")
    shutil.copytree(made.folder, folder, dirs_exist_ok=True)
    other = Made(folder / "toy", folder, folder / "submissions" / made.record.name)
    assert main(["run", *words(other), "n_folds=2", *CLASSIFIER, "run=seen", "views=flips"]) == 0
    return other


def words(made: Made) -> list[str]:
    return places(made.data, made.folder)


def fold(made: Made, name: str) -> Path:
    return made.folder / "output/runs/seen/fold0" / name


def state(made: Made, run: str) -> dict[str, torch.Tensor]:
    path = made.folder / "output/runs" / run / "fold0/last.ckpt"
    return dict(torch.load(path, map_location="cpu", weights_only=True)["state_dict"])


def decided(made: Made, part: str = "validation") -> list[tuple[str, list[int], tuple[str, ...]]]:
    output = made.folder / "output"
    coco = read_coco(output / ("annotations.json" if part == "validation" else "test.json"))
    found = read_instances(output / f"runs/tiny/instances_{part}.json", coco)
    return [(one.image_id, one.labels.tolist(), one.masks) for one in found]


def test_its_run_ends_with_a_row_for_each_image(asked: Made, capsys: pytest.CaptureFixture[str]) -> None:
    folds = pd.read_csv(asked.folder / "output/folds.csv", dtype={"image_id": str})
    found = read_presence(fold(asked, "presence_validation.csv"), NAMES)
    assert list(found) == folds["image_id"][folds["fold"] == 0].tolist()
    test = {image["name"] for image in read_coco(asked.folder / "output/test.json")["images"]}
    assert set(read_presence(fold(asked, "presence_test.csv"), NAMES)) == test
    history = pd.read_csv(fold(asked, "history.csv"))
    assert {"loss_presence", "validation_score", "validation_log_loss"} <= set(history.columns)
    np.testing.assert_allclose(history["validation_score"], np.exp(-history["validation_log_loss"]), rtol=1e-4)
    assert len(list(fold(asked, "pictures").glob("*.png"))) == 2
    assert not list(fold(asked, ".").glob("detections_*"))
    assert main(["predict", *words(asked), "run=seen", "views=flips"]) == 0
    assert "is complete" in capsys.readouterr().err
    assert main(["ensemble", *words(asked), "run=seen"]) == 1
    said = "seen is a classifier's run and has no instances to fuse; another run asks it by postprocess=gate"
    assert said in capsys.readouterr().err


def test_one_that_breaks_off_ends_with_the_same_bits(asked: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, calls = ImageClassifier.detect, [0]

    def breaks(self: ImageClassifier, image: torch.Tensor, image_id: str) -> object:
        calls[0] += 1
        if calls[0] == 4:  # in the second validation, of three images each: two steps are made and lost
            raise RuntimeError("something that nobody foresaw")
        return plain(self, image, image_id)

    monkeypatch.setattr(ImageClassifier, "detect", breaks)
    again = ["train", *words(asked), *CLASSIFIER, "run=broken"]
    assert main(again) == 1
    assert main(again) == 0
    wanted, found = state(asked, "seen"), state(asked, "broken")
    assert wanted.keys() == found.keys()
    assert [name for name in wanted if not torch.equal(wanted[name], found[name])] == []


def test_what_it_does_not_see_is_gone_and_the_rest_is_as_it_was(
    asked: Made, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = decided(asked)
    detections = read_detections(asked.folder / "output/runs/tiny/detections_validation.npz")
    assert sum(map(len, detections)) > 0
    path = fold(asked, "presence_validation.csv")
    before, table = path.read_bytes(), pd.read_csv(path, dtype={"image_id": str})
    table["round"], table["spindle"] = 0.2, [0.9, *[0.1] * (len(table) - 1)]
    table.to_csv(path, index=False)
    try:
        gate = [
            "postprocess",
            *words(asked),
            "run=tiny",
            "split=validation",
            "postprocess.score=0.3",
            "presence.run=seen",
        ]
        assert main([*gate, "postprocess=gate", "presence.least=0.15"]) == 0
        said = capsys.readouterr().err
        assert "seen sees nothing in 0 of 3 images" in said
        unsure = decided(asked)
        assert main([*gate, "postprocess=gate"]) == 0
        assert "seen sees nothing in 2 of 3 images" in capsys.readouterr().err
        sure = decided(asked)
    finally:
        path.write_bytes(before)
        assert main(["postprocess", *words(asked), "run=tiny", "postprocess.score=0.3"]) == 0
    assert decided(asked) == plain
    first = str(table["image_id"][0])
    assert all(set(labels) <= {1} for name, labels, _ in unsure if name != first)
    assert all(not labels for name, labels, _ in sure if name != first)
    assert all(set(labels) <= {2} for name, labels, _ in sure)


def test_a_record_names_the_classifier_and_makes_the_bytes_again_from_its_weights(
    asked: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gate = [*words(asked), "run=tiny", "postprocess=gate", "presence.run=seen", "presence.least=0.4"]
    assert main(["postprocess", *gate, "postprocess.score=0.3"]) == 0
    assert main(["evaluate", *words(asked), "run=tiny"]) == 0
    assert main(["submit", *words(asked), "run=tiny", "name=gated"]) == 0
    (record,) = (asked.folder / "submissions").glob("*_gated")
    content = yaml.safe_load((record / "record.yaml").read_text())
    trained = [one["overrides"] for one in content["stages"] if one["stage"] in ("train", "predict")]
    assert sum("run=seen" in own for own in trained) >= 1
    weights, said = (f"runs/{run}/fold0/best.pt" for run in ("tiny", "seen")), "runs/seen/fold0/presence_test.csv"
    weights = list(weights)
    assert content["files"][said] == file_hash(asked.folder / "output" / said)
    assert said in (record / "images.csv").read_text().partition("\n")[0]
    for number, names in enumerate((weights, ["runs/tiny/detections_test.npz", said])):
        other = Made(asked.data, asked.folder, record).copied(tmp_path / str(number), "test.json", *names)
        capsys.readouterr()
        assert main(["reproduce", *other.words(), "quiet=true"]) == 0
        printed = capsys.readouterr().out
        assert f"starts with {('predict', 'postprocess')[number]}" in printed
        assert "reproduced: " in printed
    assert main(["postprocess", *words(asked), "run=tiny", "postprocess.score=0.3", "overwrite=true"]) == 0


@pytest.mark.parametrize(
    ("own", "status", "said"),
    [
        (["postprocess=gate"], 2, "gate asks a classifier; wanted its run as presence.run=NAME, got null"),
        (
            ["presence.run=seen"],
            2,
            "presence.run=seen: none of postprocess.steps asks it; wanted gate or vote among them",
        ),
        (["postprocess=gate", "presence.run=tiny"], 1, "no presence_validation.csv in fold[0-9]* or all"),
        (["postprocess=gate", "presence.least=2"], 2, "least: wanted 0 to 1, got 2"),
    ],
)
def test_what_cannot_be_asked_is_refused(
    asked: Made, own: list[str], status: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["postprocess", *words(asked), "run=tiny", *own]) == status
    assert said in capsys.readouterr().err


def test_images_that_the_classifier_has_not_looked_at_are_named(
    asked: Made, capsys: pytest.CaptureFixture[str]
) -> None:
    path = fold(asked, "presence_validation.csv")
    before = path.read_bytes()
    lines = before.decode().splitlines(keepends=True)
    path.write_text("".join(lines[:-1]))
    missing = lines[-1].partition(",")[0]
    try:
        assert main(["postprocess", *words(asked), "run=tiny", "postprocess=gate", "presence.run=seen"]) == 1
    finally:
        path.write_bytes(before)
    said = f"presence.run=seen: 1 of 3 images have no row in its files, such as {missing}; train and predict the same"
    assert said in capsys.readouterr().err


def test_a_classifier_is_asked_for_every_category_and_warned_of_crops(
    asked: Made, capsys: pytest.CaptureFixture[str]
) -> None:
    train = ["train", *words(asked), *CLASSIFIER, "run=some"]
    assert main([*train, "categories=[round]"]) == 2
    assert "categories: wanted null, a classifier is asked for every category; got ['round']" in capsys.readouterr().err
    assert main([*train, "trainer.select=tuned_score", "augment.crop=64"]) == 2
    printed = capsys.readouterr().err
    assert "trained on crops of 64 pixels and what they show; augment.crop=null shows whole images" in printed
    assert "trainer.select: a classifier has no thresholds to tune" in printed


def test_what_a_submission_was_made_of_includes_classifiers_and_trainings_on_all_images(tmp_path: Path) -> None:
    folder = tmp_path / "runs/both"
    folder.mkdir(parents=True)
    read = {
        "one/fold0/detections_test.npz": "",
        "one/fold12/detections_test.npz": "",
        "two/all/detections_test.npz": "",
    }
    (folder / ".ensemble_test.json").write_text(json.dumps({"inputs": read}))
    read = dict.fromkeys(("detections_test.npz", "seen/fold1/presence_test.csv", "seen/all/presence_test.csv"), "")
    (folder / ".postprocess_test.json").write_text(json.dumps({"inputs": read}))
    assert lineage.sources(tmp_path, "both") == [("one", 0), ("one", 12), ("two", "all")]
    assert lineage.classifiers(tmp_path, "both") == [("seen", 1), ("seen", "all")]
    assert [lineage.place("seen", fold) for fold in (1, "all")] == ["runs/seen/fold1", "runs/seen/all"]
    trained = tmp_path / "runs/two/all/.train.json"
    trained.parent.mkdir(parents=True)
    trained.write_text("{}{")  # a stamp that cannot be read is none
    assert lineage.stamps(tmp_path, "both")[0].stage == "ensemble"
    trained.write_text('{"inputs": {}}')
    (found,) = (one for one in lineage.stamps(tmp_path, "both") if one.stage == "train")
    assert (found.places, found.path) == ({"run": "two", "fold": "all"}, trained)
