"""Files of every format as its version wrote them are read with exactly what they held; of a newer one it is said."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from fixtures import formats
from fixtures.contests import facts
from fixtures.formats import FOLDER

from pipeline import files, journal, report
from pipeline.data.patch import Fix, read_patch
from pipeline.errors import InputError
from pipeline.files import Paths
from pipeline.inference.rules import Rules
from pipeline.model.families import described
from pipeline.model.weights import load_detector, read_weights
from pipeline.record import Step
from pipeline.records import content, digests
from pipeline.stages.postprocess import _tuned

RULES = Rules(score=0.5, mask=0.4, min_area=0, min_share=0.6, nms=0.3)
TOY = facts("toy")


def kept(name: str, folder: Path) -> Path:
    """A copy, so that no test can change the golden file."""
    return Path(shutil.copy(FOLDER / name, folder / name.partition("/")[2] if "/" in name else folder / name))


# What they hold -------------------------------------------------------------------------------------------------------


def test_truth_folds_and_statistics_are_read() -> None:
    assert files.read_coco(FOLDER / "coco_v1.json") == formats.COCO
    assert list(files.read_folds(FOLDER / "folds_v1.csv").items()) == list(formats.FOLDS.items())
    assert files.read_json(FOLDER / "statistics_v1.json", "convert") == formats.STATISTICS


def test_detections_are_read() -> None:
    found = files.read_detections(FOLDER / "detections_v2.npz")
    for got, wanted in zip(found, formats.detections(), strict=True):
        assert (got.image_id, got.size, got.alignment) == (wanted.image_id, wanted.size, "torchvision")
        for column in ("boxes", "scores", "labels", "masks"):
            np.testing.assert_array_equal(getattr(got, column), getattr(wanted, column))


def test_instances_and_presence_are_read() -> None:
    found = files.read_instances(FOLDER / "instances_v1.json", formats.COCO)
    for got, wanted in zip(found, formats.instances(), strict=True):
        assert (got.image_id, got.size, got.masks) == (wanted.image_id, wanted.size, wanted.masks)
        np.testing.assert_array_equal(got.scores, wanted.scores)
        np.testing.assert_array_equal(got.labels, wanted.labels)
    assert found[0].runs.start.tolist() == [5, 9]
    probable = files.read_presence(FOLDER / "presence_v1.csv", ("round", "spindle"))
    known = {name: [None if np.isnan(value) else float(value) for value in row] for name, row in probable.items()}
    assert known == formats.PRESENCE


def test_what_other_stages_found_is_read_for_the_report(tmp_path: Path) -> None:
    paths = Paths(tmp_path, tmp_path, tmp_path)
    paths.run("r").mkdir(parents=True)
    for name, place in {
        "ceiling_v1.json": paths.output / "ceiling.json",
        "compared_v1.json": paths.run("r") / "compared_with_one.json",
        "tuning_v1.json": paths.run("r") / "tuning.json",
    }.items():
        shutil.copy(FOLDER / name, place)
    found = report.extras(paths, "r")
    assert (found.ceiling, found.compared, found.tuning) == (formats.CEILINGS, [formats.COMPARED], formats.TUNING)
    assert files.read_json(FOLDER / "scores_v1.json", "evaluate") == formats.SCORES
    # Before there were versions the ceilings were a list alone, and nothing else had one.
    (paths.output / "ceiling.json").write_text(json.dumps(formats.CEILINGS))
    assert report.extras(paths, "r").ceiling == formats.CEILINGS


@pytest.mark.parametrize("versioned", [True, False])
def test_tuned_rules_are_read(tmp_path: Path, versioned: bool) -> None:
    path = kept("tuned_v1.yaml", tmp_path)
    if not versioned:  # as they were before there were versions
        path.write_text(path.read_text().replace("version: 1\n", ""))
    assert _tuned(path, RULES) == Rules(score=0.4, mask=0.5, min_area=3, min_share=0.6, nms=None)


@pytest.mark.parametrize("versioned", [True, False])
def test_stamps_and_the_journal_are_read(tmp_path: Path, versioned: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "logs").mkdir()
    line = json.loads((FOLDER / "commands_v1.jsonl").read_text())
    line = line if versioned else {name: value for name, value in line.items() if name != "version"}
    (tmp_path / journal.NAME).write_text(json.dumps(line))
    (found,) = journal.commands(tmp_path)
    assert {name: found[name] for name in formats.COMMAND} == formats.COMMAND
    stamp = json.loads((FOLDER / "stamp_v1.json").read_text())
    monkeypatch.setattr("pipeline.record.version", lambda: stamp["maskline"])
    step = Step(FOLDER / "stamp_v1.json", (), {"seed": 0, "model": formats.OTSU}, {"annotations.json": formats.HASH})
    assert step.is_done()


def test_a_patch_is_read() -> None:
    found = read_patch(FOLDER / "patch_v1.json", TOY)
    fixes = (Fix("drop", "a1", "0123456789ab"), Fix("add", "007", category="round", counts="11N"))
    assert (found.source, found.fixes) == ("here", fixes)


def test_weights_are_read() -> None:
    found = read_weights(FOLDER / "weights_v1.pt")
    assert (described(found["model"]), found["info"]) == (formats.RCNN, formats.INFO)
    assert found["state"].keys() == formats.STATE.keys()
    assert all(torch.equal(found["state"][name], tensor) for name, tensor in formats.STATE.items())
    for name in ("otsu_v1.pt", "otsu_v1.safetensors"):
        model, info = load_detector(FOLDER / name)
        assert (model.spec, info) == (formats.OTSU, formats.INFO)


def test_a_record_is_read() -> None:
    found = content.read(FOLDER / "record_v2")
    assert (found.content, found.config, found.run) == (formats.RECORD, formats.CONFIG, "tiny")
    assert digests.read(FOLDER / "record_v2" / "images.csv") == formats.DIGESTS


def test_the_golden_files_are_small() -> None:
    assert sum(path.stat().st_size for path in FOLDER.rglob("*") if path.is_file()) < 100_000


# What is newer --------------------------------------------------------------------------------------------------------


def _json(path: Path, key: str = "version", inside: str | None = None) -> None:
    found = json.loads(path.read_text())
    (found if inside is None else found[inside])[key] += 1
    path.write_text(json.dumps(found))


def _yaml(path: Path) -> None:
    found = yaml.safe_load(path.read_text())
    path.write_text(yaml.safe_dump({**found, "version": found["version"] + 1}))


def _npz(path: Path) -> None:
    with np.load(path) as archive:
        np.savez(path.with_suffix(".new.npz"), **{**archive, "version": archive["version"] + 1})
    path.with_suffix(".new.npz").replace(path)


def _pt(path: Path) -> None:
    found = torch.load(path, weights_only=True)
    torch.save({**found, "version": found["version"] + 1}, path)


Change, Read = Callable[[Path], None], Callable[[Path], Any]
NEWER: dict[str, tuple[Change, Read, str]] = {
    "coco_v1.json": (lambda path: _json(path, inside="info"), files.read_coco, "version 2; run `convert` again"),
    "statistics_v1.json": (_json, lambda path: files.read_json(path, "convert"), "2; use the version of maskline that"),
    "scores_v1.json": (_json, lambda path: files.read_json(path, "evaluate"), "2; use the version of maskline that"),
    "detections_v2.npz": (_npz, files.read_detections, "got version 3; run `predict` again"),
    "tuned_v1.yaml": (_yaml, lambda path: _tuned(path, RULES), "wanted version 1, got version 2; use the version of"),
    "patch_v1.json": (
        _json,
        lambda path: read_patch(path, TOY),
        "got maskline-patch 2. A newer version of this program",
    ),
    "weights_v1.pt": (_pt, read_weights, "got maskline-weights of 2; a newer version of this program may read it"),
}


@pytest.mark.parametrize("name", NEWER)
def test_a_newer_version_is_refused_with_its_number_and_what_to_do(name: str, tmp_path: Path) -> None:
    path = kept(name, tmp_path)
    change, read, said = NEWER[name]
    read(path)
    change(path)
    with pytest.raises(InputError) as error:
        read(path)
    assert said in str(error.value)
    assert str(path) in str(error.value)


def test_a_newer_record_is_refused_and_a_newer_stamp_is_not_done(tmp_path: Path) -> None:
    shutil.copytree(FOLDER / "record_v2", tmp_path / "record")
    _yaml(tmp_path / "record" / "record.yaml")
    with pytest.raises(InputError, match="of version 3; read it with the version of this program that made it"):
        content.read(tmp_path / "record")
    stamp = kept("stamp_v1.json", tmp_path)
    _json(stamp)
    step = Step(stamp, (), {"seed": 0, "model": formats.OTSU}, {"annotations.json": formats.HASH})
    assert not step.is_done()


def test_a_newer_table_has_other_columns_and_is_refused(tmp_path: Path) -> None:
    """A table has no place for a version: its columns are it."""
    (tmp_path / "folds.csv").write_text("image,part\na1,0\n")
    with pytest.raises(InputError, match="is no table of image_id and fold"):
        files.read_folds(tmp_path / "folds.csv")
    (tmp_path / "presence.csv").write_text("image_id,round,spindle,sure\na1,0,1,1\n")
    with pytest.raises(
        InputError, match="wanted the columns image_id, round, spindle, got image_id, round, spindle, sure"
    ):
        files.read_presence(tmp_path / "presence.csv", ("round", "spindle"))


def test_a_file_of_a_version_that_is_no_number_is_refused(tmp_path: Path) -> None:
    for version in (None, "1", True, [1], 1.5):
        path = tmp_path / "scores.json"
        path.write_text(json.dumps({"version": version}))
        with pytest.raises(InputError, match="wanted version 1, got version "):
            files.read_json(path, "evaluate")


def test_a_member_of_detections_that_is_not_known_does_no_harm(tmp_path: Path) -> None:
    path = kept("detections_v2.npz", tmp_path)
    with zipfile.ZipFile(path, "a") as archive, archive.open("later.npy", "w") as file:
        np.lib.format.write_array(file, np.zeros(3))
    assert len(files.read_detections(path)) == 2
