"""Thresholds chosen on out-of-fold predictions by the contest's own metric, and what that choice is worth elsewhere."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import label

from pipeline.competition import Competition
from pipeline.inference.postprocess import Rules, decide
from pipeline.instances import Detections, Instances
from pipeline.metrics.scoring import as_submitted, score
from pipeline.metrics.sweep import sweep
from pipeline.metrics.uncertainty import Interval, bootstrap

Float = NDArray[np.float64]
Int = NDArray[np.int64]
FIELDS = ("mask", "min_share", "nms", "score", "min_area")


@dataclass(frozen=True)
class Search:
    """The values to try of each rule; every combination of them is a trial.

    scores, areas: rising. The other rules are those of `postprocess`; a null among nms is none.
    """

    scores: tuple[float, ...]
    areas: tuple[int, ...]
    masks: tuple[float, ...]
    min_shares: tuple[float, ...]
    nms: tuple[float | None, ...]

    def grid(self) -> tuple[tuple[Any, ...], ...]:
        """The values of each of `FIELDS`."""
        return self.masks, self.min_shares, self.nms, self.scores, self.areas


@dataclass(frozen=True, eq=False)
class Trials:
    """The metric of every image in every trial.

    search: its grid has one axis per field of `FIELDS`, and so has table, before the images: float64 (…, n).
    image_ids: n of them.
    """

    search: Search
    image_ids: tuple[str, ...]
    table: Float

    def rules(self, place: Sequence[int], base: Rules) -> Rules:
        """The rules of a trial, given by its position on each axis of the grid."""
        values = (axis[i] for axis, i in zip(self.search.grid(), place, strict=True))
        return replace(base, **dict(zip(FIELDS, values, strict=True)))


@dataclass(frozen=True)
class Choice:
    """What a search found. Scores are intervals over the images.

    rules: of the plateau's centre. peak: the best mean of all trials, which flatters. tuned: of the chosen rules, on
    the images that they were chosen on. default: of the rules as they were. nested: of rules chosen, for each part of
    the images, on the other parts; gain: nested minus default, image by image. parts: the rules that each part of the
    images alone would choose. trials: how many. plateau: how many of these are within a standard error of the best.
    """

    rules: Rules
    peak: float
    tuned: Interval
    default: Interval
    nested: Interval
    gain: Interval
    parts: Mapping[str, Rules]
    trials: int
    plateau: int


def try_all(
    detections: Sequence[Detections],
    truth: Sequence[Instances],
    competition: Competition,
    base: Rules,
    search: Search,
) -> Iterator[tuple[tuple[int, int, int], Float]]:
    """For every mask threshold, share and NMS: its place, and the metric float64 (score, area, n) at all points.

    Where overlaps are removed by score, or not at all, one decision serves all points of score and area.
    """
    axes = search.grid()[:3]
    truth = as_submitted(truth, competition)
    one_order = base.order == "score" or competition.overlap == "allowed"
    exact = competition.metric == "mean_precision" and competition.submitted_size is None and one_order
    evaluate = _swept if exact else _each
    for place in itertools.product(*(range(len(axis)) for axis in axes)):
        values = (axis[i] for axis, i in zip(axes, place, strict=True))
        rules = replace(base, **dict(zip(FIELDS, values, strict=False)))
        yield place, evaluate(detections, truth, competition, rules, search)  # type: ignore[misc]


def _swept(
    detections: Sequence[Detections], truth: Sequence[Instances], competition: Competition, rules: Rules, search: Search
) -> Float:
    lowest = replace(rules, score=search.scores[0], min_area=search.areas[0])
    found = [decide(one, lowest, competition.overlap) for one in detections]
    return sweep(truth, found, search.scores, search.areas, competition.iou_thresholds).per_image


def _each(
    detections: Sequence[Detections], truth: Sequence[Instances], competition: Competition, rules: Rules, search: Search
) -> Float:
    result = np.empty((len(search.scores), len(search.areas), len(truth)))
    for i, j in np.ndindex(result.shape[:2]):
        own = replace(rules, score=search.scores[i], min_area=search.areas[j])
        found = as_submitted([decide(one, own, competition.overlap) for one in detections], competition)
        result[i, j] = score(truth, found, competition, by_class=True).per_image
    return result


def choose(
    trials: Trials, base: Rules, default: Float, parts: Sequence[int], groups: Sequence[Any], seed: int = 0
) -> Choice:
    """The rules to take, and what they are worth.

    base: the rules that the trials changed. default: float64 (n,), the metric of each image under the rules as they
    were. parts: of each image, the part it belongs to (its fold); at least two. groups: of each image; seed: both for
    the intervals, see `bootstrap`.
    """
    chosen, held = plateau(trials.table)
    number = np.asarray(parts)
    nested, alone = np.empty(len(number)), {}
    for part in np.unique(number).tolist():
        inside = number == part
        others, _ = plateau(trials.table[..., ~inside])
        nested[inside] = trials.table[others][inside]
        alone[str(part)] = trials.rules(plateau(trials.table[..., inside])[0], base)
    tuned = trials.table[chosen]
    return Choice(
        rules=trials.rules(chosen, base),
        peak=float(trials.table.mean(-1).max()),
        tuned=bootstrap(tuned, groups, seed),
        default=bootstrap(default, groups, seed),
        nested=bootstrap(nested, groups, seed),
        gain=bootstrap(nested - default, groups, seed),
        parts=alone,
        trials=int(np.prod(trials.table.shape[:-1])),
        plateau=held,
    )


def plateau(table: Float) -> tuple[tuple[int, ...], int]:
    """The place to take on a grid of trials, and how many trials are as good as the best.

    table: float64 (…, n), the metric of n images. As good is a trial whose images fall short of the best trial's by no
    more than a standard error of that difference. Of those that hang together with the best by steps along the axes,
    the one nearest to their middle is taken: a peak on a ragged surface is luck, the middle of a plateau is not.
    """
    means = table.mean(-1)
    best = np.unravel_index(int(means.argmax()), means.shape)
    short = table[best] - table
    spread = short.std(-1, ddof=1) / np.sqrt(table.shape[-1]) if table.shape[-1] > 1 else np.zeros(means.shape)
    good = _connected(short.mean(-1) <= spread, best)
    places = np.argwhere(good)
    scale = np.maximum(np.array(means.shape) - 1, 1)
    away = (((places - places.mean(0)) / scale) ** 2).sum(1)
    nearest = places[np.lexsort((-means[good], away.round(12)))[0]]
    return tuple(int(i) for i in nearest), int(good.sum())


def _connected(good: NDArray[np.bool_], start: Sequence[Any]) -> NDArray[np.bool_]:
    """The true entries that steps along the axes join with `start`."""
    number, _ = label(good)
    return number == number[tuple(start)]
