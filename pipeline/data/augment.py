"""Augmentation: a random crop, a symmetry of the square, and changes of light, the same for image and masks.

Every function takes its randomness from a generator, so a sample is a pure function of its seed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.masks.runs import Runs, area
from pipeline.masks.text import transpose
from pipeline.masks.windows import crop, flip_x, flip_y

Image = NDArray[np.uint8]
Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class Augment:
    """What a training sample may look like.

    crop: side of the square crop in pixels, null for the whole image; smaller images are padded right and below.
    symmetries: the eight symmetries of the square. brightness, contrast: the largest relative change. gamma: the
    largest factor on the exponent, as log2. invert, grey: probabilities of negative and of colourless images.
    min_area: instances of fewer pixels in the crop are dropped. min_share: so are those of which a smaller share of
    the area, 0 to 1, lies in the crop.
    """

    crop: int | None
    symmetries: bool
    brightness: float
    contrast: float
    gamma: float
    invert: float
    grey: float
    min_area: int
    min_share: float


def crop_box(size: tuple[int, int], spec: Augment, rng: np.random.Generator) -> Box:
    """Where to cut an image of `size` (H, W): x0 y0 x1 y1, never larger than the image."""
    height, width = size
    side = spec.crop or max(size)
    y0 = int(rng.integers(0, max(height - side, 0) + 1))
    x0 = int(rng.integers(0, max(width - side, 0) + 1))
    return x0, y0, min(x0 + side, width), min(y0 + side, height)


def cut(image: Image, runs: Runs, box: Box, side: int | None) -> tuple[Image, Runs]:
    """Image uint8 (h, w, 3) and masks inside `box`, padded with black to side × side where a side is given."""
    x0, y0, x1, y1 = box
    part = image[y0:y1, x0:x1]
    size = (y1 - y0, x1 - x0) if side is None else (side, side)
    padded = np.zeros((*size, 3), np.uint8)
    padded[: y1 - y0, : x1 - x0] = part
    return padded, crop(runs, box, size)


def kept(before: Runs, after: Runs, spec: Augment) -> NDArray[np.bool_]:
    """Which instances a crop leaves large enough to learn from, bool (N,)."""
    left = area(after)
    return (left >= max(spec.min_area, 1)) & (left >= spec.min_share * area(before))


def symmetry(image: Image, runs: Runs, number: int) -> tuple[Image, Runs]:
    """One of the eight symmetries of the square, 0 to 7, 0 being the identity: bits flip x, flip y, transpose."""
    if number & 1:
        image, runs = image[:, ::-1], flip_x(runs)
    if number & 2:
        image, runs = image[::-1], flip_y(runs)
    if number & 4:
        image, runs = image.transpose(1, 0, 2), transpose(runs)
    return np.ascontiguousarray(image), runs


def light(image: Image, spec: Augment, rng: np.random.Generator) -> Image:
    """Changed brightness, contrast and gamma, now and then a negative or a grey picture; uint8 (h, w, 3)."""
    value = image.astype(np.float32) / 255
    shift, stretch, power = rng.uniform(-1, 1, 3)
    negative, colourless = rng.random(2)
    value = value ** np.float32(2 ** (power * spec.gamma))
    mean = value.mean()
    value = (value - mean) * np.float32(1 + stretch * spec.contrast) + mean
    value = np.clip(value * np.float32(1 + shift * spec.brightness), 0, 1)
    if negative < spec.invert:
        value = 1 - value
    if colourless < spec.grey:
        value = np.repeat(value.mean(2, keepdims=True), 3, 2)
    return np.rint(value * 255).astype(np.uint8)
