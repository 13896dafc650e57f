"""Annotation CSVs of run lengths: a row per instance, or a row per image and class. All rows are decoded together."""

from __future__ import annotations

import logging
import operator
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np

from pipeline.competition import Competition, Role
from pipeline.data.coco import Images
from pipeline.data.columns import Masks, joined, masks_of
from pipeline.data.layouts.checks import check_repeats, columns_of, label_ids, require_one_category
from pipeline.data.layouts.checks import positions as places_of
from pipeline.data.table import Listing, Table, read_table
from pipeline.masks.runs import area, boxes, to_coco
from pipeline.masks.shape import parts
from pipeline.masks.text import CocoColumns, TextError, from_text, text_to_coco

log = logging.getLogger(__name__)

_TEXTS = 256  # of one pass of `_split`, whose masks are large: a pass holds all their runs
# From texts, a size and the facts of a contest to masks, and which text each is of, int64 (masks,).
Decode = Callable[[list[str], tuple[int, int], Competition], tuple[CocoColumns, np.ndarray]]


def listed(path: Path, competition: Competition) -> Listing:
    """The rows of a CSV with a row per instance. Raises InputError for columns that it lacks."""
    columns = columns_of(
        competition.annotation_columns, image="image", text="mask", category="class", height="height", width="width"
    )
    table = read_table(path, columns)
    return Listing(table, table)


def masks(root: Path, table: Table, competition: Competition, images: Images) -> Masks:
    """The instance of each row that is not blank, in the order of the rows.

    table: columns image, text and, where the contest has it, category; images: COCO image entries by id, with an entry
    for every row. Raises InputError naming file, row and image.
    """
    blank = _blank(table)
    stray = _stray(table, places_of(table, images), blank, competition)
    kept = np.flatnonzero(~blank)
    filled = table.select(kept) if len(kept) < len(table) else table
    if "category" in table:
        labels = label_ids(filled, _numbers(competition), competition.class_suffix)
    else:
        require_one_category(competition)
        labels = np.ones(len(filled), np.int64)
    found, _ = _decode(filled, labels, images, competition, _each)
    _report(filled, len(table) - len(kept) - stray, found)
    return found


def listed_by_class(path: Path, competition: Competition) -> Listing:
    """The rows of a CSV with a row per image and class, the two in one column or in two, whichever the facts state."""
    table = read_by_class(path, competition.annotation_columns, competition)
    return Listing(table, table)


def masks_by_class(root: Path, table: Table, competition: Competition, images: Images) -> Masks:
    """Each 8-connected part of each row's mask, in the order of the rows. Arguments and errors as of `masks`."""
    blank = _blank(table)
    filled = table.select(np.flatnonzero(~blank))
    labels = label_ids(filled, _numbers(competition))
    found, rows = _decode(filled, labels, images, competition, _split)
    log.info("%s: masks of a class in an image: %d, of %d parts", table.path.name, len(set(rows.tolist())), len(found))
    return found


def read_by_class(path: Path, columns: Mapping[str, Role], competition: Competition) -> Table:
    """Columns image, category, text and those of groups. Raises InputError for two rows of one image and class."""
    found = columns_of(columns, image="image", category="class", both="image_class", text="mask")
    others = {own: name for own, name in found.items() if own not in ("image", "category", "both")}
    if "both" in found:
        image, _, category = found["both"].rpartition("_")
        split, both = {"image": image, "category": category}, {"both": found["both"]}
    else:
        split = {own: found[own] for own in ("image", "category")}
        both = {"both": f"{split['image']}_{split['category']}"}
    order = (both, split) if "both" in found else (split, both)
    table = read_table(path, *({**one, **others} for one in order))
    if "both" in table:
        pairs = [text.rpartition("_") for text in table["both"]]
        named = {"image": [image for image, _, _ in pairs], "category": [category for _, _, category in pairs]}
        table = Table(path, {**named, **{own: table[own] for own in others}}, table.lines)
    label_ids(table, _numbers(competition))
    check_repeats(table, "image", "category")
    return table


def _numbers(competition: Competition) -> dict[str, int]:
    return {name: number for number, name in enumerate(competition.categories, 1)}


def _blank(table: Table) -> np.ndarray:
    """bool (rows,): whether a row says that there is nothing."""
    space, nothing = (np.fromiter(map(test, table["text"]), bool, len(table)) for test in (str.isspace, operator.not_))
    return space | nothing


def _stray(table: Table, image: np.ndarray, blank: np.ndarray, competition: Competition) -> int:
    """How many blank rows, which say that the image has no instance, other rows of the image contradict. They are
    refused, or warned of, as the contest's facts say.
    """
    number = np.bincount(image)
    if competition.stray_blanks == "refuse":
        rule = "the annotation is blank, which says that the image has no instance, but it has {} rows"
        table.refuse(blank & (number[image] > 1), lambda row: rule.format(number[image[row]]), "Remove the blank row")
        return 0
    masked = np.bincount(image[~blank], minlength=number.size)
    stray = int(np.count_nonzero(blank & (masked[image] > 0)))
    if stray:
        log.warning("%s: blank rows of images that have masks, which are ignored: %d", table.path.name, stray)
    return stray


def _report(table: Table, blanks: int, masks: Masks) -> None:
    """Logs blank rows and rows that are the same in every column; masks: those of the rows of `table`."""
    if blanks:
        log.info("%s: blank rows, each an image without instances: %d", table.path.name, blanks)
    x, y = masks.box[:, 0], masks.box[:, 1]
    corner = (masks.image * (x.max(initial=0) + 1) + x) * (y.max(initial=0) + 1) + y
    _, where, times = np.unique(corner, return_inverse=True, return_counts=True)
    # Rows that are the same have masks that begin alike, so the others need no look at their text.
    alike = np.flatnonzero(times[where] > 1)
    rows = [tuple(column[row] for column in table.columns.values()) for row in alike.tolist()]
    repeated = len(rows) - len(set(rows))
    if repeated:
        log.warning("%s: rows that repeat an earlier row exactly, and are kept: %d", table.path.name, repeated)


def _each(texts: list[str], size: tuple[int, int], competition: Competition) -> tuple[CocoColumns, np.ndarray]:
    return text_to_coco(texts, size, competition.order, competition.base), np.arange(len(texts))


def _split(texts: list[str], size: tuple[int, int], competition: Competition) -> tuple[CocoColumns, np.ndarray]:
    """Every part of every text's mask."""
    counts: list[str] = []
    areas, corners, origins = [np.zeros(0, np.int64)], [np.zeros((0, 4), np.int64)], [np.zeros(0, np.int64)]
    for first in range(0, len(texts), _TEXTS):
        found, origin = parts(from_text(texts[first : first + _TEXTS], size, competition.order, competition.base))
        counts += to_coco(found)
        areas.append(area(found))
        corners.append(boxes(found))
        origins.append(origin + first)
    return CocoColumns(counts, np.concatenate(areas), np.concatenate(corners)), np.concatenate(origins)


def _decode(
    table: Table, labels: np.ndarray, images: Images, competition: Competition, decode: Decode
) -> tuple[Masks, np.ndarray]:
    """Masks of all rows' run lengths, and the row of each, int64 (masks,); one call per image size."""
    image = places_of(table, images)
    sizes = np.array([(entry["height"], entry["width"]) for entry in images.values()], np.int64).reshape(-1, 2)
    different, kind = np.unique(sizes, axis=0, return_inverse=True)
    kinds = kind.ravel()[image]
    text, found, order, faults = table["text"], [], [np.zeros(0, np.int64)], {}
    for i, (height, width) in enumerate(different.tolist()):
        rows = np.flatnonzero(kinds == i)
        texts = [text[row] for row in rows.tolist()]
        try:
            columns, origin = decode(texts, (height, width), competition)
        except TextError:
            faults |= {int(rows[at]): rule for at, rule in _faults(texts, (height, width), competition)}
        else:
            found.append(masks_of(image[rows[origin]], labels[rows[origin]], columns))
            order.append(rows[origin])
    table.refuse(np.isin(np.arange(len(table)), list(faults)), lambda row: faults[row])
    rows = np.concatenate(order)
    if len(found) == 1:
        return found[0], rows
    first = np.argsort(rows, kind="stable")
    return joined(found).select(first), rows[first]


def _faults(
    texts: list[str], size: tuple[int, int], competition: Competition, start: int = 0
) -> Iterator[tuple[int, str]]:
    """Position and rule of each bad text, in order, found by halving: a sound half costs one call."""
    try:
        text_to_coco(texts, size, competition.order, competition.base)
    except TextError as error:
        if len(texts) == 1:
            yield start, error.rule
            return
        half = len(texts) // 2
        yield from _faults(texts[:half], size, competition, start)
        yield from _faults(texts[half:], size, competition, start + half)
