"""The stage `ensemble`: one file of detections from those of all folds."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Literal

from pipeline.alone import alone
from pipeline.errors import ConfigError, InputError
from pipeline.files import Paths, read_detections, write_detections
from pipeline.inference.fuse import Fusion
from pipeline.instances import Detections
from pipeline.progress import track
from pipeline.record import Step, file_hash

log = logging.getLogger(__name__)


def ensemble(
    *,
    paths: Paths,
    run: str,
    runs: tuple[str, ...] | None,
    weights: tuple[float, ...] | None,
    fold: int | Literal["all"] | None,
    split: Literal["validation", "test"] | None,
    fuse: Fusion,
    overwrite: bool,
    quiet: bool = False,
) -> None:
    """Fuse the detections of several folds, and of several runs, image by image.

    Reads detections_<split>.npz of the folds that were predicted, of `run` alone or of all `runs`, whose detections
    then have `weights` (null: equal ones). Writes runs/<run>/detections_<split>.npz. Test images are seen by every fold
    of a run; a validation image by the one fold that did not train on it.
    """
    sources = runs or (run,)
    if weights is not None and len(weights) != len(sources):
        raise ConfigError(f"weights: wanted one for each of {len(sources)} runs, got {list(weights)}")
    own = dict(zip(sources, weights or [1.0] * len(sources), strict=True))
    for part in ("validation", "test") if split is None else (split,):
        if fold == "all" and part == "validation":
            continue  # a training on all images has none left
        files = {file: name for name in sources for file in _files(paths, name, fold, part)}
        step = Step(
            stamp=paths.run(run) / f".ensemble_{part}.json",
            outputs=(paths.run(run) / f"detections_{part}.npz",),
            settings={"fuse": fuse, "weights": own},
            inputs={f"{name}/{file.parent.name}/{file.name}": file_hash(file) for file, name in files.items()},
        )
        if not overwrite and step.is_done():
            log.info("%s is complete", step.outputs[0])
            continue
        with alone(step.lock, f"fusing {step.outputs[0]}"):
            by_image: dict[str, list[tuple[Detections, float]]] = {}
            for file, name in files.items():
                for one in read_detections(file):
                    by_image.setdefault(one.image_id, []).append((one, own[name]))
            step.stamp.unlink(missing_ok=True)
            groups = track(by_image.values(), len(by_image), f"fusing {part}", "image", quiet)
            write_detections(step.outputs[0], [fuse.fuse(*zip(*group, strict=True)) for group in groups])
            step.finish()
        log.info("%s: %d images from %d files", part, len(by_image), len(files))


def _files(paths: Paths, run: str, fold: int | str | None, part: str) -> list[Path]:
    patterns = ("fold[0-9]*", "all") if fold is None else (paths.fold(run, fold).name,)
    files = [file for pattern in patterns for file in sorted(paths.run(run).glob(f"{pattern}/detections_{part}.npz"))]
    if not files:
        where = " or ".join(patterns)
        if any(True for _ in paths.run(run).glob("*/presence_*.csv")):
            said = f"{run} is a classifier's run and has no instances to fuse"
            raise InputError(f"{said}; another run asks it by postprocess=gate presence.run={run}")
        raise InputError(f"{paths.run(run)}: no detections_{part}.npz in {where}; the stage `predict` makes them")
    return files
