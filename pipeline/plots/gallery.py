"""A page of pictures with their outlines."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from numpy.typing import NDArray

from pipeline.masks.runs import Runs
from pipeline.plots.images import MISS, outlines


def gallery(shown: Sequence[tuple[str, NDArray[np.uint8], Runs]], columns: int = 4) -> Figure:
    """Pictures in lines of `columns`, each with the outlines of all its masks: title, uint8 (H, W, 3), masks on it.

    `pipeline.data.examples` gives them of training samples.
    """
    lines = max(-(-len(shown) // columns), 1)
    figure = Figure(figsize=(3.2 * columns, 3.5 * lines))
    figure.subplots_adjust(0.01, 0.01, 0.99, 1 - 0.3 / (3.5 * lines), 0.03, 0.1)
    for axis in (axes := figure.subplots(lines, columns, squeeze=False).ravel()):
        axis.set_axis_off()
    for axis, (title, image, masks) in zip(axes, shown, strict=False):
        axis.imshow(image)
        axis.add_collection(LineCollection(list(outlines(masks)), colors=MISS, linewidths=0.8))
        axis.set_title(f"{title}: {len(masks)} masks", fontsize=8, parse_math=False)
    return figure
