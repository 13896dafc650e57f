"""The stage `ensemble`: one file of detections from those of all folds."""

from __future__ import annotations

import logging
from typing import Literal

from pipeline.errors import InputError
from pipeline.files import Paths, read_detections, write_detections
from pipeline.inference.fuse import Mean
from pipeline.instances import Detections
from pipeline.record import Step, file_hash

log = logging.getLogger(__name__)


def ensemble(
    *,
    paths: Paths,
    run: str,
    fold: int | None,
    split: Literal["validation", "test"] | None,
    fuse: Mean,
    overwrite: bool,
) -> None:
    """Fuse the detections of several folds, image by image.

    Reads detections_<split>.npz of the folds that were predicted, writes runs/<run>/detections_<split>.npz. Test images
    are seen by every fold; a validation image by the one fold that did not train on it.
    """
    for part in ("validation", "test") if split is None else (split,):
        pattern = "fold[0-9]*" if fold is None else f"fold{fold}"
        files = sorted(paths.run(run).glob(f"{pattern}/detections_{part}.npz"))
        if not files:
            raise InputError(f"{paths.run(run)}: no detections_{part}.npz in {pattern}; the stage `predict` makes them")
        step = Step(
            stamp=paths.run(run) / f".ensemble_{part}.json",
            outputs=(paths.run(run) / f"detections_{part}.npz",),
            settings={"fuse": fuse},
            inputs={f"{file.parent.name}/{file.name}": file_hash(file) for file in files},
        )
        if not overwrite and step.is_done():
            log.info("%s is complete", step.outputs[0])
            continue
        by_image: dict[str, list[Detections]] = {}
        for file in files:
            for one in read_detections(file):
                by_image.setdefault(one.image_id, []).append(one)
        step.stamp.unlink(missing_ok=True)
        write_detections(step.outputs[0], [fuse.fuse(group) for group in by_image.values()])
        step.finish()
        log.info("%s: %d images from %d files", part, len(by_image), len(files))
