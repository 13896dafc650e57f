"""Effects on a sample's pixels that a microscope, a stain or a camera might have; masks are not concerned."""

from __future__ import annotations

import math

import numpy as np
import torch
from torchvision.transforms.v2 import functional

from pipeline.data.augment import Augment, Image


def effects(image: Image, spec: Augment, rng: np.random.Generator) -> Image:
    """Hue, saturation, tint, blur, noise and grain, each with probability `spec.often`; uint8 (h, w, C).

    Those that are off draw nothing. A picture whose channels are equal stays grey, with one channel or with three.
    """
    steps = (
        (spec.hue, _hue), (spec.saturation, _saturation), (spec.tint, _tint),
        (spec.blur, _blur), (spec.noise, _noise), (spec.grain, _grain),
    )  # fmt: skip
    if not any(strength for strength, _ in steps):
        return image
    # One channel where all are the same: a picture must not depend on how it was stored.
    image = image[:, :, :1] if (image == image[:, :, :1]).all() else image
    for strength, step in steps:
        if strength and rng.random() < spec.often:
            image = step(image, strength, rng)
    return image


def _hue(image: Image, strength: float, rng: np.random.Generator) -> Image:
    turn = strength * rng.uniform(-1, 1)
    return image if image.shape[2] == 1 else _numpy(functional.adjust_hue(_tensor(image), turn))


def _saturation(image: Image, strength: float, rng: np.random.Generator) -> Image:
    factor = 1 + strength * rng.uniform(-1, 1)
    return image if image.shape[2] == 1 else _numpy(functional.adjust_saturation(_tensor(image), factor))


def _tint(image: Image, strength: float, rng: np.random.Generator) -> Image:
    factors = 1 + strength * rng.uniform(-1, 1, 3)
    return image if image.shape[2] == 1 else _levels(image * factors.astype(np.float32))


def _blur(image: Image, strength: float, rng: np.random.Generator) -> Image:
    sigma = strength * rng.random()
    reach = min(math.ceil(3 * sigma), min(image.shape[:2]) - 1)
    if reach < 1:
        return image
    return _numpy(functional.gaussian_blur(_tensor(image), [2 * reach + 1] * 2, [sigma] * 2))


def _noise(image: Image, strength: float, rng: np.random.Generator) -> Image:
    deviation = np.float32(255 * strength * rng.random())
    return _levels(image + deviation * rng.standard_normal(image.shape, np.float32))


def _grain(image: Image, strength: float, rng: np.random.Generator) -> Image:
    """Counting photons: a variance in proportion to the mean. A normal distribution stands for Poisson's."""
    deviation = np.float32(255 * strength * rng.random())
    value = image.astype(np.float32)
    return _levels(value + deviation * np.sqrt(value / 255) * rng.standard_normal(image.shape, np.float32))


def _tensor(image: Image) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)


def _numpy(image: torch.Tensor) -> Image:
    return image.permute(1, 2, 0).numpy()


def _levels(value: np.ndarray) -> Image:
    return np.rint(np.clip(value, 0, 255)).astype(np.uint8)
