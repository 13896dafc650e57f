"""From soft detections to decided instances: the one way from `Detections` to `Instances`, none leads back."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.instances import Detections, Instances
from pipeline.masks.geometry import remove_overlaps
from pipeline.masks.runs import Runs, area, pixels, to_coco
from pipeline.masks.windows import paste


@dataclass(frozen=True)
class Rules:
    """What becomes an instance.

    score: detections below it are dropped, 0 to 1. mask: probability above which a pixel belongs, 0 to 1.
    min_area: smallest instance in pixels, after overlaps are removed. min_share: an instance to which stronger ones
    leave a smaller share of its mask than this, 0 to 1, is dropped; most such leftovers are second answers for one
    object, of another class or with a box too different for the detector's NMS.
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
    """Masks without overlaps, by falling score. What is dropped for keeping too little takes nothing from the rest."""
    taken = np.zeros(runs.size[0] * runs.size[1], bool)
    place, _ = pixels(runs)
    keep = []
    for i, own in enumerate(np.split(place, np.cumsum(area(runs))[:-1])) if len(runs) else ():
        if np.count_nonzero(~taken[own]) >= min_share * own.size:
            taken[own] = True
            keep.append(i)
    kept = np.array(keep, np.int64)
    return detections.select(kept), remove_overlaps(runs.select(kept), detections.scores[kept])
