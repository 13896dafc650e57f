"""The stage `reproduce`: a recorded submission, made again in a folder of its own and held against its record."""

from __future__ import annotations

import inspect
import logging
import os
import shutil
import time
from collections.abc import Callable, Mapping
from inspect import Parameter
from pathlib import Path
from typing import Any

from pipeline.build import build, slice_for
from pipeline.competition import Competition
from pipeline.data import coco as annotations
from pipeline.data.contest import read_test
from pipeline.errors import ConfigError, InputError
from pipeline.files import Paths, atomic, read_coco, read_instances, read_json, write_coco, write_folds
from pipeline.inference.budget import Pace, seconds
from pipeline.record import environment, file_hash
from pipeline.records import content, differences, digests
from pipeline.records.content import Record
from pipeline.records.plan import Start, lines, plan
from pipeline.stages import load
from pipeline.stages.evaluate import evaluate
from pipeline.stages.run import STEPS, union
from pipeline.submission.case import source_ids
from pipeline.submission.checked import write_checked

log = logging.getLogger(__name__)


def reproduce(
    *,
    record: Path | None,
    paths: Paths,
    kept: Path | None,
    start: Start | None,
    hidden: bool,
    budget: str | None,
    dry_run: bool,
    quiet: bool,
    **defaults: Any,
) -> None:
    """Make a recorded submission again, from the last stage whose inputs are at hand, and compare it with its record.

    Reads record.yaml and config.yaml of `record`; saved detections or weights below `kept` (null: paths.output), where
    they lay in paths.output; and the contest's files. Works in paths.output/reproduced/<record>/<start> and changes
    nothing else. Saved detections, and weights on the same kind of device, give the same bytes; a training from scratch
    a score within the recorded tolerance. Else it raises InputError with the first stage, image and row that differ and
    what has changed since. dry_run=true prints the plan and does nothing; hidden=true runs on other test images, with
    nothing to compare to, within `budget`. The record's settings hold; those that it does not know have their defaults.
    """
    found = content.read(record)
    what, here = plan(found, kept or paths.output, start), environment()
    print("\n".join(lines(found, what, here)), flush=True)
    if dry_run:
        return
    work = Paths(paths.data, paths.output / "reproduced" / found.name / what.start, paths.output / "reproduced")
    if not what.from_scratch:  # a training that was interrupted goes on; the rest is done anew
        shutil.rmtree(work.output, ignore_errors=True)
    # A record says what is computed, not where that is told: a log may be a server's.
    own = {"paths": work, "quiet": quiet, "overwrite": False, "logger": None}
    pace = None if budget is None else Pace(seconds(budget), time.monotonic)
    waiting = [one for one in what.stages if one["stage"] == "predict"]

    def run(stage: Mapping[str, Any]) -> None:
        log.info("%s …", stage["stage"])
        function, within = load(stage["stage"]), None
        if pace and stage in waiting:  # several runs share what is left
            within = f"{max(pace.left, 1) / len(waiting):.1f}s"
            waiting.remove(stage)
        _call(found, function, slice_for(function, {**defaults, **stage["settings"], **own, "budget": within}))

    facts = found.config.get("competition", defaults["competition"])
    competition = _call(found, _competition, {"competition": facts})
    for name, path in what.files.items():
        _link(path, work.output / name)
    if hidden:
        write_coco(work.test, read_test(paths.data, competition))
        write_folds(work.folds, {})  # of the training images, none of which is needed
    elif not what.from_scratch:
        _test_images(found, competition, kept or paths.output, work, run)
    for one in what.stages:
        run(one)
    file = _submit(competition, work, found.run)
    if hidden:
        log.info("%s: of %d test images", file, len(read_coco(work.test)["images"]))
    elif what.from_scratch:
        evaluate(competition=competition, paths=work, run=found.run, submission=None, truth=None, quiet=quiet)
        _compare_score(found, work, file)
    else:
        _compare(found, competition, work, file)


reproduce.__signature__ = inspect.Signature(  # type: ignore[attr-defined]  # what it has not got from the record
    [p for p in inspect.signature(reproduce, eval_str=True).parameters.values() if p.kind is Parameter.KEYWORD_ONLY]
    + [p for p in union(STEPS).parameters.values() if p.name not in ("paths", "quiet", "budget")]
)


def _call(record: Record, function: Callable[..., Any], settings: Mapping[str, Any]) -> Any:
    """Call a function with recorded settings; InputError where it does not take them any more."""
    try:
        built = build(function, settings)
    except ConfigError as error:
        commit = record.content["environment"].get("commit")
        raise InputError(
            f"{record.name}: this version does not read the recorded settings ({error}); check out the commit that "
            f"made the record, {commit}"
        ) from None
    return function(**built)


def _competition(*, competition: Competition) -> Competition:
    """The contest's facts as they were recorded."""
    return competition


def _test_images(
    record: Record, competition: Competition, kept: Path, work: Paths, run: Callable[[Mapping[str, Any]], None]
) -> None:
    """Put the recorded list of test images in place: the kept one, else what `convert` makes of the contest's files."""
    wanted = record.content["files"][work.test.name]
    if (kept / work.test.name).is_file() and file_hash(kept / work.test.name) == wanted:
        _link(kept / work.test.name, work.test)
        write_folds(work.folds, {})  # of the training images, none of which is needed
        return
    for stage in record.stages():
        if stage["stage"] == "convert":
            run(stage)
    if not work.test.is_file():
        raise InputError(f"{kept / work.test.name} does not exist; the stage `convert` makes it")
    if file_hash(work.test) != wanted:
        said = _since(record, competition, work)
        raise InputError(f"{record.name}: the first difference is in what convert made ({work.test.name}){said}")


def _link(source: Path, path: Path) -> None:
    """Let a kept file be read where the stages look for it; where the system has no links, a copy of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.symlink(source.resolve(), path)
    except OSError:
        shutil.copyfile(source, path)


def _submit(competition: Competition, work: Paths, run: str) -> Path:
    """Write the submission file, checked as `submit` checks it, and no record."""
    coco, path = read_coco(work.test), work.output / competition.submission_file
    instances = read_instances(work.run(run) / "instances_test.json", coco)
    with atomic(path) as partial:
        write_checked(instances, competition, partial, path.name, annotations.sizes(coco), source_ids(coco))
    return path


def _compare(record: Record, competition: Competition, work: Paths, file: Path) -> None:
    """Hold the file against the recorded one, byte for byte; InputError saying where they part."""
    wanted, got = record.content["submission"]["sha256"], file_hash(file)
    if wanted == got:
        print(f"reproduced: {file}, sha256 {got}")
        return
    old = digests.read(record.folder / "images.csv")
    there = [name for name in old if name in record.content["files"] and (work.output / name).is_file()]
    new = digests.of_files(work.output, there, competition)
    where = differences.first(old, new, digests.rows(file, competition, read_coco(work.test)))
    said = where or "no image's rows differ, but the bytes of the file do"
    raise InputError(
        f"{record.name} is not reproduced: {file} has sha256 {got[:16]}…, wanted {wanted[:16]}…; {said}"
        + _since(record, competition, work)
    )


def _compare_score(record: Record, work: Paths, file: Path) -> None:
    """Hold the validation score against the recorded one; InputError where it is further off than the tolerance."""
    if file_hash(file) == record.content["submission"]["sha256"]:
        print(f"reproduced: {file}, the same bytes from scratch, sha256 {file_hash(file)}")
        return
    recorded = record.content.get("validation") or {}
    got, tolerance = read_json(work.run(record.run) / "scores.json", "evaluate")["total"], recorded.get("tolerance")
    if got is None or tolerance is None:
        print(f"{file}: no validation score or tolerance is recorded to compare with")
        return
    said = f"validation score {got:.4f}, recorded {recorded['score']:.4f}, tolerance {tolerance:.4f}"
    if abs(got - recorded["score"]) > tolerance:
        raise InputError(f"{record.name} is not reproduced: {said}{_since(record, None, work)}")
    print(f"reproduced: {file}, {said}")


def _since(record: Record, competition: Competition | None, work: Paths) -> str:
    """What has changed since the record was made, as an end of a message."""
    lines = []
    for stage in [*record.stages(), {"environment": record.content["environment"]}]:
        lines += differences.changes(stage["environment"], environment())
    if competition is not None:
        lines += differences.changed_inputs(record.content["inputs"], content.inputs(competition, work))
    listed = "\n  ".join(dict.fromkeys(lines)) or "nothing that is recorded of the machine, the versions and the inputs"
    return f"\nchanged since:\n  {listed}"
