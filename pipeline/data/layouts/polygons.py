"""Annotations as polygons: JSON lines with an image each, and the rasterising that COCO files share.

Pixels are drawn by the COCO tools (rleFrPoly), the field's convention: vertices are x, y in pixels, (0, 0) the outer
corner of the first pixel, so that a rectangle from 0 to 4 covers four pixels. Other tools differ along the outline.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as tools

from pipeline.competition import Competition
from pipeline.data.coco import Images
from pipeline.data.columns import Masks
from pipeline.data.layouts.checks import Unreadable, check_repeats, label_ids, masks_by_row
from pipeline.data.table import Listing, Table, require_file
from pipeline.errors import InputError

_OUTLINE = 1 << 21  # pixels of the longest outline: the COCO tools take a hundred bytes for each


def listed(path: Path, competition: Competition) -> Listing:
    """The lines of a file of {"id": …, "annotations": [{"type": …, "coordinates": [[[x, y], …], …]}, …]}.

    Raises InputError for a line that is something else, and for two lines of one image.
    """
    require_file(path)
    names, lines, numbers = [], [], []
    columns: dict[str, list[Any]] = {"image": [], "category": [], "coordinates": []}
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            if line.isspace():
                continue
            name, annotations = _parsed(path, number, line)
            names.append(name)
            lines.append(number)
            numbers += [number] * len(annotations)
            columns["image"] += [name] * len(annotations)
            columns["category"] += [one["type"] for one in annotations]
            columns["coordinates"] += [one["coordinates"] for one in annotations]
    if not lines:
        raise InputError(f"{path}: has no line with an image. Put the contest's own file there.")
    images = Table(path, {"image": names}, np.array(lines, np.int64), "line")
    check_repeats(images)
    return Listing(images, Table(path, columns, np.array(numbers, np.int64), "line"))


def masks(root: Path, table: Table, competition: Competition, images: Images) -> Masks:
    """The instances of all lines: the union of each annotation's rings. table: columns image, category, coordinates.

    Raises InputError naming file, line, image and rule.
    """
    labels = label_ids(table, {name: number for number, name in enumerate(competition.categories, 1)})

    def read(row: int, size: tuple[int, int]) -> str:
        rings = table["coordinates"][row]
        if not isinstance(rings, list):
            raise Unreadable(f"coordinates are {_short(rings)}, wanted a list of rings")
        return rasterised(rings, size)

    return masks_by_row(table, labels, images, read)


def rasterised(rings: Iterable[Any], size: tuple[int, int]) -> str:
    """Compressed COCO counts of the union of polygons on a canvas of `size` (H, W) in pixels.

    rings: each a list of [x, y], or of x and y in turn. Raises Unreadable for fewer than three points, for what is no
    number, for points more than a canvas away from the canvas, and for an outline longer than one that passes along
    every row, down and back.
    """
    checked = [_ring(ring, size) for ring in rings]
    if not checked:
        raise Unreadable("it has no ring of points")
    parts = tools.frPyObjects(checked, *size)
    return str((parts[0] if len(parts) == 1 else tools.merge(parts))["counts"].decode("ascii"))


def _ring(ring: Any, size: tuple[int, int]) -> list[float]:
    """x and y in turn. What lies far off, or winds on and on, would cost the COCO tools memory without bounds."""
    try:
        points = np.array(ring, np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise Unreadable(f"a ring is {_short(ring)}, wanted numbers, x and y in turn") from error
    if points.ndim not in (1, 2) or (points.ndim == 2 and points.shape[1] != 2) or points.size % 2 or points.size < 6:
        raise Unreadable(f"a ring is {_short(ring)}, wanted three points or more, of x and y each")
    points = points.reshape(-1, 2)
    far = np.array([size[1], size[0]], np.float64)
    outside = ~((points >= -far) & (points <= 2 * far)).all(axis=1)  # also what is no number
    if outside.any():
        x, y = points[outside][0].tolist()
        raise Unreadable(f"the point x {x:g}, y {y:g} lies far outside the image ({size[0]} × {size[1]})")
    longest = min(2 * size[0] * size[1] + 6 * (size[0] + size[1]), _OUTLINE)
    length = np.abs(points - np.roll(points, 1, axis=0)).max(axis=1).sum()
    if length > longest:
        raise Unreadable(f"its outline is {length:.0f} pixels long, wanted {longest} at most")
    return [float(value) for value in points.ravel()]


def _parsed(path: Path, number: int, line: bytes) -> tuple[str, list[dict[str, Any]]]:
    """The image of a line, and its annotations."""
    try:
        content = json.loads(line)
        name, annotations = content["id"], content["annotations"]
        fits = isinstance(name, str) and isinstance(annotations, list)
        fits = fits and all(isinstance(one["type"], str) and "coordinates" in one for one in annotations)
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        reason = f"lacks {error}" if isinstance(error, KeyError) else f"is no such JSON ({error})"
        raise InputError(f"{path.name} line {number}: {reason}; {_WANTED}. Correct the line in {path}.") from error
    if not fits:
        raise InputError(f"{path.name} line {number}: {_WANTED}, got {_short(content)}. Correct the line in {path}.")
    return name, annotations


_WANTED = 'wanted {"id": "…", "annotations": [{"type": "…", "coordinates": [[[x, y], …], …]}, …]}'


def _short(value: Any) -> str:
    return f"{value!r:.60}"
