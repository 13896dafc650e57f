"""Geometry on runs against the dense stack of masks that its peers work on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from harness import Row
from numpy.typing import NDArray
from pycocotools import mask as coco_mask
from scipy.ndimage import binary_dilation

from pipeline.masks.geometry import share_out
from pipeline.masks.runs import Runs, from_dense, to_coco, to_dense
from pipeline.masks.text import from_text

SIZE = (520, 704)


def rows(data: Path) -> Iterator[Row]:
    masks = detections(data, 600)
    yield overlap_removal(from_dense(masks), masks)


def detections(data: Path, count: int) -> NDArray[np.bool_]:
    """The first cells of Sartorius's most crowded image, grown by a pixel so that neighbours overlap: (N, H, W)."""
    table = pd.read_csv(data / "sartorius" / "train_all_annotations.csv", usecols=["id", "annotation"])
    crowded = table.id.value_counts().index[0]
    dense = to_dense(from_text(table.annotation[table.id == crowded].tolist()[:count], SIZE, "row"))
    return np.stack([binary_dilation(mask) for mask in dense])


def overlap_removal(runs: Runs, dense: NDArray[np.bool_]) -> Row:
    """Both begin with what they have: the runs that a paste gives, or the stack that torchvision's paste gives."""

    def ours() -> list[str]:
        return to_coco(share_out(runs, 0.0)[1])

    def theirs() -> list[str]:
        used, result = np.zeros(SIZE, bool), []
        for mask in dense:
            free = mask & ~used
            used |= mask
            result.append(coco_mask.encode(np.asfortranarray(free.astype(np.uint8)))["counts"].decode())
        return result

    def equal(ours: list[str], theirs: list[str]) -> None:
        assert ours == theirs

    return Row(
        f"overlap removal + encode, {len(dense)} masks of {SIZE[0]}×{SIZE[1]}, by score, from runs",
        "loop over a dense stack with a map of used pixels, pycocotools.encode",
        ours, theirs, equal, goal=60, repeats=(25, 3),
    )  # fmt: skip
