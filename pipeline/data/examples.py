"""Training samples to look at: overlays catch what numbers hide."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.data.augment import Augment
from pipeline.data.dataset import Sample, TrainingSamples
from pipeline.masks.runs import Runs
from pipeline.masks.windows import from_windows

Example = tuple[str, NDArray[np.uint8], Runs]

KINDS: Mapping[str, Mapping[str, Any]] = {
    "as it is": {},
    "symmetries": {"symmetries": True},
    "rotation": {"rotation": 45.0},
    "scale": {"scale": 0.8},
    "stretch": {"stretch": 0.6},
    "shear": {"shear": 20.0},
    "around": {"around": 1.0},
    "elastic": {"elastic": 7.0},
    "brightness": {"brightness": 0.5},
    "contrast": {"contrast": 0.6},
    "gamma": {"gamma": 1.0},
    "invert": {"invert": 1.0},
    "grey": {"grey": 1.0},
    "hue": {"hue": 0.15},
    "saturation": {"saturation": 0.9},
    "tint": {"tint": 0.4},
    "blur": {"blur": 3.0},
    "noise": {"noise": 0.1},
    "grain": {"grain": 0.2},
    "paste": {"paste": 1.0, "paste_from": "same", "paste_blur": 0.7},
    "mosaic": {"mosaic": 1.0},
}
"""Each augmentation by itself, stronger than one would train with."""


def alone(kind: str, crop: int) -> Augment:
    """One of `KINDS` and nothing else, on crops of `crop` pixels."""
    numbers = {one.name: 0.0 for one in fields(Augment) if one.type == "float"}
    plain = Augment(**{**numbers, "crop": crop, "symmetries": False, "min_area": 1, "elastic_every": 32.0})
    return replace(plain, often=1.0, **KINDS[kind])


def of_kinds(samples: TrainingSamples, image: int, crop: int, kinds: Sequence[str] = tuple(KINDS)) -> list[Example]:
    """The image, by its number, once under each augmentation alone: title, uint8 (crop, crop, 3), masks."""
    root, truth, seed, pixels = samples.root, samples.annotations, samples.seed, samples.pixels
    return [
        example(TrainingSamples(root, truth, alone(kind, crop), seed, pixels)[position, image], kind)
        for position, kind in enumerate(kinds)
    ]


def example(sample: Sample, title: str) -> Example:
    """A sample as title, uint8 (h, w, 3), masks."""
    return title, sample.image.permute(1, 2, 0).numpy(), from_windows(sample.target["masks"])
