from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from fixtures.detectors import Largest, build, ellipses, noise, target
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.models.detection._utils import Matcher
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.rpn import RegionProposalNetwork
from torchvision.ops import box_iou

from pipeline.model import proposals
from pipeline.model.proposals import Grid, match_anchors

SIZE = (96, 128)
GRIDS = ((24, 32, 3), (12, 16, 3), (6, 8, 3), (3, 4, 3), (2, 2, 3))


def anchors_of(base: float, grids: tuple[Grid, ...] = GRIDS) -> torch.Tensor:
    """torchvision's anchors of a picture of SIZE, `base` pixels on the finest level."""
    generator = AnchorGenerator(tuple((base * 2**i,) for i in range(5)), ((0.5, 1.0, 2.0),) * 5)
    planes = [torch.zeros(1, 1, rows, columns) for rows, columns, _ in grids]
    return generator(ImageList(torch.zeros(1, 3, *SIZE), [SIZE]), planes)[0]


def theirs(boxes: torch.Tensor, anchors: torch.Tensor) -> torch.Tensor:
    return Matcher(0.7, 0.3, allow_low_quality_matches=True)(box_iou(boxes, anchors))


def some_boxes(count: int, seed: int, whole: bool, largest: float = 60) -> torch.Tensor:
    """Boxes of 1 to `largest` pixels in and partly outside the picture, at whole pixels if wanted: many equal IoUs."""
    generator = torch.Generator().manual_seed(seed)
    low = torch.rand(count, 2, generator=generator) * torch.tensor([150.0, 120.0]) - 12
    side = 1 + torch.rand(count, 2, generator=generator) ** 2 * (largest - 1)
    boxes = torch.cat([low, low + side], 1)
    return boxes.round() if whole else boxes


# Matching -----------------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    count=st.integers(1, 40),
    seed=st.integers(0, 10_000),
    base=st.sampled_from([4, 8, 16, 32]),
    whole=st.booleans(),
    budget=st.sampled_from([1, 300, 1 << 18]),
)
def test_anchors_are_matched_exactly_as_by_the_whole_matrix(
    count: int, seed: int, base: float, whole: bool, budget: int
) -> None:
    boxes, anchors = some_boxes(count, seed, whole), anchors_of(base)
    before = boxes.clone(), anchors.clone()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(proposals, "_BUDGET", budget)
        found = match_anchors(boxes, anchors, GRIDS, 0.3, 0.7)
    assert torch.equal(found, theirs(boxes, anchors))
    assert torch.equal(boxes, before[0])
    assert torch.equal(anchors, before[1])


@pytest.mark.parametrize(
    "boxes",
    [
        [[10.0, 10, 26, 26], [10, 10, 26, 26]],  # twice the same: the first wins
        [[40.0, 40, 40, 60]],  # no width: no overlap with any anchor, so all are its best
        [[40.0, 40, 60, 60], [50, 50, 50, 50]],
        [[900.0, 900, 930, 930]],  # out of reach of all anchors
        [[900.0, 900, 930, 930], [20, 20, 40, 36]],
        [[0.0, 0, 128, 96]],  # the whole picture
        [[63.0, 47, 64, 48]],  # one pixel, inside many anchors of each size
        [[-300.0, -300, 400, 400]],  # beyond all anchors
    ],
)
def test_odd_boxes_are_matched_as_by_torchvision(boxes: list[list[float]]) -> None:
    for base in (4, 8, 32):
        own, anchors = torch.tensor(boxes), anchors_of(base)
        assert torch.equal(match_anchors(own, anchors, GRIDS, 0.3, 0.7), theirs(own, anchors))


def test_300_crowded_boxes_are_matched_as_by_torchvision() -> None:
    boxes, anchors = some_boxes(300, 5, whole=True, largest=25), anchors_of(8)
    boxes[:, :2], boxes[:, 2:] = boxes[:, :2].clamp(0, 90), boxes[:, :2].clamp(0, 90) + boxes[:, 2:] - boxes[:, :2]
    found = match_anchors(boxes, anchors, GRIDS, 0.3, 0.7)
    assert torch.equal(found, theirs(boxes, anchors))
    assert {-2, -1} < set(found.tolist())


def test_a_matching_by_hand() -> None:
    """One level, one square anchor of 8 pixels per cell of 4: the first has its centre at 0."""
    anchors = torch.tensor([[4.0 * x - 4, 4.0 * y - 4, 4.0 * x + 4, 4.0 * y + 4] for y in range(4) for x in range(5)])
    boxes = torch.tensor([[4.0, 4, 12, 12], [0, 4, 8, 12]])  # exactly the anchors of cells (2, 2) and (2, 1)
    found = match_anchors(boxes, anchors, ((4, 5, 1),), 0.3, 0.7).view(4, 5)
    # Half a box further IoU is 1/3, between the thresholds; half further both ways it is 1/7.
    assert found.tolist() == [[-1] * 5, [-1, -2, -2, -1, -1], [-2, 1, 0, -2, -1], [-1, -2, -2, -1, -1]]


# The network --------------------------------------------------------------------------------------------------------


def networks(**changes: Any) -> tuple[Any, RegionProposalNetwork]:
    """The detector's network and torchvision's own, with one set of weights."""
    own = build(**changes).rpn
    before, after = own._pre_nms_top_n, own._post_nms_top_n
    other = RegionProposalNetwork(own.anchor_generator, own.head, 0.7, 0.3, 256, 0.5, before, after, 0.7)
    return own, other


def planes(images: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {str(i): torch.randn(images, 16, h, w, generator=generator) for i, (h, w, _) in enumerate(GRIDS)}


@pytest.mark.parametrize("counts", [(0, 5), (3, 0), (0, 0), (7, 2)])
def test_boxes_and_losses_are_those_of_torchvision_bit_for_bit(counts: tuple[int, int]) -> None:
    targets = [{"boxes": some_boxes(count, count, whole=False)} for count in counts]
    images = ImageList(torch.zeros(len(counts), 3, *SIZE), [SIZE] * len(counts))
    results = []
    for network in networks():
        torch.manual_seed(3)
        results.append(network.train()(images, planes(len(counts)), targets))
    (own, losses), (wanted, wanted_losses) = results
    assert all(torch.equal(a, b) for a, b in zip(own, wanted, strict=True))
    assert losses.keys() == wanted_losses.keys()
    assert all(torch.equal(losses[name], wanted_losses[name]) for name in losses)


def test_labels_and_boxes_of_the_anchors_are_those_of_torchvision() -> None:
    targets = [{"boxes": some_boxes(count, count, whole=True)} for count in (9, 0)]
    images = ImageList(torch.zeros(2, 3, *SIZE), [SIZE] * 2)
    own, other = networks()
    own(images, planes(2), targets)
    anchors = own.anchor_generator(images, list(planes(2).values()))
    for mine, wanted in zip(
        own.assign_targets_to_anchors(anchors, targets), other.assign_targets_to_anchors(anchors, targets), strict=True
    ):
        assert all(torch.equal(a, b) and a.dtype == b.dtype for a, b in zip(mine, wanted, strict=True))


def test_memory_grows_with_the_overlaps_and_not_with_instances_times_anchors() -> None:
    anchors, sizes = anchors_of(8), []
    for count in (50, 100, 200):
        with Largest() as largest:
            match_anchors(some_boxes(count, 0, whole=False, largest=10), anchors, GRIDS, 0.3, 0.7)
        sizes.append(largest.elements)
    assert sizes[-1] < 200 * len(anchors) / 4
    assert all(b < 2.5 * a for a, b in pairwise(sizes))


def test_a_step_on_many_instances_matches_them_all() -> None:
    """The detector uses its own matching: its grids are those of the picture at hand."""
    detector = build().train()
    for side in (64, 96):
        detector([noise(side, side)], [target(ellipses((side, side), 5))])
        assert detector.rpn.grids[0] == (side // 4, side // 4, 3)
