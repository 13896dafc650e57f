"""Score, mask threshold and least area of each class by itself, from the choice that is best for all together.

One class after the other gets the values that are best while those of the others stay (coordinate ascent), until none
moves. A class keeps what it has unless other values are better by more than a standard error: of rules that do as well
the simpler ones are taken, and those are the ones for all classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.competition import Competition
from pipeline.inference.postprocess import Rules, apply, start
from pipeline.inference.tune import Trials, as_good, at_every_point, plateau, put
from pipeline.instances import Detections, Instances
from pipeline.metrics.scoring import as_submitted

Float = NDArray[np.float64]
ROUNDS = 3  # at most; two classes that depend on one another could go on for ever
OWN = ("mask", "score", "min_area")


@dataclass(frozen=True)
class Place:
    """Rules on the axes of a search: the shared ones by field, and of each class mask, score and least area."""

    min_share: int
    nms: int
    own: tuple[tuple[int, int, int], ...]

    def of(self, label: int) -> tuple[int, ...]:
        """The trial in which all classes have the rules of this one."""
        mask, score, least = self.own[label - 1]
        return mask, self.min_share, self.nms, score, least

    def moved(self, label: int, to: tuple[int, ...]) -> Place:
        """The same with another place for one class."""
        return replace(self, own=put(self.own, label, to))  # type: ignore[arg-type]


@dataclass(frozen=True, eq=False)
class ByClass:
    """A search that goes on from `trials`; what it has tried of an image it remembers.

    detections, truth: one for each image of the trials, in their order. base: settled rules.
    """

    trials: Trials
    detections: Sequence[Detections]
    truth: Sequence[Instances]
    competition: Competition
    base: Rules
    _known: dict[Any, Float] = field(default_factory=dict)

    def chosen(self, images: NDArray[np.bool_]) -> Place:
        """The place that these images, bool (n,), lead to."""
        mask, share, nms, score, least = self.trials.chosen(images)
        labels, index = range(1, len(self.competition.categories) + 1), np.flatnonzero(images).tolist()
        place = Place(share, nms, tuple((mask, score, least) for _ in labels))
        for _ in range(ROUNDS):
            before = place
            for label in labels:
                table = np.stack([self._table(i, label, place) for i in index], -1)
                if not as_good(table)[place.own[label - 1]]:
                    place = place.moved(label, plateau(table)[0])
            if place == before:
                break
        return place

    def values(self, place: Place) -> Float:
        """The metric of every image at a place, float64 (n,)."""
        return np.array([self._value(i, place) for i in range(len(self.truth))])

    def rules(self, place: Place, base: Rules) -> Rules:
        """The rules at a place: a number where all classes have the same, else one by each category's name."""
        result = self.trials.rules(place.of(1), base)
        for name in OWN:
            values = [getattr(self.trials.rules(place.of(i + 1), base), name) for i in range(len(place.own))]
            if len(set(values)) > 1:
                result = replace(result, **{name: dict(zip(self.competition.categories, values, strict=True))})
        return result

    def _value(self, i: int, place: Place) -> float:
        label = min(self._labels(i), default=1)
        return float(self._table(i, label, place)[place.own[label - 1]])

    def _table(self, i: int, label: int, place: Place) -> Float:
        """The metric of one image for every mask threshold, score and area of a class, float64 (mask, score, area)."""
        labels = self._labels(i)
        if labels <= {label}:
            return self.trials.table[:, place.min_share, place.nms, :, :, i]
        if label not in labels:
            return np.full(self.trials.table.shape[0:1] + self.trials.table.shape[3:5], self._value(i, place))
        key = (i, label, place.min_share, place.nms, *(place.own[other - 1] for other in sorted(labels - {label})))
        if key not in self._known:
            self._known[key] = self._tried(i, label, place)
        return self._known[key]

    def _tried(self, i: int, label: int, place: Place) -> Float:
        rules, search = _numbers(self.trials, place, self.base), self.trials.search
        image, truth = [self.detections[i]], as_submitted([self.truth[i]], self.competition)
        return np.stack(
            [
                at_every_point(
                    image, truth, self.competition, replace(rules, mask=put(rules.mask, label, mask)), search, label
                )[..., 0]
                for mask in search.masks
            ]
        )

    def _labels(self, i: int) -> frozenset[int]:
        """The classes whose rules can touch an image."""
        if ("labels", i) not in self._known:
            self._known["labels", i] = _classes(self.detections[i], self.base, self.trials.search.scores[0])
        return frozenset(self._known["labels", i].tolist())


def _classes(one: Detections, rules: Rules, lowest: float) -> Any:
    """The labels of the detections that a trial can keep; of a vote that comes first only its winner."""
    if rules.steps[0] == "vote":
        return np.unique(apply(start(one), ("vote",), rules, "allowed").found.labels)
    seen = one.scores >= np.float32(lowest) if "vote" not in rules.steps else np.ones(len(one), bool)
    return np.unique(one.labels[seen])


def _numbers(trials: Trials, place: Place, base: Rules) -> Rules:
    """Settled rules at a place, with a number of its own for each label."""
    each = [trials.rules(place.of(i + 1), base) for i in range(len(place.own))]
    return replace(each[0], **{name: tuple(getattr(one, name) for one in each) for name in OWN})
