"""Fusion of the detections of several models for the same image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.instances import Detections


@dataclass(frozen=True)
class Mean:
    """Detections of one class whose boxes agree are averaged: box, score and mask, each model counting the same.

    iou: of two boxes from which on they count as one object, 0 to 1. A model that does not see an object counts with
    score 0, so what only one of k models sees keeps a k-th of its score.
    """

    iou: float

    def fuse(self, models: Sequence[Detections]) -> Detections:
        """One image's detections of every model as one. The order of the models does not matter, beyond rounding.

        Raises ValueError when there is no model, or the models speak of different images or mask sizes.
        """
        _check(models)
        if len(models) == 1 or not any(len(model) for model in models):
            return models[0]
        stacked, source = _stack(models)
        groups = _clusters(stacked, source, self.iou)
        weight = np.zeros((groups.max(initial=-1) + 1, len(stacked)), np.float32)
        weight[groups, np.arange(len(stacked))] = 1
        members = weight.sum(1, keepdims=True)
        share = weight / np.maximum(members, 1)
        first = weight.argmax(1)
        side = stacked.masks.shape[-1]
        masks = (share @ stacked.masks.reshape(len(stacked), -1)).reshape(-1, side, side)
        scores = weight @ stacked.scores / np.float32(len(models))
        boxes, labels = share @ stacked.boxes, stacked.labels[first]
        fused = Detections(
            stacked.image_id, stacked.size, boxes, scores, labels, np.clip(masks, 0, 1), stacked.alignment
        )
        return fused.select(np.argsort(-scores, kind="stable"))


def _check(models: Sequence[Detections]) -> None:
    if not models:
        raise ValueError("no detections to fuse")
    kinds = {(m.image_id, m.size, m.masks.shape[-1], m.alignment) for m in models}
    if len(kinds) > 1:
        raise ValueError(f"detections of different images, mask sizes or alignments cannot be fused: {sorted(kinds)}")


def _stack(models: Sequence[Detections]) -> tuple[Detections, NDArray[np.int64]]:
    """All detections by falling score, ties by box, so that the models' order is irrelevant; and their models."""
    boxes = np.concatenate([m.boxes for m in models])
    scores = np.concatenate([m.scores for m in models])
    source = np.repeat(np.arange(len(models)), [len(m) for m in models])
    order = np.lexsort((*boxes.T[::-1], -scores))
    labels, masks = np.concatenate([m.labels for m in models]), np.concatenate([m.masks for m in models])
    stacked = Detections(models[0].image_id, models[0].size, boxes, scores, labels, masks, models[0].alignment)
    return stacked.select(order), source[order]


def _clusters(stacked: Detections, source: NDArray[np.int64], iou: float) -> NDArray[np.int64]:
    """The group of each detection, int64 (N,): the best overlapping leader of its class without one of its model.

    A model never merges two detections of its own: it has decided already that they are two objects.
    """
    overlap = box_iou(stacked.boxes, stacked.boxes)
    overlap[stacked.labels[:, None] != stacked.labels[None, :]] = 0
    group = np.full(len(stacked), -1, np.int64)
    leaders: list[int] = []
    seen: list[set[int]] = []
    for i in range(len(stacked)):
        candidates = [(overlap[i, leader], -k) for k, leader in enumerate(leaders) if overlap[i, leader] >= iou]
        free = [(value, k) for value, k in candidates if int(source[i]) not in seen[-k]]
        if free:
            group[i] = -max(free)[1]
            seen[group[i]].add(int(source[i]))
        else:
            group[i] = len(leaders)
            leaders.append(i)
            seen.append({int(source[i])})
    return group


def box_iou(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float32]:
    """Intersection over union of boxes (Na, 4) and (Nb, 4), half-open xyxy, float32 (Na, Nb)."""
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    common = np.clip(high - low, 0, None).prod(2)
    area_a, area_b = ((box[:, 2:] - box[:, :2]).prod(1) for box in (a, b))
    union = area_a[:, None] + area_b[None, :] - common
    ratio: NDArray[np.float32] = common / np.maximum(union, np.float32(1e-9))
    return ratio
