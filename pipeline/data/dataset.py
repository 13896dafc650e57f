"""Samples for training and images for prediction."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image as Pillow
from torch import Tensor
from torch.utils.data import Dataset

from pipeline.data.annotations import Annotations
from pipeline.data.augment import Augment, crop_box, cut, kept, light, symmetry
from pipeline.errors import InputError
from pipeline.masks.windows import windows

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
    """

    def __init__(self, root: Path, annotations: Annotations, augment: Augment, seed: int):
        self.root, self.annotations, self.augment, self.seed = root, annotations, augment, seed

    def __len__(self) -> int:
        return len(self.annotations)

    def __getitem__(self, place: tuple[int, int]) -> Sample:
        position, index = place
        rng = np.random.default_rng((self.seed, position, index))
        pixels = self._read(index)
        for _ in range(_TRIES if len(self.annotations.labels[index]) else 1):
            image, target = self._draw(pixels, index, rng)
            if len(target["labels"]):
                break
        return Sample(image, target, self.annotations.image_ids[index])

    def _read(self, index: int) -> NDArray[np.uint8]:
        path = self.root / self.annotations.files[index]
        pixels, wanted = read_image(path), tuple(self.annotations.sizes[index].tolist())
        if pixels.shape[:2] != wanted:
            got = f"{path} has height and width {pixels.shape[:2]}"
            raise InputError(f"{got}; when it was converted it had {wanted}. Run `convert` again")
        return pixels

    def _draw(self, pixels: NDArray[np.uint8], index: int, rng: np.random.Generator) -> tuple[Tensor, Target]:
        spec = self.augment
        box = crop_box(pixels.shape[:2], spec, rng)
        whole, labels = self.annotations.touching(index, box)
        image, runs = cut(pixels, whole, box, spec.crop)
        keep = kept(whole, runs, spec)
        runs, labels = runs.select(keep), labels[keep]
        if spec.symmetries:
            image, runs = symmetry(image, runs, int(rng.integers(8)))
        image = light(image, spec, rng)
        masks = windows(runs)
        target = {"boxes": torch.from_numpy(masks.boxes).float(), "labels": torch.from_numpy(labels), "masks": masks}
        return as_tensor(image), target


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
    """uint8 (3, H, W) of uint8 (H, W, 3)."""
    return torch.from_numpy(np.array(image.transpose(2, 0, 1), order="C"))
