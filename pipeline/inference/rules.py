"""The rules of post-processing: which steps in which order, and their thresholds, for all classes or for each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.competition import Competition, Overlap
from pipeline.errors import ConfigError

Name = Literal["gate", "vote", "rescore", "score", "mask", "holes", "parts", "nms", "overlaps", "min_area"]
SOFT = ("gate", "vote", "rescore", "score")
HARD = ("holes", "parts", "nms", "overlaps", "min_area")
STANDARD: tuple[Name, ...] = ("score", "mask", "holes", "parts", "nms", "overlaps", "parts", "min_area")
BY_CLASS = ("score", "mask", "min_area", "nms")
OTHERS = "default"  # stands, in a mapping, for every category that is not named


@dataclass(frozen=True)
class Rules:
    """What becomes an instance.

    score: detections below it are dropped, 0 to 1; null: what the contest's metric wants, see `settled`.
    mask: probability above which a pixel belongs, 0 to 1.
    min_area: smallest instance in pixels. min_share: an instance to which those before it leave a smaller share of its
    mask than this, 0 to 1, is dropped; most such leftovers are second answers for one object, of another class or with
    a box too different for the detector's NMS.
    order: who comes before whom where masks overlap: the higher score, the smaller or the larger mask. Among equals
    it is the higher score.
    holes: whether holes of a mask are filled. parts: whether a mask keeps all its parts or only the largest.
    nms: IoU of two masks, 0 to 1, above which the one of lower score is dropped, of whatever class; null drops none.
    steps: what is done, in order; see `pipeline.inference.postprocess`. The steps that ask the detections alone come
    before `mask`, which makes the masks, those that ask the masks after it.

    score, mask, min_area and nms are one number for all classes, or a mapping from the names of categories, where
    "default" stands for those not named. Settled rules hold such a mapping as a tuple, a number for each label from 1.
    Of nms, the number of the class of the lower score counts.
    Raises ValueError for a number out of its range, and for steps that cannot follow one another.
    """

    score: float | Mapping[str, float] | tuple[float, ...] | None
    mask: float | Mapping[str, float] | tuple[float, ...]
    min_area: int | Mapping[str, int] | tuple[int, ...]
    min_share: float
    order: Literal["score", "small_first", "large_first"] = "score"
    holes: Literal["keep", "fill"] = "keep"
    parts: Literal["all", "largest"] = "all"
    nms: float | Mapping[str, float | None] | tuple[float, ...] | None = None
    steps: tuple[Name, ...] = STANDARD

    def __post_init__(self) -> None:
        for name in ("score", "mask", "min_share", "nms"):
            for key, value in _values(name, getattr(self, name)):
                if value is not None and not 0 <= value <= 1:
                    raise ValueError(f"{key}: wanted a number from 0 to 1, got {value}")
        for key, value in _values("min_area", self.min_area):
            if value < 0:
                raise ValueError(f"{key}: wanted 0 pixels or more, got {value}")
        _check_steps(self.steps)

    def settled(self, competition: Competition) -> Rules:
        """The same with a score threshold, and with a number for each label where there was a mapping.

        Where the score is null: 0.5 where a false alarm costs as much as a miss; 0 where the metric ranks instances by
        score, since what comes last cannot spoil what came before.
        Raises ConfigError for a mapping that names a category which the contest has not, or leaves one out, and for
        steps that would leave overlaps where the contest forbids them.
        """
        numbers = {name: _by_label(name, getattr(self, name), competition.categories) for name in BY_CLASS}
        if numbers["score"] is None:
            numbers["score"] = 0.0 if competition.ranked else 0.5
        _check_overlaps(self.steps, competition.overlap)
        return replace(self, **numbers)

    def nested(self, overlap: Overlap) -> bool:
        """Whether a higher score threshold or min_area gives some of the same instances, unchanged.

        So it is where whatever is said of an instance depends on those of higher score alone, and the least area asks
        last: overlaps removed by score or not at all, no vote or rescoring behind the score threshold, min_area once
        and at the end. `pipeline.metrics.sweep` rests on that.
        """
        by_score = self.order == "score" or overlap == "allowed" or "overlaps" not in self.steps
        behind = self.steps[self.steps.index("score") :] if "score" in self.steps else SOFT
        return by_score and not {"vote", "rescore"} & set(behind) and self.area_is_last

    def halves(self) -> tuple[tuple[Name, ...], tuple[Name, ...]]:
        """The steps that ask no detection about another, and what follows from them for a higher score threshold.

        So the first half serves all score thresholds, done at the lowest, and the second begins with `score`. It is
        empty where the threshold decides who votes or who is rescored, or where there is none.
        """
        behind = self.steps[self.steps.index("score") :] if "score" in self.steps else SOFT
        if {"vote", "rescore"} & set(behind):
            return (), self.steps
        meeting = (i for i, name in enumerate(self.steps) if name in ("nms", "overlaps", "min_area"))
        at = next(meeting, len(self.steps))
        return self.steps[:at], ("score", *self.steps[at:])

    @property
    def area_is_last(self) -> bool:
        """Whether a higher min_area takes instances away and changes nothing else."""
        return self.steps.index("min_area") == len(self.steps) - 1 if "min_area" in self.steps else False


def of_labels(threshold: float | tuple[float, ...], labels: NDArray[np.int64]) -> NDArray[Any]:
    """What a settled threshold says of each instance: float64 or int64 (N,), for labels int64 (N,) from 1."""
    numbers = np.asarray(threshold)
    return numbers[labels - 1] if numbers.ndim else np.full(len(labels), numbers)


def _values(name: str, given: Any) -> list[tuple[str, Any]]:
    """Every number of a threshold with its key."""
    if isinstance(given, Mapping):
        return [(f"{name}.{key}", value) for key, value in given.items()]
    if isinstance(given, tuple | list):
        return [(f"{name}[{i}]", value) for i, value in enumerate(given)]
    return [(name, given)]


def _by_label(name: str, given: Any, categories: tuple[str, ...]) -> Any:
    """A threshold without names: a mapping or a tuple becomes one number for each category."""
    never = {None: 1.0} if name == "nms" else {}  # no IoU is above 1
    if isinstance(given, Mapping):
        numbers = {str(key): value for key, value in given.items()}
        strange = [key for key in numbers if key not in (*categories, OTHERS)]
        missing = [key for key in categories if key not in numbers and OTHERS not in numbers]
        if strange or missing:
            what = f"{', '.join(strange)}: no such category" if strange else f"no number for {', '.join(missing)}"
            raise ConfigError(f"postprocess.{name}: {what}; wanted one of each of {', '.join(categories)}, or {OTHERS}")
        given = tuple(numbers.get(key, numbers.get(OTHERS)) for key in categories)
    if isinstance(given, tuple):
        if len(given) != len(categories):
            got = ", ".join(map(str, given))
            raise ConfigError(f"postprocess.{name}: wanted one of each of {', '.join(categories)}, got {got}")
        return tuple(never.get(value, value) for value in given)
    return given


def _check_steps(steps: tuple[str, ...]) -> None:
    strange = [name for name in steps if name not in (*SOFT, "mask", *HARD)]
    if strange:
        raise ValueError(f"steps: {', '.join(strange)}: no such step; there are: {', '.join((*SOFT, 'mask', *HARD))}")
    if steps.count("mask") != 1:
        raise ValueError(f"steps: wanted mask once, got it {steps.count('mask')} times in {', '.join(steps) or 'none'}")
    at = steps.index("mask")
    late = [name for name in steps[at:] if name in SOFT]
    early = [name for name in steps[:at] if name in HARD]
    if late or early:
        raise ValueError(
            f"steps: wanted {', '.join(SOFT)} before mask and {', '.join(HARD)} after it, got {', '.join(steps)}"
        )


def _check_overlaps(steps: tuple[str, ...], overlap: Overlap) -> None:
    if overlap == "allowed":
        return
    if "overlaps" not in steps:
        raise ConfigError(f"postprocess.steps: the contest forbids overlaps; wanted overlaps among {', '.join(steps)}")
    last = len(steps) - 1 - steps[::-1].index("overlaps")
    if "holes" in steps[last:]:
        raise ConfigError(
            "postprocess.steps: the contest forbids overlaps, and holes behind overlaps fills what another instance "
            f"holds; got {', '.join(steps)}"
        )
