"""From the rows of an annotation CSV to masks: sizes, categories and groups checked, run lengths decoded together."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from pipeline.competition import Competition
from pipeline.data.coco import Images, Mask, masks_of_runs
from pipeline.data.table import Table, nearest
from pipeline.errors import ConfigError
from pipeline.masks.text import TextError, from_text

log = logging.getLogger(__name__)


def read_masks(table: Table, competition: Competition, images: Images) -> list[Mask]:
    """The instance of each row that is not blank, in no particular order.

    table: columns image, text and, where the contest has them, category, height, width, "group 0", "group 1", …;
    images: COCO image entries by id, with an entry for every row. Raises InputError naming file, row and image.
    """
    rows = table.rows
    blank = rows["text"].str.strip().eq("").to_numpy(bool)
    sized = rows.assign(
        high=rows["image"].map({name: image["height"] for name, image in images.items()}),
        wide=rows["image"].map({name: image["width"] for name, image in images.items()}),
    )
    _check_sizes(Table(table.path, sized), images)
    _check_blanks(table, blank)
    labels = _labels(table, blank, competition)
    _report(table, blank)
    return _decode(Table(table.path, sized.assign(label=labels)[~blank]), competition)


def with_groups(table: Table, images: Images) -> Images:
    """The images, each with the group that the group columns of its rows name; its own id where they are blank."""
    columns = [column for column in table.rows.columns if column.startswith("group ")]
    if not columns:
        return images
    key = table.rows[columns[0]].str.cat(table.rows[columns[1:]], sep="|")
    first = key.groupby(table.rows["image"]).transform("first")
    table.refuse(
        (key != first).to_numpy(bool),
        lambda row: f"the group is {key[row.name]!r}, in the image's first row it is {first[row.name]!r}",
        "Make the rows of the image agree",
    )
    group_of = {name: group for name, group in zip(table.rows["image"], key, strict=True) if group.strip("|")}
    return {name: {**image, "group": group_of.get(name, image["group"])} for name, image in images.items()}


def require_one_category(competition: Competition) -> None:
    """Raises ConfigError where instances could be of several categories and nothing says of which."""
    if len(competition.categories) != 1:
        raise ConfigError(
            f"competition {competition.key} has {len(competition.categories)} categories, but the annotations do not "
            f"say which instance is of which; wanted one category, or annotations=csv with competition.category_column"
        )


def _check_sizes(table: Table, images: Images) -> None:
    """Refuses rows whose height or width column, where the contest has it, is not the image's."""
    stated = [column for column in ("height", "width") if column in table.rows]
    wrong = np.zeros(len(table.rows), bool)
    for column, actual in (("height", "high"), ("width", "wide")):
        if column in stated:
            wrong |= (pd.to_numeric(table.rows[column], errors="coerce") != table.rows[actual]).to_numpy(bool)

    def rule(row: Any) -> str:
        got = " and ".join(f"{column} {row[column] or '(blank)'}" for column in stated)
        return (
            f"the row says {got}, {images[row['image']]['file_name']} has height {row['high']} and width {row['wide']}"
        )

    table.refuse(wrong, rule)


def _check_blanks(table: Table, blank: np.ndarray) -> None:
    """A blank annotation says that the image has no instance, so the image may have no other row."""
    number = table.rows["image"].value_counts()
    crowded = blank & (table.rows["image"].map(number) > 1).to_numpy(bool)
    rule = "the annotation is blank, which says that the image has no instance, but it has {} rows"
    table.refuse(crowded, lambda row: rule.format(number[row["image"]]), "Remove the blank row")


def _labels(table: Table, blank: np.ndarray, competition: Competition) -> np.ndarray:
    """Category id of each row, int64 (rows,); 0 for a blank row, which needs no category."""
    if "category" not in table.rows:
        require_one_category(competition)
        return np.where(blank, 0, 1)
    names = competition.categories
    labels = (
        table.rows["category"].map({name: number for number, name in enumerate(names, 1)}).fillna(0).to_numpy(np.int64)
    )
    table.refuse(
        (labels == 0) & ~blank,
        lambda row: (
            f"category {row['category']!r} is unknown; wanted {', '.join(names)}{nearest(row['category'], names)}"
        ),
    )
    return np.where(blank, 0, labels)


def _report(table: Table, blank: np.ndarray) -> None:
    repeated = int(table.rows[~blank].duplicated().sum())
    if blank.any():
        log.info("%s: blank rows, each an image without instances: %d", table.path.name, int(blank.sum()))
    if repeated:
        log.warning("%s: rows that repeat an earlier row exactly, and are kept: %d", table.path.name, repeated)


def _decode(table: Table, competition: Competition) -> list[Mask]:
    """Run lengths of all rows, one call per image size."""
    masks: list[Mask] = []
    faults: dict[int, str] = {}
    for _, rows in table.rows.groupby(["high", "wide"], sort=False):
        texts, size = rows["text"].tolist(), (int(rows["high"].iloc[0]), int(rows["wide"].iloc[0]))
        try:
            runs = from_text(texts, size, competition.order, competition.base)
        except TextError:
            faults.update({rows.index[position]: rule for position, rule in _faults(texts, size, competition)})
        else:
            masks += masks_of_runs(rows["image"].tolist(), rows["label"].tolist(), runs)
    table.refuse(table.rows.index.isin(list(faults)), lambda row: faults[row.name])
    return masks


def _faults(
    texts: list[str], size: tuple[int, int], competition: Competition, start: int = 0
) -> Iterator[tuple[int, str]]:
    """Position and rule of each bad text, in order, found by halving: a sound half costs one call."""
    try:
        from_text(texts, size, competition.order, competition.base)
    except TextError as error:
        if len(texts) == 1:
            yield start, error.rule
            return
        half = len(texts) // 2
        yield from _faults(texts[:half], size, competition, start)
        yield from _faults(texts[half:], size, competition, start + half)
