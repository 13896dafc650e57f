"""Holes and parts of masks, against SciPy and scikit-image on dense masks."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from fixtures.dense import LAW, Masks, assert_same, disks, stacks
from hypothesis import given, settings
from scipy.ndimage import binary_fill_holes
from skimage.measure import label

from pipeline.masks.runs import Runs, area, empty, from_dense, to_dense
from pipeline.masks.shape import fill_holes, largest_part, parts
from pipeline.masks.text import transpose
from pipeline.masks.windows import flip_x, flip_y

TURNS: list[Callable[[Runs], Runs]] = [flip_x, flip_y, transpose]


def drawn(*rows: str) -> Masks:
    """One mask, # is foreground."""
    return np.array([[[symbol == "#" for symbol in row] for row in rows]])


def largest(mask: Masks) -> Masks:
    """Of one dense mask (H, W); scikit-image numbers parts along its rows, so that the transposed one is asked."""
    parts = label(mask.T, connectivity=2).T
    return parts == 1 + np.bincount(parts[parts > 0])[1:].argmax() if mask.any() else mask


def separated(mask: Masks) -> list[Masks]:
    """The parts of one dense mask (H, W) in the order of their first pixels down the columns."""
    named = label(mask.T, connectivity=2).T
    return [named == number for number in range(1, int(named.max(initial=0)) + 1)]


@given(stacks())
@settings(LAW, max_examples=300)
def test_filled_masks_equal_those_of_scipy(masks: Masks) -> None:
    wanted = np.array([binary_fill_holes(mask) for mask in masks], bool).reshape(masks.shape)
    assert_same(fill_holes(from_dense(masks)), from_dense(wanted))


@given(stacks())
@settings(LAW, max_examples=300)
def test_the_largest_part_is_that_of_scikit_image(masks: Masks) -> None:
    wanted = np.array([largest(mask) for mask in masks], bool).reshape(masks.shape)
    assert_same(largest_part(from_dense(masks)), from_dense(wanted))


@given(stacks())
@settings(LAW, max_examples=300)
def test_the_parts_are_those_of_scikit_image(masks: Masks) -> None:
    runs = from_dense(masks)
    found, origin = parts(runs)
    wanted = [(i, one) for i, mask in enumerate(masks) for one in separated(mask)]
    assert_same(found, from_dense(np.array([one for _, one in wanted], bool).reshape(-1, *runs.size)))
    assert origin.tolist() == [i for i, _ in wanted]
    assert_same(runs, from_dense(masks))


@LAW
@given(stacks())
def test_parts_have_one_part_and_make_up_their_masks(masks: Masks) -> None:
    runs = from_dense(masks)
    found, origin = parts(runs)
    assert_same(parts(found)[0], found)
    whole = np.zeros(masks.shape, int)
    np.add.at(whole, origin, to_dense(found))
    np.testing.assert_array_equal(whole, masks)


@pytest.mark.parametrize("change", [fill_holes, largest_part])
def test_hundreds_of_masks_with_holes_and_many_parts_are_changed_as_one_by_one(
    change: Callable[[Runs], Runs],
) -> None:
    masks = disks(300, (60, 50), seed=3, radius=9)
    masks &= np.random.default_rng(3).random(masks.shape) < 0.7
    found = to_dense(change(from_dense(masks)))
    one = binary_fill_holes if change is fill_holes else largest
    np.testing.assert_array_equal(found, np.array([one(mask) for mask in masks]))


@LAW
@given(stacks())
def test_filling_holes_is_the_same_in_all_views_of_the_canvas(masks: Masks) -> None:
    runs = from_dense(masks)
    for turn in TURNS:
        assert_same(fill_holes(turn(runs)), turn(fill_holes(runs)))


@LAW
@given(stacks())
def test_the_largest_part_is_as_large_in_all_views_of_the_canvas(masks: Masks) -> None:
    """Which of equal parts stays follows the order of the pixels, so that only its size is the same."""
    runs = from_dense(masks)
    for turn in TURNS:
        assert area(largest_part(turn(runs))).tolist() == area(largest_part(runs)).tolist()


@LAW
@given(stacks())
def test_both_change_nothing_when_done_again_and_modify_no_input(masks: Masks) -> None:
    runs = from_dense(masks)
    for change in (fill_holes, largest_part):
        once = change(runs)
        assert_same(change(once), once)
    assert_same(runs, from_dense(masks))


def test_a_hole_closed_only_by_corners_is_filled_and_a_bay_is_not() -> None:
    ring = drawn(".#...", "#.#..", ".#.##", "...#.", "...##")
    filled = drawn(".#...", "###..", ".#.##", "...#.", "...##")
    assert_same(fill_holes(from_dense(ring)), from_dense(filled))


def test_background_on_the_border_is_no_hole() -> None:
    for mask in (drawn("###", "#..", "###"), drawn("#.#", "#.#", "###"), drawn("###", "..#", "###")):
        assert_same(fill_holes(from_dense(mask)), from_dense(mask))


def test_a_spiral_is_open_and_a_closed_one_is_filled_to_the_middle() -> None:
    spiral = drawn("#######", "#.....#", "#.###.#", "#.#...#", "#.#####", "#......", "#######")
    assert_same(fill_holes(from_dense(spiral)), from_dense(spiral))
    closed = spiral.copy()
    closed[0, 5, 6] = True
    assert to_dense(fill_holes(from_dense(closed))).all()


def test_the_holes_of_one_mask_are_filled_though_another_lies_in_them() -> None:
    masks = np.concatenate([drawn("###", "#.#", "###"), drawn("...", ".#.", "...")])
    assert area(fill_holes(from_dense(masks))).tolist() == [9, 1]


def test_pixels_that_touch_at_a_corner_are_one_part_and_of_equal_parts_the_left_one_stays() -> None:
    assert area(largest_part(from_dense(drawn("##..", "..##")))).tolist() == [4]
    assert_same(largest_part(from_dense(drawn("#.##", "#..."))), from_dense(drawn("#...", "#...")))


def test_a_run_over_the_end_of_a_column_does_not_join_what_lies_at_opposite_borders() -> None:
    # Column-major pixels 3 and 4 are neighbours in the run, the last of one column and the first of the next.
    mask = drawn(".#..", "....", "....", "##..")
    assert_same(largest_part(from_dense(mask)), from_dense(drawn("....", "....", "....", "##..")))


def test_no_mask_and_empty_masks_stay_as_they_are() -> None:
    for count in (0, 3):
        for change in (fill_holes, largest_part):
            assert_same(change(empty(count, (4, 5))), empty(count, (4, 5)))
        assert_same(parts(empty(count, (4, 5)))[0], empty(0, (4, 5)))
