"""What a file must hold beyond being whole: all that later stages rely on without asking again.

Each function raises ValueError, TypeError or LookupError with what is wrong; who reads the file says which it was.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.competition import is_inside, is_safe_id

_PIXELS = 1 << 28  # of an image; no reader of pictures lets in as many
Size = tuple[int, int]
# What reading a broken file raises. A text of many digits is too much for an int, a nested one for the stack.
FAULTS = (OSError, ValueError, TypeError, LookupError, OverflowError, RecursionError, AttributeError, EOFError)


def told(error: BaseException) -> str:
    """An error in a few words of one line."""
    said = " ".join(str(error).split())
    return f"lacks {said}" if isinstance(error, KeyError) else f"{said:.300}" or type(error).__name__


def check_coco(coco: Mapping[str, Any]) -> None:
    """Images with plain ids and paths inside their folder, categories from 1, and annotations that refer to both."""
    sizes: dict[int, Size] = {}
    for image in coco["images"]:
        _require(_is_count(image["id"]) and image["id"] not in sizes, "image id", image["id"], "a number of its own")
        _require(isinstance(image["name"], str) and is_safe_id(image["name"]), "name", image["name"], "a plain name")
        inside = isinstance(image["file_name"], str) and is_inside(image["file_name"])
        _require(inside, "file_name", image["file_name"], "a path inside the contest's folder")
        sizes[image["id"]] = check_size((image["height"], image["width"]))
        _require(isinstance(image.get("group", ""), str | int), "group", image.get("group"), "a text")
    names = [image["name"] for image in coco["images"]]
    _require(len(set(names)) == len(names), "images", f"{len(names)} images of {len(set(names))} names", "one of each")
    ids = [category["id"] for category in coco["categories"]]
    _require(ids == list(range(1, len(ids) + 1)), "category ids", ids, "1, 2, … in turn")
    _require(all(isinstance(one["name"], str) for one in coco["categories"]), "category names", "others", "texts")
    stated = {number: [*size] for number, size in sizes.items()}
    for row in coco["annotations"]:  # tens of thousands: nothing is done that need not be, and no mask is decoded
        rle, category = row["segmentation"], row["category_id"]
        if rle["size"] != stated[row["image_id"]] or type(category) is not int or not 1 <= category <= len(ids):
            raise ValueError(f"annotation {row!r:.200}: wanted a known category, and masks of the image's size")
        (x, y, width, height), area = row["bbox"], row["area"]
        if type(rle["counts"]) is not str or not type(x) is type(y) is type(width) is type(height) is type(area) is int:
            raise ValueError(f"annotation {row!r:.200}: wanted counts as text, bbox and area as whole numbers")
        if not 0 <= area <= _PIXELS or min(x, y, width, height) < 0 or max(x, y, width, height) > _PIXELS:
            raise ValueError(f"annotation {row!r:.200}: wanted bbox and area in pixels")


def check_size(size: tuple[Any, Any]) -> Size:
    """(height, width) of an image in pixels."""
    fits = all(type(side) is int and side > 0 for side in size) and size[0] * size[1] <= _PIXELS
    _require(fits, "height and width", size, f"positive numbers, {_PIXELS} pixels at most")
    return size


def check_columns(scores: Sequence[Any], labels: Sequence[Any], counts: Sequence[Any], categories: int) -> None:
    """Numbers from 0 to 1, category ids from 1 to the number of categories, and counts as text, not decoded."""
    bad = [score for score in scores if not (type(score) in (int, float) and 0 <= score <= 1)]
    _require(not bad, "score", bad, "numbers from 0 to 1")
    bad = [label for label in labels if not (type(label) is int and 1 <= label <= categories)]
    _require(not bad, "category", bad, f"numbers from 1 to {categories}")
    bad = [one for one in counts if not isinstance(one, str)]
    _require(not bad, "counts", bad, "compressed COCO counts, as text")


def check_names(names: Sequence[str]) -> None:
    """Ids of images, each once."""
    _require(all(isinstance(name, str) for name in names), "image_id", "others", "texts")
    _require(len(set(names)) == len(names), "image_id", "some twice", "each once")


def check_folds(folds: Sequence[int]) -> None:
    """Numbers of folds."""
    _require(all(0 <= fold < 1 << 31 for fold in folds), "fold", "others", "numbers from 0")


def check_detections(columns: Mapping[str, NDArray[Any]]) -> None:
    """Flat columns of detections and the offsets of the images, as `write_detections` has them."""
    ids, size, offset = (columns[name] for name in ("image_id", "size", "offset"))
    count = len(columns["scores"])
    kinds = {"size": "i8", "offset": "i8", "boxes": "f4", "scores": "f4", "labels": "i8", "masks": "u1"}
    for name, kind in kinds.items():
        _require(columns[name].dtype == np.dtype(kind), name, columns[name].dtype, np.dtype(kind))
    _require(ids.ndim == 1 and ids.dtype.kind == "U", "image_id", (ids.dtype, ids.shape), "texts")
    _require(size.shape == (len(ids), 2), "size", size.shape, "height and width of each image")
    for sides in size.tolist():
        check_size(tuple(sides))
    _require(offset.shape == (len(ids) + 1,), "offset", offset.shape, "one more than there are images")
    rises = offset[0] == 0 and offset[-1] == count and bool((np.diff(offset) >= 0).all())
    _require(rises, "offset", "others", f"rising numbers from 0 to {count}, the number of detections")
    side = columns["masks"].shape[-1]
    shapes = {"boxes": (count, 4), "scores": (count,), "labels": (count,), "masks": (count, side, side)}
    for name, shape in shapes.items():
        _require(columns[name].shape == shape, name, columns[name].shape, shape)
    _require(bool(np.isfinite(columns["boxes"]).all()), "boxes", "others", "finite numbers of pixels")
    scores, labels = columns["scores"], columns["labels"]
    _require(bool(((scores >= 0) & (scores <= 1)).all()), "scores", "others", "numbers from 0 to 1")
    _require(int(labels.min(initial=1)) >= 1, "labels", int(labels.min(initial=1)), "category ids from 1")


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 1 << 53


def _require(holds: bool, what: str, got: object, wanted: object) -> None:
    if not holds:
        raise ValueError(f"{what}: wanted {wanted}, got {got!r:.60}")
