"""The proposal network, matched with the truth without a matrix of all instances by all anchors.

An image of 520×704 has some 95,000 anchors. An instance of 20 pixels overlaps about a thousand of them, and torchvision
compares it with all: at 600 instances the largest arrays, and most of the time, of a training step.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.rpn import RegionProposalNetwork, concat_box_prediction_layers
from torchvision.ops import batched_nms, clip_boxes_to_image, remove_small_boxes

_BUDGET = 1 << 18  # pairs of an instance and an anchor that are looked at at once

Grid = tuple[int, int, int]


class Proposals(RegionProposalNetwork):
    """torchvision's `RegionProposalNetwork`, equal to it bit for bit; only the matching of anchors is another."""

    grids: tuple[Grid, ...] = ()

    def forward(self, images: Any, features: dict[str, Tensor], targets: Any = None) -> Any:
        """As torchvision's: boxes (n, 4) per image, and the losses in training."""
        cells = self.anchor_generator.num_anchors_per_location()
        sizes = [plane.shape[-2:] for plane in features.values()]
        self.grids = tuple((int(h), int(w), k) for (h, w), k in zip(sizes, cells, strict=True))
        return super().forward(images, features, targets)

    def scored(self, images: ImageList, features: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Of one image, in evaluation mode: boxes (n, 4) and how surely something is there, 0 to 1, (n,), falling."""
        boxes, logits, grids = self.decoded(images, features)
        return self.kept(boxes, logits, images.image_sizes[0], [math.prod(grid) for grid in grids])[:2]

    def decoded(self, images: ImageList, features: dict[str, Tensor]) -> tuple[Tensor, Tensor, list[Grid]]:
        """Of one image, for each anchor: its box (A, 4), the logit (A,) that something is there; and the grids."""
        planes = list(features.values())
        logits, shifts = self.head(planes)
        grids = [(int(plane.shape[2]), int(plane.shape[3]), int(plane.shape[1])) for plane in logits]
        flat, shift = concat_box_prediction_layers(logits, shifts)
        boxes = self.box_coder.decode(shift, self.anchor_generator(images, planes))
        return boxes.view(-1, 4), flat.flatten(), grids

    def kept(
        self, boxes: Tensor, logits: Tensor, size: tuple[int, int], counts: Sequence[int]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The proposals among the boxes (A, 4) of all anchors, with scores and their numbers, int64 (n,), falling.

        By the rules of torchvision's `filter_proposals`, which does not say which anchors they are: of each level,
        `counts` anchors each, the surest, then NMS. size: (H, W) of the image.
        """
        index = self._get_top_n_idx(logits[None], list(counts))[0]
        level = torch.repeat_interleave(torch.tensor(counts, device=boxes.device))[index]
        own, scores = clip_boxes_to_image(boxes[index], size), logits[index].sigmoid()
        large = remove_small_boxes(own, self.min_size)
        best = large[batched_nms(own[large], scores[large], level[large], self.nms_thresh)][: self.post_nms_top_n()]
        return own[best], scores[best], index[best]

    def assign_targets_to_anchors(
        self, anchors: list[Tensor], targets: list[dict[str, Any]]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Labels float32 (A,) of each image's anchors, 1 for instance, 0 for background, -1 for neither, and boxes."""
        labels, matched = [], []
        matcher = self.proposal_matcher
        for own, target in zip(anchors, targets, strict=True):
            boxes = target["boxes"]
            if not len(boxes):
                labels.append(torch.zeros(len(own), device=own.device))
                matched.append(torch.zeros_like(own))
                continue
            owner = match_anchors(boxes, own, self.grids, matcher.low_threshold, matcher.high_threshold)
            labels.append((owner >= 0).float() - (owner == matcher.BETWEEN_THRESHOLDS).float())
            matched.append(boxes[owner.clamp(min=0)])
        return labels, matched


def match_anchors(boxes: Tensor, anchors: Tensor, grids: Sequence[Grid], low: float, high: float) -> Tensor:
    """The instance of each anchor, int64 (A,): its number, -1 for background, -2 for neither.

    boxes: float32 (N, 4), N at least 1, and anchors: float32 (A, 4), x0 y0 x1 y1, finite, in one frame. grids: rows,
    columns and anchors per cell of each level; the anchors lie level by level, row by row, cell by cell, and move with
    the cell. An anchor belongs to the box of largest IoU, of equals the first, where that is `high` at least; below
    `low` it is background. The anchors of largest IoU with a box always belong to an instance, all equals of them.

    Equal to torchvision's `Matcher(high, low, allow_low_quality_matches=True)` of `box_iou(boxes, anchors)` for every
    input, also where a box touches no anchor: then its largest IoU is 0, and all anchors are equals.
    """
    last = len(boxes) - 1
    # IoU and owner in one integer, so that one maximum finds both: floats of 0 to 1 are ordered as their bits are,
    # and of equal ones the first instance wins. No overlap at all counts as one of 0 with the first.
    best = torch.full((len(anchors),), last, dtype=torch.int64, device=boxes.device)
    most = torch.zeros(len(boxes), device=boxes.device)
    chosen = torch.zeros(len(anchors), dtype=torch.bool, device=boxes.device)
    for owner, anchor, iou in _pairs(boxes, anchors, grids):
        most.scatter_reduce_(0, owner, iou, "amax")
        best.scatter_reduce_(0, anchor, (iou.view(torch.int32).long() << 32) + (last - owner), "amax")
        chosen[anchor[iou == most.index_select(0, owner)]] = True
    owner, iou = last - (best & 0xFFFFFFFF), (best >> 32).int().view(torch.float32)
    result = owner.masked_fill(iou < high, -2).masked_fill(iou < low, -1)
    return torch.where(chosen | (most == 0).any(), owner, result)


def _pairs(boxes: Tensor, anchors: Tensor, grids: Sequence[Grid]) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Every overlap of a box and an anchor: their numbers int64 (P,) and IoU float32 (P,), all of a box at once."""
    levels, first = [], 0
    for rows, columns, cells in grids:
        size = rows * columns * cells
        levels.append(_Level(boxes, anchors[first : first + size].view(rows, columns, cells, 4), first))
        first += size
    pairs = torch.stack([level.pairs() for level in levels]).sum(0)
    chunk = pairs.cumsum(0).div(_BUDGET, rounding_mode="floor")
    bounds = [0, *torch.unique_consecutive(chunk, return_counts=True)[1].cumsum(0).tolist()]
    for begin, end in pairwise(bounds):
        found = [level.overlaps(begin, end) for level in levels]
        owner, anchor, iou = (torch.cat(column) for column in zip(*found, strict=True))
        yield owner, anchor, iou


class _Level:
    """The overlaps of N boxes with a level of anchors, which is a grid: a box overlaps a rectangle of it.

    So the IoU needs only the overlap with each column and with each row, per kind of anchor.
    """

    def __init__(self, boxes: Tensor, anchors: Tensor, first: int):
        """anchors: (h, w, k, 4). first: number of the first of them."""
        (self.height, self.width, self.cells), self.first = anchors.shape[:3], first
        self.across = _overlap(boxes[:, 0::2], anchors[0, :, :, 0::2])  # (N, k, w), pixels
        self.down = _overlap(boxes[:, 1::2], anchors[:, 0, :, 1::2])
        self.left, self.columns = _extent(self.across)  # (N, k)
        self.top, self.rows = _extent(self.down)
        self.area, self.own = _area(anchors).flatten(), _area(boxes)

    def pairs(self) -> Tensor:
        """How many anchors each box overlaps, int64 (N,)."""
        return (self.columns * self.rows).sum(1)

    def overlaps(self, begin: int, end: int) -> tuple[Tensor, Tensor, Tensor]:
        """Box, anchor and IoU, (P,) each, of all overlaps of the boxes begin … end - 1."""
        columns = self.columns[begin:end].flatten()
        rows = self.rows[begin:end].flatten() * (columns > 0)
        # An item is a box with one kind of anchor, a line is an item in one row of the grid, a place is an anchor.
        item, row = _members(rows, self.top[begin:end].flatten())
        line, column = _members(columns[item], self.left[begin:end].flatten()[item])
        whole = item + begin * self.cells
        down = self.down.view(-1)[whole * self.height + row]
        across = self.across.view(-1).index_select(0, column + _spread(whole * self.width, line))
        common = _spread(down, line) * across
        first = row * (self.width * self.cells) + item % self.cells
        anchor = column.mul_(self.cells).add_(_spread(first, line))
        owner = whole // self.cells
        # Added in the order of `torchvision.ops.box_iou`: equal to the last bit.
        both = _spread(self.own[owner], line) + self.area.index_select(0, anchor)
        return _spread(owner, line), anchor.add_(self.first), common / both.sub_(common)


def _overlap(boxes: Tensor, anchors: Tensor) -> Tensor:
    """Common length (N, k, n), at least 0, of intervals (N, 2) with intervals (n, k, 2)."""
    low, high = anchors.permute(2, 1, 0).contiguous()
    return (torch.minimum(boxes[:, 1, None, None], high) - torch.maximum(boxes[:, 0, None, None], low)).clamp(min=0)


def _extent(overlap: Tensor) -> tuple[Tensor, Tensor]:
    """The first positive entry of each line and how many there are, int64 (N, k): they lie side by side."""
    positive = overlap > 0
    return positive.int().argmax(-1), positive.sum(-1)


def _members(count: Tensor, first: Tensor) -> tuple[Tensor, Tensor]:
    """For groups of `count` members: the group of each member, and its number, counted on from the group's `first`."""
    group = torch.repeat_interleave(count)
    shift = first - (count.cumsum(0) - count)
    return group, _spread(shift, group).add_(torch.arange(len(group), device=count.device))


def _spread(values: Tensor, group: Tensor) -> Tensor:
    """values[group]; indexing proper is several times slower on a CPU."""
    return values.index_select(0, group)


def _area(boxes: Tensor) -> Tensor:
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])
