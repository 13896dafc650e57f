"""Images too large for one pass, seen in tiles that overlap: what a border cuts, a neighbouring tile has whole."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.ops import batched_nms

from pipeline.inference.views import Views
from pipeline.instances import Detections
from pipeline.model.detector import Detector

Int = NDArray[np.int64]
_EDGE = 1.0  # pixels from a tile's border within which a box counts as cut
_INSIDE = 0.5  # share of a cut box within another one from which on it is a piece of it


@dataclass(frozen=True)
class Tiles:
    """How large images are cut. side: of a tile in pixels, null for no tiles. shared: pixels that neighbours share.

    An object of at most `shared` pixels lies whole in some tile. Raises ValueError for tiles that would not advance.
    """

    side: int | None
    shared: int

    def __post_init__(self) -> None:
        if self.side is not None and not 0 <= self.shared < self.side:
            raise ValueError(f"shared: wanted 0 to {self.side - 1} pixels, less than a tile's side, got {self.shared}")

    def boxes(self, size: tuple[int, int]) -> Int:
        """The tiles of an image of `size` (H, W)."""
        return tile_boxes(size, self.side or max(size), self.shared if self.side else 0)


WHOLE = Tiles(None, 0)


def tile_boxes(size: tuple[int, int], side: int, shared: int) -> Int:
    """Tiles int64 (T, 4), xyxy, that cover an image of `size` (H, W); neighbours share so many pixels at least."""
    begins = []
    for length in size:
        count = max(1, -(-(length - shared) // (side - shared)))
        begins.append(np.linspace(0, max(length - side, 0), count).astype(np.int64))
    corner = np.stack(np.meshgrid(begins[1], begins[0]), -1).reshape(-1, 2)
    return np.concatenate([corner, np.minimum(corner + side, [size[1], size[0]])], 1)


def detect_tiled(detector: Detector, image: Tensor, image_id: str, views: Views, tiles: Tiles) -> Detections:
    """Detections of one image, uint8 (3, H, W), each tile seen in all views; as without tiles where one holds it."""
    size = (image.shape[-2], image.shape[-1])
    boxes = tiles.boxes(size)
    if len(boxes) == 1:
        return views.detect(detector, [image], [image_id])[0]
    parts = [
        _moved(views.detect(detector, [image[:, y0:y1, x0:x1]], [image_id])[0], (x0, y0), size)
        for x0, y0, x1, y1 in boxes.tolist()
    ]
    return merge(parts, boxes, detector.spec.nms, detector.roi_heads.detections_per_img * len(parts))


def merge(parts: Sequence[Detections], tiles: Int, nms: float, most: int) -> Detections:
    """Detections of the tiles, int64 (T, 4), as those of one image, by falling score; boxes are the whole image's.

    Of boxes of one class whose IoU is above `nms` the surest stays. A box that an inner border cuts comes after those
    that none does, and is dropped where half of it lies in one of them; so an object larger than what tiles share comes
    in pieces. most: the most detections to keep.
    """
    size, alignment = parts[0].size, parts[0].alignment
    cut = np.concatenate([is_cut(part.boxes, tile, size) for part, tile in zip(parts, tiles, strict=True)])
    names = ("boxes", "scores", "labels", "masks")
    columns = [np.concatenate([getattr(part, name) for part in parts]) for name in names]
    found = Detections(parts[0].image_id, size, *columns, alignment)
    rank = torch.from_numpy(found.scores - cut)  # whatever is cut comes last
    kept = batched_nms(torch.from_numpy(found.boxes), rank, torch.from_numpy(found.labels), nms).numpy()
    found, cut = found.select(kept), cut[kept]
    found = found.select(~(cut & _is_piece(found, ~cut)))
    return found.select(np.argsort(-found.scores, kind="stable")[:most])


def is_cut(boxes: NDArray[np.float32], tile: Int, size: tuple[int, int]) -> NDArray[np.bool_]:
    """Whether boxes (N, 4) of a tile (4,) end at a side of it that is no side of the image, bool (N,)."""
    whole = np.array([0, 0, size[1], size[0]])
    near = np.abs(boxes - tile) <= _EDGE
    return np.asarray((near & (tile != whole)).any(1))


def _is_piece(found: Detections, whole: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Whether half of a box or more lies in one box of its class among those that are whole, bool (N,)."""
    others = found.boxes[whole]
    low = np.maximum(found.boxes[:, None, :2], others[None, :, :2])
    common = np.clip(np.minimum(found.boxes[:, None, 2:], others[None, :, 2:]) - low, 0, None).prod(2)
    area = (found.boxes[:, 2:] - found.boxes[:, :2]).prod(1)
    same = found.labels[:, None] == found.labels[whole][None, :]
    return np.asarray(((common >= _INSIDE * area[:, None]) & same).any(1))


def _moved(part: Detections, corner: tuple[int, int], size: tuple[int, int]) -> Detections:
    """Detections of a crop in the frame of the image that it begins in at `corner` (x, y)."""
    return replace(part, size=size, boxes=part.boxes + np.array(corner * 2, np.float32))
