"""Masks in picture files: those that a CSV names, or a folder of them for each image."""

from __future__ import annotations

import glob
from pathlib import Path

import numpy as np

from pipeline.competition import Competition
from pipeline.data.coco import Images
from pipeline.data.columns import Masks, joined, masks_of_runs
from pipeline.data.layouts.checks import (
    check_ids,
    columns_of,
    label_ids,
    masks_by_row,
    of_categories,
    require_one_category,
)
from pipeline.data.pictures import read_mask, read_resized_mask
from pipeline.data.table import Listing, Table, read_table
from pipeline.errors import ConfigError, InputError
from pipeline.masks.runs import from_coco


def listed(path: Path, competition: Competition) -> Listing:
    """The rows of a CSV that names a mask picture, its image and its class in each."""
    names = {"image": "image", "mask file": "mask_file", "category": "class", "height": "height", "width": "width"}
    table = read_table(path, columns_of(competition.annotation_columns, **names))
    check_ids(table, "mask file")
    return Listing(table, table)


def masks(root: Path, table: Table, competition: Competition, images: Images) -> Masks:
    """The pixels that are not black in the picture of each row of the contest's categories; a picture of another size
    than its image is resized to it, by nearest neighbour. root: the folder in which the masks lie.

    Raises InputError naming file, row, image and rule, or the picture that cannot be read.
    """
    table = of_categories(table, competition)
    names = [str(competition.train_masks).replace("{mask}", name) for name in table["mask file"]]
    table.refuse(
        np.array([not (root / name).is_file() for name in names], bool),
        lambda row: f"there is no file {names[row]} in {root}",
        "Unpack the contest's masks there, or remove the row",
    )
    labels = label_ids(table, {name: number for number, name in enumerate(competition.categories, 1)})
    return masks_by_row(table, labels, images, lambda row, size: read_resized_mask(root, names[row], size))


def masks_of_folders(root: Path, competition: Competition, images: Images) -> Masks:
    """Instances from one file each, any pixel that is not black being foreground; one is read at a time."""
    if competition.train_masks is None or "{id}" not in competition.train_masks:
        raise ConfigError(f"competition {competition.key} has no folders of masks; wanted annotations=csv")
    require_one_category(competition)
    parts = []
    for place, (name, image) in enumerate(images.items()):
        size = (image["height"], image["width"])
        files = sorted(glob.glob(competition.train_masks.replace("{id}", name), root_dir=root))
        counts = [read_mask(root, Path(file).as_posix(), size) for file in files]
        parts.append(masks_of_runs(place, 1, from_coco(counts, size)))
    found = joined(parts)
    if not len(found):
        raise InputError(
            f"no masks: nothing in {root} is named {competition.train_masks}. Read the contest's CSV instead: "
            f"annotations=csv"
        )
    return found
