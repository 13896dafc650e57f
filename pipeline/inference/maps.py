"""Models that first draw maps of the whole image and then find instances in them: views and tiles meet in the maps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from pipeline.inference.tiles import Tiles
from pipeline.inference.view import View
from pipeline.instances import Detections


@runtime_checkable
class Mapper(Protocol):
    """A model in evaluation mode whose answer for an image is made in two steps."""

    mean: Tensor

    def maps(self, image: Tensor) -> Tensor:
        """Maps of scalars, float32 (K, H, W), of an image float32 (3, H, W) of levels 0 to 255."""

    def instances(self, maps: Tensor, image_id: str, size: tuple[int, int]) -> Detections:
        """What maps (K, H, W) show of an image of `size` (H, W)."""


@torch.inference_mode()
def detect_mapped(model: Mapper, image: Tensor, image_id: str, views: Sequence[View], tiles: Tiles) -> Detections:
    """Detections of one image, uint8 (3, H, W), in the mean of its maps over all views and all tiles that show a pixel.

    Instances are found once, in the whole image: none is cut, whatever tiles share.
    """
    size, image = (image.shape[-2], image.shape[-1]), image.to(model.mean.device)
    total: Tensor | float = 0.0
    count = torch.zeros(size, device=image.device)
    for x0, y0, x1, y1 in tiles.boxes(size).tolist():
        maps = mean_maps(model, image[:, y0:y1, x0:x1], views)
        total = maps.new_zeros(len(maps), *size) if isinstance(total, float) else total
        total[:, y0:y1, x0:x1] += maps
        count[y0:y1, x0:x1] += 1
    return model.instances(total / count, image_id, size)


def mean_maps(model: Mapper, image: Tensor, views: Sequence[View]) -> Tensor:
    """The mean over the views of an image (3, H, W) of its maps, each as the image itself has them: (K, H, W)."""
    size = (image.shape[-2], image.shape[-1])
    return torch.stack([view.undo_maps(model.maps(view.image(image)), size) for view in views]).mean(0)
