"""From soft detections to decided instances: the one way from `Detections` to `Instances`, none leads back."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.instances import Detections, Instances
from pipeline.masks.geometry import remove_overlaps
from pipeline.masks.runs import Runs, area, to_coco
from pipeline.masks.windows import paste


@dataclass(frozen=True)
class Rules:
    """What becomes an instance.

    score: detections below it are dropped, 0 to 1. mask: probability above which a pixel belongs, 0 to 1.
    min_area: smallest instance in pixels, after overlaps are removed. min_share: an instance that loses more than the
    rest of its own mask to stronger ones is dropped, 0 to 1; most such leftovers are second answers for one object, of
    another class or with a box too different for the detector's NMS.
    """

    score: float
    mask: float
    min_area: int
    min_share: float


def decide(detections: Detections, rules: Rules, overlap: str) -> Instances:
    """The instances of one image, by falling score.

    overlap: "forbidden" gives each pixel to the instance of the highest score that holds it; "allowed" leaves masks
    as they are.
    """
    sure = detections.select(detections.scores >= rules.score)
    sure = sure.select(np.argsort(-sure.scores, kind="stable"))
    runs = paste(sure.masks, sure.boxes, sure.size, rules.mask)
    if overlap == "forbidden":
        sure, runs = _share_out(sure, runs, rules.min_share)
    keep = np.flatnonzero(area(runs) >= max(rules.min_area, 1))
    masks = tuple(to_coco(runs.select(keep)))
    return Instances(sure.image_id, sure.size, sure.scores[keep], sure.labels[keep], masks)


def _share_out(detections: Detections, runs: Runs, min_share: float) -> tuple[Detections, Runs]:
    """Masks without overlaps; what keeps too little of its own is dropped first, and its pixels go back to the rest."""
    left = area(remove_overlaps(runs, detections.scores))
    keep = np.flatnonzero(left >= min_share * area(runs))
    kept = detections.select(keep)
    return kept, remove_overlaps(runs.select(keep), kept.scores)
