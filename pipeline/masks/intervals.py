"""Which intervals of two sets meet, and what hangs together through such meetings: the joints of geometry on runs."""

from __future__ import annotations

import numpy as np

from pipeline.masks.runs import Int, expand


def meetings(start_a: Int, stop_a: Int, start_b: Int, stop_b: Int) -> tuple[Int, Int]:
    """All pairs (i, j) for which interval i of `a` and interval j of `b` share a number, two int64 (P,).

    Half-open, none of them empty, from 0 up, those of `b` by rising start; intervals of one set may overlap. The cost
    follows the number of intervals and of pairs, not their lengths.
    """
    end = np.searchsorted(start_b, stop_a)
    if (stop_b[:-1] <= start_b[1:]).all():
        # Disjoint ones have rising stops too, so that those that meet an interval follow one another.
        first = np.searchsorted(stop_b, start_a, "right")
        return np.repeat(np.arange(start_a.size), end - first), expand(first, end - first)
    # Of two intervals that meet, either the second begins inside the first, or the first begins after the second does.
    first = np.searchsorted(start_b, start_a)
    by_start = rising(start_a)
    before = np.searchsorted(start_a[by_start], start_b, "right")
    count = np.searchsorted(start_a[by_start], stop_b) - before
    i = np.concatenate([np.repeat(np.arange(start_a.size), end - first), by_start[expand(before, count)]])
    return i, np.concatenate([expand(first, end - first), np.repeat(np.arange(start_b.size), count)])


def rising(values: Int) -> Int:
    """Places of the values, int64 (N,) from 0 up, by rising value, of equal ones the first first.

    np.argsort, but some three times as quick: numbers are sorted that carry their own place in their lowest bits.
    Values of 2**63 / 2N and more do not fit.
    """
    bits = int(values.size).bit_length()
    return np.sort((values << bits) | np.arange(values.size)) & ((1 << bits) - 1)


def changes(values: Int) -> Int:
    """Places at which a value differs from the one before it, int64; the first place among them."""
    return np.flatnonzero(np.concatenate([np.ones(min(values.size, 1), bool), values[1:] != values[:-1]]))


def components(count: int, one: Int, other: Int) -> Int:
    """Connected components of `count` nodes with the edges (one, other): the least node of each one's, int64 (count,).

    Nodes take the least label of their neighbours' roots, then labels are followed to the root, until no edge joins
    two roots (after Shiloach and Vishkin, An O(log n) parallel connectivity algorithm, 1982).
    """
    label = np.arange(count)
    while one.size:
        a, b = label[one], label[other]
        apart = a != b
        one, other, a, b = one[apart], other[apart], a[apart], b[apart]
        least = np.minimum(a, b)
        np.minimum.at(label, np.maximum(a, b), least)
        while True:
            root = label[label]
            if np.array_equal(root, label):
                break
            label = root
    return label
