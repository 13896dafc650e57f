from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from fixtures.dense import disks
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.interpolate import RegularGridInterpolator
from torchvision.ops import box_iou as reference_iou

from pipeline.inference.fuse import Fusion, reframed
from pipeline.inference.overlap import box_pairs, mask_pairs
from pipeline.inference.paste import paste
from pipeline.instances import Detections
from pipeline.masks import geometry
from pipeline.masks.runs import from_dense, to_dense
from pipeline.masks.windows import windows
from pipeline.model.targets import mask_targets

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
WAYS = [
    Fusion(0.5, method, per_class, overlap, agreement)
    for method in ("mean", "best", "union")
    for per_class in (True, False)
    for overlap in ("boxes", "masks")
    for agreement in (True, False)
]
any_way = st.sampled_from(WAYS)


@LAW
@given(any_way, st.integers(0, 25), st.integers(1, 5), st.integers(0, 999))
def test_copies_of_one_prediction_fuse_to_it(fusion: Fusion, count: int, copies: int, seed: int) -> None:
    one = detections(count, seed)
    assert_close(fusion.fuse([one] * copies), one)


@LAW
@given(any_way, st.permutations(range(4)), st.integers(0, 999))
def test_the_order_of_the_models_is_irrelevant(fusion: Fusion, order: list[int], seed: int) -> None:
    models = [detections(12, seed * 4 + i) for i in range(4)]
    assert_close(fusion.fuse([models[i] for i in order]), fusion.fuse(models))


@LAW
@given(any_way, st.lists(st.integers(0, 12), min_size=1, max_size=3), st.integers(0, 999), st.booleans())
def test_groups_are_those_of_all_pairs_looked_at_one_by_one(
    fusion: Fusion, counts: list[int], seed: int, crowded: bool
) -> None:
    """The scores of "best" without agreement name the leaders; all groups are compared by their members' shares."""
    models = [detections(count, seed + i, 20 if crowded else 60) for i, count in enumerate(counts)]
    plain = replace(fusion, method="best", agreement=True)
    scores = plain.fuse(models).scores if len(models) > 1 else models[0].scores
    np.testing.assert_allclose(scores, grouped(models, fusion), rtol=1e-5)


def grouped(models: list[Detections], fusion: Fusion) -> list[float]:
    """Written apart, with the overlap of all pairs: the scores of the groups, falling."""
    rows = [(one.select([k]), m) for m, one in enumerate(models) for k in range(len(one))]
    rows.sort(key=lambda row: (-row[0].scores[0], *row[0].boxes[0]))
    groups: list[list[tuple[Detections, int]]] = []
    for one, m in rows:
        free = [
            (overlapped(group[0][0], one, fusion.overlap), -g)
            for g, group in enumerate(groups)
            if all(other != m for _, other in group)
            and (not fusion.per_class or group[0][0].labels[0] == one.labels[0])
        ]
        best = max(free, default=(0.0, 0))
        groups[-best[1]].append((one, m)) if best[0] >= fusion.iou else groups.append([(one, m)])
    return sorted((sum(one.scores[0] for one, _ in group) / len(models) for group in groups), reverse=True)


def overlapped(one: Detections, other: Detections, by: str) -> float:
    if by == "masks":
        runs = paste(one), paste(other)
        if any(part.start.size for part in runs):
            return float(geometry.iou(*runs)[0, 0])
    return float(reference_iou(torch.from_numpy(one.boxes), torch.from_numpy(other.boxes))[0, 0])


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
@given(any_way, st.integers(1, 3), st.integers(0, 999))
def test_a_model_of_twice_the_weight_is_a_model_twice(fusion: Fusion, number: int, seed: int) -> None:
    models = [detections(10, seed + i) for i in range(number)]
    heavy = fusion.fuse(models, [2.0, *[1.0] * (number - 1)])
    assert_close(heavy, fusion.fuse([models[0], *models]), 1e-5)


@LAW
@given(st.integers(0, 2**32 - 1))
def test_what_a_model_with_nearly_all_the_weight_says_of_an_object_is_what_all_say(seed: int) -> None:
    """A hair more of a box is no more of a mask."""
    own = disks(6, SIZE, seed, radius=8)
    cut, rng = windows(from_dense(own[own.any((1, 2))])), np.random.default_rng(seed)
    count = len(cut.boxes)

    def answer(spread: float) -> Detections:
        boxes = (cut.boxes + rng.uniform(-spread, spread, (count, 4))).astype(np.float32)
        masks = mask_targets(cut, torch.arange(count), torch.from_numpy(boxes), 28).numpy()
        scores, labels = np.linspace(0.9, 0.5, count, dtype=np.float32), np.ones(count, np.int64)
        return Detections("a", SIZE, boxes, scores, labels, masks)

    first, second = answer(0), answer(0.9)
    fused = Fusion(0.05, overlap="masks").fuse([first, second], [1e5, 1])
    if len(fused) == count:  # else two of them are as near to one another
        np.testing.assert_array_equal(to_dense(paste(fused)), to_dense(paste(first)))


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
                place = (y - y0) / (y1 - y0) * 6 - 0.5, (x - x0) / (x1 - x0) * 6 - 0.5
                axes = [np.arange(6.0)] * 2
                spline = RegularGridInterpolator(axes, one.masks[n].astype(float), bounds_error=False, fill_value=None)
                wanted[n, i, j] = spline([place])[0].clip(0, 1)
    np.testing.assert_allclose(reframed(one.masks, one.boxes, other.boxes), wanted, atol=2e-5)
    np.testing.assert_allclose(reframed(one.masks, one.boxes, one.boxes), one.masks, atol=2e-5)


@pytest.mark.parametrize("fusion", WAYS, ids=str)
def test_nothing_fuses_to_nothing(fusion: Fusion) -> None:
    none = Detections.empty("a", SIZE, 6)
    assert_close(fusion.fuse([none, none, none]), none)
    assert_close(fusion.fuse([none]), none)


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


def test_the_outline_of_a_mean_lies_amid_the_outlines_and_not_at_the_innermost() -> None:
    """Masks that fill their boxes fill the mean of the boxes, though each ends where its own box does."""
    fused = MEAN.fuse([of(([0, 0, 10, 10], 0.8, 1, 1.0)), of(([2, 0, 12, 10], 0.8, 1, 1.0))])
    assert_close(fused, of(([1, 0, 11, 10], 0.8, 1, 1.0)))


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


def test_without_agreement_what_one_model_alone_sees_keeps_its_score() -> None:
    one = of(([0, 0, 10, 10], 0.9, 1, 1.0), ([30, 30, 40, 40], 0.8, 1, 1.0))
    two = of(([2, 0, 12, 10], 0.5, 1, 0.2))
    for method, score in (("mean", 0.7), ("best", 0.9), ("union", 0.9)):
        fused = Fusion(0.6, method, agreement=False).fuse([one, two])  # type: ignore[arg-type]
        np.testing.assert_allclose(sorted(fused.scores), sorted([score, 0.8]), rtol=1e-6)
    heavy = Fusion(0.6, agreement=False).fuse([one, two], [1, 3])
    np.testing.assert_allclose(heavy.scores, [0.8, (0.9 + 3 * 0.5) / 4], rtol=1e-6)


def test_the_union_holds_the_boxes_and_of_each_place_the_highest_probability() -> None:
    one, two = of(([0, 0, 8, 8], 0.9, 1, 1.0)), of(([4, 0, 12, 8], 0.5, 1, 0.6))
    fused = Fusion(0.3, "union").fuse([one, two])
    np.testing.assert_allclose(fused.boxes, [[0, 0, 12, 8]])
    # The centres of the two columns lie at 3, in the first alone, and at 9, in the second alone.
    np.testing.assert_allclose(fused.masks, [[[1, 0.6], [1, 0.6]]])


def test_masks_tell_apart_what_shares_its_box() -> None:
    """Two halves of one box, along its diagonal: one object by boxes, two by masks."""
    lower = np.tril(np.ones((6, 6), np.float32), -1)[None]
    one = Detections("a", SIZE, np.array([[10, 10, 40, 40]], np.float32), np.array([0.9], np.float32), ONE, lower)
    two = replace(one, masks=np.ascontiguousarray(lower.transpose(0, 2, 1)), scores=np.array([0.8], np.float32))
    assert len(Fusion(0.5).fuse([one, two])) == 1
    assert len(Fusion(0.5, overlap="masks").fuse([one, two])) == 2
    assert len(Fusion(0.5, overlap="masks").fuse([one, one])) == 1


ONE = np.ones(1, np.int64)


@LAW
@given(st.integers(0, 30), st.integers(0, 999))
def test_pairs_are_those_that_overlap_at_all(count: int, seed: int) -> None:
    one = detections(count, seed)
    boxes = torch.from_numpy(one.boxes)
    assert_pairs(box_pairs(one.boxes), reference_iou(boxes, boxes).numpy())
    runs = paste(one)
    assert_pairs(mask_pairs(one), geometry.iou(runs, runs))


def assert_pairs(pairs: tuple[np.ndarray, ...], dense: np.ndarray) -> None:
    i, j, overlap = pairs
    found = np.zeros_like(dense)
    found[i, j] = overlap
    np.testing.assert_allclose(found, np.tril(dense, -1), atol=1e-6)
    assert len(set(zip(i.tolist(), j.tolist(), strict=True))) == len(i)


def test_masks_without_a_pixel_are_compared_by_their_boxes() -> None:
    faint = of(([0, 0, 10, 10], 0.9, 1, 0.1), ([0, 0, 10, 10], 0.8, 1, 1.0), ([1, 0, 11, 10], 0.7, 1, 0.2))
    i, j, overlap = mask_pairs(faint)
    assert (i.tolist(), j.tolist()) == ([2], [0])
    np.testing.assert_allclose(overlap, [90 / 110], rtol=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_far_apart_objects_fuse_as_in_the_package_of_weighted_boxes_fusion(seed: int) -> None:
    package = pytest.importorskip("ensemble_boxes")
    rng = np.random.default_rng(seed)
    corner = np.stack(np.meshgrid(np.arange(4) * 20, np.arange(3) * 20), -1).reshape(-1, 2)
    truth = np.concatenate([corner, corner + 15], 1).astype(np.float32)
    models = []
    for _ in range(3):
        shown = np.flatnonzero(rng.random(12) < 0.8)
        boxes = (truth[shown] + rng.uniform(0, 1.5, (len(shown), 4))).astype(np.float32)
        scores = -np.sort(-rng.uniform(0.1, 1, len(shown))).astype(np.float32)
        models.append(Detections("a", SIZE, boxes, scores, 1 + shown % 2, np.ones((len(shown), 2, 2), np.float32)))
    scale = np.array([SIZE[1], SIZE[0]] * 2, np.float32)
    lists = ([(m.boxes / scale).tolist() for m in models], [m.scores.tolist() for m in models])
    boxes, scores, labels = package.weighted_boxes_fusion(*lists, [m.labels.tolist() for m in models], iou_thr=0.5)
    fused = Fusion(0.5).fuse(models)
    np.testing.assert_allclose(fused.scores, scores, atol=1e-5)
    np.testing.assert_allclose(fused.boxes, boxes * scale, atol=1e-3)
    np.testing.assert_array_equal(fused.labels, labels)


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
        ([detections(2), Detections.empty("b", SIZE, 6)], "different images or alignments"),
        ([detections(2), Detections.empty("a", (1, 1), 6)], "different images or alignments"),
        ([detections(2), replace(detections(2), alignment="torchvision")], "different images or alignments"),
    ],
)
def test_what_does_not_belong_together_is_refused(models: list[Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MEAN.fuse(models)


def test_masks_of_another_size_are_resampled_in_their_boxes() -> None:
    """A ramp stays the ramp between the outermost centres, whichever the number of bins."""

    def ramp(side: int) -> Detections:
        masks = np.broadcast_to(((np.arange(side) + 0.5) / side).astype(np.float32), (1, side, side)).copy()
        boxes, scores = np.array([[2, 3, 9, 8]], np.float32), np.array([0.5], np.float32)
        return Detections("a", SIZE, boxes, scores, np.ones(1, np.int64), masks)

    one, other = ramp(6), ramp(12)
    for models in ([one, other], [other, one]):
        fused = MEAN.fuse(models)
        assert fused.masks.shape == (1, 12, 12)
        np.testing.assert_allclose(fused.masks[:, :, 1:-1], other.masks[:, :, 1:-1], atol=1e-6)
        np.testing.assert_allclose(fused.boxes, one.boxes, atol=1e-5)
    assert len(MEAN.fuse([Detections.empty("a", SIZE, 6), other])) == 1
    assert MEAN.fuse([Detections.empty("a", SIZE, 6), Detections.empty("a", SIZE, 8)]).masks.shape == (0, 8, 8)


@pytest.mark.parametrize("weights", [[1.0], [1.0, 0.0], [1.0, -1.0], []])
def test_weights_that_are_not_one_for_each_model_are_refused(weights: list[float]) -> None:
    with pytest.raises(ValueError, match="weights: wanted a number above 0 for each of 2 models, got "):
        MEAN.fuse([detections(2), detections(3)], weights)


@pytest.mark.parametrize("iou", [0.0, -1.0, 1.5])
def test_an_iou_that_is_no_share_is_refused(iou: float) -> None:
    with pytest.raises(ValueError, match=f"iou: wanted a number above 0, at most 1, got {iou}"):
        Fusion(iou)
