"""The two carriers of the line, one object per image: soft `Detections` and hard `Instances`.

Arrays of a carrier are columns of equal length N and are not meant to be written to. N = 0 is legal.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import InputError
from pipeline.masks.runs import Runs, from_coco, to_coco

Size = tuple[int, int]
# How a soft mask lies in its box: in continuous coordinates, or with torchvision's boxes cut to whole pixels.
Alignment = Literal["aligned", "torchvision"]


@dataclass(frozen=True, eq=False)
class Detections:
    """What a detector says of one image, before any threshold.

    image_id: the contest's id. size: (H, W) of the original image in pixels.
    boxes: float32 (N, 4), x0 y0 x1 y1, half-open, pixels of the original image. scores: float32 (N,), 0 to 1.
    labels: int64 (N,), category ids from 1. masks: float32 (N, M, M), probabilities 0 to 1 in the box's own frame:
    bin (i, j) covers the i-th of M equal rows and the j-th of M equal columns of the box. alignment: the convention
    under which the mask head was trained, and so the one for pasting.
    Raises ValueError, naming the field, wanted and got, when a column does not fit.
    """

    image_id: str
    size: Size
    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    labels: NDArray[np.int64]
    masks: NDArray[np.float32]
    alignment: Alignment = "aligned"

    def __post_init__(self) -> None:
        count = len(self.scores)
        _check(self, "boxes", np.float32, (count, 4))
        _check(self, "scores", np.float32, (count,))
        _check(self, "labels", np.int64, (count,))
        side = np.shape(self.masks)[-1] if np.ndim(self.masks) else 0
        _check(self, "masks", np.float32, (count, side, side))

    def __len__(self) -> int:
        return len(self.scores)

    def select(self, index: Any) -> Detections:
        """The detections that a boolean (N,) or integer index names, in its order."""
        boxes, scores, labels, masks = (c[index] for c in (self.boxes, self.scores, self.labels, self.masks))
        return Detections(self.image_id, self.size, boxes, scores, labels, masks, self.alignment)

    @classmethod
    def empty(cls, image_id: str, size: Size, mask_size: int) -> Detections:
        """No detection in an image of `size`; masks would have been mask_size × mask_size."""
        boxes, masks = np.zeros((0, 4), np.float32), np.zeros((0, mask_size, mask_size), np.float32)
        return cls(image_id, size, boxes, np.zeros(0, np.float32), np.zeros(0, np.int64), masks)


@dataclass(frozen=True, eq=False)
class Instances:
    """Decided instances of one image, or its truth.

    image_id: the contest's id. size: (H, W) in pixels. scores: float32 (N,), 0 to 1 (truth: 1).
    labels: int64 (N,), category ids from 1. masks: N strings, compressed COCO counts of the whole image.
    Raises ValueError, naming the field, wanted and got, when a column does not fit.
    """

    image_id: str
    size: Size
    scores: NDArray[np.float32]
    labels: NDArray[np.int64]
    masks: tuple[str, ...]

    def __post_init__(self) -> None:
        _check(self, "scores", np.float32, (len(self.masks),))
        _check(self, "labels", np.int64, (len(self.masks),))

    def __len__(self) -> int:
        return len(self.masks)

    @classmethod
    def of_runs(cls, image_id: str, runs: Runs, scores: NDArray[np.float32], labels: NDArray[np.int64]) -> Instances:
        """Instances whose masks are given as runs of the whole image; `runs` are these, not decoded once more."""
        result = cls(image_id, runs.size, scores, labels, tuple(to_coco(runs)))
        result.__dict__["runs"] = runs  # where a cached property keeps its value
        return result

    @cached_property
    def runs(self) -> Runs:
        """The masks as runs. Raises InputError where a mask is no RLE of the image's size: they come from files."""
        try:
            return from_coco(self.masks, self.size)
        except ValueError as error:
            raise InputError(f"image {self.image_id}: {error}. Make the file of its masks again.") from None

    def rles(self) -> list[dict[str, Any]]:
        """The masks as pycocotools takes them."""
        return [{"size": list(self.size), "counts": counts} for counts in self.masks]

    def select(self, index: Any) -> Instances:
        """The instances that a boolean (N,) or integer index names, in its order."""
        chosen = np.arange(len(self))[index]
        masks = tuple(self.masks[i] for i in chosen)
        return Instances(self.image_id, self.size, self.scores[chosen], self.labels[chosen], masks)

    @classmethod
    def empty(cls, image_id: str, size: Size) -> Instances:
        """An image of `size` (H, W) without instances."""
        return cls(image_id, size, np.zeros(0, np.float32), np.zeros(0, np.int64), ())


def _check(owner: Detections | Instances, field: str, dtype: type, shape: tuple[int, ...]) -> None:
    value = getattr(owner, field)
    got = (getattr(value, "dtype", type(value)), getattr(value, "shape", None))
    if got != (np.dtype(dtype), shape):
        wanted = f"{np.dtype(dtype)} {shape}"
        raise ValueError(
            f"{type(owner).__name__} of image {owner.image_id}: {field}: wanted {wanted}, got {got[0]} {got[1]}"
        )
