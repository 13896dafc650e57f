"""F2 over IoU thresholds, Airbus's metric: laws, an independent dense implementation, values worked by hand."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from fixtures.scored import LAW, Masks, bars, dense_counts, instances, mask_pairs
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.instances import Instances
from pipeline.metrics.mean_precision import THRESHOLDS, counted, f2
from pipeline.metrics.score import Counted

FEW = settings(LAW, max_examples=50)


def score(*pairs: tuple[Masks, Masks], thresholds: tuple[int, ...] = THRESHOLDS) -> Counted:
    sides = [[instances(side, image_id=str(k)) for k, side in enumerate(sides)] for sides in zip(*pairs, strict=True)]
    return counted("f2", sides[0], sides[1], thresholds, {})


# laws


@given(st.lists(mask_pairs(), min_size=1, max_size=3))
@FEW
def test_the_score_follows_from_precision_and_recall_of_dense_masks(pairs: list[tuple[Masks, Masks]]) -> None:
    wanted = []
    for truth, predicted in pairs:
        values = []
        for tp, fp, fn in dense_counts(truth, predicted, THRESHOLDS):
            if tp + fp + fn == 0:
                values.append(Fraction(1))
            elif tp == 0:
                values.append(Fraction(0))
            else:
                precision, recall = Fraction(tp, tp + fp), Fraction(tp, tp + fn)
                values.append((1 + 4) * precision * recall / (4 * precision + recall))  # the definition of F-beta
        wanted.append(float(sum(values) / len(values)))
    found = score(*pairs)
    np.testing.assert_allclose(found.per_image, wanted, rtol=1e-12)
    assert found.total == pytest.approx(np.mean(wanted), rel=1e-12)


@given(st.lists(mask_pairs(), min_size=1, max_size=3))
@FEW
def test_hits_misses_and_false_alarms_are_those_of_mean_precision(pairs: list[tuple[Masks, Masks]]) -> None:
    found = score(*pairs)
    sides = [[instances(side, image_id=str(k)) for k, side in enumerate(side)] for side in zip(*pairs, strict=True)]
    other = counted("mean_precision", sides[0], sides[1], THRESHOLDS, {})
    for name in ("tp", "fp", "fn"):
        np.testing.assert_array_equal(getattr(found, name), getattr(other, name))
    # Never below: it is the larger ratio of the same counts, and both are 0 or 1 at once.
    assert (found.per_image >= other.per_image - 1e-12).all()


@given(st.integers(0, 9), st.integers(0, 9), st.integers(1, 9))
def test_a_miss_costs_more_than_a_false_alarm(fp: int, fn: int, tp: int) -> None:
    more_misses, more_alarms = f2(tp, fp, fn + 1), f2(tp, fp + 1, fn)
    assert more_misses < more_alarms < f2(tp, fp, fn)


@given(mask_pairs())
@FEW
def test_truth_against_itself_scores_one(pair: tuple[Masks, Masks]) -> None:
    assert score((pair[0], pair[0])).total == 1


# values worked by hand


def test_one_hit_one_miss_and_two_false_alarms_score_five_elevenths() -> None:
    # TP 1, FN 1, FP 2: 5 / (5 + 4 + 2).
    pair = bars((0, 10), (12, 22)), bars((0, 10), (24, 26), (30, 32))
    assert score(pair).total == pytest.approx(5 / 11)


def test_six_of_ten_pixels_hit_at_two_of_ten_thresholds() -> None:
    # IoU .6 is above .50 and .55, not above .60: 1 at two thresholds, 0 at eight.
    assert score((bars((0, 10)), bars((0, 6)))).total == pytest.approx(0.2)


def test_an_image_without_truth_scores_one_if_it_is_predicted_empty_and_else_zero() -> None:
    found = score((bars(), bars()), (bars(), bars((0, 10))), (bars((0, 10)), bars()))
    assert found.per_image.tolist() == [1, 0, 0]
    assert found.total == pytest.approx(1 / 3)


def test_an_image_missing_from_the_prediction_is_predicted_empty() -> None:
    truth = [instances(bars(), image_id="a"), instances(bars((0, 10)), image_id="b")]
    assert counted("f2", truth, list[Instances](), THRESHOLDS, {}).per_image.tolist() == [1, 0]


def test_lines_and_plain_values_name_the_metric() -> None:
    found = score((bars((0, 10), (12, 22)), bars((0, 10))), thresholds=(50,))
    assert found.lines() == [
        "F2 0.5556 over 1 images",  # 5 / (5 + 4)
        "  IoU over     .50",
        "  per image    .56",
        "  pooled       .56",
    ]
    assert found.to_dict()["metric"] == "f2"
