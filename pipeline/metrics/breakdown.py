"""A score looked at from several sides: by the size of the objects, by how many an image has, by confidence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.instances import Instances
from pipeline.masks.runs import area
from pipeline.metrics.errors import Verdicts
from pipeline.metrics.score import Float, Int


@dataclass(frozen=True)
class Group:
    """A part of the objects, images or predictions.

    low, high: of what they are parted by, the least and the largest value. count: how many. values: figures, 0 to 1.
    """

    low: float
    high: float
    count: int
    values: tuple[float, ...]


def by_size(
    truth: Sequence[Instances], verdicts: Sequence[Verdicts], thresholds: Sequence[int] = (50, 75, 90), parts: int = 5
) -> list[Group]:
    """The share of the truth's instances that are found, for parts of about equal number by area in pixels.

    verdicts: of the same images. values: the share found with an IoU above each threshold (hundredths); a hit, a wrong
    class and a loose mask are found where their IoU says so.
    """
    areas = np.concatenate([np.zeros(0, np.int64), *(area(one.runs) for one in truth)])
    iou = np.concatenate([np.zeros(0), *(_found(one) for one in verdicts)])
    shares = np.stack([iou > threshold / 100 for threshold in thresholds], 1)
    return _groups(areas, shares.astype(float), parts)


def by_density(truth: Sequence[Instances], scores: Float, parts: int = 5) -> list[Group]:
    """The mean of the images' scores, float64 (n,), 0 to 1, for equal parts by the truth's number of instances."""
    return _groups(np.array([len(one) for one in truth], np.int64), np.asarray(scores)[:, None], parts)


def by_confidence(predicted: Sequence[Instances], verdicts: Sequence[Verdicts], parts: int = 10) -> list[Group]:
    """The share of the predictions that are hits, by their own scores, in equal ranges from 0 to 1 that hold any.

    values: mean score and share of hits; of a calibrated detector they are the same (reliability diagram: DeGroot and
    Fienberg, The comparison and evaluation of forecasters, 1983).
    """
    scores = np.concatenate([np.zeros(0), *(one.scores.astype(float) for one in predicted)])
    hit = np.concatenate([np.zeros(0), *((one.predicted == "hit").astype(float) for one in verdicts)])
    place = np.minimum((scores * parts).astype(int), parts - 1)
    held = [(i, place == i) for i in range(parts)]
    return [
        Group(i / parts, (i + 1) / parts, int(own.sum()), (float(scores[own].mean()), float(hit[own].mean())))
        for i, own in held
        if own.any()
    ]


def miscalibration(groups: Sequence[Group]) -> float:
    """How far scores and shares of hits are apart, weighed by number, 0 to 1: the expected calibration error
    (Naeini et al., Obtaining well calibrated probabilities using Bayesian binning, 2015). NaN of no prediction."""
    counts = np.array([one.count for one in groups], float)
    gaps = np.array([abs(one.values[0] - one.values[1]) for one in groups])
    return float((counts * gaps).sum() / counts.sum()) if counts.sum() else float("nan")


def _found(verdicts: Verdicts) -> Float:
    """IoU of each truth with what answers for it, float64 (N,), 0 where nothing does."""
    iou = np.zeros(len(verdicts.truth))
    held = verdicts.partner >= 0
    iou[verdicts.partner[held]] = verdicts.iou[held]
    return iou


def _groups(key: Int, values: Float, parts: int) -> list[Group]:
    """Parts of about equal number by a key; equal keys stay together, so there may be fewer parts."""
    if not len(key):
        return []
    order = np.sort(key)
    firsts = np.unique(order[np.arange(parts) * len(order) // parts])
    place = np.searchsorted(firsts, key, "right") - 1
    result = []
    for i in range(len(firsts)):
        own = place == i
        means = tuple(values[own].mean(0).tolist())
        result.append(Group(float(key[own].min()), float(key[own].max()), int(own.sum()), means))
    return result
