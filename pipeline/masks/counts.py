"""COCO's compressed run lengths: differences to the value two before, six bits a character (rleToString)."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

Int = NDArray[np.int64]
_FIRST = 48  # the code of the character for 0
_MORE = 32  # the bit that says that another character follows


def write(toggle: NDArray[Any], count: int, total: int) -> list[str]:
    """Compressed counts of `count` masks of `total` pixels each, equal to what pycocotools.mask.encode writes.

    toggle: signed integers, mask · (total + 1) + pixel for each pixel at which a mask begins or ends when its pixels
    are read in order; a mask's last end may be `total`. Sorted, no two equal. The dtype holds count · (total + 1).
    """
    end = np.arange(count, dtype=toggle.dtype) * (total + 1) + total
    edge = np.concatenate([toggle, end])
    edge.sort(kind="stable")  # two sorted halves: a merge
    counts = np.empty_like(edge)
    counts[:1] = edge[:1] + 1
    np.subtract(edge[1:], edge[:-1], out=counts[1:])
    if counts.min(initial=1) == 0:  # a mask that holds its last pixel ends there by itself
        edge, counts = edge[counts > 0], counts[counts > 0]
    offset = np.concatenate([[0], np.searchsorted(edge, end) + 1])
    counts[offset[:-1]] -= 1  # the key of a mask's pixel 0 is one more than the end of the mask before
    return _strings(counts, offset)


def _strings(counts: NDArray[Any], offset: Int) -> list[str]:
    """The text of counts[offset[i]:offset[i + 1]] for each i; none of these is empty."""
    delta = counts.copy()
    delta[3:] -= counts[1:-2]
    for place in range(3):  # the first three counts of a mask stand as they are
        index = offset[:-1] + place
        index = index[index < offset[1:]]
        delta[index] = counts[index]
    magnitude = delta ^ (delta >> (8 * delta.itemsize - 1))
    more = magnitude >= 16  # most fit one character: four bits and a sign
    long = np.flatnonzero(more)
    magnitude, extra = magnitude[long], np.zeros(long.size, np.int8)
    for bits in range(4, 8 * delta.itemsize - 1, 5):
        extra += magnitude >= 1 << bits
    before = np.concatenate([[0], np.cumsum(extra, dtype=np.int64)])
    length = np.ones(delta.size, np.int64)
    length[long] += extra
    low = (delta.astype(np.uint8) & 31) + (more * np.uint8(_MORE) + np.uint8(_FIRST))
    symbol = np.repeat(low, length)
    place, rest = long + before[:-1] + 1, delta[long] >> 5
    while place.size:
        more = extra > 1
        symbol[place] = (rest.astype(np.uint8) & 31) + (more * np.uint8(_MORE) + np.uint8(_FIRST))
        index = np.flatnonzero(more)
        place, rest, extra = place[index] + 1, rest[index] >> 5, extra[index] - np.int8(1)
    cuts = (offset + before[np.searchsorted(long, offset)]).tolist()
    whole = symbol.tobytes().decode("ascii")
    return [whole[a:b] for a, b in pairwise(cuts)]


def read(texts: Sequence[str | bytes]) -> tuple[Int, Int]:
    """The counts of all texts in turn, and how many each text has, two int64 arrays.

    Raises ValueError, naming the mask, for what is no compressed RLE.
    """
    joined, length = _joined(texts)
    text_end = np.cumsum(length)
    symbol = np.frombuffer(joined, np.uint8) - np.uint8(_FIRST)  # a code below the first wraps to above 63
    last = np.flatnonzero(symbol & _MORE == 0)  # of each count
    end = np.searchsorted(last, text_end)  # of each text, among the counts
    words = np.diff(end, prepend=0)
    begin = np.concatenate([[0], last[:-1] + 1])[: last.size]
    width = last - begin + 1
    _check(symbol, width, begin, text_end, texts)
    low = symbol & (_MORE - 1)
    value = low[begin].astype(np.int64)
    place, step = np.flatnonzero(width > 1), 1  # most have one character
    while place.size:
        value[place] += low[begin[place] + step].astype(np.int64) << (5 * step)
        step += 1
        place = place[width[place] > step]
    negative = np.flatnonzero(low[last] & 16)
    value[negative] -= np.int64(1) << (5 * width[negative])
    return _undo_differences(value, end - words, words), words


def _joined(texts: Sequence[str | bytes]) -> tuple[bytes, Int]:
    """All texts as one, and the length of each, int64 (N,)."""
    with suppress(TypeError):  # some are bytes
        whole = "".join(texts)  # type: ignore[arg-type]
        if whole.isascii():
            return whole.encode(), np.fromiter(map(len, texts), np.int64, len(texts))
    parts = [text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text for text in texts]
    return b"".join(parts), np.fromiter(map(len, parts), np.int64, len(parts))


def _check(symbol: NDArray[np.uint8], width: Int, begin: Int, text_end: Int, texts: Sequence[str | bytes]) -> None:
    """Raise ValueError for a foreign character, a text that ends within a count, and a count of too many characters."""
    foreign = np.flatnonzero(symbol > 63)[:1]
    final = text_end[np.diff(text_end, prepend=0) > 0] - 1
    unended = final[symbol[final] & _MORE > 0][:1]
    bad = np.concatenate([foreign, unended])
    if bad.size:
        mask = int(np.searchsorted(text_end, bad.min(), "right"))
        raise ValueError(f"mask {mask}: its counts are no compressed COCO RLE: {texts[mask]!r:.60}")
    if width.max(initial=0) > 10:
        mask = int(np.searchsorted(text_end, begin[width.argmax()], "right"))
        raise ValueError(f"mask {mask}: a count of its RLE is larger than any canvas")


def _undo_differences(value: Int, first: Int, words: Int) -> Int:
    """From the fourth value of a text on, add the value two before. first, words: int64 (N,), place and number."""
    if not value.size:
        return value
    sums = np.empty_like(value)
    for parity in (0, 1):  # running sums of every second value, over all texts
        np.cumsum(value[parity::2], out=sums[parity::2])
    # Less what they had come to before a text's own second value, and before its third.
    second, third = (np.minimum(first + step, value.size - 1) for step in (1, 2))
    odd = np.repeat(sums[second] - value[second], words)
    even = np.repeat(sums[third] - value[third], words)
    place = np.arange(value.size) - np.repeat(first, words)
    result = sums - np.where(place & 1, odd, even)
    head = first[words > 0]
    result[head] = value[head]
    return result
