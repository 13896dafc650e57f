from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.optim.lr_scheduler import MultiStepLR, OneCycleLR

from pipeline.model.schedule import MultiStep, OneCycle, Rates
from pipeline.model.training import Schedule


def rates(make: type, steps: int, **settings: object) -> list[float]:
    """What a scheduler of torch makes of a rate of 1, step by step."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = make(optimizer, **settings)
    found = []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return found


@pytest.mark.parametrize("steps", [8, 21, 60])
@pytest.mark.parametrize(("rise", "start", "final"), [(0.3, 0.04, 4e-6), (0.5, 0.5, 0.25), (0.25, 0.01, 0.005)])
def test_one_cycle_is_torch_s(steps: int, rise: float, start: float, final: float) -> None:
    factors = {"div_factor": 1 / start, "final_div_factor": start / final, "pct_start": rise, "cycle_momentum": False}
    wanted = rates(OneCycleLR, steps, max_lr=1.0, total_steps=steps, **factors)
    own = OneCycle(rise, start, final)
    np.testing.assert_allclose([own.factor(step, steps) for step in range(steps)], wanted, rtol=1e-9)


@pytest.mark.parametrize(("steps", "gamma"), [(10, 0.1), (37, 0.5), (100, 0.9)])
def test_multistep_is_torch_s_where_there_is_no_warm_up(steps: int, gamma: float) -> None:
    shares = (0.5, 0.8)
    milestones = [next(step for step in range(steps + 1) if step >= share * steps) for share in shares]
    wanted = rates(MultiStepLR, steps, milestones=milestones, gamma=gamma)
    own = MultiStep(0, shares, gamma)
    np.testing.assert_allclose([own.factor(step, steps) for step in range(steps)], wanted, rtol=1e-9)


def test_a_warm_up_rises_in_a_line() -> None:
    assert [MultiStep(4, (0.5,), 0.1).factor(step, 20) for step in range(5)] == [0.25, 0.5, 0.75, 1.0, 1.0]


def test_after_the_last_step_the_rate_stays() -> None:
    for own in (MultiStep(0, (0.5,), 0.1), OneCycle(0.3, 0.1, 0.01), Schedule(2, 0.1)):
        assert isinstance(own, Rates)
        assert own.factor(99, 20) == pytest.approx(own.factor(19, 20), rel=0.3)


def test_milestones_that_do_not_rise_are_refused() -> None:
    with pytest.raises(ValueError, match=r"milestones: wanted rising shares between 0 and 1, got \[0.9, 0.5\]"):
        MultiStep(0, (0.9, 0.5), 0.1)
    with pytest.raises(ValueError, match="rise: wanted a share from 0 to 1, got 2"):
        OneCycle(2, 0.1, 0.1)
