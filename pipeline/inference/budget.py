"""Predicting within a given time: what is measured is projected over what is left, and views, then models, are dropped.

The order is fixed. First the number of views falls, from all to one: negatives go first, then changes of light, then
scales, then symmetries, of each the last ones. Only a single view of all models still too slow makes models go, the
last ones first. What is dropped is dropped for the images that are left; the projection is made anew as it goes.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from pipeline.errors import ConfigError
from pipeline.inference.views import Views

RESERVE = 0.1  # share of what is left that is not planned with: later images may be larger, and a file is to be written
_UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0}
_DROPPED = ("inverts", "gammas", "scales", "symmetries")


def seconds(text: str) -> float:
    """A time such as 8h, 1h30m, 90m or 45.5s in seconds. Raises ConfigError for anything else."""
    parts = re.findall(r"(\d+(?:\.\d+)?)([hms])", text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise ConfigError(f"budget: wanted a time such as 8h, 1h30m or 45s, got {text!r}")
    return sum(float(number) * _UNITS[unit] for number, unit in parts)


def choose(cost: float, images: int, later: tuple[int, ...], views: int, left: float) -> tuple[int, int]:
    """How many views of each image, and how many of the later models, can be had in the time that is left.

    cost: seconds that one view of one image takes. images: left for the present model. later: images of each model
    that comes after it, in order. views: at most. left: seconds. Returns 1 to `views`, and 0 to len(later): the most
    views with all models; where one view is too many, the most models with one view, of which the present one stays.
    """
    units = left * (1 - RESERVE) / cost if cost > 0 else float("inf")
    for count in range(views, 0, -1):
        if count * (images + sum(later)) <= units:
            return count, len(later)
    models = len(later)
    while models and images + sum(later[:models]) > units:
        models -= 1
    return 1, models


def fewer(views: Views, most: int) -> Views:
    """The views without the last ones: as many as `most` allows, at least one.

    Views are all combinations of symmetries, scales, gammas and inverts, so whole rows of combinations go at once.
    """
    for name in _DROPPED:
        while len(views.all()) > max(most, 1) and len(getattr(views, name)) > 1:
            views = replace(views, **{name: getattr(views, name)[:-1]})
    return views


@dataclass
class Pace:
    """How fast it goes, and what can still be had. limit: seconds from `begun` on. clock: of seconds, any origin.

    A new one knows no cost and drops nothing. `did` tells it what a look at images took.
    """

    limit: float
    clock: Callable[[], float]
    begun: float = field(init=False)
    spent: float = 0.0
    looks: int = 0

    def __post_init__(self) -> None:
        self.begun = self.clock()

    @property
    def left(self) -> float:
        """Seconds until the limit; below 0 behind it."""
        return self.begun + self.limit - self.clock()

    @property
    def cost(self) -> float:
        """Seconds that one view of one image has taken on average; 0 before the first."""
        return self.spent / self.looks if self.looks else 0.0

    def did(self, took: float, images: int, views: int) -> None:
        """Note that so many views of so many images took so many seconds."""
        self.spent, self.looks = self.spent + took, self.looks + images * views

    def choose(self, images: int, later: tuple[int, ...], views: int) -> tuple[int, int]:
        """See the function `choose`; with what was measured and the time that is left."""
        return choose(self.cost, images, later, views, max(self.left, 0.0))

    def keeps(self, works: tuple[int, ...]) -> bool:
        """Whether there is time for the first of the models that are left; works: images of each."""
        return self.choose(0, works, 1)[1] > 0

    def projection(self, images: int, later: tuple[int, ...], views: int) -> str:
        """What all of it would take, what there is, and what is taken, one sentence."""
        wanted = self.cost * views * (images + sum(later))
        chosen, models = self.choose(images, later, views)
        dropped = f", {len(later) - models} of {len(later)} later models dropped" if models < len(later) else ""
        return (
            f"{self.cost:.2f} s per image and view; {images + sum(later)} images in {views} views would take "
            f"{wanted / 60:.1f} min, {self.left / 60:.1f} min are left: {chosen} views{dropped}"
        )
