"""Mean precision over IoU thresholds, the metric of DSB2018 and of Sartorius.

Per image and threshold t a prediction hits a truth instance if their IoU is greater than t, and the precision is
TP / (TP + FP + FN). An image's score is the mean over the thresholds, the total is the mean over the images.
The evaluation pages of both contests state this.

All comparisons are made on integers, 100 * intersection > t * union with t in hundredths, so that an IoU of exactly
0.6 is not decided by a rounding error. Masks of one side may overlap one another: where an instance has several
candidates, the hits are a maximum one-to-one matching.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.sparse.csgraph import maximum_bipartite_matching

from pipeline.errors import InputError
from pipeline.instances import Instances
from pipeline.masks.geometry import shared_pixels
from pipeline.masks.runs import Runs, area

THRESHOLDS: tuple[int, ...] = tuple(range(50, 100, 5))

Int = NDArray[np.int64]
Float = NDArray[np.float64]


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


@dataclass(frozen=True, eq=False)
class Score:
    """The metric of a set of n images at T thresholds; all scores are in 0-1.

    total: mean of per_image. thresholds: IoU in hundredths, T of them.
    per_threshold: float64 (T,), mean over the images of TP / (TP + FP + FN).
    pooled: float64 (T,), TP / (TP + FP + FN) of the counts of all images together, which the StarDist paper calls AP.
    image_ids: n ids, in the order of the truth. per_image: float64 (n,). tp, fp, fn: int64 (n, T).
    per_class: mean over the images where the class occurs in truth or prediction, both restricted to the class;
    NaN for a class that occurs nowhere.
    """

    total: float
    thresholds: tuple[int, ...]
    per_threshold: Float
    pooled: Float
    image_ids: tuple[str, ...]
    per_image: Float
    tp: Int
    fp: Int
    fn: Int
    per_class: dict[str, float]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for a JSON file: thresholds as IoU in 0-1, a class that occurs nowhere as None."""
        images = [
            {"image_id": name, "score": float(score), "tp": tp.tolist(), "fp": fp.tolist(), "fn": fn.tolist()}
            for name, score, tp, fp, fn in zip(self.image_ids, self.per_image, self.tp, self.fp, self.fn, strict=True)
        ]
        return {
            "metric": "mean_precision",
            "total": self.total,
            "thresholds": [threshold / 100 for threshold in self.thresholds],
            "per_threshold": self.per_threshold.tolist(),
            "pooled": self.pooled.tolist(),
            "per_class": {name: None if np.isnan(score) else score for name, score in self.per_class.items()},
            "images": images,
        }


def overlaps(truth: Instances, predicted: Instances) -> Overlaps:
    """The pairs of truth and predicted masks of one image that share a pixel. InputError where the sizes differ."""
    if tuple(truth.size) != tuple(predicted.size):
        raise InputError(
            f"image {truth.image_id}: the prediction is made for {predicted.size[0]}×{predicted.size[1]} pixels "
            f"(height × width), the truth has {truth.size[0]}×{truth.size[1]}; both must describe the original image"
        )
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
    _check_thresholds(thresholds)
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


def mean_precision(
    truth: Iterable[Instances],
    predicted: Iterable[Instances],
    thresholds: Sequence[int] = THRESHOLDS,
    categories: Sequence[str] = (),
) -> Score:
    """The contest's score of predictions against truth, paired by image_id; class-agnostic except in per_class.

    thresholds: integer hundredths of IoU. categories: names of the labels 1, 2, …; scores of instances are not used.
    An image without a prediction counts as predicted empty.
    Raises InputError for an id that occurs twice or that the truth does not have, for sizes that differ, and where
    there is no image at all.
    """
    _check_thresholds(thresholds)
    counts: list[Counts] = []
    by_class: list[list[float]] = [[] for _ in categories]
    images = paired(truth, predicted)
    for target, guess in images.values():
        pairs = overlaps(target, guess)
        counts.append(count_hits(pairs, thresholds))
        for scores, label in zip(by_class, range(1, len(categories) + 1), strict=True):
            mine, theirs = target.labels == label, guess.labels == label
            if mine.any() or theirs.any():
                scores.append(_mean(count_hits(pairs.restrict(mine, theirs), thresholds)))
    per_class = {name: float(np.mean(s)) if s else float("nan") for name, s in zip(categories, by_class, strict=True)}
    return _summarise(tuple(images), tuple(thresholds), counts, per_class)


def paired(truth: Iterable[Instances], predicted: Iterable[Instances]) -> dict[str, tuple[Instances, Instances]]:
    """Truth and prediction of each image by its id, in the order of the truth; a missing prediction is an empty one.

    Raises InputError for an id that occurs twice or that the truth does not have, and where there is no image at all.
    """
    known, guesses = _by_id(truth, "truth"), _by_id(predicted, "predictions")
    _check_ids(known, guesses)
    return {name: (one, guesses.get(name, Instances.empty(name, one.size))) for name, one in known.items()}


def _summarise(
    ids: tuple[str, ...], thresholds: tuple[int, ...], counts: list[Counts], per_class: dict[str, float]
) -> Score:
    tp, fp, fn = (np.stack([getattr(count, field) for count in counts]) for field in ("tp", "fp", "fn"))
    table = precision(tp, fp, fn)
    per_image = table.mean(axis=1)
    return Score(
        total=float(per_image.mean()),
        thresholds=thresholds,
        per_threshold=table.mean(axis=0),
        pooled=precision(tp.sum(axis=0), fp.sum(axis=0), fn.sum(axis=0)),
        image_ids=ids,
        per_image=per_image,
        tp=tp,
        fp=fp,
        fn=fn,
        per_class=per_class,
    )


def _mean(counts: Counts) -> float:
    return float(precision(counts.tp, counts.fp, counts.fn).mean())


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


def _by_id(images: Iterable[Instances], what: str) -> dict[str, Instances]:
    found: dict[str, Instances] = {}
    for image in images:
        if image.image_id in found:
            raise InputError(
                f"image {image.image_id} occurs twice in the {what}; each image must occur once, with all its instances"
            )
        found[image.image_id] = image
    return found


def _check_ids(truth: dict[str, Instances], predicted: dict[str, Instances]) -> None:
    if not truth:
        raise InputError("there is no image in the truth: nothing can be scored")
    unknown = [name for name in predicted if name not in truth]
    if unknown:
        raise InputError(
            f"{len(unknown)} of {len(predicted)} predicted images are not in the truth, the first is {unknown[0]}; "
            f"the truth has {len(truth)} images, the first is {next(iter(truth))}: give the truth of the same images"
        )


def _check_thresholds(thresholds: Sequence[int]) -> None:
    wrong = [t for t in thresholds if isinstance(t, bool) or not isinstance(t, (int, np.integer)) or not 0 <= t <= 100]
    if wrong or len(thresholds) == 0:
        raise ValueError(
            f"thresholds: wanted integers 0-100 (hundredths of IoU), at least one; got {tuple(thresholds)}"
        )
