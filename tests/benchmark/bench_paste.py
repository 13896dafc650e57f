"""Masks out of the mask head to COCO RLE."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch
from harness import Row
from inputs import crowd, soft, spread
from pycocotools import mask as coco_mask
from torchvision.models.detection.roi_heads import paste_masks_in_image

from pipeline.inference.paste import paste
from pipeline.instances import Detections
from pipeline.masks.runs import to_coco

_RIM = 16  # bins
_PEER_CHUNK = 50  # masks that torchvision pastes at once on the large canvas; all of them would need 31 GB


def rows(data: Path) -> Iterator[Row]:
    """Rows of the group."""
    masks = crowd(data, 500)
    theirs = soft(masks, "torchvision")
    yield Row(
        "500 masks of 520×704 → RLE, torchvision's alignment, bit for bit",
        "paste_masks_in_image + pycocotools.encode",
        partial(ours, theirs), partial(dense, theirs, 500), same, 100, (15, 3), 16, True,
    )  # fmt: skip
    yield Row(
        "500 masks of 520×704 → RLE, aligned",
        "grid_sample on the whole image + pycocotools.encode",
        partial(ours, soft(masks, "aligned")), partial(sampled, soft(masks, "aligned")), nearly, 100, (15, 3), 16,
    )  # fmt: skip
    large = spread(crowd(data, 1000), (2048, 2048))
    wide = soft(large, "torchvision")
    yield Row(
        "1,000 masks on 2048×2048 → RLE, torchvision's alignment, bit for bit",
        f"paste_masks_in_image of {_PEER_CHUNK} at a time + pycocotools.encode",
        partial(ours, wide), partial(dense, wide, _PEER_CHUNK), same, 100, (5, 1), 16, True,
    )  # fmt: skip


def ours(detections: Detections) -> list[str]:
    """Counts of each mask, by way of the boxes' own pixels."""
    return to_coco(paste(detections))


def dense(detections: Detections, chunk: int) -> list[str]:
    """Counts of each mask, by way of one image-sized array per mask."""
    result = []
    masks, boxes = torch.from_numpy(detections.masks)[:, None], torch.from_numpy(detections.boxes)
    for part, box in zip(masks.split(chunk), boxes.split(chunk), strict=True):
        result += encode((paste_masks_in_image(part, box, detections.size)[:, 0] > 0.5).numpy())
    return result


def sampled(detections: Detections) -> list[str]:
    """Counts of each mask sampled at every pixel centre of the image, mask by mask, as detectron2 does on a CPU."""
    height, width = detections.size
    y, x = torch.arange(height) + 0.5, torch.arange(width) + 0.5
    result = []
    extended = _extended(detections.masks)
    grown = extended.shape[-1] / detections.masks.shape[-1]
    for mask, box in zip(torch.from_numpy(extended.copy()), torch.from_numpy(detections.boxes), strict=True):
        x0, y0, x1, y1 = box
        down, across = torch.meshgrid((y - y0) / (y1 - y0) * 2 - 1, (x - x0) / (x1 - x0) * 2 - 1, indexing="ij")
        grid = torch.stack([across, down], -1)[None] / grown
        picture = torch.nn.functional.grid_sample(mask[None, None], grid, padding_mode="border", align_corners=False)
        reach = (down.abs() < 1 + 1 / (y1 - y0)) & (across.abs() < 1 + 1 / (x1 - x0))
        result += encode((picture[0] > 0.5).numpy() & reach.numpy())
    return result


def _extended(masks: np.ndarray) -> np.ndarray:
    """Masks (N, M, M) with a rim of bins that go on as the outermost two do, far enough for a pixel beside its box."""
    step = np.arange(1, _RIM + 1, dtype=np.float32)[:, None]
    for _ in range(2):
        first, last = masks[:, :1], masks[:, -1:]
        before, after = first + step[::-1] * (first - masks[:, 1:2]), last + step * (last - masks[:, -2:-1])
        masks = np.concatenate([before, masks, after], 1).transpose(0, 2, 1)
    return masks


def encode(masks: np.ndarray) -> list[str]:
    """Counts of dense masks (N, H, W)."""
    return [coco_mask.encode(np.asfortranarray(mask, np.uint8))["counts"].decode() for mask in masks]


def same(a: list[str], b: list[str]) -> None:
    """Byte for byte."""
    assert a == b


def nearly(a: list[str], b: list[str]) -> None:
    """At most one pixel in 100,000 differs: those whose probability is the threshold up to rounding."""
    pairs = [[{"size": (520, 704), "counts": counts} for counts in pair] for pair in zip(a, b, strict=True)]
    wrong = total = 0
    for pair in pairs:
        area, other = (int(coco_mask.area(rle)) for rle in pair)
        common = int(coco_mask.area(coco_mask.merge(pair, intersect=True)))
        wrong, total = wrong + area + other - 2 * common, total + area
    assert wrong <= total / 1e5, f"{wrong} of {total} pixels differ"
