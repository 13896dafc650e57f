"""What a record must be before anything is done with it: it is a file that strangers send.

Its names become folders and links, its words commands for a person to type, its figures a row of a table.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from pipeline.competition import is_inside, is_safe_id

_SHA256 = re.compile("[0-9a-f]{64}")


def check_record(content: Mapping[str, Any]) -> None:
    """Raises TypeError or ValueError naming the key where the content of a record.yaml is none."""
    _require(is_safe_id(_text("competition", content["competition"])), "competition", "a plain name", content)
    _require(is_inside(_text("run", content["run"])), "run", "the name of a run", content)
    submission = _mapping("submission", content["submission"])
    for key in ("file", "sha256"):
        _text(f"submission.{key}", submission.get(key))
    _require(is_safe_id(submission["file"]), "submission", "a plain file name", content)
    _require(_SHA256.fullmatch(submission["sha256"]) is not None, "submission", "a sha256", content)
    for key in ("inputs", "files"):
        for name, digest in _mapping(key, content[key]).items():
            inside = is_inside(_text(key, name)) or key == "inputs"  # those are named and never opened
            _require(inside, key, f"paths inside their folder, not {name!r:.80}", content)
            _require(_SHA256.fullmatch(_text(f"{key}.{name}", digest)) is not None, key, "a sha256 of each", content)
    _environment("environment", content.get("environment"))
    if not isinstance(content["stages"], list):
        raise TypeError(f"stages: wanted a list, got {type(content['stages']).__name__}")
    for number, stage in enumerate(content["stages"]):
        _stage(f"stages[{number}]", stage)
    score = _mapping("score", content.get("score") or {})
    for key in ("public", "private"):
        _number(f"score.{key}", score.get(key))
    if content.get("validation") is not None:
        _validation(_mapping("validation", content["validation"]))


def _stage(key: str, stage: Any) -> None:
    name = _text(f"{key}.stage", _mapping(key, stage).get("stage"))
    words = stage.get("overrides", "none")
    if words is not None:
        told = isinstance(words, list) and all(isinstance(word, str) and word.isprintable() for word in words)
        _require(told, f"{key}.overrides", f"the words of a command of {name}", stage)
    settings = _mapping(f"{key}.settings", stage.get("settings", {}))
    _require(all(isinstance(own, str) for own in settings), f"{key}.settings", "names", stage)
    for own in ("minutes", "peak_memory_mb"):
        _number(f"{key}.{own}", stage.get(own))
    if "environment" in stage:
        _environment(f"{key}.environment", stage["environment"])


def _environment(key: str, found: Any) -> None:
    for package in _mapping(f"{key}.packages", _mapping(key, found).get("packages", {})):
        _text(f"{key}.packages", package)
    commit = found.get("commit")
    _require(commit is None or _text(f"{key}.commit", commit).isalnum(), f"{key}.commit", "letters and digits", found)


def _validation(found: Mapping[str, Any]) -> None:
    for key in ("score", "images", "tolerance"):
        _number(f"validation.{key}", found.get(key))
    interval = found.get("interval", [])
    _require(isinstance(interval, list) and len(interval) in (0, 2), "validation.interval", "its two ends", found)
    for end in interval:
        _number("validation.interval", end)


def _text(key: str, value: Any) -> str:
    if not isinstance(value, str) or not value.isprintable():
        raise TypeError(f"{key}: wanted a line of text, got {value!r:.80}")
    return value


def _mapping(key: str, value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise TypeError(f"{key}: wanted a mapping, got {value!r:.80}")
    return value


def _number(key: str, value: Any) -> None:
    if value is not None and (isinstance(value, bool) or not isinstance(value, int | float) or abs(value) > 1e15):
        raise TypeError(f"{key}: wanted a number, got {value!r:.80}")


def _require(holds: bool, key: str, wanted: str, content: Mapping[str, Any]) -> None:
    if not holds:
        raise ValueError(f"{key}: wanted {wanted}, got {content.get(key.rpartition('.')[2])!r:.80}")
