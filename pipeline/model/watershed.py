"""Instances from planes: a watershed over the foreground, and each region as a soft mask in the frame of its box."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from skimage.segmentation import watershed

from pipeline.instances import Detections
from pipeline.masks.windows import Windows
from pipeline.model.targets import mask_targets

Plane = NDArray[np.float32]
Mask = NDArray[np.bool_]
Labels = NDArray[np.int32]


def regions(inside: Mask, height: Plane, tops: Mask, min_area: int) -> Labels:
    """The foreground cut into regions, int32 (H, W): 0, or the number of the region, 1 to N without a gap.

    inside: bool (H, W), the foreground. height: float32 (H, W), high in the middle of an instance, low where two of
    them touch; the regions grow downhill from the tops (Vincent and Soille 1991). tops: bool (H, W): each connected
    part of them in the foreground becomes a region; so does a connected part of the foreground that has none. Regions
    smaller than `min_area` pixels are dropped.
    """
    markers, count = ndimage.label(inside & tops)
    parts, number = ndimage.label(inside)
    topped = np.zeros(number + 1, bool)
    topped[parts[markers > 0]] = True
    topped[0] = True
    lonely = ~topped[parts]
    markers[lonely] = count + parts[lonely]
    labels = watershed(-height, markers, mask=inside)
    kept = np.bincount(labels.ravel()) >= max(min_area, 1)
    kept[0] = False
    return np.asarray(np.where(kept, np.cumsum(kept), 0)[labels], np.int32)


def detections(
    labels: Labels,
    foreground: Plane,
    threshold: float,
    classes: NDArray[np.float32],
    image_id: str,
    mask_size: int,
    score_floor: float = 0.0,
    height: Plane | None = None,
) -> Detections:
    """The regions of one image as detections, by falling score.

    labels: int32 (H, W) as `regions` gives them. foreground: float32 (H, W), probabilities 0 to 1, above `threshold`
    (0 to 1) in every region. classes: float32 (C, H, W), each pixel's probability of each class, (0, H, W) where there
    is one class only. score_floor: the least score. height: float32 (H, W), 0 to 1, as `regions` takes it.
    A region's score is the mean probability of foreground in it; where there is a height, the root of that times the
    region's highest; times the mean probability of its class, which is the class of which that is highest. Its mask,
    mask_size × mask_size in the region's tight box, is the mean over each bin of the probability of foreground,
    stretched so that `threshold` becomes 0.5, and 0 in other regions. Pasted at 0.5 it is the region, as well as its
    bins allow; a lower threshold lets it grow within its box.
    """
    size, count = (labels.shape[0], labels.shape[1]), int(labels.max(initial=0))
    pixels = np.maximum(np.bincount(labels.ravel(), minlength=count + 1), 1)

    def mean(plane: Plane) -> NDArray[np.float64]:
        return (np.bincount(labels.ravel(), plane.ravel(), count + 1) / pixels)[1:]

    scores, category = mean(foreground), np.ones(count, np.int64)
    if height is not None:
        highest = np.zeros(count + 1)
        np.maximum.at(highest, labels, height)
        scores = np.sqrt(scores * highest[1:])
    if len(classes):
        table = np.stack([mean(plane) for plane in classes])
        category, scores = table.argmax(0) + 1, scores * table.max(0)
    sure = scores.clip(0, 1).astype(np.float32)
    order = np.argsort(-sure, kind="stable")
    order = order[sure[order] >= score_floor]
    cut = _windows(labels, _stretched(foreground, threshold), order + 1)
    box = torch.from_numpy(cut.boxes).float()
    # Masks are linear in the values of their pixels, which here are probabilities.
    masks = mask_targets(cut, torch.arange(len(order)), box, mask_size).numpy()
    return Detections(image_id, size, box.numpy(), sure[order], category[order].astype(np.int64), masks)


def _stretched(plane: Plane, threshold: float) -> Plane:
    """Probabilities 0 to 1 with `threshold` at 0.5, in two straight lines."""
    low = plane * (0.5 / max(threshold, 1e-6))
    high = 0.5 + (plane - threshold) * (0.5 / max(1 - threshold, 1e-6))
    return np.where(plane > threshold, high, low).clip(0, 1).astype(np.float32)


def _windows(labels: Labels, soft: Plane, numbers: NDArray[np.int64]) -> Windows:
    """`soft` in the tight boxes of the regions of these numbers, but 0 where another region is: float32 data."""
    places = ndimage.find_objects(labels)
    box, data = np.zeros((len(numbers), 4), np.int64), [np.zeros(0, np.float32)]
    for i, number in enumerate(numbers.tolist()):
        rows, columns = places[number - 1]
        own = labels[rows, columns]
        box[i] = columns.start, rows.start, columns.stop, rows.stop
        data.append(np.where((own == number) | (own == 0), soft[rows, columns], 0).T.ravel())
    areas = (box[:, 2:] - box[:, :2]).prod(1)
    # The type says bytes of 0 and 1, and what follows takes any number.
    return Windows((labels.shape[0], labels.shape[1]), box, np.concatenate(data), np.cumsum(areas) - areas)  # type: ignore[arg-type]
