"""How sure a mean over images is: the bootstrap, which draws images again and again from those there are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """A mean and the interval that holds it with 95 %, as the percentile bootstrap has it (Efron, 1979)."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:.4f} [{self.low:.4f}, {self.high:.4f}]"


def bootstrap(values: Float, groups: Sequence[Any] | None = None, seed: int = 0, draws: int = 2000) -> Interval:
    """The mean of float64 (n,), one value per image, and its interval; of differences, that of a paired comparison.

    groups: what each image belongs to. Images of one group (tiles of one frame, one patient) resemble one another, so
    groups are drawn whole; null: each image is a group. Raises ValueError where there is no value.
    """
    if not len(values):
        raise ValueError("values: wanted one per image, at least one, got none")
    _, number = np.unique(np.arange(len(values)) if groups is None else np.asarray(groups), return_inverse=True)
    sums, sizes = np.bincount(number, values), np.bincount(number)
    drawn = np.random.default_rng(seed).multinomial(len(sums), np.full(len(sums), 1 / len(sums)), size=draws)
    means = (drawn @ sums) / (drawn @ sizes)
    low, high = np.quantile(means, [0.025, 0.975])
    return Interval(float(values.mean()), float(low), float(high))
