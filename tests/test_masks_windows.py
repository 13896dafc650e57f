"""Windows, crops, flips and the paste of box-frame probabilities, against dense masks."""

from __future__ import annotations

import math

import numpy as np
import pytest
from fixtures.dense import LAW, Masks, assert_lawful, assert_same, disks, stacks
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.interpolate import RegularGridInterpolator

from pipeline.masks.runs import empty, from_dense, to_dense
from pipeline.masks.text import transpose
from pipeline.masks.windows import Windows, crop, flip_x, flip_y, from_windows, paste, windows

EDGES = st.integers(-3, 10)


@LAW
@given(stacks())
def test_windows_hold_each_mask_cut_to_its_box(masks: Masks) -> None:
    found = windows(from_dense(masks))
    assert (len(found), found.size) == (len(masks), masks.shape[1:])
    assert found.data.dtype == np.uint8
    assert found.boxes.dtype == found.offset.dtype == np.int64
    for mask, (x0, y0, x1, y1), first in zip(masks, found.boxes, found.offset, strict=True):
        part = found.data[first : first + (x1 - x0) * (y1 - y0)].reshape(x1 - x0, y1 - y0).T
        np.testing.assert_array_equal(part, mask[y0:y1, x0:x1])
        assert part.sum() == mask.sum()
    assert found.data.sum() == masks.sum()


@LAW
@given(stacks())
def test_windows_lead_back_to_their_runs(masks: Masks) -> None:
    assert_same(from_windows(windows(from_dense(masks))), from_dense(masks))


@LAW
@given(stacks())
def test_windows_of_the_whole_canvas_lead_back_as_well(masks: Masks) -> None:
    count, height, width = masks.shape
    boxes = np.tile(np.array([0, 0, width, height]), (count, 1))
    data = masks.transpose(0, 2, 1).astype(np.uint8).ravel()
    whole = Windows((height, width), boxes, data, np.arange(count) * height * width)
    assert_same(from_windows(whole), from_dense(masks))


@LAW
@given(stacks(), EDGES, EDGES, st.integers(1, 9), st.integers(1, 9))
def test_a_crop_is_the_dense_crop_padded_with_background(
    masks: Masks, x0: int, y0: int, width: int, height: int
) -> None:
    found = crop(from_dense(masks), (x0, y0, x0 + width, y0 + height))
    margin = 20
    padded = np.pad(masks, ((0, 0), (margin, margin), (margin, margin)))
    wanted = padded[:, y0 + margin : y0 + height + margin, x0 + margin : x0 + width + margin]
    assert_same(found, from_dense(wanted))


@LAW
@given(stacks(), st.integers(0, 3), st.integers(0, 3))
def test_a_crop_can_lie_on_a_larger_canvas(masks: Masks, more_rows: int, more_columns: int) -> None:
    height, width = masks.shape[1:]
    found = crop(from_dense(masks), (0, 0, width, height), (height + more_rows, width + more_columns))
    assert_same(found, from_dense(np.pad(masks, ((0, 0), (0, more_rows), (0, more_columns)))))


@LAW
@given(stacks())
def test_flips_are_dense_flips_and_undo_themselves(masks: Masks) -> None:
    found = from_dense(masks)
    assert_same(flip_x(found), from_dense(masks[:, :, ::-1]))
    assert_same(flip_y(found), from_dense(masks[:, ::-1]))
    assert_same(flip_x(flip_x(found)), found)
    assert_same(flip_y(flip_y(found)), found)


def probability(mask: NDArray[np.float32], box: NDArray[np.float32], x: int, y: int) -> float:
    """One pixel's probability by hand: bilinear between the centres of the bins, beyond them by the last slope."""
    bins, (x0, y0, x1, y1) = len(mask), box.astype(float)
    if bins == 1:
        return float(mask[0, 0])
    across, down = (x + 0.5 - x0) / (x1 - x0) * bins - 0.5, (y + 0.5 - y0) / (y1 - y0) * bins - 0.5
    j, i = min(max(math.floor(across), 0), bins - 2), min(max(math.floor(down), 0), bins - 2)
    u, v = across - j, down - i
    k, h = min(j + 1, bins - 1), min(i + 1, bins - 1)
    upper = (1 - u) * float(mask[i, j]) + u * float(mask[i, k])
    lower = (1 - u) * float(mask[h, j]) + u * float(mask[h, k])
    return (1 - v) * upper + v * lower


@st.composite
def soft_masks(draw: st.DrawFn) -> tuple[NDArray[np.float32], NDArray[np.float32], tuple[int, int]]:
    """Probabilities, boxes that may lie partly or wholly outside, and a canvas."""
    size, bins = (draw(st.integers(1, 12)), draw(st.integers(1, 12))), draw(st.integers(1, 7))
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    count = draw(st.integers(0, 3))
    masks = generator.random((count, bins, bins), np.float32)
    corner = generator.uniform(-8, 14, (count, 2))
    box = np.concatenate([corner, corner + generator.uniform(0.3, 16, (count, 2))], 1).astype(np.float32)
    return masks, np.round(box) if draw(st.booleans()) else box, size


@LAW
@given(soft_masks(), st.sampled_from([0.5, 0.3]))
def test_pasted_masks_equal_an_evaluation_pixel_by_pixel(
    given_masks: tuple[NDArray[np.float32], NDArray[np.float32], tuple[int, int]], threshold: float
) -> None:
    masks, box, (height, width) = given_masks
    found = paste(masks, box, (height, width), threshold)
    assert_lawful(found)
    for mask, frame, got in zip(masks, box, to_dense(found), strict=True):
        if frame[0] == frame[2] or frame[1] == frame[3]:  # rounded to nothing
            assert not got.any()
            continue
        reach = [math.floor(frame[0]), math.floor(frame[1]), math.ceil(frame[2]), math.ceil(frame[3])]
        for y, x in np.ndindex(height, width):
            wanted = probability(mask, frame, x, y)
            if not (reach[0] <= x < reach[2] and reach[1] <= y < reach[3]):
                assert not got[y, x]
            elif abs(wanted - threshold) > 1e-4:  # nearer than that, single precision may fall either way
                assert got[y, x] == (wanted > threshold)


@LAW
@given(st.integers(0, 2**32 - 1), st.integers(1, 6))
def test_pasting_turns_with_the_image(seed: int, count: int) -> None:
    """The symmetries of the square: what is mirrored or transposed before comes out mirrored or transposed."""
    height, width = 40, 56
    rng = np.random.default_rng(seed)
    # Sixteenths of a pixel: mirrored boxes are then exact. Bins of a few values would meet the threshold exactly.
    low = rng.integers(-100, 700, (count, 2)) / 16
    box = np.concatenate([low, low + rng.integers(16, 500, (count, 2)) / 16], 1).astype(np.float32)
    masks = rng.random((count, 14, 14), np.float32)
    found = paste(masks, box, (height, width))
    x0, y0, x1, y1 = box.T
    turned = (
        (masks[:, :, ::-1], [width - x1, y0, width - x0, y1], flip_x(found)),
        (masks[:, ::-1], [x0, height - y1, x1, height - y0], flip_y(found)),
        (masks.transpose(0, 2, 1), [y0, x0, y1, x1], transpose(found)),
    )
    for picture, sides, wanted in turned:
        other = paste(np.ascontiguousarray(picture), np.stack(sides, 1).astype(np.float32), wanted.size)
        # A pixel whose probability is the threshold up to rounding may fall either way.
        assert (to_dense(other) != to_dense(wanted)).sum() <= 1


def spline(mask: NDArray[np.float32], place: list[NDArray[np.float64]]) -> NDArray[np.float64]:
    """SciPy's value of a picture between and beyond its bins, by rows and columns from the first bin's centre."""
    axes = [np.arange(side, dtype=float) for side in mask.shape]
    known = RegularGridInterpolator(axes, mask.astype(float), bounds_error=False, fill_value=None)
    return np.asarray(known(np.stack(place, -1)))


def test_a_pasted_mask_equals_the_bilinear_spline_of_scipy() -> None:
    mask = np.random.default_rng(6).random((1, 28, 28), np.float32)
    box = np.array([[-7.3, 12.6, 55.1, 91.9]], np.float32)
    x0, y0, x1, y1 = box[0].astype(float)
    y, x = np.mgrid[:80, :60] + 0.5
    place = [(y - y0) / (y1 - y0) * 28 - 0.5, (x - x0) / (x1 - x0) * 28 - 0.5]
    value = spline(mask[0], place)
    inside = (y > 12) & (y < 92) & (x < 56)
    got = to_dense(paste(mask, box, (80, 60)))[0]
    sure = np.abs(value - 0.5) > 1e-4
    np.testing.assert_array_equal(got[sure], (inside & (value > 0.5))[sure])


def test_bins_of_one_pixel_each_are_pasted_unchanged() -> None:
    masks = disks(6, (9, 9), seed=7)
    box = np.tile(np.float32([3, 2, 12, 11]), (6, 1))
    wanted = np.zeros((6, 14, 15), bool)
    wanted[:, 2:11, 3:12] = masks
    assert_same(paste(masks.astype(np.float32), box, (14, 15)), from_dense(wanted))


def test_a_paste_worked_by_hand() -> None:
    # Two bins over four pixels: centres at 1 and 3, so pixels 0.5 1.5 2.5 3.5 hold 0, 1/4, 3/4, 1 across.
    mask, box = np.float32([[[0, 1], [0, 1]]]), np.float32([[0, 0, 4, 1]])
    for threshold, row in ((0.5, [0, 0, 1, 1]), (0.2, [0, 1, 1, 1]), (0.8, [0, 0, 0, 1]), (0.0, [0, 1, 1, 1])):
        assert to_dense(paste(mask, box, (1, 4), threshold)).astype(int).tolist() == [[row]]


@pytest.mark.parametrize(
    "box", [[-9, 0, -1, 5], [0, -9, 5, -1], [20, 0, 25, 5], [0, 20, 5, 25], [3, 3, 3, 5], [5, 3, 3, 5], [2, 6, 4, 5]]
)
def test_a_box_outside_the_canvas_or_without_area_gives_an_empty_mask(box: list[float]) -> None:
    full = np.ones((2, 4, 4), np.float32)
    found = paste(full, np.float32([box, [1, 1, 3, 3]]), (10, 10))
    assert to_dense(found).sum((1, 2)).tolist() == [0, 4]


def test_nothing_to_paste_is_no_mask() -> None:
    none = paste(np.zeros((0, 28, 28), np.float32), np.zeros((0, 4), np.float32), (5, 6))
    assert_same(none, empty(0, (5, 6)))
    blank = paste(np.zeros((2, 28, 28), np.float32), np.float32([[0, 0, 5, 5]] * 2), (5, 6))
    assert_same(blank, empty(2, (5, 6)))


def test_a_full_mask_over_the_whole_canvas_is_one_run() -> None:
    found = paste(np.ones((1, 3, 3), np.float32), np.float32([[-2, -2, 40, 40]]), (7, 9))
    assert (found.start.tolist(), found.stop.tolist()) == ([0], [63])


def test_a_mask_larger_than_what_is_pasted_at_once_is_whole() -> None:
    y, x = np.mgrid[:28, :28]
    disk = ((y - 13.5) ** 2 + (x - 13.5) ** 2 < 169).astype(np.float32)
    box = np.float32([[3.2, 5.7, 1190.4, 1411.9], [40.5, 30.5, 52.5, 47.5], [700, 0, 704, 1500]])
    found = to_dense(paste(np.stack([disk] * 3), box, (1500, 1200)))
    y, x = np.mgrid[:1500, :1200] + 0.5
    for one, (x0, y0, x1, y1) in zip(found, box.astype(float), strict=True):
        place = [(y - y0) / (y1 - y0) * 28 - 0.5, (x - x0) / (x1 - x0) * 28 - 0.5]
        value = spline(disk, place)
        reach = (y > np.floor(y0)) & (y < np.ceil(y1)) & (x > np.floor(x0)) & (x < np.ceil(x1))
        sure = np.abs(value - 0.5) > 1e-3
        np.testing.assert_array_equal(one[sure], (reach & (value > 0.5))[sure])


def test_pasting_changes_neither_masks_nor_boxes() -> None:
    masks, box = np.ones((1, 3, 3), np.float32), np.float32([[0.4, 0.6, 4.2, 5.1]])
    masks.flags.writeable = box.flags.writeable = False
    paste(masks, box, (7, 9))
