"""The stage compare: differences of two runs, in all and per class, and the images that moved most."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fixtures.contests import draw, facts

from pipeline.data import coco as annotations
from pipeline.data.contest import read_train
from pipeline.errors import ConfigError, InputError
from pipeline.files import Paths, write_coco, write_detections, write_instances
from pipeline.instances import Detections, Instances
from pipeline.masks.runs import from_dense, to_coco
from pipeline.stages.compare import compare

CONTEST = facts("sartorius")


@pytest.fixture
def contest(tmp_path: Path) -> tuple[Paths, list[Instances]]:
    """Images a1 (an astro, a cort), b2 (a shsy5y) and c3 (nothing), and a run for each of some sets of predictions."""
    data = draw(tmp_path / "data", "sartorius")
    paths = Paths(data, tmp_path / "out", tmp_path / "submissions")
    coco = read_train(data, CONTEST, "csv")
    for image in coco["images"]:
        image["group"] = image["name"]
    write_coco(paths.annotations, coco)
    truth = annotations.truth(coco)
    none = [Instances.empty(one.image_id, one.size) for one in truth]
    corner = np.zeros((1, 4, 4), bool)
    corner[0, 0, 0] = True
    false = Instances("c3", (4, 4), np.ones(1, np.float32), np.ones(1, np.int64), tuple(to_coco(from_dense(corner))))
    for run, found in {"none": none, "right": truth, "noisy": [*truth[:2], false], "part": truth[:1]}.items():
        folder = paths.run(run)
        folder.mkdir(parents=True)
        soft = [Detections.empty(one.image_id, one.size, 28) for one in found]
        write_detections(folder / "detections_validation.npz", soft)
        write_instances(folder / "instances_validation.json", found, coco)
    return paths, truth


def compared(paths: Paths, a: str, b: str) -> dict[str, Any]:
    compare(competition=CONTEST, paths=paths, a=a, b=b, seed=0)
    found: dict[str, Any] = json.loads((paths.run(b) / f"compared_with_{a}.json").read_text())
    return found


def test_what_one_run_finds_and_the_other_does_not_is_the_difference(
    contest: tuple[Paths, list[Instances]], capsys: pytest.CaptureFixture[str]
) -> None:
    paths, _ = contest
    found = compared(paths, "none", "right")
    assert {name: one["mean"] for name, one in found["difference"].items()} == {
        "all": pytest.approx(2 / 3), "astro": 1.0, "cort": 1.0, "shsy5y": 1.0,
    }  # fmt: skip
    assert [(one["image_id"], one["a"], one["b"], one["difference"]) for one in found["images"]] == [
        ("a1", 0.0, 1.0, 1.0), ("b2", 0.0, 1.0, 1.0), ("c3", 1.0, 1.0, 0.0),
    ]  # fmt: skip
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == "right minus none, 3 images, 95 % interval"
    assert printed[2] == "  astro        +1.0000 [+1.0000, +1.0000]  right is better"
    assert printed[5:8] == [
        "  none has 0.3333, right 1.0000; moved most",
        "  a1  +1.0000  from 0.0000 to 1.0000",
        "  b2  +1.0000  from 0.0000 to 1.0000",
    ]
    assert (paths.run("right") / "compared_with_none.png").read_bytes().startswith(b"\x89PNG")


def test_the_other_way_round_every_difference_changes_its_sign(contest: tuple[Paths, list[Instances]]) -> None:
    paths, _ = contest
    there, back = compared(paths, "noisy", "right"), compared(paths, "right", "noisy")
    for name, one in there["difference"].items():
        other = back["difference"][name]
        assert (one["mean"], one["low"], one["high"]) == (-other["mean"], -other["high"], -other["low"])


def test_a_false_alarm_where_the_truth_has_none_of_a_class_counts_against_it(
    contest: tuple[Paths, list[Instances]],
) -> None:
    """The astro of c3 that is not there: the mean over a1, where nothing changed, and c3."""
    found = compared(contest[0], "right", "noisy")
    assert {name: one["mean"] for name, one in found["difference"].items()} == {
        "all": pytest.approx(-1 / 3), "astro": -0.5, "cort": 0.0, "shsy5y": 0.0,
    }  # fmt: skip


def test_only_images_that_both_runs_were_scored_on_are_compared(contest: tuple[Paths, list[Instances]]) -> None:
    assert [one["image_id"] for one in compared(contest[0], "part", "noisy")["images"]] == ["a1"]


def test_no_picture_is_drawn_where_nothing_moved_or_no_image_is_there(
    contest: tuple[Paths, list[Instances]], caplog: pytest.LogCaptureFixture
) -> None:
    paths, _ = contest
    compared(paths, "right", "right")
    assert not (paths.run("right") / "compared_with_right.png").exists()
    away = Paths(paths.data / "nowhere", paths.output, paths.submissions)
    assert compared(away, "none", "right")["difference"]["all"]["mean"] == pytest.approx(2 / 3)
    assert "no picture is drawn" in caplog.text
    assert not (paths.run("right") / "compared_with_none.png").exists()


def test_runs_that_cannot_be_compared_are_refused(contest: tuple[Paths, list[Instances]]) -> None:
    paths, _ = contest
    with pytest.raises(ConfigError, match=r"^b: wanted the name of a run, got null"):
        compare(competition=CONTEST, paths=paths, a="right", b=None, seed=0)
    with pytest.raises(ConfigError, match="its metric ranks all images together and has none per image"):
        compare(competition=facts("hubmap2023"), paths=paths, a="right", b="none", seed=0)
    with pytest.raises(InputError, match=r"detections_validation.npz"):
        compared(paths, "right", "lost")
