"""What several groups of the benchmark work on, made from real annotations."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from pipeline.instances import Alignment, Detections
from pipeline.masks.runs import Runs, concatenate
from pipeline.masks.text import from_text
from pipeline.masks.windows import windows
from pipeline.model.targets import mask_targets

SIZE = (520, 704)


def crowd(data: Path, count: int) -> Runs:
    """So many real masks of Sartorius on one canvas of 520×704, from the most crowded images on."""
    table = pd.read_csv(data / "sartorius" / "train_all_annotations.csv", dtype=str)
    fullest = table["id"].map(table["id"].value_counts())
    table = table.iloc[np.lexsort((table.index, table["id"], -fullest))]
    return from_text(table["annotation"].tolist()[:count], SIZE, "row")


def spread(runs: Runs, size: tuple[int, int]) -> Runs:
    """The masks on a larger canvas, dealt out over the tiles of their own canvas's size."""
    height, width = runs.size
    down, across = size[0] // height, size[1] // width
    parts = []
    for tile in range(down * across):
        own = runs.select(np.arange(tile, len(runs), down * across))
        x, y = own.start // height, own.start % height
        # Runs that go on in the next column would be torn apart by the larger canvas.
        whole = (own.stop - 1) // height == x
        y0, x0 = tile // across * height, tile % across * width
        start = ((x + x0) * size[0] + y + y0)[whole]
        parts.append(Runs(size, len(own), start, start + (own.stop - own.start)[whole], own.instance[whole]))
    return concatenate(parts, size)


def soft(runs: Runs, alignment: Alignment, noise: float = 0.7, bins: int = 28) -> Detections:
    """Detections as a perfect mask head would give them for boxes that are off by `noise` pixels."""
    rng = np.random.default_rng(0)
    cut = windows(runs)
    box = cut.boxes + rng.normal(0, noise, (len(runs), 4))
    limit = np.array([*runs.size[::-1], *runs.size[::-1]])
    box = np.clip(box, 0, limit).astype(np.float32)
    box[:, 2:] = np.maximum(box[:, 2:], box[:, :2] + 1)
    masks = mask_targets(cut, torch.arange(len(runs)), torch.from_numpy(box), bins, alignment).numpy()
    scores: NDArray[np.float32] = np.sort(rng.uniform(0.5, 1, len(runs)))[::-1].astype(np.float32)
    return Detections("image", runs.size, box, scores, np.ones(len(runs), np.int64), masks, alignment)
