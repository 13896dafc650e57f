"""Resizing on runs, against indices into dense masks and against Pillow."""

from __future__ import annotations

import numpy as np
import pytest
from fixtures.dense import LAW, SIZES, Masks, assert_same, disks, stacks
from hypothesis import given
from PIL import Image

from pipeline.masks.resize import resized
from pipeline.masks.runs import area, empty, from_dense, to_dense


def nearest(masks: Masks, size: tuple[int, int]) -> Masks:
    """The pixel that lies under each new pixel's centre."""
    y, x = (((2 * np.arange(new) + 1) * old) // (2 * new) for old, new in zip(masks.shape[1:], size, strict=True))
    return masks[:, y[:, None], x[None]]


@LAW
@given(stacks(), SIZES)
def test_resized_masks_are_the_pixels_under_the_centres(masks: Masks, size: tuple[int, int]) -> None:
    runs = from_dense(masks)
    assert_same(resized(runs, size), from_dense(nearest(masks, size)))
    assert_same(runs, from_dense(masks))


@LAW
@given(stacks())
def test_enlarging_by_whole_factors_and_reducing_back_changes_nothing(masks: Masks) -> None:
    runs = from_dense(masks)
    height, width = runs.size
    large = resized(runs, (3 * height, 2 * width))
    assert area(large).tolist() == (6 * area(runs)).tolist()
    assert_same(resized(large, runs.size), runs)


@pytest.mark.parametrize("size", [(30, 25), (120, 100), (64, 44), (1, 200), (60, 50)])
def test_hundreds_of_masks_are_resized_as_pillow_resizes_each(size: tuple[int, int]) -> None:
    masks = disks(300, (60, 50), seed=4, radius=9)
    wanted = [np.asarray(Image.fromarray(mask).resize(size[::-1], Image.Resampling.NEAREST)) for mask in masks]
    np.testing.assert_array_equal(to_dense(resized(from_dense(masks), size)), np.array(wanted))


def test_a_mask_worked_out_by_hand() -> None:
    # 1 × 5 pixels to 1 × 3: centres at 5/6, 15/6 and 25/6 lie in pixels 0, 2 and 4.
    masks = np.eye(5, dtype=bool)[:, None]
    assert to_dense(resized(from_dense(masks), (1, 3)))[:, 0].tolist() == [
        [True, False, False], [False] * 3, [False, True, False], [False] * 3, [False, False, True],
    ]  # fmt: skip
    # 1 × 2 to 1 × 1: the centre lies between the two, so in the second.
    assert area(resized(from_dense(np.eye(2, dtype=bool)[:, None]), (1, 1))).tolist() == [0, 1]


def test_no_mask_stays_no_mask() -> None:
    assert_same(resized(empty(3, (4, 5)), (8, 2)), empty(3, (8, 2)))


def test_a_canvas_of_100_million_pixels_costs_what_its_outlines_cost() -> None:
    masks = resized(from_dense(np.ones((1, 1, 1), bool)), (10_000, 10_000))
    assert (masks.start.tolist(), masks.stop.tolist()) == ([0], [100_000_000])
