"""Annotations of many images in flat arrays: what training reads, without an object per instance.

Worker processes share the arrays copy-on-write, and only instances that touch a crop are ever looked at.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.masks.runs import Runs, boxes, from_coco

Box = tuple[int, int, int, int]


@dataclass(frozen=True, eq=False)
class Annotations:
    """Truth of n images.

    image_ids: contest ids. files: paths inside the contest's folder. sizes: int64 (n, 2) H, W.
    runs: per image, int32 start and stop of all runs, column-major. bounds: per image, int64 (N + 1,), the runs of each
    instance. labels: per image int64 (N,). boxes: per image int64 (N, 4), tight, half-open xyxy.
    """

    image_ids: tuple[str, ...]
    files: tuple[str, ...]
    sizes: NDArray[np.int64]
    start: tuple[NDArray[np.int32], ...]
    stop: tuple[NDArray[np.int32], ...]
    bounds: tuple[NDArray[np.int64], ...]
    labels: tuple[NDArray[np.int64], ...]
    boxes: tuple[NDArray[np.int64], ...]

    def __len__(self) -> int:
        return len(self.image_ids)

    def touching(self, image: int, box: Box) -> tuple[Runs, NDArray[np.int64]]:
        """Masks (whole, on the image's canvas) and labels of the instances whose box meets `box` (x0 y0 x1 y1)."""
        own = self.boxes[image]
        chosen = np.flatnonzero((own[:, :2] < box[2:]).all(1) & (own[:, 2:] > box[:2]).all(1))
        size = (int(self.sizes[image, 0]), int(self.sizes[image, 1]))
        bounds = self.bounds[image]
        instance = np.repeat(np.arange(len(own)), np.diff(bounds))
        start, stop = self.start[image].astype(np.int64), self.stop[image].astype(np.int64)
        return Runs(size, len(own), start, stop, instance).select(chosen), self.labels[image][chosen]


def gather(coco: Mapping[str, Any], image_ids: Sequence[str]) -> Annotations:
    """Annotations of the named images of a COCO dict, in that order."""
    images = {image["name"]: image for image in coco["images"]}
    chosen = [images[name] for name in image_ids]
    rows: dict[int, list[Mapping[str, Any]]] = {image["id"]: [] for image in chosen}
    for row in coco["annotations"]:
        if row["image_id"] in rows:
            rows[row["image_id"]].append(row)
    sizes = [(image["height"], image["width"]) for image in chosen]
    masks = [
        from_coco([row["segmentation"]["counts"] for row in rows[image["id"]]], size)
        for image, size in zip(chosen, sizes, strict=True)
    ]
    return Annotations(
        tuple(image_ids),
        tuple(image["file_name"] for image in chosen),
        np.array(sizes, np.int64).reshape(-1, 2),
        tuple(runs.start.astype(np.int32) for runs in masks),
        tuple(runs.stop.astype(np.int32) for runs in masks),
        tuple(runs.bounds() for runs in masks),
        tuple(np.array([row["category_id"] for row in rows[image["id"]]], np.int64) for image in chosen),
        tuple(boxes(runs) for runs in masks),
    )
