"""Overlap and union of runs by one sweep over their sorted starts: no pixel is decoded."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Int = NDArray[np.int64]


class Overlap(NamedTuple):
    """The overlaps of G groups of runs: one entry for each group that has any, in the order of the groups.

    group: int64 (G,). earlier, later: int64 (G,), indices of the two runs that share the group's first shared pixel.
    pixel: int64 (G,), that pixel. claims: int64 (G,), summed area less covered area of the group's runs, in pixels.
    """

    group: Int
    earlier: Int
    later: Int
    pixel: Int
    claims: Int


def overlaps(group: Int, start: Int, stop: Int) -> Overlap:
    """Where half-open runs [start, stop) of one group overlap.

    group, start, stop: int64 (R,), in any order; 0 <= start < stop, in pixels of one numbering; the product of the
    largest group and the largest stop must fit int64. Linear in R after one sort, however deep the runs lie.
    """
    if len(start) == 0:
        return Overlap(*(np.zeros(0, np.int64) for _ in range(5)))
    # One axis for all groups: a run of one group can then never reach into the next.
    shift = group * (int(stop.max()) + 1)
    begin = start + shift
    order = np.argsort(begin, kind="stable")
    begin, end = begin[order], (stop + shift)[order]
    reach = np.maximum.accumulate(end)
    hit = np.flatnonzero(begin[1:] < reach[:-1]) + 1
    groups, first, inverse = np.unique(group[order[hit]], return_index=True, return_inverse=True)
    claims = np.bincount(inverse, np.minimum(end[hit], reach[hit - 1]) - begin[hit], len(groups)).astype(np.int64)
    later = hit[first]
    # Up to a group's first overlap its runs are disjoint, so that the run just before is the one that is met.
    return Overlap(groups, order[later - 1], order[later], start[order[later]], claims)


def union(group: Int, start: Int, stop: Int) -> tuple[Int, Int, Int]:
    """The runs that cover what the half-open runs [start, stop) of each group do: start, stop, group, int64 (S,) each.

    Arguments as of `overlaps`. Sorted by (group, start); runs of one group neither overlap nor touch.
    """
    if len(start) == 0:
        return start, stop, group
    span = int(stop.max()) + 1
    begin = start + group * span
    order = np.argsort(begin, kind="stable")
    begin, end, group = begin[order], np.maximum.accumulate((stop + group * span)[order]), group[order]
    first = np.flatnonzero(np.concatenate([[True], begin[1:] > end[:-1]]))
    owner = group[first]
    last = np.concatenate([first[1:] - 1, [len(begin) - 1]])
    return begin[first] - owner * span, end[last] - owner * span, owner
