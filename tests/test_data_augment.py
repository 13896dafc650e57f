from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
from fixtures.detectors import ellipses
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from pipeline.data.augment import Augment, crop_box, least, light, picture, place
from pipeline.masks.cells import cells, view
from pipeline.masks.runs import from_dense

PLAIN = Augment(
    crop=16, symmetries=False, brightness=0, contrast=0, gamma=0, invert=0, grey=0, min_area=0, min_share=0
)  # fmt: skip
SIDES = st.integers(1, 40)


def picture_of(height: int, width: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def spec(**changes: Any) -> Augment:
    return dataclasses.replace(PLAIN, **changes)


def seen(masks: Any, matrix: Any, size: tuple[int, int]) -> Any:
    """Dense masks (N, h, w) of what a map shows of dense masks."""
    found, chosen = view(cells(from_dense(masks)), matrix, size)
    dense = np.zeros((len(masks), *size), bool)
    for i, (x0, y0, x1, y1), begin in zip(chosen, found.boxes.tolist(), found.offset.tolist(), strict=True):
        part = found.data[begin : begin + (x1 - x0) * (y1 - y0)]
        dense[i, y0:y1, x0:x1] = part.reshape(x1 - x0, y1 - y0).T
    return dense


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
    image = picture_of(height, width, seed)
    masks = np.random.default_rng(seed).random((3, height, width)) < 0.4
    for crop in (side, None):
        x0, y0, x1, y1 = crop_box((height, width), spec(crop=crop), np.random.default_rng(seed))
        matrix, size = place((height, width), spec(crop=crop), np.random.default_rng(seed))
        # Without a side there is no padding.
        assert size == ((side, side) if crop else (height, width))
        wanted, dense = np.zeros((*size, 3), np.uint8), np.zeros((3, *size), bool)
        wanted[: y1 - y0, : x1 - x0] = image[y0:y1, x0:x1]
        dense[:, : y1 - y0, : x1 - x0] = masks[:, y0:y1, x0:x1]
        np.testing.assert_array_equal(picture(image, matrix, size), wanted)
        np.testing.assert_array_equal(seen(masks, matrix, size), dense)


def test_leftovers_too_small_to_learn_from_are_dropped() -> None:
    before, after = np.array([50, 50, 50, 8, 9]), np.array([50, 5, 4, 3, 0])
    keep = after >= least(before, spec(min_area=4, min_share=0.1))
    assert keep.tolist() == [True, True, False, False, False]
    # One pixel is the least, whatever the settings.
    assert (after >= least(before, PLAIN)).tolist() == [True, True, True, True, False]
    # A sample that shows everything four times as large must show four times as much.
    assert (after >= least(before, spec(min_share=0.1), 4)).tolist() == [True, False, False, False, False]
    assert (after >= least(before, spec(min_share=0.1), 0.25)).tolist() == [True, True, True, True, False]


# Symmetries ---------------------------------------------------------------------------------------------------------


def dense_symmetry(array: Any, number: int) -> Any:
    """The same on an array (…, H, W)."""
    array = array[..., ::-1] if number & 1 else array
    array = array[..., ::-1, :] if number & 2 else array
    return array.swapaxes(-1, -2) if number & 4 else array


@pytest.mark.parametrize("size", [(20, 20), (17, 23)])
def test_a_symmetry_does_the_same_to_the_image_and_to_the_masks(size: tuple[int, int]) -> None:
    masks, image = ellipses(size, 5), picture_of(*size)
    numbers = set()
    for seed in range(60):
        # The number follows two draws of a place that can only be the corner.
        number = int(np.random.default_rng(seed).integers(0, [1, 1, 8])[2])
        matrix, shape = place(size, spec(crop=None, symmetries=True), np.random.default_rng(seed))
        pixels, moved = picture(image, matrix, shape), seen(masks, matrix, shape)
        np.testing.assert_array_equal(moved, dense_symmetry(masks, number))
        np.testing.assert_array_equal(pixels.transpose(2, 0, 1), dense_symmetry(image.transpose(2, 0, 1), number))
        assert pixels.flags.c_contiguous
        numbers.add(number)
    assert numbers == set(range(8))


def test_the_eight_symmetries_differ_and_the_first_changes_nothing() -> None:
    image, full = picture_of(9, 9), spec(crop=None, symmetries=True)
    views = {picture(image, *place((9, 9), full, np.random.default_rng(seed))).tobytes() for seed in range(60)}
    assert len(views) == 8
    assert image.tobytes() in views


# Affine maps --------------------------------------------------------------------------------------------------------

FREE = spec(rotation=180.0, scale=0.8, stretch=0.4, shear=15.0, symmetries=True)


def dense_picture(image: Any, matrix: Any, size: tuple[int, int]) -> Any:
    """Bilinear interpolation by SciPy in double precision, black beyond the image; float64 (h, w, C)."""
    y, x = np.mgrid[: size[0], : size[1]] + 0.5
    column, row = (matrix[i, 0] * x + matrix[i, 1] * y + matrix[i, 2] - 0.5 for i in (0, 1))
    channels = [
        ndimage.map_coordinates(image[..., c].astype(float), [row, column], order=1, mode="grid-constant")
        for c in range(image.shape[2])
    ]
    return np.stack(channels, 2)


@given(SIDES, SIDES, st.one_of(st.none(), st.integers(1, 40)), st.integers(1, 3), st.integers(0, 999))
def test_an_affine_image_is_the_bilinear_interpolation_of_what_lies_there(
    height: int, width: int, side: int | None, channels: int, seed: int
) -> None:
    image = picture_of(height, width, seed)[..., :channels]
    matrix, size = place((height, width), dataclasses.replace(FREE, crop=side), np.random.default_rng(seed))
    pixels = picture(image, matrix, size)
    assert (pixels.dtype, pixels.shape) == (np.uint8, (*size, channels))
    # Half a level is the rounding, the rest the single precision of the coordinates.
    assert np.abs(pixels - dense_picture(image, matrix, size)).max() < 0.55


@given(st.integers(0, 999))
def test_an_affine_map_moves_image_and_masks_together(seed: int) -> None:
    """A picture that is the mask, white on black, stays so: the nearest pixel has a quarter of the weight at least."""
    masks = ellipses((40, 50), 1, seed)
    image = np.repeat(masks[0][:, :, None].astype(np.uint8) * 255, 3, 2)
    matrix, size = place((40, 50), dataclasses.replace(FREE, crop=24), np.random.default_rng(seed))
    inside, pixels = seen(masks, matrix, size)[0], picture(image, matrix, size)[..., 0]
    assert (pixels[inside] >= 63).all()
    assert (pixels[~inside] <= 192).all()


def test_a_sample_shows_nothing_beyond_an_image_that_is_large_enough_and_reaches_all_of_it() -> None:
    reached = np.zeros((60, 70), bool)
    for seed in range(300):
        matrix, _ = place((60, 70), dataclasses.replace(FREE, crop=16), np.random.default_rng(seed))
        corners = matrix @ np.array([[0, 16, 0, 16], [0, 0, 16, 16], [1, 1, 1, 1]])
        assert (corners >= -1e-3).all()
        assert (corners <= np.array([[70], [60]]) + 1e-3).all()
        x, y = np.floor(corners.mean(1)).astype(int)
        reached[max(y - 3, 0) : y + 3, max(x - 3, 0) : x + 3] = True
    assert reached[14:-14, 14:-14].mean() > 0.95


def test_a_sample_of_a_small_image_has_the_image_in_its_middle() -> None:
    for seed in range(20):
        matrix, _ = place((12, 10), spec(crop=40, rotation=180.0), np.random.default_rng(seed))
        np.testing.assert_allclose(matrix @ (20, 20, 1), (5, 6), atol=2e-4)


def test_no_pixel_centre_leads_to_a_border_and_single_precision_is_enough() -> None:
    for seed in range(40):
        matrix, size = place((520, 704), dataclasses.replace(FREE, crop=128), np.random.default_rng(seed))
        assert not np.array_equal(matrix, np.rint(matrix))
        y, x = np.mgrid[: size[0], : size[1]] + 0.5
        for a, b, c in matrix:
            place_ = a * x + b * y + c
            assert (np.abs(place_ - np.rint(place_)) >= 2**-14).all()
            single = np.float32(a) * x.astype(np.float32) + np.float32(b) * y.astype(np.float32) + np.float32(c)
            np.testing.assert_array_equal(single, place_)


def test_the_strengths_of_an_affine_map_are_kept() -> None:
    def linear(seed: int, **changes: float) -> Any:
        return place((99, 99), spec(**changes), np.random.default_rng(seed))[0][:, :2]

    many = range(200)
    turned = [linear(seed, rotation=30.0) for seed in many]
    angles = [math.degrees(math.atan2(one[1, 0], one[0, 0])) for one in turned]
    assert -30.1 < min(angles) < -28
    assert 28 < max(angles) < 30.1
    np.testing.assert_allclose([one @ one.T for one in turned], np.broadcast_to(np.eye(2), (200, 2, 2)), atol=1e-3)
    grown = [linear(seed, scale=1.0)[0, 0] for seed in many]
    assert 0.499 < min(grown) < 0.52
    assert 1.92 < max(grown) < 2.001
    stretched = [linear(seed, stretch=1.0) for seed in many]
    ratios = [one[0, 0] / one[1, 1] for one in stretched]
    assert 0.499 < min(ratios) < 0.52
    assert 1.92 < max(ratios) < 2.002
    np.testing.assert_allclose([one[0, 0] * one[1, 1] for one in stretched], 1, atol=1e-3)
    slanted = [linear(seed, shear=10.0) for seed in many]
    assert 9 < math.degrees(math.atan(max(one[0, 1] for one in slanted))) < 10.1
    assert all(one[1, 0] == 0 for one in slanted)


def test_strengths_of_zero_leave_pixels_where_they_are() -> None:
    assert not PLAIN.resamples
    assert all(spec(**{name: 1.0}).resamples for name in ("rotation", "scale", "stretch", "shear"))
    matrix, _ = place((30, 40), PLAIN, np.random.default_rng(0))
    np.testing.assert_array_equal(matrix[:, :2], np.eye(2))


# Light --------------------------------------------------------------------------------------------------------------


@given(st.integers(0, 99))
def test_light_without_strength_changes_nothing(seed: int) -> None:
    image = picture_of(8, 9, seed)
    np.testing.assert_array_equal(light(image, PLAIN, np.random.default_rng(seed)), image)


@given(st.integers(0, 999))
def test_light_keeps_the_form_and_the_range_and_is_a_function_of_its_generator(seed: int) -> None:
    image = picture_of(8, 9, seed)
    strong = spec(brightness=0.8, contrast=0.9, gamma=2.0, invert=0.5, grey=0.5)
    one, two = (light(image, strong, np.random.default_rng(seed)) for _ in range(2))
    assert (one.dtype, one.shape) == (np.uint8, image.shape)
    np.testing.assert_array_equal(one, two)


def test_a_negative_is_a_negative_and_a_grey_image_is_grey() -> None:
    image = picture_of(8, 9)
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


def float_light(image: Any, spec: Augment, rng: np.random.Generator) -> Any:
    """Every pixel by itself, in single precision, as the formulas say."""
    value = image.astype(np.float32) / 255
    shift, stretch, power = rng.uniform(-1, 1, 3)
    negative, colourless = rng.random(2)
    value = value ** np.float32(2 ** (power * spec.gamma))
    mean = value.mean()
    value = (value - mean) * np.float32(1 + stretch * spec.contrast) + mean
    value = np.clip(value * np.float32(1 + shift * spec.brightness), 0, 1)
    if negative < spec.invert:
        value = 1 - value
    if colourless < spec.grey:
        value = np.repeat(value.mean(2, keepdims=True), 3, 2)
    return np.rint(value * 255).astype(np.uint8)


@given(st.integers(0, 9999))
def test_light_by_a_table_is_light_by_the_pixel(seed: int) -> None:
    image = picture_of(23, 19, seed) // (1 + seed % 3)
    strong = spec(brightness=0.3, contrast=0.4, gamma=0.7, invert=0.3, grey=0.3)
    table, pixels = (how(image, strong, np.random.default_rng(seed)) for how in (light, float_light))
    # The mean is summed in another order: where a value lies between two levels it may be rounded to the other one.
    apart = np.abs(table.astype(int) - pixels)
    assert apart.max() <= 1
    assert (apart > 0).mean() < 0.01


@given(st.integers(0, 999))
def test_light_of_one_channel_is_that_of_three_equal_ones(seed: int) -> None:
    image = picture_of(23, 19, seed)[..., :1]
    strong = spec(brightness=0.3, contrast=0.4, gamma=0.7, invert=0.3, grey=0.3)
    one, three = (light(i, strong, np.random.default_rng(seed)) for i in (image, np.repeat(image, 3, 2)))
    np.testing.assert_array_equal(np.repeat(one, 3, 2), three)


def test_nothing_is_modified() -> None:
    image = picture_of(20, 20)
    image.flags.writeable = False
    before = image.copy()
    light(image, spec(brightness=0.5, contrast=0.5, gamma=1, invert=1, grey=1), np.random.default_rng(0))
    for wanted in (PLAIN, spec(symmetries=True), FREE):
        picture(image, *place((20, 20), wanted, np.random.default_rng(0)))[:] = 0
    np.testing.assert_array_equal(image, before)
