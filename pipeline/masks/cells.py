"""Cells: all masks of one canvas at once, as what each pixel belongs to, and how that looks through a map.

A crop, a symmetry, a rotation with scaling, a bend: one look-up for each pixel of the new canvas gives every mask that
it shows, however many there are, and pixels that several masks share stay shared. What is looked up is a plane, and
planes can be put upon one another.

A matrix, float64 (2, 3), leads from a new canvas back to the old one: (x, y) -> matrix @ (x, y, 1), continuous
coordinates in which pixel (row y, column x) covers x..x + 1 and y..y + 1. A bend, int32 (2, H, W), moves the place to
which each pixel of the new canvas leads on by so many 1/16384 of an old pixel, in x and in y.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.masks.runs import Int, Runs, expand, split_columns
from pipeline.masks.windows import Windows

Int32 = NDArray[np.int32]
Matrix = NDArray[np.float64]
Bend = NDArray[np.int32]
_DIGITS = 13  # binary places to which a matrix is rounded: products with pixel centres are then exact in int32
_UNIT = 2**_DIGITS
BEND = 2 * _UNIT  # units of a bend in a pixel


@dataclass(frozen=True, eq=False)
class Cells:
    """The pieces of columns that the same masks hold.

    size: (H, W). count: masks N. start, stop: int32 (C,), half-open intervals of column-major pixel numbers, sorted,
    without overlap, none over the end of a column. label: int32 (C,), from 1 to N + S: label k stands for the masks
    member[bounds[k - 1]:bounds[k]]. Labels up to N are those of a mask alone, k of mask k - 1; the S others are sets.
    bounds: int32 (N + S + 1,). member: int32.
    """

    size: tuple[int, int]
    count: int
    start: Int32
    stop: Int32
    label: Int32
    bounds: Int32
    member: Int32


@dataclass(frozen=True, eq=False)
class Plane:
    """What each pixel of a canvas belongs to.

    size: (H, W). count: masks N. label: int32 (W · (H + 1) + 1,), pixels down the columns, with one of background above
    each column and behind the last: 0 is background, label k stands for the masks member[bounds[k - 1]:bounds[k]].
    bounds, member: int32, as in `Cells`.
    """

    size: tuple[int, int]
    count: int
    label: Int32
    bounds: Int32
    member: Int32

    def columns(self) -> Int32:
        """The labels of the canvas alone, int32 (W, H): columns first. A view."""
        return self.label[:-1].reshape(self.size[1], self.size[0] + 1)[:, 1:]


def cells(runs: Runs) -> Cells:
    """The cells of masks, which may overlap. Between two neighbouring ends of runs every mask is either in or out."""
    x, top, bottom, run = split_columns(runs)
    first, last = x * runs.size[0] + top, x * runs.size[0] + bottom
    edges = np.sort(np.concatenate([first, last]))
    edges = edges[np.append(True, edges[1:] != edges[:-1])[: edges.size]]
    begin = np.searchsorted(edges, first)
    parts = np.searchsorted(edges, last) - begin
    cell, owner = expand(begin, parts), np.repeat(runs.instance[run], parts)
    depth = np.bincount(cell, minlength=edges.size)
    label = np.zeros(edges.size, np.int64)
    label[cell] = owner + 1
    shared = np.flatnonzero(depth > 1)
    order = np.argsort(cell, kind="stable")  # the masks of a cell one after the other, ascending
    number, bounds, member = _sets(owner[order[depth[cell[order]] > 1]], depth[shared])
    label[shared] = runs.count + 1 + number
    held = np.flatnonzero(depth)
    alone = np.arange(runs.count)
    bounds, member = np.concatenate([alone, runs.count + bounds]), np.concatenate([alone, member])
    columns = (edges[held], edges[held + 1] if held.size else held, label[held], bounds, member)
    return Cells(runs.size, runs.count, *(column.astype(np.int32) for column in columns))


def _sets(members: Int, lengths: Int) -> tuple[Int, Int, Int]:
    """The number of the set that each group of members is; bounds and members of the sets. All int64."""
    if not lengths.size:
        return lengths, np.zeros(1, np.int64), members
    table = np.full((lengths.size, int(lengths.max())), -1)
    table[np.arange(table.shape[1]) < lengths[:, None]] = members
    sets, number = np.unique(table, axis=0, return_inverse=True)
    held = sets >= 0
    return number.reshape(-1), np.concatenate([[0], np.cumsum(held.sum(1))]), sets[held]


def footprint(matrix: Sequence[Sequence[float]], size: tuple[int, int]) -> tuple[int, int, int, int]:
    """Box x0 y0 x1 y1 (half-open, pixels of the old canvas) of all that a new canvas of `size` (H, W) shows of it.

    matrix: two rows of three numbers. The box may reach beyond the old canvas, and has a pixel at least.
    """
    (a, b, c), (d, e, f) = matrix
    height, width = size
    x = (c, c + a * width, c + b * height, c + a * width + b * height)
    y = (f, f + d * width, f + e * height, f + d * width + e * height)
    x0, y0 = math.floor(min(x)), math.floor(min(y))
    return x0, y0, max(math.ceil(max(x)), x0 + 1), max(math.ceil(max(y)), y0 + 1)


def view(source: Cells, matrix: Matrix, size: tuple[int, int], least: float | NDArray[Any] = 1) -> tuple[Windows, Int]:
    """The masks on a new canvas of `size` (H, W) that have at least `least` pixels there: `shown` of `look`.

    The cost follows the sizes of the canvases and the outlines inside them, not the number of masks times an area.
    """
    return shown(look(source, matrix, size), least)


def look(source: Cells, matrix: Matrix, size: tuple[int, int], bend: Bend | None = None) -> Plane:
    """What a new canvas of `size` (H, W) shows of cells.

    Each pixel of the new canvas is what the old one holds where its centre leads to: nearest neighbour, a coordinate
    from 3 to less than 4 is pixel 3, beyond the old canvas is background. The matrix is rounded to 1/8192, its last
    column to 1/16384, and all else is arithmetic of integers.
    """
    rounded = [[round(a * _UNIT), round(b * _UNIT), round(c * 2 * _UNIT)] for a, b, c in matrix.tolist()]
    reach = 0 if bend is None else 1 + int(np.abs(bend).max(initial=0)) // BEND
    x0, y0, x1, y1 = footprint([[a / _UNIT, b / _UNIT, c / (2 * _UNIT)] for a, b, c in rounded], size)
    box = (x0 - reach, y0 - reach, x1 + reach, y1 + reach)
    label = _painted(source, box).take(_places(rounded, size, box, bend))
    return Plane(size, source.count, label, source.bounds, source.member)


def shown(plane: Plane, least: float | NDArray[Any] = 1) -> tuple[Windows, Int]:
    """The masks that have at least `least` pixels on a plane (one number, or (N,)), and their numbers, int64 ascending.

    A mask without a pixel is never shown.
    """
    edge = (plane.label[1:] != plane.label[:-1]).nonzero()[0] + 1
    label = plane.label[edge]
    held = label.nonzero()[0]
    start, stop, owner = _opened(plane, edge[held], edge[held + 1], label[held])
    area = np.bincount(owner, stop - start, plane.count)
    kept = (area >= least) & (area > 0)
    # The canvas's order stays within a mask. Numbers of 16 bits are sorted faster.
    order = (owner.astype(np.int16) if plane.count < 1 << 15 else owner).argsort(kind="stable")
    owner = owner[order]
    of_kept = kept[owner]
    order = order[of_kept]
    return _cut(start[order], stop[order], owner[of_kept], plane.size), kept.nonzero()[0]


def background(size: tuple[int, int]) -> Plane:
    """A plane without masks on a canvas of `size` (H, W)."""
    none = np.zeros(0, np.int32)
    return Plane(size, 0, np.zeros(size[1] * (size[0] + 1) + 1, np.int32), np.zeros(1, np.int32), none)


def covered(plane: Plane, which: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Where a plane belongs to one of some of its masks: bool (H, W) of `which`, bool (N,)."""
    known = np.zeros(plane.bounds.size, bool)
    if plane.member.size:
        known[1:] = np.logical_or.reduceat(which[plane.member], plane.bounds[:-1])
    return known[plane.columns().T]


def put(under: Plane, over: Plane, corner: tuple[int, int] = (0, 0), where: NDArray[np.bool_] | None = None) -> Plane:
    """A plane upon another, its upper left at `corner` (x, y), within the other's canvas.

    What lies under it is lost; given `where`, bool (H, W) of the upper one, only where that is true. The masks of both
    are numbered one after the other, first those under.
    """
    (x, y), (height, width) = corner, over.size
    upper, shift = over.columns(), under.bounds.size - 1
    label = under.label.copy()
    part = label[:-1].reshape(under.size[1], under.size[0] + 1)[x : x + width, 1 + y : 1 + y + height]
    np.copyto(part, np.where(upper > 0, upper + shift, 0), where=True if where is None else where.T)
    bounds = np.concatenate([under.bounds, over.bounds[1:] + under.bounds[-1]])
    member = np.concatenate([under.member, over.member + np.int32(under.count)])
    return Plane(under.size, under.count + over.count, label, bounds, member)


def _cut(start: Int, stop: Int, owner: Int32, size: tuple[int, int]) -> Windows:
    """Windows of the masks that own the runs, which are pixels of `_places`, sorted by mask."""
    if not owner.size:
        return Windows(size, np.zeros((0, 4), np.int64), np.zeros(0, np.uint8), np.zeros(0, np.int64))
    pitch = size[0] + 1
    x = start // pitch
    top = start - (x * pitch + 1)
    length = stop - start
    new = np.empty(owner.size, bool)
    new[0], new[1:] = True, owner[1:] != owner[:-1]
    first, rank = new.nonzero()[0], new.cumsum() - 1
    box = np.empty((first.size, 4), np.int64)
    box[:, 0], box[:-1, 2], box[-1, 2] = x[first], x[first[1:] - 1] + 1, x[-1] + 1
    box[:, 1], box[:, 3] = np.minimum.reduceat(top, first), np.maximum.reduceat(top + length, first)
    height = box[:, 3] - box[:, 1]
    ends = ((box[:, 2] - box[:, 0]) * height).cumsum()
    offset = np.zeros_like(ends)
    offset[1:] = ends[:-1]
    begin = (offset - box[:, 0] * height - box[:, 1])[rank] + x * height[rank] + top
    return Windows(size, box, _filled(begin, begin + length, np.ones(begin.size, np.uint8), int(ends[-1])), offset)


def _opened(source: Plane, start: Int, stop: Int, label: Int32) -> tuple[Int, Int, Int32]:
    """Intervals of labels as intervals of the masks that the labels stand for: start, stop, mask."""
    begin = source.bounds[label - 1].astype(np.int64)
    times = source.bounds[label] - begin
    return start.repeat(times), stop.repeat(times), source.member[expand(begin, times)]


def _painted(source: Cells, box: tuple[int, int, int, int]) -> Int32:
    """The label of each pixel inside a box, column-major, 0 for background, and one of background behind them.

    The box may reach beyond the canvas.
    """
    (height, width), (x0, y0, x1, y1) = source.size, box
    ends = np.array([max(x0, 0) * height, min(x1, width) * height], np.int32)
    first, end = source.start.searchsorted(ends).tolist()
    start, stop = source.start[first:end], source.stop[first:end]
    x = start // height
    top = (x - x0) * (y1 - y0)  # where the column begins in the box
    shift = top - x * height - y0
    start, stop = np.maximum(start + shift, top), np.minimum(stop + shift, top + (y1 - y0))
    held = (start < stop).nonzero()[0]
    return _filled(start[held], stop[held], source.label[first:end][held], (x1 - x0) * (y1 - y0) + 1)


def _filled(start: NDArray[Any], stop: NDArray[Any], value: NDArray[Any], size: int) -> NDArray[Any]:
    """(size,) of value[k] from start[k] to stop[k], ascending and without overlap, and of zeros elsewhere."""
    edges = np.empty(2 * start.size + 2, np.int64)
    edges[0], edges[1:-1:2], edges[2::2], edges[-1] = 0, start, stop, size
    values = np.zeros(2 * start.size + 1, value.dtype)
    values[1::2] = value
    return values.repeat(edges[1:] - edges[:-1])


def _places(
    matrix: Sequence[Sequence[int]], size: tuple[int, int], box: tuple[int, int, int, int], bend: Bend | None
) -> Int32:
    """For each pixel of the new canvas, column-major, the number of its source among the pixels of `_painted`.

    Above each column and behind the last is one more that leads to the background: no run goes over a column's end.
    """
    height, width = size
    x, y = np.arange(1, 2 * width, 2, dtype=np.int32), np.arange(-1, 2 * height, 2, dtype=np.int32)  # twice the centres
    (a, b, c), (d, e, f) = matrix
    place = np.empty(width * (height + 1) + 1, np.int32)
    column, row = place[:-1].reshape(width, height + 1), (d * x + (f - (box[1] << _DIGITS + 1)))[:, None] + e * y
    np.add((a * x + (c - (box[0] << _DIGITS + 1)))[:, None], b * y, out=column)
    for axis, coordinate in enumerate((column, row)):
        if bend is not None:
            coordinate[:, 1:] += bend[axis].T
        coordinate >>= _DIGITS + 1
    column *= box[3] - box[1]
    column += row
    place[:: height + 1] = (box[2] - box[0]) * (box[3] - box[1])
    return place
