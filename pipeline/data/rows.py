"""From the rows of an annotation CSV to masks: sizes, categories and groups checked, run lengths decoded together."""

from __future__ import annotations

import logging
import operator
from collections.abc import Iterator

import numpy as np
import pandas as pd

from pipeline.competition import Competition
from pipeline.data.coco import Images
from pipeline.data.columns import Masks, joined, masks_of
from pipeline.data.table import Table, nearest
from pipeline.errors import ConfigError
from pipeline.masks.text import TextError, text_to_coco

log = logging.getLogger(__name__)


def read_masks(table: Table, competition: Competition, images: Images) -> Masks:
    """The instance of each row that is not blank, in the order of the rows.

    table: columns image, text and, where the contest has them, category, height, width, "group 0", "group 1", …;
    images: COCO image entries by id, with an entry for every row. Raises InputError naming file, row and image.
    """
    place = {name: i for i, name in enumerate(images)}
    image = np.fromiter(map(place.__getitem__, table["image"]), np.int64, len(table))
    space, nothing = (np.fromiter(map(test, table["text"]), bool, len(table)) for test in (str.isspace, operator.not_))
    blank = space | nothing
    _check_sizes(table, image, images)
    _check_blanks(table, image, blank)
    labels = _labels(table, blank, competition)
    kept = np.flatnonzero(~blank)
    masks = _decode(table, kept, image, labels, images, competition)
    _report(table, kept, masks)
    return masks


def with_groups(table: Table, images: Images) -> Images:
    """The images, each with the group that the group columns of its rows name; its own id where they are blank."""
    columns = [column for column in table.columns if column.startswith("group ")]
    if not columns:
        return images
    groups = table[columns[0]]
    if len(columns) > 1:
        groups = [*map("|".join, zip(*(table[column] for column in columns), strict=True))]
    first = dict(zip(reversed(table["image"]), reversed(groups), strict=True))
    own = list(map(first.__getitem__, table["image"]))
    if own != groups:
        table.refuse(
            np.array([one != group for one, group in zip(own, groups, strict=True)], bool),
            lambda row: f"the group is {groups[row]!r}, in the image's first row it is {own[row]!r}",
            "Make the rows of the image agree",
        )
    named = {name: group for name, group in first.items() if group.strip("|")}
    return {name: {**image, "group": named.get(name, image["group"])} for name, image in images.items()}


def require_one_category(competition: Competition) -> None:
    """Raises ConfigError where instances could be of several categories and nothing says of which."""
    if len(competition.categories) != 1:
        raise ConfigError(
            f"competition {competition.key} has {len(competition.categories)} categories, but the annotations do not "
            f"say which instance is of which; wanted one category, or annotations=csv with a class column"
        )


def _check_sizes(table: Table, image: np.ndarray, images: Images) -> None:
    """Refuses rows whose height or width column, where the contest has it, is not the image's."""
    stated = [column for column in ("height", "width") if column in table]
    entries = list(images.values())
    wrong = np.zeros(len(table), bool)
    for column in stated:
        actual = np.array([entry[column] for entry in entries], np.int64)[image]
        different, place = _factors(table[column])
        wrong |= pd.to_numeric(pd.Series(different, dtype=object), errors="coerce").to_numpy(float)[place] != actual

    def rule(row: int) -> str:
        got = " and ".join(f"{column} {table[column][row] or '(blank)'}" for column in stated)
        entry = entries[image[row]]
        return f"the row says {got}, {entry['file_name']} has height {entry['height']} and width {entry['width']}"

    table.refuse(wrong, rule)


def _factors(values: list[str]) -> tuple[list[str], np.ndarray]:
    """The different values, and for each value which of these it is, int64 (rows,)."""
    different = list(set(values))
    if len(different) == 1:
        return different, np.zeros(len(values), np.int64)
    place = {value: place for place, value in enumerate(different)}
    return different, np.fromiter(map(place.__getitem__, values), np.int64, len(values))


def _check_blanks(table: Table, image: np.ndarray, blank: np.ndarray) -> None:
    """A blank annotation says that the image has no instance, so the image may have no other row."""
    number = np.bincount(image)
    rule = "the annotation is blank, which says that the image has no instance, but it has {} rows"
    table.refuse(blank & (number[image] > 1), lambda row: rule.format(number[image[row]]), "Remove the blank row")


def _labels(table: Table, blank: np.ndarray, competition: Competition) -> np.ndarray:
    """Category id of each row, int64 (rows,); 0 for a blank row, which needs no category."""
    if "category" not in table:
        require_one_category(competition)
        return np.where(blank, 0, 1)
    names, given = competition.categories, table["category"]
    number = {name: number for number, name in enumerate(names, 1)}
    different, place = _factors(given)
    labels = np.array([number.get(name, 0) for name in different], np.int64)[place]
    table.refuse(
        (labels == 0) & ~blank,
        lambda row: f"category {given[row]!r} is unknown; wanted {', '.join(names)}{nearest(given[row], names)}",
    )
    return np.where(blank, 0, labels)


def _report(table: Table, kept: np.ndarray, masks: Masks) -> None:
    """Logs blank rows and rows that are the same in every column; masks: those of the rows `kept`."""
    if len(kept) < len(table):
        log.info("%s: blank rows, each an image without instances: %d", table.path.name, len(table) - len(kept))
    x, y = masks.box[:, 0], masks.box[:, 1]
    corner = (masks.image * (x.max(initial=0) + 1) + x) * (y.max(initial=0) + 1) + y
    _, where, times = np.unique(corner, return_inverse=True, return_counts=True)
    # Rows that are the same have masks that begin alike, so the others need no look at their text.
    alike = kept[np.flatnonzero(times[where] > 1)]
    rows = [tuple(column[row] for column in table.columns.values()) for row in alike.tolist()]
    repeated = len(rows) - len(set(rows))
    if repeated:
        log.warning("%s: rows that repeat an earlier row exactly, and are kept: %d", table.path.name, repeated)


def _decode(
    table: Table, kept: np.ndarray, image: np.ndarray, labels: np.ndarray, images: Images, competition: Competition
) -> Masks:
    """Run lengths of the rows `kept`, one call per image size."""
    sizes = np.array([(entry["height"], entry["width"]) for entry in images.values()], np.int64).reshape(-1, 2)
    different, kind = np.unique(sizes, axis=0, return_inverse=True)
    kinds = kind.ravel()[image[kept]]
    text, parts, order, faults = table["text"], [], [], {}
    for i, (height, width) in enumerate(different.tolist()):
        own = np.flatnonzero(kinds == i)
        rows = kept[own]
        texts = [text[row] for row in rows.tolist()]
        try:
            columns = text_to_coco(texts, (height, width), competition.order, competition.base)
        except TextError:
            faults |= {int(rows[at]): rule for at, rule in _faults(texts, (height, width), competition)}
        else:
            parts.append(masks_of(image[rows], labels[rows], columns))
            order.append(own)
    table.refuse(np.isin(np.arange(len(table)), list(faults)), lambda row: faults[row])
    return parts[0] if len(parts) == 1 else joined(parts).select(np.argsort(np.concatenate(order)))


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
