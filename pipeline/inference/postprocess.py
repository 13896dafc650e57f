"""From soft detections to decided instances: the one way from `Detections` to `Instances`, none leads back.

Each step is a function of the working state, the rules and the contest's word on overlaps, and returns a new state.
`Rules.steps` names them in order. A step that one contest needs is a function more in `STEPS`, and its name in
`pipeline.inference.rules`.

gate: drops what a classifier does not see in the image. vote: every instance gets the class that has the most score in
the image, times what a classifier says of it where there is one. rescore: a score is multiplied by the mean
probability of its mask. score: drops what is below the score threshold. mask: makes the masks. holes, parts: puts a
mask's shape right. nms: drops second answers for one object. overlaps: gives each disputed pixel to one instance.
min_area: drops what is too small.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pipeline.competition import Overlap
from pipeline.inference.paste import paste
from pipeline.inference.presence import Presence
from pipeline.inference.rules import Name, Rules, of_labels
from pipeline.instances import Detections, Instances
from pipeline.masks import geometry
from pipeline.masks.runs import Runs, area, concatenate, empty
from pipeline.masks.shape import fill_holes, largest_part

__all__ = ["STEPS", "Rules", "State", "Step", "apply", "decide", "finish", "start"]

Int = NDArray[np.int64]
Bool = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class State:
    """An image between two steps.

    found: its detections by falling score. runs: their masks in the image, as many; without a pixel before `mask`.
    presence: what a classifier says of the image, None where none was asked.
    """

    found: Detections
    runs: Runs
    presence: Presence | None = None

    def select(self, keep: Bool) -> State:
        """What is to be kept, bool (N,)."""
        return self if keep.all() else replace(self, found=self.found.select(keep), runs=self.runs.select(keep))


Step = Callable[[State, Rules, Overlap], State]


def decide(detections: Detections, rules: Rules, overlap: Overlap, presence: Presence | None = None) -> Instances:
    """The instances of one image, by falling score.

    rules: settled ones. overlap: "forbidden" gives each pixel to one instance, the first in `rules.order` that holds
    it; "within_class" to one of each class; "allowed" leaves masks as they are. presence: what a classifier says of the
    image; without it `gate` lets everything pass.

    In the standard order the shape of a mask is put right before masks meet: NMS and min_share then compare what would
    be submitted. Where overlaps are removed a mask may fall apart once more. A hole that another instance made stays,
    and what is dropped after the overlaps are removed goes to no one. An instance without a pixel is never one.
    Raises ValueError for rules that are not settled.
    """
    return finish(apply(start(detections, presence), rules.steps, rules, overlap))


def finish(state: State) -> Instances:
    """The instances after the last step: those with a pixel."""
    state = state.select(area(state.runs) > 0)
    return Instances.of_runs(state.found.image_id, state.runs, state.found.scores, state.found.labels)


def start(detections: Detections, presence: Presence | None = None) -> State:
    """The state before the first step; of equal scores the order of the detections holds."""
    ordered = _by_score(detections)
    return State(ordered, empty(len(ordered), detections.size), presence)


def apply(state: State, steps: tuple[Name, ...], rules: Rules, overlap: Overlap) -> State:
    """The state after some steps."""
    if rules.score is None:
        raise ValueError("score: wanted a number from 0 to 1, got null; Rules.settled gives the contest's")
    mappings = [name for name, value in vars(rules).items() if isinstance(value, Mapping)]
    if mappings:
        raise ValueError(f"{', '.join(mappings)}: wanted a number of each label, got names; Rules.settled gives these")
    for name in steps:
        state = STEPS[name](state, rules, overlap)
    return state


# Before the masks are made ------------------------------------------------------------------------------------------


def gate(state: State, rules: Rules, overlap: Overlap) -> State:
    """Without the detections of categories that the classifier does not see in the image."""
    return state if state.presence is None else state.select(state.presence.there(state.found.labels))


def vote(state: State, rules: Rules, overlap: Overlap) -> State:
    """Every instance gets the class whose scores add up to most; of equals the first. For images of one class each.

    Where there is a classifier, scores count times its probability of their class.
    """
    labels, weights = state.found.labels, state.found.scores
    if not len(labels):
        return state
    if state.presence is not None:
        weights = weights * state.presence.weights(labels)
    classes, place = np.unique(labels, return_inverse=True)
    most = classes[np.bincount(place, weights=weights).argmax()]
    return replace(state, found=replace(state.found, labels=np.full_like(labels, most)))


def rescore(state: State, rules: Rules, overlap: Overlap) -> State:
    """Scores times the mean probability of their masks' foreground: the bins above the mask threshold; 0 without one.

    A box's score says nothing of its mask (Huang et al., Mask Scoring R-CNN, arXiv:1903.00241). The mean probability
    is what SOLO multiplies its scores with and calls maskness (Wang et al., arXiv:2106.15947).
    """
    found = state.found
    inside = found.masks > of_labels(rules.mask, found.labels).astype(np.float32)[:, None, None]
    count = inside.sum((1, 2))
    mean = np.where(inside, found.masks, 0).sum((1, 2)) / np.maximum(count, 1)
    rescored = replace(found, scores=(found.scores * mean).astype(np.float32))
    return replace(state, found=_by_score(rescored))


def least_score(state: State, rules: Rules, overlap: Overlap) -> State:
    """Without the detections below the score threshold, which is compared as float32, as the scores are."""
    return state.select(state.found.scores >= of_labels(rules.score, state.found.labels).astype(np.float32))


def threshold(state: State, rules: Rules, overlap: Overlap) -> State:
    """The masks: each pixel whose probability is above the mask threshold."""
    found, levels = state.found, of_labels(rules.mask, state.found.labels)
    own = [np.flatnonzero(levels == level) for level in np.unique(levels)]
    parts = [paste(found.select(index), float(levels[index[0]])) for index in own] if len(own) > 1 else []
    if not parts:
        return replace(state, runs=paste(found, float(levels[0]) if len(levels) else 0.5))
    return replace(state, runs=concatenate(parts, found.size).select(np.argsort(np.concatenate(own))))


# After that ---------------------------------------------------------------------------------------------------------


def holes(state: State, rules: Rules, overlap: Overlap) -> State:
    """Masks without holes, where the rules say so."""
    return replace(state, runs=fill_holes(state.runs)) if rules.holes == "fill" else state


def parts(state: State, rules: Rules, overlap: Overlap) -> State:
    """Of each mask the largest part, where the rules say so."""
    return replace(state, runs=largest_part(state.runs)) if rules.parts == "largest" else state


def nms(state: State, rules: Rules, overlap: Overlap) -> State:
    """Without the masks too much like one of higher score, of whatever class."""
    if rules.nms is None:
        return state
    limits = of_labels(rules.nms, state.found.labels) if isinstance(rules.nms, tuple) else rules.nms
    return state.select(_chosen(geometry.nms(state.runs, state.found.scores, limits), len(state.runs)))


def overlaps(state: State, rules: Rules, overlap: Overlap) -> State:
    """Masks apart, as the contest wants them, without those of which too small a share is left."""
    if overlap == "allowed":
        return state
    if overlap == "within_class":
        kept, runs = _share_out_each(state.runs, state.found.labels, rules)
    else:
        kept, runs = _share_out(state.runs, rules)
    return replace(state.select(_chosen(kept, len(state.runs))), runs=runs)


def least_area(state: State, rules: Rules, overlap: Overlap) -> State:
    """Without the masks of fewer pixels than min_area."""
    return state.select(area(state.runs) >= of_labels(rules.min_area, state.found.labels))


STEPS: Mapping[Name, Step] = {
    "gate": gate,
    "vote": vote,
    "rescore": rescore,
    "score": least_score,
    "mask": threshold,
    "holes": holes,
    "parts": parts,
    "nms": nms,
    "overlaps": overlaps,
    "min_area": least_area,
}


def _by_score(detections: Detections) -> Detections:
    return detections.select(np.argsort(-detections.scores, kind="stable"))


def _chosen(kept: Int, count: int) -> Bool:
    result = np.zeros(count, bool)
    result[kept] = True
    return result


def _share_out_each(runs: Runs, labels: Int, rules: Rules) -> tuple[Int, Runs]:
    """`_share_out` among the masks of each class by itself."""
    own = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    shared = [_share_out(runs.select(index), rules) for index in own]
    kept = np.concatenate([np.zeros(0, np.int64), *(index[k] for index, (k, _) in zip(own, shared, strict=True))])
    order = np.argsort(kept)
    return kept[order], concatenate([rest for _, rest in shared], runs.size).select(order)


def _share_out(runs: Runs, rules: Rules) -> tuple[Int, Runs]:
    """Indices, rising, of the masks that stay, and what they keep; masks come by falling score."""
    if rules.order == "score":
        return geometry.share_out(runs, rules.min_share)
    areas = area(runs)
    order = np.argsort(areas if rules.order == "small_first" else -areas, kind="stable")
    kept, shared = geometry.share_out(runs.select(order), rules.min_share)
    back = np.argsort(order[kept])
    return order[kept][back], shared.select(back)
