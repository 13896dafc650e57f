"""Whole numbers in texts, "12 3 45 1", read and written for many texts at once, without an object for each number."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Int = NDArray[np.int64]
DIGITS = 18  # of the largest number that surely fits an int64
_SMALL = 9  # digits of the largest number that surely fits an int32, even when two are added
_BLANK, _ZERO = 32, 48  # codes of " " and "0"


def read(texts: Sequence[str], lengths: Int) -> tuple[NDArray[Any], Int] | None:
    """All numbers of the texts in turn, int32 or int64 (V,), and how many each text has, int64 (N,).

    lengths: int64 (N,), characters of each text.
    None where a text holds anything but digits and blanks, or a number of more than 18 digits.
    """
    joined = " ".join(texts)
    if not joined.isascii():
        return None
    symbol = np.frombuffer(f"{' ' * DIGITS}{joined} ".encode(), np.uint8)
    blank = symbol == _BLANK
    if np.count_nonzero(blank) + np.count_nonzero(symbol - _ZERO < 10) != symbol.size:
        return None
    # Places are counted from the last of the blanks put in front. A number ends before the second blank of a pair.
    gap = np.flatnonzero(blank[DIGITS - 1 :])
    width, end = gap[1:] - gap[:-1], gap[1:]  # digits + 1
    seen = np.searchsorted(gap, np.cumsum(lengths + 1))
    if int(width.min()) == 1:  # some blanks follow a blank
        held = width > 1
        seen = np.concatenate([[0], np.cumsum(held)])[seen]
        width, end = width[held], end[held]
    digits = int(width.max(initial=1)) - 1
    return None if digits > DIGITS else (_values(symbol, end, width, digits), np.diff(seen, prepend=0))


def _values(symbol: NDArray[np.uint8], end: Int, width: Int, digits: int) -> NDArray[Any]:
    """The numbers that end before the places `end`, of at most so many digits, read two digits at a time."""
    pair = symbol & 15  # a digit's value; a blank's is 0
    pair[1:] += pair[:-1] * 10
    last, width = DIGITS - 2, width.astype(np.uint8)  # from place - 1 on: the places before a number's end
    result: NDArray[Any] = pair[last:][end].astype(np.int32 if digits <= _SMALL else np.int64)
    for step in range(2, digits, 2):
        held = pair[last - step :][end] * (width > step + 1)
        result += held.astype(result.dtype) * 10**step
    return result


def write(values: NDArray[Any], words: Int) -> list[str]:
    """Texts of numbers from 0 up, one blank between two; words: int64 (N,), how many each text has. Inverse of `read`.

    values: integers (V,), of all texts in turn.
    """
    digits, width = [], np.ones(values.size, np.int8)
    rest = values
    for step in range(len(str(int(values.max(initial=0))))):
        if step:
            width += rest > 0
        tens = rest // 10
        digits.append((rest - tens * 10 + _ZERO).astype(np.uint8))
        rest = tens
    pad = len(digits)
    end = np.cumsum(width, dtype=np.int64) + np.arange(1, values.size + 1)  # after the blank that follows
    symbol = np.empty(pad + (int(end[-1]) if end.size else 0), np.uint8)
    # The higher digits first, of all numbers alike: the zeros that a short one does not have lie where the numbers
    # before it and the blanks are written afterwards.
    for step in reversed(range(pad)):
        symbol[end + (pad - 2 - step)] = digits[step]
    symbol[end + (pad - 1)] = _BLANK
    whole = symbol[pad:].tobytes().decode("ascii")
    cuts = np.concatenate([[0], end])[np.concatenate([[0], np.cumsum(words)])]
    stops = np.maximum(cuts[1:] - 1, cuts[:-1])
    return [whole[a:b] for a, b in zip(cuts[:-1].tolist(), stops.tolist(), strict=True)]
