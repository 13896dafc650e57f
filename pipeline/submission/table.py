"""A submission file as rows that know their line, and what is wrong with it as a table."""

from __future__ import annotations

import codecs
import csv
import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from pipeline.errors import InputError
from pipeline.submission.finding import Finding, Level, plain, quoted


class Row(NamedTuple):
    """One row of the file.

    line: where it begins, the header is 1. image: the id. text: the mask's text with single spaces, "" is blank.
    whole: False where the row has too few or too many fields, so that its text means nothing.
    """

    line: int
    image: str
    text: str
    whole: bool


@dataclass
class Table:
    """What was read, and what was wrong with it.

    complete: False where reading stopped early, so that an image that was not seen may yet be in the file.
    """

    rows: list[Row] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    complete: bool = True

    def add(
        self, code: str, message: str, row: int | None = None, image: str | None = None, level: Level = "error"
    ) -> None:
        self.findings.append(Finding(code, level, row, image, message))

    def stop(self, code: str, message: str, row: int | None = None) -> Table:
        """The table as it is, with the finding that ended the reading."""
        self.add(code, message, row)
        self.complete = False
        return self


def read_table(path: Path, columns: Sequence[str]) -> Table:
    """The rows of a CSV file with these two columns (id, mask text).

    Bad content becomes findings and never raises; InputError only where there is no file.
    """
    if not path.is_file():
        raise InputError(f"{path}: there is no such file; wanted a submission file (CSV)")
    data, table = path.read_bytes(), Table()
    if data.startswith(codecs.BOM_UTF8):
        table.add(
            "encoding",
            "the file begins with a byte order mark, which some readers take for a part of the first column's name",
            1,
            level="warning",
        )
        data = data[len(codecs.BOM_UTF8) :]
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        return table.stop(
            "encoding",
            f"byte {error.start + 1} of the file (0x{data[error.start]:02x}) is no UTF-8; write the file as UTF-8",
            line,
        )
    if not text.strip():
        return table.stop(
            "empty-file", f"the file is empty; wanted the header '{','.join(columns)}' and a row for each image"
        )
    return _parse(text, columns, table)


def _parse(text: str, columns: Sequence[str], table: Table) -> Table:
    where: list[int] | None = None
    width = 0
    try:
        for line, fields in _records(text):
            if not fields:
                table.add("columns", "the line is empty; most readers skip it", line, level="warning")
            elif where is None:
                where, width = _locate(fields, columns, line, table), len(fields)
                if where is None:
                    table.complete = False
                    return table
            else:
                table.rows.append(_row(line, fields, where, width, table))
    except csv.Error as error:
        after = table.rows[-1].line if table.rows else 1
        return table.stop(
            "columns", f"the text after row {after} is no CSV ({error}); the rest of the file was not read", after + 1
        )
    return table


def _records(text: str) -> Iterator[tuple[int, list[str]]]:
    """Each record with the line where it begins.

    The reader counts lines at the end of a record, and a quoted field may hold line breaks.
    """
    with _field_limit(len(text)):
        reader = csv.reader(io.StringIO(text, newline=""), strict=True)
        begins = 1
        for fields in reader:
            yield begins, fields
            begins = reader.line_num + 1


@contextmanager
def _field_limit(characters: int) -> Iterator[None]:
    """Let the csv reader take fields of as many characters.

    It refuses more than 131,072, which the RLE of one ragged mask may need, and its limit belongs to the process.
    """
    before = csv.field_size_limit()
    csv.field_size_limit(max(before, characters))
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _locate(header: list[str], columns: Sequence[str], line: int, table: Table) -> list[int] | None:
    """Positions of the two columns, or None where a name is missing; any other header than these two is an error."""
    found = all(name in header for name in columns)
    if header != list(columns):
        rest = "" if found else "; the rows were not checked"
        table.add("columns", f"the header is '{plain(','.join(header))}', wanted '{','.join(columns)}'{rest}", line)
    return [header.index(name) for name in columns] if found else None


def _row(line: int, fields: list[str], where: list[int], width: int, table: Table) -> Row:
    image, text = (fields[k] if k < len(fields) else "" for k in where)
    whole = len(fields) == width
    if not whole:
        begin = quoted(",".join(fields), 40)
        table.add(
            "columns",
            f"the row has {len(fields)} field{'s' * (len(fields) != 1)}, the header has {width}; it begins {begin}",
            line,
            image,
        )
    return Row(line, image, text if _is_tidy(text) else " ".join(text.split()), whole)


def _is_tidy(text: str) -> bool:
    """Whether the only blanks are single spaces between words: far quicker to see than to split and join."""
    return text.isprintable() and "  " not in text and text.strip() == text
