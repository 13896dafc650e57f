"""What images look like, in some kilobytes each: all that the audit and the search for leaks need of the pixels.

Every image is decoded once, some at a time, and forgotten.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.data.pictures import read_grey
from pipeline.progress import track

Float = NDArray[np.float32]
SIDE = 32  # pixels of a thumbnail's side
_ENOUGH = 1 << 22  # pixels to average: of larger images every second, third, … row and column is taken
_THREADS = 8  # images in memory at a time, at most


@dataclass(frozen=True, eq=False)
class Look:
    """One image in grey, 0 to 255 (the range of 8 bits; deeper ones are not rounded to it).

    thumb: float32 (32, 32), averages over the image. left, right, top, bottom: float32 (2, H) or (2, W), the line of
    pixels at the border from the top or the left on, then the line next to it.
    """

    thumb: Float
    left: Float
    right: Float
    top: Float
    bottom: Float

    @property
    def brightness(self) -> float:
        """Average over the image, 0 to 255."""
        return float(self.thumb.mean(dtype=np.float64))


def look(grey: NDArray[Any]) -> Look:
    """The look of an image, any real numbers (H, W)."""
    step = max(int(np.sqrt(grey.size / _ENOUGH)), 1)
    small = Image.fromarray(grey[::step, ::step].astype(np.float32)).resize((SIDE, SIDE), Image.Resampling.BOX)
    top, left = (image[[0, min(1, len(image) - 1)]].astype(np.float32) for image in (grey, grey.T))
    bottom, right = (image[[-1, max(-2, -len(image))]].astype(np.float32) for image in (grey, grey.T))
    return Look(np.array(small), left, right, top, bottom)


def read_looks(root: Path, images: Sequence[Mapping[str, Any]], quiet: bool = False) -> list[Look]:
    """The looks of a COCO dict's images in their order. Raises InputError naming an image that cannot be read."""
    with ThreadPoolExecutor(min(os.cpu_count() or 1, _THREADS)) as threads:
        looks = threads.map(lambda image: look(read_grey(root, image["file_name"])), images)
        return list(track(looks, len(images), "looking at images", "image", quiet))
