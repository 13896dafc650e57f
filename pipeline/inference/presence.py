"""What a classifier says of images: its folds together, and what follows for the detections of others."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import ConfigError

Float = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Presence:
    """What is in an image. probable: float32 (K,), 0 to 1, of each category, NaN where nothing is known. least: see
    `Classified`.
    """

    probable: Float
    least: float

    def there(self, labels: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether the category of each label (N,), from 1, may be in the image; what is not known may be."""
        return ~(self.probable[labels - 1] < np.float32(self.least))

    def weights(self, labels: NDArray[np.int64]) -> Float:
        """The probability of each label's category, float32 (N,); 1 of what is not known."""
        return np.nan_to_num(self.probable, nan=1.0)[labels - 1]


@dataclass(frozen=True)
class Classified:
    """Which classifier the post-processing asks.

    run: the run of a model=classifier that was predicted; null for none. least: probability, 0 to 1, below which an
    image has nothing of a category. A low one drops what is surely wrong and no more.
    """

    run: str | None = None
    least: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.least <= 1:
            raise ValueError(f"least: wanted 0 to 1, got {self.least}")

    def check(self, steps: Iterable[str]) -> None:
        """Raise ConfigError where steps ask a classifier and there is none, or the other way round."""
        asking = {"gate", "vote"}.intersection(steps)
        if self.run is None and "gate" in asking:
            raise ConfigError(
                "postprocess.steps: gate asks a classifier; wanted its run as presence.run=NAME, got null"
            )
        if self.run is not None and not asking:
            said = "none of postprocess.steps asks it; wanted gate or vote among them, as postprocess=gate has it"
            raise ConfigError(f"presence.run={self.run}: {said}")


def joined(folds: Sequence[Mapping[str, Float]]) -> dict[str, Float]:
    """By image the mean over the folds that have looked at it, of each category over those that know it."""
    rows: dict[str, list[Float]] = {}
    for fold in folds:
        for image_id, probable in fold.items():
            rows.setdefault(image_id, []).append(probable)
    return {image_id: _mean(np.stack(own)) for image_id, own in rows.items()}


def _mean(rows: Float) -> Float:
    known = ~np.isnan(rows)
    count = known.sum(0)
    mean = np.where(known, rows, 0).sum(0, dtype=np.float64) / np.maximum(count, 1)
    return np.where(count > 0, mean, np.nan).astype(np.float32)
