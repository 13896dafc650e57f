"""Instances to the rows of a submission file, and back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from pipeline.competition import Competition
from pipeline.errors import InputError
from pipeline.instances import Instances
from pipeline.masks import text
from pipeline.submission.lint import check_table
from pipeline.submission.table import read_table

_SHOWN = 5


def to_rows(instances: Iterable[Instances], competition: Competition) -> pd.DataFrame:
    """The rows of a submission: one per instance, one with a blank mask for an image without any, in the order given.

    The columns are the contest's submission_columns, strings both; the mask is the contest's RLE text. An instance
    without a pixel has no row. Raises InputError where an image occurs twice. Overlaps are the linter's business.
    """
    names: list[str] = []
    texts: list[str] = []
    seen: set[str] = set()
    for image in instances:
        if image.image_id in seen:
            raise InputError(
                f"image {image.image_id} occurs twice among the instances to submit; "
                "each image must occur once, with all its instances"
            )
        seen.add(image.image_id)
        masks = [mask for mask in text.to_text(image.runs, competition.order, competition.base) if mask] or [""]
        names += [image.image_id] * len(masks)
        texts += masks
    columns = dict(zip(tuple(competition.submission_columns), (names, texts), strict=True))
    return pd.DataFrame(columns, dtype=str)


def write(frame: pd.DataFrame, path: Path) -> None:
    """Write rows as CSV: UTF-8, LF line ends, no index, a blank mask as an empty field; equal rows give equal bytes."""
    frame.to_csv(path, index=False, lineterminator="\n", encoding="utf-8", na_rep="")


def read(path: Path, competition: Competition, sizes: Mapping[str, tuple[int, int]]) -> list[Instances]:
    """The instances of any submission file, one entry for each image of sizes and in that order, scores 1, labels 1.

    sizes: (height, width) in pixels by image id. Raises InputError with row, image and rule where the linter finds
    an error.
    """
    table = read_table(Path(path), tuple(competition.submission_columns))
    errors = [finding for finding in check_table(table, competition, sizes) if finding.level == "error"]
    if errors:
        shown = "\n".join(f"  {error}" for error in errors[:_SHOWN])
        more = f"\n  and {len(errors) - _SHOWN} more" if len(errors) > _SHOWN else ""
        raise InputError(f"{path}: the file breaks the rules of {competition.key}:\n{shown}{more}")
    masks: dict[str, list[str]] = {name: [] for name in sizes}
    for row in table.rows:
        if row.text:
            masks[row.image].append(row.text)
    return [_instances(name, masks[name], size, competition) for name, size in sizes.items()]


def _instances(name: str, texts: list[str], size: tuple[int, int], competition: Competition) -> Instances:
    masks = text.from_text(texts, size, competition.order, competition.base)
    return Instances.of_runs(name, masks, np.ones(len(masks), np.float32), np.ones(len(masks), np.int64))
