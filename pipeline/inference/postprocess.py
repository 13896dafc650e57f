"""From soft detections to decided instances: the one way from `Detections` to `Instances`, none leads back."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.competition import Competition, Overlap
from pipeline.inference.paste import paste
from pipeline.instances import Detections, Instances
from pipeline.masks.geometry import nms, share_out
from pipeline.masks.runs import Runs, area, concatenate
from pipeline.masks.shape import fill_holes, largest_part

Int = NDArray[np.int64]


@dataclass(frozen=True)
class Rules:
    """What becomes an instance.

    score: detections below it are dropped, 0 to 1; null: what the contest's metric wants, see `settled`.
    mask: probability above which a pixel belongs, 0 to 1.
    min_area: smallest instance in pixels, after overlaps are removed. min_share: an instance to which those before it
    leave a smaller share of its mask than this, 0 to 1, is dropped; most such leftovers are second answers for one
    object, of another class or with a box too different for the detector's NMS.
    order: who comes before whom where masks overlap: the higher score, the smaller or the larger mask. Among equals
    it is the higher score.
    holes: whether holes of a mask are filled. parts: whether a mask keeps all its parts or only the largest.
    nms: IoU of two masks, 0 to 1, above which the one of lower score is dropped, of whatever class; null drops none.
    Raises ValueError for a number out of its range.
    """

    score: float | None
    mask: float
    min_area: int
    min_share: float
    order: Literal["score", "small_first", "large_first"] = "score"
    holes: Literal["keep", "fill"] = "keep"
    parts: Literal["all", "largest"] = "all"
    nms: float | None = None

    def __post_init__(self) -> None:
        for name in ("score", "mask", "min_share", "nms"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1:
                raise ValueError(f"{name}: wanted a number from 0 to 1, got {value}")
        if self.min_area < 0:
            raise ValueError(f"min_area: wanted 0 pixels or more, got {self.min_area}")

    def settled(self, competition: Competition) -> Rules:
        """The same with a score threshold.

        Where it is null: 0.5 where a false alarm costs as much as a miss; 0 where the metric ranks instances by score,
        since what comes last cannot spoil what came before.
        """
        return self if self.score is not None else replace(self, score=0.0 if competition.ranked else 0.5)


def decide(detections: Detections, rules: Rules, overlap: Overlap) -> Instances:
    """The instances of one image, by falling score.

    rules: settled ones. overlap: "forbidden" gives each pixel to one instance, the first in `rules.order` that holds
    it; "within_class" to one of each class; "allowed" leaves masks as they are.

    In this sequence: score threshold, mask threshold, holes, parts, NMS, overlaps with min_share, parts again,
    min_area.
    The shape of a mask is put right first, for its own sake: NMS and min_share then compare what would be submitted.
    Where overlaps are removed a mask may fall apart once more. A hole that another instance made stays, and what is
    dropped after the overlaps are removed goes to no one.
    As long as the order is by score, whatever is said of an instance depends on those of higher score alone: a higher
    score threshold or min_area gives some of the same instances, unchanged. `pipeline.metrics.sweep` rests on that.
    """
    if rules.score is None:
        raise ValueError("score: wanted a number from 0 to 1, got null; Rules.settled gives the contest's")
    sure = detections.select(detections.scores >= rules.score)
    sure = sure.select(np.argsort(-sure.scores, kind="stable"))
    runs = paste(sure, rules.mask)
    runs = fill_holes(runs) if rules.holes == "fill" else runs
    runs = largest_part(runs) if rules.parts == "largest" else runs
    if rules.nms is not None:
        kept = nms(runs, sure.scores, rules.nms)
        sure, runs = sure.select(kept), runs.select(kept)
    if overlap != "allowed":
        kept, runs = _share_out_each(runs, sure.labels, rules) if overlap == "within_class" else _share_out(runs, rules)
        sure = sure.select(kept)
        runs = largest_part(runs) if rules.parts == "largest" else runs
    keep = np.flatnonzero(area(runs) >= max(rules.min_area, 1))
    return Instances.of_runs(sure.image_id, runs.select(keep), sure.scores[keep], sure.labels[keep])


def _share_out_each(runs: Runs, labels: Int, rules: Rules) -> tuple[Int, Runs]:
    """`_share_out` among the masks of each class by itself."""
    own = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    parts = [_share_out(runs.select(index), rules) for index in own]
    kept = np.concatenate([np.zeros(0, np.int64), *(index[k] for index, (k, _) in zip(own, parts, strict=True))])
    order = np.argsort(kept)
    return kept[order], concatenate([shared for _, shared in parts], runs.size).select(order)


def _share_out(runs: Runs, rules: Rules) -> tuple[Int, Runs]:
    """Indices, rising, of the masks that stay, and what they keep; masks come by falling score."""
    if rules.order == "score":
        return share_out(runs, rules.min_share)
    areas = area(runs)
    order = np.argsort(areas if rules.order == "small_first" else -areas, kind="stable")
    kept, shared = share_out(runs.select(order), rules.min_share)
    back = np.argsort(order[kept])
    return order[kept][back], shared.select(back)
