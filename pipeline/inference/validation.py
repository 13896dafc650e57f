"""What the validation images say of a training: the figures that select its weights, and pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from pipeline.competition import Competition
from pipeline.inference.postprocess import Rules, decide
from pipeline.instances import Detections, Instances
from pipeline.metrics.mean_precision import hits, mean_precision
from pipeline.metrics.scoring import as_submitted, score
from pipeline.plots import Panel, comparison

_THRESHOLDS = (0.3, 0.4, 0.5, 0.6, 0.7)  # of the score; a finer grid would choose by luck


@dataclass(frozen=True, eq=False)
class Validation:
    """The truth of some images, and how detections in them are decided and scored.

    truth: in the order in which detections will come. tuned: whether the best of some score thresholds is looked for.
    """

    truth: Sequence[Instances]
    rules: Rules
    competition: Competition
    tuned: bool = False

    def score(self, found: Sequence[Detections]) -> dict[str, float]:
        """The contest's metric, by which the best weights are chosen, and AP at IoU .5, which any contest has.

        Where thresholds are looked for, also `tuned_score`: the metric at the best of them, the rules' own included.
        """
        total, decided = self._total(found, self.rules)
        figures = {"score": total, "ap50": float(mean_precision(self.truth, decided, (50,)).pooled[0])}
        if self.tuned:
            others = (self._total(found, replace(self.rules, score=least))[0] for least in _THRESHOLDS)
            figures["tuned_score"] = max(total, *others)
        return figures

    def _total(self, found: Sequence[Detections], rules: Rules) -> tuple[float, list[Instances]]:
        decided = [decide(one, rules, self.competition.overlap) for one in found]
        sides = (as_submitted(side, self.competition) for side in (self.truth, decided))
        # A metric of nothing has no value, and no weights are the better for it.
        return float(np.nan_to_num(score(*sides, self.competition, by_class=True).total)), decided

    def picture(self, found: Sequence[Detections], read: Callable[[str], NDArray[np.uint8]], most: int) -> Figure:
        """The first images with hits, misses and false alarms; read: gives an image by its id, uint8 (H, W, 3)."""
        panels = []
        for one, truth in zip(found[:most], self.truth, strict=False):
            decided = decide(one, self.rules, self.competition.overlap)
            sides = (truth.runs, decided.runs, *hits(truth, decided, 50))
            panels.append(Panel(read(truth.image_id), *sides, truth.image_id[:16]))
        return comparison(panels)
