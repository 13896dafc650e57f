"""Annotations of many images in flat arrays: what training reads, without an object per instance.

A worker process shares the arrays copy-on-write, and only pieces in the columns of a crop are ever looked at.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.data.table import nearest
from pipeline.errors import ConfigError, InputError
from pipeline.masks.cells import Cells, cells
from pipeline.masks.runs import area, boxes, from_coco

Int32 = NDArray[np.int32]


@dataclass(frozen=True, eq=False)
class Annotations:
    """Truth of n images with N instances.

    image_ids: contest ids. files: paths inside the contest's folder. sizes: int64 (n, 2) H, W.
    categories, areas: int32 (N,), the areas in pixels; those of image i are instances[i]:instances[i + 1]. boxes: int32
    (N, 4), x0 y0 x1 y1, half-open, in pixels.
    start, stop, label, bounds, member: int32, the columns of `Cells` of all images one after the other. Those of image
    i are pieces[i]:pieces[i + 1] of the first three, sets[i]:sets[i + 1] of bounds and members[i]:members[i + 1] of
    member. instances, pieces, sets, members: int64 (n + 1,).
    """

    image_ids: tuple[str, ...]
    files: tuple[str, ...]
    sizes: NDArray[np.int64]
    instances: NDArray[np.int64]
    categories: Int32
    areas: Int32
    boxes: Int32
    pieces: NDArray[np.int64]
    start: Int32
    stop: Int32
    label: Int32
    sets: NDArray[np.int64]
    bounds: Int32
    members: NDArray[np.int64]
    member: Int32

    def __len__(self) -> int:
        return len(self.image_ids)

    def size(self, image: int) -> tuple[int, int]:
        """(height, width) of an image in pixels."""
        height, width = self.sizes[image].tolist()
        return height, width

    def of(self, image: int) -> slice:
        """The instances of an image in `categories`, `areas` and `boxes`."""
        return slice(*self.instances[image : image + 2].tolist())

    def cells(self, image: int) -> Cells:
        """All masks of an image; the arrays are parts of the flat ones, nothing is copied."""
        own, pieces, sets, members = (
            slice(*bounds[image : image + 2].tolist())
            for bounds in (self.instances, self.pieces, self.sets, self.members)
        )
        columns = (self.start[pieces], self.stop[pieces], self.label[pieces], self.bounds[sets], self.member[members])
        return Cells(self.size(image), own.stop - own.start, *columns)


def of_categories(coco: Mapping[str, Any], names: Sequence[str] | None) -> Mapping[str, Any]:
    """A COCO dict with the annotations of these categories alone, for a model dedicated to them; all where it is None.

    Ids and the list of categories stay, so that labels keep their meaning and runs of several such models can be
    fused. All images stay: what belongs to other classes is background there, for a model that must not answer to it.
    Raises ConfigError for a name that is no category, and for none at all.
    """
    if names is None:
        return coco
    ids = {category["name"]: category["id"] for category in coco["categories"]}
    for name in names:
        if name not in ids:
            raise ConfigError(f"categories: {name!r} is not among {', '.join(ids)}{nearest(name, list(ids))}")
    if not names:
        raise ConfigError(f"categories: wanted one at least of {', '.join(ids)}, or null for all; got none")
    wanted = {ids[name] for name in names}
    return {**coco, "annotations": [row for row in coco["annotations"] if row["category_id"] in wanted]}


def gather(coco: Mapping[str, Any], image_ids: Sequence[str]) -> Annotations:
    """Annotations of the named images of a COCO dict, in that order. Raises InputError for a mask that is no RLE."""
    images = {image["name"]: image for image in coco["images"]}
    chosen = [images[name] for name in image_ids]
    rows: dict[int, list[Mapping[str, Any]]] = {image["id"]: [] for image in chosen}
    for row in coco["annotations"]:
        if row["image_id"] in rows:
            rows[row["image_id"]].append(row)
    parts = [_columns(rows[image["id"]], image) for image in chosen]
    flat = [_joined(column) for column in zip(*parts, strict=True)] if parts else [_joined(())] * 8
    categories, areas, frame, start, stop, label, bounds, member = (values for values, _ in flat)
    instances, pieces, sets, members = (flat[i][1] for i in (0, 3, 6, 7))
    return Annotations(
        image_ids=tuple(image_ids),
        files=tuple(image["file_name"] for image in chosen),
        sizes=np.array([(image["height"], image["width"]) for image in chosen], np.int64).reshape(-1, 2),
        instances=instances, categories=categories, areas=areas, boxes=frame.reshape(-1, 4),
        pieces=pieces, start=start, stop=stop, label=label,
        sets=sets, bounds=bounds, members=members, member=member,
    )  # fmt: skip


def _columns(rows: Sequence[Mapping[str, Any]], image: Mapping[str, Any]) -> tuple[Int32, ...]:
    """Of one image: categories, areas, boxes flat, and the five columns of its cells."""
    try:
        runs = from_coco([row["segmentation"]["counts"] for row in rows], (image["height"], image["width"]))
    except ValueError as error:
        raise InputError(f"image {image['name']}: {error}. Run `convert` again.") from None
    found = cells(runs)
    categories = np.array([row["category_id"] for row in rows], np.int32)
    return (
        categories, area(runs).astype(np.int32), boxes(runs).astype(np.int32).ravel(),
        found.start, found.stop, found.label, found.bounds, found.member,
    )  # fmt: skip


def _joined(parts: Iterable[Int32]) -> tuple[Int32, NDArray[np.int64]]:
    """Arrays one after the other, and the bounds of each."""
    whole = [np.zeros(0, np.int32), *parts]
    return np.concatenate(whole), np.cumsum([part.size for part in whole])
