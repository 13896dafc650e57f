"""Predicting within a time: what is chosen fits, is the most that fits, and is dropped in the stated order."""

from __future__ import annotations

import pytest
from fixtures.dense import LAW
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import ConfigError
from pipeline.inference.budget import RESERVE, Pace, choose, fewer, seconds
from pipeline.inference.views import Views

COUNTS = st.integers(0, 50)
LATER = st.lists(st.integers(1, 50), max_size=4).map(tuple)
COSTS = st.floats(0.01, 10)
LEFT = st.floats(0, 5000)


@LAW
@given(COSTS, COUNTS, LATER, st.integers(1, 8), LEFT)
def test_what_is_chosen_fits_or_is_one_view_of_the_present_model(
    cost: float, images: int, later: tuple[int, ...], views: int, left: float
) -> None:
    chosen, models = choose(cost, images, later, views, left)
    assert 1 <= chosen <= views
    assert 0 <= models <= len(later)
    takes = cost * chosen * (images + sum(later[:models]))
    assert takes <= left * (1 - RESERVE) * (1 + 1e-9) or (chosen, models) == (1, 0)


@LAW
@given(COSTS, COUNTS, LATER, st.integers(1, 8), LEFT)
def test_no_more_would_fit_and_views_go_before_models(
    cost: float, images: int, later: tuple[int, ...], views: int, left: float
) -> None:
    chosen, models = choose(cost, images, later, views, left)
    limit = left * (1 - RESERVE)
    if chosen < views:
        assert cost * (chosen + 1) * (images + sum(later)) > limit * (1 - 1e-9)
    if models < len(later):
        assert chosen == 1
        assert cost * (images + sum(later[: models + 1])) > limit * (1 - 1e-9)


@LAW
@given(COSTS, COUNTS, LATER, st.integers(1, 8), LEFT, st.floats(0, 1000))
def test_more_time_never_means_less(
    cost: float, images: int, later: tuple[int, ...], views: int, left: float, more: float
) -> None:
    assert choose(cost, images, later, views, left) <= choose(cost, images, later, views, left + more)


def test_a_choice_worked_by_hand() -> None:
    # 100 images in 4 views and 2 more models of 100: 1,200 looks of 1 s. Of 1,000 s 900 may be planned with: 3 views.
    assert choose(1.0, 100, (100, 100), 4, 1000) == (3, 2)
    assert choose(1.0, 100, (100, 100), 4, 300) == (1, 1)  # of 270 looks 200 make two models
    assert choose(1.0, 100, (100, 100), 4, 10) == (1, 0)
    assert choose(0.0, 100, (100, 100), 4, 0) == (4, 2)  # nothing is measured yet


@pytest.mark.parametrize(("most", "left"), [(9, 8), (8, 8), (7, 4), (4, 4), (3, 2), (2, 2), (1, 1), (0, 1)])
def test_views_go_in_the_stated_order_and_the_first_one_stays(most: int, left: int) -> None:
    views = Views(symmetries=(0, 1), scales=(1.0, 2.0), inverts=(False, True))
    kept = fewer(views, most)
    assert len(kept.all()) == left
    assert kept.all()[0] == views.all()[0]
    assert set(kept.all()) <= set(views.all())
    if left == 2:
        assert kept.symmetries == (0, 1)


@pytest.mark.parametrize(("text", "value"), [("8h", 28800), ("1h30m", 5400), ("90m", 5400), ("45.5s", 45.5), ("0s", 0)])
def test_times_are_read(text: str, value: float) -> None:
    assert seconds(text) == value


@pytest.mark.parametrize("text", ["", "8", "h", "8 h", "-1h", "8h!", "1d", "1h x"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="budget: wanted a time such as 8h, 1h30m or 45s, got"):
        seconds(text)


def test_a_pace_learns_what_a_view_costs_and_says_what_it_drops() -> None:
    time = [100.0]
    pace = Pace(60, lambda: time[0])
    assert pace.choose(1000, (1000,), 8) == (8, 1), "before anything is measured nothing is dropped"
    time[0] += 10
    pace.did(10, images=5, views=2)
    assert (pace.cost, pace.left) == (1.0, 50.0)
    assert pace.choose(10, (10,), 8) == (2, 1)
    said = pace.projection(10, (10,), 8)
    assert "1.00 s per image and view; 20 images in 8 views would take 2.7 min, 0.8 min are left: 2 views" in said
    assert "1 of 1 later models dropped" in pace.projection(45, (10,), 8)
