"""A submission file as rows that know their line, and what is wrong with it as a table."""

from __future__ import annotations

import codecs
import csv
import io
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from pipeline.competition import Role
from pipeline.submission.case import Case
from pipeline.submission.finding import Finding, Level, plain, quoted


class Row(NamedTuple):
    """One row of the file, or one of its masks where a row holds several.

    line: where it begins, the header is 1; in a JSON list its place, from 1. image: the id; where it shares a column
    with the class, what is in front of the last "_". text: of the mask or the predictions with single spaces, "" is
    blank; of a mask of COCO kind its counts. whole: False where the row has too few or too many fields, so that its
    text means nothing. category: what the file writes for the class. height, width: as the file states them; None
    where it says nothing. score: 0 to 1, 1 where the file has none. number: of the mask in its row, from 1, where a row
    holds several.
    """

    line: int
    image: str
    text: str
    whole: bool = True
    category: str | None = None
    height: str | None = None
    width: str | None = None
    score: float = 1.0
    number: int | None = None

    @property
    def mask(self) -> str:
        """The mask in words, for messages that name the row already."""
        return "the mask" if self.number is None else f"prediction {self.number}"


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


def read_table(path: Path, case: Case) -> Table:
    """The rows of a CSV file with the contest's columns.

    Bad content becomes findings and never raises.
    """
    columns = case.competition.submission_columns
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


def _parse(text: str, columns: Mapping[str, Role], table: Table) -> Table:
    where: Mapping[Role, int] | None = None
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


def _locate(header: list[str], columns: Mapping[str, Role], line: int, table: Table) -> dict[Role, int] | None:
    """The place of each column by its role, or None where a name is missing; any other header is an error."""
    found = all(name in header for name in columns)
    if header != list(columns):
        rest = "" if found else "; the rows were not checked"
        table.add("columns", f"the header is '{plain(','.join(header))}', wanted '{','.join(columns)}'{rest}", line)
    return {role: header.index(name) for name, role in columns.items()} if found else None


def _row(line: int, fields: list[str], where: Mapping[Role, int], width: int, table: Table) -> Row:
    values = {role: fields[k] if k < len(fields) else "" for role, k in where.items()}
    image, category = values.get("image", ""), values.get("class")
    if "image_class" in values:
        joined = values["image_class"]
        image, _, category = joined.rpartition("_") if "_" in joined else (joined, "", "")
    text = values.get("mask", values.get("predictions", ""))
    whole = len(fields) == width
    if not whole:
        begin = quoted(",".join(fields), 40)
        table.add(
            "columns",
            f"the row has {len(fields)} field{'s' * (len(fields) != 1)}, the header has {width}; it begins {begin}",
            line,
            image,
        )
    tidy = text if _is_tidy(text) else " ".join(text.split())
    return Row(line, image, tidy, whole, category, values.get("height"), values.get("width"))


def _is_tidy(text: str) -> bool:
    """Whether the only blanks are single spaces between words: far quicker to see than to split and join."""
    return text.isprintable() and "  " not in text and text.strip() == text
