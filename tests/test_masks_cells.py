from __future__ import annotations

import math

import numpy as np
import pytest
from fixtures.dense import LAW, disks, stacks
from fixtures.detectors import ellipses
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from pipeline.masks.cells import BEND, Plane, background, cells, covered, footprint, look, put, shown, view
from pipeline.masks.runs import from_dense
from pipeline.masks.windows import Windows, windows

Masks = NDArray[np.bool_]
ENTRIES = st.integers(-3 * 8192, 3 * 8192).map(lambda value: value / 8192)
SHIFTS = st.integers(-9 * 16384, 9 * 16384).map(lambda value: value / 16384)


@st.composite
def matrices(draw: st.DrawFn) -> NDArray[np.float64]:
    """Any linear map, also one that flattens the plane, and a shift; all of few enough digits to be exact."""
    return np.column_stack(
        [draw(arrays(np.float64, (2, 2), elements=ENTRIES)), draw(arrays(np.float64, 2, elements=SHIFTS))]
    )


def looked_up(
    masks: Masks, matrix: NDArray[np.float64], size: tuple[int, int], bend: NDArray[np.int32] | None = None
) -> Masks:
    """Nearest neighbour by an index into the dense masks, one pixel at a time; beyond them is background."""
    result = np.zeros((len(masks), *size), bool)
    for y in range(size[0]):
        for x in range(size[1]):
            moved = 0 if bend is None else bend[:, y, x] / BEND
            column, row = np.floor(matrix @ (x + 0.5, y + 0.5, 1) + moved).astype(int)
            if 0 <= row < masks.shape[1] and 0 <= column < masks.shape[2]:
                result[:, y, x] = masks[:, row, column]
    return result


def opened(masks: Windows) -> Masks:
    """Dense masks (N, H, W) of windows, pixel by pixel as their docstring says."""
    dense = np.zeros((len(masks), *masks.size), bool)
    for i, ((x0, y0, x1, y1), begin) in enumerate(zip(masks.boxes.tolist(), masks.offset.tolist(), strict=True)):
        part = masks.data[begin : begin + (x1 - x0) * (y1 - y0)]
        dense[i, y0:y1, x0:x1] = part.reshape(x1 - x0, y1 - y0).T
    return dense


def assert_shows(masks: Masks, matrix: NDArray[np.float64], wanted: Masks) -> None:
    """The view of the masks holds every wanted one that has a pixel, in tight windows."""
    assert_holds(view(cells(from_dense(masks)), matrix, wanted.shape[1:]), wanted)


def assert_holds(given: tuple[Windows, NDArray[np.int64]], wanted: Masks) -> None:
    found, chosen = given
    assert chosen.tolist() == np.flatnonzero(wanted.any((1, 2))).tolist()
    np.testing.assert_array_equal(opened(found), wanted[chosen])
    same = windows(from_dense(wanted[chosen]))
    assert found.size == same.size
    for name in ("boxes", "data", "offset"):
        got, right = getattr(found, name), getattr(same, name)
        assert got.dtype == right.dtype
        np.testing.assert_array_equal(got, right)


@LAW
@given(stacks(), matrices(), st.tuples(st.integers(1, 8), st.integers(1, 8)))
def test_a_view_is_the_nearest_neighbour_of_each_dense_mask(
    masks: Masks, matrix: NDArray[np.float64], size: tuple[int, int]
) -> None:
    assert_shows(masks, matrix, looked_up(masks, matrix, size))


@pytest.mark.parametrize("degrees", [0, 17, 45, 90, 133, 180, -60])
@pytest.mark.parametrize("scale", [0.6, 1.0, 1.7])
def test_overlapping_crowds_survive_rotation_and_scaling(degrees: float, scale: float) -> None:
    masks = np.concatenate([disks(40, (50, 60), 3), ellipses((50, 60), 20), ellipses((50, 60), 20)])
    angle = math.radians(degrees)
    linear = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]) / scale
    linear = np.rint(linear * 4096) / 4096
    shift = (np.floor((np.array([30, 25]) - linear @ (20, 16)) * 8192) + 0.5) / 8192
    matrix = np.column_stack([linear, shift])
    wanted = looked_up(masks, matrix, (32, 40))
    assert (wanted.sum(0) > 2).any()
    assert_shows(masks, matrix, wanted)


def bends(size: tuple[int, int]) -> st.SearchStrategy[NDArray[np.int32]]:
    return arrays(np.int32, (2, *size), elements=st.integers(-3 * BEND, 3 * BEND))


@LAW
@given(stacks(), matrices(), st.data())
def test_a_bend_moves_the_place_that_each_pixel_shows(
    masks: Masks, matrix: NDArray[np.float64], data: st.DataObject
) -> None:
    size = data.draw(st.tuples(st.integers(1, 5), st.integers(1, 5)))
    bend = data.draw(bends(size))
    found = shown(look(cells(from_dense(masks)), matrix, size, bend))
    assert_holds(found, looked_up(masks, matrix, size, bend))


def test_a_bend_of_nothing_changes_nothing() -> None:
    source, matrix = cells(from_dense(ellipses((30, 40), 9))), np.array([[0.75, 0.25, 3.1], [-0.25, 0.75, 8.3]])
    plain, bent = (look(source, matrix, (20, 25), bend) for bend in (None, np.zeros((2, 20, 25), np.int32)))
    np.testing.assert_array_equal(plain.label, bent.label)


# Planes upon one another --------------------------------------------------------------------------------------------


def plane(masks: Masks) -> Plane:
    return look(cells(from_dense(masks)), np.eye(2, 3), masks.shape[1:])


@LAW
@given(stacks(size=(5, 6)), stacks(size=(3, 4)), st.integers(0, 2), st.integers(0, 2), st.data())
def test_a_plane_upon_another_hides_what_lies_under_it(
    under: Masks, over: Masks, x: int, y: int, data: st.DataObject
) -> None:
    where = data.draw(st.one_of(st.none(), arrays(np.bool_, (3, 4))))
    hidden = np.ones((3, 4), bool) if where is None else where
    wanted = np.zeros((len(under) + len(over), 5, 6), bool)
    wanted[: len(under)] = under
    part = wanted[:, y : y + 3, x : x + 4]
    part[: len(under), hidden] = False
    part[len(under) :] = over & hidden
    lower, upper = plane(under), plane(over)
    before = lower.label.copy()
    found = put(lower, upper, (x, y), where)
    assert found.count == len(wanted)
    assert_holds(shown(found), wanted)
    np.testing.assert_array_equal(lower.label, before)
    # And upon that again.
    again = put(found, upper, (0, 0))
    twice = np.concatenate([wanted, np.zeros((len(over), 5, 6), bool)])
    twice[:, :3, :4] = False
    twice[len(wanted) :, :3, :4] = over
    assert_holds(shown(again), twice)


@LAW
@given(stacks(), st.data())
def test_what_some_masks_cover_is_their_union(masks: Masks, data: st.DataObject) -> None:
    which = data.draw(arrays(np.bool_, len(masks)))
    np.testing.assert_array_equal(covered(plane(masks), which), masks[which].any(0))


def test_a_background_shows_nothing() -> None:
    empty = background((4, 7))
    assert_holds(shown(empty), np.zeros((0, 4, 7), bool))
    assert not covered(empty, np.zeros(0, bool)).any()
    assert empty.columns().shape == (7, 4)


@LAW
@given(stacks())
def test_the_identity_gives_the_masks_back(masks: Masks) -> None:
    assert_shows(masks, np.eye(2, 3), masks)


@LAW
@given(stacks(), st.integers(0, 9), st.booleans())
def test_masks_that_show_too_little_are_left_out(masks: Masks, least: int, each: bool) -> None:
    wanted = least + np.arange(len(masks)) % 3 if each else least
    found, chosen = view(cells(from_dense(masks)), np.eye(2, 3), masks.shape[1:], wanted)
    areas = masks.sum((1, 2))
    assert chosen.tolist() == np.flatnonzero((areas >= wanted) & (areas > 0)).tolist()
    np.testing.assert_array_equal(opened(found), masks[chosen])


@LAW
@given(stacks(), st.integers(0, 7))
def test_a_symmetry_is_that_of_the_dense_masks(masks: Masks, number: int) -> None:
    height, width = masks.shape[1:]
    matrix, dense = np.eye(2, 3), masks
    if number & 1:
        matrix[0] = -1, 0, width
        dense = dense[:, :, ::-1]
    if number & 2:
        matrix[1] = 0, -1, height
        dense = dense[:, ::-1]
    if number & 4:
        matrix[:, :2] = matrix[:, 1::-1]
        dense = dense.transpose(0, 2, 1)
    assert_shows(masks, matrix, dense)


@LAW
@given(stacks())
def test_cells_cover_what_the_masks_cover_once_and_name_the_masks_there(masks: Masks) -> None:
    found = cells(from_dense(masks))
    height, width = masks.shape[1:]
    assert (found.start[1:] >= found.stop[:-1]).all()
    assert (found.start // height == (found.stop - 1) // height).all()
    flat = masks.transpose(0, 2, 1).reshape(len(masks), height * width)
    depth = np.zeros(height * width, int)
    for start, stop, label in zip(found.start, found.stop, found.label, strict=True):
        own = found.member[found.bounds[label - 1] : found.bounds[label]].tolist()
        assert label > len(masks) or own == [label - 1]
        assert all(np.flatnonzero(flat[:, place]).tolist() == own for place in range(start, stop))
        depth[start:stop] += 1
    np.testing.assert_array_equal(depth, flat.any(0))
    assert {column.dtype for column in (found.start, found.stop, found.label, found.bounds, found.member)} == {
        np.dtype(np.int32)
    }


@pytest.mark.parametrize("count", [0, 1, 300])
def test_equal_masks_are_one_set_however_many(count: int) -> None:
    masks = np.repeat(ellipses((30, 40), 1), count, 0)
    found = cells(from_dense(masks))
    assert found.member.size == count + (count if count > 1 else 0)
    assert_shows(masks, np.eye(2, 3), masks)


def test_a_footprint_holds_what_a_view_shows() -> None:
    assert footprint([[1.0, 0, 3], [0, 1, -2]], (10, 20)) == (3, -2, 23, 8)
    assert footprint([[0, 1, 0.5], [-2, 0, 4.0]], (10, 20)) == (0, -36, 11, 4)
    half = math.sqrt(0.5)
    # A square of 10 on its corner.
    assert footprint([[half, -half, 0], [half, half, 0]], (10, 10)) == (-8, 0, 8, 15)


def test_nothing_is_modified() -> None:
    runs = from_dense(ellipses((30, 40), 6))
    found, matrix = cells(runs), np.array([[1.25, 0.5, 3.3], [-0.5, 1.25, 9.1]])
    before = [column.copy() for column in (runs.start, runs.stop, found.start, found.stop, found.label, matrix)]
    view(found, matrix, (20, 20))
    for old, new in zip(before, (runs.start, runs.stop, found.start, found.stop, found.label, matrix), strict=True):
        np.testing.assert_array_equal(old, new)
