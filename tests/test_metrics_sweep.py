"""The sweep over score thresholds and areas: every point equals, to the last bit, deciding and scoring it alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from fixtures.dense import LAW, Masks, disks
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pipeline.errors import InputError
from pipeline.inference.postprocess import Rules, decide
from pipeline.instances import Detections, Instances
from pipeline.masks.geometry import remove_overlaps
from pipeline.masks.runs import Runs, area, from_dense, to_coco
from pipeline.masks.text import from_text
from pipeline.masks.windows import crop
from pipeline.metrics.mean_precision import THRESHOLDS, counted, mean_precision
from pipeline.metrics.sweep import Sweep, sweep

SIZE = (4, 5)
TENTHS = np.arange(1, 11) / 10


def instances(runs: Runs, scores: Sequence[float] | None = None, image_id: str = "a") -> Instances:
    scores = np.ones(runs.count) if scores is None else scores
    labels = np.ones(runs.count, np.int64)
    return Instances(image_id, runs.size, np.array(scores, np.float32), labels, tuple(to_coco(runs)))


def one_by_one(
    truth: list[Instances], predicted: list[Instances], found: Sweep, thresholds: tuple[int, ...] = THRESHOLDS
) -> list[list[float]]:
    """The totals at each point from mean_precision on what the point keeps."""
    kept = [
        [
            [one.select((one.scores >= score) & (area(one.runs) >= least)) for one in predicted]
            for least in found.areas.tolist()
        ]
        for score in found.scores
    ]
    return [[mean_precision(truth, point, thresholds).total for point in row] for row in kept]


@st.composite
def images(draw: st.DrawFn) -> tuple[list[Instances], list[Instances]]:
    """One to three images; truth and predictions may overlap themselves, and a prediction is often nearly the truth."""
    truth, predicted = [], []
    for k in range(draw(st.integers(1, 3))):
        masks = draw(arrays(np.bool_, (draw(st.integers(0, 4)), *SIZE)))
        flips = st.sampled_from([False] * 7 + [True])
        near = [masks ^ draw(arrays(np.bool_, masks.shape, elements=flips)) for _ in range(draw(st.integers(1, 2)))]
        guess = np.concatenate([*near, draw(arrays(np.bool_, (draw(st.integers(0, 2)), *SIZE)))])
        scores = [draw(st.sampled_from(TENTHS.tolist())) for _ in guess]
        truth.append(instances(from_dense(masks), image_id=str(k)))
        predicted.append(instances(from_dense(guess), scores, str(k)))
    return truth, predicted


GRID = st.sets(st.sampled_from(TENTHS.tolist()), min_size=1, max_size=4).map(sorted)
AREAS = st.sets(st.integers(0, 20), min_size=1, max_size=4).map(sorted)


@given(images(), GRID, AREAS, st.sampled_from([THRESHOLDS, (0, 5, 25), (60,), (90, 30)]))
@settings(LAW, max_examples=200)
def test_every_point_equals_scoring_what_it_keeps(
    two: tuple[list[Instances], list[Instances]], scores: list[float], areas: list[int], thresholds: tuple[int, ...]
) -> None:
    found = sweep(*two, scores, areas, thresholds)
    assert found.totals.shape == (len(scores), len(areas))
    assert found.totals.tolist() == one_by_one(*two, found, thresholds)


@given(images(), st.sampled_from(["mean_precision", "mean_precision_by_class", "f2"]), st.sampled_from([None, 1, 2]))
@settings(LAW, max_examples=40)
def test_a_grid_for_one_class_lets_the_others_be_and_serves_every_metric_of_counts(
    two: tuple[list[Instances], list[Instances]], kind: Any, label: int | None
) -> None:
    truth, predicted = ([dataclasses.replace(i, labels=np.arange(len(i)) % 2 + 1) for i in side] for side in two)
    found = sweep(truth, predicted, [0.2, 0.6], [1, 8], kind=kind, label=label)
    for s, a in np.ndindex(2, 2):
        strict = [(i.scores >= found.scores[s]) & (area(i.runs) >= found.areas[a]) for i in predicted]
        free = [i.labels != (i.labels if label is None else label) for i in predicted]
        point = [i.select(kept | other) for i, kept, other in zip(predicted, strict, free, strict=True)]
        wanted = counted(kind, truth, point, THRESHOLDS, {}).per_image
        np.testing.assert_allclose(found.per_image[s, a], wanted, atol=1e-12)


def detections(count: int, seed: int) -> Detections:
    """Crowded soft masks on an image of 40×50, with ties among their scores."""
    rng = np.random.default_rng(seed)
    low = rng.uniform(-4, 38, (count, 2))
    boxes = np.concatenate([low, low + rng.uniform(3, 16, (count, 2))], 1).astype(np.float32)
    scores = rng.choice(TENTHS, count).astype(np.float32)
    return Detections("a", (40, 50), boxes, scores, np.ones(count, np.int64), rng.random((count, 7, 7), np.float32))


LOWEST = Rules(score=0.2, mask=0.4, min_area=1, min_share=0.0)
NESTED = [
    LOWEST,
    dataclasses.replace(LOWEST, min_share=0.6),
    dataclasses.replace(LOWEST, min_share=0.6, holes="fill", parts="largest", nms=0.4),
]


@given(st.integers(0, 40), st.integers(0, 999), st.sampled_from(NESTED), st.sampled_from(["forbidden", "allowed"]))
@settings(LAW, max_examples=30)
def test_every_point_equals_deciding_and_scoring_it_alone(count: int, seed: int, rules: Rules, overlap: str) -> None:
    soft = detections(count, seed)
    truth = [instances(from_dense(disks(12, (40, 50), seed, radius=7)))]
    found = sweep(truth, [decide(soft, rules, overlap)], [0.2, 0.5, 0.7, 1.0], [1, 5, 20, 60])
    for s, score in enumerate([0.2, 0.5, 0.7, 1.0]):
        for a, least in enumerate([1, 5, 20, 60]):
            point = decide(soft, dataclasses.replace(rules, score=score, min_area=least), overlap)
            assert found.totals[s, a] == mean_precision(truth, [point]).total


def test_real_cells_that_overlap_in_the_truth_are_scored_the_same_at_every_point(real_data: Path) -> None:
    table = pd.read_csv(real_data / "sartorius" / "train.csv", usecols=["id", "annotation"])
    rng = np.random.default_rng(0)
    truth, predicted = [], []
    for name, texts in list(table.groupby("id", sort=False).annotation)[:4]:
        runs = from_text(texts.tolist(), (520, 704), "row")
        scores = rng.random(len(runs)).astype(np.float32)
        apart = remove_overlaps(crop(runs, (1, 0, 704, 520), runs.size), scores)
        truth.append(instances(runs, image_id=str(name)))
        predicted.append(instances(apart, scores, str(name)))
    found = sweep(truth, predicted, [0.1, 0.25, 0.5, 0.9], [0, 60, 120, 500])
    assert found.totals.tolist() == one_by_one(truth, predicted, found)
    assert found.totals[0, 0] > found.totals[-1, -1] > 0


def test_hundreds_of_images_are_averaged_in_the_same_order() -> None:
    pairs = [(disks(3, (12, 12), seed), disks(3, (12, 12), seed + 1000)) for seed in range(300)]
    truth = [instances(from_dense(one), image_id=str(k)) for k, (one, _) in enumerate(pairs)]
    predicted = [
        instances(from_dense(np.concatenate([one, other])), [0.9, 0.5, 0.7, 0.1, 0.2, 0.3], str(k))
        for k, (one, other) in enumerate(pairs)
    ]
    found = sweep(truth, predicted, [0.1, 0.6], [0, 30])
    assert found.totals.tolist() == one_by_one(truth, predicted, found)


def bars(*spans: tuple[int, int]) -> Masks:
    masks = np.zeros((len(spans), 1, 40), bool)
    for mask, (start, stop) in zip(masks, spans, strict=True):
        mask[:, start:stop] = True
    return masks


def test_the_best_point_of_two_cells_and_a_false_alarm_worked_by_hand() -> None:
    truth = [instances(from_dense(bars((0, 10), (20, 24))))]
    guess = [instances(from_dense(bars((0, 10), (20, 24), (30, 36))), [0.9, 0.5, 0.3])]
    found = sweep(truth, guess, [0.2, 0.4, 0.8], [1, 5, 20])
    # Two of three, then both, then one of two; of 5 pixels and more one hit and one miss, with the false alarm or not.
    np.testing.assert_allclose(found.totals, [[2 / 3, 1 / 3, 0], [1, 1 / 2, 0], [1 / 2, 1 / 2, 0]])
    assert found.best == (pytest.approx(0.4), 1, 1.0)


def test_of_two_truths_that_only_one_prediction_finds_one_is_missed_at_every_point() -> None:
    truth = [instances(from_dense(bars((0, 10), (0, 10))))]
    found = sweep(truth, [instances(from_dense(bars((0, 10))), [0.5])], [0.1, 0.6], [0])
    assert found.totals.tolist() == [[0.5], [0.0]]


def test_a_weaker_prediction_takes_the_place_of_none_and_a_threshold_holds_what_equals_it() -> None:
    truth = [instances(from_dense(bars((0, 10))))]
    twins = [instances(from_dense(bars((0, 10), (0, 10))), [0.3, 0.7])]
    assert sweep(truth, twins, [0.3, 0.7, 0.8], [10, 11]).totals.tolist() == [[0.5, 0.0], [1.0, 0.0], [0.0, 0.0]]


def test_with_the_small_first_a_threshold_gives_pixels_back_so_that_points_are_not_nested() -> None:
    """Why a sweep needs the order by score: the weaker of two goes, and the stronger grows."""
    boxes = np.array([[0, 0, 10, 4], [6, 0, 12, 4]], np.float32)
    soft = Detections("a", (4, 12), boxes, np.array([0.9, 0.5], np.float32), np.ones(2, int), np.ones((2, 2, 2), "f4"))
    small = Rules(score=0.1, mask=0.5, min_area=1, min_share=0.0, order="small_first")
    areas = [area(decide(soft, dataclasses.replace(small, score=score), "forbidden").runs) for score in (0.1, 0.6)]
    assert [one.tolist() for one in areas] == [[24, 24], [40]]


@pytest.mark.parametrize(("scores", "areas", "name"), [([], [1], "scores"), ([0.5], [3, 3], "areas")])
def test_a_grid_that_does_not_rise_is_refused(scores: list[float], areas: list[int], name: str) -> None:
    one = [instances(from_dense(bars((0, 4))))]
    with pytest.raises(ValueError, match=f"{name}: wanted at least one number, each larger than the one before"):
        sweep(one, one, scores, areas)


def test_what_the_metric_refuses_the_sweep_refuses_too() -> None:
    one = instances(from_dense(bars((0, 4))))
    with pytest.raises(InputError, match="no image in the truth"):
        sweep([], [], [0.5], [1])
    with pytest.raises(InputError, match="the first is b"):
        sweep([one], [dataclasses.replace(one, image_id="b")], [0.5], [1])
