from __future__ import annotations

import dataclasses
import math
import re
from typing import Any

import numpy as np
import pytest
from fixtures.detectors import ellipses
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from pipeline.data.augment import Augment, crop_box, least, light, picture, place
from pipeline.data.effects import effects
from pipeline.data.elastic import _spline, drawn_bend
from pipeline.masks.cells import BEND, cells, look, shown, view
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


# Around instances ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("changes", [{}, {"rotation": 40.0, "scale": 0.5, "shear": 8.0}])
def test_a_crop_around_a_point_has_it_in_its_middle_half_as_far_as_the_image_reaches(changes: dict[str, float]) -> None:
    around, size, places = spec(symmetries=True, **changes), (200, 220), []
    for seed in range(200):
        rng = np.random.default_rng(seed)
        near = (float(rng.uniform(0, 220)), float(rng.uniform(0, 200)))
        matrix, own = place(size, around, rng, near)
        x, y = np.linalg.solve(matrix[:, :2], np.array(near) - matrix[:, 2])
        # A magnified crop of 16 pixels shows at most 30 of the image's. Whole pixels may be one off.
        if 30 <= near[0] <= 190 and 30 <= near[1] <= 170:
            assert 3 - 1e-2 <= x <= 13 + 1e-2
            assert 3 - 1e-2 <= y <= 13 + 1e-2
            places.append((x, y))
        corners = matrix @ np.array([[0, own[1], 0, own[1]], [0, 0, own[0], own[0]], [1, 1, 1, 1]])
        assert (corners >= -1e-3).all()
        assert (corners <= np.array([[220], [200]]) + 1e-3).all()
    assert np.ptp(places, 0).min() > 6


@given(SIDES, SIDES, st.integers(1, 40), st.floats(0, 1), st.floats(0, 1), st.integers(0, 99))
def test_a_crop_around_a_point_lies_in_the_image_and_holds_the_point(
    height: int, width: int, side: int, x: float, y: float, seed: int
) -> None:
    near = (x * width, y * height)
    x0, y0, x1, y1 = crop_box((height, width), spec(crop=side), np.random.default_rng(seed), near)
    assert 0 <= x0 < x1 <= width
    assert 0 <= y0 < y1 <= height
    assert (x1 - x0, y1 - y0) == (min(side, width), min(side, height))
    assert x0 - 1 <= near[0] <= x1 + 1
    assert y0 - 1 <= near[1] <= y1 + 1


# Elastic ------------------------------------------------------------------------------------------------------------

ELASTIC = spec(elastic=5.0, elastic_every=21.0, often=1.0)


def field(seed: int, size: tuple[int, int] = (60, 70), wanted: Augment = ELASTIC) -> Any:
    """Displacements in pixels, float64 (2, h, w)."""
    bend = drawn_bend(size, np.eye(2, 3), wanted, np.random.default_rng(seed))
    assert bend is not None
    assert bend.dtype == np.int32
    return bend / BEND


@given(st.integers(0, 9999))
def test_a_bend_is_bounded_smooth_and_folds_nothing(seed: int) -> None:
    found = field(seed)
    assert np.abs(found).max() <= 5
    for axis in (1, 2):
        assert np.abs(np.diff(found, axis=axis)).max() < 0.5  # of a pixel, from pixel to pixel
    # The two derivatives of each coordinate sum to less than 1: no two pixels lead to one place.
    slopes = sum(np.abs(np.diff(found, axis=axis))[:, :59, :69] for axis in (1, 2))
    assert slopes.max() < 1


def test_bends_reach_their_strength_and_leave_no_pixel_alone() -> None:
    many = np.stack([field(seed) for seed in range(100)])
    assert np.abs(many).max() > 3
    assert np.abs(many.mean(0)).max() < 1
    assert (many.std(0) > 0.3).all()


def test_a_spline_of_equal_control_points_is_flat_and_of_a_ramp_a_ramp() -> None:
    weights = _spline(50, 7.0)
    np.testing.assert_allclose(weights.sum(1), 1)
    assert (weights >= 0).all()
    ramp = weights @ (7.0 * (np.arange(weights.shape[1]) - 1))
    np.testing.assert_allclose(ramp, np.arange(50) + 0.5)


def test_a_bend_is_drawn_as_often_as_asked_and_nothing_is_drawn_without() -> None:
    rng = np.random.default_rng(0)
    seldom = dataclasses.replace(ELASTIC, often=0.3)
    assert 40 < sum(drawn_bend((4, 4), np.eye(2, 3), seldom, rng) is not None for _ in range(200)) < 80
    before = rng.bit_generator.state
    assert drawn_bend((4, 4), np.eye(2, 3), PLAIN, rng) is None
    assert rng.bit_generator.state == before


@given(st.integers(0, 999))
def test_a_bent_image_is_the_bilinear_interpolation_of_what_lies_there(seed: int) -> None:
    image = picture_of(40, 50, seed)
    rng = np.random.default_rng(seed)
    wanted = dataclasses.replace(FREE, crop=24, elastic=4.0, elastic_every=17.0, often=1.0)
    matrix, size = place((40, 50), wanted, rng)
    bend = drawn_bend(size, matrix, wanted, rng)
    assert bend is not None
    y, x = np.mgrid[: size[0], : size[1]] + 0.5
    column, row = (matrix[i, 0] * x + matrix[i, 1] * y + matrix[i, 2] + bend[i] / BEND - 0.5 for i in (0, 1))
    channels = [
        ndimage.map_coordinates(image[..., c].astype(float), [row, column], order=1, mode="grid-constant")
        for c in range(3)
    ]
    assert np.abs(picture(image, matrix, size, bend) - np.stack(channels, 2)).max() < 0.6


@given(st.integers(0, 999))
def test_a_bend_moves_image_and_masks_together(seed: int) -> None:
    """A picture that is the mask, white on black, stays so; overlapping masks stay whole."""
    masks = ellipses((40, 50), 3, seed)
    rng = np.random.default_rng(seed)
    matrix, size = place((40, 50), dataclasses.replace(FREE, crop=24), rng)
    bend = drawn_bend(size, matrix, ELASTIC, rng)
    found, chosen = shown(look(cells(from_dense(masks)), matrix, size, bend))
    assert bend is not None
    for mask, (x0, y0, x1, y1), begin in zip(masks[chosen], found.boxes.tolist(), found.offset.tolist(), strict=True):
        inside = np.zeros(size, bool)
        part = found.data[begin : begin + (x1 - x0) * (y1 - y0)].reshape(x1 - x0, y1 - y0).T
        inside[y0:y1, x0:x1] = part
        assert part[0].any()  # the box is that of the moved mask
        assert part[:, -1].any()
        pixels = picture(mask[:, :, None].astype(np.uint8) * 255, matrix, size, bend)[..., 0]
        assert (pixels[inside] >= 63).all()
        assert (pixels[~inside] <= 192).all()


# Effects ------------------------------------------------------------------------------------------------------------

EFFECTS = ("hue", "saturation", "tint", "blur", "noise", "grain")


def test_effects_that_are_off_draw_nothing_and_change_nothing() -> None:
    image, rng = picture_of(8, 9), np.random.default_rng(0)
    before = rng.bit_generator.state
    assert effects(image, PLAIN, rng) is image
    assert rng.bit_generator.state == before


@pytest.mark.parametrize("name", EFFECTS)
@pytest.mark.parametrize("channels", [1, 3])
def test_an_effect_keeps_the_form_and_the_input_and_is_a_function_of_its_generator(name: str, channels: int) -> None:
    image = picture_of(20, 30)[..., :channels]
    strength = 3.0 if name == "blur" else 0.3
    before, wanted = image.copy(), spec(**{name: strength, "often": 1.0})
    one, two = (effects(image, wanted, np.random.default_rng(4)) for _ in range(2))
    assert (one.dtype, one.shape) == (np.uint8, image.shape)
    np.testing.assert_array_equal(one, two)
    np.testing.assert_array_equal(image, before)
    colour = name in ("hue", "saturation", "tint")
    assert (one == image).all() == (colour and channels == 1)
    seldom, plain = spec(**{name: strength, "often": 0.25}), picture_of(9, 9)
    changed = sum((effects(plain, seldom, np.random.default_rng(i)) != plain).any() for i in range(99))
    assert 10 < changed < 40


@pytest.mark.parametrize("name", EFFECTS)
def test_a_grey_picture_gives_the_same_however_it_was_stored(name: str) -> None:
    one = picture_of(20, 30)[..., :1]
    wanted = spec(**{name: 0.4, "often": 1.0})
    made = [effects(image, wanted, np.random.default_rng(2)) for image in (one, np.repeat(one, 3, 2))]
    np.testing.assert_array_equal(*(np.broadcast_to(image, (20, 30, 3)) for image in made))


def test_blur_is_a_gaussian_of_at_most_its_strength() -> None:
    point = np.zeros((41, 41, 1), np.uint8)
    point[20, 20] = 255
    widths = []
    for seed in range(30):
        rng = np.random.default_rng(seed)
        sigma = (rng.random(), rng.random())[1] * 3.0  # the first decides whether there is one
        blurred = effects(point, spec(blur=3.0, often=1.0), np.random.default_rng(seed))[..., 0].astype(float)
        reach = max(int(np.ceil(3 * sigma)), 1)
        wanted = ndimage.gaussian_filter(point[..., 0].astype(float), sigma, radius=reach)
        assert np.abs(blurred - wanted).max() <= 0.51
        widths.append(sigma)
    assert min(widths) < 0.5
    assert max(widths) > 2.5


def test_noise_is_the_same_everywhere_and_grain_grows_with_the_light() -> None:
    ramp = np.repeat(np.array([60, 120, 180], np.uint8), 40)[None, :, None].repeat(100, 0)
    for name, power in (("noise", 0.0), ("grain", 0.5)):
        wanted = spec(**{name: 0.1, "often": 1.0})
        many = [effects(ramp, wanted, np.random.default_rng(i)).astype(float) for i in range(20)]
        deviations = np.array([[one[:, 40 * k : 40 * k + 40].std() for k in range(3)] for one in many])
        assert deviations.max() < 0.105 * 255
        strong = deviations[deviations[:, 1] > 5]
        np.testing.assert_allclose(strong / strong[:, 1:2], [[0.5**power, 1, 1.5**power]] * len(strong), rtol=0.06)
        np.testing.assert_allclose(np.mean([one[:, 40:80].mean() for one in many]), 120, atol=0.5)


def test_a_tint_scales_each_channel_and_saturation_moves_between_grey_and_colour() -> None:
    flat = np.broadcast_to(np.array([100, 150, 50], np.uint8), (4, 4, 3))
    tinted = np.stack([effects(flat, spec(tint=0.2, often=1.0), np.random.default_rng(i))[0, 0] for i in range(60)])
    ratio = tinted / [100, 150, 50]
    assert 0.79 <= ratio.min() < 0.84
    assert 1.16 < ratio.max() <= 1.21
    assert np.abs(np.corrcoef(ratio.T)[np.triu_indices(3, 1)]).max() < 0.4
    spread = [np.ptp(effects(flat, spec(saturation=0.5, often=1.0), np.random.default_rng(i))[0, 0]) for i in range(60)]
    assert 49 <= min(spread) < 60
    assert 140 < max(spread) <= 151


def test_a_turn_of_the_hue_keeps_light_and_strength() -> None:
    flat = np.broadcast_to(np.array([200, 100, 100], np.uint8), (4, 4, 3))
    turned = np.stack([effects(flat, spec(hue=0.5, often=1.0), np.random.default_rng(i))[0, 0] for i in range(40)])
    assert (np.abs(turned.max(1).astype(int) - 200) <= 1).all()
    assert (np.abs(turned.min(1).astype(int) - 100) <= 1).all()
    assert set(turned.argmax(1)) == {0, 1, 2}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"around": 1.5}, "around: wanted 0 to 1, got 1.5"),
        ({"paste": -0.1}, "paste: wanted 0 to 1, got -0.1"),
        ({"blur": -1.0}, "blur: wanted 0 or more, got -1.0"),
        ({"noise": math.nan}, "noise: wanted 0 or more, got nan"),
        ({"hue": 0.7}, "hue: wanted at most 0.5, half the circle, got 0.7"),
        ({"elastic": 8.0}, "elastic_every: wanted more than 4 times elastic=8.0, or the picture folds over; got 32.0"),
        ({"mosaic": 0.5, "crop": None}, "mosaic: several images need samples of one size, a crop; got crop=None"),
        ({"paste": 0.5, "crop": None}, "paste: several images need samples of one size, a crop; got crop=None"),
    ],
)
def test_values_that_cannot_be_meant_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        spec(**changes)


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
