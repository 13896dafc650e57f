"""A contest's CSV as text columns under known names, with the line of each row, and errors that say where.

Files of other layouts become the same columns, so that all are checked alike.

Nothing is interpreted while reading: "NA" is text, "007" keeps its zeros, a blank field is "".
"""

from __future__ import annotations

import codecs
import io
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from pipeline.errors import InputError

_PIECE = 1 << 20  # bytes: what is split at a time stays within the processor's cache


@dataclass(frozen=True, eq=False)
class Table:
    """Rows of one file as columns of text, among them "image"; of JSON, a column may hold other values.

    lines: int64 (rows,), where each begins (header = 1). unit: what the file has them as, and `lines` counts.
    """

    path: Path
    columns: Mapping[str, list[Any]]
    lines: np.ndarray
    unit: str = "row"

    def __len__(self) -> int:
        return len(self.lines)

    def __contains__(self, column: str) -> bool:
        return column in self.columns

    def __getitem__(self, column: str) -> list[Any]:
        return self.columns[column]

    def select(self, index: np.ndarray) -> Table:
        """The rows that an integer index names, in its order."""
        rows = index.tolist()
        columns = {name: [column[row] for row in rows] for name, column in self.columns.items()}
        return replace(self, columns=columns, lines=self.lines[index])

    def among(self, column: str, values: Collection[str]) -> np.ndarray:
        """bool (rows,): whether the row's value is one of `values`."""
        if not values:
            return np.zeros(len(self), bool)
        return np.fromiter((value in values for value in self[column]), bool, len(self))

    def refuse(self, bad: np.ndarray, rule: Callable[[int], str], remedy: str | None = None) -> None:
        """Raises InputError for the first row where `bad`, bool (rows,), holds; says how many more there are.

        rule: from the row's position to what is wrong with it; remedy: what to do, without the file's name.
        """
        where = np.flatnonzero(bad)
        if not len(where):
            return
        first, others = int(where[0]), len(where) - 1
        more = f" ({others} more {self.unit}{'s' * (others > 1)} like this)" if others else ""
        image = self["image"][first] or "(blank)"
        place = (
            f"{self.path.name} {self.unit} {self.lines[first]}, image {image if image.isprintable() else repr(image)}"
        )
        raise InputError(f"{place}: {rule(first)}{more}. {remedy or f'Correct the {self.unit}'} in {self.path}.")


class Listing(NamedTuple):
    """What an annotation file lists: images, each perhaps several times, and instances."""

    images: Table
    instances: Table


def read_table(path: Path, columns: Mapping[str, str], *others: Mapping[str, str]) -> Table:
    """Reads the named columns, {own name: name in the file}; rows that are blank throughout are left out.

    others: what the file may have instead, where it lacks one of `columns`.
    Raises InputError for a file that is absent, empty, no UTF-8 or no table, and for a column that it lacks.
    """
    require_file(path)
    fields, lines = _split(path) or _parse(path, _text(path))
    header = [field[0] for field in fields]
    columns = next((one for one in (columns, *others) if set(one.values()) <= set(header)), columns)
    places = [_place(path, header, column) for column in columns.values()]
    if not len(lines):
        raise InputError(f"{path}: has a header but no rows. Put the contest's own file there.")
    return Table(path, {name: fields[place][1:] for name, place in zip(columns, places, strict=True)}, lines)


def require_file(path: Path) -> None:
    """Raises InputError where there is no such file."""
    if not path.is_file():
        raise InputError(
            f"{path}: there is no such file. Put the contest's file there, or give its folder: paths.data=DIR"
        )


def nearest(got: str, names: Sequence[str]) -> str:
    """A sentence naming the most similar of `names`, "" where none is similar."""
    found = get_close_matches(got, names, 1, cutoff=0.5)
    return f"; nearest is {found[0]!r}" if found else ""


def _text(path: Path) -> str:
    content = path.read_bytes()
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        row = content.count(b"\n", 0, error.start) + 1
        byte = content[error.start]
        raise InputError(f"{path.name} row {row}: byte 0x{byte:02x} is no UTF-8. Save {path} as UTF-8.") from error
    if not text or text.isspace():
        raise InputError(f"{path}: is empty. Put the contest's own file there.")
    return text


def _split(path: Path) -> tuple[list[list[str]], np.ndarray] | None:
    """What `_parse` gives, some times faster; None where the file is not a plain grid of unquoted fields."""
    columns: list[list[str]] = []
    with open(path, "rb") as file:
        while piece := file.read(_PIECE) + file.readline():
            text = _plain(piece if columns else piece.removeprefix(codecs.BOM_UTF8))
            if text is None:
                return None
            columns = columns or [[] for _ in text.partition("\n")[0].split(",")]
            fields = text.replace("\n", ",\n").split(",")
            # Each line break now begins a field: in a grid the first of each row but one, and no other.
            width = len(columns)
            starts = fields[width::width]
            if len(fields) % width or not text.count("\n") == len(starts) == "".join(starts).count("\n"):
                return None
            fields[width::width] = [field[1:] for field in starts]
            for place, column in enumerate(columns):
                column += fields[place::width]
    if not columns or "" in columns[0]:  # perhaps a row that is blank throughout
        return None
    return columns, np.arange(2, len(columns[0]) + 1)


def _plain(piece: bytes) -> str | None:
    """The text of whole lines without the last one's end; None where it holds a quote or is no UTF-8."""
    if b"\r" in piece:
        piece = piece.replace(b"\r\n", b"\n")
    if any(symbol in piece for symbol in (b'"', b"\r", b"\0")):
        return None
    try:
        return piece.removesuffix(b"\n").decode()
    except UnicodeDecodeError:
        return None


def _parse(path: Path, text: str) -> tuple[list[list[str]], np.ndarray]:
    """Each column's fields as text, the header's first, and the line where each row but the header begins.

    Rows that are blank throughout are left out.
    """
    try:
        frame = pd.read_csv(
            io.StringIO(text), header=None, dtype=str, keep_default_na=False, na_filter=False, skip_blank_lines=False
        )
    except (pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        reason = str(error).removeprefix("Error tokenizing data. C error: ").strip()
        if (found := re.search(r"EOF inside string starting at row (\d+)", reason)) is not None:
            reason = f"the quote that opens in row {int(found[1]) + 1} is not closed"  # pandas counts from 0
        raise InputError(f"{path.name}: is no table of comma-separated values: {reason}. Correct {path}.") from error
    breaks = np.zeros(len(frame), np.int64)
    if '"' in text:  # only a quoted field can hold a line break
        breaks = frame.apply(lambda column: column.str.count("\n")).sum(axis=1).to_numpy(np.int64)
    lines = np.arange(1, len(frame) + 1) + np.cumsum(breaks) - breaks
    kept = np.append(True, (frame[1:] != "").any(axis=1).to_numpy(bool))
    return [frame[column][kept].tolist() for column in frame], lines[kept][1:]


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
