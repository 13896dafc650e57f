"""COCO JSON from elsewhere: polygons, compressed and uncompressed run lengths, as tools in the wild write them.

What is read without guessing: numbers written as text, annotations as {id: annotation}, a segmentation that is the
text of its JSON. Area and box are measured from the mask, whatever the file says they are. Where two entries name one
picture (LIVECell has some that were annotated twice) the first stands, and the other is left out with a warning.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.competition import Competition
from pipeline.data.coco import Images
from pipeline.data.columns import Masks
from pipeline.data.layouts.checks import Unreadable, check_repeats, label_ids, masks_by_row, of_categories
from pipeline.data.layouts.polygons import rasterised
from pipeline.data.table import Listing, Table, nearest, require_file
from pipeline.errors import InputError
from pipeline.masks.runs import Runs, to_coco

log = logging.getLogger(__name__)

Entry = dict[str, Any]


def listed(path: Path, competition: Competition) -> Listing:
    """The images of the file with its own ids, and its annotations but those of crowds (iscrowd 1), whose number is
    logged. Raises InputError where the file is no COCO JSON, or lacks one of the contest's categories.
    """
    content = _content(path)
    every = _images(path, content)
    images = _first(every)
    annotations = _entries(path, content, "annotations", ("image_id", "category_id", "segmentation"))
    names = _category_names(path, content, competition)
    single = [(number, one) for number, one in annotations if _key(one.get("iscrowd")) not in ("1", "True")]
    if len(single) < len(annotations):
        log.info("%s: annotations of crowds, that are left out: %d", path.name, len(annotations) - len(single))
    image = dict(zip(images["id"], images["image"], strict=True))
    again = set(every["id"]) - image.keys()
    single = [(number, one) for number, one in single if _key(one["image_id"]) not in again]
    columns = {
        "image": [image.get(_key(one["image_id"]), "") for _, one in single],
        "category": [names.get(_key(one["category_id"]), "") for _, one in single],
        "segmentation": [one["segmentation"] for _, one in single],
    }
    table = Table(path, columns, np.array([number for number, _ in single], np.int64), "annotation")
    for column, key in (("image", "image_id"), ("category", "category_id")):
        table.refuse(
            table.among(column, [""]),
            lambda row, key=key: f"no entry of the file has its {key} {single[row][1][key]!r}",
        )
    return Listing(images, table)


def masks(root: Path, table: Table, competition: Competition, images: Images) -> Masks:
    """The instances of all annotations of the contest's categories. table: columns image, category, segmentation.

    Raises InputError naming file, place of the annotation, image and rule.
    """
    table = of_categories(table, competition)
    labels = label_ids(table, {name: number for number, name in enumerate(competition.categories, 1)})
    return masks_by_row(table, labels, images, lambda row, size: _counts(table["segmentation"][row], size))


def read_images(path: Path) -> Table:
    """Columns image (the file name), height, width and source_id (the file's own id) of a COCO JSON's images."""
    return _first(_images(path, _content(path)))


def _images(path: Path, content: Entry) -> Table:
    entries = _entries(path, content, "images", ("id", "file_name", "height", "width"))
    columns = {
        "image": [_key(one["file_name"]) for _, one in entries],
        "height": [_key(one["height"]) for _, one in entries],
        "width": [_key(one["width"]) for _, one in entries],
        "source_id": [one["id"] for _, one in entries],
        "id": [_key(one["id"]) for _, one in entries],
    }
    table = Table(path, columns, np.array([number for number, _ in entries], np.int64), "listed image")
    if not len(table):
        raise InputError(f"{path}: lists no image. Put the contest's own file there.")
    check_repeats(table, "id")
    return table


def _first(images: Table) -> Table:
    """Of entries that name the same picture the first."""
    first = {name: row for row, name in reversed(list(enumerate(images["image"])))}
    again = len(images) - len(first)
    if again:
        log.warning("%s: entries of a picture that has one already, left out: %d", images.path.name, again)
    return images.select(np.array(sorted(first.values()), np.int64)) if again else images


def _category_names(path: Path, content: Entry, competition: Competition) -> dict[str, str]:
    """Names of the file's categories by id."""
    names = {_key(one["id"]): _key(one["name"]) for _, one in _entries(path, content, "categories", ("id", "name"))}
    for wanted in competition.categories:
        if wanted not in names.values():
            there = list(names.values())
            raise InputError(
                f"{path.name}: has no category {wanted!r}; its categories are {', '.join(map(repr, there)) or 'none'}"
                f"{nearest(wanted, there)}. Set competition.categories to names that {path} has."
            )
    if competition.submission_layout == "coco":
        _check_codes(path, {name: number for number, name in names.items()}, competition)
    return names


def _check_codes(path: Path, numbers: Mapping[str, str], competition: Competition) -> None:
    """Results name categories by the file's own ids: what a submission would write must be these."""
    labels = {name: competition.code(label) for label, name in enumerate(competition.categories, 1)}
    written = {name: str(label) for label, name in enumerate(competition.categories, 1)}
    if competition.codes is not None:
        written = {name: code for name, code in labels.items() if code is not None}
    wrong = [name for name, code in written.items() if code != numbers[name]]
    if wrong:
        right = ",".join(f"{name}: '{numbers[name]}'" for name in written)
        raise InputError(
            f"{path.name}: category {wrong[0]!r} has the id {numbers[wrong[0]]} there, results would be written with "
            f'{written[wrong[0]]}. Give the file\'s own ids: "competition.codes={{{right}}}".'
        )


def _counts(segmentation: Any, size: tuple[int, int]) -> str:
    """Compressed counts of a segmentation, its own not yet checked. Raises Unreadable."""
    if isinstance(segmentation, str):
        try:
            segmentation = json.loads(segmentation)
        except (ValueError, RecursionError) as error:
            raise Unreadable(f"the segmentation is the text {segmentation!r:.60}, which is no JSON") from error
    if isinstance(segmentation, list):
        return rasterised(segmentation, size)
    if not isinstance(segmentation, Mapping) or not {"size", "counts"} <= segmentation.keys():
        raise Unreadable(f"the segmentation is {segmentation!r:.60}, wanted polygons or {{size, counts}}")
    counts, stated = segmentation["counts"], segmentation["size"]
    if not isinstance(stated, list) or list(map(_key, stated)) != list(map(str, size)):
        raise Unreadable(f"its size is {stated!r:.60}, the image has height {size[0]} and width {size[1]}")
    return counts if isinstance(counts, str) else _compressed(counts, size)


def _compressed(counts: Any, size: tuple[int, int]) -> str:
    """Compressed counts of uncompressed ones: pixels of background and of mask in turn, down the columns."""
    total = size[0] * size[1]
    whole = isinstance(counts, list) and all(type(one) is int and 0 <= one <= total for one in counts)
    if not whole:
        raise Unreadable(f"its counts are {counts!r:.60}, wanted numbers of pixels from 0 to {total}")
    if sum(counts) != total:
        raise Unreadable(f"its RLE covers {sum(counts)} pixels, the image has {total} ({size[0]} × {size[1]})")
    edges = np.cumsum([0, *counts, *[0] * (len(counts) % 2)])
    start, stop = edges[1:-1:2], edges[2::2]
    held = start < stop
    start, stop = start[held], stop[held]
    joined = np.flatnonzero(start[1:] == stop[:-1])
    start, stop = np.delete(start, joined + 1), np.delete(stop, joined)
    return to_coco(Runs(size, 1, start, stop, np.zeros(start.size, np.int64)))[0]


def _content(path: Path) -> Entry:
    require_file(path)
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: is no JSON ({error}). Put the contest's own file there.") from error
    if not isinstance(content, dict):
        raise InputError(
            f"{path}: is {content!r:.60}, wanted a COCO JSON: an object with images, categories, annotations."
        )
    return content


def _entries(path: Path, content: Entry, name: str, keys: tuple[str, ...]) -> list[tuple[int, Entry]]:
    """The entries of one of the file's lists, each with its place from 1; a list may be {id: entry} as well."""
    entries = content.get(name)
    if isinstance(entries, dict):
        entries = list(entries.values())
    if not isinstance(entries, list):
        got = "it is missing" if entries is None else f"got {entries!r:.60}"
        raise InputError(f"{path.name}: wanted a list {name!r}, {got}. Put a whole COCO JSON at {path}.")
    for number, entry in enumerate(entries, 1):
        lacking = [key for key in keys if not isinstance(entry, dict) or key not in entry]
        if lacking:
            got = f"lacks {lacking[0]!r}" if isinstance(entry, dict) else f"is {entry!r:.60}, no object"
            raise InputError(f"{path.name}: entry {number} of {name!r} {got}. Correct {path}.")
    return list(enumerate(entries, 1))


def _key(value: Any) -> str:
    """What numbers and texts are compared by: 12 and "12" are the same."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
