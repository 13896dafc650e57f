"""Runs: the foreground of many masks of one canvas as sorted intervals, and their exchange with COCO RLE.

Pixels are numbered down the columns, as in COCO RLE: pixel (row y, column x) of an H×W canvas is `x * H + y`.
Every function works on whole sets of masks at once; its cost follows the length of the outlines, not the areas.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.masks import counts as rle

Int = NDArray[np.int64]
_MASKS = 2048  # of one pass: its arrays stay within the processor's cache
_RUNS = 1 << 17  # of one pass, unless one mask has more


@dataclass(frozen=True, eq=False)
class Runs:
    """Foreground runs of `count` masks on one canvas.

    size: (H, W) in pixels. count: number of masks N, empty ones included.
    start, stop: int64 (R,), half-open intervals of column-major pixel numbers. instance: int64 (R,), 0..N-1.
    Sorted by (instance, start); runs of one mask neither overlap nor touch. Runs of different masks may overlap.
    """

    size: tuple[int, int]
    count: int
    start: Int
    stop: Int
    instance: Int

    def __len__(self) -> int:
        return self.count

    def select(self, index: Any) -> Runs:
        """The masks that a boolean (N,) or integer array names, in its order; a mask may be named more than once.

        Raises IndexError for an index out of range, another number of booleans than masks, and numbers with a fraction.
        """
        chosen = np.arange(self.count)[index]
        bounds = self.bounds()
        begin, length = bounds[chosen], bounds[chosen + 1] - bounds[chosen]
        source = expand(begin, length)
        owner = np.repeat(np.arange(chosen.size), length)
        return Runs(self.size, int(chosen.size), self.start[source], self.stop[source], owner)

    def bounds(self) -> Int:
        """int64 (N + 1,): the runs of mask i are bounds[i]:bounds[i + 1]."""
        return np.searchsorted(self.instance, np.arange(self.count + 1))


def expand(begin: Int, length: Int) -> Int:
    """begin[0], begin[0] + 1, … (length[0] values), begin[1], …: the members of many intervals, int64."""
    offset = np.cumsum(length) - length
    return np.repeat(begin - offset, length) + np.arange(int(length.sum()))


def concatenate(parts: Sequence[Runs], size: tuple[int, int]) -> Runs:
    """The masks of all parts, in order; every part lies on a canvas of `size`."""
    shift = np.cumsum([0] + [part.count for part in parts])
    owner = [part.instance + base for part, base in zip(parts, shift[:-1], strict=True)]
    if not parts:
        return empty(0, size)
    return Runs(
        size,
        int(shift[-1]),
        np.concatenate([part.start for part in parts]),
        np.concatenate([part.stop for part in parts]),
        np.concatenate(owner),
    )


def empty(count: int, size: tuple[int, int]) -> Runs:
    """`count` masks without a pixel."""
    none = np.zeros(0, np.int64)
    return Runs(size, count, none, none, none)


def merged(size: tuple[int, int], count: int, start: Int, stop: Int, instance: Int) -> Runs:
    """Runs from intervals sorted by (instance, start) that do not overlap within a mask: touching ones are joined."""
    joined = (instance[1:] == instance[:-1]) & (start[1:] == stop[:-1])
    if joined.any():
        first, last = np.append(True, ~joined), np.append(~joined, True)
        start, stop, instance = start[first], stop[last], instance[first]
    return Runs(size, count, start, stop, instance)


def pixels(runs: Runs) -> tuple[Int, Int]:
    """Every foreground pixel: its column-major number and its mask, two int64 (total area,)."""
    length = runs.stop - runs.start
    return expand(runs.start, length), np.repeat(runs.instance, length)


def area(runs: Runs) -> Int:
    """Pixels of each mask, int64 (N,)."""
    return sums(runs.stop - runs.start, runs.bounds())


def sums(values: NDArray[Any], bounds: Int) -> Int:
    """int64 (N,): the sum of values[bounds[i]:bounds[i + 1]] for each i."""
    return np.diff(np.concatenate([[0], np.cumsum(values, dtype=np.int64)])[bounds])


def split_columns(runs: Runs) -> tuple[Int, Int, Int, Int]:
    """Runs cut at the canvas's bottom edge: column x, first row, end row (half-open), index of the run; int64 (S,)."""
    height = runs.size[0]
    first = runs.start // height
    columns = (runs.stop - 1) // height - first + 1
    index = np.repeat(np.arange(runs.start.size), columns)
    x = expand(first, columns)
    top = np.maximum(runs.start[index] - x * height, 0)
    bottom = np.minimum(runs.stop[index] - x * height, height)
    return x, top, bottom, index


def boxes(runs: Runs) -> Int:
    """Tight boxes, int64 (N, 4) as x0 y0 x1 y1, half-open, in pixels; an empty mask has 0 0 0 0."""
    return extents(runs.start, runs.stop, runs.bounds(), runs.size[0])


def extents(start: NDArray[Any], stop: NDArray[Any], bounds: Int, length: int) -> Int:
    """What masks span of a canvas whose pixels are numbered along lines of `length` pixels, int64 (N, 4).

    start, stop: runs sorted by (mask, start), those of mask i being bounds[i]:bounds[i + 1]. Result: first line, first
    place in a line, last line + 1, last place + 1. So they are x0 y0 x1 y1 where the lines are columns, y0 x0 y1 x1
    where they are rows; an empty mask has 0 0 0 0.
    """
    result = np.zeros((bounds.size - 1, 4), np.int64)
    if not start.size:
        return result
    present = np.flatnonzero(np.diff(bounds))
    head, tail = bounds[present], bounds[present + 1] - 1
    last = stop - 1
    line, last_line = start // length, last // length
    low, high = start - line * length, last - last_line * length
    wraps = line != last_line
    if wraps.any():  # a run that goes on into the next line reaches both ends of a line
        low, high = np.where(wraps, 0, low), np.where(wraps, length - 1, high)
    result[present, 0], result[present, 2] = line[head], last_line[tail] + 1
    result[present, 1] = np.minimum.reduceat(low, head)
    result[present, 3] = np.maximum.reduceat(high, head) + 1
    return result


def from_dense(masks: NDArray[Any]) -> Runs:
    """Runs of a stack of masks (N, H, W), any nonzero value is foreground. For tests and single small masks."""
    count, height, width = masks.shape
    lines = np.zeros((count, height * width + 2), bool)
    lines[:, 1:-1] = (masks != 0).transpose(0, 2, 1).reshape(count, height * width)
    instance, place = np.nonzero(lines[:, 1:] != lines[:, :-1])
    return Runs((height, width), count, place[0::2], place[1::2], instance[0::2])


def to_dense(runs: Runs) -> NDArray[np.bool_]:
    """A stack (N, H, W) of bool. For tests and pictures of few masks: its memory is N×H×W bytes."""
    height, width = runs.size
    flat = np.zeros((runs.count, height * width), bool)
    place, owner = pixels(runs)
    flat[owner, place] = True
    return flat.reshape(runs.count, width, height).transpose(0, 2, 1)


def to_coco(runs: Runs) -> list[str]:
    """Compressed COCO counts, one string per mask, equal to what pycocotools.mask.encode writes."""
    total = runs.size[0] * runs.size[1]
    texts: list[str] = []
    for part, key in passes(runs):
        base = part.instance * (total + 1)
        toggle: NDArray[Any] = np.stack([part.start + base, part.stop + base], 1).astype(key).ravel()
        texts += rle.write(toggle, part.count, total)
    return texts


def passes(runs: Runs) -> Iterator[tuple[Runs, type]]:
    """The masks in turn, some thousand at a time, and the integer type that holds keys of `keys(runs.size)`."""
    most, key = keys(runs.size)
    bounds = runs.bounds()
    for first, stop in cuts(bounds[1:], most, _RUNS):
        own = slice(bounds[first], bounds[stop])
        yield Runs(runs.size, stop - first, runs.start[own], runs.stop[own], runs.instance[own] - first), key


def keys(size: tuple[int, int]) -> tuple[int, type]:
    """Masks of one pass, and an integer type that holds mask · (H + 1) · (W + 1) for each, the next included.

    Half the bytes are twice the speed: 32 bits wherever they hold a good number of masks.
    """
    fit = (2**31 - 1) // ((size[0] + 1) * (size[1] + 1))
    return (min(fit, _MASKS), np.int32) if fit >= 64 else (_MASKS, np.int64)


def cuts(ends: Int, most: int, budget: int) -> Iterator[tuple[int, int]]:
    """0..N cut into ranges (first, stop) of at most `most`, and at most `budget` by `ends` where one alone is not more.

    ends: int64 (N,), running totals.
    """
    first = 0
    while first < ends.size:
        before = int(ends[first - 1]) if first else 0
        fit = int(np.searchsorted(ends, before + budget, "right"))
        stop = min(first + most, max(fit, first + 1))
        yield first, stop
        first = stop


def from_coco(counts: Sequence[str | bytes], size: tuple[int, int]) -> Runs:
    """Runs of compressed COCO counts on a canvas of `size` (H, W).

    Raises ValueError, naming the mask, where the text is no compressed RLE, a count is negative or larger than the
    canvas, or the counts do not sum to H·W.
    """
    total = size[0] * size[1]
    values, words = rle.read(counts)
    owner = np.repeat(np.arange(len(counts)), words)
    # First each count by itself: sums of absurd counts could wrap around to the right total.
    absurd = np.flatnonzero((values < 0) | (values > total))
    if absurd.size:
        at = absurd[0]
        raise ValueError(f"mask {owner[at]}: a count of its RLE is {values[at]}, the canvas {size} has {total} pixels")
    end = np.cumsum(words)
    edge = np.concatenate([[0], np.cumsum(values)])
    sums = edge[end] - edge[end - words]
    wrong = np.flatnonzero(sums != total)
    if wrong.size:
        raise ValueError(f"mask {wrong[0]}: its RLE covers {sums[wrong[0]]} pixels, the canvas {size} has {total}")
    # Every mask covers the canvas once, so that its pixels on the one axis of all counts begin at mask * total.
    foreground = ((np.arange(values.size) - np.repeat(end - words, words)) & 1).astype(bool) & (values > 0)
    held = np.flatnonzero(foreground)
    owner = owner[held]
    return merged(size, len(counts), edge[held] - owner * total, edge[held + 1] - owner * total, owner)
