"""Fusion of the detections of several models for the same image: boxes, scores and soft masks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.inference.overlap import Pairs, box_pairs, mask_pairs
from pipeline.instances import Detections
from pipeline.masks.windows import linear

Int = NDArray[np.int64]
Float = NDArray[np.float32]


@dataclass(frozen=True)
class Fusion:
    """Detections that overlap become one.

    iou: of two detections from which on they count as one object, above 0, at most 1.
    method: "mean" averages boxes and masks, each counting by its score (weighted boxes fusion, Solovyev et al. 2021,
    arXiv:1910.13302); "best" takes those of the highest score (non-maximum suppression); "union" the box and the mask
    that hold all of them (non-maximum merging).
    per_class: whether detections of different classes stay apart; if not, the class with the most score wins.
    overlap: whether IoU is that of the boxes, or of the masks in the image, above probability .5.
    agreement: whether the score is the weighted mean over all models, so that what only one of k models sees keeps a
    k-th of its score; if not, over those that see the object ("mean") or the highest ("best", "union").
    Raises ValueError for an iou that is no share.
    """

    iou: float
    method: Literal["mean", "best", "union"] = "mean"
    per_class: bool = True
    overlap: Literal["boxes", "masks"] = "boxes"
    agreement: bool = True

    def __post_init__(self) -> None:
        if not 0 < self.iou <= 1:
            raise ValueError(f"iou: wanted a number above 0, at most 1, got {self.iou}")

    def fuse(self, models: Sequence[Detections], weights: Sequence[float] | None = None) -> Detections:
        """One image's detections of every model as one, by falling score; weights: of the models, null for equal ones.

        A model never merges two detections of its own: it has decided already that they are two objects. The order of
        the models does not matter, beyond rounding. Masks get the size of the largest of any model. Raises ValueError
        where there is no model, where the models speak of different images or alignments, and for weights that are not
        one above 0 for each.
        """
        own = _weights(models, weights)
        _check(models)
        models = _of_one_size(models)
        if len(models) == 1 or not any(len(model) for model in models):
            return models[0]
        stacked, source = _stack(models)
        pairs = mask_pairs(stacked) if self.overlap == "masks" else box_pairs(stacked.boxes)
        group = _groups(stacked.labels if self.per_class else np.zeros_like(stacked.labels), source, pairs, self.iou)
        share = own[source] * stacked.scores  # of each detection in its object
        objects = self._objects(stacked, group, share)
        scores = self._scores(stacked.scores, group, own[source], own.sum())
        fused = replace(objects, scores=scores.astype(np.float32), labels=_labels(stacked.labels, group, share))
        return fused.select(np.argsort(-fused.scores, kind="stable"))

    def _objects(self, stacked: Detections, group: Int, share: Float) -> Detections:
        if self.method == "best":
            return stacked.select(np.unique(group, return_index=True)[1])  # the surest of each group
        return _averaged(stacked, group, share) if self.method == "mean" else _united(stacked, group)

    def _scores(self, scores: Float, group: Int, weight: Float, every: float) -> Float:
        total = np.bincount(group, weight * scores)
        if self.agreement:
            return np.asarray(total / every)
        if self.method == "mean":
            return np.asarray(total / np.bincount(group, weight))
        return scores[np.unique(group, return_index=True)[1]]


def reframed(masks: Float, boxes: Float, frames: Float, side: int | None = None) -> Float:
    """What masks (N, M, M) in the frames of boxes (N, 4) look like in other frames, (N, 4), half-open xyxy; 0 to 1.

    Linear between the centres of bins, by the last slope from the outermost ones to the box's sides, 0 beyond the box.
    side: bins per side of the result, None for M.
    """
    bins = masks.shape[-1]
    across = _looked_up(boxes[:, 0], boxes[:, 2], frames[:, 0], frames[:, 2], bins, side or bins)
    down = _looked_up(boxes[:, 1], boxes[:, 3], frames[:, 1], frames[:, 3], bins, side or bins)
    return np.asarray((down @ masks @ across.transpose(0, 2, 1)).clip(0, 1), np.float32)


def _looked_up(low: Float, high: Float, other_low: Float, other_high: Float, bins: int, side: int) -> Float:
    """Weights (N, side, bins) of the bins of low..high for each of the `side` bins of other_low..other_high."""
    centre = other_low[:, None] + (np.arange(side) + 0.5) / side * (other_high - other_low)[:, None]
    place = (centre - low[:, None]) / np.maximum(high - low, 1e-6)[:, None] * bins
    inside = (place >= 0) & (place <= bins)
    return np.asarray(linear(np.where(inside, place, 0.5) - 0.5, bins) * inside[:, :, None], np.float32)


def _averaged(stacked: Detections, group: Int, share: Float) -> Detections:
    """The mean box of each group, and in it the mean of the masks as they lie in their own boxes; shares count.

    A mask says nothing of what lies beyond its box, so a mean taken in the image would draw every outline in to the
    smallest of the boxes. Measured on two trainings of DSB2018: .493 in the image, .506 box in box, best alone .498.
    """
    total = np.bincount(group, share)
    weight = (share / np.where(total > 0, total, 1)[group])[:, None]
    order, starts = _members(group)
    boxes = np.add.reduceat((weight * stacked.boxes)[order], starts)
    masks = np.add.reduceat((weight[:, :, None] * stacked.masks)[order], starts)
    return _unscored(stacked, boxes, masks.clip(0, 1))


def _united(stacked: Detections, group: Int) -> Detections:
    """The box that holds all boxes of each group, and in it of each bin the highest probability."""
    order, starts = _members(group)
    own = stacked.boxes[order]
    boxes = np.concatenate([np.minimum.reduceat(own[:, :2], starts), np.maximum.reduceat(own[:, 2:], starts)], 1)
    masks = reframed(stacked.masks, stacked.boxes, boxes[group])
    return _unscored(stacked, boxes, np.maximum.reduceat(masks[order], starts).clip(0, 1))


def _members(group: Int) -> tuple[Int, Int]:
    """The detections group by group, and where each group begins among them."""
    order = np.argsort(group, kind="stable")
    return order, np.searchsorted(group[order], np.arange(int(group.max()) + 1))


def _unscored(stacked: Detections, boxes: Float, masks: Float) -> Detections:
    scores, labels = np.zeros(len(boxes), np.float32), np.zeros(len(boxes), np.int64)
    shape = (boxes.astype(np.float32), scores, labels, masks.astype(np.float32))
    return Detections(stacked.image_id, stacked.size, *shape, stacked.alignment)


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
    kinds = {(m.image_id, m.size, m.alignment) for m in models}
    if len(kinds) > 1:
        raise ValueError(f"detections of different images or alignments cannot be fused: {sorted(kinds)}")


def _of_one_size(models: Sequence[Detections]) -> list[Detections]:
    """The models with the masks of all resampled, in their boxes, to the largest M."""
    side = max(m.masks.shape[-1] for m in models)
    return [
        m if m.masks.shape[-1] == side else replace(m, masks=reframed(m.masks, m.boxes, m.boxes, side)) for m in models
    ]


def _stack(models: Sequence[Detections]) -> tuple[Detections, Int]:
    """All detections by falling score, ties by box, so that the models' order is irrelevant; and their models."""
    boxes = np.concatenate([m.boxes for m in models])
    scores = np.concatenate([m.scores for m in models])
    source = np.repeat(np.arange(len(models)), [len(m) for m in models])
    order = np.lexsort((*boxes.T[::-1], -scores))
    labels, masks = np.concatenate([m.labels for m in models]), np.concatenate([m.masks for m in models])
    stacked = Detections(models[0].image_id, models[0].size, boxes, scores, labels, masks, models[0].alignment)
    return stacked.select(order), source[order]


def _groups(labels: Int, source: Int, pairs: Pairs, iou: float) -> Int:
    """The group of each detection, int64 (N,): the best overlapping leader (of its label) without one of its model.

    Detections by falling score; pairs: of those that overlap, as `box_pairs` gives them.
    """
    i, j, overlap = pairs
    close = (overlap >= np.float32(iou)) & (labels[i] == labels[j]) & (source[i] != source[j])
    i, j, overlap = i[close], j[close], overlap[close]
    order = np.lexsort((j, -overlap, i))  # of equal overlaps the surest leader first
    bounds = np.searchsorted(i[order], np.arange(len(labels) + 1)).tolist()
    stronger, model = j[order].tolist(), source.tolist()
    group, leads, members = [-1] * len(labels), [False] * len(labels), list[set[int]]()
    for k in range(len(labels)):
        rivals = (group[at] for at in stronger[bounds[k] : bounds[k + 1]] if leads[at])
        best = next((own for own in rivals if model[k] not in members[own]), len(members))
        if best == len(members):
            leads[k] = True
            members.append(set())
        group[k] = best
        members[best].add(model[k])
    return np.array(group, np.int64)
