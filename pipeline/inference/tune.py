"""Thresholds chosen on out-of-fold predictions by the contest's own metric, and what that choice is worth elsewhere."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, get_args

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import label as label_regions

from pipeline.competition import Competition
from pipeline.inference.postprocess import Rules, apply, decide, finish, least_score, start
from pipeline.instances import Detections, Instances
from pipeline.metrics.mean_precision import Kind
from pipeline.metrics.scoring import as_submitted, score
from pipeline.metrics.sweep import sweep
from pipeline.metrics.uncertainty import Interval, bootstrap

Float = NDArray[np.float64]
Int = NDArray[np.int64]
Bool = NDArray[np.bool_]
FIELDS = ("mask", "min_share", "nms", "score", "min_area")
_DIGITS = 12  # of means: what differs beyond is the order in which the images were added up


@dataclass(frozen=True)
class Search:
    """The values to try of each rule; every combination of them is a trial.

    scores, areas: rising. The other rules are those of `postprocess`; a null among nms is none.
    per_class: whether score, mask and min_area are chosen for each class, from the same values.
    """

    scores: tuple[float, ...]
    areas: tuple[int, ...]
    masks: tuple[float, ...]
    min_shares: tuple[float, ...]
    nms: tuple[float | None, ...]
    per_class: bool = False

    def grid(self) -> tuple[tuple[Any, ...], ...]:
        """The values of each of `FIELDS`."""
        return self.masks, self.min_shares, self.nms, self.scores, self.areas


class Procedure(Protocol):
    """A way to choose rules by images, and what any choice of it is worth."""

    def chosen(self, images: Bool) -> Any:
        """The place that is taken if only these images are known, bool (n,)."""

    def values(self, place: Any) -> Float:
        """The metric of every image at a place, float64 (n,)."""

    def rules(self, place: Any, base: Rules) -> Rules:
        """The rules at a place."""


@dataclass(frozen=True, eq=False)
class Trials:
    """The metric of every image in every trial.

    search: its grid has one axis per field of `FIELDS`, and so has table, before the images: float64 (…, n).
    image_ids: n of them.
    """

    search: Search
    image_ids: tuple[str, ...]
    table: Float

    def chosen(self, images: Bool) -> tuple[int, ...]:
        """The place in the middle of the plateau of these images, bool (n,)."""
        return plateau(self.table[..., images])[0]

    def values(self, place: Sequence[int]) -> Float:
        """The metric of every image in one trial, float64 (n,)."""
        return self.table[tuple(place)]

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
    by_class: what a choice for each class adds to nested; null where it was not asked for. peak, trials and plateau are
    of the trials of one rule for all classes.
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
    by_class: Interval | None = None


def try_all(
    detections: Sequence[Detections],
    truth: Sequence[Instances],
    competition: Competition,
    base: Rules,
    search: Search,
) -> Iterator[tuple[tuple[int, int, int], Float]]:
    """For every mask threshold, share and NMS: its place, and the metric float64 (score, area, n) at all points."""
    axes = search.grid()[:3]
    truth = as_submitted(truth, competition)
    for place in itertools.product(*(range(len(axis)) for axis in axes)):
        values = (axis[i] for axis, i in zip(axes, place, strict=True))
        rules = replace(base, **dict(zip(FIELDS, values, strict=False)))
        yield place, at_every_point(detections, truth, competition, rules, search)  # type: ignore[misc]


def at_every_point(
    detections: Sequence[Detections],
    truth: Sequence[Instances],
    competition: Competition,
    rules: Rules,
    search: Search,
    label: int | None = None,
) -> Float:
    """The metric at all scores and areas of a search, float64 (score, area, n).

    truth: as submitted. rules: settled; what they say of the other thresholds holds at all points. label: the category
    whose thresholds are tried, the others' being those of the rules; null: all.

    Nothing is decided twice that comes out the same. Where stricter points keep some of the same instances, one
    decision serves all of them; where only the area does so, one for each score; else each point has its own.
    """
    if not _is_counted(competition) or not rules.area_is_last:
        return _each(detections, truth, competition, rules, search, label)
    # What a class loses may come to another, where it may not keep what both hold.
    alone = label is None or (competition.overlap != "forbidden" and rules.nms is None)
    whole = alone and rules.nested(competition.overlap)
    first, second = rules.halves()
    lowest = _at(rules, search.scores[0], search.areas[0], label)
    begun = [apply(start(one), first, lowest, competition.overlap) for one in detections]
    truth, found, before = [_submitted(one, competition) for one in truth], [], None
    for scores in [search.scores] if whole else [(one,) for one in search.scores]:
        own = _at(rules, scores[0], search.areas[0], label)
        left = [len(least_score(state, own, competition.overlap).found) for state in begun] if first else None
        if left is None or left != before:
            ended = (finish(apply(state, second, own, competition.overlap)) for state in begun)
            grids = (scores if whole else (0.0,), search.areas, competition.iou_thresholds)
            decided = [_submitted(one, competition) for one in ended]
            part = sweep(truth, decided, *grids, competition.metric, label).per_image  # type: ignore[arg-type]
        found.append(part)
        before = left
    return np.concatenate(found)


def _is_counted(competition: Competition) -> bool:
    """Whether the metric is one that `sweep` knows, of masks as they were decided."""
    return competition.metric in get_args(Kind) and competition.submitted_size is None


def _each(
    detections: Sequence[Detections],
    truth: Sequence[Instances],
    competition: Competition,
    rules: Rules,
    search: Search,
    label: int | None,
) -> Float:
    result = np.empty((len(search.scores), len(search.areas), len(truth)))
    for i, j in np.ndindex(result.shape[:2]):
        own = _at(rules, search.scores[i], search.areas[j], label)
        found = as_submitted([decide(one, own, competition.overlap) for one in detections], competition)
        result[i, j] = score(truth, found, competition, by_class=True).per_image
    return result


def _at(rules: Rules, score: float, least: int, label: int | None) -> Rules:
    """The rules with a score and an area, for all classes or for one, where they hold a number for each."""
    if label is None:
        return replace(rules, score=score, min_area=least)
    return replace(rules, score=put(rules.score, label, score), min_area=put(rules.min_area, label, least))


def put(numbers: Any, label: int, value: float) -> tuple[float, ...]:
    """The numbers of the labels with another one for a label."""
    return (*numbers[: label - 1], value, *numbers[label:])


def _submitted(image: Instances, competition: Competition) -> Instances:
    """The image without the categories that are not submitted, which do not count."""
    kept = np.isin(image.labels, list(competition.labels().values()))
    return image if kept.all() else image.select(kept)


def choose(
    trials: Trials,
    base: Rules,
    default: Float,
    parts: Sequence[int],
    groups: Sequence[Any],
    seed: int = 0,
    by_class: Procedure | None = None,
) -> Choice:
    """The rules to take, and what they are worth.

    base: the rules that the trials changed. default: float64 (n,), the metric of each image under the rules as they
    were. parts: of each image, the part it belongs to (its fold); at least two. groups: of each image; seed: both for
    the intervals, see `bootstrap`. by_class: what goes on from the trials to rules for each class; null: the trials
    decide.
    """
    number, way = np.asarray(parts), by_class or trials
    chosen = way.chosen(np.ones(len(number), bool))
    nested = _nested(way, number)
    joint = nested if by_class is None else _nested(trials, number)
    alone = {str(part): way.rules(way.chosen(number == part), base) for part in np.unique(number).tolist()}
    return Choice(
        rules=way.rules(chosen, base),
        peak=float(trials.table.mean(-1).max()),
        tuned=bootstrap(way.values(chosen), groups, seed),
        default=bootstrap(default, groups, seed),
        nested=bootstrap(nested, groups, seed),
        gain=bootstrap(nested - default, groups, seed),
        parts=alone,
        trials=int(np.prod(trials.table.shape[:-1])),
        plateau=plateau(trials.table)[1],
        by_class=None if by_class is None else bootstrap(nested - joint, groups, seed),
    )


def _nested(way: Procedure, parts: Int) -> Float:
    """The metric of each image under the rules that all parts but its own choose, float64 (n,)."""
    result = np.empty(len(parts))
    for part in np.unique(parts):
        inside = parts == part
        result[inside] = way.values(way.chosen(~inside))[inside]
    return result


def plateau(table: Float) -> tuple[tuple[int, ...], int]:
    """The place to take on a grid of trials, and how many trials are as good as the best.

    table: float64 (…, n), the metric of n images. Of the trials that are `as_good` as the best and hang together with
    it by steps along the axes, the one nearest to their middle is taken: a peak on a ragged surface is luck, the middle
    of a plateau is not.
    """
    means = table.mean(-1).round(_DIGITS)
    good = _connected(as_good(table), np.unravel_index(int(means.argmax()), means.shape))
    places = np.argwhere(good)
    scale = np.maximum(np.array(means.shape) - 1, 1)
    away = (((places - places.mean(0)) / scale) ** 2).sum(1)
    nearest = places[np.lexsort((-means[good], away.round(_DIGITS)))[0]]
    return tuple(int(i) for i in nearest), int(good.sum())


def as_good(table: Float) -> Bool:
    """The trials whose images fall short of the best trial's by no more than a standard error of that difference.

    table: float64 (…, n), the metric of n images. Result: bool (…).
    """
    means = table.mean(-1).round(_DIGITS)
    short = table[np.unravel_index(int(means.argmax()), means.shape)] - table
    spread = short.std(-1, ddof=1) / np.sqrt(table.shape[-1]) if table.shape[-1] > 1 else np.zeros(means.shape)
    # A trial that differs in one image only falls short by exactly that much.
    return np.asarray((short.mean(-1) - spread).round(_DIGITS) <= 0)


def _connected(good: Bool, start: Sequence[Any]) -> Bool:
    """The true entries that steps along the axes join with `start`."""
    number, _ = label_regions(good)
    return number == number[tuple(start)]
