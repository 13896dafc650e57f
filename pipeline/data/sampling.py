"""The order of training samples, a pure function of (seed, position), so that a run resumes where it stopped."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from torch.utils.data import Sampler


class Positions(Sampler[tuple[int, int]]):
    """(position, image) of the samples of one epoch, beginning where the training stands.

    first: gives the global position of the next sample when the iteration begins. length: samples per epoch; an
    interrupted epoch yields what is left of it. rank, world: every world-th position belongs to a process.
    """

    def __init__(self, images: int, length: int, seed: int, first: Callable[[], int], rank: int = 0, world: int = 1):
        self.images, self.length, self.seed, self.first = images, length, seed, first
        self.rank, self.world = rank, world

    def __len__(self) -> int:
        return self.length // self.world

    def __iter__(self) -> Iterator[tuple[int, int]]:
        begin = self.first()
        end = (begin // self.length + 1) * self.length
        epoch, order = -1, np.zeros(0, np.int64)
        for position in range(begin + self.rank, end, self.world):
            wanted, place = divmod(position, self.images)
            if wanted != epoch:
                epoch, order = wanted, np.random.default_rng((self.seed, wanted)).permutation(self.images)
            yield position, int(order[place])
