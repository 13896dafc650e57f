"""Where to start making a submission again: at the last stage whose inputs are at hand, and what that promises."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pipeline.errors import InputError
from pipeline.record import file_hash
from pipeline.records.content import Record

Start = Literal["postprocess", "ensemble", "predict", "convert"]
STARTS: tuple[Start, ...] = ("postprocess", "ensemble", "predict", "convert")
LINE = ("convert", "train", "predict", "ensemble", "tune", "postprocess")
_OF_TEST = ("predict", "ensemble", "postprocess")


@dataclass(frozen=True)
class Plan:
    """What is to be done. start: the first stage of the line. files: kept ones that are read, by their recorded path.

    stages: of the record, in order, with their settings; between start and end, of the test images alone unless all is
    made from scratch. notes: what is at hand and is not as it was, though nothing here needs it.
    """

    start: Start
    files: Mapping[str, Path]
    stages: tuple[Mapping[str, Any], ...]
    notes: tuple[str, ...]

    @property
    def from_scratch(self) -> bool:
        return self.start == "convert"


def needed(record: Record, start: Start) -> list[str]:
    """The recorded files that a start from this stage reads."""
    folds = [name for name in record.content["files"] if re.search(r"/(fold[^/]+|all)/", name)]
    fused = f"runs/{record.run}/detections_test.npz"
    presence = [name for name in folds if name.endswith("/presence_test.csv")]
    found = {
        "postprocess": [fused, *presence],
        "ensemble": [*(name for name in folds if name.endswith("/detections_test.npz")), *presence],
        "predict": [name for name in folds if name.endswith("/best.pt")],
        "convert": [],
    }[start]
    tuned = f"runs/{record.run}/tuned.yaml"
    return [*found, *([tuned] if tuned in record.content["files"] and start != "convert" else [])]


def plan(record: Record, kept: Path, start: Start | None = None) -> Plan:
    """The plan of making a record's submission again.

    kept: the folder in which detections and weights lie as they lay in paths.output. start: the stage to start from;
    None: the last one whose inputs are there as they were, so that little is done again. Raises InputError naming the
    files that are missing or are others than recorded: where a start is asked for, and where nothing is left but to
    train again although there are weights.
    """
    wanted = record.content["files"]
    there = {name: path for name in wanted if (path := _find(record, kept, name)).is_file()}
    changed = {name: file_hash(path) for name, path in there.items() if file_hash(path) != wanted[name]}
    for stage in STARTS if start is None else (start,):
        names = needed(record, stage)
        if stage != "convert" and not names:
            continue
        if all(name in there and name not in changed for name in names):
            if stage == "convert" and start is None:
                _refuse(record, kept, "predict", there, changed, unless_missing=True)
            notes = tuple(_said(name, there[name], wanted[name], changed[name]) for name in changed)
            return Plan(stage, {name: there[name] for name in names}, _stages(record, stage), notes)
    _refuse(record, kept, start or "predict", there, changed)
    raise InputError(f"{record.folder}: start={start}: the record names no file that this stage could read")


def _find(record: Record, kept: Path, name: str) -> Path:
    """Where a recorded file lies; thresholds that were tuned come with the record."""
    own = record.folder / Path(name).name
    return own if own.name == "tuned.yaml" and own.is_file() else kept / name


def _refuse(
    record: Record,
    kept: Path,
    start: Start,
    there: Mapping[str, Path],
    changed: Mapping[str, str],
    unless_missing: bool = False,
) -> None:
    """Raise InputError for the files of a start that are missing or changed; unless_missing: for changed ones alone."""
    names, wanted = needed(record, start), record.content["files"]
    lines = [_said(name, there[name], wanted[name], changed[name]) for name in names if name in changed]
    lines += [f"{kept / name} does not exist" for name in names if name not in there and not unless_missing]
    if lines:
        said = "\n  ".join(lines)
        raise InputError(
            f"{record.name} cannot start from {start}:\n  {said}\n"
            "Put the recorded file there (kept=DIR names another folder), or train again with start=convert"
        )


def _said(name: str, path: Path, wanted: str, got: str) -> str:
    return f"{path} is another file than the recorded {name}: sha256 {got[:16]}…, wanted {wanted[:16]}…"


def _stages(record: Record, start: Start) -> tuple[Mapping[str, Any], ...]:
    """The stages from the start on; of a start from what is kept, those of the test images, with these alone."""
    first = LINE.index(start)
    found = [one for one in record.stages() if one["stage"] in LINE and LINE.index(one["stage"]) >= first]
    unknown = sorted({one["stage"] for one in found if one["overrides"] is None})
    if unknown:
        raise InputError(f"{record.folder}: by which command {', '.join(unknown)} ran was not recorded")
    if start == "convert":
        return tuple(found)
    tested = [one for one in found if one["stage"] in _OF_TEST and one["settings"].get("split") != "validation"]
    return tuple({**one, "settings": {**one["settings"], "split": "test"}} for one in tested)


def promise(record: Record, plan: Plan, here: Mapping[str, Any]) -> str:
    """What may be expected of the result, one sentence. here: this machine's environment."""
    if plan.from_scratch:
        validation = record.content.get("validation") or {}
        tolerance = validation.get("tolerance")
        if tolerance is None:
            return "from scratch: no tolerance is recorded, so nothing is promised"
        return f"from scratch: a validation score within {tolerance:.4f} of {validation['score']:.4f}"
    if plan.start != "predict":
        return "from saved detections: the same bytes"
    then, now = (device(one) for one in (_predicted(record), here))
    if then != now:
        return f"from weights, recorded on {then} and run on {now}: the same bytes are not promised"
    return f"from weights on the same kind of device ({then}): the same bytes"


def device(environment: Mapping[str, Any]) -> str:
    """What computed: the GPU, else the processor."""
    return str(environment.get("gpu") or environment.get("processor"))


def _predicted(record: Record) -> Mapping[str, Any]:
    return next((one["environment"] for one in record.stages() if one["stage"] == "predict"), {})


def lines(record: Record, plan: Plan, here: Mapping[str, Any]) -> list[str]:
    """The plan for a terminal; the commands are those that a person would type."""
    contest, run = f"competition={record.content['competition']}", shlex.quote(f"run={record.run}")
    found = [f"{record.name}: {record.content['submission']['file']} of {contest}, {run}"]
    found.append(f"starts with {plan.start}; {promise(record, plan, here)}")
    found += [f"  reads {name}, sha256 {record.content['files'][name][:16]}…" for name in plan.files]
    for one in plan.stages:
        words = [word for word in one["overrides"] if not word.startswith("competition=")]
        split = [] if plan.from_scratch else ["split=test"]
        own = [word for word in words if not word.startswith("split=")] if split else words
        found.append(" ".join(["  maskline", one["stage"], contest, *map(shlex.quote, [*own, *split])]))
    found.append(f"  maskline submit {contest} {run}")
    return found + [f"note: {note}" for note in plan.notes]
