"""Thresholds of a model that draws maps, chosen on its validation images when its training has ended.

At which height of the maps an instance begins depends on how far a training went and on how a contest's annotators
drew. The maps are drawn once, and instances found in them at each pair of thresholds. What is chosen on few images may
not suit others: on 56 images of DSB2018 it gained .016, and on 50 others it lost .004.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.instances import Detections, Instances
from pipeline.model.ready import ready
from pipeline.model.weights import load_detector, save_weights

log = logging.getLogger(__name__)
FOREGROUND = (0.4, 0.5, 0.6, 0.7)
MARKER = (0.1, 0.2, 0.3, 0.4, 0.5)


@dataclass(frozen=True)
class Calibration:
    """What was chosen, and what it is worth.

    foreground, marker: as `pipeline.model.unet.UNet` has them. before, after: the score with the model's own
    thresholds and with these, on the same images, 0 to 1: the latter flatters, as any choice does on what it was made.
    """

    foreground: float
    marker: float
    before: float
    after: float


def calibrate_weights(
    path: Path,
    wanted: Any,
    images: Iterable[Sequence[tuple[Tensor, str]]],
    decide: Callable[[Detections], Instances],
    score: Callable[[Sequence[Instances]], float],
    device: torch.device,
) -> None:
    """Choose the thresholds that the description `wanted` leaves open, if any, in the model of a weights file.

    images: batches. The file, replaced as a whole, then holds them in its description, and under `calibration` in its
    information what they are worth; where it does already nothing is done.
    """
    grids = {"foreground": FOREGROUND, "marker": MARKER}
    if all(getattr(wanted, name, 0.0) is not None for name in grids):
        return
    model, info = load_detector(path)
    if "calibration" in info:
        return
    chosen = {name: grid if getattr(wanted, name) is None else (getattr(wanted, name),) for name, grid in grids.items()}
    every = (one for batch in images for one in batch)
    found = calibrate(ready(model).to(device), every, decide, score, **chosen)
    model.spec = replace(model.spec, foreground=found.foreground, marker=found.marker)
    save_weights(path, model, {**info, "calibration": vars(found)})
    said = "thresholds chosen on the validation images: foreground %g, marker %g; score %.4f, before %.4f"
    log.info(said, found.foreground, found.marker, found.after, found.before)


@torch.inference_mode()
def calibrate(
    model: Any,
    images: Iterable[tuple[Tensor, str]],
    decide: Callable[[Detections], Instances],
    score: Callable[[Sequence[Instances]], float],
    foreground: Sequence[float] = FOREGROUND,
    marker: Sequence[float] = MARKER,
) -> Calibration:
    """The thresholds of the best score; the model must be in evaluation mode, and draws the maps of each image once.

    model: a `Segmenter`, whose description is left as it is. images: uint8 (3, H, W) and their ids. decide, score: the
    instances of an image's detections, and the figure of all of them in the order of the images. foreground, marker:
    to choose from. Chosen is the pair
    whose score is highest in the mean with those of its neighbours in the grid (a plateau, not a peak), and the model's
    own thresholds where no pair is better than they are by itself.
    """
    own = model.spec
    pairs = [(own.foreground, own.marker), *itertools.product(foreground, marker)]
    found: list[list[Instances]] = [[] for _ in pairs]
    try:
        for image, name in images:
            maps, size = model.maps(image.to(model.mean.device)).float().cpu(), (image.shape[-2], image.shape[-1])
            for decided, (inside, top) in zip(found, pairs, strict=True):
                model.spec = replace(own, foreground=inside, marker=top)
                decided.append(decide(model.instances(maps, name, size)))
    finally:
        model.spec = own
    before, *scores = (score(decided) for decided in found)
    table = np.array(scores).reshape(len(foreground), len(marker))
    best = int(plateau(table).argmax())
    if table.flat[best] <= before:
        return Calibration(own.foreground, own.marker, before, before)
    return Calibration(*pairs[1 + best], before, float(table.flat[best]))


def plateau(table: NDArray[np.float64]) -> NDArray[np.float64]:
    """Each value of a table (R, C) in the mean with its neighbours above, below and beside it, as far as there are."""
    total, count = table.copy(), np.ones_like(table)
    for axis in (0, 1):
        for near, far in ((slice(1, None), slice(None, -1)), (slice(None, -1), slice(1, None))):
            own = (near, slice(None)) if axis == 0 else (slice(None), near)
            other = (far, slice(None)) if axis == 0 else (slice(None), far)
            total[own] += table[other]
            count[own] += 1
    return np.asarray(total / count)
