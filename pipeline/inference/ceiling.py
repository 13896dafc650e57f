"""What a perfect detector would still lose: the contest's truth sent through one limit of the pipeline at a time.

A limit turns an image's truth into the instances that would be submitted if every box, score and mask probability
were right. Its score against the truth is the ceiling that the limit sets, before any training.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.competition import Overlap
from pipeline.inference.paste import paste
from pipeline.inference.postprocess import Rules, decide
from pipeline.inference.rules import of_labels
from pipeline.inference.tiles import tile_boxes
from pipeline.instances import Alignment, Detections, Instances
from pipeline.masks.geometry import remove_overlaps
from pipeline.masks.runs import Runs, area, merged, split_columns
from pipeline.masks.shape import fill_holes, largest_part
from pipeline.masks.windows import windows
from pipeline.metrics.mean_precision import mean_precision
from pipeline.model.targets import mask_targets

NOISE = 0.7  # pixels, standard deviation of each side of a box: an assumption, for no detector is exact
SIZES = (14, 28, 56, 112)
CAPS = (100, 300)
TILES = ((256, 64), (512, 128))


@dataclass(frozen=True)
class Limit:
    """What limits (`factor`), how it is set (`choice`), and what it makes of one image's truth."""

    factor: str
    choice: str
    apply: Callable[[Instances], Instances]


@dataclass(frozen=True)
class Ceiling:
    """The highest score, 0 to 1, that a limit leaves, and how many instances reach the submission."""

    factor: str
    choice: str
    score: float
    instances: int


def ceilings(truth: Sequence[Instances], limits: Sequence[Limit]) -> Iterator[Ceiling]:
    """The ceiling of each limit, in their order. Scores are the contest's: mean precision over the images."""
    for limit in limits:
        left = [limit.apply(image) for image in truth]
        yield Ceiling(limit.factor, limit.choice, mean_precision(truth, left).total, sum(map(len, left)))


def limits(rules: Rules, overlap: Overlap, alignment: Alignment, mask_size: int, cap: int) -> list[Limit]:
    """All limits, and last what the given settings make together.

    rules: of post-processing, settled. overlap: "forbidden" or "allowed", as the contest has it. alignment, mask_size,
    cap: of the detector. An overlap rule is only counted where overlaps are forbidden.
    """
    result = [Limit("truth as it is", "", lambda one: one)]
    if overlap == "forbidden":
        result += [Limit("overlaps removed", name, _of_runs(order)) for name, order in _ORDERS.items()]
    result += [Limit("at most", f"{n} detections", _capped(n)) for n in sorted({*CAPS, cap})]
    heads: list[tuple[Alignment, int]] = [*(("aligned", bins) for bins in SIZES), ("torchvision", 28)]
    for name, bins in heads:
        result.append(Limit("mask head", f"{bins}×{bins}, {name}", _soft(name, bins, 0)))
        result.append(Limit("mask head", f"{bins}×{bins}, {name}, boxes off by {NOISE} px", _soft(name, bins, NOISE)))
    result += [Limit("holes", "filled", _of_runs(fill_holes)), Limit("parts", "largest only", _of_runs(largest_part))]
    result.append(Limit("smallest area", f"{rules.min_area} px", _large(rules.min_area)))
    result += [Limit("tiles", f"{side} px, {shared} px shared", _tiled(side, shared)) for side, shared in TILES]
    configured = _configured(rules, overlap, alignment, mask_size, cap)
    choice = f"{mask_size}×{mask_size}, {alignment}, at most {cap}, boxes off by {NOISE} px"
    return [*result, Limit("as configured", choice, configured)]


_ORDERS: dict[str, Callable[[Runs], Runs]] = {
    "first in the file first": lambda runs: remove_overlaps(runs, -np.arange(len(runs))),
    "small first": lambda runs: remove_overlaps(runs, -area(runs)),
    "large first": lambda runs: remove_overlaps(runs, area(runs)),
}


def soften(image: Instances, alignment: Alignment, bins: int, noise: float) -> Detections:
    """Detections of an image's truth as a perfect mask head gives them, in the truth's order by falling score.

    noise: standard deviation in pixels of each side of the boxes, the same in every call for one image id.
    """
    cut = windows(image.runs)
    rng = np.random.default_rng(list(image.image_id.encode()))
    limit = np.array([*image.size[::-1]] * 2)
    boxes = np.clip(cut.boxes + noise * rng.standard_normal(cut.boxes.shape), 0, limit)
    boxes[:, 2:] = np.maximum(boxes[:, 2:], boxes[:, :2] + 0.5)
    boxes = boxes.astype(np.float32)
    masks = mask_targets(cut, torch.arange(len(image)), torch.from_numpy(boxes), bins, alignment).numpy()
    scores = np.linspace(1, 0.5, len(image), dtype=np.float32)
    return Detections(image.image_id, image.size, boxes, scores, image.labels, masks, alignment)


def _configured(rules: Rules, overlap: Overlap, alignment: Alignment, bins: int, cap: int) -> Callable[..., Instances]:
    sure = Rules(**{**vars(rules), "score": 0.0})
    return lambda image: decide(soften(_capped(cap)(image), alignment, bins, NOISE), sure, overlap)


def _soft(alignment: Alignment, bins: int, noise: float) -> Callable[[Instances], Instances]:
    return lambda image: _with(image, paste(soften(image, alignment, bins, noise)))


def _capped(most: int) -> Callable[[Instances], Instances]:
    """So many instances, evenly spread over the file: which ones a detector would be surest of nobody knows."""
    return lambda image: image.select(np.arange(min(most, len(image))) * len(image) // max(min(most, len(image)), 1))


def _of_runs(change: Callable[[Runs], Runs]) -> Callable[[Instances], Instances]:
    return lambda image: _with(image, change(image.runs))


def _large(least: int | tuple[int, ...]) -> Callable[[Instances], Instances]:
    return lambda image: image.select(area(image.runs) >= of_labels(least, image.labels))


def _tiled(side: int, shared: int) -> Callable[[Instances], Instances]:
    """Of each instance what the tile that shows most of it shows."""

    def apply(image: Instances) -> Instances:
        tiles = tile_boxes(image.size, side, shared)
        shown = np.stack([area(clip(image.runs, np.tile(tile, (len(image), 1)))) for tile in tiles])
        return _with(image, clip(image.runs, tiles[shown.argmax(0)]))

    return apply


def clip(runs: Runs, boxes: NDArray[np.int64]) -> Runs:
    """Each mask without what lies outside its own box, int64 (N, 4), x0 y0 x1 y1, half-open, pixels."""
    x, top, bottom, index = split_columns(runs)
    x0, y0, x1, y1 = boxes[runs.instance[index]].T
    top, bottom = np.maximum(top, y0), np.minimum(bottom, y1)
    kept = (x >= x0) & (x < x1) & (top < bottom)
    start, length = (x * runs.size[0] + top)[kept], (bottom - top)[kept]
    return merged(runs.size, runs.count, start, start + length, runs.instance[index[kept]])


def _with(image: Instances, runs: Runs) -> Instances:
    """The image with other masks, without those that have become empty."""
    kept = np.flatnonzero(area(runs))
    return Instances.of_runs(image.image_id, runs.select(kept), image.scores[kept], image.labels[kept])
