"""One look at an image (test-time augmentation) and the way back: a symmetry, a scale, a change of light."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class View:
    """One look at an image, and the way back.

    symmetry: 0 to 7, its bits mirror x, mirror y and then transpose. scale: factor on the sides, before which they are
    rounded to whole pixels. gamma: exponent on the levels. invert: negative.
    """

    symmetry: int = 0
    scale: float = 1.0
    gamma: float = 1.0
    invert: bool = False

    def image(self, image: Tensor) -> Tensor:
        """The view of an image (3, H, W) of levels 0 to 255: float32 (3, h, w) of the same range."""
        result = self._turned(image.float())
        if self.scale != 1:
            size = self.size(tuple(image.shape[-2:]))
            result = functional.interpolate(result[None], size, mode="bilinear", antialias=True)[0]
        if self.gamma != 1:
            result = (result / 255) ** self.gamma * 255
        return 255 - result if self.invert else result

    def boxes(self, boxes: Tensor, size: tuple[int, int]) -> Tensor:
        """Boxes (…, 4), half-open xyxy, of an image of `size` (H, W), in the pixels of its view: x' = W - x."""
        height, width = size
        x0, y0, x1, y1 = boxes.unbind(-1)
        if self.symmetry & 1:
            x0, x1 = width - x1, width - x0
        if self.symmetry & 2:
            y0, y1 = height - y1, height - y0
        if self.symmetry & 4:
            x0, y0, x1, y1 = y0, x0, y1, x1
        return torch.stack([x0, y0, x1, y1], -1) * self._factor(boxes, size)

    def undo_boxes(self, boxes: Tensor, size: tuple[int, int]) -> Tensor:
        """The inverse of `boxes`; size: (H, W) of the image, not of the view."""
        height, width = size
        x0, y0, x1, y1 = (boxes / self._factor(boxes, size)).unbind(-1)
        if self.symmetry & 4:
            x0, y0, x1, y1 = y0, x0, y1, x1
        if self.symmetry & 2:
            y0, y1 = height - y1, height - y0
        if self.symmetry & 1:
            x0, x1 = width - x1, width - x0
        return torch.stack([x0, y0, x1, y1], -1)

    def masks(self, masks: Tensor) -> Tensor:
        """Masks (…, M, M) in the frame of their boxes, as the view has them."""
        return self._turned(masks)

    def undo_masks(self, masks: Tensor) -> Tensor:
        """The inverse of `masks`."""
        masks = masks.transpose(-1, -2) if self.symmetry & 4 else masks
        return masks.flip(self._mirrored) if self._mirrored else masks

    def undo_maps(self, maps: Tensor, size: tuple[int, int]) -> Tensor:
        """Maps (K, h, w) of the whole view, of scalars, as the image of `size` (H, W) has them: (K, H, W)."""
        if self.scale != 1:
            turned = list(size[::-1] if self.symmetry & 4 else size)
            maps = functional.interpolate(maps[None], turned, mode="bilinear", antialias=True)[0]
        return self.undo_masks(maps)

    def undo_grid(self, planes: Tensor) -> Tensor:
        """What a detector says at each cell and for each kind of anchor, (h, w, k, …), at the image's own cells.

        The k kinds are tall to wide, so that what exchanges the axes reverses them.
        """
        planes = planes.transpose(0, 1).flip(2) if self.symmetry & 4 else planes
        mirrored = [1] * (self.symmetry & 1) + [0] * (self.symmetry >> 1 & 1)
        return planes.flip(mirrored) if mirrored else planes

    @property
    def _mirrored(self) -> list[int]:
        return [-1] * (self.symmetry & 1) + [-2] * (self.symmetry >> 1 & 1)

    def _turned(self, planes: Tensor) -> Tensor:
        planes = planes.flip(self._mirrored) if self._mirrored else planes
        return planes.transpose(-1, -2) if self.symmetry & 4 else planes

    def size(self, size: tuple[int, ...]) -> tuple[int, int]:
        """(h, w) of the view of an image of `size` (H, W)."""
        height, width = (max(1, round(side * self.scale)) for side in size)
        return (width, height) if self.symmetry & 4 else (height, width)

    def _factor(self, boxes: Tensor, size: tuple[int, int]) -> Tensor:
        height, width = self.size(size)
        whole = size[::-1] if self.symmetry & 4 else size
        return boxes.new_tensor([width / whole[1], height / whole[0]]).repeat(2)
