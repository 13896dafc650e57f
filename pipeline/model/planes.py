"""Target planes of a segmentation: what each pixel of a picture is, from the masks of its instances.

One label plane says whose a pixel is. Where instances overlap, the smaller one has it: it would vanish under the
larger, which loses little.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from pipeline.masks.windows import Windows

Plane = NDArray[np.float32]
Labels = NDArray[np.int32]


def label_plane(masks: Windows) -> Labels:
    """int32 (H, W): 0, or the number from 1 of the mask that has the pixel, the smallest of those that hold it."""
    height, width = masks.size
    plane = np.zeros((width, height), np.int32)  # as windows are: down the columns
    ends = masks.offset + (masks.boxes[:, 2:] - masks.boxes[:, :2]).prod(1)
    filled = np.append(0, np.cumsum(masks.data, dtype=np.int64))
    areas = filled[ends] - filled[masks.offset]
    for i in np.argsort(-areas, kind="stable").tolist():
        x0, y0, x1, y1 = masks.boxes[i].tolist()
        own = masks.data[masks.offset[i] : ends[i]].reshape(x1 - x0, y1 - y0)
        plane[x0:x1, y0:y1][own > 0] = i + 1
    return np.ascontiguousarray(plane.T)


def between(labels: Labels, reach: int) -> Plane:
    """float32 (H, W), 0 or 1: pixels with two instances within `reach` rows and columns, such as where they touch."""
    window = 2 * reach + 1
    most = ndimage.maximum_filter(labels, window, mode="nearest")
    least = ndimage.minimum_filter(np.where(labels > 0, labels, np.iinfo(np.int32).max), window, mode="nearest")
    return (least < most).astype(np.float32)


def depth(labels: Labels) -> Plane:
    """float32 (H, W), 0 to 1: distance to the rim of the own instance as a share of the deepest pixel's; outside 0.

    A pixel of the rim has the distance 1, its neighbour inwards 2. The picture's border is no rim: an instance that it
    cuts goes on beyond.
    """
    if not labels.any():
        return np.zeros(labels.shape, np.float32)
    rim = np.zeros(labels.shape, bool)
    for axis in (0, 1):
        one, other = np.moveaxis(labels, axis, 0)[1:], np.moveaxis(labels, axis, 0)[:-1]
        turned = np.moveaxis(rim, axis, 0)
        turned[1:] |= one != other
        turned[:-1] |= one != other
    inner = (labels > 0) & ~rim
    # Without a rim anywhere one instance fills the picture, and all of it is as deep.
    distance = (ndimage.distance_transform_edt(inner) if not inner.all() else np.zeros(labels.shape)) + 1
    deepest = np.zeros(int(labels.max()) + 1)
    np.maximum.at(deepest, labels, distance)
    return np.where(labels > 0, distance / np.maximum(deepest[labels], 1), 0).astype(np.float32)
