"""The stage `convert`: from a contest's files to the line's own: truth, test images, folds, statistics, audit."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pipeline import plots
from pipeline.alone import alone
from pipeline.competition import Competition
from pipeline.data import audit, coco, contest, folds, holdout, looks, pictures, statistics
from pipeline.data.audit import Audit, View
from pipeline.data.coco import Coco
from pipeline.data.contest import Source
from pipeline.data.leaks import Pair, find, join, report, summary
from pipeline.data.patch import apply, locate, read_patch
from pipeline.files import Paths, atomic, write_coco, write_folds, write_json
from pipeline.record import Step, file_hash, folder_state

log = logging.getLogger(__name__)


def convert(
    *,
    competition: Competition,
    paths: Paths,
    n_folds: int,
    seed: int,
    annotations: Source = "csv",
    patch: str | None = None,
    leaks: bool = True,
    training_ids: str | None = None,
    holdout_ids: str | None = None,
    overwrite: bool = False,
    quiet: bool = False,
) -> None:
    """Turn the contest's files into COCO JSON, folds, statistics and an audit of the truth.

    Reads the contest's folder `paths.data`: the training CSV (annotations=csv) or the folders of one mask per file
    (annotations=masks), the sample submission, the headers of all images and the pixels of the training images. A patch
    mends the truth as it is read. With leaks=true near duplicates and neighbouring tiles share a fold. training_ids and
    holdout_ids are lists of image ids, by the name of one that comes along or the path of a .txt file: only the former
    are trained on (null: all that are not held out), and the latter take the place of the contest's test images, their
    truth kept in `holdout.json`. Writes
    `annotations.json`, `test.json`, `folds.csv`, `statistics.json`, `leaks.json`, `audit.json` and `audit.png`, after
    everything has been read and checked. Raises InputError on bad input.
    """
    file = None if patch is None else locate(patch)
    training, held_out = (None if name is None else holdout.locate(name) for name in (training_ids, holdout_ids))
    lists = {"patch": file, "training_ids": training, "holdout_ids": held_out}
    step = _step(competition, paths, annotations, lists, {"n_folds": n_folds, "seed": seed, "leaks": leaks})
    if not overwrite and step.is_done():
        log.info("convert: %s was made from these files and settings; overwrite=true remakes it", paths.annotations)
        return
    with alone(step.lock, f"converting into {step.folder}"):
        for fact in competition.unverified:
            log.warning("%s: not verified: %s", competition.key, fact)
        train = contest.read_train(paths.data, competition, annotations)
        if file is not None:
            train = apply(train, read_patch(file, competition), competition)
        train, held = _divided(train, training, held_out)
        test = contest.read_test(paths.data, competition) if held is None else {**held, "annotations": []}
        known = [*train["images"], *(() if held is None else held["images"])]
        seen = looks.read_looks(paths.data, known, quiet)
        pairs = find([image["name"] for image in known], seen) if leaks else []
        pairs, crossing = holdout.across(pairs, coco.by_name(train))
        seen = seen[: len(train["images"])]
        plain = folds.assign(train, n_folds, seed)
        train = join(train, pairs)
        fold = folds.assign(train, n_folds, seed)
        measured, audited = statistics.measure(train), audit.measure(train, seen)
        leaked = report(train, pairs, plain, n_folds)
        apart = {} if held is None else {"holdout": [asdict(pair) for pair in crossing]}
        page = plots.details([_detail(paths, view) for view in audit.show(train, audited)])

        step.stamp.unlink(missing_ok=True)  # from here to the end the outputs are not what it says
        write_coco(paths.annotations, train)
        write_coco(paths.test, test)
        paths.holdout.unlink(missing_ok=True)
        if held is not None:
            write_coco(paths.holdout, held)
        write_folds(paths.folds, dict(zip(coco.by_name(train), fold.tolist(), strict=True)))
        write_json(paths.statistics, measured, indent=1)
        write_json(paths.audit, audited, indent=1)
        write_json(paths.leaks, {"searched": leaks, **leaked, **apart}, indent=1)
        with atomic(paths.audit_picture) as partial:
            page.savefig(partial, format="png", dpi=90)
        step.finish()
        _log_summary(measured, test)
        _log_findings(audited, leaked, paths)
        if crossing and held is not None:
            _log_crossing(crossing, held)


def _divided(train: Coco, training_ids: Path | None, holdout_ids: Path | None) -> tuple[Coco, Coco | None]:
    """The images to train on, and those held out, None where no list names any."""
    if training_ids is None and holdout_ids is None:
        return train, None
    chosen, held_out = (None if path is None else holdout.read_ids(path) for path in (training_ids, holdout_ids))
    train, held = holdout.divide(train, chosen, held_out or [])
    return train, None if held_out is None else held


def _step(
    competition: Competition,
    paths: Paths,
    annotations: Source,
    lists: Mapping[str, Path | None],
    settings: Mapping[str, Any],
) -> Step:
    """What the outputs depend on: the tables, patch and lists by content, the pictures by name, size and time."""
    names = [competition.train_annotations, *filter(None, [competition.sample_submission])]
    found = contest.list_pictures(paths.data, competition, annotations)
    inputs = {name: file_hash(paths.data / name) for name in names if (paths.data / name).is_file()}
    inputs["pictures"] = folder_state(found)
    return Step(
        stamp=paths.output / ".convert.json",
        outputs=(
            paths.annotations,
            paths.test,
            paths.folds,
            paths.statistics,
            paths.audit,
            paths.audit_picture,
            paths.leaks,
            *([paths.holdout] if lists["holdout_ids"] is not None else []),
        ),
        settings={"competition": competition, "annotations": annotations, **settings},
        inputs=inputs | {name: file_hash(path) for name, path in lists.items() if path is not None and path.is_file()},
    )


def _detail(paths: Paths, view: View) -> plots.Detail:
    x0, y0, x1, y1 = view.box
    grey = pictures.read_grey(paths.data, view.file_name)[y0:y1, x0:x1]
    return plots.Detail(grey, view.others, view.marked, view.title)


def _log_summary(measured: statistics.Statistics, test: Coco) -> None:
    per_image = measured["per_image"]
    parts = ", ".join(f"{name} {part['instances']}" for name, part in measured["per_category"].items())
    sizes = ", ".join(f"{size} ({number})" for size, number in measured["sizes"].items())
    log.info("%d training images, %d instances: %s", measured["images"], measured["instances"], parts)
    log.info("sizes: %s", sizes)
    log.info("instances per image: min %(min)g, median %(median)g, max %(max)g", per_image)
    log.info("%d test images", len(test["images"]))


def _log_findings(audited: Audit, leaked: Mapping[str, Any], paths: Paths) -> None:
    """A line for each kind of finding, and one for the leaks that the folds avoid."""
    found = audit.lines(audited)
    for line in found:
        log.info("audit: %s", line)
    if found:
        log.info("audit: the most striking ones are in %s and %s", paths.audit, paths.audit_picture)
    if leaked["pairs"]:
        log.info("leaks: %s", summary(leaked))


def _log_crossing(crossing: Sequence[Pair], held: Coco) -> None:
    """How many of the images held out have a neighbour or a double among those that are trained on."""
    beside = {name for pair in crossing for name in (pair.first, pair.second)} & coco.by_name(held).keys()
    said = "leaks: %d of %d images held out continue or repeat one to train on; a score on them flatters"
    log.warning(said, len(beside), len(held["images"]))
