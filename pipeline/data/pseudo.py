"""Pseudo-labels: what a run found in the test images, as more truth to train on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.data import coco as annotations
from pipeline.data.coco import Coco
from pipeline.errors import InputError
from pipeline.instances import Instances
from pipeline.masks.runs import area, boxes


@dataclass(frozen=True)
class Pseudo:
    """Which instances of the test images are believed.

    run: whose runs/<run>/instances_test.json, null for none. score: least of an instance, 0 to 1. What is below it is
    background, so the floor should be that of a submission or a little above; an image without any instance above it
    is left out. A validation flatters where the run was trained on the images that are validated.
    """

    run: str | None = None
    score: float = 0.8

    def __post_init__(self) -> None:
        if not 0 <= self.score <= 1:
            raise ValueError(f"score: wanted 0 to 1, got {self.score}")

    def added(self, coco: Coco, test: Mapping[str, Any], found: Sequence[Instances]) -> tuple[Coco, list[str]]:
        """The COCO dict with the test images and believed instances as well, and the names of these images.

        Raises InputError where a test image has the name of a training image.
        """
        known, images, rows = annotations.by_name(coco), [], []
        for one in found:
            sure = np.flatnonzero(one.scores >= self.score)
            if not len(sure):
                continue
            if one.image_id in known:
                raise InputError(f"pseudo: {one.image_id} is a training image and a test image")
            number = len(coco["images"]) + len(images) + 1
            image = next(image for image in test["images"] if image["name"] == one.image_id)
            images.append({**image, "id": number})
            rows += _rows(one, sure.tolist(), number, len(coco["annotations"]) + len(rows) + 1)
        added = {"images": [*coco["images"], *images], "annotations": [*coco["annotations"], *rows]}
        return {**coco, **added}, [image["name"] for image in images]


def _rows(one: Instances, chosen: Sequence[int], image: int, first: int) -> list[dict[str, Any]]:
    areas, sides, rles = area(one.runs), boxes(one.runs), one.rles()
    rows = []
    for number, i in enumerate(chosen, first):
        x0, y0, x1, y1 = (int(side) for side in sides[i])
        own = {"id": number, "image_id": image, "category_id": int(one.labels[i]), "iscrowd": 0}
        rows.append({**own, "segmentation": rles[i], "area": int(areas[i]), "bbox": [x0, y0, x1 - x0, y1 - y0]})
    return rows
