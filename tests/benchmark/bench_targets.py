"""What a training step compares its answers with: mask targets of its boxes, and the instance of each anchor."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import torch
from harness import Row
from inputs import SIZE, crowd
from torch import Tensor
from torchvision.models.detection._utils import Matcher
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.roi_heads import project_masks_on_boxes
from torchvision.ops import box_iou, roi_align

from pipeline.masks.runs import to_dense
from pipeline.masks.windows import windows
from pipeline.model.proposals import Grid, match_anchors
from pipeline.model.targets import mask_targets

_POSITIVES = 128  # boxes per image that train torchvision's mask head: a quarter of 512
_BINS = 28


def rows(data: Path) -> Iterator[Row]:
    """Rows of the group."""
    masks = crowd(data, 600)
    cut = windows(masks)
    truth = torch.from_numpy(cut.boxes).float()
    stack = torch.from_numpy(to_dense(masks)).to(torch.uint8).contiguous()
    owner, boxes = proposed(truth)
    yield Row(
        "mask-loss targets of a step, 600 instances, 520×704, torchvision's alignment",
        "torchvision's project_masks_on_boxes",
        partial(mask_targets, cut, owner, boxes, _BINS, "torchvision"),
        partial(project_masks_on_boxes, stack, boxes, owner, _BINS), within(1e-4, 1e-5), 85, (15, 5), 200, True,
    )  # fmt: skip
    yield Row(
        "mask-loss targets of a step, 600 instances, 520×704, aligned",
        "torchvision's roi_align(aligned=True) of the stack of masks",
        partial(mask_targets, cut, owner, boxes, _BINS), partial(sampled, stack, boxes, owner),
        within(0.3, 0.01), 85, (15, 5), 200, True,
    )  # fmt: skip
    anchors, grids = torchvisions_anchors()
    yield Row(
        f"anchor matching of a step, 600 instances, {len(anchors):,} anchors, torch.equal",
        "torchvision's box_iou + Matcher",
        partial(match_anchors, truth, anchors, grids, 0.3, 0.7),
        partial(matched, truth, anchors), exactly, 25, (9, 3), 200, True,
    )  # fmt: skip


def proposed(truth: Tensor) -> tuple[Tensor, Tensor]:
    """Instances and boxes as a proposal network gives them to the mask head: off by some tenths of their sides."""
    generator = torch.Generator().manual_seed(0)
    owner = torch.randint(0, len(truth), (_POSITIVES,), generator=generator)
    side = (truth[owner, 2:] - truth[owner, :2]).repeat(1, 2)
    boxes = truth[owner] + torch.randn(_POSITIVES, 4, generator=generator) * 0.08 * side
    height, width = SIZE
    return owner, boxes.clamp(min=0).minimum(torch.tensor([width, height, width, height]))


def sampled(stack: Tensor, boxes: Tensor, owner: Tensor) -> Tensor:
    """As detectron2's `BitMasks.crop_and_resize` does it, before its threshold."""
    rois = torch.cat([owner[:, None].to(boxes), boxes], 1)
    return roi_align(stack[:, None].to(boxes), rois, (_BINS, _BINS), 1.0, 0, True)[:, 0]


def torchvisions_anchors() -> tuple[Tensor, tuple[Grid, ...]]:
    """The anchors of `maskrcnn_resnet50_fpn` in an image of 520×704, padded to 544×704, and their grids."""
    grids = ((136, 176, 3), (68, 88, 3), (34, 44, 3), (17, 22, 3), (9, 11, 3))
    generator = AnchorGenerator(((32,), (64,), (128,), (256,), (512,)), ((0.5, 1.0, 2.0),) * 5)
    planes = [torch.zeros(1, 1, rows, columns) for rows, columns, _ in grids]
    return generator(ImageList(torch.zeros(1, 3, 544, 704), [SIZE]), planes)[0], grids


def matched(truth: Tensor, anchors: Tensor) -> Tensor:
    """As in `RegionProposalNetwork.assign_targets_to_anchors`."""
    result: Tensor = Matcher(0.7, 0.3, allow_low_quality_matches=True)(box_iou(truth, anchors))
    return result


def exactly(a: Tensor, b: Tensor) -> None:
    """Bit for bit."""
    assert torch.equal(a, b)


class within:
    """Equal up to `most` everywhere and to `mean` on average."""

    def __init__(self, most: float, mean: float):
        self.most, self.mean = most, mean

    def __call__(self, a: Tensor, b: Tensor) -> None:
        off = (a - b).abs()
        assert off.max() <= self.most, f"off by {off.max():.2g}"
        assert off.mean() <= self.mean, f"off by {off.mean():.2g} on average"
