"""Which detections of an image overlap, by their boxes or by their masks: pairs, never all with all."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipeline.inference.paste import paste
from pipeline.instances import Detections
from pipeline.masks.geometry import shared_pixels
from pipeline.masks.runs import area, expand

Int = NDArray[np.int64]
Float = NDArray[np.float32]
Pairs = tuple[Int, Int, Float]


def box_pairs(boxes: Float) -> Pairs:
    """The pairs j < i of boxes (N, 4), half-open xyxy, that meet: i, j, int64 (P,), and IoU, float32 (P,)."""
    order = np.argsort(boxes[:, 0], kind="stable")
    begin, end = boxes[order, 0], boxes[order, 2]
    # Sorted by their left sides, a box meets those that follow, up to the first that begins where it ends.
    first = np.arange(1, len(boxes) + 1)
    count = np.maximum(np.searchsorted(begin, end, "left") - first, 0)
    one = np.repeat(np.arange(len(boxes)), count)
    i, j = order[one], order[expand(first, count)]
    i, j = np.maximum(i, j), np.minimum(i, j)
    meet = np.minimum(boxes[i, 3], boxes[j, 3]) > np.maximum(boxes[i, 1], boxes[j, 1])
    i, j = i[meet], j[meet]
    return i, j, _iou(boxes[i], boxes[j])


def mask_pairs(detections: Detections) -> Pairs:
    """The pairs j < i of detections whose masks, above probability .5, meet in the image: i, j and IoU, as `box_pairs`.

    A mask without a pixel is compared, with others of its kind, by its box.
    """
    runs = paste(detections)
    i, j, common = shared_pixels(runs, runs)
    below = j < i
    i, j, common = i[below], j[below], common[below]
    areas = area(runs)
    iou = (common / (areas[i] + areas[j] - common)).astype(np.float32)
    nothing = np.flatnonzero(areas == 0)
    one, other, own = box_pairs(detections.boxes[nothing])
    return np.concatenate([i, nothing[one]]), np.concatenate([j, nothing[other]]), np.concatenate([iou, own])


def _iou(a: Float, b: Float) -> Float:
    """Intersection over union of boxes (P, 4) with boxes (P, 4), of each with its own."""
    low, high = np.maximum(a[:, :2], b[:, :2]), np.minimum(a[:, 2:], b[:, 2:])
    common = np.clip(high - low, 0, None).prod(1)
    area_a, area_b = ((box[:, 2:] - box[:, :2]).prod(1) for box in (a, b))
    return np.asarray(common / np.maximum(area_a + area_b - common, np.float32(1e-9)), np.float32)
