"""Kinds of error: all mended give the truth, each kind in a case worked by hand, and what each costs."""

from __future__ import annotations

import numpy as np
import pytest
from fixtures.contests import facts
from fixtures.scored import LAW, bars, image_pairs, instances, mask_pairs
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import InputError
from pipeline.instances import Instances
from pipeline.metrics.errors import KINDS, costs, judge, mended
from pipeline.metrics.mean_precision import THRESHOLDS, score_image
from pipeline.metrics.scoring import score

SARTORIUS = facts("sartorius")  # three classes, which its metric does not look at
CLASSES = facts("sartorius", metric="mean_precision_by_class")


def contents(image: Instances) -> list[tuple[str, int]]:
    return sorted(zip(image.masks, image.labels.tolist(), strict=True))


# Laws ---------------------------------------------------------------------------------------------------------------


@LAW
@given(image_pairs(), st.sampled_from([(50, 95), (10, 10), (0, 100), (75, 90)]))
def test_mending_everything_gives_the_truth(images: list[tuple[Instances, Instances]], thresholds: tuple[int]) -> None:
    for truth, predicted in images:
        done = mended(truth, predicted, judge(truth, predicted, thresholds, classes=True), KINDS)
        assert contents(done) == contents(truth)
        assert score_image(truth, done).tp.tolist() == [len(truth)] * len(THRESHOLDS)


@LAW
@given(image_pairs())
def test_mending_nothing_changes_nothing(images: list[tuple[Instances, Instances]]) -> None:
    for truth, predicted in images:
        same = mended(truth, predicted, judge(truth, predicted), ())
        assert contents(same) == contents(predicted)
        assert sorted(same.scores.tolist()) == sorted(predicted.scores.tolist())


@LAW
@given(mask_pairs(), st.sampled_from([0, 30, 50, 75]))
def test_the_hits_are_as_many_as_the_metric_counts_and_no_truth_is_answered_twice(
    masks: tuple[np.ndarray, np.ndarray], threshold: int
) -> None:
    truth, predicted = (instances(side) for side in masks)
    found = judge(truth, predicted, (threshold, 95))
    assert (found.predicted == "hit").sum() == score_image(truth, predicted, (threshold,)).tp[0]
    assert (found.truth == "hit").sum() == (found.predicted == "hit").sum()
    partners = found.partner[found.partner >= 0]
    assert len(set(partners.tolist())) == len(partners)
    assert set(found.truth.tolist()) <= {"hit", *KINDS} - {"false_alarm", "duplicate"}
    assert set(found.predicted.tolist()) <= {"hit", *KINDS} - {"missed"}


@settings(LAW, max_examples=40)
@given(st.lists(st.tuples(st.integers(0, 12), st.integers(1, 12)), max_size=6), st.data())
def test_of_masks_that_do_not_overlap_no_kind_costs_less_than_nothing(
    spans: list[tuple[int, int]], data: st.DataObject
) -> None:
    sides = []
    for shift in (0, data.draw(st.integers(0, 3))):
        edges = np.cumsum([shift] + [value for gap, length in spans for value in (gap, length)])
        sides.append(instances(bars(*zip(edges[1::2], edges[2::2], strict=True), width=200)))
    found = list(costs([sides[0]], [sides[1]], facts("dsb2018"), by_class=False))
    assert all(cost.gain >= -1e-12 for cost in found)
    assert all(cost.gain == 0 for cost in found if not cost.count)


@settings(LAW, max_examples=30)
@given(image_pairs())
def test_the_price_of_a_kind_is_the_score_with_it_mended_less_the_score(
    images: list[tuple[Instances, Instances]],
) -> None:
    truth, predicted = (list(side) for side in zip(*images, strict=True))
    plain = score(truth, predicted, CLASSES, by_class=True).total
    for cost in costs(truth, predicted, CLASSES, by_class=True):
        assert cost.score == pytest.approx(plain + cost.gain)
        assert 0 <= cost.score <= 1


# Every kind by hand: masks are spans of a line of 40 pixels ----------------------------------------------------------

CASES = {
    # truth, prediction; verdicts on the truth, on the prediction
    "nothing": ((), (), (), ()),
    "hit": (((0, 10),), ((0, 10),), ("hit",), ("hit",)),
    "a hit at .50 of 6 shared pixels in 11": (((0, 10),), ((0, 6),), ("hit",), ("hit",)),
    "an IoU of .50 is none": (((0, 10),), ((0, 5),), ("loose",), ("loose",)),
    "an IoU of .10 is no loose mask": (((0, 10),), ((9, 10),), ("missed",), ("false_alarm",)),
    "missed": (((0, 10), (20, 30)), ((0, 10),), ("hit", "missed"), ("hit",)),
    "false alarm": (((0, 10),), ((0, 10), (30, 35)), ("hit",), ("hit", "false_alarm")),
    "merged": (((0, 10), (10, 20)), ((0, 20),), ("merged", "merged"), ("merged",)),
    "merged into a hit": (((0, 10), (10, 14)), ((0, 14),), ("hit", "merged"), ("hit",)),
    "half an object is not merged": (((0, 10), (10, 20)), ((0, 15),), ("hit", "missed"), ("hit",)),
    "split in two": (((0, 10),), ((0, 5), (5, 10)), ("split",), ("split", "split")),
    "a piece beside a hit": (((0, 10),), ((0, 6), (6, 10)), ("hit",), ("hit", "split")),
    "half a piece outside is none": (((0, 10),), ((0, 6), (8, 12)), ("hit",), ("hit", "false_alarm")),
    "duplicate": (((0, 10),), ((0, 10), (0, 8)), ("hit",), ("hit", "duplicate")),
    "of two answers the better is the hit": (((0, 10),), ((0, 7), (0, 9)), ("hit",), ("duplicate", "hit")),
    "loose": (((0, 10),), ((5, 15),), ("loose",), ("loose",)),
}


@pytest.mark.parametrize("case", CASES, ids=str)
def test_verdicts_worked_by_hand(case: str) -> None:
    truth, predicted, of_truth, of_predicted = CASES[case]
    found = judge(instances(bars(*truth)), instances(bars(*predicted)))
    assert tuple(found.truth) == of_truth
    assert tuple(found.predicted) == of_predicted


def test_the_wrong_class_is_an_error_only_where_classes_matter() -> None:
    truth = instances(bars((0, 10), (20, 30)), [1, 2])
    predicted = instances(bars((0, 10), (20, 30)), [1, 1], scores=[0.5, 0.75])
    assert judge(truth, predicted).predicted.tolist() == ["hit", "hit"]
    found = judge(truth, predicted, classes=True)
    assert found.predicted.tolist() == found.truth.tolist() == ["hit", "class"]
    right = mended(truth, predicted, found, ["class"])
    assert (right.labels.tolist(), right.scores.tolist()) == ([1, 2], [0.5, 0.75])


def test_a_right_class_is_preferred_to_a_better_mask() -> None:
    truth = instances(bars((0, 10)), [2])
    predicted = instances(bars((0, 10), (0, 8)), [1, 2])
    assert judge(truth, predicted, classes=True).predicted.tolist() == ["duplicate", "hit"]


def test_what_each_kind_costs_worked_by_hand() -> None:
    # Two images. a: a hit of IoU .8, a false alarm, one missed. b: a merged pair.
    truth = [instances(bars((0, 10), (20, 30)), image_id="a"), instances(bars((0, 10), (10, 20)), image_id="b")]
    found = [instances(bars((0, 8), (12, 14)), image_id="a"), instances(bars((0, 20)), image_id="b")]
    # a: TP 1, FP 1, FN 1 above .50 to .75, six of ten thresholds; b: 0.
    plain = (0.6 * 1 / 3 + 0) / 2
    by_kind = {cost.kind: cost for cost in costs(truth, found, facts("dsb2018"), by_class=False)}
    wanted = {
        "missed": (1, (0.6 * 2 / 3 + 0.4 * 1 / 4) / 2),  # a: TP 2 or 1, FP 1 or 2, FN 0 or 1
        "merged": (2, (0.6 * 1 / 3 + 1) / 2),
        "split": (0, plain),
        "class": (0, plain),
        "loose": (1, (1 / 3 + 0) / 2),
        "false_alarm": (1, (0.6 * 1 / 2 + 0) / 2),
        "duplicate": (0, plain),
    }
    assert by_kind.keys() == KINDS.keys()
    for kind, (count, mended_score) in wanted.items():
        assert by_kind[kind].count == count, kind
        assert by_kind[kind].score == pytest.approx(mended_score), kind
        assert by_kind[kind].gain == pytest.approx(mended_score - plain), kind


@pytest.mark.parametrize("key", ["airbus", "severstal", "hpa2021", "coco", "imaterialist2019", "sartorius"])
def test_every_contests_metric_has_its_costs_and_the_truth_has_none(key: str) -> None:
    competition = facts(key)
    truth = [instances(bars((0, 10), (20, 30)), [1, 2 if len(competition.categories) > 1 else 1])]
    assert all(cost.count == 0 == cost.gain for cost in costs(truth, truth, competition, by_class=True))
    less = [truth[0].select(np.array([0]))]
    missed = next(costs(truth, less, competition, by_class=True))
    assert (missed.kind, missed.count, missed.score) == ("missed", 1, pytest.approx(1))
    assert missed.gain > 0


def test_inputs_are_left_alone_and_two_sizes_refused() -> None:
    truth, predicted = instances(bars((0, 10)), [1]), instances(bars((0, 10)), [2])
    mended(truth, predicted, judge(truth, predicted, classes=True), KINDS)
    assert predicted.labels.tolist() == [2]
    with pytest.raises(InputError, match="image a: the prediction is made for 1×40 pixels"):
        judge(instances(bars((0, 1), width=30)), predicted)
