"""The whole line as a user types it, on contests small enough for a test; how well it scores is measured elsewhere."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from fixtures.line import TINY, places, typed
from fixtures.records import Made

from pipeline.files import read_detections


@pytest.fixture(scope="module")
def finished(made: Made, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, str]:
    """The toy contest, run to the end: its folder, the folder of what was made, and what was printed."""
    folder = tmp_path_factory.mktemp("line")
    made.whole(folder)
    return folder / "toy", folder, (folder / "printed.txt").read_text()


def test_run_leads_from_the_contests_files_to_a_checked_csv(finished: tuple[Path, Path, str]) -> None:
    data, folder, printed = finished
    rows = pd.read_csv(folder / "output/submission.csv", dtype=str, keep_default_na=False)
    wanted = pd.read_csv(data / "sample_submission.csv", dtype=str, keep_default_na=False)
    assert list(rows.columns) == list(wanted.columns)
    assert set(rows["id"]) == set(wanted["id"])
    assert "validation of tiny: mean precision" in printed
    assert "submission.csv: mean precision" in printed
    lint = typed("lint", f"submission={folder}/output/submission.csv", *places(data, folder))
    assert (lint.returncode, lint.stdout.strip()) == (0, "no findings")


def test_run_leaves_weights_detections_scores_and_pictures(finished: tuple[Path, Path, str]) -> None:
    output = finished[1] / "output"
    run = output / "runs/tiny"
    names = ["fold0/best.pt", "fold0/last.ckpt", "fold0/history.csv", "fold0/detections_test.npz"]
    names += ["detections_validation.npz", "instances_test.json", "scores.json", "evaluation.png"]
    assert [name for name in names if not (run / name).is_file()] == []
    assert list((run / "fold0/tensorboard").glob("events.*"))
    assert (output / "submission.png").read_bytes().startswith(b"\x89PNG")
    assert [str(path) for path in output.rglob("*.partial")] == []
    assert 0 <= json.loads((run / "scores.json").read_text())["total"] <= 1


def test_the_record_says_what_was_made_from_what(made: Made) -> None:
    record = made.record / "record.yaml"
    content = yaml.safe_load(record.read_text())
    train = next(stage for stage in content["stages"] if stage["stage"] == "train")
    assert "trainer.steps=2" in train["overrides"]
    assert yaml.safe_load((record.parent / "config.yaml").read_text())["trainer"]["steps"] == 2
    assert {"runs/tiny/fold0/best.pt", "annotations.json", "folds.csv"} <= content["files"].keys()
    assert len(content["submission"]["sha256"]) == 64
    assert str(made.folder) not in record.read_text(), "a record names no folder of the machine that made it"


def test_run_again_skips_what_is_complete(finished: tuple[Path, Path, str]) -> None:
    data, folder, _ = finished
    made = [folder / "output/annotations.json", folder / "output/runs/tiny/fold0/best.pt"]
    made.append(folder / "output/runs/tiny/fold0/detections_test.npz")
    before = [path.stat().st_mtime_ns for path in made]
    again = typed("run", *places(data, folder), "n_folds=2", *TINY)
    assert again.returncode == 0, again.stderr
    assert [path.stat().st_mtime_ns for path in made] == before
    assert "trains again" in again.stderr


def test_a_changed_threshold_remakes_only_what_follows_from_it(finished: tuple[Path, Path, str]) -> None:
    data, folder, _ = finished
    source = folder / "output/runs/tiny/detections_validation.npz"
    before = source.stat().st_mtime_ns
    words = [*places(data, folder), "run=tiny", "postprocess.score=0.99"]
    assert typed("postprocess", *words).returncode == 0
    assert json.loads((folder / "output/runs/tiny/instances_validation.json").read_text()) == []
    assert source.stat().st_mtime_ns == before


def test_thresholds_that_are_tuned_are_applied(finished: tuple[Path, Path, str]) -> None:
    data, folder, _ = finished
    words, run = [*places(data, folder), "run=tiny"], folder / "output/runs/tiny"
    few = ["search.scores=[0.3,0.6]", "search.areas=[1,9]", "search.masks=[0.5]", "search.nms=[null]"]
    missing = typed("postprocess", *words, "tuned=true")
    assert missing.returncode == 1
    assert "tuned.yaml does not exist; the stage `tune` makes it" in missing.stderr
    done = typed("tune", *words, *few)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("tuning of tiny: 8 trials, ")
    rules = yaml.safe_load((run / "tuned.yaml").read_text())["rules"]
    assert rules["score"] in (0.3, 0.6)
    assert typed("postprocess", *words, "tuned=true").returncode == 0
    applied = json.loads((run / ".postprocess_validation.json").read_text())["settings"]["postprocess"]
    assert {name: applied[name] for name in rules} == rules


def test_two_runs_are_fused_into_a_third(finished: tuple[Path, Path, str]) -> None:
    data, folder, _ = finished
    runs = folder / "output/runs"
    for words in (["runs=[tiny,tiny]", "weights=[1,3]"], []):
        done = typed("ensemble", *places(data, folder), "run=tiny" if not words else "run=both", *words)
        assert done.returncode == 0, done.stderr
    both, one = (read_detections(runs / name / "detections_test.npz", "ensemble") for name in ("both", "tiny"))
    for fused, own in zip(both, one, strict=True):
        np.testing.assert_allclose(fused.scores, own.scores, atol=1e-6)
        np.testing.assert_allclose(fused.boxes, own.boxes, atol=1e-3)
    wrong = typed("ensemble", *places(data, folder), "run=both", "runs=[tiny,tiny]", "weights=[1]")
    assert (wrong.returncode, "weights: wanted one for each of 2 runs, got [1.0]" in wrong.stderr) == (2, True)


def test_a_run_is_as_good_as_itself(finished: tuple[Path, Path, str]) -> None:
    data, folder, _ = finished
    done = typed("compare", *places(data, folder), "a=tiny", "b=tiny")
    assert done.returncode == 0, done.stderr
    assert "tiny minus tiny, 3 images, 95 % interval\n  all          +0.0000 [+0.0000, +0.0000]\n" in done.stdout
    for words, status, said in (
        (["a=tiny"], 2, "b: wanted the name of a run, got null"),
        (["a=tiny", "b=none"], 1, "detections_validation.npz"),
    ):
        wrong = typed("compare", *places(data, folder), *words)
        assert (wrong.returncode, said in wrong.stderr) == (status, True)


def test_dsb2018_runs_in_torchvisions_alignment_to_a_row_for_every_id(real_data: Path, tmp_path: Path) -> None:
    data = real_data / "dsb2018_mini"
    words = ["competition=dsb2018", "model.alignment=torchvision", *places(data, tmp_path)]
    done = typed("run", *words, "n_folds=12", *TINY)
    assert done.returncode == 0, done.stderr
    found = read_detections(tmp_path / "output/runs/tiny/detections_test.npz", "predict")
    assert {one.alignment for one in found} == {"torchvision"}
    assert sum(map(len, found)) > 0
    rows = pd.read_csv(tmp_path / "output/submission.csv", dtype=str, keep_default_na=False)
    wanted = pd.read_csv(data / "stage1_sample_submission.csv", dtype=str)
    assert set(rows["ImageId"]) == set(wanted["ImageId"])
    assert len(wanted) == 11
