"""Runs: the foreground of many masks of one canvas as sorted intervals, and their exchange with COCO RLE.

Pixels are numbered down the columns, as in COCO RLE: pixel (row y, column x) of an H×W canvas is `x * H + y`.
Every function works on whole sets of masks at once; its cost follows the length of the outlines, not the areas.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

Int = NDArray[np.int64]


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
    return np.bincount(runs.instance, weights=runs.stop - runs.start, minlength=runs.count).astype(np.int64)


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
    result = np.zeros((runs.count, 4), np.int64)
    if not runs.start.size:
        return result
    height = runs.size[0]
    bounds = runs.bounds()
    present = np.flatnonzero(np.diff(bounds))
    first, last = bounds[present], bounds[present + 1] - 1
    # A run that continues into the next column reaches both the top and the bottom row of the canvas.
    top, bottom = runs.start % height, (runs.stop - 1) % height
    wraps = (runs.stop - 1) // height > runs.start // height
    result[present, 0] = runs.start[first] // height
    result[present, 1] = np.minimum.reduceat(np.where(wraps, 0, top), first)
    result[present, 2] = (runs.stop[last] - 1) // height + 1
    result[present, 3] = np.maximum.reduceat(np.where(wraps, height - 1, bottom), first) + 1
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
    bounds = runs.bounds()
    # Alternating background and foreground counts: one value per start, one per stop, and the last background if any.
    last = np.where(np.diff(bounds) > 0, runs.stop[bounds[1:] - 1] if runs.stop.size else 0, 0)
    open_ended = last < total
    length = 2 * np.diff(bounds) + open_ended
    offset = np.concatenate([[0], np.cumsum(length)])
    edge = np.zeros(int(offset[-1]), np.int64)
    place = 2 * np.arange(runs.start.size) + (offset[:-1] - 2 * bounds[:-1])[runs.instance]
    edge[place], edge[place + 1] = runs.start, runs.stop
    edge[(offset[1:] - 1)[open_ended]] = total
    counts = np.diff(edge, prepend=0)
    filled = length > 0
    counts[offset[:-1][filled]] = edge[offset[:-1][filled]]
    return _counts_to_strings(counts, offset)


def from_coco(counts: Sequence[str | bytes], size: tuple[int, int]) -> Runs:
    """Runs of compressed COCO counts on a canvas of `size` (H, W).

    Raises ValueError, naming the mask, where the text is no compressed RLE, a count is negative or larger than the
    canvas, or the counts do not sum to H·W.
    """
    total = size[0] * size[1]
    values, owner = _strings_to_counts(counts)
    edge = np.cumsum(values)
    bounds = np.searchsorted(owner, np.arange(len(counts) + 1))
    before = np.concatenate([[0], edge])[bounds]
    sums = before[1:] - before[:-1]
    # First each count by itself: sums of absurd counts could wrap around to the right total.
    absurd = np.flatnonzero((values < 0) | (values > total))
    if absurd.size:
        at = absurd[0]
        raise ValueError(f"mask {owner[at]}: a count of its RLE is {values[at]}, the canvas {size} has {total} pixels")
    wrong = np.flatnonzero(sums != total)
    if wrong.size:
        raise ValueError(f"mask {wrong[0]}: its RLE covers {sums[wrong[0]]} pixels, the canvas {size} has {total}")
    edge = edge - before[owner]
    foreground = (np.arange(values.size) - bounds[owner]) % 2 == 1
    keep = foreground & (values > 0)
    return merged(size, len(counts), (edge - values)[keep], edge[keep], owner[keep])


def _counts_to_strings(counts: Int, offset: Int) -> list[str]:
    """COCO's text of run lengths: differences to the value two before, six bits a character (rleToString)."""
    if not counts.size:
        return [""] * (offset.size - 1)
    delta = counts.copy()
    delta[2:] -= counts[:-2]
    for place in range(3):
        index = offset[:-1] + place
        index = index[index < offset[1:]]
        delta[index] = counts[index]
    magnitude = np.where(delta < 0, ~delta, delta)
    length = np.ones(delta.size, np.int64)
    for bits in range(4, 63, 5):
        more = magnitude >= 1 << bits
        if not more.any():
            break
        length += more
    end = np.cumsum(length)
    begin = end - length
    text = np.empty(int(end[-1]), np.uint8)
    index, step = np.arange(delta.size), 0
    while index.size:
        more = length[index] > step + 1
        text[begin[index] + step] = (((delta[index] >> (5 * step)) & 31) | (more << 5)) + 48
        index, step = index[more], step + 1
    cuts = np.concatenate([[0], end])[offset].tolist()
    whole = text.tobytes().decode("ascii")
    return [whole[a:b] for a, b in pairwise(cuts)]


def _strings_to_counts(texts: Sequence[str | bytes]) -> tuple[Int, Int]:
    """Inverse of `_counts_to_strings`: run lengths and the text each belongs to, two int64 arrays."""
    parts = [text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text for text in texts]
    symbol = np.frombuffer(b"".join(parts), np.uint8).astype(np.int64) - 48
    source = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
    ends = (symbol & 32) == 0
    final = np.append(source[1:] != source[:-1], True) if source.size else np.zeros(0, bool)
    bad = np.flatnonzero((symbol < 0) | (symbol > 63) | (final & ~ends))
    if bad.size:
        raise ValueError(f"mask {source[bad[0]]}: its counts are no compressed COCO RLE: {texts[source[bad[0]]]!r:.60}")
    last = np.flatnonzero(ends)
    begin = np.concatenate([[0], last[:-1] + 1]) if last.size else last
    step = np.arange(symbol.size) - np.repeat(begin, last - begin + 1)
    if step.size and step.max() > 9:
        raise ValueError(f"mask {source[step.argmax()]}: a count of its RLE is larger than any canvas")
    value = np.add.reduceat((symbol & 31) << (5 * step), begin) if begin.size else begin
    width = 5 * (last - begin + 1)
    value = value - np.where(symbol[last] & 16, np.int64(1) << width, 0)
    owner = source[last]
    return _undo_differences(value, owner), owner


def _undo_differences(value: Int, owner: Int) -> Int:
    """From the third value of a text on, add the value two before: two interleaved sums per text."""
    place = np.arange(value.size) - np.searchsorted(owner, owner)
    result = value.copy()
    for parity, first in ((1, 1), (0, 2)):
        index = np.flatnonzero((place % 2 == parity) & (place >= first))
        if index.size:
            sums = np.cumsum(value[index])
            head = np.searchsorted(owner[index], owner[index])
            result[index] = sums - (sums[head] - value[index[head]])
    return result
