from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from fixtures.detectors import build, ellipses, noise, target
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision.ops import MultiScaleRoIAlign, roi_align

from pipeline.masks.runs import from_dense
from pipeline.masks.windows import windows
from pipeline.model.heads import AlignedPool, mask_loss

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
    pooled = AlignedPool(STRIDES, 7, canonical_scale=100)(features, boxes)
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
    pool = AlignedPool(STRIDES, 7, canonical_scale=56)
    sides = torch.tensor([13.9, 14.1, 27.9, 28.1, 55.9, 56.1, 111.0, 113.0, 1e4])
    boxes = torch.stack([torch.zeros(9), torch.zeros(9), sides, sides], 1)
    # 56 px is level 4, stride 16; half of it one level finer.
    assert pool.level_of([boxes]).tolist() == [0, 0, 0, 1, 1, 2, 2, 3, 3]


def ramp(side: int = 64) -> dict[str, torch.Tensor]:
    """A pyramid of planes whose value is the column in pixels of the image: cell k of a stride s has (k + 0.5) s."""
    return {str(i): ((torch.arange(side // s) + 0.5) * s).expand(1, 1, side // s, -1) for i, s in enumerate(STRIDES)}


def test_a_pooled_ramp_gives_the_places_of_the_bins() -> None:
    box = torch.tensor([[20.0, 20.0, 34.0, 34.0]])
    pooled = AlignedPool(STRIDES, 7)(ramp(), [box])[0, 0, 0]
    torch.testing.assert_close(pooled, 20 + (torch.arange(7) + 0.5) * 2)


def test_torchvisions_own_pooling_is_off_by_half_a_cell() -> None:
    """Why this module exists."""
    box = torch.tensor([[20.0, 20.0, 34.0, 34.0]])
    theirs = MultiScaleRoIAlign(["0", "1", "2", "3"], 7, 2)(ramp(), [box], [(64, 64)])[0, 0, 0]
    torch.testing.assert_close(theirs, 20 + (torch.arange(7) + 0.5) * 2 + 2)


@pytest.mark.parametrize("stride", [0, 4, 12])
def test_pooling_moves_with_the_image(stride: int) -> None:
    plane = torch.randn(1, 2, 32, 32, generator=torch.Generator().manual_seed(3))
    moved = functional.pad(plane, (stride // 4, 0))[..., :32]
    box = torch.tensor([[30.3, 40.1, 52.9, 71.4]])
    pool = AlignedPool(STRIDES[:1], 7)
    shift = torch.tensor([stride, 0, stride, 0])
    torch.testing.assert_close(pool({"0": moved}, [box + shift]), pool({"0": plane}, [box]), atol=1e-5, rtol=1e-5)


def test_no_boxes_are_pooled_to_none_and_gradients_pass() -> None:
    features = {name: plane.requires_grad_() for name, plane in pyramid().items()}
    pool = AlignedPool(STRIDES, 7)
    assert pool(features, [torch.zeros(0, 4), torch.zeros(0, 4)]).shape == (0, 3, 7, 7)
    pool(features, [some_boxes(9, 200), torch.zeros(0, 4)]).sum().backward()
    assert features["0"].grad is not None
    assert features["0"].grad[0].abs().sum() > 0
    assert features["0"].grad[1].abs().sum() == 0


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


@pytest.mark.parametrize("counts", [(0, 3), (0, 0), (2, 0)])
def test_losses_are_finite_where_images_hold_no_instance(counts: tuple[int, int]) -> None:
    detector = build().train()
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


class Largest(TorchDispatchMode):
    """Remembers the size in elements of the largest tensor that any operation returned."""

    def __init__(self) -> None:
        super().__init__()
        self.elements, self.shape = 0, ()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        for value in result if isinstance(result, tuple | list) else (result,):
            if isinstance(value, torch.Tensor) and value.untyped_storage().nbytes() and value.numel() > self.elements:
                # An expanded view holds no memory: count what lies behind it.
                self.elements = max(self.elements, min(value.numel(), value.untyped_storage().size() // value.itemsize))
                self.shape = tuple(value.shape)
        return result


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
    # The largest left is the proposal network's: corners of the overlaps of all instances with all anchors.
    anchors = 3 * sum((side // stride) ** 2 for stride in (4, 8, 16, 32, 64))
    assert whole.elements <= 2 * count * anchors < 0.51 * stack, whole.shape


def test_the_mask_loss_of_300_instances_never_holds_their_dense_masks() -> None:
    masks = ellipses((256, 256), 300)
    cut = windows(from_dense(masks))
    boxes = torch.from_numpy(cut.boxes).float()
    logits = torch.zeros(300, 28, 28, requires_grad=True)
    with Largest() as mode:
        mask_loss(logits, [cut], [torch.arange(300)], [boxes]).backward()
    assert mode.elements < masks.size / 20, mode.shape
