"""Detections under a time limit, on images that nobody has looked at: whatever one of them does, the rest is predicted.

For a notebook that runs on hidden images and is stopped at a fixed hour. Elsewhere an image that cannot be read or does
not fit into memory ends the work, with its name.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from pipeline.errors import InputError
from pipeline.inference.budget import Pace, fewer
from pipeline.inference.detect import NoMemory, detect_images
from pipeline.inference.tiles import Tiles
from pipeline.inference.views import Views
from pipeline.instances import Detections

log = logging.getLogger(__name__)
_SMALLER = 0.5  # of an image's sides, where it did not fit into memory
_TOLD = 100  # images after which the projection is told again


@dataclass
class Careful:
    """A model that looks at images one after the other, in as many views as the time allows.

    model: gives the model. root, precision, views, tiles: as of `detect_images`. pace: the time that there is.
    left: images of this model that are still to come. later: images of each model after it, in order.
    """

    model: Callable[[], nn.Module]
    root: Path
    precision: str
    views: Views
    tiles: Tiles
    pace: Pace
    left: int
    later: tuple[int, ...]
    seen: int = 0

    def look(self, images: Iterable[Mapping[str, Any]]) -> Iterator[Detections]:
        """Detections of each image, in order; none, and a warning, in one that cannot be read or held in memory, and
        in those behind the time limit.
        """
        for image in images:
            yield self._one(image)
            self.left, self.seen = self.left - 1, self.seen + 1
            if self.seen % _TOLD == 1:
                log.info(self.pace.projection(self.left, self.later, len(self.views.all())))

    def _one(self, image: Mapping[str, Any]) -> Detections:
        if self.pace.left <= 0:
            return self._blank(image, "there is no time left")
        count, _ = self.pace.choose(self.left, self.later, len(self.views.all()))
        views = fewer(self.views, count)
        smaller = replace(fewer(self.views, 1), scales=(_SMALLER,))
        for chosen in (views, smaller):
            begin = self.pace.clock()
            try:
                (found,) = detect_images(self.model(), self.root, [image], self.precision, chosen, self.tiles)
            except NoMemory as error:
                log.warning("%s", error)
                continue
            except InputError as error:
                return self._blank(image, str(error))
            self.pace.did(self.pace.clock() - begin, 1, len(chosen.all()))
            return found
        return self._blank(image, "it does not fit into memory, nor does it at half its size")

    def _blank(self, image: Mapping[str, Any], why: str) -> Detections:
        log.warning("image %s is left blank: %s", image["name"], why)
        spec: Any = self.model().spec
        empty = Detections.empty(image["name"], (image["height"], image["width"]), spec.mask_size)
        return replace(empty, alignment=spec.alignment)
