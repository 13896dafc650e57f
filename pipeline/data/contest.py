"""Reads a contest's folder, as Kaggle unpacks it, into COCO dicts.

Everything is checked before anything is returned: columns, ids, files, sizes, categories and every run length.
No dense mask is made from a CSV, and no image is decoded for its size.
"""

from __future__ import annotations

import glob
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import numpy as np

from pipeline.competition import Competition, is_safe_id
from pipeline.data.coco import Coco, Images, build, by_name
from pipeline.data.columns import Masks, joined, masks_of_runs
from pipeline.data.pictures import read_mask, read_size
from pipeline.data.rows import read_masks, require_one_category, with_groups
from pipeline.data.table import Table, read_table
from pipeline.errors import ConfigError, InputError
from pipeline.masks.runs import from_coco

Source = Literal["csv", "masks"]

PLAIN = "letters, digits, '.', '_' and '-' only, so that no id leads out of the contest's folder"


def read_train(root: Path, competition: Competition, source: Source) -> Coco:
    """The training images and their instances, from the contest's CSV or from its folders of one PNG per instance.

    Images are those that the pattern finds in the folder. Each image that the CSV names must be among them; one that
    it does not name has no instances. Raises InputError naming file, row, image and rule.
    """
    if source not in ("csv", "masks"):
        raise ConfigError(f"annotations is {source!r}, wanted csv or masks")
    if source == "masks":
        images = _open(root, competition.train_image, _find_ids(root, competition.train_image))
        return build(competition, images, _read_folders(root, competition, images))
    table = _read_annotations(root / competition.train_annotations, competition)
    _check_files(root, competition.train_image, table)
    images = _open(root, competition.train_image, _find_ids(root, competition.train_image))
    return build(competition, with_groups(table, images), read_masks(table, competition, images))


def read_test(root: Path, competition: Competition) -> Coco:
    """The images that the sample submission lists, without annotations. Raises InputError as `read_train` does."""
    names = {"image": competition.submission("image"), "text": competition.submission("mask")}
    table = read_table(root / competition.sample_submission, {own: name for own, name in names.items() if name})
    _check_ids(table)
    _check_repeats(table)
    _check_files(root, competition.test_image, table)
    return build(competition, _open(root, competition.test_image, table["image"]), joined([]))


def read_truth(path: Path, competition: Competition, coco: Coco) -> Coco:
    """The images of `coco` with the instances of a CSV in the format of the training CSV.

    Serves the truth of test images, where a contest has it. Raises InputError as `read_train` does, and for a row
    whose image is not in `coco`.
    """
    table = _read_annotations(path, competition)
    images = by_name(coco)
    strange = table.among("image", set(table["image"]) - images.keys())
    table.refuse(strange, lambda row: f"the image is none of the {len(images)} that are scored", "Remove the row")
    return build(competition, with_groups(table, images), read_masks(table, competition, images))


def list_pictures(root: Path, competition: Competition, source: Source) -> list[Path]:
    """The image files, and for source "masks" the mask files, that the contest's patterns find: what a reader opens."""
    patterns = [competition.train_image, competition.test_image]
    if source == "masks" and competition.train_masks is not None:
        patterns.append(competition.train_masks)
    found = [root / name for pattern in patterns for name in sorted(glob.glob(_named(pattern, "*"), root_dir=root))]
    return [path for path in found if path.is_file()]


def _read_annotations(path: Path, competition: Competition) -> Table:
    columns = {
        "image": competition.annotation("image"),
        "text": competition.annotation("mask"),
        "category": competition.annotation("class"),
        "height": competition.annotation("height"),
        "width": competition.annotation("width"),
        **{f"group {i}": column for i, column in enumerate(_groups(competition))},
    }
    table = read_table(path, {name: column for name, column in columns.items() if column is not None})
    _check_ids(table)
    return table


def _groups(competition: Competition) -> list[str]:
    return [column for column, role in competition.annotation_columns.items() if role == "group"]


def _check_ids(table: Table) -> None:
    bad = {name for name in set(table["image"]) if not is_safe_id(name)}
    table.refuse(table.among("image", bad), lambda row: f"the image id is no plain name; wanted {PLAIN}")


def _check_repeats(table: Table) -> None:
    names = table["image"]
    first = {name: row for row, name in reversed(list(enumerate(names)))}
    repeated = np.array([first[name] != row for row, name in enumerate(names)], bool)
    table.refuse(repeated, lambda row: f"repeats the id of row {table.lines[first[names[row]]]}", "Remove the row")


def _check_files(root: Path, pattern: str, table: Table) -> None:
    missing = {name for name in set(table["image"]) if not (root / _named(pattern, name)).is_file()}
    table.refuse(
        table.among("image", missing),
        lambda row: f"there is no file {_named(pattern, table['image'][row])} in {root}",
        "Unpack the contest's images there, or remove the row",
    )


def _find_ids(root: Path, pattern: str) -> list[str]:
    """Ids of the files that a pattern finds, at least one; hidden files are not looked at."""
    pieces = pattern.split("{id}")
    found = glob.glob(_named(pattern, "*"), root_dir=root)
    first, *rest = (re.escape(piece) for piece in pieces)
    shape = re.compile(f"{first}(?P<id>[^/]+){'(?P=id)'.join(rest)}")  # where the id comes again it must be the same
    names = [match["id"] for path in sorted(found) if (match := shape.fullmatch(Path(path).as_posix()))]
    if not names:
        raise InputError(
            f"no training images: nothing in {root} is named {pattern}. Give the contest's folder, as Kaggle unpacks "
            f"it: paths.data=DIR"
        )
    for name in names:
        if not is_safe_id(name):
            raise InputError(
                f"{_named(pattern, name)}: the image id is no plain name; wanted {PLAIN}. Rename it in {root}."
            )
    return names


def _open(root: Path, pattern: str, names: Iterable[str]) -> Images:
    """COCO image entries by id, sorted by id, with the sizes of the files; each image is a group of its own."""
    images: Images = {}
    for number, name in enumerate(sorted(names), 1):
        file_name = _named(pattern, name)
        height, width = read_size(root, file_name)
        images[name] = {
            "id": number,
            "name": name,
            "file_name": file_name,
            "height": height,
            "width": width,
            "group": name,
        }
    return images


def _named(pattern: str, name: str) -> str:
    return pattern.replace("{id}", name)


def _read_folders(root: Path, competition: Competition, images: Images) -> Masks:
    """Instances from one file each, any pixel that is not black being foreground; one is read at a time."""
    if competition.train_masks is None:
        raise ConfigError(f"competition {competition.key} has no folders of masks; wanted annotations=csv")
    require_one_category(competition)
    parts = []
    for place, (name, image) in enumerate(images.items()):
        size = (image["height"], image["width"])
        files = sorted(glob.glob(_named(competition.train_masks, name), root_dir=root))
        counts = [read_mask(root, Path(file).as_posix(), size) for file in files]
        parts.append(masks_of_runs(place, 1, from_coco(counts, size)))
    masks = joined(parts)
    if not len(masks):
        raise InputError(
            f"no masks: nothing in {root} is named {competition.train_masks}. Read the contest's CSV instead: "
            f"annotations=csv"
        )
    return masks
