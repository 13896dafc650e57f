"""Competition: the frozen facts of one contest, as its files under conf/competition state them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from pipeline.masks.text import Order

_ID = re.compile(r"[A-Za-z0-9._-]+")


@dataclass(frozen=True)
class Competition:
    """Facts of a contest; nothing here is a choice.

    key: the name of its configuration file. title, url: of the contest's page ("" where it has none).
    categories: names; a category id is the position in this list, from 1.
    order, base: pixel order of the contest's RLE text and the number of its first pixel.
    train_csv: the annotations, one row per instance, with the columns image_column, rle_column and, where the contest
    has them, category_column, height_column, width_column and group_columns (images of one group share a fold).
    train_image, test_image: pattern of an image's path inside the contest's folder, with {id}.
    train_masks: pattern of mask pictures, one per instance, with {id} and *; null where there are none.
    sample_submission: the CSV that says which test images want rows. submission_columns: (id, RLE).
    overlap: whether two rows of one image may share pixels. metric: the contest's own.
    test_truth: a CSV like train_csv with the truth of the test images, where one exists.
    """

    key: str
    title: str
    url: str
    categories: tuple[str, ...]
    order: Order
    base: int
    train_csv: str
    image_column: str
    rle_column: str
    category_column: str | None
    height_column: str | None
    width_column: str | None
    group_columns: tuple[str, ...]
    train_image: str
    test_image: str
    train_masks: str | None
    sample_submission: str
    submission_columns: tuple[str, str]
    overlap: Literal["forbidden", "allowed"]
    metric: Literal["mean_precision"]
    test_truth: str | None

    def __post_init__(self) -> None:
        if not self.categories or len(set(self.categories)) != len(self.categories):
            raise ValueError(f"categories: wanted different names, at least one, got {self.categories}")
        if len(self.categories) > 1 and self.category_column is None:
            raise ValueError(
                f"category_column: wanted a column, since there are categories {self.categories}; got null"
            )
        patterns = {"train_image": self.train_image, "test_image": self.test_image, "train_masks": self.train_masks}
        for name, pattern in patterns.items():
            if pattern is not None and "{id}" not in pattern:
                raise ValueError(f'{name}: wanted a path with {{id}}, such as "train/{{id}}.png", got "{pattern}"')


def is_safe_id(image_id: str) -> bool:
    """Whether an image id can stand in a path: letters, digits, '.', '_' and '-' only, and not '.' or '..'."""
    return _ID.fullmatch(image_id) is not None and image_id not in (".", "..")
