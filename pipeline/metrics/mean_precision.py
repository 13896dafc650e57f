"""Metrics of hits, false alarms and misses over IoU thresholds: mean precision and F2.

Per image and threshold t a prediction hits a truth instance if their IoU is greater than t. An image's score is the
mean over the thresholds of a ratio of its counts, the total is the mean over the images.
mean_precision: TP / (TP + FP + FN), class-agnostic: the evaluation pages of DSB2018 and of Sartorius.
mean_precision_by_class: the same of hits within a class, the counts of an image's classes added up: iMaterialist 2019.
f2: 5 TP / (5 TP + 4 FN + FP), the F-measure that weighs recall twice as much as precision, so that an image without
truth scores 1 if it is predicted empty, else 0: the evaluation page of the Airbus contest.

All comparisons are made on integers, 100 * intersection > t * union with t in hundredths, so that an IoU of exactly
0.6 is not decided by a rounding error. Masks of one side may overlap one another: where an instance has several
candidates, the hits are a maximum one-to-one matching.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.sparse.csgraph import maximum_bipartite_matching

from pipeline.instances import Instances
from pipeline.masks.geometry import shared_pixels
from pipeline.masks.runs import Runs, area
from pipeline.metrics.pairing import check_size, check_thresholds, paired
from pipeline.metrics.score import Counted, Float, Int

THRESHOLDS: tuple[int, ...] = tuple(range(50, 100, 5))

Kind = Literal["mean_precision", "mean_precision_by_class", "f2"]


@dataclass(frozen=True, eq=False)
class Overlaps:
    """The pairs of one image's truth and prediction that share a pixel.

    n_truth, n_predicted: counts of instances. truth, predicted: int64 (P,), indices of the pair's two instances.
    intersection, union: int64 (P,), pixels, both above 0.
    """

    n_truth: int
    n_predicted: int
    truth: Int
    predicted: Int
    intersection: Int
    union: Int

    def select(self, index: NDArray[Any]) -> Overlaps:
        """The pairs that a boolean or integer index names; the instances stay."""
        columns = (self.truth, self.predicted, self.intersection, self.union)
        return Overlaps(self.n_truth, self.n_predicted, *(column[index] for column in columns))

    def restrict(self, truth: NDArray[np.bool_], predicted: NDArray[np.bool_]) -> Overlaps:
        """The same for the instances to keep: truth bool (n_truth,), predicted bool (n_predicted,)."""
        kept = truth[self.truth] & predicted[self.predicted]
        return Overlaps(
            int(truth.sum()),
            int(predicted.sum()),
            (np.cumsum(truth) - 1)[self.truth[kept]],
            (np.cumsum(predicted) - 1)[self.predicted[kept]],
            self.intersection[kept],
            self.union[kept],
        )


@dataclass(frozen=True, eq=False)
class Counts:
    """Hits, false alarms and misses of one image: tp, fp, fn int64 (T,), one value per threshold."""

    tp: Int
    fp: Int
    fn: Int


def overlaps(truth: Instances, predicted: Instances) -> Overlaps:
    """The pairs of truth and predicted masks of one image that share a pixel. InputError where the sizes differ."""
    check_size(truth, predicted)
    return compare(truth.runs, predicted.runs)


def compare(truth: Runs, predicted: Runs) -> Overlaps:
    """The pairs of truth and predicted masks, on canvases of one size, that share a pixel."""
    i, j, shared = shared_pixels(truth, predicted)
    return Overlaps(truth.count, predicted.count, i, j, shared, area(truth)[i] + area(predicted)[j] - shared)


def count_hits(pairs: Overlaps, thresholds: Sequence[int] = THRESHOLDS) -> Counts:
    """Hits, false alarms and misses at each threshold: integer hundredths of IoU, 0-100, a hit is strictly above."""
    near, hit = candidates(pairs, thresholds)
    shape = (pairs.n_truth, pairs.n_predicted)
    if _occur_once(near.truth) and _occur_once(near.predicted):
        tp = np.count_nonzero(hit, axis=1)
    else:
        tp = np.array([len(_partners(near.truth[row], near.predicted[row], shape)[0]) for row in hit], np.int64)
    return Counts(tp, pairs.n_predicted - tp, pairs.n_truth - tp)


def candidates(pairs: Overlaps, thresholds: Sequence[int]) -> tuple[Overlaps, NDArray[np.bool_]]:
    """The P pairs that may be a hit at any of T thresholds, and at which of them they may, bool (T, P)."""
    check_thresholds(thresholds)
    least = 100 * pairs.intersection > min(thresholds) * pairs.union
    near = pairs.select(least)
    return near, 100 * near.intersection > np.array(thresholds, np.int64)[:, None] * near.union


def score_image(truth: Instances, predicted: Instances, thresholds: Sequence[int] = THRESHOLDS) -> Counts:
    """Hits, false alarms and misses of one image, class-agnostic; thresholds are integer hundredths of IoU."""
    return count_hits(overlaps(truth, predicted), thresholds)


def hits(truth: Instances, predicted: Instances, threshold: int) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which of truth, bool (N,), and prediction, bool (M,), have a partner; threshold in integer hundredths of IoU."""
    pairs = overlaps(truth, predicted)
    near, _ = candidates(pairs, (threshold,))
    first, second = _partners(near.truth, near.predicted, (len(truth), len(predicted)))
    found, right = np.zeros(len(truth), bool), np.zeros(len(predicted), bool)
    found[first], right[second] = True, True
    return found, right


def precision(tp: NDArray[Any], fp: NDArray[Any], fn: NDArray[Any]) -> Float:
    """TP / (TP + FP + FN) elementwise, float64 of the same shape; 1 where there is neither truth nor prediction."""
    total = np.asarray(tp + fp + fn)
    return np.where(total > 0, tp / np.maximum(total, 1), 1.0)


def f2(tp: NDArray[Any], fp: NDArray[Any], fn: NDArray[Any]) -> Float:
    """5 TP / (5 TP + 4 FN + FP) elementwise, float64 of the same shape; 1 where there is neither truth nor prediction.

    F-beta, (1 + b²) TP / ((1 + b²) TP + b² FN + FP) with b = 2 (van Rijsbergen, Information Retrieval, 1979).
    """
    total = np.asarray(5 * tp + 4 * fn + fp)
    return np.where(total > 0, 5 * tp / np.maximum(total, 1), 1.0)


_RATIOS: Mapping[str, Callable[..., Float]] = {
    "mean_precision": precision,
    "mean_precision_by_class": precision,
    "f2": f2,
}


def mean_precision(
    truth: Iterable[Instances],
    predicted: Iterable[Instances],
    thresholds: Sequence[int] = THRESHOLDS,
    categories: Sequence[str] = (),
) -> Counted:
    """The contests' score of predictions against truth, paired by image_id; class-agnostic except in per_class.

    categories: names of the labels 1, 2, …. Raises what `counted` raises.
    """
    return counted("mean_precision", truth, predicted, thresholds, {name: i for i, name in enumerate(categories, 1)})


def counted(
    kind: Kind,
    truth: Iterable[Instances],
    predicted: Iterable[Instances],
    thresholds: Sequence[int],
    categories: Mapping[str, int],
) -> Counted:
    """A metric of this module's head, of predictions against truth, paired by image_id.

    thresholds: integer hundredths of IoU. categories: the label of each name in per_class. Scores of instances are not
    used. An image without a prediction counts as predicted empty.
    Raises InputError for an id that occurs twice or that the truth does not have, for sizes that differ, and where
    there is no image at all.
    """
    check_thresholds(thresholds)
    ratio = _RATIOS[kind]
    counts: list[Counts] = []
    by_class: dict[str, list[float]] = {name: [] for name in categories}
    images = paired(truth, predicted)
    for target, guess in images.values():
        pairs = overlaps(target, guess)
        if kind == "mean_precision_by_class":
            # Classes have no pair in common, so that one matching of all counts what theirs add up to.
            pairs = pairs.select(target.labels[pairs.truth] == guess.labels[pairs.predicted])
        counts.append(count_hits(pairs, thresholds))
        for name, label in categories.items():
            mine, theirs = target.labels == label, guess.labels == label
            if mine.any() or theirs.any():
                own = count_hits(pairs.restrict(mine, theirs), thresholds)
                by_class[name].append(float(ratio(own.tp, own.fp, own.fn).mean()))
    per_class = {name: float(np.mean(scores)) if scores else float("nan") for name, scores in by_class.items()}
    return _summarise(kind, tuple(images), tuple(thresholds), counts, per_class)


def _summarise(
    kind: Kind, ids: tuple[str, ...], thresholds: tuple[int, ...], counts: list[Counts], per_class: dict[str, float]
) -> Counted:
    tp, fp, fn = (np.stack([getattr(count, field) for count in counts]) for field in ("tp", "fp", "fn"))
    table = _RATIOS[kind](tp, fp, fn)
    per_image = table.mean(axis=1)
    return Counted(
        metric=kind,
        total=float(per_image.mean()),
        thresholds=thresholds,
        per_threshold=table.mean(axis=0),
        pooled=_RATIOS[kind](tp.sum(axis=0), fp.sum(axis=0), fn.sum(axis=0)),
        image_ids=ids,
        per_image=per_image,
        tp=tp,
        fp=fp,
        fn=fn,
        per_class=per_class,
    )


def _partners(truth: Int, predicted: Int, shape: tuple[int, int]) -> tuple[Int, Int]:
    """A maximum one-to-one matching of the candidate pairs: the pairs that are in it."""
    # Disjoint masks cannot have two partners above IoU 0.5, so that one side's occur once nearly always.
    for own, partners in ((truth, predicted), (predicted, truth)):
        if _occur_once(own):
            # Who has several partners can take any of them: none of those has another.
            _, first = np.unique(partners, return_index=True)
            return truth[first], predicted[first]
    # The matching takes 32-bit indices only, and not every version of SciPy narrows them itself.
    places = (truth.astype(np.int32), predicted.astype(np.int32))
    graph = csr_array((np.ones(len(truth), bool), places), shape=shape)
    partner = maximum_bipartite_matching(graph, perm_type="column").astype(np.int64)
    matched = np.flatnonzero(partner >= 0)
    return matched, partner[matched]


def _occur_once(index: Int) -> bool:
    return bool((np.bincount(index) <= 1).all())
