from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from fixtures.contests import facts
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.competition import Competition
from pipeline.inference.postprocess import Rules, decide
from pipeline.inference.rules import STANDARD
from pipeline.inference.tune import FIELDS, Search, Trials, choose, plateau, try_all
from pipeline.instances import Detections, Instances
from pipeline.metrics.scoring import score

SIZE = (40, 50)
BASE = Rules(score=0.5, mask=0.5, min_area=1, min_share=0.5)
SEARCH = Search(scores=(0.2, 0.5, 0.8), areas=(1, 30), masks=(0.4, 0.6), min_shares=(0.0, 0.7), nms=(None, 0.3))


def detections(count: int, seed: int, name: str = "a") -> Detections:
    rng = np.random.default_rng(seed)
    low = rng.uniform(0, 34, (count, 2))
    boxes = np.concatenate([low, low + rng.uniform(4, 14, (count, 2))], 1).astype(np.float32)
    scores, masks = rng.random(count).astype(np.float32), rng.random((count, 7, 7)).astype(np.float32) * 0.5 + 0.3
    return Detections(name, SIZE, boxes, scores, rng.integers(1, 3, count), masks)


def images(number: int, seed: int) -> tuple[list[Detections], list[Instances]]:
    """Detections, and a truth that is some of them, decided at another threshold."""
    soft = [detections(8, 100 * seed + i, f"image{i}") for i in range(number)]
    truth = [decide(one.select(np.arange(0, 8, 2)), replace(BASE, score=0.0, mask=0.45), "forbidden") for one in soft]
    return soft, truth


def table(soft: Sequence[Detections], truth: Sequence[Instances], competition: Competition, base: Rules) -> np.ndarray:
    result = np.full((*map(len, SEARCH.grid()), len(truth)), np.nan)
    for place, values in try_all(soft, truth, competition, base, SEARCH):
        result[place] = values
    return result


# Laws ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "order", "steps"),
    [
        ("sartorius", "score", STANDARD),
        ("sartorius", "small_first", STANDARD),
        ("airbus", "score", STANDARD),
        ("severstal", "score", STANDARD),
        ("imaterialist2019", "score", STANDARD),
        ("sartorius", "score", ("vote", "rescore", *STANDARD)),
        ("sartorius", "score", ("score", "vote", "rescore", "mask", "overlaps", "min_area")),
        ("sartorius", "score", ("score", "mask", "min_area", "nms", "overlaps")),
        ("sartorius", "score", ("mask", "overlaps")),
    ],
)
def test_every_trial_is_what_deciding_and_scoring_anew_gives(key: str, order: str, steps: Any) -> None:
    """For the quick way and the slow ones, orders of steps that they can and cannot take, and metrics of four kinds."""
    categories = {"severstal": ("1", "2"), "airbus": ("ship",)}.get(key, ("astro", "cort"))
    competition, base = facts(key, categories=categories, codes=None), replace(BASE, order=order, steps=steps)
    soft, truth = images(3, 1)
    found = table(soft, truth, competition, base)
    trials = Trials(SEARCH, tuple(one.image_id for one in truth), found)
    for place in itertools.product(*(range(len(axis)) for axis in SEARCH.grid())):
        rules = trials.rules(place, base)
        anew = [decide(one, rules, competition.overlap) for one in soft]
        wanted = score(truth, anew, competition, by_class=True).per_image
        np.testing.assert_allclose(found[place], wanted, atol=1e-12)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.integers(6, 14))
def test_nested_scores_are_of_rules_chosen_without_the_images(seed: int, number: int) -> None:
    rng = np.random.default_rng(seed)
    values = rng.random((*map(len, SEARCH.grid()), number))
    parts, default = [i % 3 for i in range(number)], rng.random(number)
    trials = Trials(SEARCH, tuple(map(str, range(number))), values)
    found = choose(trials, BASE, default, parts, range(number))
    wanted = []
    for i in range(number):
        others = [j for j in range(number) if parts[j] != parts[i]]
        wanted.append(values[plateau(values[..., others])[0]][i])
    assert found.nested.mean == pytest.approx(np.mean(wanted))
    assert found.gain.mean == pytest.approx(np.mean(wanted) - default.mean())
    assert found.tuned.mean <= found.peak + 1e-12
    assert found.trials == 48
    # What an image's own part says changes the rules chosen for the other parts alone.
    changed = values.copy()
    changed[..., np.array(parts) == 0] = rng.random()
    again = choose(Trials(SEARCH, trials.image_ids, changed), BASE, default, parts, range(number))
    assert again.parts["1"] == found.parts["1"]


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 12))
def test_the_order_of_images_is_irrelevant_to_the_plateau(seed: int, number: int) -> None:
    rng = np.random.default_rng(seed)
    values = rng.random((4, 5, number)).round(2)
    place, held = plateau(values)
    again, same = plateau(values[..., rng.permutation(number)])
    assert (place, held) == (again, same)


# By hand ------------------------------------------------------------------------------------------------------------


def test_the_middle_of_a_plateau_is_taken_and_not_a_lonely_peak() -> None:
    """Nine points at .8 hang together round the best one at .81; a lone one at .805 lies far away."""
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 0.1, 40)
    means = np.full((7, 9), 0.2)
    means[1:4, 2:7] = 0.8
    means[1, 2] = 0.81
    means[6, 8] = 0.805
    # Each trial differs from the others by its own noise, as images do.
    values = means[..., None] + noise + rng.normal(0, 0.1, (7, 9, 40))
    place, held = plateau(values - values.mean(-1, keepdims=True) + means[..., None])
    assert held == 15
    assert place == (2, 4)


def test_a_trial_that_is_better_beyond_doubt_stands_alone() -> None:
    values = np.random.default_rng(1).normal(0.5, 0.2, 30) + np.zeros((3, 3, 30))
    values[2, 0] += 0.1  # of every image: no spread at all
    assert plateau(values) == ((2, 0), 1)


def test_a_single_image_chooses_among_equals_only() -> None:
    values = np.array([0.1, 0.7, 0.7, 0.7, 0.2])[:, None]
    assert plateau(values) == ((2,), 3)


def test_rules_of_a_trial_change_what_was_searched_and_nothing_else() -> None:
    trials = Trials(SEARCH, (), np.zeros((*map(len, SEARCH.grid()), 0)))
    found = trials.rules((1, 0, 1, 2, 1), replace(BASE, holes="fill"))
    assert found == Rules(score=0.8, mask=0.6, min_area=30, min_share=0.0, nms=0.3, holes="fill")
    assert {name: getattr(found, name) for name in FIELDS} == {
        "mask": 0.6, "min_share": 0.0, "nms": 0.3, "score": 0.8, "min_area": 30,
    }  # fmt: skip
