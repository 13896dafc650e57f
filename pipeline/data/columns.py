"""Annotations as columns: what a contest's tens of thousands of them are read into, measured and written from.

The columns are also a sequence of the dicts that a COCO file holds, each made when it is looked at.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from pipeline.masks.runs import Runs, area, boxes, to_coco
from pipeline.masks.text import CocoColumns

Int = NDArray[np.int64]
_PIECE = 4096  # annotations that are written at a time


@dataclass(frozen=True, eq=False)
class Masks:
    """N annotations without ids: position of the image among the images, category id, compressed COCO counts, area in
    pixels, all int64 (N,) but the counts, and box int64 (N, 4) as x, y, width, height in pixels.
    """

    image: Int
    category: Int
    counts: list[str]
    area: Int
    box: Int

    def __len__(self) -> int:
        return len(self.counts)

    def select(self, index: Int) -> Masks:
        """The annotations that an integer index names, in its order."""
        counts = [self.counts[i] for i in index.tolist()]
        return Masks(self.image[index], self.category[index], counts, self.area[index], self.box[index])

    def order(self, rank: Int) -> Int:
        """The index that sorts by the image's rank, box x, box y, counts, category. rank: int64 (images,)."""
        x, y = self.box[:, 0], self.box[:, 1]
        corner = (rank[self.image] * (x.max(initial=0) + 1) + x) * (y.max(initial=0) + 1) + y
        order = np.argsort(corner, kind="stable")
        same = corner[order[1:]] == corner[order[:-1]]
        tied = np.flatnonzero(np.append(same, False) | np.append(False, same))
        keys = [(int(corner[i]), self.counts[i], int(self.category[i])) for i in order[tied].tolist()]
        order[tied] = order[tied[sorted(range(len(keys)), key=keys.__getitem__)]]
        return order


def masks_of(image: Int, category: Int, coco: CocoColumns) -> Masks:
    """The masks of images and categories, int64 (N,) each."""
    box = np.concatenate([coco.boxes[:, :2], coco.boxes[:, 2:] - coco.boxes[:, :2]], axis=1)
    return Masks(image, category, coco.counts, coco.area, box)


def masks_of_runs(image: int, category: int, runs: Runs) -> Masks:
    """The masks of one image and one category."""
    columns = CocoColumns(to_coco(runs), area(runs), boxes(runs))
    return masks_of(np.full(len(runs), image), np.full(len(runs), category), columns)


def joined(parts: Sequence[Masks]) -> Masks:
    """The masks of all parts, in turn."""
    none = np.zeros(0, np.int64)
    image, category, size = (
        np.concatenate([none, *(getattr(part, name) for part in parts)]) for name in ("image", "category", "area")
    )
    counts = [text for part in parts for text in part.counts]
    return Masks(image, category, counts, size, np.concatenate([none.reshape(0, 4), *(part.box for part in parts)]))


@dataclass(frozen=True, eq=False)
class Columns(Sequence[dict[str, Any]]):
    """The annotations of a COCO dict: id, image_id, category_id, area int64 (N,), size int64 (N, 2) as height, width,
    counts, and bbox int64 (N, 4) as x, y, width, height in pixels.

    A sequence of N dicts, equal to a list of the same dicts.
    """

    id: Int
    image_id: Int
    category_id: Int
    size: Int
    counts: list[str]
    area: Int
    bbox: Int

    def __len__(self) -> int:
        return len(self.counts)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        numbers = (self.id, self.image_id, self.category_id, self.area, self.size, self.bbox)
        for number, image, category, pixels, size, box, counts in zip(
            *(column.tolist() for column in numbers), self.counts, strict=True
        ):
            yield {
                "id": number,
                "image_id": image,
                "category_id": category,
                "segmentation": {"size": size, "counts": counts},
                "area": pixels,
                "bbox": box,
                "iscrowd": 0,
            }

    @overload
    def __getitem__(self, index: int) -> dict[str, Any]: ...
    @overload
    def __getitem__(self, index: slice) -> list[dict[str, Any]]: ...
    def __getitem__(self, index: int | slice) -> dict[str, Any] | list[dict[str, Any]]:
        if isinstance(index, slice):
            return list(self._part(index))
        if not -len(self) <= index < len(self):
            raise IndexError(f"annotation {index} of {len(self)}")
        index %= len(self)
        return next(iter(self._part(slice(index, index + 1))))

    def _part(self, index: slice) -> Columns:
        numbers = (self.id, self.image_id, self.category_id, self.size)
        return Columns(*(column[index] for column in numbers), self.counts[index], self.area[index], self.bbox[index])

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and len(self) == len(other) and all(map(dict.__eq__, self, other))

    __hash__ = None  # type: ignore[assignment]

    def to_json(self) -> Iterator[str]:
        """The compact JSON text of the list of dicts, in pieces."""
        yield "["
        for first in range(0, len(self), _PIECE):
            yield "," * (first > 0) + ",".join(self._part(slice(first, first + _PIECE))._entries())
        yield "]"

    def _entries(self) -> list[str]:
        """The JSON text of each dict."""
        same = np.column_stack([self.image_id, self.category_id, self.size])
        first = np.flatnonzero(np.append(True, (same[1:] != same[:-1]).any(axis=1)))
        heads = [
            f',"image_id":{image},"category_id":{category},"segmentation":{{"size":[{height},{width}],"counts":"'
            for image, category, height, width in same[first].tolist()
        ]
        head = itertools.chain.from_iterable(map(itertools.repeat, heads, np.diff(first, append=len(self)).tolist()))
        # Counts hold no blank: all are escaped in one call.
        counts = json.dumps(" ".join(self.counts))[1:-1].split(" ")
        columns = zip(self.id.tolist(), head, counts, self.area.tolist(), *self.bbox.T.tolist(), strict=True)
        return [
            f'{{"id":{number}{head}{text}"}},"area":{pixels},"bbox":[{x},{y},{w},{h}],"iscrowd":0}}'
            for number, head, text, pixels, x, y, w, h in columns
        ]


def values(annotations: Sequence[Mapping[str, Any]], name: str) -> Int:
    """The values of one key of every annotation: int64 (N,), of "bbox" (N, 4)."""
    if isinstance(annotations, Columns):
        return np.asarray(getattr(annotations, name), np.int64)
    return np.array([one[name] for one in annotations], np.int64).reshape((-1, 4) if name == "bbox" else -1)
