"""Images on their way into a network."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from pipeline.instances import Size


def resized(plane: Tensor, scale: float) -> Tensor:
    """An image (3, H, W) with its sides multiplied by `scale` and rounded to whole pixels."""
    if scale == 1:
        return plane
    size = [max(1, round(side * scale)) for side in plane.shape[-2:]]
    return functional.interpolate(plane[None], size, mode="bilinear", antialias=True)[0]


def continued(planes: Sequence[Tensor], multiple: int) -> tuple[Tensor, list[Size]]:
    """Images (3, h, w) of any sizes as one batch (B, 3, H, W), H and W multiples of `multiple`, and their own sizes.

    Each is continued to the right and below by its last pixels: a sudden grey would look like a border.
    """
    sizes = [(plane.shape[-2], plane.shape[-1]) for plane in planes]
    height, width = (-(-max(side) // multiple) * multiple for side in zip(*sizes, strict=True))
    padding = [(0, width - w, 0, height - h) for h, w in sizes]
    padded = [functional.pad(p[None], own, mode="replicate")[0] for p, own in zip(planes, padding, strict=True)]
    return torch.stack(padded), sizes
