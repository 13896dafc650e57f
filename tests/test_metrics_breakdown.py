"""A score by size, by density and by confidence."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from fixtures.scored import LAW, bars, image_pairs, instances
from hypothesis import given
from hypothesis import strategies as st

from pipeline.instances import Instances
from pipeline.metrics.breakdown import Group, by_confidence, by_density, by_size, miscalibration
from pipeline.metrics.errors import judge


@LAW
@given(image_pairs(images=4), st.integers(1, 6))
def test_parts_hold_everything_once_and_their_means_weigh_up_to_the_whole(
    images: list[tuple[Instances, Instances]], parts: int
) -> None:
    truth, predicted = zip(*images, strict=True)
    verdicts = [judge(*pair) for pair in images]
    sizes = by_size(truth, verdicts, parts=parts)
    assert sum(one.count for one in sizes) == sum(map(len, truth))
    hits = sum((one.truth == "hit").sum() for one in verdicts)
    assert sum(one.count * one.values[0] for one in sizes) == pytest.approx(hits)
    assert all(a.high < b.low for a, b in itertools.pairwise(sizes))
    scores = np.linspace(0, 1, len(truth))
    crowds = by_density(truth, scores, parts)
    assert sum(one.count * one.values[0] for one in crowds) == pytest.approx(scores.sum())
    sure = by_confidence(predicted, verdicts)
    assert sum(one.count for one in sure) == sum(map(len, predicted))
    assert sum(one.count * one.values[1] for one in sure) == pytest.approx(hits)
    assert all(one.low <= one.values[0] <= one.high for one in sure)


def test_sizes_worked_by_hand() -> None:
    truth = [instances(bars((0, 2), (10, 12), (20, 30), (30, 40)))]
    predicted = [instances(bars((0, 2), (20, 28), (30, 36)))]
    groups = by_size(truth, [judge(truth[0], predicted[0])], parts=2)
    # 2 px: one found exactly, one not. 10 px: IoU .8 and .6.
    assert groups == [Group(2, 2, 2, (0.5, 0.5, 0.5)), Group(10, 10, 2, (1, 0.5, 0))]


def test_calibration_worked_by_hand() -> None:
    truth, predicted = instances(bars((0, 10))), instances(bars((0, 10), (20, 30)), scores=[0.875, 0.125])
    groups = by_confidence([predicted], [judge(truth, predicted)], parts=4)
    assert groups == [Group(0, 0.25, 1, (0.125, 0)), Group(0.75, 1, 1, (0.875, 1))]
    assert miscalibration(groups) == 0.125


def test_of_nothing_there_are_no_parts() -> None:
    empty = Instances.empty("a", (4, 5))
    verdicts = [judge(empty, empty)]
    assert by_size([empty], verdicts) == by_confidence([empty], verdicts) == []
    assert by_density([empty], np.ones(1)) == [Group(0, 0, 1, (1,))]
    assert math.isnan(miscalibration([]))
