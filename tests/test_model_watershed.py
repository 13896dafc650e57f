from __future__ import annotations

import numpy as np
import pytest
from fixtures.dense import LAW
from fixtures.detectors import ellipses
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage

from pipeline.inference.paste import paste
from pipeline.instances import Detections
from pipeline.masks.runs import from_dense, to_dense
from pipeline.masks.windows import windows
from pipeline.model.planes import between, depth, label_plane
from pipeline.model.watershed import detections, regions

NO_CLASSES = np.zeros((0, 0, 0), np.float32)


def found(labels: NDArray[np.int32], foreground: NDArray[np.float32], bins: int, **changes: object) -> Detections:
    settings = {"threshold": 0.5, "classes": NO_CLASSES, "image_id": "a", "mask_size": bins} | changes
    return detections(labels, foreground, **settings)  # type: ignore[arg-type]


def truth(count: int, seed: int, size: tuple[int, int] = (70, 90)) -> NDArray[np.int32]:
    """Ellipses as one label plane in which every label is one connected part of 12 pixels at least."""
    labels = label_plane(windows(from_dense(ellipses(size, count, seed))))
    result = np.zeros_like(labels)
    for number in range(1, count + 1):
        parts, most = ndimage.label(labels == number)
        if most:
            own = parts == np.bincount(parts.ravel())[1:].argmax() + 1
            result[own & (own.sum() >= 12)] = number
    return result


def iou(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    return float((one & other).sum() / max((one | other).sum(), 1))


# Regions -------------------------------------------------------------------------------------------------------------


@LAW
@given(st.integers(0, 12), st.integers(0, 10**6), st.floats(0, 0.99), st.integers(0, 30))
def test_regions_are_numbered_without_a_gap_and_fill_what_is_large_enough(
    count: int, seed: int, marker: float, min_area: int
) -> None:
    rng = np.random.default_rng(seed)
    inside = truth(count, seed) > 0
    height = ndimage.gaussian_filter(rng.random(inside.shape), 2).astype(np.float32)
    before = (inside.copy(), height.copy())
    labels = regions(inside, height, height > marker, min_area)
    assert labels.dtype == np.int32
    areas = np.bincount(labels.ravel())[1:]
    assert (areas >= max(min_area, 1)).all()
    assert not (labels[~inside] > 0).any()
    if min_area <= 1:
        assert (labels[inside] > 0).all()
    for number in range(1, int(labels.max(initial=0)) + 1):
        assert ndimage.label(labels == number)[1] == 1
    assert (inside == before[0]).all()
    assert (height == before[1]).all()


@LAW
@given(st.integers(0, 10), st.integers(0, 10**6))
def test_perfect_planes_give_the_instances_back(count: int, seed: int) -> None:
    """All of them, whether they touch or not; where they touch the line between them may be off by a pixel."""
    labels = truth(count, seed)
    height = depth(labels) * (1 - between(labels, 1))
    got = regions(labels > 0, height, height > 0.3, 1)
    numbers = [number for number in range(1, count + 1) if (labels == number).any()]
    best = [max((iou(labels == n, got == k) for k in range(1, got.max() + 1)), default=0.0) for n in numbers]
    # What a neighbour cut to a crescent may have two middles.
    assert sum(value > 0.7 for value in best) >= 0.8 * len(best) - 1


def test_two_touching_disks_become_two_and_one_disk_without_a_top_stays_one() -> None:
    y, x = np.mgrid[:24, :60]
    disks = [(y - 12) ** 2 + (x - cx) ** 2 <= 81 for cx in (12, 29, 50)]
    labels = label_plane(windows(from_dense(np.array(disks))))
    height = depth(labels) * (1 - between(labels, 1))
    height[:, 40:] *= 0.2  # of the third no pixel is above the marker
    got = regions(labels > 0, height, height > 0.5, 1)
    assert got.max() == 3
    for disk in disks:
        assert max(iou(disk, got == k) for k in (1, 2, 3)) > 0.95


# Detections ----------------------------------------------------------------------------------------------------------


@LAW
@given(st.integers(0, 8), st.integers(0, 10**6), st.sampled_from([14, 28, 56]), st.floats(0.2, 0.8))
def test_a_pasted_region_is_the_region_as_well_as_its_bins_allow(
    count: int, seed: int, bins: int, threshold: float
) -> None:
    labels = truth(count, seed)
    rng = np.random.default_rng(seed)
    soft = rng.random(labels.shape) * 0.9
    foreground = np.where(labels > 0, threshold + (1 - threshold) * (0.1 + soft), threshold * soft).astype(np.float32)
    numbers = [number for number in range(1, count + 1) if (labels == number).any()]
    plain = np.searchsorted(numbers, labels) + 1 if numbers else labels
    plain = np.where(labels > 0, plain, 0).astype(np.int32)
    got = found(plain, foreground, bins, threshold=threshold)
    assert len(got) == len(numbers)
    pasted = to_dense(paste(got, 0.5))
    for mask, box in zip(pasted, got.boxes, strict=True):
        overlap = [iou(mask, plain == k + 1) for k in range(len(numbers))]
        # A bin of more than a pixel is a mean; half-way between inside and outside of noise it is a coin's toss.
        ceiling = 0.85 if max(box[2] - box[0], box[3] - box[1]) <= bins / 2 else 0.6
        assert max(overlap) >= ceiling, (overlap, box)


@LAW
@given(st.integers(1, 8), st.integers(0, 10**6))
def test_a_sure_region_whose_bins_are_finer_than_pixels_is_pasted_as_it_is(count: int, seed: int) -> None:
    labels = truth(count, seed, (40, 40))
    for number in np.unique(labels[labels > 0]):
        own = labels == number
        got = found(own.astype(np.int32), own.astype(np.float32), 112)
        assert (to_dense(paste(got, 0.5))[0] == own).all()


@LAW
@given(st.integers(0, 10), st.integers(0, 10**6), st.floats(0, 1))
def test_scores_fall_and_none_is_below_the_floor(count: int, seed: int, floor: float) -> None:
    labels = truth(count, seed)
    labels = regions(labels > 0, np.zeros((70, 90), np.float32), labels > 0, 1)
    rng = np.random.default_rng(seed)
    foreground = rng.random(labels.shape).astype(np.float32)
    classes = rng.dirichlet([1, 1, 1], labels.shape).transpose(2, 0, 1).astype(np.float32)
    every = found(labels, foreground, 14, threshold=0.0, classes=classes)
    some = found(labels, foreground, 14, threshold=0.0, classes=classes, score_floor=floor)
    assert (np.diff(every.scores) <= 0).all()
    assert len(every) == labels.max()
    np.testing.assert_array_equal(some.scores, every.scores[every.scores >= np.float32(floor)])
    assert set(some.labels.tolist()) <= {1, 2, 3}


def test_a_score_is_the_mean_of_foreground_times_that_of_the_class() -> None:
    labels = np.array([[1, 1, 0, 2]], np.int32)
    foreground = np.array([[0.6, 1.0, 0.1, 0.9]], np.float32)
    alone = found(labels, foreground, 4)
    np.testing.assert_allclose(alone.scores, [0.9, 0.8], rtol=1e-6)
    assert alone.labels.tolist() == [1, 1]
    assert alone.boxes.tolist() == [[3, 0, 4, 1], [0, 0, 2, 1]]
    classes = np.array([[[0.5, 0.9, 0, 0.2]], [[0.5, 0.1, 1, 0.8]]], np.float32)
    height = np.array([[0.4, 0.1, 1, 0.36]], np.float32)
    np.testing.assert_allclose(found(labels, foreground, 4, height=height).scores, [0.324**0.5, 0.32**0.5], rtol=1e-6)
    both = found(labels, foreground, 4, classes=classes)
    np.testing.assert_allclose(both.scores, [0.9 * 0.8, 0.8 * 0.7], rtol=1e-6)
    assert both.labels.tolist() == [2, 1]


def test_a_mask_is_no_other_region_and_grows_into_doubtful_background() -> None:
    labels = np.zeros((20, 30), np.int32)
    labels[4:16, 4:15], labels[4:16, 15:26] = 1, 2
    labels[4:8, 11:15] = 0
    foreground = np.where(labels > 0, 0.9, 0.4).astype(np.float32)
    got = found(labels, foreground, 56)
    at_half, lower = (to_dense(paste(got, threshold)) for threshold in (0.5, 0.35))
    by_area = np.argsort(at_half.sum((1, 2)))
    assert (at_half[by_area[0]] == (labels == 1)).all()
    assert (at_half[by_area[1]] == (labels == 2)).all()
    assert lower[by_area[0]].sum() > at_half[by_area[0]].sum()
    assert not (lower[by_area[0]] & (labels == 2)).any()


@pytest.mark.parametrize("size", [(1, 1), (5, 3)])
def test_nothing_is_no_detection(size: tuple[int, int]) -> None:
    nothing = np.zeros(size, np.float32)
    labels = regions(nothing > 0.5, nothing, nothing > 0.5, 10)
    got = found(labels, nothing, 28)
    assert (len(got), got.masks.shape, got.size) == (0, (0, 28, 28), size)
