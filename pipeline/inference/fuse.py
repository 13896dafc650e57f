"""Fusion of the detections of several models for the same image: boxes, scores and soft masks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.instances import Detections

Int = NDArray[np.int64]
Float = NDArray[np.float32]


@dataclass(frozen=True)
class Fusion:
    """Detections whose boxes agree become one; its score is the weighted mean over all models.

    A model that does not see an object counts with score 0, so what only one of k models sees keeps a k-th of its
    score. iou: of two boxes from which on they count as one object, 0 to 1.
    method: "mean" averages boxes and masks, each counting by its score (weighted boxes fusion, Solovyev et al. 2021,
    arXiv:1910.13302); "best" takes those of the highest score (non-maximum suppression, but for the score).
    per_class: whether detections of different classes stay apart; if not, the class with the most score wins.
    Raises ValueError for an iou that is no share.
    """

    iou: float
    method: Literal["mean", "best"] = "mean"
    per_class: bool = True

    def __post_init__(self) -> None:
        if not 0 < self.iou <= 1:
            raise ValueError(f"iou: wanted a number above 0, at most 1, got {self.iou}")

    def fuse(self, models: Sequence[Detections], weights: Sequence[float] | None = None) -> Detections:
        """One image's detections of every model as one, by falling score; weights: of the models, null for equal ones.

        The order of the models does not matter, beyond rounding. Raises ValueError where there is no model, where the
        models speak of different images, mask sizes or alignments, and for weights that are not one above 0 for each.
        """
        own = _weights(models, weights)
        _check(models)
        if len(models) == 1 or not any(len(model) for model in models):
            return models[0]
        stacked, source = _stack(models)
        group = _groups(stacked, source, self.iou, self.per_class)
        share = own[source] * stacked.scores  # of each detection in its object
        count = int(group.max()) + 1
        scores = np.bincount(group, share, count) / own.sum()
        first = np.unique(group, return_index=True)[1]  # the surest of each group
        mean = _averaged(stacked, group, share, count) if self.method == "mean" else stacked.select(first)
        fused = replace(mean, scores=scores.astype(np.float32), labels=_labels(stacked.labels, group, share))
        return fused.select(np.argsort(-fused.scores, kind="stable"))


def reframed(masks: Float, boxes: Float, frames: Float) -> Float:
    """What masks (N, M, M) in the frames of boxes (N, 4) look like in other frames, (N, 4), half-open xyxy.

    Linear between the centres of bins, constant from the outermost ones to the box's sides, 0 beyond the box.
    """
    bins = masks.shape[-1]
    across = _looked_up(boxes[:, 0], boxes[:, 2], frames[:, 0], frames[:, 2], bins)
    down = _looked_up(boxes[:, 1], boxes[:, 3], frames[:, 1], frames[:, 3], bins)
    return np.asarray(down @ masks @ across.transpose(0, 2, 1), np.float32)


def _looked_up(low: Float, high: Float, other_low: Float, other_high: Float, bins: int) -> Float:
    """Weights (N, bins, bins) of the bins of low..high for each bin of other_low..other_high."""
    centre = other_low[:, None] + (np.arange(bins) + 0.5) / bins * (other_high - other_low)[:, None]
    place = (centre - low[:, None]) / np.maximum(high - low, 1e-6)[:, None] * bins
    inside = (place >= 0) & (place <= bins)
    hat = 1 - np.abs(np.clip(place - 0.5, 0, bins - 1)[:, :, None] - np.arange(bins))
    return np.asarray(np.maximum(hat, 0) * inside[:, :, None], np.float32)


def _averaged(stacked: Detections, group: Int, share: Float, count: int) -> Detections:
    """The mean box of each group, and the mean mask in it; shares count."""
    total = np.bincount(group, share, count)
    weight = (share / np.where(total > 0, total, 1)[group])[:, None]
    order = np.argsort(group, kind="stable")
    starts = np.searchsorted(group[order], np.arange(count))
    boxes = np.add.reduceat((weight * stacked.boxes)[order], starts).astype(np.float32)
    masks = reframed(stacked.masks, stacked.boxes, boxes[group]) * weight[:, :, None]
    mean = np.add.reduceat(masks[order], starts).clip(0, 1).astype(np.float32)
    return Detections(
        stacked.image_id, stacked.size, boxes, np.zeros(count, np.float32), np.zeros(count, np.int64), mean,
        stacked.alignment,
    )  # fmt: skip


def _labels(labels: Int, group: Int, share: Float) -> Int:
    """The label of each group that has the most share in it; of equal ones the smaller."""
    table = np.zeros((int(group.max()) + 1, int(labels.max()) + 1))
    np.add.at(table, (group, labels), share)
    table[:, 0] = -1  # no detection is background
    return np.asarray(table.argmax(1), np.int64)


def _weights(models: Sequence[Detections], weights: Sequence[float] | None) -> Float:
    if weights is not None and (len(weights) != len(models) or not all(weight > 0 for weight in weights)):
        raise ValueError(f"weights: wanted a number above 0 for each of {len(models)} models, got {list(weights)}")
    return np.asarray(weights if weights is not None else np.ones(len(models)), np.float32)


def _check(models: Sequence[Detections]) -> None:
    if not models:
        raise ValueError("no detections to fuse")
    kinds = {(m.image_id, m.size, m.masks.shape[-1], m.alignment) for m in models}
    if len(kinds) > 1:
        raise ValueError(f"detections of different images, mask sizes or alignments cannot be fused: {sorted(kinds)}")


def _stack(models: Sequence[Detections]) -> tuple[Detections, Int]:
    """All detections by falling score, ties by box, so that the models' order is irrelevant; and their models."""
    boxes = np.concatenate([m.boxes for m in models])
    scores = np.concatenate([m.scores for m in models])
    source = np.repeat(np.arange(len(models)), [len(m) for m in models])
    order = np.lexsort((*boxes.T[::-1], -scores))
    labels, masks = np.concatenate([m.labels for m in models]), np.concatenate([m.masks for m in models])
    stacked = Detections(models[0].image_id, models[0].size, boxes, scores, labels, masks, models[0].alignment)
    return stacked.select(order), source[order]


def _groups(stacked: Detections, source: Int, iou: float, per_class: bool) -> Int:
    """The group of each detection, int64 (N,): the best overlapping leader (of its class) without one of its model.

    A model never merges two detections of its own: it has decided already that they are two objects.
    """
    overlap = box_iou(stacked.boxes, stacked.boxes)
    if per_class:
        overlap[stacked.labels[:, None] != stacked.labels[None, :]] = 0
    group, leaders = np.full(len(stacked), -1, np.int64), np.zeros(len(stacked), np.int64)
    seen = np.zeros((len(stacked), int(source.max()) + 1), bool)
    count = 0
    for i in range(len(stacked)):
        free = np.where(seen[:count, source[i]], 0, overlap[i, leaders[:count]])
        best = int(free.argmax()) if count else 0
        if not count or free[best] < iou:
            best, leaders[count], count = count, i, count + 1
        group[i] = best
        seen[best, source[i]] = True
    return group


def box_iou(a: Float, b: Float) -> Float:
    """Intersection over union of boxes (Na, 4) and (Nb, 4), half-open xyxy, float32 (Na, Nb)."""
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    common = np.clip(high - low, 0, None).prod(2)
    area_a, area_b = ((box[:, 2:] - box[:, :2]).prod(1) for box in (a, b))
    union = area_a[:, None] + area_b[None, :] - common
    ratio: Float = common / np.maximum(union, np.float32(1e-9))
    return ratio
