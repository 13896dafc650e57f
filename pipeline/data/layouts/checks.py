"""What every layout of annotations is held against: plain ids, sizes of the files, categories, groups; and the way
from masks that are read one by one to the columns of all.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from contextlib import suppress

import numpy as np
import pandas as pd

from pipeline.competition import Competition, Role, is_safe_id
from pipeline.data.coco import Images
from pipeline.data.columns import Masks, joined, masks_of
from pipeline.data.table import Table, nearest
from pipeline.errors import ConfigError
from pipeline.masks.packed import PackedError, check
from pipeline.masks.runs import Runs, area, boxes, empty, from_coco, to_coco
from pipeline.masks.text import CocoColumns

log = logging.getLogger(__name__)

PLAIN = "letters, digits, '.', '_' and '-' only, so that no id leads out of the contest's folder"


class Unreadable(ValueError):
    """An instance that is no mask. `rule`: a sentence with wanted and got."""

    def __init__(self, rule: str):
        super().__init__(rule)
        self.rule = rule


def columns_of(columns: Mapping[str, Role], **names: Role) -> dict[str, str]:
    """{own name: name in the file} of the roles that the file has; "group 0", "group 1", … for its group columns."""
    found = {own: column for own, role in names.items() for column, given in columns.items() if given == role}
    groups = [column for column, role in columns.items() if role == "group"]
    return {**found, **{f"group {i}": column for i, column in enumerate(groups)}}


def check_ids(table: Table, column: str = "image") -> None:
    """Refuses image ids, or other names, that cannot stand in a path."""
    names, what = table[column], "image id" if column == "image" else column
    bad = {name for name in set(names) if not is_safe_id(name)}
    got = "" if column == "image" else " {!r:.60}"
    table.refuse(
        table.among(column, bad), lambda row: f"the {what}{got.format(names[row])} is no plain name; wanted {PLAIN}"
    )


def check_repeats(table: Table, *columns: str) -> None:
    """Refuses rows that have the same image, or the same in all `columns`, as an earlier row."""
    keys = list(zip(*(table[column] for column in columns or ("image",)), strict=True))
    first = {key: row for row, key in reversed(list(enumerate(keys)))}
    what = " and ".join("id" if column == "image" else column for column in columns or ("image",))
    table.refuse(
        np.array([first[key] != row for row, key in enumerate(keys)], bool),
        lambda row: f"repeats the {what} of {table.unit} {table.lines[first[keys[row]]]}",
        f"Remove the {table.unit}",
    )


def check_sizes(table: Table, images: Images) -> None:
    """Refuses rows whose height or width column, where the contest has it, is not the image's."""
    stated = [column for column in ("height", "width") if column in table]
    entries, image = list(images.values()), positions(table, images)
    wrong = np.zeros(len(table), bool)
    for column in stated:
        actual = np.array([entry[column] for entry in entries], np.int64)[image]
        different, place = factors(table[column])
        wrong |= pd.to_numeric(pd.Series(different, dtype=object), errors="coerce").to_numpy(float)[place] != actual

    def rule(row: int) -> str:
        got = " and ".join(f"{column} {table[column][row] or '(blank)'}" for column in stated)
        entry = entries[image[row]]
        return (
            f"the {table.unit} says {got}, {entry['file_name']} has height {entry['height']} and width {entry['width']}"
        )

    table.refuse(wrong, rule)


def positions(table: Table, images: Images) -> np.ndarray:
    """Place of each row's image among the images, int64 (rows,)."""
    place = {name: i for i, name in enumerate(images)}
    return np.fromiter(map(place.__getitem__, table["image"]), np.int64, len(table))


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


def with_source_ids(table: Table, images: Images) -> Images:
    """The images, all of them in the table, each with the file's own id as "source_id", if it has one for images."""
    if "source_id" not in table:
        return images
    ids = dict(zip(table["image"], table["source_id"], strict=True))
    return {name: {**image, "source_id": ids[name]} for name, image in images.items()}


def require_one_category(competition: Competition) -> None:
    """Raises ConfigError where instances could be of several categories and nothing says of which."""
    if len(competition.categories) != 1:
        raise ConfigError(
            f"competition {competition.key} has {len(competition.categories)} categories, but the annotations do not "
            f"say which instance is of which; wanted one category, or annotations=csv with a class column"
        )


def label_ids(table: Table, ids: Mapping[str, int], suffix: str | None = None) -> np.ndarray:
    """Category id of each row, int64 (rows,). ids: by what the column "category" holds, up to `suffix` if not null.

    Refuses a category that has no id.
    """
    given = table["category"]
    different, place = factors(given)
    plain = different if suffix is None else [name.partition(suffix)[0] for name in different]
    labels = np.array([ids.get(name, 0) for name in plain], np.int64)[place]
    names = list(ids)
    table.refuse(
        labels == 0,
        lambda row: f"category {given[row]!r} is unknown; wanted {', '.join(names)}{nearest(given[row], names)}",
    )
    return labels


def of_categories(table: Table, competition: Competition) -> Table:
    """The rows of the contest's categories, for a file that may hold more; warns of what is left out and of those
    that it lacks.
    """
    held = table.among("category", competition.categories)
    others = set(table["category"]) - set(competition.categories)
    if others:
        log.warning(
            "%s: %ss of %d other categories, such as %s, that are left out: %d",
            table.path.name, table.unit, len(others), min(others), len(table) - held.sum(),
        )  # fmt: skip
    missing = [name for name in competition.categories if name not in set(table["category"])]
    if missing:
        log.warning("%s: categories without any %s: %s", table.path.name, table.unit, ", ".join(missing))
    return table.select(np.flatnonzero(held))


def factors(values: list[str]) -> tuple[list[str], np.ndarray]:
    """The different values, and for each value which of these it is, int64 (rows,)."""
    different = list(set(values))
    if len(different) == 1:
        return different, np.zeros(len(values), np.int64)
    place = {value: place for place, value in enumerate(different)}
    return different, np.fromiter(map(place.__getitem__, values), np.int64, len(values))


def masks_by_row(
    table: Table, labels: np.ndarray, images: Images, read: Callable[[int, tuple[int, int]], str]
) -> Masks:
    """The instances of all rows, image by image, each read by `read(row, (height, width))` as compressed COCO counts.

    labels: int64 (rows,). `read` raises Unreadable or PackedError; the counts that it gives are checked here. Masks
    without a pixel are left out, with a warning. Raises InputError naming the first row that cannot be read.
    """
    image = positions(table, images)
    order = np.argsort(image, kind="stable")
    cuts = np.searchsorted(image[order], np.arange(len(images) + 1)).tolist()
    found: list[Masks] = []
    faults: dict[int, str] = {}
    for place, entry in enumerate(images.values()):
        rows = order[cuts[place] : cuts[place + 1]]
        runs, own = _runs(rows.tolist(), (entry["height"], entry["width"]), read)
        faults |= own
        if not faults:
            found.append(masks_of(image[rows], labels[rows], CocoColumns(to_coco(runs), area(runs), boxes(runs))))
    table.refuse(np.isin(np.arange(len(table)), list(faults)), lambda row: faults[row])
    return _with_pixels(table, joined(found))


def _runs(
    rows: list[int], size: tuple[int, int], read: Callable[[int, tuple[int, int]], str]
) -> tuple[Runs, dict[int, str]]:
    """The masks of one image's rows, checked together; where one is bad, none and the rule that each bad row breaks."""
    counts, faults = {}, {}
    for row in rows:
        try:
            counts[row] = read(row, size)
        except (Unreadable, PackedError) as error:
            faults[row] = error.rule
    if not faults:
        with suppress(ValueError):
            return from_coco(list(counts.values()), size), {}
    for row, one in counts.items():
        try:
            check(one, size)
        except PackedError as error:
            faults[row] = error.rule
    return empty(0, size), faults


def _with_pixels(table: Table, masks: Masks) -> Masks:
    held = np.flatnonzero(masks.area)
    if len(held) < len(masks):
        log.warning("%s: masks without a pixel, that are left out: %d", table.path.name, len(masks) - len(held))
        return masks.select(held)
    return masks
