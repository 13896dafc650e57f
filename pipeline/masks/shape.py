"""Shape of masks on their runs: holes and separate parts.

Parts are 8-connected: pixels that touch at an edge or at a corner belong together. Holes are the other side of that:
background that no path over pixel edges (4-connected) joins to the outside. Nothing is decoded.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipeline.masks.intervals import changes, components, meetings
from pipeline.masks.runs import Int, Runs, merged, split_columns


def fill_holes(runs: Runs) -> Runs:
    """Every mask with its holes filled, whatever other masks are in them. Beyond the canvas lies the outside."""
    height, width = runs.size
    x, top, bottom, index = split_columns(runs)
    column = runs.instance[index] * (width + 2) + x + 1
    between = np.flatnonzero(column[1:] == column[:-1])
    if not between.size:
        return runs
    # A gap lies between two pieces of one column. It is open if it reaches beyond the pieces of a neighbouring column.
    gap, upper, lower = column[between], bottom[between], top[between + 1]
    is_open = _reaches_out(gap - 1, upper, lower, column, top, bottom)
    is_open |= _reaches_out(gap + 1, upper, lower, column, top, bottom)
    key = gap * height
    left, right = meetings(key + height + upper, key + height + lower, key + upper, key + lower)
    region = components(gap.size, left, right)
    reached = np.zeros(gap.size, bool)
    reached[region[is_open]] = True
    hole = between[~reached[region]]
    begin = x[hole] * height
    start = np.concatenate([runs.start, begin + bottom[hole]])
    stop = np.concatenate([runs.stop, begin + top[hole + 1]])
    owner = np.concatenate([runs.instance, runs.instance[index[hole]]])
    order = np.lexsort((start, owner))
    return merged(runs.size, runs.count, start[order], stop[order], owner[order])


def _reaches_out(target: Int, upper: Int, lower: Int, column: Int, top: Int, bottom: Int) -> NDArray[np.bool_]:
    """Whether rows upper:lower of the `target` column reach above its first piece or below its last, bool (G,).

    column, top, bottom: all pieces, by rising column. A column without pieces is all outside.
    """
    first, end = np.searchsorted(column, target), np.searchsorted(column, target, "right")
    missing = first == end
    reaches: NDArray[np.bool_] = missing | (upper < top[np.where(missing, 0, first)]) | (lower > bottom[end - 1])
    return reaches


def largest_part(runs: Runs) -> Runs:
    """Of every mask the part of most pixels; of equal ones that whose first pixel, down the columns, comes first."""
    x, top, bottom, owner, part = _pieces(runs)
    areas = np.bincount(part, weights=bottom - top, minlength=part.size).astype(np.int64)
    roots = np.flatnonzero(part == np.arange(part.size))
    order = roots[np.lexsort((roots, -areas[roots], owner[roots]))]
    best = order[changes(owner[order])]
    keep = np.zeros(part.size, bool)
    keep[best] = True
    keep = keep[part]
    x, top, bottom = x[keep] * runs.size[0], top[keep], bottom[keep]
    return merged(runs.size, runs.count, x + top, x + bottom, owner[keep])


def parts(runs: Runs) -> tuple[Runs, Int]:
    """Every part of every mask as a mask of its own, and the mask that it comes from, int64 (P,).

    By rising mask, the parts of one by their first pixel down the columns. An empty mask has no part.
    """
    x, top, bottom, owner, part = _pieces(runs)
    roots = np.flatnonzero(part == np.arange(part.size))
    number = np.searchsorted(roots, part)
    order = np.argsort(number, kind="stable")
    x, top, bottom = x[order] * runs.size[0], top[order], bottom[order]
    return merged(runs.size, roots.size, x + top, x + bottom, number[order]), owner[roots]


def _pieces(runs: Runs) -> tuple[Int, Int, Int, Int, Int]:
    """Runs cut at the canvas's bottom edge, by rising mask and pixel: column, first row, end row (half-open), mask, and
    the first piece of the part that it belongs to; int64 (S,).
    """
    height, width = runs.size
    x, top, bottom, index = split_columns(runs)
    owner = runs.instance[index]
    # One row and one column more than the canvas has keep apart what lies at opposite borders. One row more at the
    # lower end of every piece makes those meet that touch at a corner only.
    start = (owner * (width + 1) + x) * (height + 1) + top
    stop = start + bottom - top + 1
    return x, top, bottom, owner, components(start.size, *meetings(start + height + 1, stop + height + 1, start, stop))
