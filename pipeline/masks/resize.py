"""Masks on a canvas of another size, by nearest neighbour, on their runs."""

from __future__ import annotations

import numpy as np

from pipeline.masks.runs import Int, Runs, expand, merged, split_columns


def resized(runs: Runs, size: tuple[int, int]) -> Runs:
    """The masks on a canvas of `size` (H, W) in pixels; N stays, a mask that is made smaller may become empty.

    Pixel (y, x) of the new canvas is that of the old one in which its centre lies; a centre between two pixels lies in
    the later one. Pillow's NEAREST does the same, but for its rounding errors: these are whole numbers throughout.
    """
    if size == runs.size:
        return runs
    x, top, bottom, index = split_columns(runs)
    first, last = _edge(x, runs.size[1], size[1]), _edge(x + 1, runs.size[1], size[1])
    top, bottom = _edge(top, runs.size[0], size[0]), _edge(bottom, runs.size[0], size[0])
    width = np.where(bottom > top, last - first, 0)  # new columns of each piece
    piece = np.repeat(np.arange(x.size), width)
    column, owner = expand(first, width) * size[0], runs.instance[index][piece]
    start, stop = column + top[piece], column + bottom[piece]
    order = np.lexsort((start, owner))  # a column that is doubled repeats all its pieces
    return merged(size, runs.count, start[order], stop[order], owner[order])


def _edge(place: Int, old: int, new: int) -> Int:
    """The first of `new` pixels whose centre lies at or behind the edge `place`, 0 to `old`, of the old pixels.

    The centre of pixel i lies at (2i + 1)·old / 2·new of the old pixels.
    """
    return -((old - 2 * new * place) // (2 * old))
