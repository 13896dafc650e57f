"""The stage `submit`: the file of each layout, and none where the contest would refuse it."""

from __future__ import annotations

import dataclasses
import json
import logging
from pathlib import Path

import numpy as np
import pytest
import yaml
from fixtures.contests import facts
from fixtures.layouts import KEYS, draw_contest, instances, test_ids

from pipeline.competition import Competition
from pipeline.errors import InputError
from pipeline.files import Paths, write_coco, write_instances
from pipeline.instances import Instances
from pipeline.stages.lint import lint
from pipeline.stages.submit import submit
from pipeline.submission.rows import read


def prepared(root: Path, competition: Competition, made: list[Instances]) -> tuple[Paths, dict[str, tuple[int, int]]]:
    """What `convert` and `postprocess` would have left; the ids of the contest's own file are 900, 901, …"""
    paths = Paths(root / "data", root / "output", root / "submissions")
    images = [
        {
            "id": k + 1,
            "name": one.image_id,
            "file_name": one.image_id,
            "height": one.size[0],
            "width": one.size[1],
            "group": "",
        }
        for k, one in enumerate(made)
    ]
    if competition.submission_layout == "coco":
        images = [{**one, "source_id": 900 + k} for k, one in enumerate(images)]
    categories = [{"id": k, "name": name} for k, name in enumerate(competition.categories, 1)]
    info = {"format": "maskline-coco", "version": 1, "competition": competition.key}
    coco = {"info": info, "images": images, "categories": categories, "annotations": []}
    write_coco(paths.test, coco)
    write_instances(paths.run("r") / "instances_test.json", made, coco)
    return paths, {one.image_id: (one.size[0], one.size[1]) for one in made}


@pytest.mark.parametrize("key", KEYS)
def test_every_contest_gets_its_file_and_the_record_says_which(
    key: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    competition, truth = draw_contest(tmp_path / "contest", key, seed=1)
    paths, sizes = prepared(tmp_path, competition, [instances(name, truth) for name in test_ids(truth)])
    submit(competition=competition, paths=paths, run="r", name=None, overwrite=False)
    path = paths.output / competition.submission_file
    lint(competition=competition, paths=paths, submission=path, format="text")
    assert capsys.readouterr().out == "no findings\n"
    ids = {name: 900 + k for k, name in enumerate(sizes)}
    assert any(len(one) for one in read(path, competition, sizes, ids if key == "coco" else None))
    (record,) = paths.submissions.glob("*/record.yaml")
    assert yaml.safe_load(record.read_text())["submission"]["file"] == competition.submission_file
    if key == "coco":
        assert {one["image_id"] for one in json.loads(path.read_text())} == {900, 901}


@pytest.mark.parametrize(
    ("key", "changes", "code"),
    [
        ("dsb2018", {}, "overlap"),
        ("imaterialist2019", {"submitted_size": None}, "overlap"),
        ("severstal", {"submission_megabytes": 1e-6}, "file-size"),
        ("openimages2019", {"overlap": "forbidden"}, "overlap"),
        ("hubmap2023", {"overlap": "within_class"}, "overlap"),
        ("coco", {"overlap": "within_class"}, "overlap"),
    ],
)
def test_an_invalid_file_is_never_written(key: str, changes: dict[str, object], code: str, tmp_path: Path) -> None:
    competition = dataclasses.replace(facts(key), **changes)  # type: ignore[arg-type]
    counts = ("044", "134")  # of 2×4 pixels: the first four, and three from the second on
    labels = np.ones(2, np.int64)
    paths, _ = prepared(tmp_path, competition, [Instances("a", (2, 4), np.ones(2, np.float32), labels, counts)])
    with pytest.raises(InputError, match=rf"(?s)rules of {key}, nothing is written:.*error {code}"):
        submit(competition=competition, paths=paths, run="r", name=None, overwrite=False)
    assert not (paths.output / competition.submission_file).exists()
    assert not paths.submissions.exists()
    assert [path.name for path in paths.output.iterdir() if "partial" in path.name] == []


def test_a_warning_is_logged_and_does_not_hold_the_file_back(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    twice = Instances("a", (2, 4), np.ones(2, np.float32), np.ones(2, np.int64), ("044", "044"))
    paths, _ = prepared(tmp_path, facts("hubmap2023"), [twice])
    with caplog.at_level(logging.INFO):
        submit(competition=facts("hubmap2023"), paths=paths, run="r", name=None, overwrite=False)
    assert "warning duplicate-row: row 2, image a: prediction 2 is prediction 1 of row 2 again" in caplog.text
    assert "2 instances, findings: 1, sha256" in caplog.text
    assert (paths.output / "submission.csv").is_file()
