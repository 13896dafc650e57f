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
from PIL import Image as Pillow
from torch import Tensor
from torch.utils.data import Dataset

from pipeline.data.annotations import Annotations
from pipeline.data.augment import Augment, least, light, picture, place
from pipeline.errors import InputError
from pipeline.masks.cells import view

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
        spec, truth, own = self.augment, self.annotations, self.annotations.of(index)
        matrix, size = place(pixels.shape[:2], spec, rng)
        shrunk = abs(matrix[0, 0] * matrix[1, 1] - matrix[0, 1] * matrix[1, 0])
        masks, shown = view(truth.cells(index), matrix, size, least(truth.areas[own], spec, 1 / shrunk))
        labels = torch.from_numpy(truth.categories[own][shown].astype(np.int64))
        target = {"boxes": torch.from_numpy(masks.boxes).float(), "labels": labels, "masks": masks}
        return as_tensor(light(picture(pixels, matrix, size), spec, rng)), target


def _read_under(root: Path, file: str) -> NDArray[np.uint8]:
    return read_image(root / file)


def read_image(path: Path) -> NDArray[np.uint8]:
    """An image file as uint8 (H, W, 3); grey is repeated, transparency dropped, 16-bit grey scaled by its range.

    Raises InputError naming a file that cannot be read to its end.
    """
    try:
        with Pillow.open(path) as image:
            if image.mode.startswith(("I", "F")):
                return _grey(np.asarray(image))
            return np.asarray(image.convert("RGB"))
    except (OSError, SyntaxError, ValueError, Pillow.DecompressionBombError) as error:
        raise InputError(f"{path} is no readable image: {error}") from error


def _grey(values: NDArray[Any]) -> NDArray[np.uint8]:
    low, high = float(values.min()), float(values.max())
    scaled = (values.astype(np.float64) - low) * (255 / max(high - low, 1e-12))
    return np.repeat(np.rint(scaled).astype(np.uint8)[:, :, None], 3, 2)


def as_tensor(image: NDArray[np.uint8]) -> Tensor:
    """uint8 (3, H, W) of uint8 (H, W, 3), or of (H, W, 1), then a view of one channel in memory."""
    result = torch.empty((image.shape[2], *image.shape[:2]), dtype=torch.uint8)
    result.numpy()[:] = image.transpose(2, 0, 1)
    return result.expand(3, -1, -1)
