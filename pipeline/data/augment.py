"""Augmentation: a random crop, symmetry, affine map or bend, and changes of light, the same for image and masks.

Every function takes its randomness from a generator, so a sample is a pure function of its seed. Images are uint8
(h, w, C), C being 3, or 1 where all three channels are the same.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image as Pillow

from pipeline.masks.cells import BEND, Bend, Matrix, footprint

Image = NDArray[np.uint8]
Box = tuple[int, int, int, int]
Point = tuple[float, float]
Linear = tuple[tuple[float, float], tuple[float, float]]


@dataclass(frozen=True)
class Augment:
    """What a training sample may look like.

    crop: side of the square crop in pixels, null for the whole image; smaller images are padded right and below.
    symmetries: the eight symmetries of the square. brightness, contrast: the largest relative change. gamma: the
    largest factor on the exponent, as log2. invert, grey: probabilities of negative and of colourless images.
    min_area: instances of fewer pixels in the crop are dropped. min_share: so are those of which a smaller share of
    the area, 0 to 1, lies in the crop. rotation: the largest angle in degrees, either way. scale: the largest
    magnification, as log2. stretch: the largest ratio of the magnifications along the two axes, as log2. shear: the
    largest slant in degrees. Where these four and elastic are 0, pixels are moved and never resampled.

    around: probability that a crop is laid around a random instance: the middle of its box then lies in the middle half
    of the crop, as far as the image reaches. around_by: "instance" makes each instance as likely, "class" each class of
    the image. Whatever is set, a crop of an image with instances that shows none is drawn again, up to seven times.
    often: probability of each of elastic, blur, noise, grain, hue, saturation and tint; how strong is drawn from 0 up
    to what is set. elastic: the largest displacement in pixels of the sample, along each axis; elastic_every: distance
    in pixels over which it changes, more than four times as large, so that nothing folds over. blur: standard deviation
    of a Gaussian in pixels. noise, grain: standard deviation, 1 being white, of noise that is the same everywhere, and
    at white of noise whose variance grows with the light. hue: largest turn, 1 being the whole circle, at most 0.5.
    saturation, tint: the largest relative change of the colours' strength, and of each channel by itself.
    mosaic: probability of a sample of four images' parts that meet at a point in its middle half. paste: probability
    that instances of another sample are put upon this one, see `pipeline.data.collage`. paste_from: that sample is of
    "same", the same image; "class", an image that shares a class, and instances of shared classes alone; or "any".
    paste_blur: standard deviation in pixels of a Gaussian that softens the pasted outlines; masks stay hard.
    Raises ValueError for values that cannot be meant.
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
    rotation: float = 0.0
    scale: float = 0.0
    stretch: float = 0.0
    shear: float = 0.0
    around: float = 0.0
    around_by: Literal["instance", "class"] = "instance"
    often: float = 0.5
    elastic: float = 0.0
    elastic_every: float = 32.0
    blur: float = 0.0
    noise: float = 0.0
    grain: float = 0.0
    hue: float = 0.0
    saturation: float = 0.0
    tint: float = 0.0
    mosaic: float = 0.0
    paste: float = 0.0
    paste_from: Literal["same", "class", "any"] = "same"
    paste_blur: float = 0.0

    def __post_init__(self) -> None:
        for name in ("invert", "grey", "min_share", "around", "often", "mosaic", "paste", "saturation", "tint"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}: wanted 0 to 1, got {getattr(self, name)}")
        for name in ("elastic", "blur", "noise", "grain", "hue", "paste_blur"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name}: wanted 0 or more, got {getattr(self, name)}")
        if self.hue > 0.5:
            raise ValueError(f"hue: wanted at most 0.5, half the circle, got {self.hue}")
        if self.elastic and not self.elastic_every > 4 * self.elastic:
            wanted = f"wanted more than 4 times elastic={self.elastic}, or the picture folds over"
            raise ValueError(f"elastic_every: {wanted}; got {self.elastic_every}")
        for name in ("mosaic", "paste"):
            if getattr(self, name) and (self.crop or 0) < 2:
                raise ValueError(f"{name}: several images need samples of one size, a crop; got crop={self.crop}")

    @property
    def resamples(self) -> bool:
        """Whether samples need an affine map beyond the symmetries."""
        return any((self.rotation, self.scale, self.stretch, self.shear))


def crop_box(size: tuple[int, int], spec: Augment, rng: np.random.Generator, near: Point | None = None) -> Box:
    """Where to cut an image of `size` (H, W): x0 y0 x1 y1, never larger than the image.

    near: x and y, in pixels, of what should lie in the middle half of the crop, as far as the image reaches.
    """
    height, width = size
    side = spec.crop or max(size)
    if near is None:
        y0 = int(rng.integers(0, max(height - side, 0) + 1))
        x0 = int(rng.integers(0, max(width - side, 0) + 1))
    else:
        x0, y0 = (
            min(max(math.floor(at - side * (0.25 + 0.5 * free)), 0), max(far - side, 0))
            for at, far, free in zip(near, (width, height), rng.random(2).tolist(), strict=True)
        )
    return x0, y0, min(x0 + side, width), min(y0 + side, height)


def place(
    size: tuple[int, int], spec: Augment, rng: np.random.Generator, near: Point | None = None
) -> tuple[Matrix, tuple[int, int]]:
    """Where a sample's pixels come from: the map back to its image of `size` (H, W), and the sample's own (h, w).

    The matrix is one of `pipeline.masks.cells`. Images smaller than the crop lie at its upper left where pixels are
    not resampled. near: as in `crop_box`.
    """
    if spec.resamples:
        return _affine(size, spec, rng, near)
    x0, y0, x1, y1 = crop_box(size, spec, rng, near)
    height, width = (spec.crop, spec.crop) if spec.crop else (y1 - y0, x1 - x0)
    linear, own = _symmetry(((1, 0), (0, 1)), (height, width), spec, rng)
    return _around((x0 + width / 2, y0 + height / 2), linear, own), own


def _affine(
    size: tuple[int, int], spec: Augment, rng: np.random.Generator, near: Point | None
) -> tuple[Matrix, tuple[int, int]]:
    """A random map at a place where the sample shows nothing beyond the image; in the middle where it is too small.

    The matrix has few binary digits, and such that no pixel centre leads to the border of two pixels: no machine's
    rounding decides which of them is taken.
    """
    turn, grow, stretch, shear = rng.uniform(-1, 1, 4).tolist()
    angle, slant = math.radians(turn * spec.rotation), math.tan(math.radians(shear * spec.shear))
    sine, cosine = math.sin(angle), math.cos(angle)
    across, down = (2 ** (sign * stretch * spec.stretch / 2 - grow * spec.scale) for sign in (1, -1))
    linear = (
        (cosine * across, (cosine * slant - sine) * down),
        (sine * across, (sine * slant + cosine) * down),
    )  # rotation · slant · axes
    rounded = tuple((round(a * 4096) / 4096, round(b * 4096) / 4096) for a, b in linear)
    linear, own = _symmetry(rounded, (spec.crop, spec.crop) if spec.crop else size, spec, rng)
    free = rng.random(2).tolist()
    centre = []
    for axis, ((a, b), far) in enumerate(zip(linear, size[::-1], strict=True)):
        reach = (abs(a) * own[1] + abs(b) * own[0]) / 2
        if 2 * reach >= far:
            centre.append(far / 2)
        elif near is None:
            centre.append(reach + free[axis] * (far - 2 * reach))
        else:
            aside = a * own[1] * (free[0] - 0.5) / 2 + b * own[0] * (free[1] - 0.5) / 2
            centre.append(min(max(near[axis] + aside, reach), far - reach))
    matrix = _around(centre, linear, own)
    matrix[:, 2] = (np.floor(matrix[:, 2] * 8192) + 0.5) / 8192
    return matrix, own


def _symmetry(
    linear: Linear, size: tuple[int, int], spec: Augment, rng: np.random.Generator
) -> tuple[Linear, tuple[int, int]]:
    """A linear map after one of the eight symmetries of the square, and the sample's size (h, w) after it.

    The bits of its number flip x, flip y, transpose.
    """
    number = int(rng.integers(8)) if spec.symmetries else 0
    (a, b), (c, d) = linear
    if number & 1:
        a, c = -a, -c
    if number & 2:
        b, d = -b, -d
    return (((b, a), (d, c)), size[::-1]) if number & 4 else (((a, b), (c, d)), size)


def _around(centre: Sequence[float], linear: Linear, size: tuple[int, int]) -> Matrix:
    """The map (2, 3) that takes the middle of a sample of `size` (h, w) to `centre` (x, y)."""
    rows = [(a, b, at - (a * size[1] + b * size[0]) / 2) for (a, b), at in zip(linear, centre, strict=True)]
    return np.array(rows, np.float64)


def least(areas: NDArray[Any], spec: Augment, magnified: float = 1.0) -> NDArray[np.float64]:
    """Pixels that a sample must show of instances of these areas (N,) to be worth learning from, float64 (N,).

    magnified: pixels of the sample for each pixel of the image.
    """
    return np.maximum(max(spec.min_area, 1), spec.min_share * magnified * areas)


def picture(image: Image, matrix: Matrix, size: tuple[int, int], bend: Bend | None = None) -> Image:
    """The image, uint8 (H, W, C), through the map of `place`: uint8 (h, w, C) of `size` (h, w); black beyond it.

    Crops and symmetries move the pixels; other maps, and a bend, interpolate bilinearly between their centres.
    """
    linear = matrix[:, :2]
    moves = bend is None and not (matrix != np.rint(matrix)).any() and np.array_equal(linear @ linear.T, np.eye(2))
    if not moves:
        return _interpolated(image, matrix, size, bend)
    part = _region(image, footprint(matrix.tolist(), size))
    part = part[:: -1 if linear[1].sum() < 0 else 1, :: -1 if linear[0].sum() < 0 else 1]
    return np.ascontiguousarray(part if linear[0, 0] else part.transpose(1, 0, 2))


def _interpolated(image: Image, matrix: Matrix, size: tuple[int, int], bend: Bend | None) -> Image:
    rows = matrix.tolist()
    reach = 1 if bend is None else 2 + int(np.abs(bend).max(initial=0)) // BEND  # neighbours to interpolate with
    x0, y0, x1, y1 = footprint(rows, size)
    box = (x0 - reach, y0 - reach, x1 + reach, y1 + reach)
    part = _region(image, box).astype(np.float32)
    grid = torch.empty((2, *size))  # x and y from -1 to 1 over the whole part, as torch wants them
    x, y = np.arange(size[1]) + 0.5, np.arange(size[0]) + 0.5
    for axis, (plane, (a, b, c), near, far) in enumerate(zip(grid, rows, box[:2], box[2:], strict=True)):
        unit = 2 / (far - near)
        across = (a * unit * x + ((c - near) * unit - 1)).astype(np.float32)
        down = (b * unit * y).astype(np.float32)
        torch.add(torch.from_numpy(across), torch.from_numpy(down)[:, None], out=plane)
        if bend is not None:
            plane += torch.from_numpy(bend[axis] * np.float32(unit / BEND))
    found = torch.nn.functional.grid_sample(
        torch.from_numpy(part).permute(2, 0, 1)[None], grid.permute(1, 2, 0)[None], align_corners=False
    )[0].numpy()
    return np.rint(found, out=found).astype(np.uint8).transpose(1, 2, 0)


def _region(image: Image, box: Box) -> Image:
    """The image inside a box that may reach beyond it, black there."""
    height, width, channels = image.shape
    x0, y0, x1, y1 = box
    left, top, right, bottom = max(x0, 0), max(y0, 0), min(x1, width), min(y1, height)
    if (left, top, right, bottom) == box:
        return image[y0:y1, x0:x1]
    part = np.zeros((y1 - y0, x1 - x0, channels), np.uint8)
    if left < right and top < bottom:
        part[top - y0 : bottom - y0, left - x0 : right - x0] = image[top:bottom, left:right]
    return part


def light(image: Image, spec: Augment, rng: np.random.Generator) -> Image:
    """Changed brightness, contrast and gamma, now and then a negative or a grey picture; uint8 (h, w, C).

    All but grey pictures are a table of the 256 levels; contrast is about the image's mean, known from its histogram.
    """
    shift, stretch, power = rng.uniform(-1, 1, 3).tolist()
    negative, colourless = rng.random(2).tolist()
    level = (np.arange(256, dtype=np.float32) / 255) ** np.float32(2 ** (power * spec.gamma))
    # Counting and looking up by Pillow and bytes: NumPy would make wide indices of the levels first.
    plain = Pillow.fromarray(image if image.shape[2] > 1 else image[:, :, 0])
    mean = np.float32(np.array(plain.histogram(), np.float64).reshape(-1, 256).sum(0) @ level / image.size)
    level = (level - mean) * np.float32(1 + stretch * spec.contrast) + mean
    level = np.clip(level * np.float32(1 + shift * spec.brightness), 0, 1)
    if negative < spec.invert:
        level = 1 - level
    if colourless < spec.grey and image.shape[2] > 1:
        grey = level.take(image).mean(2, keepdims=True)
        return np.repeat(np.rint(grey * 255).astype(np.uint8), image.shape[2], 2)
    table = np.rint(level * 255).astype(np.uint8).tobytes()
    return np.frombuffer(bytearray(np.ascontiguousarray(image)).translate(table), np.uint8).reshape(image.shape)
