"""What the validation images say of a training: the figures that select its weights, and pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from pipeline.competition import Competition
from pipeline.errors import ConfigError
from pipeline.inference.postprocess import Rules, decide
from pipeline.instances import Detections, Instances
from pipeline.metrics.mean_precision import hits, mean_precision
from pipeline.metrics.presence import log_loss, ranking
from pipeline.metrics.scoring import as_submitted, score
from pipeline.model.classifier import Classifier
from pipeline.model.families import Description
from pipeline.plots import Labelled, Panel, annotated, comparison

Read = Callable[[str], NDArray[np.uint8]]
_THRESHOLDS = (0.3, 0.4, 0.5, 0.6, 0.7)  # of the score; a finer grid would choose by luck
_NAMED = 3  # categories above a picture


class Judge(Protocol):
    """What turns the detections of the validation images, in their order, into figures and a picture."""

    def score(self, found: Sequence[Detections]) -> dict[str, float]:
        """Figures by name, of all of which more is better where weights are chosen by them."""

    def picture(self, found: Sequence[Detections], read: Read, most: int) -> Figure:
        """The first images and what was found; read: gives an image by its id, uint8 (H, W, 3)."""


def judge_of(
    model: Description, truth: Sequence[Instances], rules: Rules, competition: Competition, tuned: bool
) -> Judge:
    """The judge of a model's detections; of a classifier's, which have no masks, another than of the others'.

    Raises ConfigError for a classifier whose weights are to be chosen by thresholds, of which it has none.
    """
    if not isinstance(model, Classifier):
        return Validation(truth, rules, competition, tuned)
    if tuned:
        raise ConfigError(
            "trainer.select: a classifier has no thresholds to tune; wanted score or last, got tuned_score"
        )
    return PresenceValidation(truth, competition)


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
        return self.total(decided), decided

    def decided(self, found: Detections) -> Instances:
        """The instances of an image by the rules."""
        return decide(found, self.rules, self.competition.overlap)

    def total(self, decided: Sequence[Instances]) -> float:
        """The contest's metric of the instances of the images, in their order."""
        sides = (as_submitted(side, self.competition) for side in (self.truth, decided))
        # A metric of nothing has no value, and no weights are the better for it.
        return float(np.nan_to_num(score(*sides, self.competition, by_class=True).total))

    def picture(self, found: Sequence[Detections], read: Read, most: int) -> Figure:
        """The first images with hits, misses and false alarms; read: gives an image by its id, uint8 (H, W, 3)."""
        panels = []
        for one, truth in zip(found[:most], self.truth, strict=False):
            decided = decide(one, self.rules, self.competition.overlap)
            sides = (truth.runs, decided.runs, *hits(truth, decided, 50))
            panels.append(Panel(read(truth.image_id), *sides, truth.image_id[:16]))
        return comparison(panels)


@dataclass(frozen=True, eq=False)
class PresenceValidation:
    """The truth of some images, of which only what is there counts; see `pipeline.model.classifier`.

    truth: in the order in which detections will come.
    """

    truth: Sequence[Instances]
    competition: Competition

    def score(self, found: Sequence[Detections]) -> dict[str, float]:
        """The log loss; the `score`, 0 to 1, by which the best weights are chosen: the geometric mean of the
        probabilities that were given to what is true, exp(-log loss); and where images differ the area under the ROC
        curve, as a mean over the categories. Any contest's own metric wants masks.
        """
        probable = np.stack([one.scores for one in found]) if found else np.zeros((0, 1), np.float32)
        there = np.zeros(probable.shape, bool)
        for row, one in zip(there, self.truth, strict=True):
            row[one.labels - 1] = True
        loss, area = log_loss(probable, there), ranking(probable, there)
        return {"score": float(np.exp(-loss)), "log_loss": loss, **({} if area is None else {"auc": area})}

    def picture(self, found: Sequence[Detections], read: Read, most: int) -> Figure:
        """The first images with the outlines of what is there; above each the categories that are likeliest to be."""
        shown = [
            Labelled(read(truth.image_id), truth.runs, truth.labels, _said(one, self.competition.categories))
            for one, truth in zip(found[:most], self.truth, strict=False)
        ]
        return annotated(shown, self.competition.categories)


def _said(one: Detections, categories: Sequence[str]) -> str:
    likely = np.argsort(-one.scores, kind="stable")[:_NAMED].tolist()
    return ", ".join([one.image_id[:16], *(f"{categories[i]} {one.scores[i]:.2f}" for i in likely)])
