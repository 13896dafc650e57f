"""The learning rate as a function of the step: what a training may have instead of warm-up and half a cosine."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol, runtime_checkable


@runtime_checkable
class Rates(Protocol):
    """A learning rate as a share of the optimizer's own."""

    def factor(self, step: int, steps: int) -> float:
        """Factor on the learning rate at a step of 0 … steps - 1 of so many."""


@dataclass(frozen=True)
class MultiStep:
    """Linear warm-up over `warmup` steps, then the full rate, times `gamma` from each milestone on.

    milestones: rising shares of all steps, 0 to 1, so that a longer training has them later.
    """

    warmup: int
    milestones: tuple[float, ...]
    gamma: float

    def __post_init__(self) -> None:
        ordered = all(a < b for a, b in pairwise((0.0, *self.milestones, 1.0)))
        if not ordered:
            raise ValueError(f"milestones: wanted rising shares between 0 and 1, got {list(self.milestones)}")

    def factor(self, step: int, steps: int) -> float:
        """See `Rates`."""
        passed = sum(step >= share * steps for share in self.milestones)
        return float(min(1.0, (step + 1) / max(self.warmup, 1)) * self.gamma**passed)


@dataclass(frozen=True)
class OneCycle:
    """Half a cosine up and half a cosine down (Smith and Topin 2018), as torch's `OneCycleLR` without its momentum.

    rise: share of the steps until the full rate is reached, 0 to 1. start, final: factors at the first and last step.
    """

    rise: float
    start: float
    final: float

    def __post_init__(self) -> None:
        if not 0 <= self.rise <= 1:
            raise ValueError(f"rise: wanted a share from 0 to 1, got {self.rise}")

    def factor(self, step: int, steps: int) -> float:
        """See `Rates`."""
        top, last = self.rise * steps - 1, max(steps - 1, 1)
        if step < top:
            return _cosine(self.start, 1.0, step / top)
        return _cosine(1.0, self.final, min((step - max(top, 0)) / max(last - max(top, 0), 1), 1.0))


def _cosine(begin: float, end: float, share: float) -> float:
    return end + (begin - end) * 0.5 * (1 + math.cos(math.pi * share))
