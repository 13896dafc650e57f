"""Detections of many images, few at a time: memory does not grow with their number."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipeline.data.dataset import as_tensor
from pipeline.data.pictures import read_image
from pipeline.errors import InputError
from pipeline.inference.maps import Mapper, detect_mapped
from pipeline.inference.tiles import WHOLE, Tiles, detect_tiled
from pipeline.inference.views import View, Views
from pipeline.instances import Detections
from pipeline.model.classifier import ImageClassifier, everywhere
from pipeline.model.faults import is_out_of_memory

_TOGETHER = {"cuda": 8}  # images of equal size that are looked at at once; on a CPU more than one at once is slower
_ONE = Views()


def detect_images(
    model: Any,
    root: Path,
    images: Sequence[Mapping[str, Any]],
    precision: str = "32-true",
    views: Views = _ONE,
    tiles: Tiles = WHOLE,
    together: int | None = None,
) -> Iterator[Detections]:
    """Detections of each image of a COCO dict's list, in its order.

    model: a `Detector`, a `Mapper` or an `ImageClassifier`, in evaluation mode. root: the contest's folder. precision:
    "32-true", or "bf16-mixed" or "16-mixed" for autocast on the model's device. views: of each image, which have the
    same say. tiles: in which each is seen. together: how many images of equal size that follow one another are looked
    at at once, None for what suits the device; where they do not fit into memory together, half as many, and half of
    those. Raises NoMemory naming an image that does not fit alone.
    """
    kind = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}.get(precision)
    device = model.mean.device.type
    at_once = 1 if isinstance(model, Mapper | ImageClassifier) or tiles.side else together or _TOGETHER.get(device, 1)

    def look(group: Sequence[Mapping[str, Any]]) -> list[Detections]:
        pixels = [as_tensor(read_image(root / image["file_name"])) for image in group]
        # Not round the yield: the caller's own work is none of autocast's.
        with torch.autocast(device, kind, enabled=kind is not None):
            return _look(model, pixels, [image["name"] for image in group], views, tiles)

    for group in _equal(images, at_once):
        yield from _halved(look, group)


class NoMemory(InputError):
    """An image does not fit into memory, not even alone."""


def _halved(look: Callable[[Sequence[Any]], list[Detections]], group: Sequence[Any]) -> list[Detections]:
    """Look at images at once, or where memory does not suffice at one half and then the other."""
    try:
        return look(group)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        said = (str(error).strip().splitlines() or [repr(error)])[0]
    # Outside of the except: the error would hold what the attempt has left in memory.
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if len(group) == 1:
        raise NoMemory(f"image {group[0]['name']} does not fit into memory ({said})")
    half = len(group) // 2
    return _halved(look, group[:half]) + _halved(look, group[half:])


def _look(model: Any, pixels: list[Tensor], names: list[str], views: Views, tiles: Tiles) -> list[Detections]:
    if isinstance(model, Mapper):
        return [detect_mapped(model, pixels[0], names[0], views.all(), tiles)]
    if isinstance(model, ImageClassifier):
        return [detect_everywhere(model, pixels[0], names[0], views.all(), tiles)]
    if tiles.side:
        return [detect_tiled(model, pixels[0], names[0], views, tiles)]
    return views.detect(model, pixels, names)


@torch.inference_mode()
def detect_everywhere(
    model: ImageClassifier, image: Tensor, image_id: str, views: Sequence[View], tiles: Tiles
) -> Detections:
    """What a classifier says of one image, uint8 (3, H, W), as `everywhere` has it: its mean over the views.

    Of tiles the surest counts: what is in one of them is in the image.
    """
    size, image = (image.shape[-2], image.shape[-1]), image.to(model.mean.device)
    found = []
    for x0, y0, x1, y1 in tiles.boxes(size).tolist():
        part = image[:, y0:y1, x0:x1]
        found.append(torch.stack([model.probabilities(view.image(part)) for view in views]).mean(0))
    return everywhere(torch.stack(found).amax(0).cpu().numpy(), image_id, size)


def _equal(images: Sequence[Mapping[str, Any]], most: int) -> Iterator[list[Mapping[str, Any]]]:
    """Images in their order, at most so many at once, all of one size."""
    for _, run in groupby(images, lambda image: (image["height"], image["width"])):
        own = list(run)
        yield from (own[first : first + most] for first in range(0, len(own), most))
