from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from fixtures.contests import facts
from fixtures.soft import RULES, SIZE, changed, dense, full, random
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import binary_fill_holes
from skimage.measure import label

from pipeline.competition import Overlap
from pipeline.inference.postprocess import Rules, decide
from pipeline.instances import Detections
from pipeline.masks.runs import area, to_dense
from pipeline.masks.windows import paste

LAW = settings(max_examples=40, deadline=None)


# Laws ---------------------------------------------------------------------------------------------------------------


@LAW
@given(st.integers(0, 30), st.integers(0, 999), st.floats(0, 1), st.integers(0, 40))
def test_forbidden_overlaps_are_gone_and_no_rule_is_broken(count: int, seed: int, share: float, least: int) -> None:
    rules = Rules(score=0.3, mask=0.4, min_area=least, min_share=share)
    found = decide(random(count, seed), rules, "forbidden")
    masks = dense(found)
    assert masks.sum(0).max(initial=0) <= 1
    assert (masks.sum((1, 2)) >= max(least, 1)).all()
    assert (np.diff(found.scores) <= 0).all()
    assert (found.scores >= 0.3).all()
    assert (found.image_id, found.size) == ("a", SIZE)


@LAW
@given(st.integers(0, 30), st.integers(0, 999))
def test_without_overlap_rules_the_masks_are_the_pasted_ones(count: int, seed: int) -> None:
    detections = random(count, seed)
    found = decide(detections, RULES, "allowed")
    order = np.argsort(-detections.scores, kind="stable")
    pasted = to_dense(paste(detections.masks, detections.boxes, SIZE, 0.5))[order]
    visible = pasted.any((1, 2))
    np.testing.assert_array_equal(dense(found), pasted[visible])
    np.testing.assert_array_equal(found.scores, detections.scores[order][visible])
    np.testing.assert_array_equal(found.labels, detections.labels[order][visible])


@LAW
@given(st.integers(0, 30), st.integers(0, 999))
def test_a_disputed_pixel_belongs_to_the_highest_score(count: int, seed: int) -> None:
    """Against one dense canvas, painted from the weakest to the strongest."""
    detections = random(count, seed)
    found = decide(detections, RULES, "forbidden")
    order = np.argsort(-detections.scores, kind="stable")
    canvas = np.full(SIZE, -1)
    for i in order[::-1]:
        canvas[to_dense(paste(detections.masks[i : i + 1], detections.boxes[i : i + 1], SIZE, 0.5))[0]] = i
    wanted = [canvas == i for i in order if (canvas == i).any()]
    np.testing.assert_array_equal(dense(found), np.array(wanted, bool).reshape(-1, *SIZE))


@LAW
@given(st.integers(0, 25), st.integers(0, 999), st.floats(0.05, 1))
def test_an_instance_keeps_its_share_next_to_those_that_stay(count: int, seed: int, share: float) -> None:
    """One after the other by falling score on a dense canvas: what is dropped takes no pixel."""
    detections = random(count, seed)
    found = decide(detections, changed(min_share=share), "forbidden")
    taken, wanted = np.zeros(SIZE, bool), []
    order = np.argsort(-detections.scores, kind="stable")
    for mask in to_dense(paste(detections.masks[order], detections.boxes[order], SIZE, 0.5)):
        free = mask & ~taken
        if free.sum() >= share * mask.sum():
            taken |= mask
            wanted += [free] if free.any() else []
    np.testing.assert_array_equal(dense(found), np.array(wanted, bool).reshape(-1, *SIZE))


@LAW
@given(st.integers(1, 20), st.integers(0, 999))
def test_the_order_of_the_detections_is_irrelevant(count: int, seed: int) -> None:
    detections = random(count, seed)
    scores = np.linspace(0.2, 0.9, count, dtype=np.float32)  # no ties
    detections = dataclasses.replace(detections, scores=scores)
    mixed = detections.select(np.random.default_rng(seed).permutation(count))
    rules = Rules(score=0.3, mask=0.5, min_area=3, min_share=0.4)
    one, two = (decide(d, rules, "forbidden") for d in (detections, mixed))
    assert one.masks == two.masks
    np.testing.assert_array_equal(one.scores, two.scores)


def test_deciding_twice_gives_the_same_and_modifies_nothing() -> None:
    detections = random(20, 1)
    before = [column.copy() for column in (detections.boxes, detections.scores, detections.masks)]
    rules = Rules(score=0.2, mask=0.5, min_area=3, min_share=0.5)
    assert decide(detections, rules, "forbidden").masks == decide(detections, rules, "forbidden").masks
    for old, new in zip(before, (detections.boxes, detections.scores, detections.masks), strict=True):
        np.testing.assert_array_equal(old, new)


@LAW
@given(st.integers(0, 12), st.integers(0, 2**32 - 1), st.sampled_from(["score", "small_first", "large_first"]))
def test_overlaps_within_a_class_are_removed_as_if_it_were_alone(count: int, seed: int, order: str) -> None:
    detections, rules = random(count, seed), changed(order=order, min_share=0.4, min_area=2)
    found = decide(detections, rules, "within_class")
    assert np.all(np.diff(found.scores) <= 0)
    for own in np.unique(detections.labels):
        alone = decide(detections.select(detections.labels == own), rules, "forbidden")
        mine = found.select(found.labels == own)
        assert mine.masks == alone.masks
        np.testing.assert_array_equal(mine.scores, alone.scores)


# By hand ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("overlap", ["forbidden", "within_class", "allowed"])
def test_no_detection_gives_no_instance(overlap: Overlap) -> None:
    unsure = random(5, 0)
    for detections in (Detections.empty("a", SIZE, 28), unsure.select(unsure.scores < 1)):
        found = decide(detections, changed(score=1.0, min_share=0.5), overlap)
        assert (len(found), found.masks, found.size) == (0, (), SIZE)


def test_the_score_threshold_holds_what_equals_it() -> None:
    found = decide(
        full(([0, 0, 5, 5], 0.5), ([10, 0, 15, 5], 0.25), ([20, 0, 25, 5], 0.75)), changed(score=0.5), "allowed"
    )
    assert found.labels.tolist() == [3, 1]


def test_areas_are_counted_after_overlaps_are_removed() -> None:
    pair = full(([0, 0, 6, 5], 0.9), ([4, 0, 9, 5], 0.8))
    assert dense(decide(pair, RULES, "forbidden")).sum((1, 2)).tolist() == [30, 15]
    assert decide(pair, changed(min_area=16), "forbidden").labels.tolist() == [1]
    assert decide(pair, changed(min_area=15), "forbidden").labels.tolist() == [1, 2]
    assert decide(pair, changed(min_area=16), "allowed").labels.tolist() == [1, 2]


def test_the_share_kept_decides_and_allowed_overlaps_do_not_count() -> None:
    pair = full(([0, 0, 6, 5], 0.9), ([4, 0, 9, 5], 0.8))  # the second keeps 15 of 25
    assert decide(pair, changed(min_share=0.6), "forbidden").labels.tolist() == [1, 2]
    assert decide(pair, changed(min_share=0.61), "forbidden").labels.tolist() == [1]
    assert decide(pair, changed(min_share=1.0), "allowed").labels.tolist() == [1, 2]


def test_an_instance_lost_to_one_that_is_dropped_itself_stays() -> None:
    """The second repeats the first and is dropped; the third touches only the second."""
    three = full(([0, 0, 10, 5], 0.9), ([2, 0, 14, 5], 0.8), ([11, 0, 16, 5], 0.7))
    found = decide(three, changed(min_share=0.6), "forbidden")
    assert found.labels.tolist() == [1, 3]
    assert dense(found).sum((1, 2)).tolist() == [50, 25]


def test_the_mask_threshold_is_on_the_probability() -> None:
    detections = full(([0, 0, 8, 8], 0.9))
    half = dataclasses.replace(detections, masks=np.full((1, 4, 4), 0.5, np.float32))
    assert len(decide(half, changed(mask=0.5), "allowed")) == 0
    assert dense(decide(half, changed(mask=0.49), "allowed")).sum() == 64


def test_instances_without_a_pixel_are_dropped() -> None:
    outside, inside, empty = ([60, 60, 70, 70], 0.9), ([0, 0, 5, 5], 0.8), ([9, 9, 9, 14], 0.7)
    for overlap in ("forbidden", "allowed"):
        assert decide(full(outside, inside, empty), RULES, overlap).labels.tolist() == [2]


# Shape, NMS and order -----------------------------------------------------------------------------------------------


@LAW
@given(st.integers(0, 30), st.integers(0, 999), st.sampled_from(["score", "small_first", "large_first"]))
def test_a_disputed_pixel_belongs_to_the_first_in_order_that_stays(count: int, seed: int, order: str) -> None:
    """One after the other on a dense canvas; what is dropped takes no pixel, and the result comes by falling score."""
    detections = random(count, seed)
    found = decide(detections, changed(order=order, min_share=0.5), "forbidden")
    by_score = np.argsort(-detections.scores, kind="stable")
    pasted = to_dense(paste(detections.masks, detections.boxes, SIZE, 0.5))[by_score]
    sign = {"score": 0, "small_first": 1, "large_first": -1}[order]
    taken, kept = np.zeros(SIZE, bool), {}
    for i in sorted(range(count), key=lambda i: (sign * pasted[i].sum(), i)):
        free = pasted[i] & ~taken
        if free.sum() >= 0.5 * pasted[i].sum():
            taken |= pasted[i]
            kept |= {i: free} if free.any() else {}
    np.testing.assert_array_equal(dense(found), np.array([kept[i] for i in sorted(kept)], bool).reshape(-1, *SIZE))
    np.testing.assert_array_equal(found.scores, detections.scores[by_score][sorted(kept)])
    np.testing.assert_array_equal(found.labels, detections.labels[by_score][sorted(kept)])


@LAW
@given(
    st.integers(0, 30),
    st.integers(0, 999),
    st.sampled_from([None, 0.1, 0.4]),
    st.sampled_from(["score", "small_first", "large_first"]),
    st.sampled_from(["forbidden", "allowed"]),
)
def test_all_rules_at_once_leave_lawful_instances(
    count: int, seed: int, iou: float | None, order: str, overlap: str
) -> None:
    rules = changed(score=0.2, min_area=4, min_share=0.3, order=order, holes="fill", parts="largest", nms=iou)
    found = decide(random(count, seed), rules, overlap)
    masks = dense(found)
    assert (masks.sum((1, 2)) >= 4).all()
    assert (np.diff(found.scores) <= 0).all()
    assert all(label(mask, connectivity=2).max() == 1 for mask in masks)
    if overlap == "forbidden":
        assert masks.sum(0).max(initial=0) <= 1
    else:
        assert all((binary_fill_holes(mask) == mask).all() for mask in masks)


@LAW
@given(st.integers(0, 30), st.integers(0, 999), st.floats(0.1, 1), st.integers(0, 40), st.booleans())
def test_by_score_a_stricter_score_or_area_gives_some_of_the_same_instances_unchanged(
    count: int, seed: int, score: float, least: int, tidy: bool
) -> None:
    rules = changed(min_share=0.6, **({"holes": "fill", "parts": "largest", "nms": 0.3} if tidy else {}))
    detections = random(count, seed)
    everything = decide(detections, rules, "forbidden")
    kept = (everything.scores >= score) & (area(everything.runs) >= least)
    found = decide(detections, dataclasses.replace(rules, score=score, min_area=least), "forbidden")
    assert found.masks == everything.select(kept).masks
    np.testing.assert_array_equal(found.scores, everything.scores[kept])


def test_who_comes_first_gets_the_shared_pixels() -> None:
    pair = full(([0, 0, 10, 5], 0.9), ([8, 0, 12, 5], 0.8))  # 50 and 20 pixels, 10 of them shared
    areas = {
        order: dense(decide(pair, changed(order=order), "forbidden")).sum((1, 2)).tolist()
        for order in ("score", "small_first", "large_first")
    }
    assert areas == {"score": [50, 10], "small_first": [40, 20], "large_first": [50, 10]}
    reversed_pair = full(([0, 0, 10, 5], 0.8), ([8, 0, 12, 5], 0.9))
    assert dense(decide(reversed_pair, changed(order="large_first"), "forbidden")).sum((1, 2)).tolist() == [10, 50]


def test_of_equal_areas_the_higher_score_comes_first() -> None:
    pair = full(([0, 0, 6, 5], 0.8), ([4, 0, 10, 5], 0.9))
    for order in ("small_first", "large_first"):
        found = decide(pair, changed(order=order), "forbidden")
        assert (found.labels.tolist(), dense(found).sum((1, 2)).tolist()) == ([2, 1], [30, 20])


def test_of_two_masks_alike_the_weaker_goes_whatever_its_class() -> None:
    pair = full(([0, 0, 10, 5], 0.9), ([0, 0, 8, 5], 0.8))  # IoU 0.8
    assert decide(pair, changed(nms=0.79), "allowed").labels.tolist() == [1]
    assert decide(pair, changed(nms=0.8), "allowed").labels.tolist() == [1, 2]
    assert decide(pair, changed(nms=0.8), "forbidden").labels.tolist() == [1]


def ring(*extra: tuple[int, int]) -> Detections:
    """One detection of 5×5 pixels with a hole of 3×3, one bin to a pixel; `extra`: (row, column) set as well."""
    mask = np.ones((1, 5, 5), np.float32)
    mask[0, 1:4, 1:4] = 0
    for place in extra:
        mask[(0, *place)] = 1
    one = full(([10, 10, 15, 15], 0.9))
    return dataclasses.replace(one, masks=mask)


def test_holes_are_kept_or_filled_and_parts_too() -> None:
    assert dense(decide(ring(), RULES, "allowed")).sum() == 16
    assert dense(decide(ring(), changed(holes="fill"), "allowed")).sum() == 25
    island = ring((2, 2))
    assert dense(decide(island, RULES, "allowed")).sum() == 17
    assert dense(decide(island, changed(parts="largest"), "allowed")).sum() == 16
    # Holes first: the island is a part of what is filled.
    assert dense(decide(island, changed(parts="largest", holes="fill"), "allowed")).sum() == 25


def test_a_mask_that_another_cuts_in_two_keeps_the_larger_half_and_the_rest_goes_to_no_one() -> None:
    bar = full(([0, 4, 20, 8], 0.8), ([12, 0, 15, 12], 0.9))
    found = decide(bar, changed(parts="largest"), "forbidden")
    assert (found.labels.tolist(), dense(found).sum((1, 2)).tolist()) == ([2, 1], [36, 48])
    assert dense(decide(bar, RULES, "forbidden")).sum((1, 2)).tolist() == [36, 68]
    # The least area counts what is left in the end.
    assert decide(bar, changed(parts="largest", min_area=49), "forbidden").labels.tolist() == []


def test_a_hole_that_another_instance_made_stays() -> None:
    nested = full(([0, 0, 12, 12], 0.8), ([4, 4, 8, 8], 0.9))
    found = decide(nested, changed(holes="fill"), "forbidden")
    assert dense(found).sum((1, 2)).tolist() == [16, 128]


def test_the_rules_that_came_later_change_nothing_unless_asked_for() -> None:
    plain = Rules(score=0.3, mask=0.5, min_area=3, min_share=0.4)
    assert (plain.order, plain.holes, plain.parts, plain.nms) == ("score", "keep", "all", None)


# Wrong and missing numbers -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value", "wanted"),
    [
        ("score", 1.2, "a number from 0 to 1"),
        ("mask", -0.1, "a number from 0 to 1"),
        ("min_share", float("nan"), "a number from 0 to 1"),
        ("nms", 3.0, "a number from 0 to 1"),
        ("min_area", -1, "0 pixels or more"),
    ],
)
def test_a_number_out_of_its_range_is_refused_by_its_name(name: str, value: float, wanted: str) -> None:
    with pytest.raises(ValueError, match=f"^{name}: wanted {wanted}, got {value}$"):
        changed(**{name: value})


def test_the_metric_gives_the_score_threshold_that_is_not_set() -> None:
    assert changed(score=None).settled(facts("sartorius")).score == 0.5
    assert changed(score=None).settled(facts("hubmap2023")).score == 0.0
    assert changed(score=0.3).settled(facts("hubmap2023")).score == 0.3
    with pytest.raises(ValueError, match="score: wanted a number from 0 to 1, got null"):
        decide(random(3, 0), changed(score=None), "allowed")
