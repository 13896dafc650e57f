from __future__ import annotations

import numpy as np
import pytest
from fixtures.dense import LAW
from hypothesis import given
from hypothesis import strategies as st

from pipeline.metrics.uncertainty import bootstrap

VALUES = st.lists(st.floats(-1, 1), min_size=1, max_size=30).map(np.array)


@LAW
@given(VALUES, st.integers(0, 100))
def test_the_interval_holds_the_mean_and_lies_within_the_values(values: np.ndarray, seed: int) -> None:
    found = bootstrap(values, seed=seed, draws=200)
    assert found.mean == pytest.approx(values.mean())
    assert values.min() - 1e-9 <= found.low <= found.high <= values.max() + 1e-9


@LAW
@given(st.floats(-1, 1), st.integers(1, 20))
def test_equal_values_leave_no_doubt(value: float, count: int) -> None:
    found = bootstrap(np.full(count, value), draws=50)
    assert found.low == pytest.approx(value, abs=1e-12)
    assert found.high == pytest.approx(value, abs=1e-12)


@LAW
@given(VALUES, st.integers(2, 4))
def test_images_that_repeat_one_another_in_a_group_add_no_certainty(values: np.ndarray, times: int) -> None:
    groups = np.arange(len(values)).repeat(times).tolist()
    one, many = bootstrap(values, draws=200), bootstrap(values.repeat(times), groups, draws=200)
    assert (one.low, one.high) == (pytest.approx(many.low, abs=1e-12), pytest.approx(many.high, abs=1e-12))


@LAW
@given(VALUES)
def test_a_group_each_is_no_group(values: np.ndarray) -> None:
    assert bootstrap(values, draws=100) == bootstrap(values, list(range(len(values))), draws=100)


def test_the_interval_is_that_of_means_of_images_drawn_one_by_one() -> None:
    values = np.random.default_rng(0).beta(2, 3, 150)
    found = bootstrap(values, draws=20_000)
    means = np.random.default_rng(1).choice(values, (20_000, 150)).mean(1)
    assert (found.low, found.high) == (pytest.approx(np.quantile(means, 0.025), abs=1e-3),
                                       pytest.approx(np.quantile(means, 0.975), abs=1e-3))  # fmt: skip


def test_no_value_is_refused() -> None:
    with pytest.raises(ValueError, match="values: wanted one per image, at least one, got none"):
        bootstrap(np.zeros(0))
