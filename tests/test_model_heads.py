from __future__ import annotations

import numpy as np
import pytest
import torch
from fixtures.detectors import Largest, build, ellipses, noise, target
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional
from torchvision.models.detection.mask_rcnn import MaskRCNNPredictor
from torchvision.ops import MultiScaleRoIAlign, roi_align

from pipeline.masks.runs import from_dense
from pipeline.masks.windows import windows
from pipeline.model.heads import chosen_logits, mask_loss, quarters
from pipeline.model.pooling import PyramidPool, pooled

STRIDES = (4, 8, 16, 32)


def pyramid(side: int = 256, images: int = 2, channels: int = 3) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        str(i): torch.randn(images, channels, side // stride, side // stride, generator=generator)
        for i, stride in enumerate((*STRIDES, 64))
    }


def some_boxes(count: int, largest: float, seed: int = 0) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    low = rng.uniform(0, 250 - 4, (count, 2))
    high = np.minimum(low + np.exp(rng.uniform(np.log(4), np.log(largest), (count, 2))), 256)
    return torch.from_numpy(np.concatenate([low, high], 1)).float()


# Pooling ------------------------------------------------------------------------------------------------------------


def test_pooling_equals_aligned_roi_align_on_the_level_of_the_fpn_paper() -> None:
    large = torch.tensor([[3.0, 7.0, 140.0, 120.0], [10.0, 0.0, 246.0, 256.0]])
    features, boxes = pyramid(), [some_boxes(30, 250, 1), torch.cat([some_boxes(18, 250, 2), large])]
    pooled = PyramidPool(STRIDES, 7, "aligned", canonical_scale=100)(features, boxes)
    assert pooled.shape == (50, 3, 7, 7)
    used = set()
    for place, (image, box) in enumerate([(i, box) for i, own in enumerate(boxes) for box in own]):
        side = float(((box[2] - box[0]) * (box[3] - box[1])).sqrt())
        level = int(np.clip(np.floor(4 + np.log2(side / 100)), 2, 5)) - 2  # equation 1
        used.add(level)
        plane = features[str(level)][image : image + 1]
        wanted = roi_align(plane, [box[None]], 7, 1 / STRIDES[level], sampling_ratio=2, aligned=True)[0]
        torch.testing.assert_close(pooled[place], wanted)
    assert used == {0, 1, 2, 3}


def test_levels_follow_the_canonical_scale() -> None:
    pool = PyramidPool(STRIDES, 7, "aligned", canonical_scale=56)
    sides = torch.tensor([13.9, 14.1, 27.9, 28.1, 55.9, 56.1, 111.0, 113.0, 1e4])
    boxes = torch.stack([torch.zeros(9), torch.zeros(9), sides, sides], 1)
    # 56 px is level 4, stride 16; half of it one level finer.
    assert pool.level_of([boxes]).tolist() == [0, 0, 0, 1, 1, 2, 2, 3, 3]


def ramp(side: int = 64) -> dict[str, torch.Tensor]:
    """A pyramid of planes whose value is the column in pixels of the image: cell k of a stride s has (k + 0.5) s."""
    return {str(i): ((torch.arange(side // s) + 0.5) * s).expand(1, 1, side // s, -1) for i, s in enumerate(STRIDES)}


def test_a_pooled_ramp_gives_the_places_of_the_bins() -> None:
    box = torch.tensor([[20.0, 20.0, 34.0, 34.0]])
    pooled = PyramidPool(STRIDES, 7, "aligned")(ramp(), [box])[0, 0, 0]
    torch.testing.assert_close(pooled, 20 + (torch.arange(7) + 0.5) * 2)


def test_torchvisions_own_pooling_is_off_by_half_a_cell() -> None:
    """Why this module exists."""
    box = torch.tensor([[20.0, 20.0, 34.0, 34.0]])
    theirs = MultiScaleRoIAlign(["0", "1", "2", "3"], 7, 2)(ramp(), [box], [(64, 64)])[0, 0, 0]
    torch.testing.assert_close(theirs, 20 + (torch.arange(7) + 0.5) * 2 + 2)


@pytest.mark.parametrize("size", [7, 14])
def test_pooling_in_torchvisions_alignment_is_its_own(size: int) -> None:
    large = torch.tensor([[0.0, 0.0, 256.0, 256.0], [-9.0, -3.0, 40.0, 260.0]])
    features, boxes = pyramid(), [some_boxes(40, 250, 3), torch.cat([some_boxes(20, 250, 4), large])]
    theirs = MultiScaleRoIAlign(["0", "1", "2", "3"], size, 2)(features, boxes, [(256, 256), (256, 250)])
    found = PyramidPool(STRIDES, size, "torchvision")(features, boxes)
    torch.testing.assert_close(found, theirs, atol=2e-6, rtol=0)
    assert found.is_contiguous(memory_format=torch.channels_last)


@settings(max_examples=40, deadline=None)
@given(
    count=st.integers(0, 9),
    seed=st.integers(0, 10_000),
    aligned=st.booleans(),
    side=st.sampled_from([1, 3, 7]),
    shape=st.sampled_from([(1, 1), (2, 9), (16, 11)]),
)
def test_pooled_features_and_their_gradient_are_those_of_roi_align(
    count: int, seed: int, aligned: bool, side: int, shape: tuple[int, int]
) -> None:
    """Boxes inside, across every border, far outside, inverted, and without area."""
    generator = torch.Generator().manual_seed(seed)
    plane = torch.randn(2, 5, *shape, generator=generator, requires_grad=True)
    rois = torch.rand(count, 5, generator=generator) * 120 - 30
    rois[:, 0] = torch.randint(0, 2, (count,), generator=generator)
    rois[::3, 3:] = rois[::3, 1:3] + 4
    rois[1::4, 1:] = rois[1::4, 1:].round()
    wanted = roi_align(plane, rois, side, 0.25, 2, aligned)
    found = pooled(plane, rois, side, 0.25, aligned)
    torch.testing.assert_close(found, wanted, atol=5e-6, rtol=0)
    weights = torch.randn(wanted.shape, generator=generator)
    gradients = [torch.autograd.grad((result * weights).sum(), plane)[0] for result in (found, wanted)]
    torch.testing.assert_close(*gradients, atol=2e-5, rtol=0)


@pytest.mark.parametrize("stride", [0, 4, 12])
def test_pooling_moves_with_the_image(stride: int) -> None:
    plane = torch.randn(1, 2, 32, 32, generator=torch.Generator().manual_seed(3))
    moved = functional.pad(plane, (stride // 4, 0))[..., :32]
    box = torch.tensor([[30.3, 40.1, 52.9, 71.4]])
    pool = PyramidPool(STRIDES[:1], 7, "aligned")
    shift = torch.tensor([stride, 0, stride, 0])
    torch.testing.assert_close(pool({"0": moved}, [box + shift]), pool({"0": plane}, [box]), atol=1e-5, rtol=1e-5)


def test_no_boxes_are_pooled_to_none_and_gradients_pass() -> None:
    features = {name: plane.requires_grad_() for name, plane in pyramid().items()}
    pool = PyramidPool(STRIDES, 7, "aligned")
    assert pool(features, [torch.zeros(0, 4), torch.zeros(0, 4)]).shape == (0, 3, 7, 7)
    pool(features, [some_boxes(9, 200), torch.zeros(0, 4)]).sum().backward()
    assert features["0"].grad is not None
    assert features["0"].grad[0].abs().sum() > 0
    assert features["0"].grad[1].abs().sum() == 0


# Masks of one class -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("count", "side", "classes"), [(9, 14, 4), (1, 7, 2), (0, 14, 3)])
def test_the_logits_of_one_class_are_those_of_the_whole_predictor(count: int, side: int, classes: int) -> None:
    torch.manual_seed(0)
    predictor, labels = MaskRCNNPredictor(24, 16, classes), torch.randint(0, classes, (count,))
    features = torch.randn(count, 24, side, side, requires_grad=True)
    wanted = predictor(features)[torch.arange(count), labels]
    found = chosen_logits(predictor, quarters(predictor, features), labels)
    assert found.shape == (count, 2 * side, 2 * side)
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)
    weights = torch.randn_like(found)
    inputs = [features, *predictor.parameters()]
    gradients = [torch.autograd.grad((logits * weights).sum(), inputs) for logits in (found, wanted)]
    for own, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(own, theirs, atol=1e-4, rtol=1e-4)


# Losses -------------------------------------------------------------------------------------------------------------


def test_the_mask_loss_is_the_cross_entropy_with_the_targets() -> None:
    masks = np.zeros((1, 20, 20), bool)
    masks[0, 5:15, :10] = True
    box = torch.tensor([[0.0, 0.0, 20.0, 20.0]])
    logits = torch.zeros(1, 4, 4)
    loss = mask_loss(logits, [windows(from_dense(masks))], [torch.tensor([0])], [box])
    assert float(loss) == pytest.approx(np.log(2))
    # Bins 1 and 2 of the rows, 0 and 1 of the columns; a half-covered pixel at each edge moves a little over it.
    sure = torch.full((1, 4, 4), -20.0)
    sure[0, 1:3, :2] = 20.0
    assert mask_loss(sure, [windows(from_dense(masks))], [torch.tensor([0])], [box]) < 0.5


def test_the_mask_loss_of_no_boxes_is_0_and_has_a_gradient() -> None:
    logits = torch.zeros(0, 28, 28, requires_grad=True)
    loss = mask_loss(logits, [windows(from_dense(ellipses((20, 20), 1)))], [torch.zeros(0, dtype=torch.int64)], [])
    loss.backward()
    assert loss.item() == 0


@pytest.mark.parametrize("detail", [False, True])
@pytest.mark.parametrize("counts", [(0, 3), (0, 0), (2, 0)])
def test_losses_are_finite_where_images_hold_no_instance(counts: tuple[int, int], detail: bool) -> None:
    detector = build(detail=detail).train()
    images = [noise(64, 64, i) for i in range(2)]
    targets = [target(ellipses((64, 64), n, n)) for n in counts]
    torch.manual_seed(0)
    losses = detector(images, targets)
    expected = {"loss_objectness", "loss_rpn_box_reg", "loss_classifier", "loss_box_reg", "loss_mask"}
    assert set(losses) == expected
    assert all(torch.isfinite(loss) for loss in losses.values())
    if not any(counts):
        assert losses["loss_mask"] == losses["loss_rpn_box_reg"] == losses["loss_box_reg"] == 0
    sum(losses.values()).backward()
    # Also without instances every parameter has a gradient, as training on several processes wants.
    without = [name for name, parameter in detector.named_parameters() if parameter.grad is None]
    assert without == []
    assert all(torch.isfinite(p.grad).all() for p in detector.parameters() if p.grad is not None)


def test_losses_reach_every_part_of_the_detector() -> None:
    detector = build().train()
    torch.manual_seed(0)
    sum(detector([noise(64, 64)], [target(ellipses((64, 64), 5))]).values()).backward()
    parts = ("backbone.body", "backbone.fpn", "rpn.head", "roi_heads.box_head", "roi_heads.box_predictor")
    for part in (*parts, "roi_heads.mask_head", "roi_heads.mask_predictor"):
        own = [p.grad for name, p in detector.named_parameters() if name.startswith(part)]
        assert sum(float(grad.abs().sum()) for grad in own if grad is not None) > 0, part


def test_targets_are_not_modified_by_a_step() -> None:
    one = target(ellipses((64, 64), 3))
    before = (one["boxes"].clone(), one["labels"].clone(), one["masks"].data.copy())
    build(scale=2.0).train()([noise(64, 64)], [one])
    torch.testing.assert_close(one["boxes"], before[0])
    torch.testing.assert_close(one["labels"], before[1])
    np.testing.assert_array_equal(one["masks"].data, before[2])
    assert set(one) == {"boxes", "labels", "masks"}


def test_no_tensor_of_instances_times_pixels_in_a_training_step() -> None:
    count, side = 300, 256
    rng = np.random.default_rng(0)
    masks = np.zeros((count, side, side), bool)
    for mask, (y, x) in zip(masks, rng.integers(0, side - 20, (count, 2)), strict=True):
        mask[y : y + 16, x : x + 19] = True
    one = target(masks)
    del masks
    detector = build(detections=300, proposals=600, candidates=1000, box_samples=512).train()
    stack = count * side * side
    with Largest() as whole:
        sum(detector([noise(side, side)], [one]).values()).backward()
    # Neither instances by pixels nor instances by anchors: the largest is a plane of the backbone's features.
    anchors = 3 * sum((side // stride) ** 2 for stride in (4, 8, 16, 32, 64))
    assert whole.elements < count * anchors / 2 < stack / 7, whole.shape


def test_the_mask_loss_of_300_instances_never_holds_their_dense_masks() -> None:
    masks = ellipses((256, 256), 300)
    cut = windows(from_dense(masks))
    boxes = torch.from_numpy(cut.boxes).float()
    logits = torch.zeros(300, 28, 28, requires_grad=True)
    with Largest() as mode:
        mask_loss(logits, [cut], [torch.arange(300)], [boxes]).backward()
    assert mode.elements < masks.size / 20, mode.shape
