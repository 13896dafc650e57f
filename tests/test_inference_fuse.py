from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import map_coordinates
from torchvision.ops import box_iou as reference_iou

from pipeline.inference.fuse import Fusion, box_iou, reframed
from pipeline.instances import Detections

SIZE = (60, 80)
MEAN = Fusion(iou=0.5)


def detections(count: int, seed: int = 0, spread: float = 60) -> Detections:
    """Random detections by falling score, many of them overlapping."""
    rng = np.random.default_rng(seed)
    low = rng.uniform(0, spread, (count, 2))
    boxes = np.concatenate([low, low + rng.uniform(4, 20, (count, 2))], 1).astype(np.float32)
    scores = -np.sort(-rng.uniform(0.05, 1, count)).astype(np.float32)
    labels, masks = rng.integers(1, 4, count), rng.random((count, 6, 6)).astype(np.float32)
    return Detections("a", SIZE, boxes, scores, labels, masks)


def of(*rows: tuple[list[float], float, int, float]) -> Detections:
    """Detections of (box, score, label, value of all bins)."""
    boxes = np.array([row[0] for row in rows], np.float32).reshape(-1, 4)
    scores, labels = np.array([row[1] for row in rows], np.float32), np.array([row[2] for row in rows], np.int64)
    masks = np.array([np.full((2, 2), row[3]) for row in rows], np.float32).reshape(-1, 2, 2)
    return Detections("a", SIZE, boxes, scores, labels, masks)


def assert_close(one: Detections, two: Detections, tolerance: float = 1e-6) -> None:
    assert (one.image_id, one.size, len(one)) == (two.image_id, two.size, len(two))
    np.testing.assert_array_equal(one.labels, two.labels)
    for column in ("boxes", "scores", "masks"):
        np.testing.assert_allclose(getattr(one, column), getattr(two, column), rtol=tolerance, atol=tolerance)


LAW = settings(max_examples=40, deadline=None)


@LAW
@given(st.integers(0, 25), st.integers(1, 5), st.integers(0, 999))
def test_copies_of_one_prediction_fuse_to_it(count: int, copies: int, seed: int) -> None:
    one = detections(count, seed)
    assert_close(MEAN.fuse([one] * copies), one)


@LAW
@given(st.permutations(range(4)), st.integers(0, 999))
def test_the_order_of_the_models_is_irrelevant(order: list[int], seed: int) -> None:
    models = [detections(12, seed * 4 + i) for i in range(4)]
    assert_close(MEAN.fuse([models[i] for i in order]), MEAN.fuse(models))


@LAW
@given(st.integers(1, 30), st.integers(0, 999), st.floats(0.1, 0.9))
def test_no_model_ever_merges_two_of_its_own(count: int, seed: int, iou: float) -> None:
    rng = np.random.default_rng(seed)
    one = detections(count, seed, spread=3)  # nearly all overlap
    other = Detections(
        "a", SIZE, one.boxes + rng.uniform(0, 1, 4).astype(np.float32), one.scores, one.labels, one.masks
    )
    fused = Fusion(iou).fuse([one, other])
    assert len(fused) >= count
    assert_close(Fusion(iou).fuse([one, Detections.empty("a", SIZE, 6)]).select(slice(None)), halved(one))


def halved(one: Detections) -> Detections:
    return Detections(one.image_id, one.size, one.boxes, one.scores / np.float32(2), one.labels, one.masks)


@LAW
@given(st.lists(st.integers(0, 15), min_size=1, max_size=4), st.integers(0, 999))
def test_scores_fall_and_their_sum_is_the_mean_of_the_models_sums(counts: list[int], seed: int) -> None:
    models = [detections(count, seed + i) for i, count in enumerate(counts)]
    fused = MEAN.fuse(models)
    assert (np.diff(fused.scores) <= 0).all()
    assert ((fused.masks >= 0) & (fused.masks <= 1)).all()
    assert max(counts) <= len(fused) <= sum(counts)
    total = sum(model.scores.sum() for model in models) / len(models)
    assert fused.scores.sum() == pytest.approx(total, rel=1e-5, abs=1e-6)


@LAW
@given(st.integers(1, 3), st.integers(0, 999), st.sampled_from(["mean", "best"]), st.booleans())
def test_a_model_of_twice_the_weight_is_a_model_twice(number: int, seed: int, method: Any, per_class: bool) -> None:
    fusion, models = Fusion(0.5, method, per_class), [detections(10, seed + i) for i in range(number)]
    heavy = fusion.fuse(models, [2.0, *[1.0] * (number - 1)])
    assert_close(heavy, fusion.fuse([models[0], *models]), 1e-5)


@LAW
@given(st.integers(0, 12), st.integers(0, 999))
def test_a_mask_in_another_frame_is_looked_up_bin_by_bin(count: int, seed: int) -> None:
    one, other = detections(count, seed), detections(count, seed + 1, spread=20)
    wanted = np.zeros((count, 6, 6))
    for n in range(count):
        (x0, y0, x1, y1), (u0, v0, u1, v1) = one.boxes[n].astype(float), other.boxes[n].astype(float)
        for i, j in np.ndindex(6, 6):
            x, y = u0 + (j + 0.5) / 6 * (u1 - u0), v0 + (i + 0.5) / 6 * (v1 - v0)
            if x0 <= x <= x1 and y0 <= y <= y1:
                column, row = np.clip(((x - x0) / (x1 - x0) * 6 - 0.5, (y - y0) / (y1 - y0) * 6 - 0.5), 0, 5)
                wanted[n, i, j] = map_coordinates(one.masks[n].astype(float), [[row], [column]], order=1)[0]
    np.testing.assert_allclose(reframed(one.masks, one.boxes, other.boxes), wanted, atol=2e-5)
    np.testing.assert_allclose(reframed(one.masks, one.boxes, one.boxes), one.masks, atol=2e-5)


def test_nothing_fuses_to_nothing() -> None:
    none = Detections.empty("a", SIZE, 6)
    assert_close(MEAN.fuse([none, none, none]), none)
    assert_close(MEAN.fuse([none]), none)


def test_two_models_by_hand() -> None:
    one = of(([0, 0, 10, 10], 0.9, 1, 1.0), ([30, 30, 40, 40], 0.8, 2, 0.5))
    two = of(([2, 0, 12, 10], 0.5, 1, 0.0), ([30, 30, 40, 40], 0.6, 1, 0.1))
    # The first pair overlaps by 80/120; its shares are .9 and .5 of 1.4, so its box begins at 2 · .5 / 1.4. The second
    # lies in one place but is of two classes.
    wanted = of(
        ([1 / 1.4, 0, 10 + 1 / 1.4, 10], 0.7, 1, 0.9 / 1.4),
        ([30, 30, 40, 40], 0.4, 2, 0.5), ([30, 30, 40, 40], 0.3, 1, 0.1),
    )  # fmt: skip
    assert_close(Fusion(0.6).fuse([one, two]), wanted)
    assert len(Fusion(0.7).fuse([one, two])) == 4
    first = of(([0, 0, 10, 10], 0.7, 1, 1.0), ([30, 30, 40, 40], 0.4, 2, 0.5), ([30, 30, 40, 40], 0.3, 1, 0.1))
    assert_close(Fusion(0.6, "best").fuse([one, two]), first)
    # In one place is one object: .8 for class 2, .6 for class 1.
    merged = Fusion(0.6, per_class=False).fuse([one, two]).select([0])
    assert_close(merged, of(([30, 30, 40, 40], 0.7, 2, (0.8 * 0.5 + 0.6 * 0.1) / 1.4)))
    # The second model counts three times as much as the first: (.9 + 3 · .5) / 4.
    heavy = Fusion(0.6).fuse([one, two], [1, 3])
    np.testing.assert_allclose(heavy.scores, [0.6, 0.45, 0.2])
    np.testing.assert_allclose(heavy.boxes[0], [3 / 2.4, 0, 10 + 3 / 2.4, 10])


def test_a_detection_joins_the_leader_that_it_overlaps_most() -> None:
    one = of(([0, 0, 10, 10], 0.9, 1, 1.0), ([4, 0, 14, 10], 0.8, 1, 1.0))
    two = of(([3, 0, 13, 10], 0.5, 1, 1.0))
    fused = MEAN.fuse([one, two])
    at = (4 * 0.8 + 3 * 0.5) / 1.3
    np.testing.assert_allclose(fused.boxes, [[at, 0, at + 10, 10], [0, 0, 10, 10]], rtol=1e-6)
    np.testing.assert_allclose(fused.scores, [0.65, 0.45])


def test_a_taken_leader_leaves_the_second_best_or_a_group_of_its_own() -> None:
    one = of(([0, 0, 10, 10], 0.9, 1, 1.0))
    two = of(([0, 0, 10, 10], 0.8, 1, 1.0), ([1, 0, 11, 10], 0.7, 1, 1.0))
    fused = MEAN.fuse([one, two])
    np.testing.assert_allclose(fused.scores, [0.85, 0.35])
    np.testing.assert_allclose(fused.boxes, [[0, 0, 10, 10], [1, 0, 11, 10]])


def test_overlaps_equal_those_of_torchvision() -> None:
    import torch

    one, two = detections(20, 1).boxes, detections(15, 2).boxes
    wanted = reference_iou(torch.from_numpy(one), torch.from_numpy(two)).numpy()
    np.testing.assert_allclose(box_iou(one, two), wanted, atol=1e-6)
    point = np.zeros((1, 4), np.float32)
    assert box_iou(point, point) == 0


def test_the_alignment_of_the_models_is_that_of_the_fused() -> None:
    models = [replace(detections(4, i), alignment="torchvision") for i in range(2)]
    assert MEAN.fuse(models).alignment == "torchvision"


def test_the_models_are_not_modified() -> None:
    models = [detections(9, i) for i in range(3)]
    before = [(m.boxes.copy(), m.scores.copy(), m.masks.copy()) for m in models]
    MEAN.fuse(models)
    for model, columns in zip(models, before, strict=True):
        for own, old in zip((model.boxes, model.scores, model.masks), columns, strict=True):
            np.testing.assert_array_equal(own, old)


@pytest.mark.parametrize(
    ("models", "message"),
    [
        ([], "no detections to fuse"),
        ([detections(2), Detections.empty("b", SIZE, 6)], "different images, mask sizes or alignments"),
        ([detections(2), Detections.empty("a", (1, 1), 6)], "different images, mask sizes or alignments"),
        ([detections(2), Detections.empty("a", SIZE, 8)], "different images, mask sizes or alignments"),
        ([detections(2), replace(detections(2), alignment="torchvision")], "mask sizes or alignments"),
    ],
)
def test_what_does_not_belong_together_is_refused(models: list[Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MEAN.fuse(models)


@pytest.mark.parametrize("weights", [[1.0], [1.0, 0.0], [1.0, -1.0], []])
def test_weights_that_are_not_one_for_each_model_are_refused(weights: list[float]) -> None:
    with pytest.raises(ValueError, match="weights: wanted a number above 0 for each of 2 models, got "):
        MEAN.fuse([detections(2), detections(3)], weights)


@pytest.mark.parametrize("iou", [0.0, -1.0, 1.5])
def test_an_iou_that_is_no_share_is_refused(iou: float) -> None:
    with pytest.raises(ValueError, match=f"iou: wanted a number above 0, at most 1, got {iou}"):
        Fusion(iou)
