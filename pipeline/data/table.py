"""A contest's CSV as text columns under known names, with the line of each row, and errors that say where.

Nothing is interpreted while reading: "NA" is text, "007" keeps its zeros, a blank field is "".
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pipeline.errors import InputError


@dataclass(frozen=True)
class Table:
    """Rows of one file: text columns, among them "image"; the index is the line in the file (header = 1)."""

    path: Path
    rows: pd.DataFrame

    def refuse(self, bad: np.ndarray, rule: Callable[[Any], str], remedy: str = "Correct the row") -> None:
        """Raises InputError for the first row where `bad`, bool (rows,), holds; says how many more there are.

        rule: from the row (a Series) to what is wrong with it; remedy: what to do, without the file's name.
        """
        where = np.flatnonzero(bad)
        if not len(where):
            return
        first = self.rows.iloc[where[0]]
        others = len(where) - 1
        more = f" ({others} more row{'s' * (others > 1)} like this)" if others else ""
        place = f"{self.path.name} row {first.name}, image {first['image'] or '(blank)'}"
        raise InputError(f"{place}: {rule(first)}{more}. {remedy} in {self.path}.")


def read_table(path: Path, columns: Mapping[str, str]) -> Table:
    """Reads the named columns, {own name: name in the file}; rows that are blank throughout are left out.

    Raises InputError for a file that is absent, empty, no UTF-8 or no table, and for a column that it lacks.
    """
    frame = _parse(path, _text(path))
    header = frame.iloc[0].tolist()
    places = [_place(path, header, column) for column in columns.values()]
    rows = frame.iloc[1:, places].set_axis(list(columns), axis=1)
    rows = rows[(frame.iloc[1:] != "").any(axis=1)]
    if rows.empty:
        raise InputError(f"{path}: has a header but no rows. Put the contest's own file there.")
    return Table(path, rows)


def nearest(got: str, names: Sequence[str]) -> str:
    """A sentence naming the most similar of `names`, "" where none is similar."""
    found = get_close_matches(got, names, 1, cutoff=0.5)
    return f"; nearest is {found[0]!r}" if found else ""


def _text(path: Path) -> str:
    if not path.is_file():
        raise InputError(
            f"{path}: there is no such file. Put the contest's file there, or give its folder: paths.data=DIR"
        )
    content = path.read_bytes()
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        row = content.count(b"\n", 0, error.start) + 1
        byte = content[error.start]
        raise InputError(f"{path.name} row {row}: byte 0x{byte:02x} is no UTF-8. Save {path} as UTF-8.") from error
    if not text.strip():
        raise InputError(f"{path}: is empty. Put the contest's own file there.")
    return text


def _parse(path: Path, text: str) -> pd.DataFrame:
    """All fields as text, the header as the first row, the index being the line where a row begins."""
    try:
        frame = pd.read_csv(
            io.StringIO(text), header=None, dtype=str, keep_default_na=False, na_filter=False, skip_blank_lines=False
        )
    except pd.errors.ParserError as error:
        reason = str(error).removeprefix("Error tokenizing data. C error: ").strip()
        if (found := re.search(r"EOF inside string starting at row (\d+)", reason)) is not None:
            reason = f"the quote that opens in row {int(found[1]) + 1} is not closed"  # pandas counts from 0
        raise InputError(f"{path.name}: is no table of comma-separated values: {reason}. Correct {path}.") from error
    breaks = np.zeros(len(frame), np.int64)
    if '"' in text:  # only a quoted field can hold a line break
        breaks = frame.apply(lambda column: column.str.count("\n")).sum(axis=1).to_numpy(np.int64)
    lines = np.arange(1, len(frame) + 1) + np.cumsum(breaks) - breaks
    return frame.set_axis(lines, axis=0)


def _place(path: Path, header: list[str], column: str) -> int:
    if header.count(column) == 1:
        return header.index(column)
    names = ", ".join(map(repr, header))
    if column in header:
        raise InputError(
            f"{path.name} row 1: has {header.count(column)} columns {column!r}, wanted one. Correct {path}."
        )
    raise InputError(
        f"{path.name} row 1: there is no column {column!r}; the columns are {names}{nearest(column, header)}. "
        f"Rename the column in {path}, or name it in the configuration of the competition."
    )
