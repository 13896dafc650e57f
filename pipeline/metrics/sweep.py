"""The metric at every point of a grid of score thresholds and minimum areas, from one comparison of the masks.

That no point has to be decided and compared anew needs instances of which a stricter point keeps some, unchanged.
`pipeline.inference.rules.Rules.nested` says whether `decide` gives such instances, as it does in the standard order of
steps where overlaps are removed by score or allowed, for any min_share, NMS, holes and parts: decide once at the lowest
score threshold and min_area of the grid.
With the smaller or larger mask first it does not: who is dropped then gives pixels to others of higher score.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.instances import Instances
from pipeline.masks.runs import area
from pipeline.metrics.mean_precision import (
    THRESHOLDS,
    Kind,
    Overlaps,
    candidates,
    count_hits,
    f2,
    overlaps,
    precision,
)
from pipeline.metrics.pairing import paired

Int = NDArray[np.int64]
Float = NDArray[np.float64]
Bool = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Sweep:
    """The metric of the instances with at least a score and at least an area.

    scores: float32 (S,), 0 to 1, rising. areas: int64 (A,), pixels, rising.
    totals: float64 (S, A), 0 to 1, the total of `mean_precision` at each point. per_image: float64 (S, A, n), what it
    is the mean of, in the order of the truth.
    """

    scores: NDArray[np.float32]
    areas: Int
    totals: Float
    per_image: Float

    @property
    def best(self) -> tuple[float, int, float]:
        """Score threshold, minimum area and total of the best point; of equal ones that of least score, then area."""
        s, a = np.unravel_index(int(self.totals.argmax()), self.totals.shape)
        return float(self.scores[s]), int(self.areas[a]), float(self.totals[s, a])


def sweep(
    truth: Iterable[Instances],
    predicted: Iterable[Instances],
    scores: Sequence[float],
    areas: Sequence[int],
    thresholds: Sequence[int] = THRESHOLDS,
    kind: Kind = "mean_precision",
    label: int | None = None,
) -> Sweep:
    """The total of a metric of `mean_precision` for the predictions with at least each score and area, to the last bit.

    scores: thresholds, 0 to 1, rising, compared as float32 like the instances' own. areas: pixels, rising.
    thresholds: integer hundredths of IoU. kind: which metric. label: the category that the grid is for, whose
    predictions alone have to be so sure and so large; null: all.
    Truth and predictions may overlap themselves.
    Raises ValueError for a grid that does not rise, and what `mean_precision` raises.
    """
    score_grid = _rising("scores", np.asarray(scores, np.float32))
    area_grid = _rising("areas", np.asarray(areas, np.int64))
    images = [
        _image(target, guess, score_grid, area_grid, thresholds, kind, label)
        for target, guess in paired(truth, predicted).values()
    ]
    # The images come last, side by side in memory: so the mean adds them in the order in which mean_precision does.
    per_image = np.stack(images, axis=-1)
    return Sweep(score_grid, area_grid, per_image.mean(axis=-1), per_image)


def _image(
    truth: Instances,
    predicted: Instances,
    scores: NDArray[np.float32],
    areas: Int,
    thresholds: Sequence[int],
    kind: Kind,
    label: int | None,
) -> Float:
    """The score of one image at every point, float64 (S, A)."""
    pairs = overlaps(truth, predicted)
    if kind == "mean_precision_by_class":  # as in `mean_precision.counted`
        pairs = pairs.select(truth.labels[pairs.truth] == predicted.labels[pairs.predicted])
    near, hit = candidates(pairs, thresholds)
    # How many points of each grid hold a prediction: the first so many; all, where the grid is not for its class.
    other = np.zeros(len(predicted), bool) if label is None else predicted.labels != label
    places = (scores, predicted.scores), (areas, area(predicted.runs))
    held = tuple(np.where(other, len(grid), np.searchsorted(grid, values, "right")) for grid, values in places)
    shared = _disputed(near)
    # A prediction whose truths no other wants is a hit wherever one of them is near enough, whatever else is kept.
    counted = np.zeros((len(thresholds) + 1, len(predicted)), bool)
    at, pair = np.nonzero(hit)
    counted[at, near.predicted[pair]] = True
    counted[:, shared] = False
    counted[-1] = True  # all that a point holds
    counts = _counts(counted, held, (len(scores), len(areas)))
    tp, total = counts[..., :-1], counts[..., -1:]
    if shared.any():
        tp += _matched(
            pairs.restrict(np.ones(len(truth), bool), shared), [one[shared] for one in held], tp.shape, thresholds
        )
    ratio = f2 if kind == "f2" else precision
    result: Float = ratio(tp, total - tp, len(truth) - tp).mean(axis=-1)
    return result


def _disputed(near: Overlaps) -> Bool:
    """The predictions that share a candidate with another one, bool (n_predicted,)."""
    wanted = np.bincount(near.truth, minlength=near.n_truth) > 1
    shared = np.zeros(near.n_predicted, bool)
    shared[near.predicted[wanted[near.truth]]] = True
    return shared


def _counts(counted: Bool, held: Sequence[Int], shape: tuple[int, int]) -> Int:
    """How many of the predictions to be counted, bool (K, n_predicted), each point holds, int64 (S, A, K)."""
    kind, one = np.nonzero(counted)
    table = np.zeros((shape[0] + 1, shape[1] + 1, len(counted)), np.int64)
    np.add.at(table, (held[0][one], held[1][one], kind), 1)
    # A point holds whatever is held up to it or beyond, on both grids.
    return np.ascontiguousarray(table[::-1, ::-1].cumsum(axis=0).cumsum(axis=1)[::-1, ::-1][1:, 1:])


def _matched(pairs: Overlaps, held: Sequence[Int], shape: tuple[int, ...], thresholds: Sequence[int]) -> Int:
    """Hits of predictions that compete for truths, int64 (S, A, T): matched anew for each set that a point holds."""
    points = np.indices(shape[:2]).reshape(2, -1, 1)
    kept: NDArray[Any] = (points[0] < held[0]) & (points[1] < held[1])
    sets, which = np.unique(kept, axis=0, return_inverse=True)
    everything = np.ones(pairs.n_truth, bool)
    tp = np.stack([count_hits(pairs.restrict(everything, one), thresholds).tp for one in sets])
    return tp[which.reshape(-1)].reshape(shape)


def _rising(name: str, grid: NDArray[Any]) -> NDArray[Any]:
    if grid.ndim != 1 or not grid.size or not (np.diff(grid) > 0).all():
        raise ValueError(f"{name}: wanted at least one number, each larger than the one before, got {grid.tolist()}")
    return grid
