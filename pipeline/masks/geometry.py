"""Geometry of masks on their runs: intersections, IoU, removal of overlaps."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pipeline.masks.runs import Int, Runs, area, expand, pixels


def intersections(a: Runs, b: Runs) -> Int:
    """Common pixels of every mask of `a` with every mask of `b`, int64 (Na, Nb).

    Both on the same canvas; masks of one set may overlap each other. Raises ValueError for canvases of two sizes.
    """
    if a.size != b.size:
        raise ValueError(f"masks of canvases of two sizes: {a.size} and {b.size}")
    # Elementary intervals: between two neighbouring run ends every mask is either wholly in or wholly out.
    edges = np.unique(np.concatenate([a.start, a.stop, b.start, b.stop]))
    width = np.diff(edges, append=edges[-1:])
    cell_a, owner_a = _cells(a, edges)
    cell_b, owner_b = _cells(b, edges)
    order = np.argsort(cell_a, kind="stable")
    cell_a, owner_a = cell_a[order], owner_a[order]
    low = np.searchsorted(cell_a, cell_b, side="left")
    partners = np.searchsorted(cell_a, cell_b, side="right") - low
    first = owner_a[expand(low, partners)]
    second, shared = np.repeat(owner_b, partners), np.repeat(width[cell_b], partners)
    key = first * b.count + second
    return np.bincount(key, weights=shared, minlength=a.count * b.count).astype(np.int64).reshape(a.count, b.count)


def _cells(runs: Runs, edges: Int) -> tuple[Int, Int]:
    """Elementary intervals inside each run, and the mask they belong to."""
    begin, end = np.searchsorted(edges, runs.start), np.searchsorted(edges, runs.stop)
    return expand(begin, end - begin), np.repeat(runs.instance, end - begin)


def iou(a: Runs, b: Runs) -> NDArray[np.float64]:
    """Intersection over union of every pair, float64 (Na, Nb), 0 to 1; two empty masks have 0."""
    common = intersections(a, b)
    union = area(a)[:, None] + area(b)[None, :] - common
    ratio: NDArray[np.float64] = common / np.maximum(union, 1)
    return ratio


def remove_overlaps(runs: Runs, priority: ArrayLike) -> Runs:
    """Masks that share no pixel: each goes to the mask of highest priority that holds it; ties to the lower index.

    priority: numbers (N,). Memory is one int32 canvas and the total area, never N canvases.
    Raises ValueError for another number of priorities than masks.
    """
    priority = np.asarray(priority)
    if priority.shape != (runs.count,):
        raise ValueError(f"priority: wanted one number for each of {runs.count} masks, got shape {priority.shape}")
    # Sorted from the back, so that of equals the lower index comes last. No negation: it would wrap unsigned numbers.
    weakest_first = runs.count - 1 - np.argsort(priority[::-1], kind="stable")
    canvas = np.full(runs.size[0] * runs.size[1], -1, np.int32)
    # Painting the strongest mask last leaves its number on every pixel it holds.
    place, rank = pixels(runs.select(weakest_first))
    canvas[place] = rank
    return _from_labels(canvas, weakest_first, runs)


def _from_labels(canvas: NDArray[np.int32], order: Int, runs: Runs) -> Runs:
    """Runs of a flat column-major map of places in `order`; -1 is background."""
    change = np.flatnonzero(canvas[1:] != canvas[:-1]) + 1
    start = np.concatenate([[0], change])
    stop = np.append(change, canvas.size)
    rank = canvas[start]
    held = rank >= 0
    start, stop, owner = start[held], stop[held], order[rank[held]]
    by_mask = np.argsort(owner, kind="stable")
    return Runs(runs.size, runs.count, start[by_mask], stop[by_mask], owner[by_mask])
