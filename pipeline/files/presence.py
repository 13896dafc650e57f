"""Files of presence: a CSV with a row for each image and, under its name, the probability of each category."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.atomic import atomic
from pipeline.errors import InputError
from pipeline.files.checks import FAULTS, check_names, told
from pipeline.files.detections import read_detections

_IMAGE = "image_id"


def join_presence(path: Path, parts: Sequence[Path], categories: Sequence[str]) -> None:
    """One file of what several files of a classifier's detections hold, in turn; see `pipeline.model.classifier`.

    A category of which an image's detections say nothing, as of an image that could not be read, has an empty cell.
    """
    found = [one for part in parts for one in read_detections(part)]
    probable = np.full((len(found), len(categories)), np.nan, np.float32)
    for row, one in zip(probable, found, strict=True):
        row[one.labels - 1] = one.scores
    table = pd.DataFrame(probable, columns=list(categories))
    table.insert(0, _IMAGE, [one.image_id for one in found])
    with atomic(path) as partial:
        table.to_csv(partial, index=False, float_format="%.6g", lineterminator="\n")


def read_presence(path: Path, categories: Sequence[str]) -> dict[str, NDArray[np.float32]]:
    """By image, float32 (K,): the probability of each of the categories in their order, NaN where it is not known.

    Raises InputError for a missing or broken file and for one of other categories.
    """
    try:
        table = pd.read_csv(path, dtype={_IMAGE: str}, keep_default_na=False, index_col=False,
                            na_values={c: [""] for c in categories})  # fmt: skip
    except FileNotFoundError:
        raise InputError(f"{path} does not exist; the stage `predict` makes it of a model=classifier") from None
    except FAULTS as error:
        raise InputError(f"{path} is no table ({told(error)}); run `predict` again") from None
    got = [str(name) for name in table.columns]
    if sorted(got) != sorted([_IMAGE, *categories]):
        wanted = f"wanted the columns {', '.join([_IMAGE, *categories])}, got {', '.join(got)}"
        raise InputError(f"{path}: {wanted}; its classifier was trained for other categories")
    try:
        probable = table[list(categories)].to_numpy(np.float32)
    except FAULTS as error:
        raise InputError(f"{path}: a probability is no number ({told(error)}); run `predict` again") from None
    try:
        check_names(table[_IMAGE].tolist())
    except ValueError as error:
        raise InputError(f"{path}: {error}; run `predict` again") from None
    wrong = np.flatnonzero(((probable < 0) | (probable > 1)).any(1))
    if len(wrong):
        where = f"{path} row {wrong[0] + 2}, image {table[_IMAGE][wrong[0]]}"
        raise InputError(f"{where}: wanted probabilities of 0 to 1, got {probable[wrong[0]].tolist()}")
    return dict(zip(table[_IMAGE], probable, strict=True))
