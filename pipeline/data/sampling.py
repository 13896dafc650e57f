"""The order of training samples, a pure function of (seed, position), so that a run resumes where it stopped.

A sampler says how often each image comes relative to the others; `Positions` makes an order of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from torch.utils import data

from pipeline.data.annotations import Annotations

Weights = NDArray[np.float64]


@runtime_checkable
class Sampler(Protocol):
    """How often each image comes. Every sampler has `empty`, see `limited`."""

    def weights(self, annotations: Annotations) -> Weights | None:
        """Shares of the samples, float64 (n,), sum 1; None where every image comes once in each pass."""


@dataclass(frozen=True)
class Uniform:
    """Every image as often, but for images without an instance where they are limited."""

    empty: float | None = None

    def __post_init__(self) -> None:
        _checked(self.empty)

    def weights(self, annotations: Annotations) -> Weights | None:
        """See `Sampler`."""
        if self.empty is None:
            return None
        return limited(np.ones(len(annotations)), annotations, self.empty)


@dataclass(frozen=True)
class ByClass:
    """A class first, then any image that holds it: with a power of 1 every class as often, with 0 as classes are.

    power: a class held by n images has a weight of n ** (1 - power).
    """

    power: float = 1.0
    empty: float | None = None

    def __post_init__(self) -> None:
        _checked(self.empty)

    def weights(self, annotations: Annotations) -> Weights | None:
        """See `Sampler`."""
        held = holdings(annotations)
        return limited(held @ np.maximum(held.sum(0), 1.0) ** -self.power, annotations, self.empty)


@dataclass(frozen=True)
class ByDensity:
    """Images by their number of instances to a power: 1 makes each instance as likely, -1 prefers sparse images."""

    power: float = 0.5
    empty: float | None = None

    def __post_init__(self) -> None:
        _checked(self.empty)

    def weights(self, annotations: Annotations) -> Weights | None:
        """See `Sampler`."""
        return limited(np.maximum(np.diff(annotations.instances), 1.0) ** self.power, annotations, self.empty)


@dataclass(frozen=True)
class RepeatFactor:
    """Images of rare classes more often (Gupta et al. 2019, LVIS, arXiv:1908.03195, appendix B.2).

    A class held by a share f of the images has the factor max(1, sqrt(threshold / f)), an image the largest of its
    classes'. Here the factors are relative: the length of a training is given in steps. threshold: 0 to 1.
    """

    threshold: float = 0.3
    empty: float | None = None

    def __post_init__(self) -> None:
        _checked(self.empty)
        if not 0 <= self.threshold <= 1:
            raise ValueError(f"threshold: wanted a share of the images, 0 to 1, got {self.threshold}")

    def weights(self, annotations: Annotations) -> Weights | None:
        """See `Sampler`."""
        held = holdings(annotations)
        share = held.sum(0) / max(len(annotations), 1)
        factor = np.maximum(1, np.sqrt(self.threshold / np.where(share > 0, share, 1)))
        return limited((held * factor).max(1, initial=1), annotations, self.empty)


def holdings(annotations: Annotations) -> NDArray[np.bool_]:
    """Which image holds which class, bool (n, K), K being the highest label."""
    image = np.repeat(np.arange(len(annotations)), np.diff(annotations.instances))
    held = np.zeros((len(annotations), int(annotations.categories.max(initial=0))), bool)
    held[image, annotations.categories - 1] = True
    return held


def limited(weights: Weights, annotations: Annotations, empty: float | None) -> Weights:
    """Shares float64 (n,), sum 1, of images in proportion to `weights`, those without an instance in a part of its own.

    Images without an instance have no class and no density: they share, equally, as large a part of the samples as of
    the images, but no more than `empty`, 0 to 1. All of it is theirs where no image holds an instance.
    """
    blank = np.diff(annotations.instances) == 0
    part = float(blank.mean()) if blank.size else 0.0
    if empty is not None and not blank.all():
        part = min(part, empty)
    filled = np.where(blank, 0.0, weights)
    return (1 - part) * filled / max(filled.sum(), 1e-300) + part * blank / max(blank.sum(), 1)


def _checked(empty: float | None) -> None:
    if empty is not None and not 0 <= empty <= 1:
        raise ValueError(f"empty: wanted a share of the samples, 0 to 1, or null, got {empty}")


class Positions(data.Sampler[tuple[int, int]]):
    """(position, image) of the samples of one epoch, beginning where the training stands.

    first: gives the global position of the next sample when the iteration begins. length: samples per epoch; an
    interrupted epoch yields what is left of it. rank, world: every world-th position belongs to a process. weights:
    each image's share, float64 (n,), sum 1; unless they are given every image comes once in each pass.
    A pass is as many positions as there are images.
    """

    def __init__(
        self,
        images: int,
        length: int,
        seed: int,
        first: Callable[[], int],
        rank: int = 0,
        world: int = 1,
        weights: Weights | None = None,
    ):
        self.images, self.length, self.seed, self.first = images, length, seed, first
        self.rank, self.world, self.weights = rank, world, weights

    def __len__(self) -> int:
        return self.length // self.world

    def __iter__(self) -> Iterator[tuple[int, int]]:
        begin = self.first()
        end = (begin // self.length + 1) * self.length
        epoch, order = -1, np.zeros(0, np.int64)
        for position in range(begin + self.rank, end, self.world):
            wanted, place = divmod(position, self.images)
            if wanted != epoch:
                epoch, order = wanted, self._pass(np.random.default_rng((self.seed, wanted)))
            yield position, int(order[place])

    def _pass(self, rng: np.random.Generator) -> NDArray[np.int64]:
        """The images of one pass, int64 (n,). With weights each comes n times its share, rounded up or down by chance.

        Systematic sampling: evenly spaced points, all moved by one random number, on the shares laid side by side.
        """
        order = rng.permutation(self.images)
        if self.weights is None:
            return order
        ends = np.cumsum(self.weights[order])
        points = (np.arange(self.images) + rng.random()) / self.images * ends[-1]
        points = np.minimum(points, np.nextafter(ends[-1], 0))  # a share of 0 is never met
        # Which images are neighbours is random, and so is which comes when.
        return rng.permutation(order[np.searchsorted(ends, points, "right")])
