"""Meetings of intervals and connected components, against loops and SciPy."""

from __future__ import annotations

import numpy as np
from fixtures.dense import LAW
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from pipeline.masks.intervals import changes, components, meetings, rising

Int = NDArray[np.int64]
INTERVALS = st.lists(st.tuples(st.integers(0, 30), st.integers(1, 9)), max_size=12)


def bounds(intervals: list[tuple[int, int]]) -> tuple[Int, Int]:
    start, length = np.array(intervals, np.int64).reshape(-1, 2).T
    return start, start + length


@LAW
@given(INTERVALS, INTERVALS, st.booleans())
def test_intervals_meet_where_they_share_a_number(
    a: list[tuple[int, int]], b: list[tuple[int, int]], apart: bool
) -> None:
    start_a, stop_a = bounds(a)
    start_b, stop_b = bounds(sorted(b))
    if apart:  # disjoint intervals take the short way
        start_b, stop_b = start_b + 9 * np.arange(len(b)), stop_b + 9 * np.arange(len(b))
    i, j = meetings(start_a, stop_a, start_b, stop_b)
    wanted = {
        (p, q)
        for p in range(len(a))
        for q in range(len(b))
        if set(range(start_a[p], stop_a[p])) & set(range(start_b[q], stop_b[q]))
    }
    assert len(i) == len(wanted)
    assert set(zip(i.tolist(), j.tolist(), strict=True)) == wanted


@LAW
@given(st.integers(0, 12), st.data())
def test_components_are_those_of_scipy_named_by_their_least_node(count: int, data: st.DataObject) -> None:
    node = st.integers(0, max(count - 1, 0))
    edges = data.draw(st.lists(st.tuples(node, node), max_size=15 if count else 0))
    one, other = np.array(edges, np.int64).reshape(-1, 2).T
    label = components(count, one, other)
    graph = coo_array((np.ones(len(one)), (one, other)), shape=(count, count))
    wanted = connected_components(graph, directed=False)[1] if count else np.zeros(0, int)
    np.testing.assert_array_equal(label, [np.flatnonzero(wanted == own)[0] for own in wanted])


def test_a_chain_in_any_order_is_one_component() -> None:
    nodes = np.random.default_rng(0).permutation(1000)
    assert (components(1000, nodes[1:], nodes[:-1]) == 0).all()


@LAW
@given(st.lists(st.integers(0, 5)))
def test_rising_is_a_stable_argsort_and_changes_begin_each_stretch(values: list[int]) -> None:
    numbers = np.array(values, np.int64)
    np.testing.assert_array_equal(rising(numbers), np.argsort(numbers, kind="stable"))
    assert changes(numbers).tolist() == [k for k in range(len(values)) if k == 0 or values[k] != values[k - 1]]
