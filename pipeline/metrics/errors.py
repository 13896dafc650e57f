"""What kind of error costs a score most: every instance gets one verdict, and each kind is mended alone.

After TIDE (Bolya et al., TIDE: A General Toolbox for Identifying Object Detection Errors, 2020, arXiv:2008.08115):
what a kind costs is the score with the kind mended, less the score as it is. Mending changes instances, not counts, so
that it works with any contest's metric. Two things differ, since these contests ask for masks of crowded cells at
strict thresholds: a mask that is a hit at the first threshold may still fail the last, so loose masks are mended
there too; and TIDE's background and missed objects are parted into those that are merged, split or neither.

All comparisons are made on integers, as in `pipeline.metrics.mean_precision`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from pipeline.competition import Competition
from pipeline.instances import Instances
from pipeline.masks.runs import area, concatenate
from pipeline.metrics.mean_precision import Overlaps, overlaps
from pipeline.metrics.pairing import paired
from pipeline.metrics.score import Float, Int
from pipeline.metrics.scoring import score

Bool = NDArray[np.bool_]
Words = NDArray[np.str_]

KINDS: Mapping[str, str] = {
    "missed": "an object that nothing answers for",
    "merged": "objects that one prediction covers together",
    "split": "an object that is cut into pieces",
    "class": "the right place, the wrong class",
    "loose": "the right object, but a mask that fails at least the strictest threshold",
    "false_alarm": "a prediction where no object is",
    "duplicate": "a second answer for an object that is found",
}
"""Every kind of error by its name, and what it means."""

BACKGROUND = 10
"""IoU in hundredths up to which a prediction and an object have nothing to do with each other, as TIDE has it."""

_REMOVED = ("merged", "split", "false_alarm", "duplicate")
_ADDED = ("missed", "merged", "split")


@dataclass(frozen=True, eq=False)
class Verdicts:
    """What was found of N truths and M predictions of one image.

    truth: of each, hit, missed, merged, split, class or loose. predicted: of each, hit, merged, split, class, loose,
    false_alarm or duplicate. partner: int64 (M,), the truth that a hit, a wrong class or a loose mask answers for,
    -1 for the others; no truth has two. iou: float64 (M,), with that truth, 0 to 1. strict: bool (M,), which of them
    are above the strictest threshold.
    """

    truth: Words
    predicted: Words
    partner: Int
    iou: Float
    strict: Bool

    def count(self, kind: str) -> int:
        """How many objects or predictions of this image have an error of a kind; pieces and answers count each."""
        if kind == "loose":
            return int(((self.partner >= 0) & ~self.strict).sum())
        return int((self.truth == kind).sum() if kind in ("missed", "merged") else (self.predicted == kind).sum())


@dataclass(frozen=True)
class Cost:
    """A kind of error: how often it occurs, the score if it alone were mended, 0 to 1, and what that adds."""

    kind: str
    count: int
    score: float
    gain: float


def judge(
    truth: Instances, predicted: Instances, thresholds: Sequence[int] = (50, 95), classes: bool = False
) -> Verdicts:
    """Verdicts on one image's truth and prediction.

    thresholds: hundredths of IoU; above the lowest of them a prediction is a hit. classes: whether labels matter.
    In this order, each to what is still open: hits, one to one, as many as there can be, of those the best; the wrong
    class, the same with another label; merged: objects of which a prediction covers more than half, if it does so to
    two or more; duplicate: a prediction above the lowest threshold on an object that is found; split: a prediction of
    which more than half lies in an object that is found, or in one that is not with another such piece; loose: IoU
    above 0.1, one to one. What then is open is missed or a false alarm.
    Raises InputError where the sizes differ.
    """
    pairs = overlaps(truth, predicted)
    near = 100 * pairs.intersection > min(thresholds) * pairs.union
    same = truth.labels[pairs.truth] == predicted.labels[pairs.predicted]
    same |= not classes
    book = _Book(pairs)
    book.settle(_one_to_one(pairs, np.flatnonzero(near & same)), "hit")
    book.settle(_one_to_one(pairs, np.flatnonzero(near & ~same & book.open())), "class")
    _merged(book, area(truth.runs))
    _pieces(book, near, area(predicted.runs))
    close = same & (100 * pairs.intersection > BACKGROUND * pairs.union)
    book.settle(_one_to_one(pairs, np.flatnonzero(close & book.open())), "loose")
    return book.verdicts(max(thresholds))


def mended(truth: Instances, predicted: Instances, verdicts: Verdicts, kinds: Collection[str]) -> Instances:
    """The prediction without the errors of some kinds; without all of them it is the truth in another order.

    Objects that are added have the score 1, masks and classes that are put right keep theirs. What is added may lie
    over what is there.
    """
    stays = ~np.isin(verdicts.predicted, [kind for kind in _REMOVED if kind in kinds])
    tight = stays & (verdicts.partner >= 0) & ("loose" in kinds)
    as_is, redrawn = np.flatnonzero(stays & ~tight), np.flatnonzero(tight)
    added = np.flatnonzero(np.isin(verdicts.truth, [kind for kind in _ADDED if kind in kinds]))
    runs = [predicted.runs.select(as_is), truth.runs.select(verdicts.partner[redrawn]), truth.runs.select(added)]

    labels = predicted.labels.copy()
    if "class" in kinds:
        wrong = verdicts.predicted == "class"
        labels[wrong] = truth.labels[verdicts.partner[wrong]]
    kept = np.concatenate([as_is, redrawn])
    scores = np.concatenate([predicted.scores[kept], np.ones(added.size, np.float32)])
    labels = np.concatenate([labels[kept], truth.labels[added]])
    return Instances.of_runs(truth.image_id, concatenate(runs, truth.size), scores, labels)


def costs(
    truth: Sequence[Instances], predicted: Sequence[Instances], competition: Competition, by_class: bool
) -> Iterator[Cost]:
    """What each of `KINDS` costs by the contest's own metric, of images paired by image_id, at the size it scores at.

    by_class: see `pipeline.metrics.scoring.score`, whose errors are raised.
    """
    images = [_submitted(*pair, competition, by_class) for pair in paired(truth, predicted).values()]
    thresholds, classes = competition.iou_thresholds, _labels_matter(competition, by_class)
    judged = [(*pair, judge(*pair, thresholds, classes)) for pair in images]

    def total(*kinds: str) -> float:
        return score([one[0] for one in judged], [mended(*one, kinds) for one in judged], competition, by_class).total

    plain = total()
    for kind in KINDS:
        count = sum(verdicts.count(kind) for *_, verdicts in judged)
        better = total(kind) if count else plain
        yield Cost(kind, count, better, better - plain)


def _labels_matter(competition: Competition, by_class: bool) -> bool:
    return len(competition.categories) > 1 and (by_class or competition.metric not in ("mean_precision", "f2"))


def _submitted(
    truth: Instances, predicted: Instances, competition: Competition, by_class: bool
) -> tuple[Instances, Instances]:
    """Without what `score` does not look at."""
    labels = list(competition.labels().values())
    truth = truth.select(np.isin(truth.labels, labels))
    return truth, predicted.select(np.isin(predicted.labels, labels)) if by_class else predicted


class _Book:
    """Verdicts in the making; all are missed or false alarms until they are settled."""

    def __init__(self, pairs: Overlaps):
        self.pairs = pairs
        self.truth, self.predicted = (
            np.full(pairs.n_truth, "missed", "<U11"),
            np.full(pairs.n_predicted, "false_alarm", "<U11"),
        )
        self.pair = np.full(pairs.n_predicted, -1, np.int64)

    def open(self) -> Bool:
        """Pairs of which neither side is settled, bool (P,)."""
        lost, wrong = self.truth[self.pairs.truth] == "missed", self.predicted[self.pairs.predicted] == "false_alarm"
        result: Bool = lost & wrong
        return result

    def settle(self, chosen: Int, kind: str) -> None:
        """Pairs, by their numbers, that answer for each other."""
        self.truth[self.pairs.truth[chosen]] = self.predicted[self.pairs.predicted[chosen]] = kind
        self.pair[self.pairs.predicted[chosen]] = chosen

    def verdicts(self, strictest: int) -> Verdicts:
        held = self.pair >= 0
        own = self.pair[held]
        shared, union = self.pairs.intersection[own], self.pairs.union[own]
        partner, iou = np.full(held.size, -1, np.int64), np.zeros(held.size)
        strict = np.zeros(held.size, bool)
        partner[held], iou[held], strict[held] = self.pairs.truth[own], shared / union, 100 * shared > strictest * union
        return Verdicts(self.truth, self.predicted, partner, iou, strict)


def _merged(book: _Book, areas: Int) -> None:
    """areas: of the truth, int64 (N,)."""
    pairs = book.pairs
    covered = 2 * pairs.intersection > areas[pairs.truth]
    several = np.bincount(pairs.predicted[covered], minlength=pairs.n_predicted) > 1
    lost = covered & several[pairs.predicted] & (book.truth[pairs.truth] == "missed")
    book.truth[pairs.truth[lost]] = "merged"
    guilty = pairs.predicted[lost]
    book.predicted[guilty[book.predicted[guilty] == "false_alarm"]] = "merged"


def _pieces(book: _Book, near: Bool, areas: Int) -> None:
    """Duplicates and pieces. near: bool (P,), above the lowest threshold. areas: of the predictions, int64 (M,)."""
    pairs = book.pairs
    inside = np.flatnonzero(
        (2 * pairs.intersection > areas[pairs.predicted]) & (book.predicted[pairs.predicted] == "false_alarm")
    )
    # Where truths overlap, a piece belongs to that which holds most of it.
    order = inside[np.lexsort((-pairs.intersection[inside], pairs.predicted[inside]))]
    piece, first = np.unique(pairs.predicted[order], return_index=True)
    at = order[first]
    owner, state = pairs.truth[at], book.truth[pairs.truth[at]]
    found = (state == "hit") | (state == "class")
    together = np.bincount(owner, minlength=pairs.n_truth)[owner] > 1
    alone = (state == "missed") & together
    book.predicted[piece[found]] = np.where(near[at[found]], "duplicate", "split")
    book.predicted[piece[alone]] = "split"
    book.truth[owner[alone]] = "split"


def _one_to_one(pairs: Overlaps, allowed: Int) -> Int:
    """Of the allowed pairs, by their numbers, those that pair off the most instances; of such the highest IoUs."""
    truth, predicted = pairs.truth[allowed], pairs.predicted[allowed]
    clear = (np.bincount(truth, minlength=1)[truth] == 1) & (np.bincount(predicted, minlength=1)[predicted] == 1)
    if clear.all():
        return allowed
    rest = allowed[~clear]
    rows, row = np.unique(pairs.truth[rest], return_inverse=True)
    columns, column = np.unique(pairs.predicted[rest], return_inverse=True)
    worth = np.zeros((rows.size, columns.size))
    # One more pair is worth more than all that better masks could add.
    worth[row, column] = min(worth.shape) + 1 + pairs.intersection[rest] / pairs.union[rest]
    number = np.full(worth.shape, -1, np.int64)
    number[row, column] = rest
    chosen = number[linear_sum_assignment(worth, maximize=True)]
    return np.concatenate([allowed[clear], chosen[chosen >= 0]])
