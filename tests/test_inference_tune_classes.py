"""Rules of each class: every trial equals deciding and scoring anew, and a class moves where that pays alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from fixtures.contests import facts
from hypothesis import given, settings
from hypothesis import strategies as st
from test_inference_tune import BASE, SEARCH, images, table

from pipeline.competition import Competition
from pipeline.inference.postprocess import Rules, decide
from pipeline.inference.rules import STANDARD
from pipeline.inference.tune import Search, Trials, at_every_point, choose, try_all
from pipeline.inference.tune_classes import ByClass, Place
from pipeline.instances import Detections, Instances
from pipeline.metrics.scoring import score

NAMES = ("astro", "cort")


def contest(overlap: Any = "forbidden", metric: Any = "mean_precision") -> Competition:
    return facts("sartorius", categories=NAMES, codes=None, overlap=overlap, metric=metric)


def by_class(soft: list[Detections], truth: list[Instances], competition: Competition, base: Rules) -> ByClass:
    trials = Trials(SEARCH, tuple(one.image_id for one in truth), table(soft, truth, competition, base))
    return ByClass(trials, soft, truth, competition, base)


def anew(soft: list[Detections], truth: list[Instances], competition: Competition, rules: Rules) -> np.ndarray:
    found = [decide(one, rules.settled(competition), competition.overlap) for one in soft]
    return score(truth, found, competition, by_class=True).per_image


# Laws ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overlap", "metric", "steps", "nms"),
    [
        ("forbidden", "mean_precision", STANDARD, None),
        ("within_class", "mean_precision", STANDARD, None),
        ("within_class", "mean_precision_by_class", STANDARD, 0.3),
        ("allowed", "f2", ("rescore", *STANDARD), None),
        ("allowed", "dice", STANDARD, None),
        ("forbidden", "mean_precision", ("score", "vote", "mask", "overlaps", "min_area"), None),
        ("forbidden", "mean_precision", ("score", "mask", "min_area", "overlaps"), None),
    ],
)
def test_every_point_of_one_class_is_what_deciding_and_scoring_anew_gives(
    overlap: Any, metric: Any, steps: Any, nms: float | None
) -> None:
    competition, (soft, truth) = contest(overlap, metric), images(2, 3)
    rules = replace(BASE, score=(0.4, 0.6), mask=(0.4, 0.5), min_area=(9, 3), nms=nms, steps=steps)
    for label in (1, 2):
        found = at_every_point(soft, truth, competition, rules, SEARCH, label)
        for i, j in np.ndindex(found.shape[:2]):
            own: dict[str, list[float]] = {"score": [0.4, 0.6], "min_area": [9, 3]}
            own["score"][label - 1], own["min_area"][label - 1] = SEARCH.scores[i], SEARCH.areas[j]
            wanted = anew(soft, truth, competition, replace(rules, **{k: tuple(v) for k, v in own.items()}))
            np.testing.assert_allclose(found[i, j], wanted, atol=1e-12)


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 999), st.sampled_from(["forbidden", "within_class"]), st.booleans(), st.data())
def test_what_a_place_is_worth_is_what_its_rules_give(seed: int, overlap: Any, vote: bool, data: st.DataObject) -> None:
    """Images of both classes, of one and of none."""
    soft, truth = images(4, seed)
    one = replace(soft[1], labels=np.ones_like(soft[1].labels))
    soft = [soft[0], one, soft[2].select(np.zeros(8, bool)), soft[3].select(soft[3].labels == 2)]
    competition, base = contest(overlap), replace(BASE, steps=("vote", *STANDARD) if vote else STANDARD)
    way = by_class(soft, truth, competition, base)
    own = st.tuples(*(st.integers(0, len(getattr(SEARCH, name)) - 1) for name in ("masks", "scores", "areas")))
    place = Place(data.draw(st.integers(0, 1)), data.draw(st.integers(0, 1)), (data.draw(own), data.draw(own)))
    wanted = anew(soft, truth, competition, way.rules(place, base))
    np.testing.assert_allclose(way.values(place), wanted, atol=1e-12)


# By hand ------------------------------------------------------------------------------------------------------------


def planted(number: int, both: bool) -> tuple[list[Detections], list[Instances]]:
    """Of astro what is surer than 0.8 is true, of cort what is surer than 0.2; nothing overlaps."""
    soft, truth = [], []
    for i in range(number):
        rng = np.random.default_rng(i)
        corner = np.stack(np.meshgrid(np.arange(0, 50, 10), np.arange(0, 40, 10)), -1).reshape(-1, 2)
        labels = rng.integers(1, 3, len(corner)) if both else np.full(len(corner), 1 + i % 2)
        boxes = np.concatenate([corner, corner + 8], 1).astype(np.float32)
        scores = rng.uniform(0.01, 0.99, len(corner)).astype(np.float32)
        masks = np.ones((len(corner), 4, 4), np.float32)
        one = Detections(f"image{i}", (40, 50), boxes, scores, labels.astype(np.int64), masks)
        right = scores > np.where(labels == 1, 0.8, 0.2)
        soft.append(one)
        truth.append(decide(one.select(right), replace(BASE, score=0.0), "forbidden"))
    return soft, truth


WIDE = Search(scores=(0.2, 0.4, 0.6, 0.8), areas=(1, 30), masks=(0.5,), min_shares=(0.5,), nms=(None,))


@pytest.mark.parametrize("both", [True, False])
def test_classes_that_want_other_thresholds_get_them_and_the_nested_score_says_so(both: bool) -> None:
    (soft, truth), competition = planted(16, both), contest()
    values = np.empty((*map(len, WIDE.grid()), 16))
    for place, of_all in try_all(soft, truth, competition, BASE, WIDE):
        values[place] = of_all
    trials = Trials(WIDE, tuple(one.image_id for one in truth), values)
    way = ByClass(trials, soft, truth, competition, BASE)
    default = anew(soft, truth, competition, BASE)
    parts = [i // 2 % 4 for i in range(16)]
    found = choose(trials, BASE, default, parts, range(16), by_class=way)
    assert found.rules.score == {"astro": 0.8, "cort": 0.2}
    assert (found.rules.mask, found.tuned.mean, found.nested.mean) == (0.5, 1.0, 1.0)
    assert found.by_class is not None
    assert found.by_class.low > 0.05
    assert found.by_class.mean == pytest.approx(1 - choose(trials, BASE, default, parts, range(16)).nested.mean)
    assert [rules.score for rules in found.parts.values()] == [{"astro": 0.8, "cort": 0.2}] * 4


def test_classes_that_want_the_same_keep_one_number() -> None:
    soft, truth = planted(8, True)
    truth = [decide(one, replace(BASE, score=0.4), "forbidden") for one in soft]
    competition = contest()
    values = np.empty((*map(len, WIDE.grid()), 8))
    for place, of_all in try_all(soft, truth, competition, BASE, WIDE):
        values[place] = of_all
    way = ByClass(Trials(WIDE, tuple(one.image_id for one in truth), values), soft, truth, competition, BASE)
    found = way.rules(way.chosen(np.ones(8, bool)), BASE)
    assert (found.score, found.mask, found.min_area) == (0.4, 0.5, found.min_area)
    assert isinstance(found.min_area, int)


def test_a_choice_without_classes_says_nothing_of_them() -> None:
    soft, truth = images(4, 0)
    trials = Trials(SEARCH, tuple(one.image_id for one in truth), table(soft, truth, contest(), BASE))
    assert choose(trials, BASE, np.zeros(4), [0, 1, 0, 1], range(4)).by_class is None
