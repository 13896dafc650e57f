"""Samples made of several: instances pasted upon another sample, and mosaics of four.

Masks are never stacked: what is put together is what each pixel belongs to (`pipeline.masks.cells.Plane`), so that a
pasted instance hides what lies under it, in the picture and in the truth, at the cost of one pass over the pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torchvision.transforms.v2 import functional

from pipeline.data.augment import Box, Image
from pipeline.masks.cells import Plane, background, covered, put


@dataclass(frozen=True, eq=False)
class Layer:
    """A sample in the making.

    image: uint8 (h, w, C). plane: its masks. categories: int64 (N,). least: float64 (N,), the pixels that a mask must
    show in the end for its instance to count; instances that show fewer are dropped, their pixels stay in the picture.
    """

    image: Image
    plane: Plane
    categories: NDArray[np.int64]
    least: NDArray[np.float64]


def pasted(under: Layer, over: Layer, which: NDArray[np.bool_], blur: float) -> Layer:
    """Instances of one layer upon another of the same size (Ghiasi et al. 2021, arXiv:2012.07177).

    which: bool (N,), the instances of `over`. They hide what lies under them. blur: standard deviation in pixels of a
    Gaussian over the outline along which the two pictures are mixed, 0 for a hard one.
    """
    where = covered(over.plane, which)
    least = np.concatenate([under.least, np.where(which, over.least, np.inf)])
    categories = np.concatenate([under.categories, over.categories])
    image = _mixed(under.image, over.image, _softened(where, blur))
    return Layer(image, put(under.plane, over.plane, where=where), categories, least)


def _softened(where: NDArray[np.bool_], blur: float) -> NDArray[np.float32]:
    """How much of the upper picture each pixel shows, float32 (h, w, 1), 0 to 1."""
    share = torch.from_numpy(where.astype(np.float32))[None]
    reach = min(int(np.ceil(3 * blur)), min(where.shape) - 1)
    if reach > 0:
        share = functional.gaussian_blur(share, [2 * reach + 1] * 2, [blur] * 2)
    return share.numpy()[0, :, :, None]


def _mixed(under: Image, over: Image, share: NDArray[np.float32]) -> Image:
    mixed = under + share * (over.astype(np.float32) - under)
    return np.rint(mixed).astype(np.uint8)


def quarters(size: tuple[int, int], rng: np.random.Generator) -> list[Box]:
    """The four boxes, x0 y0 x1 y1, that meet at a point in the middle half of a canvas of `size` (h, w)."""
    y, x = (int(side * (0.25 + 0.5 * free)) for side, free in zip(size, rng.random(2).tolist(), strict=True))
    columns, rows = (list(pairwise((0, max(at, 1), far))) for at, far in ((x, size[1]), (y, size[0])))
    return [(x0, y0, x1, y1) for y0, y1 in rows for x0, x1 in columns]


def laid_out(layers: Sequence[Layer], boxes: Sequence[Box], size: tuple[int, int]) -> Layer:
    """Layers beside one another on a canvas of `size` (h, w), each as large as its box (Bochkovskiy et al. 2020,
    arXiv:2004.10934, section 3.4)."""
    plane = background(size)
    image = np.zeros((*size, max(layer.image.shape[2] for layer in layers)), np.uint8)
    for layer, (x0, y0, x1, y1) in zip(layers, boxes, strict=True):
        plane = put(plane, layer.plane, (x0, y0))
        image[y0:y1, x0:x1] = layer.image
    categories, least = (np.concatenate([getattr(one, name) for one in layers]) for name in ("categories", "least"))
    return Layer(image, plane, categories, least)
