"""One call for the metric of any contest."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np

from pipeline.competition import Competition
from pipeline.instances import Instances
from pipeline.masks.resize import resized
from pipeline.masks.runs import area
from pipeline.metrics.average_precision import average_precision
from pipeline.metrics.coco import coco_ap
from pipeline.metrics.dice import mean_dice
from pipeline.metrics.mean_precision import counted
from pipeline.metrics.score import Score

log = logging.getLogger(__name__)


def score(
    truth: Sequence[Instances], predicted: Sequence[Instances], competition: Competition, by_class: bool
) -> Score:
    """The contest's own metric of predictions against truth, paired by image_id, both at the same size.

    Categories that are not submitted do not count, on either side. by_class: whether the score is broken down by class;
    false for a submission without classes, whose labels mean nothing to a metric that does not ask for them.
    Raises InputError for an id that occurs twice or that the truth does not have, for sizes that differ, and where
    there is no image at all.
    """
    names = {competition.categories[label - 1]: label for label in competition.labels().values()}
    truth = [_only(one, names.values()) for one in truth]
    if by_class:
        predicted = [_only(one, names.values()) for one in predicted]
    shown = names if by_class else {}
    thresholds = competition.iou_thresholds
    match competition.metric:
        case "dice":
            found: Score = mean_dice(truth, predicted, names)
        case "average_precision":
            found = average_precision(truth, predicted, thresholds, names)
        case "coco":
            found = coco_ap(truth, predicted, thresholds, names)
        case kind:
            found = counted(kind, truth, predicted, thresholds, shown)
    return replace(found, per_class={name: value for name, value in found.per_class.items() if name in shown})


def as_submitted(images: Sequence[Instances], competition: Competition) -> list[Instances]:
    """The same at the size at which the contest scores; an instance of which nothing is left there goes."""
    result = []
    for one in images:
        size = competition.submitted(one.size)
        if size == tuple(one.size):
            result.append(one)
            continue
        runs = resized(one.runs, size)
        kept = np.flatnonzero(area(runs))
        result.append(Instances.of_runs(one.image_id, runs.select(kept), one.scores[kept], one.labels[kept]))
    gone = sum(map(len, images)) - sum(map(len, result))
    if gone:
        log.info("instances without a pixel at the size at which the contest scores, which do not count: %d", gone)
    return result


def _only(image: Instances, labels: Iterable[int]) -> Instances:
    kept = np.isin(image.labels, list(labels))
    return image if kept.all() else image.select(kept)
