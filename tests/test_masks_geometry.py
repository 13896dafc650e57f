"""Geometry of masks: intersections, IoU, NMS and overlaps against dense masks and pycocotools."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest
from fixtures.dense import LAW, Masks, assert_same, disks, pairs, stacks
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from pipeline.masks.geometry import intersections, iou, nms, remove_overlaps, share_out, shared_pixels
from pipeline.masks.runs import area, empty, from_dense, to_coco, to_dense
from pipeline.masks.text import transpose
from pipeline.masks.windows import flip_x, flip_y


def shared(a: Masks, b: Masks) -> NDArray[np.int64]:
    """Common pixels of every pair, one pair after the other."""
    return np.array([[np.count_nonzero(one & other) for other in b] for one in a], np.int64).reshape(len(a), len(b))


def boxes(*corners: tuple[int, int, int, int], size: tuple[int, int] = (6, 8)) -> Masks:
    masks = np.zeros((len(corners), *size), bool)
    for mask, (x0, y0, x1, y1) in zip(masks, corners, strict=True):
        mask[y0:y1, x0:x1] = True
    return masks


def test_iou_of_boxes_worked_by_hand() -> None:
    a, b = boxes((0, 0, 4, 3), (5, 5, 8, 6)), boxes((2, 1, 6, 3), (0, 0, 4, 3), (6, 0, 8, 2))
    # 12 pixels and 8, of which 2 × 2 are shared: 4 of 16.
    assert intersections(from_dense(a), from_dense(b)).tolist() == [[4, 12, 0], [0, 0, 0]]
    assert iou(from_dense(a), from_dense(b)).tolist() == [[0.25, 1.0, 0.0], [0.0, 0.0, 0.0]]


@LAW
@given(pairs())
def test_intersections_and_iou_equal_those_of_dense_masks(two: tuple[Masks, Masks]) -> None:
    a, b = two
    common = shared(a, b)
    union = a.sum((1, 2))[:, None] + b.sum((1, 2))[None, :] - common
    found = intersections(from_dense(a), from_dense(b))
    assert found.dtype == np.int64
    np.testing.assert_array_equal(found, common)
    ratio = iou(from_dense(a), from_dense(b))
    assert ratio.dtype == np.float64
    np.testing.assert_array_equal(ratio, np.divide(common, union, out=np.zeros(common.shape), where=union > 0))


@LAW
@given(pairs())
def test_intersections_are_symmetric_and_those_with_oneself_are_areas(two: tuple[Masks, Masks]) -> None:
    a, b = (from_dense(masks) for masks in two)
    np.testing.assert_array_equal(intersections(a, b), intersections(b, a).T)
    np.testing.assert_array_equal(np.diagonal(intersections(a, a)), area(a))


@LAW
@given(pairs())
def test_iou_is_the_same_in_all_eight_views_of_the_canvas(two: tuple[Masks, Masks]) -> None:
    a, b = (from_dense(masks) for masks in two)
    wanted = iou(a, b)
    turns: list[Callable] = [flip_x, flip_y, transpose]
    for first in turns:
        for second in turns:
            np.testing.assert_array_equal(iou(first(a), first(b)), wanted)
            np.testing.assert_array_equal(iou(second(first(a)), second(first(b))), wanted)


def test_iou_of_hundreds_of_masks_equals_that_of_pycocotools() -> None:
    size = (120, 90)
    a, b = from_dense(disks(300, size, seed=4, radius=9)), from_dense(disks(280, size, seed=5, radius=9))
    rles = [[{"size": list(size), "counts": text} for text in to_coco(one)] for one in (a, b)]
    np.testing.assert_allclose(iou(a, b), coco_mask.iou(*rles, [0] * len(b)), rtol=0, atol=1e-12)


def test_masks_of_two_canvases_are_refused() -> None:
    with pytest.raises(ValueError, match=r"canvases of two sizes: \(3, 4\) and \(4, 3\)"):
        intersections(empty(1, (3, 4)), empty(1, (4, 3)))


def first_come(masks: Masks, priority: list[float]) -> Masks:
    """Overlaps removed with a map of used pixels, the strongest mask first."""
    used, result = np.zeros(masks.shape[1:], bool), np.zeros_like(masks)
    for i in sorted(range(len(masks)), key=lambda i: (-priority[i], i)):
        result[i] = masks[i] & ~used
        used |= masks[i]
    return result


@LAW
@given(stacks(max_count=6), st.data())
def test_removed_overlaps_equal_the_loop_over_used_pixels(masks: Masks, data: st.DataObject) -> None:
    priority = data.draw(st.lists(st.integers(0, 3), min_size=len(masks), max_size=len(masks)))
    wanted = from_dense(first_come(masks, [float(one) for one in priority]))
    for kind in (np.int64, np.float32, np.uint8):
        assert_same(remove_overlaps(from_dense(masks), np.array(priority, kind)), wanted)


@LAW
@given(stacks(max_count=6))
def test_removing_overlaps_keeps_the_union_and_is_done_once(masks: Masks) -> None:
    apart = remove_overlaps(from_dense(masks), np.zeros(len(masks)))
    assert (shared(to_dense(apart), to_dense(apart)) * (1 - np.eye(len(masks), dtype=int)) == 0).all()
    assert int(area(apart).sum()) == int(np.count_nonzero(masks.any(0)))
    assert_same(remove_overlaps(apart, np.arange(len(masks))), apart)


def test_the_stronger_mask_keeps_the_shared_pixels_and_of_equals_the_first() -> None:
    masks = boxes((0, 0, 4, 2), (2, 0, 6, 2), (5, 0, 8, 2))
    found = remove_overlaps(from_dense(masks), [0.5, 0.9, 0.9])
    assert area(found).tolist() == [4, 8, 4]
    assert remove_overlaps(from_dense(masks), [1, 1, 1]).count == 3
    assert area(remove_overlaps(from_dense(masks), [1, 1, 1])).tolist() == [8, 4, 4]


@pytest.mark.parametrize("priority", [[], [1], [1, 2, 3], [[1, 2]], 1.0])
def test_another_number_of_priorities_than_masks_is_refused(priority: object) -> None:
    with pytest.raises(ValueError, match="priority: wanted one number for each of 2 masks, got shape"):
        remove_overlaps(empty(2, (3, 3)), priority)  # type: ignore[arg-type]


def strongest_first(scores: list[float]) -> list[int]:
    return sorted(range(len(scores)), key=lambda i: (-scores[i], i))


@LAW
@given(pairs())
def test_shared_pixels_are_the_intersections_that_are_not_empty(two: tuple[Masks, Masks]) -> None:
    common = shared(*two)
    i, j, number = shared_pixels(*(from_dense(masks) for masks in two))
    assert [column.dtype for column in (i, j, number)] == [np.int64] * 3
    np.testing.assert_array_equal(np.stack([i, j], 1), np.argwhere(common))
    np.testing.assert_array_equal(number, common[common > 0])


@LAW
@given(stacks(max_count=6), st.sampled_from([0.0, 0.1, 0.3, 0.5, 0.6, 1.0]), st.booleans(), st.data())
def test_nms_equals_the_loop_over_masks_with_exact_fractions(
    masks: Masks, threshold: float, by_label: bool, data: st.DataObject
) -> None:
    column = st.lists(st.integers(0, 3), min_size=len(masks), max_size=len(masks))
    scores, labels = data.draw(column), data.draw(column)
    kept: list[int] = []
    for i in strongest_first([float(score) for score in scores]):
        rivals = [j for j in kept if not by_label or labels[i] == labels[j]]
        unions = [int((masks[i] | masks[j]).sum()) for j in rivals]
        commons = [int((masks[i] & masks[j]).sum()) for j in rivals]
        limit = Fraction(str(threshold))
        if not any(union and Fraction(common, union) > limit for common, union in zip(commons, unions, strict=True)):
            kept.append(i)
    found = nms(from_dense(masks), scores, threshold, labels if by_label else None)
    assert found.tolist() == sorted(kept)


def test_an_iou_exactly_at_the_threshold_drops_no_mask() -> None:
    # 3 of 5, 6 of 10, … pixels: 0.6 × 5 and the like are not always what they should be in floating point.
    for hundredths in range(1, 100):
        masks = np.zeros((2, 1, 100), bool)
        masks[0], masks[1, :, :hundredths] = True, True
        runs = from_dense(masks)
        assert nms(runs, [2, 1], hundredths / 100).tolist() == [0, 1]
        assert nms(runs, [2, 1], (hundredths - 1) / 100).tolist() == [0]


def test_a_mask_that_was_dropped_drops_no_other() -> None:
    chain = from_dense(boxes((0, 0, 4, 3), (1, 0, 5, 3), (2, 0, 6, 3)))  # neighbours at 9/15, the ends at 6/18
    assert nms(chain, [3, 2, 1], 0.5).tolist() == [0, 2]
    assert nms(chain, [1, 3, 2], 0.5).tolist() == [1]
    assert nms(chain, [3, 2, 1], 0.6).tolist() == [0, 1, 2]
    assert nms(chain, [3, 2, 1], 0.5, [1, 2, 1]).tolist() == [0, 1, 2]


def test_nms_of_no_mask_and_of_empty_masks_drops_none() -> None:
    assert nms(empty(0, (3, 3)), [], 0.5).tolist() == []
    assert nms(empty(2, (3, 3)), [1, 1], 0.0).tolist() == [0, 1]


@pytest.mark.parametrize(("scores", "labels", "name"), [([1], None, "scores"), ([1, 2], [1, 2, 3], "labels")])
def test_nms_refuses_another_number_of_scores_or_labels_than_masks(scores: object, labels: object, name: str) -> None:
    with pytest.raises(ValueError, match=f"{name}: wanted one number for each of 2 masks, got shape"):
        nms(empty(2, (3, 3)), scores, 0.5, labels)  # type: ignore[arg-type]


@LAW
@given(stacks(max_count=7), st.sampled_from([0.0, 0.25, 0.5, 0.6, 0.9, 1.0]))
def test_shared_out_masks_equal_the_loop_in_which_what_is_dropped_takes_nothing(masks: Masks, share: float) -> None:
    used, kept, wanted = np.zeros(masks.shape[1:], bool), [], []
    for i, mask in enumerate(masks):
        free = mask & ~used
        if free.sum() >= share * mask.sum():
            used |= mask
            kept.append(i)
            wanted.append(free)
    found, runs = share_out(from_dense(masks), share)
    assert found.tolist() == kept
    assert_same(runs, from_dense(np.array(wanted, bool).reshape(-1, *masks.shape[1:])))


def test_a_long_chain_is_shared_out_as_one_after_the_other() -> None:
    """Every second mask loses half to the one before it and is dropped, which frees the next."""
    chain = np.zeros((300, 1, 610), bool)
    for i, mask in enumerate(chain):
        mask[:, 2 * i : 2 * i + 4] = True
    kept, runs = share_out(from_dense(chain), 0.6)
    assert kept.tolist() == list(range(0, 300, 2))
    assert (area(runs) == 4).all()


def test_hundreds_of_masks_are_shared_out_as_with_a_map_of_used_pixels() -> None:
    masks = disks(600, (150, 130), seed=6, radius=8)
    assert_same(share_out(from_dense(masks), 0.0)[1], from_dense(first_come(masks, [0.0] * len(masks))))
