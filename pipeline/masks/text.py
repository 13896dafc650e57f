"""The RLE text of contests, "start length start length …", to and from runs and COCO RLE, whole columns at once.

The pixel order is a fact of the contest and always a required argument: DSB2018 numbers pixels down the columns,
Sartorius along the rows. Row-major text becomes column-major runs without a dense mask: the toggles of neighbouring
rows are cancelled against each other, so the cost follows the outline. Some thousand texts are worked on at a time,
with 32-bit keys where they do, so that the arrays stay within the processor's cache.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.masks import counts as rle
from pipeline.masks import numbers
from pipeline.masks.runs import Int, Runs, concatenate, cuts, extents, keys, passes, sums

Order = Literal["row", "column"]
_CHARACTERS = 1 << 20  # of one pass, unless one text has more


class TextError(ValueError):
    """A text that is no valid RLE. `index`: its position among the texts. `rule`: a sentence with wanted and got."""

    def __init__(self, index: int, rule: str):
        super().__init__(f"RLE {index}: {rule}")
        self.index, self.rule = index, rule


class CocoColumns(NamedTuple):
    """N masks as COCO has them: compressed counts, area in pixels int64 (N,), tight boxes int64 (N, 4).

    Boxes are x0 y0 x1 y1, half-open, in pixels; an empty mask has 0 0 0 0.
    """

    counts: list[str]
    area: Int
    boxes: Int


class _Flat(NamedTuple):
    """Runs of some texts in their own pixel order, 0-based, sorted by (text, start).

    start, stop, owner: (R,) of one integer type; owner is the text. bounds: int64 (N + 1,), the runs of text i are
    bounds[i]:bounds[i + 1].
    """

    start: NDArray[Any]
    stop: NDArray[Any]
    owner: NDArray[Any]
    bounds: Int


def from_text(texts: Sequence[str], size: tuple[int, int], order: Order, base: int = 1) -> Runs:
    """Runs of contest texts, one mask per text, on a canvas of `size` (H, W) in pixels.

    base: the number of the first pixel. A blank text is an empty mask. Runs may touch and need not be sorted.
    Raises TextError for a value that is no integer, an odd number of values, a run shorter than 1, before the first
    pixel or past the last, and for runs of one text that overlap.
    """
    parts = []
    for flat in _read(texts, size, order, base):
        parts.append(_runs(_toggles(flat, size, order), flat.bounds.size - 1, size))
    return concatenate(parts, size)


def text_to_coco(texts: Sequence[str], size: tuple[int, int], order: Order, base: int = 1) -> CocoColumns:
    """Counts, areas and boxes of contest texts, one mask per text; arguments and errors as of `from_text`.

    Equal to those of `from_text`'s runs, and to what pycocotools makes of the decoded masks; the runs of all texts are
    never held at once.
    """
    counts: list[str] = []
    areas, spans = [np.zeros(0, np.int64)], [np.zeros((0, 4), np.int64)]
    line, corners = (size[1], [1, 0, 3, 2]) if order == "row" else (size[0], [0, 1, 2, 3])
    for flat in _read(texts, size, order, base):
        counts += rle.write(_toggles(flat, size, order), flat.bounds.size - 1, size[0] * size[1])
        areas.append(sums(flat.stop - flat.start, flat.bounds))
        spans.append(extents(flat.start, flat.stop, flat.bounds, line)[:, corners])
    return CocoColumns(counts, np.concatenate(areas), np.concatenate(spans))


def to_text(runs: Runs, order: Order, base: int = 1) -> list[str]:
    """The text of each mask: sorted, merged runs; "" for an empty mask. Inverse of `from_text`."""
    _check_numbering(order, base)
    texts: list[str] = []
    for part, key in passes(runs):
        own = _transposed(part, key) if order == "row" else part
        values: NDArray[Any] = np.stack([own.start + base, own.stop - own.start], 1).astype(key).ravel()
        texts += numbers.write(values, 2 * np.diff(own.bounds()))
    return texts


def transpose(runs: Runs) -> Runs:
    """The same masks on the transposed canvas, size (W, H): column-major becomes row-major and back."""
    return concatenate([_transposed(part, key) for part, key in passes(runs)], (runs.size[1], runs.size[0]))


def _transposed(runs: Runs, key: type) -> Runs:
    height, width = runs.size
    flat = _Flat(runs.start.astype(key), runs.stop.astype(key), runs.instance.astype(key), runs.bounds())
    # Column-major on (H, W) is row-major on (W, H), so the row-major reader applies to the transposed canvas.
    return _runs(_toggles(flat, (width, height), "row"), runs.count, (width, height))


def _check_numbering(order: str, base: int) -> None:
    if order not in ("row", "column"):
        raise ValueError(f'order: wanted "row" or "column", got {order!r}')
    if base < 0:
        raise ValueError(f"base: wanted the number of the first pixel, 0 or more, got {base}")


def _read(texts: Sequence[str], size: tuple[int, int], order: str, base: int) -> Iterator[_Flat]:
    """The checked runs of all texts, some thousand texts at a time."""
    _check_numbering(order, base)
    most, key = keys(size)
    lengths = np.fromiter(map(len, texts), np.int64, len(texts))
    for first, stop in cuts(np.cumsum(lengths), most, _CHARACTERS):
        own = texts[first:stop]
        values, words = numbers.read(own, lengths[first:stop]) or _read_slowly(own, first)
        yield _check(values, words, first, size, base, key)


def _check(values: NDArray[Any], words: Int, first: int, size: tuple[int, int], base: int, key: type) -> _Flat:
    """Checked runs, sorted by (text, start), of all values of some texts and the number of each text's values.

    first: index of the first text, for messages.
    """
    odd = np.flatnonzero(words % 2)
    if odd.size:
        raise TextError(first + int(odd[0]), f"an odd number of values ({words[odd[0]]}); wanted start length pairs")
    start, length = values[0::2] - base, values[1::2]
    stop = start + length
    bounds = np.concatenate([[0], np.cumsum(words // 2)])
    total = size[0] * size[1]
    if length.min(initial=1) < 1 or start.min(initial=0) < 0 or stop.max(initial=0) > total:
        _refuse_run(start, length, bounds, first, total, base)
    owner: NDArray[Any] = np.repeat(np.arange(words.size, dtype=key), words // 2)
    flat = _Flat(start.astype(key, copy=False), stop.astype(key, copy=False), owner, bounds)
    return flat if _disjoint(flat, total) else _sorted(flat, first, base)


def _read_slowly(texts: Sequence[str], first: int) -> tuple[Int, Int]:
    """What `numbers.read` gives, of texts with any white space; refuses what is no unsigned integer."""
    for index, text in enumerate(texts):
        for word in text.split():
            if not (word.isascii() and word.isdigit() and len(word) <= numbers.DIGITS):
                raise TextError(first + index, f'"{word:.40}" is no whole number of a pixel or a length')
    counts = np.fromiter((len(text.split()) for text in texts), np.int64, len(texts))
    return np.array(" ".join(texts).split(), dtype=np.int64), counts


def _refuse_run(start: NDArray[Any], length: NDArray[Any], bounds: Int, first: int, total: int, base: int) -> None:
    """Raises TextError for the first run that is empty or leaves the canvas."""
    stop = start + length
    i = int(np.flatnonzero((length < 1) | (start < 0) | (stop > total))[0])
    index = int(np.searchsorted(bounds, i, "right")) - 1
    place = i - int(bounds[index]) + 1
    if length[i] < 1:
        rule = f"run {place} has length {length[i]}, wanted at least 1"
    elif start[i] < 0:
        rule = f"run {place} starts at pixel {start[i] + base}, the first pixel is {base}"
    else:
        rule = f"run {place} ends at pixel {stop[i] - 1 + base}, the image has {total}"
        rule += "" if base == 1 else f" ({base} to {total - 1 + base})"
    raise TextError(first + index, rule)


def _disjoint(flat: _Flat, total: int) -> bool:
    """Whether the runs of each text are sorted and do not overlap."""
    shift = flat.owner * (total + 1)
    return bool(((flat.start + shift)[1:] >= (flat.stop + shift)[:-1]).all())


def _sorted(flat: _Flat, first: int, base: int) -> _Flat:
    """The runs sorted by (text, start). Raises TextError where runs of one text overlap."""
    order = np.lexsort((flat.start, flat.owner))
    start, stop, owner = flat.start[order], flat.stop[order], flat.owner[order]
    clash = np.flatnonzero((owner[1:] == owner[:-1]) & (start[1:] < stop[:-1]))
    if clash.size:
        a, b = int(clash[0]), int(clash[0]) + 1
        here = [f"{start[i] + base} {stop[i] - start[i]}" for i in (a, b)]
        raise TextError(first + int(owner[b]), f'runs overlap: "{here[0]}" and "{here[1]}"')
    return _Flat(start, stop, owner, flat.bounds)


def _runs(toggle: NDArray[Any], count: int, size: tuple[int, int]) -> Runs:
    total = size[0] * size[1] + 1
    instance = toggle[0::2] // total
    base = instance * total
    columns = (toggle[0::2] - base, toggle[1::2] - base, instance)
    return Runs(size, count, *(column.astype(np.int64) for column in columns))


def _toggles(flat: _Flat, size: tuple[int, int], order: str) -> NDArray[Any]:
    """Sorted keys text·(H·W + 1) + pixel at which a mask begins or ends when read down its columns; no two equal."""
    if order == "row":
        return _cancel(_transpose(flat, *size))
    base = flat.owner * (size[0] * size[1] + 1)
    return _cancel(np.stack([flat.start + base, flat.stop + base], 1).ravel())


def _transpose(flat: _Flat, height: int, width: int) -> NDArray[Any]:
    """Column-major toggles, sorted, of row-major runs.

    A pixel flips against the one above it where exactly one of the two rows holds it: the symmetric difference of
    neighbouring rows, found by sorting the run ends of each row together with those of the row above.
    """
    row, left, right, owner = _pieces(flat, width)
    base = (owner * (height + 1) + row) * (width + 1)
    ends = np.empty((2, base.size, 2), base.dtype)
    np.add(base, left, out=ends[0, :, 0])
    np.add(base, right, out=ends[0, :, 1])
    np.add(ends[0], width + 1, out=ends[1])
    ends = ends.ravel()
    ends.sort(kind="stable")  # two sorted halves: a merge
    length = ends[1::2] - ends[0::2]
    held = np.flatnonzero(length > 0)
    begin, length = ends[0::2][held], length[held]
    line = begin // (width + 1)
    x = begin - line * (width + 1)
    who = line // (height + 1)
    y = line - who * (height + 1)
    # The intervals' pixels, one column apart. In 32 bits the sums may wrap around, and wrap back.
    offset = np.cumsum(length, dtype=length.dtype) - length
    flip = np.repeat(who * (height * width + 1) + y + (x - offset) * height, length)
    flip += np.arange(flip.size, dtype=flip.dtype) * height
    flip.sort()
    return flip


def _pieces(flat: _Flat, width: int) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Runs cut at the right edge: row, first column, end column (half-open), text."""
    row = flat.start // width
    left = flat.start - row * width
    right = left + (flat.stop - flat.start)
    if not (right > width).any():
        return row, left, right, flat.owner
    rows = (right - 1) // width + 1
    index = np.repeat(np.arange(rows.size), rows)
    step = (np.arange(index.size) - np.repeat(np.cumsum(rows) - rows, rows)).astype(row.dtype)
    left, right = np.where(step == 0, left[index], 0), np.minimum(right[index] - step * width, width)
    return row[index] + step, left, right, flat.owner[index]


def _cancel(keys: NDArray[Any]) -> NDArray[Any]:
    """Sorted keys without pairs of equal ones: two flips at one place are none."""
    same = keys[1:] == keys[:-1]
    if not same.any():
        return keys
    keep = np.ones(keys.size, bool)
    keep[1:][same] = False
    keep[:-1][same] = False
    return keys[keep]
