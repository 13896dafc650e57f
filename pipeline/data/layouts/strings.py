"""Annotation CSVs of prediction strings, a row per image: "label confidence code label confidence code …"."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pipeline.competition import Competition
from pipeline.data.coco import Images
from pipeline.data.columns import Masks
from pipeline.data.layouts.checks import check_repeats, columns_of, label_ids, masks_by_row
from pipeline.data.table import Listing, Table, read_table
from pipeline.masks.packed import inflate


def listed(path: Path, competition: Competition) -> Listing:
    """The images of a CSV, and its instances with the code of each: a blank string is an image without instances.

    The confidence of truth says nothing and is not looked at. Raises InputError for columns that the file lacks, for
    two rows of one image, and for a string that is no series of triples.
    """
    columns = columns_of(
        competition.annotation_columns, image="image", text="predictions", height="height", width="width"
    )
    table = read_table(path, columns)
    check_repeats(table)
    words = [text.split() for text in table["text"]]
    table.refuse(
        np.array([len(own) % 3 > 0 for own in words], bool),
        lambda row: f"the string has {len(words[row])} words; wanted three for each instance: label confidence code",
    )
    row = np.repeat(np.arange(len(table)), [len(own) // 3 for own in words])
    flat = [word for own in words for word in own]
    instances = {"image": [table["image"][i] for i in row.tolist()], "category": flat[::3], "code": flat[2::3]}
    return Listing(table, Table(path, instances, table.lines[row]))


def masks(root: Path, table: Table, competition: Competition, images: Images) -> Masks:
    """The instances of all images. table: columns image, category, as a submission writes it, and code, base64(zlib(
    COCO counts)). Raises InputError naming file, row, image and rule.
    """
    labels = label_ids(table, competition.labels())
    return masks_by_row(table, labels, images, lambda row, size: inflate(table["code"][row], size))
