"""Mean average precision of ranked instances, the metric of Open Images 2019, HPA 2021 and HuBMAP 2023.

Matching and area are those of the TensorFlow Object Detection API, whose Open Images evaluator the contests name
(`research/object_detection/utils/per_image_evaluation.py` and `metrics.py` of github.com/tensorflow/models):

- Per image and class each instance wants the truth of highest IoU, of equal ones the first, taken or not. It is a hit
  if that IoU is at least the threshold and no instance of higher confidence has hit the same truth; all others are
  false alarms. So of two truths of one class with the same pixels only one can be found. (The API compares with >=,
  pages write "above": an IoU exactly at the threshold tells them apart.)
- Per class the instances of all images are ranked by falling confidence. The result is the area under precision by
  recall, precision being that of the best rank from there on (all points, as in Pascal VOC from 2010).
- The mean is over the classes that the truth has.

Equal confidences, which the API leaves to its sort: the earlier image of the truth first, in one image the earlier
instance first. The API's boxes of groups, unverified classes and hierarchy of classes are not known here.
Comparisons with the threshold are made on integers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.instances import Instances
from pipeline.metrics.mean_precision import overlaps
from pipeline.metrics.pairing import check_thresholds, paired
from pipeline.metrics.score import Int, Ranked

Bool = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class _Wishes:
    """What D predicted instances of all images want, image after image.

    scores: float32 (D,). labels: int64 (D,). truth: int64 (D,), number among the truths of all images, -1 for none.
    intersection, union: int64 (D,), pixels, with that truth.
    """

    scores: NDArray[np.float32]
    labels: Int
    truth: Int
    intersection: Int
    union: Int


def average_precision(
    truth: Iterable[Instances],
    predicted: Iterable[Instances],
    thresholds: Sequence[int],
    categories: Mapping[str, int],
) -> Ranked:
    """The contests' score of predictions against truth, paired by image_id; see the head of this module.

    thresholds: integer hundredths of IoU. categories: names and labels of the classes that count; instances of others
    are not looked at. Raises InputError for an id that occurs twice or that the truth does not have, for sizes that
    differ, and where there is no image at all.
    """
    check_thresholds(thresholds)
    images = paired(truth, predicted)
    wishes = _wishes(list(images.values()))
    known = np.concatenate([target.labels for target, _ in images.values()])
    table = np.full((len(categories), len(thresholds)), np.nan)
    for column, threshold in enumerate(thresholds):
        hit = _hits(wishes, threshold)
        for row, label in enumerate(categories.values()):
            count = int((known == label).sum())
            if count:
                table[row, column] = area_under(hit[wishes.labels == label], count)
    present = ~np.isnan(table[:, 0])
    return Ranked(
        metric="average_precision",
        total=float(table[present].mean()) if present.any() else float("nan"),
        image_ids=tuple(images),
        per_image=np.full(len(images), np.nan),
        per_class=dict(zip(categories, table.mean(axis=1).tolist(), strict=True)),
        thresholds=tuple(thresholds),
        per_threshold=table[present].mean(axis=0) if present.any() else table.mean(axis=0),
        figures={},
        detections=max(len(guess) for _, guess in images.values()),
    )


def area_under(hit: Bool, count: int) -> float:
    """Area under precision by recall, 0 to 1, of instances by falling confidence, which hit or not, of `count` truths.

    hit: bool (D,). Each hit adds 1 / count to the recall, at the best precision of its rank or any behind it.
    """
    precision = np.cumsum(hit) / np.arange(1, hit.size + 1)
    best = np.maximum.accumulate(precision[::-1])[::-1]
    return float(best[hit].sum() / count)


def _wishes(images: Sequence[tuple[Instances, Instances]]) -> _Wishes:
    """By falling confidence, of equal ones the first first."""
    numbers = np.cumsum([0] + [len(target) for target, _ in images])
    parts = [_wishes_of(target, guess, first) for (target, guess), first in zip(images, numbers[:-1], strict=True)]
    scores = np.concatenate([guess.scores for _, guess in images])
    labels = np.concatenate([guess.labels for _, guess in images])
    order = np.argsort(-scores, kind="stable")
    truth, intersection, union = np.concatenate(parts, axis=1)[:, order]
    return _Wishes(scores[order], labels[order], truth, intersection, union)


def _wishes_of(target: Instances, guess: Instances, first: int) -> Int:
    """Truth (numbered from `first`; -1 for none), intersection and union of each prediction's wish, int64 (3, M)."""
    pairs = overlaps(target, guess)
    pairs = pairs.select(target.labels[pairs.truth] == guess.labels[pairs.predicted])
    # As floating-point numbers, quotients of pixels on canvases of up to 2**26 differ where they are not equal.
    order = np.lexsort((pairs.truth, -pairs.intersection / pairs.union, pairs.predicted))
    pairs = pairs.select(order)
    owner, best = np.unique(pairs.predicted, return_index=True)
    result = np.full((3, len(guess)), -1, np.int64)
    result[:, owner] = pairs.truth[best] + first, pairs.intersection[best], pairs.union[best]
    return result


def _hits(wishes: _Wishes, threshold: int) -> Bool:
    """Which predictions, by falling confidence, are hits: bool (D,)."""
    near = np.flatnonzero((wishes.truth >= 0) & (100 * wishes.intersection >= threshold * wishes.union))
    _, first = np.unique(wishes.truth[near], return_index=True)
    hit = np.zeros(wishes.truth.size, bool)
    hit[near[first]] = True
    return hit
