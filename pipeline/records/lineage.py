"""How a submission came to be: the stamps of what it was made from, and the commands by which they were made."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pipeline import journal
from pipeline.record import read_stamp

log = logging.getLogger(__name__)
SPLITS = ("validation", "test")
ALL = "all"  # the fold, and the folder, of a training on all images


@dataclass(frozen=True)
class Stamp:
    """The stamp of one step: its stage, the settings that say which of the stage's steps it is, and its content."""

    stage: str
    places: Mapping[str, Any]
    path: Path
    content: Mapping[str, Any]


def stamps(output: Path, run: str) -> list[Stamp]:
    """The stamps behind a run's submission that are there, in the order of the line.

    output: the contest's folder of all that is made. Of a run that fuses others, with those of the others.
    """
    return [Stamp(*one, content) for one in _places(output, run) if (content := read_stamp(one[2]))]


def sources(output: Path, run: str) -> list[tuple[str, int | str]]:
    """The runs and their folds (a number, or "all") whose detections a run's submission was fused from, in order."""
    return _folds(output, run, "ensemble", "detections_test.npz")


def classifiers(output: Path, run: str) -> list[tuple[str, int | str]]:
    """The run and the folds of the classifier that a run's post-processing asked, in order; none where it did not."""
    return _folds(output, run, "postprocess", "presence_test.csv")


def place(run: str, fold: int | str) -> str:
    """The folder of a fold (a number, or "all") in paths.output."""
    return f"runs/{run}/{fold if fold == ALL else f'fold{fold}'}"


def _folds(output: Path, run: str, stage: str, file: str) -> list[tuple[str, int | str]]:
    """The runs and folds whose `file` a stage has read for the test images."""
    read = read_stamp(output / "runs" / run / f".{stage}_test.json").get("inputs", {})
    parts = [
        [run, *name.rsplit("/", 2)][-3:] for name in read if name.endswith(f"/{file}")
    ]  # older stamps leave out the run where it is the own one
    folds = [(part[0], part[1].removeprefix("fold")) for part in parts if part[1].startswith("fold") or part[1] == ALL]
    return [(name, int(fold) if fold.isdigit() else fold) for name, fold in dict.fromkeys(folds)]


def _places(output: Path, run: str) -> Iterator[tuple[str, dict[str, Any], Path]]:
    yield "convert", {}, output / ".convert.json"
    made_of = [*sources(output, run), *classifiers(output, run)]
    for name, fold in made_of:
        yield "train", {"run": name, "fold": fold}, output / place(name, fold) / ".train.json"
    for name, fold in made_of:
        for part in SPLITS:
            path = output / place(name, fold) / f".predict_{part}.json"
            yield "predict", {"run": name, "fold": fold, "split": part}, path
    for stage in ("ensemble", "tune", "postprocess"):
        folder = output / "runs" / run
        if stage == "tune":
            yield stage, {"run": run}, folder / ".tune.json"
        else:
            yield from ((stage, {"run": run, "split": part}, folder / f".{stage}_{part}.json") for part in SPLITS)


def stages(output: Path, run: str) -> list[dict[str, Any]]:
    """The stages that made a run's submission, in order, each as a mapping of plain values.

    stage, overrides (as they were typed; None where no command is known: the stage was called from Python), settings
    (all that the stage takes, resolved), minutes, peak_memory_mb and environment of the work that was done. Thresholds
    that were tuned name the command that tuned them although `tune` may leave no stamp.
    """
    known = journal.commands(output)
    found: list[dict[str, Any]] = []
    for stamp in stamps(output, run):
        made = stamp.content.get("made") or {"at": _written(stamp.path)}
        command = journal.command_of(known, stamp.stage, str(made.get("at", "")), **stamp.places) or {}
        if not command:
            log.warning("%s: by which command it was made is not known", stamp.path)
        _add(found, stamp, command, made)
    deciding = [one for one in found if one["stage"] == "postprocess" and (one["settings"] or {}).get("tuned")]
    if deciding and not any(one["stage"] == "tune" for one in found):
        tuned = journal.command_of(known, "tune", str(deciding[-1]["at"]), run=run)
        if tuned:
            found.insert(found.index(deciding[0]), {**_entry("tune", tuned), "at": tuned["begun"]})
    return found


def _written(path: Path) -> str:
    """When a file was written, for stamps that do not say it themselves."""
    return datetime.fromtimestamp(path.stat().st_mtime, UTC).isoformat(timespec="microseconds")


def _entry(stage: str, command: Mapping[str, Any]) -> dict[str, Any]:
    return {"stage": stage, "overrides": command.get("overrides"), "settings": command.get("settings")}


def _add(found: list[dict[str, Any]], stamp: Stamp, command: Mapping[str, Any], made: Mapping[str, Any]) -> None:
    """A stage of its own, or one more step of the stage that the same command (or the same words again) ran before."""
    entry = _entry(stamp.stage, command)
    same = next((one for one in found if entry.items() <= one.items()), None)
    if same is None:
        found.append({**entry, **_work(made)})
        return
    same["minutes"] = _joined(sum, same["minutes"], made.get("minutes"))
    same["peak_memory_mb"] = _joined(max, same["peak_memory_mb"], made.get("peak_memory_mb"))
    same.update(at=made.get("at"), environment=made.get("environment"))


def _work(made: Mapping[str, Any]) -> dict[str, Any]:
    return {name: made.get(name) for name in ("at", "minutes", "peak_memory_mb", "environment")}


def _joined(how: Any, *values: float | None) -> float | None:
    there = [value for value in values if value is not None]
    return round(how(there), 3) if there else None


def shared(entries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """One configuration of all stages: of each key the value of the first stage that has it."""
    config: dict[str, Any] = {}
    for entry in entries:
        config = {**(entry["settings"] or {}), **config}
    return config


def own(entry: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    """What a stage's settings have that `shared` does not."""
    return {key: value for key, value in (entry["settings"] or {}).items() if config[key] != value}
