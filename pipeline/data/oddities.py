"""Oddities of masks, found on the runs of many images at a time."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from pipeline.data.coco import Coco
from pipeline.data.columns import Columns, values
from pipeline.masks.geometry import shared_pixels
from pipeline.masks.intervals import meetings
from pipeline.masks.runs import Int, Runs, area, from_coco, split_columns
from pipeline.masks.shape import fill_holes, parts

HOLES = 0.01  # share of a mask, its holes filled, that is hole: above it they are told
ALIKE = 0.9  # IoU above which two masks of an image are near duplicates
_MASKS = 4096  # measured at a time
# Masks, int64 (n,), the other one of each, -1 where there is none, and how odd they are, float64 (n,).
Odd = tuple[Int, Int, NDArray[np.float64]]


def canvases(coco: Coco) -> Iterator[tuple[Int, Runs]]:
    """Rows of annotations and their masks, many images of one size side by side on one wide canvas."""
    rows, image_id = coco["annotations"], values(coco["annotations"], "image_id")
    counts = rows.counts if isinstance(rows, Columns) else [row["segmentation"]["counts"] for row in rows]
    order = np.argsort(image_id, kind="stable")
    sizes: dict[tuple[int, int], list[int]] = {}
    for image in coco["images"]:
        sizes.setdefault((image["height"], image["width"]), []).append(image["id"])
    for (height, width), ids in sizes.items():
        first, end = (np.searchsorted(image_id[order], ids, side) for side in ("left", "right"))
        for piece in _pieces(end - first):
            own = np.concatenate(
                [np.zeros(0, np.int64), *(order[a:b] for a, b in zip(first[piece], end[piece], strict=True))]
            )
            place = np.repeat(np.arange(len(first[piece])), (end - first)[piece])
            runs = from_coco([counts[i] for i in own.tolist()], (height, width))
            shift = place[runs.instance] * (height * width)
            wide = (height, width * len(first[piece]))
            yield own, Runs(wide, runs.count, runs.start + shift, runs.stop + shift, runs.instance)


def _pieces(counts: Int) -> Iterator[slice]:
    """Images in turn, so many at a time that their masks are few enough. counts: int64 (images,)."""
    first, ends = 0, np.cumsum(counts)
    while first < len(counts):
        before = ends[first - 1] if first else 0
        stop = max(int(np.searchsorted(ends, before + _MASKS, "right")), first + 1)
        yield slice(first, stop)
        first = stop


def shapes(runs: Runs) -> Iterator[tuple[str, Odd]]:
    """Masks with holes, of several parts, and thin ones."""
    areas, filled = area(runs), area(fill_holes(runs))
    share = (filled - areas) / np.maximum(filled, 1)
    number = np.bincount(parts(runs)[1], minlength=runs.count).astype(np.float64)
    thin = (_blocks(runs) == 0) & (areas > 0)
    for kind, odd, value in (
        ("holes", share > HOLES, share),
        ("parts", number > 1, number),
        ("thin", thin, 1 / np.maximum(areas, 1)),
    ):
        one = np.flatnonzero(odd)
        yield kind, (one, np.full(one.size, -1), value[one])


def _blocks(runs: Runs) -> Int:
    """Whether each mask holds a square of 2 x 2 pixels: int64 (N,), 0 where it does not."""
    x, top, bottom, index = split_columns(runs)
    # One row less: the pixels that have one of the mask below them. They must have such a neighbour to the right.
    long = np.flatnonzero(bottom - top > 1)
    owner = runs.instance[index[long]]
    start = (owner * (runs.size[1] + 1) + x[long]) * runs.size[0] + top[long]
    stop = start + (bottom - top)[long] - 1
    left, _ = meetings(start + runs.size[0], stop + runs.size[0], start, stop)
    return np.bincount(owner[left], minlength=runs.count)


def pairs(runs: Runs) -> Iterator[tuple[str, Odd]]:
    """Pairs of masks of one image that are the same, nearly the same, or overlap."""
    i, j, common = shared_pixels(runs, runs)
    i, j, common = (column[i < j] for column in (i, j, common))
    areas = area(runs)
    alike = common / np.maximum(areas[i] + areas[j] - common, 1)
    smaller = common / np.maximum(np.minimum(areas[i], areas[j]), 1)
    for kind, odd, value in (
        ("duplicates", _repeats(i, j, alike == 1), alike),
        ("near_duplicates", (alike > ALIKE) & (alike < 1), alike),
        ("overlaps", np.ones(i.size, bool), smaller),
    ):
        yield kind, (j[odd], i[odd], value[odd])


def _repeats(i: Int, j: Int, same: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Of the pairs of masks that are the same, one for each mask that repeats an earlier one: bool (P,)."""
    chosen = np.zeros(i.size, bool)
    place = np.flatnonzero(same)
    chosen[place[np.unique(j[place], return_index=True)[1]]] = True
    return chosen
