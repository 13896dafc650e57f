"""The stages tune and postprocess: what one writes the other applies, also of each class, and what files may hold."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from fixtures.predicted import CONTEST, RULES, predicted

from pipeline.errors import ConfigError, InputError
from pipeline.files import Paths
from pipeline.inference.rules import STANDARD, Rules
from pipeline.inference.tune import Search
from pipeline.stages.postprocess import postprocess
from pipeline.stages.tune import tune

SEARCH = Search(scores=(0.2, 0.5, 0.8), areas=(1, 20), masks=(0.5,), min_shares=(0.5,), nms=(None,), per_class=True)


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    return predicted(tmp_path)


def tuned(paths: Paths, search: Search, rules: Rules = RULES) -> dict[str, Any]:
    tune(competition=CONTEST, paths=paths, run="r", postprocess=rules, search=search, seed=0, quiet=True)
    found: dict[str, Any] = yaml.safe_load((paths.run("r") / "tuned.yaml").read_text())
    return found


def applied(paths: Paths, rules: Rules = RULES) -> dict[str, Any]:
    """The rules that `postprocess tuned=true` says it has applied."""
    places: dict[str, Any] = {"competition": CONTEST, "paths": paths, "run": "r", "split": "validation"}
    postprocess(**places, postprocess=rules, tuned=True, overwrite=False)
    stamp = json.loads((paths.run("r") / ".postprocess_validation.json").read_text())
    found: dict[str, Any] = stamp["settings"]["postprocess"]
    return found


def test_thresholds_of_each_class_are_found_written_by_name_and_applied(
    paths: Paths, capsys: pytest.CaptureFixture[str]
) -> None:
    wanted = {"astro": 0.8, "cort": 0.2, "shsy5y": 0.2}
    written = tuned(paths, SEARCH)
    assert written["rules"]["score"] == wanted
    assert (written["rules"]["mask"], written["rules"]["nms"]) == (0.5, None)
    printed = capsys.readouterr().out
    assert "score {astro: 0.8, cort: 0.2, shsy5y: 0.2}" in printed
    assert "of this is what rules of each class add to those for all" in printed
    report = json.loads((paths.run("r") / "tuning.json").read_text())
    assert report["by_class"]["low"] > 0
    assert report["nested"]["mean"] == 1.0
    assert applied(paths)["score"] == [0.8, 0.2, 0.2]
    rows = json.loads((paths.run("r") / "instances_validation.json").read_text())
    assert all(row["score"] >= (0.8 if row["category_id"] == 1 else 0.2) for row in rows)


def test_one_number_for_all_classes_is_written_as_one(paths: Paths) -> None:
    written = tuned(paths, replace(SEARCH, per_class=False))
    assert isinstance(written["rules"]["score"], float)
    assert json.loads((paths.run("r") / "tuning.json").read_text())["by_class"] is None
    assert applied(paths)["score"] == written["rules"]["score"]


def test_a_file_written_before_rules_had_steps_still_applies(paths: Paths) -> None:
    rules = {"mask": 0.4, "min_share": 0.3, "nms": None, "score": 0.65, "min_area": 5}
    (paths.run("r") / "tuned.yaml").write_text(yaml.safe_dump({"detections": "0", "rules": rules}))
    found = applied(paths)
    assert {name: found[name] for name in rules} == rules
    assert found["steps"] == list(STANDARD)


def test_thresholds_that_were_chosen_with_other_rules_are_applied_with_a_warning(
    paths: Paths, caplog: pytest.LogCaptureFixture
) -> None:
    tuned(paths, replace(SEARCH, per_class=False))
    applied(paths)
    assert "was chosen with other rules" not in caplog.text
    applied(paths, replace(RULES, holes="fill", steps=("rescore", *STANDARD)))
    assert "tuned.yaml was chosen with other rules: holes keep, now fill; steps [" in caplog.text


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("rules: {score: 2}", r"tuned.yaml holds no rules \(score: wanted a number from 0 to 1, got 2\); run `tune`"),
        ("rules: {scores: 0.5}", r"tuned.yaml holds no rules \(.*unexpected keyword argument 'scores'\)"),
        ("{}", "tuned.yaml holds no rules"),
        ("rules: [", "tuned.yaml holds no rules"),
        ("- 3", "tuned.yaml holds no rules"),
    ],
)
def test_a_file_that_holds_no_rules_is_refused(paths: Paths, content: str, said: str) -> None:
    (paths.run("r") / "tuned.yaml").write_text(content)
    with pytest.raises(InputError, match=said):
        applied(paths)


def test_thresholds_of_another_contests_classes_are_refused(paths: Paths) -> None:
    rules = {"score": {"ship": 0.5}}
    (paths.run("r") / "tuned.yaml").write_text(yaml.safe_dump({"rules": rules}))
    with pytest.raises(ConfigError, match=r"postprocess.score: ship: no such category; wanted one of each of astro"):
        applied(paths)
