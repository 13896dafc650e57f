"""Geometry of masks on their runs: common pixels, IoU, non-maximum suppression, removal of overlaps."""

from __future__ import annotations

from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pipeline.masks.intervals import changes, meetings, rising
from pipeline.masks.runs import Int, Runs, area, expand


def shared_pixels(a: Runs, b: Runs) -> tuple[Int, Int, Int]:
    """The pairs of a mask of `a` and a mask of `b` that meet: two indices and their common pixels, three int64 (P,).

    Sorted by the indices. Both on the same canvas; masks of one set may overlap each other. No Na×Nb array is made.
    Raises ValueError for canvases of two sizes.
    """
    if a.size != b.size:
        raise ValueError(f"masks of canvases of two sizes: {a.size} and {b.size}")
    by_start = rising(b.start)
    start, stop, instance = b.start[by_start], b.stop[by_start], b.instance[by_start]
    i, j = meetings(a.start, a.stop, start, stop)
    common = np.minimum(a.stop[i], stop[j]) - np.maximum(a.start[i], start[j])
    key = (a.instance * b.count)[i] + instance[j]
    order = rising(key)
    first = changes(key[order])
    total = np.add.reduceat(common[order], first) if first.size else common
    pair = key[order[first]]
    one = pair // max(b.count, 1)
    return one, pair - one * b.count, total


def intersections(a: Runs, b: Runs) -> Int:
    """Common pixels of every mask of `a` with every mask of `b`, int64 (Na, Nb); see `shared_pixels`."""
    result = np.zeros((a.count, b.count), np.int64)
    i, j, common = shared_pixels(a, b)
    result[i, j] = common
    return result


def iou(a: Runs, b: Runs) -> NDArray[np.float64]:
    """Intersection over union of every pair, float64 (Na, Nb), 0 to 1; two empty masks have 0."""
    common = intersections(a, b)
    union = area(a)[:, None] + area(b)[None, :] - common
    ratio: NDArray[np.float64] = common / np.maximum(union, 1)
    return ratio


def nms(runs: Runs, scores: ArrayLike, threshold: ArrayLike, labels: ArrayLike | None = None) -> Int:
    """Indices, rising, of the masks that stay if each, by falling score, drops the weaker ones too much like it.

    Too much like it: an IoU above `threshold`, 0 to 1, one number or (N,), where that of the weaker counts. It is
    compared in integers: an IoU of exactly 0.6 is not above 0.6. scores: numbers (N,); of equals the lower index is the
    stronger. labels: integers (N,), where given only masks of one label drop each other.
    Raises ValueError for another number of scores, thresholds or labels than masks.
    """
    strongest_first = _strongest_first(scores, runs.count, "scores")
    rank = np.argsort(strongest_first)
    i, j, common = shared_pixels(runs, runs)
    areas = area(runs)
    union = areas[i] + areas[j] - common
    over, under = (number if np.ndim(number) == 0 else number[j] for number in _fractions(threshold, runs.count))
    rival = (rank[i] < rank[j]) & (common * under > union * over)
    if labels is not None:
        label = _column(labels, runs.count, "labels")
        rival &= label[i] == label[j]
    strong, weak = i[rival], j[rival]
    keep = np.ones(runs.count, bool)
    order = np.argsort(rank[strong])
    for winner, loser in zip(strong[order].tolist(), weak[order].tolist(), strict=True):
        # All that could drop the winner came before.
        if keep[winner]:
            keep[loser] = False
    return np.flatnonzero(keep)


def remove_overlaps(runs: Runs, priority: ArrayLike) -> Runs:
    """Masks that share no pixel: each goes to the mask of highest priority that holds it; ties to the lower index.

    priority: numbers (N,). Raises ValueError for another number of priorities than masks.
    """
    strongest_first = _strongest_first(priority, runs.count, "priority")
    _, apart = share_out(runs.select(strongest_first), 0.0)
    return apart.select(np.argsort(strongest_first))


def share_out(runs: Runs, min_share: float) -> tuple[Int, Runs]:
    """Masks without overlaps, each pixel to the first mask that holds it, without those to which too little is left.

    Returns the indices, rising, of the masks that stay, and what they keep. Dropped is a mask to which those before
    it that stay leave less than `min_share`, 0 to 1, of its pixels; it takes nothing from those after it.
    Nothing is painted: cost and memory follow the number of runs and of their meetings, not the canvas.
    """
    covers, areas = _covers(runs), area(runs)
    stays, open_ = np.zeros(runs.count, bool), np.ones(runs.count, bool)
    while open_.any():
        # What a mask keeps where all that are open stay is the least that it can keep; where none does, the most.
        # Of the open ones the first depends on none of the others, so that each turn decides one at least.
        stays |= open_ & (areas - _taken(covers.of(stays | open_), runs.count) >= min_share * areas)
        open_ &= ~stays
        if open_.any():
            open_ &= areas - _taken(covers.of(stays), runs.count) >= min_share * areas
    kept = np.flatnonzero(stays)
    return kept, _without(runs, covers.of(stays), stays).select(kept)


class _Covers(NamedTuple):
    """Where runs lie under runs of masks before theirs, by run, then by start; int64 (K,) each.

    run: index of the run. mask, by: its mask, and the one that covers it. start, stop: the part that is covered.
    before: how far the parts of this run in front of this one reach; less than 0 for the first.
    """

    run: Int
    mask: Int
    by: Int
    start: Int
    stop: Int
    before: Int

    def of(self, masks: NDArray[np.bool_]) -> _Covers:
        """Those by the masks to keep, bool (N,)."""
        kept = np.flatnonzero(masks[self.by])
        if kept.size == self.by.size:
            return self
        return _reaching(*(column[kept] for column in self[:-1]))


def _covers(runs: Runs) -> _Covers:
    order = rising(runs.start)
    start, stop, mask = runs.start[order], runs.stop[order], runs.instance[order]
    # In this order the runs that begin within a run follow it directly.
    count = np.searchsorted(start, stop) - np.arange(1, start.size + 1)
    one, other = np.repeat(np.arange(start.size), count), expand(np.arange(1, start.size + 1), count)
    swap = mask[one] < mask[other]
    under, over = np.where(swap, other, one), np.where(swap, one, other)
    pair = np.sort(under * start.size + over)
    under = pair // max(start.size, 1)
    over = pair - under * start.size
    first, last = np.maximum(start[under], start[over]), np.minimum(stop[under], stop[over])
    return _reaching(order[under], mask[under], mask[over], first, last)


def _reaching(run: Int, mask: Int, by: Int, start: Int, stop: Int) -> _Covers:
    # Runs one behind the other on one axis, so that one running maximum serves them all: in the order of the columns,
    # whose runs are numbered anew because their numbers need not rise.
    turn = np.cumsum(np.concatenate([np.zeros(min(run.size, 1), np.int64), run[1:] != run[:-1]]))
    shift = turn * (int(stop.max(initial=0)) + 1)
    reach = np.maximum.accumulate(stop + shift)
    before = np.concatenate([np.full(min(run.size, 1), -1), reach[:-1] - shift[1:]])
    return _Covers(run, mask, by, start, stop, before)


def _taken(covers: _Covers, count: int) -> Int:
    """Pixels of each mask that lie under others, int64 (N,)."""
    fresh = np.maximum(covers.stop - np.maximum(covers.start, covers.before), 0)
    return np.bincount(covers.mask, weights=fresh, minlength=count).astype(np.int64)


def _without(runs: Runs, covers: _Covers, stays: NDArray[np.bool_]) -> Runs:
    """What is not covered of the runs of the masks that stay; the others are left without a run."""
    run = covers.run
    ends = np.flatnonzero(np.concatenate([run[1:] != run[:-1], np.ones(min(run.size, 1), bool)]))
    free = np.ones(runs.start.size, bool)
    free[run] = False
    # In front of each covered part, behind the last part of each run, and the runs that are not covered at all.
    start = np.concatenate(
        [np.maximum(runs.start[run], covers.before), np.maximum(covers.stop, covers.before)[ends], runs.start[free]]
    )
    stop = np.concatenate([covers.start, runs.stop[run[ends]], runs.stop[free]])
    owner = np.concatenate([covers.mask, covers.mask[ends], runs.instance[free]])
    held = np.flatnonzero((start < stop) & stays[owner])
    order = held[rising(owner[held] * (runs.size[0] * runs.size[1]) + start[held])]
    return Runs(runs.size, runs.count, start[order], stop[order], owner[order])


def _fractions(threshold: ArrayLike, count: int) -> tuple[Any, Any]:
    """Numerator and denominator of a threshold, or of one for each mask, int64 (N,)."""
    if np.ndim(threshold) == 0:
        limit = Fraction(float(np.asarray(threshold))).limit_denominator(10**6)
        return limit.numerator, limit.denominator
    values, which = np.unique(_column(threshold, count, "threshold"), return_inverse=True)
    limits = [Fraction(value).limit_denominator(10**6) for value in values.tolist()]
    numerator, denominator = (
        np.array([getattr(limit, part) for limit in limits], np.int64) for part in ("numerator", "denominator")
    )
    return numerator[which], denominator[which]


def _strongest_first(values: ArrayLike, count: int, name: str) -> Int:
    """Indices by falling value, int64 (N,); of equal values the lower index comes first."""
    column = _column(values, count, name)
    # Sorted from the back and read from the back. No negation: it would wrap unsigned numbers.
    return count - 1 - np.argsort(column[::-1], kind="stable")[::-1]


def _column(values: ArrayLike, count: int, name: str) -> NDArray[np.generic]:
    column = np.asarray(values)
    if column.shape != (count,):
        raise ValueError(f"{name}: wanted one number for each of {count} masks, got shape {column.shape}")
    return column
