"""The RLE text of contests, "start length start length …", to and from runs, whole columns at once.

The pixel order is a fact of the contest and always a required argument: DSB2018 numbers pixels down the columns,
Sartorius along the rows. Row-major text becomes column-major runs without a dense mask: the toggles of neighbouring
rows are cancelled against each other, so the cost follows the outline.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal, NamedTuple

import numpy as np

from pipeline.masks.runs import Int, Runs, concatenate, empty, expand, merged, split_columns

Order = Literal["row", "column"]
_CHUNK = 2048  # texts per pass: the working arrays stay within the processor's cache
_DIGITS = 18  # of the largest number that surely fits an int64


class TextError(ValueError):
    """A text that is no valid RLE. `index`: its position among the texts. `rule`: a sentence with wanted and got."""

    def __init__(self, index: int, rule: str):
        super().__init__(f"RLE {index}: {rule}")
        self.index, self.rule = index, rule


class _Flat(NamedTuple):
    """Runs in a text's own pixel order, 0-based: start, stop and text of each, int64 (R,)."""

    start: Int
    stop: Int
    owner: Int


def from_text(texts: Sequence[str], size: tuple[int, int], order: Order, base: int = 1) -> Runs:
    """Runs of contest texts, one mask per text, on a canvas of `size` (H, W) in pixels.

    base: the number of the first pixel. A blank text is an empty mask. Runs may touch and need not be sorted.
    Raises TextError for a value that is no integer, an odd number of values, a run shorter than 1, before the first
    pixel or past the last, and for runs of one text that overlap.
    """
    _check_order(order)
    parts = []
    for first in range(0, len(texts), _CHUNK):
        flat = _parse(texts[first : first + _CHUNK], first, size, base)
        count = min(_CHUNK, len(texts) - first)
        if order == "column":
            parts.append(merged(size, count, *flat))
        else:
            parts.append(_transpose(flat, count, size))
    return concatenate(parts, size)


def to_text(runs: Runs, order: Order, base: int = 1) -> list[str]:
    """The text of each mask: sorted, merged runs; "" for an empty mask. Inverse of `from_text`."""
    _check_order(order)
    if order == "row":
        runs = transpose(runs)
    bounds = runs.bounds().tolist()
    values = np.stack([runs.start + base, runs.stop - runs.start], 1).ravel()
    words = " ".join(map(str, values.tolist())).split(" ")
    return [" ".join(words[2 * a : 2 * b]) for a, b in pairwise(bounds)]


def _check_order(order: str) -> None:
    if order not in ("row", "column"):
        raise ValueError(f'order: wanted "row" or "column", got {order!r}')


def transpose(runs: Runs) -> Runs:
    """The same masks on the transposed canvas, size (W, H): column-major becomes row-major and back."""
    height, width = runs.size
    flat = _Flat(runs.start, runs.stop, runs.instance)
    # Column-major on (H, W) is row-major on (W, H), so the row-major reader applies to the transposed canvas.
    return _transpose(flat, runs.count, (width, height))


def _parse(texts: Sequence[str], first: int, size: tuple[int, int], base: int) -> _Flat:
    """Checked runs of some texts, sorted by (text, start). `first`: index of the first text, for messages."""
    values, words = _values(texts, first)
    odd = np.flatnonzero(words % 2)
    if odd.size:
        raise TextError(first + int(odd[0]), f"an odd number of values ({words[odd[0]]}); wanted start length pairs")
    start, length = values[0::2] - base, values[1::2]
    owner = np.repeat(np.arange(len(texts)), words // 2)
    flat = _Flat(start, start + length, owner)
    _check_runs(flat, length, first, size, base)
    key_order = np.lexsort((start, owner)) if _unsorted(flat) else slice(None)
    flat = _Flat(flat.start[key_order], flat.stop[key_order], owner[key_order])
    clash = np.flatnonzero((flat.owner[1:] == flat.owner[:-1]) & (flat.start[1:] < flat.stop[:-1]))
    if clash.size:
        a, b = int(clash[0]), int(clash[0]) + 1
        here = [f"{flat.start[i] + base} {flat.stop[i] - flat.start[i]}" for i in (a, b)]
        raise TextError(first + int(flat.owner[b]), f'runs overlap: "{here[0]}" and "{here[1]}"')
    return flat


def _unsorted(flat: _Flat) -> bool:
    return bool(((flat.owner[1:] == flat.owner[:-1]) & (flat.start[1:] < flat.start[:-1])).any())


def _values(texts: Sequence[str], first: int) -> tuple[Int, Int]:
    """All values of some texts, and how many each text has, two int64 arrays; refuses what is no unsigned integer."""
    joined = "\n".join(texts)
    words = _count_words(joined, len(texts))
    if words is not None:
        # Of a text without a number fromstring makes a number up.
        return np.fromstring(joined if words.any() else "", dtype=np.int64, sep=" "), words
    for index, text in enumerate(texts):
        for word in text.split():
            if not (word.isascii() and word.isdigit() and len(word) <= _DIGITS):
                raise TextError(first + index, f'"{word:.40}" is no whole number of a pixel or a length')
    counts = np.fromiter((len(text.split()) for text in texts), np.int64, len(texts))
    return np.array(" ".join(texts).split(), dtype=np.int64), counts


def _count_words(joined: str, lines: int) -> Int | None:
    """Words per line, int64 (lines,), of a text of digits, blanks and line ends alone; None for any other."""
    if not joined.isascii() or not lines:
        return None
    symbol = np.frombuffer(b" " + joined.encode() + b"\n", np.uint8)
    digit = (symbol >= 48) & (symbol <= 57)
    line_end = np.flatnonzero(symbol == 10)
    if line_end.size != lines or int(digit.sum()) + int((symbol == 32).sum()) + lines != symbol.size:
        return None
    change = np.flatnonzero(digit[1:] != digit[:-1]) + 1
    begin, end = change[0::2], change[1::2]
    if (end - begin).max(initial=0) > _DIGITS:
        return None
    return np.diff(np.searchsorted(begin, line_end), prepend=0)


def _check_runs(flat: _Flat, length: Int, first: int, size: tuple[int, int], base: int) -> None:
    total = size[0] * size[1]
    bad = np.flatnonzero((length < 1) | (flat.start < 0) | (flat.stop > total))
    if not bad.size:
        return
    i = int(bad[0])
    place = i - int(np.searchsorted(flat.owner, flat.owner[i])) + 1
    if length[i] < 1:
        rule = f"run {place} has length {length[i]}, wanted at least 1"
    elif flat.start[i] < 0:
        rule = f"run {place} starts at pixel {flat.start[i] + base}, the first pixel is {base}"
    else:
        rule = f"run {place} ends at pixel {flat.stop[i] - 1 + base}, the image has {total}"
        rule += "" if base == 1 else f" ({base} to {total - 1 + base})"
    raise TextError(first + int(flat.owner[i]), rule)


def _transpose(flat: _Flat, count: int, size: tuple[int, int]) -> Runs:
    """Column-major runs on (H, W) from sorted, disjoint row-major runs."""
    height, width = size
    if not flat.start.size:
        return empty(count, size)
    # Row-major runs are column-major runs of the (W, H) canvas; cut at its edge they are (row, x0, x1) pieces.
    pieces = Runs((width, height), count, *flat)
    row, left, right, index = split_columns(pieces)
    owner = flat.owner[index]
    toggle = _column_toggles(row, left, right, owner, height, width)
    total = height * width + 1
    start, stop = toggle[0::2], toggle[1::2]
    instance = start // total
    return merged(size, count, start - instance * total, stop - instance * total, instance)


def _column_toggles(row: Int, left: Int, right: Int, owner: Int, height: int, width: int) -> Int:
    """Sorted keys owner·(H·W + 1) + pixel at which a mask flips when read down its columns.

    A pixel flips against the one above it where exactly one of the two rows holds it: the symmetric difference of
    neighbouring rows, found by sorting the run ends of each row together with those of the row above.
    """
    base = (owner * (height + 1) + row) * (width + 1)
    ends = np.concatenate([base + left, base + right])
    ends = np.concatenate([ends, ends + width + 1])
    ends.sort()
    begin, length = ends[0::2], ends[1::2] - ends[0::2]
    held = np.flatnonzero(length)
    begin, length = begin[held], length[held]
    line = begin // (width + 1)
    x = begin - line * (width + 1)
    who = line // (height + 1)
    y = line - who * (height + 1)
    flip = np.repeat(who * (height * width + 1) + y, length) + expand(x, length) * height
    flip.sort()
    return _cancel(flip)


def _cancel(keys: Int) -> Int:
    """Sorted keys without pairs of equal ones: two flips at one place are none."""
    same = keys[1:] == keys[:-1]
    if not same.any():
        return keys
    keep = np.ones(keys.size, bool)
    keep[1:][same] = False
    keep[:-1][same] = False
    return keys[keep]
