"""Samples for training and images for prediction."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from pipeline.data.annotations import Annotations
from pipeline.data.augment import Augment, Box, Point, least, light, picture, place
from pipeline.data.collage import Layer, laid_out, pasted, quarters
from pipeline.data.effects import effects
from pipeline.data.elastic import drawn_bend
from pipeline.data.pictures import read_image
from pipeline.errors import InputError
from pipeline.masks.cells import look, shown

Target = dict[str, Any]
_TRIES = 8  # crops without an instance are drawn again this often


@dataclass(frozen=True)
class Sample:
    """One training sample: image uint8 (3, h, w); target as `Detector` takes it; the image's id."""

    image: Tensor
    target: Target
    image_id: str

    def to(self, device: torch.device) -> Sample:
        """The same with image, boxes and labels on a device; the masks stay where they are."""
        target = {name: v.to(device) if isinstance(v, Tensor) else v for name, v in self.target.items()}
        return Sample(self.image.to(device), target, self.image_id)


class TrainingSamples(Dataset[Sample]):
    """Augmented crops. An item is asked for by (position, image): the sample depends on (seed, position, image) alone.

    So the order of workers, their number and an interruption change nothing.
    root: folder of the image files. pixels: gives the image of one of the annotations' files, uint8 (H, W, 3), or
    (H, W, 1) where its channels are the same, as `pipeline.data.pixels` does; the file is read unless it is given.
    """

    def __init__(
        self,
        root: Path,
        annotations: Annotations,
        augment: Augment,
        seed: int,
        pixels: Callable[[str], NDArray[np.uint8]] | None = None,
    ):
        self.root, self.annotations, self.augment, self.seed = root, annotations, augment, seed
        self.pixels = pixels or partial(_read_under, root)
        self._holders = _holders(annotations) if augment.paste else {}

    def __len__(self) -> int:
        return len(self.annotations)

    def __getitem__(self, key: tuple[int, int]) -> Sample:
        position, index = key
        rng = np.random.default_rng((self.seed, position, index))
        pixels = self._read(index)
        own = self.annotations.of(index)
        for _ in range(_TRIES if own.stop > own.start else 1):
            image, target = self._draw(pixels, index, rng)
            if len(target["labels"]):
                break
        return Sample(image, target, self.annotations.image_ids[index])

    def _read(self, index: int) -> NDArray[np.uint8]:
        file, wanted = self.annotations.files[index], self.annotations.size(index)
        pixels = self.pixels(file)
        if pixels.shape[:2] != wanted:
            got = f"{self.root / file} has height and width {pixels.shape[:2]}"
            raise InputError(f"{got}; when it was converted it had {wanted}. Run `convert` again")
        return pixels

    def _draw(self, pixels: NDArray[np.uint8], index: int, rng: np.random.Generator) -> tuple[Tensor, Target]:
        spec = self.augment
        mosaic = spec.mosaic and rng.random() < spec.mosaic
        layer = self._mosaic(index, rng) if mosaic else self._layer(pixels, index, rng)
        if spec.paste and rng.random() < spec.paste:
            layer = self._pasted(layer, index, rng)
        masks, kept = shown(layer.plane, layer.least)
        labels = torch.from_numpy(layer.categories[kept])
        target = {"boxes": torch.from_numpy(masks.boxes).float(), "labels": labels, "masks": masks}
        return as_tensor(effects(light(layer.image, spec, rng), spec, rng)), target

    def _layer(self, pixels: NDArray[np.uint8], index: int, rng: np.random.Generator, part: Box | None = None) -> Layer:
        """One image through a map of its own; given `part`, x0 y0 x1 y1, that of the sample alone."""
        spec, truth, own = self.augment, self.annotations, self.annotations.of(index)
        matrix, size = place(pixels.shape[:2], spec, rng, self._near(index, rng))
        if part:
            x0, y0, x1, y1 = part
            matrix[:, 2] += matrix[:, :2] @ (x0, y0)
            size = (y1 - y0, x1 - x0)
        bend = drawn_bend(size, matrix, spec, rng)
        shrunk = abs(matrix[0, 0] * matrix[1, 1] - matrix[0, 1] * matrix[1, 0])
        plane = look(truth.cells(index), matrix, size, bend)
        wanted = least(truth.areas[own], spec, 1 / shrunk)
        return Layer(picture(pixels, matrix, size, bend), plane, truth.categories[own].astype(np.int64), wanted)

    def _near(self, index: int, rng: np.random.Generator) -> Point | None:
        """The middle of an instance's box around which to lay the crop, or None for a crop anywhere."""
        spec, own = self.augment, self.annotations.of(index)
        if not spec.around or own.stop == own.start or rng.random() >= spec.around:
            return None
        classes, candidates = self.annotations.categories[own], np.arange(own.stop - own.start)
        if spec.around_by == "class":
            candidates = np.flatnonzero(classes == rng.choice(np.unique(classes)))
        x0, y0, x1, y1 = self.annotations.boxes[own][rng.choice(candidates)].tolist()
        return (x0 + x1) / 2, (y0 + y1) / 2

    def _mosaic(self, index: int, rng: np.random.Generator) -> Layer:
        """A part of the image and of three others, each image as likely, in the four quarters of the crop."""
        assert self.augment.crop is not None
        size = (self.augment.crop, self.augment.crop)
        images = rng.permutation([index, *rng.integers(len(self), size=3)]).tolist()
        boxes = quarters(size, rng)
        parts = [self._layer(self._read(i), i, rng, box) for i, box in zip(images, boxes, strict=True)]
        return laid_out(parts, boxes, size)

    def _pasted(self, under: Layer, index: int, rng: np.random.Generator) -> Layer:
        """Some instances of another sample upon this one: any number of those it shows, each number as likely."""
        donor = self._donor(index, rng)
        if donor is None:
            return under
        over = self._layer(self._read(donor), donor, rng)
        candidates = shown(over.plane, over.least)[1]
        if self.augment.paste_from == "class":
            own = self.annotations.categories[self.annotations.of(index)]
            candidates = candidates[np.isin(over.categories[candidates], own)]
        if not candidates.size:
            return under
        which = np.zeros(over.plane.count, bool)
        which[rng.permutation(candidates)[: rng.integers(candidates.size) + 1]] = True
        return pasted(under, over, which, self.augment.paste_blur)

    def _donor(self, index: int, rng: np.random.Generator) -> int | None:
        """The image whose instances are pasted: see `Augment`. None where the rule leaves none."""
        if self.augment.paste_from == "same":
            return index
        if self.augment.paste_from == "any":
            return int(rng.integers(len(self)))
        own = np.unique(self.annotations.categories[self.annotations.of(index)])
        return int(rng.choice(self._holders[int(rng.choice(own))])) if own.size else None


def _holders(truth: Annotations) -> dict[int, NDArray[np.int64]]:
    """The images that hold each class, by its label."""
    image = np.repeat(np.arange(len(truth)), np.diff(truth.instances))
    return {int(c): np.unique(image[truth.categories == c]) for c in np.unique(truth.categories)}


def _read_under(root: Path, file: str) -> NDArray[np.uint8]:
    return read_image(root / file)


def as_tensor(image: NDArray[np.uint8]) -> Tensor:
    """uint8 (3, H, W) of uint8 (H, W, 3), or of (H, W, 1), then a view of one channel in memory."""
    result = torch.empty((image.shape[2], *image.shape[:2]), dtype=torch.uint8)
    result.numpy()[:] = image.transpose(2, 0, 1)
    return result.expand(3, -1, -1)
