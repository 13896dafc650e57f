"""From soft detections to decided instances: the one way from `Detections` to `Instances`, none leads back."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.instances import Detections, Instances
from pipeline.masks.geometry import remove_overlaps
from pipeline.masks.runs import area, to_coco
from pipeline.masks.windows import paste


@dataclass(frozen=True)
class Rules:
    """What becomes an instance.

    score: detections below it are dropped, 0 to 1. mask: probability above which a pixel belongs, 0 to 1.
    min_area: smallest instance in pixels, after overlaps are removed.
    """

    score: float
    mask: float
    min_area: int


def decide(detections: Detections, rules: Rules, overlap: str) -> Instances:
    """The instances of one image, by falling score.

    overlap: "forbidden" gives each pixel to the instance of the highest score that holds it; "allowed" leaves masks
    as they are.
    """
    sure = detections.select(detections.scores >= rules.score)
    sure = sure.select(np.argsort(-sure.scores, kind="stable"))
    runs = paste(sure.masks, sure.boxes, sure.size, rules.mask)
    if overlap == "forbidden":
        runs = remove_overlaps(runs, sure.scores)
    keep = np.flatnonzero(area(runs) >= max(rules.min_area, 1))
    masks = tuple(to_coco(runs.select(keep)))
    return Instances(sure.image_id, sure.size, sure.scores[keep], sure.labels[keep], masks)
