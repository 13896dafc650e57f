from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from fixtures.detectors import ellipses
from hypothesis import given
from hypothesis import strategies as st

from pipeline.data.augment import Augment, crop_box, cut, kept, light, symmetry
from pipeline.masks.runs import from_dense, to_dense

PLAIN = Augment(
    crop=16, symmetries=False, brightness=0, contrast=0, gamma=0, invert=0, grey=0, min_area=0, min_share=0
)  # fmt: skip
SIDES = st.integers(1, 40)


def picture(height: int, width: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def spec(**changes: Any) -> Augment:
    return dataclasses.replace(PLAIN, **changes)


# Crops --------------------------------------------------------------------------------------------------------------


@given(SIDES, SIDES, st.one_of(st.none(), st.integers(1, 40)), st.integers(0, 99))
def test_a_crop_lies_in_the_image_and_is_as_large_as_it_can_be(
    height: int, width: int, side: int | None, seed: int
) -> None:
    x0, y0, x1, y1 = crop_box((height, width), spec(crop=side), np.random.default_rng(seed))
    assert 0 <= x0 < x1 <= width
    assert 0 <= y0 < y1 <= height
    assert (x1 - x0, y1 - y0) == ((width, height) if side is None else (min(side, width), min(side, height)))


def test_crops_reach_every_place() -> None:
    rng = np.random.default_rng(0)
    seen = {crop_box((10, 11), spec(crop=8), rng)[:2] for _ in range(400)}
    assert seen == {(x, y) for x in range(4) for y in range(3)}


@given(SIDES, SIDES, st.integers(1, 40), st.integers(0, 99))
def test_a_cut_image_and_its_masks_are_the_dense_slices_padded(height: int, width: int, side: int, seed: int) -> None:
    image = picture(height, width, seed)
    masks = np.random.default_rng(seed).random((3, height, width)) < 0.4
    box = crop_box((height, width), spec(crop=side), np.random.default_rng(seed))
    x0, y0, x1, y1 = box
    pixels, runs = cut(image, from_dense(masks), box, side)
    wanted, dense = np.zeros((side, side, 3), np.uint8), np.zeros((3, side, side), bool)
    wanted[: y1 - y0, : x1 - x0] = image[y0:y1, x0:x1]
    dense[:, : y1 - y0, : x1 - x0] = masks[:, y0:y1, x0:x1]
    np.testing.assert_array_equal(pixels, wanted)
    np.testing.assert_array_equal(to_dense(runs), dense)
    # Without a side there is no padding.
    pixels, runs = cut(image, from_dense(masks), box, None)
    np.testing.assert_array_equal(pixels, image[y0:y1, x0:x1])
    np.testing.assert_array_equal(to_dense(runs), masks[:, y0:y1, x0:x1])


def test_leftovers_too_small_to_learn_from_are_dropped() -> None:
    before, after = np.zeros((5, 10, 10), bool), np.zeros((5, 10, 10), bool)
    for i, (whole, left) in enumerate([(50, 50), (50, 5), (50, 4), (8, 3), (9, 0)]):
        before[i].flat[:whole] = after[i].flat[:left] = True
    keep = kept(from_dense(before), from_dense(after), spec(min_area=4, min_share=0.1))
    assert keep.tolist() == [True, True, False, False, False]
    # One pixel is the least, whatever the settings.
    assert kept(from_dense(before), from_dense(after), PLAIN).tolist() == [True, True, True, True, False]


# Symmetries ---------------------------------------------------------------------------------------------------------


def dense_symmetry(array: Any, number: int) -> Any:
    """The same on an array (…, H, W)."""
    array = array[..., ::-1] if number & 1 else array
    array = array[..., ::-1, :] if number & 2 else array
    return array.swapaxes(-1, -2) if number & 4 else array


@pytest.mark.parametrize("number", range(8))
@pytest.mark.parametrize("size", [(20, 20), (17, 23)])
def test_a_symmetry_does_the_same_to_the_image_and_to_the_masks(number: int, size: tuple[int, int]) -> None:
    masks, image = ellipses(size, 5), picture(*size)
    pixels, runs = symmetry(image, from_dense(masks), number)
    np.testing.assert_array_equal(to_dense(runs), dense_symmetry(masks, number))
    np.testing.assert_array_equal(pixels.transpose(2, 0, 1), dense_symmetry(image.transpose(2, 0, 1), number))
    assert pixels.flags.c_contiguous


def test_the_eight_symmetries_differ_and_the_first_changes_nothing() -> None:
    image = picture(9, 9)
    views = [symmetry(image, from_dense(np.zeros((0, 9, 9))), i)[0].tobytes() for i in range(8)]
    assert len(set(views)) == 8
    assert views[0] == image.tobytes()


# Light --------------------------------------------------------------------------------------------------------------


@given(st.integers(0, 99))
def test_light_without_strength_changes_nothing(seed: int) -> None:
    image = picture(8, 9, seed)
    np.testing.assert_array_equal(light(image, PLAIN, np.random.default_rng(seed)), image)


@given(st.integers(0, 999))
def test_light_keeps_the_form_and_the_range_and_is_a_function_of_its_generator(seed: int) -> None:
    image = picture(8, 9, seed)
    strong = spec(brightness=0.8, contrast=0.9, gamma=2.0, invert=0.5, grey=0.5)
    one, two = (light(image, strong, np.random.default_rng(seed)) for _ in range(2))
    assert (one.dtype, one.shape) == (np.uint8, image.shape)
    np.testing.assert_array_equal(one, two)


def test_a_negative_is_a_negative_and_a_grey_image_is_grey() -> None:
    image = picture(8, 9)
    np.testing.assert_array_equal(light(image, spec(invert=1.0), np.random.default_rng(0)), 255 - image)
    grey = light(image, spec(grey=1.0), np.random.default_rng(0)).astype(int)
    assert (grey == grey[..., :1]).all()
    assert np.abs(grey[..., 0] - image.mean(2)).max() <= 0.51


def test_brightness_and_gamma_stay_within_their_largest_change() -> None:
    flat = np.full((4, 4, 3), 100, np.uint8)
    many = [np.random.default_rng(i) for i in range(60)]
    bright = [int(light(flat, spec(brightness=0.2), rng)[0, 0, 0]) for rng in many]
    assert 80 <= min(bright) < 85
    assert 115 < max(bright) <= 120
    curved = [int(light(flat, spec(gamma=1.0), rng)[0, 0, 0]) for rng in many]
    # Exponents of 1/2 to 2 on 100/255.
    assert 39 <= min(curved) < 50
    assert 150 < max(curved) <= 160


def test_nothing_is_modified() -> None:
    image, masks = picture(20, 20), from_dense(ellipses((20, 20), 3))
    before = image.copy(), masks.start.copy(), masks.stop.copy()
    rng = np.random.default_rng(0)
    light(image, spec(brightness=0.5, contrast=0.5, gamma=1, invert=1, grey=1), rng)
    symmetry(image, masks, 7)
    cut(image, masks, (2, 2, 18, 18), 16)
    for old, new in zip(before, (image, masks.start, masks.stop), strict=True):
        np.testing.assert_array_equal(old, new)
