"""The linter of a submission file: what the contest would refuse, or score other than meant, before it is sent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from pipeline.competition import Competition
from pipeline.submission import sweep
from pipeline.submission.finding import Finding, Level, quoted
from pipeline.submission.rle_rules import RowRuns, check_rows
from pipeline.submission.table import Row, Table, read_table

Sizes = Mapping[str, tuple[int, int]]


def lint(path: Path, competition: Competition, sizes: Sizes) -> list[Finding]:
    """All findings on a submission file, in the order of its rows; an empty list where there is nothing to say.

    sizes: (height, width) in pixels by image id, of all images that the contest wants, and of no other.
    Bad content never raises; InputError only where there is no file. Codes:

    encoding, empty-file, columns: the file as a table. id-missing, id-unknown: its images.
    blank-beside-masks, duplicate-blank, duplicate-row: rows that contradict or repeat one another.
    rle-integer, rle-odd, rle-run, rle-start, rle-end, rle-overlap, rle-unsorted (a warning): one row's text.
    overlap: two rows of an image share a pixel where the contest forbids it; one finding per image.
    """
    return check_table(read_table(Path(path), tuple(competition.submission_columns)), competition, sizes)


def check_table(table: Table, competition: Competition, sizes: Sizes) -> list[Finding]:
    """The findings on a table that was read, its own included, in the order of rows; those about no row come last."""
    rows = table.rows
    of_text, runs = check_rows(rows, sizes, competition.base)
    repeated = _repeated(rows, sizes)
    findings = table.findings + of_text + _identities(table, sizes) + _blanks(rows, sizes)
    findings += _duplicates(rows, repeated, "error" if competition.overlap == "forbidden" else "warning")
    if competition.overlap == "forbidden":
        # A repeated row overlaps its twin in every pixel, which is said already.
        single = ~np.isin(runs.row, np.fromiter(repeated, np.int64))
        findings += _overlaps(rows, runs.select(single), competition.base)
    return sorted(findings, key=lambda f: (f.row is None, f.row or 0))


def _identities(table: Table, sizes: Sizes) -> list[Finding]:
    seen = {row.image for row in table.rows}
    example = quoted(next(iter(sizes))) if sizes else "none"
    rule = f"is none of the contest's {len(sizes)} images; an id looks like {example}"
    unknown = [row for row in table.rows if row.image not in sizes]
    findings = [Finding("id-unknown", "error", row.line, row.image, f"{quoted(row.image)} {rule}") for row in unknown]
    if table.complete:
        missing = "the image has no row; an image without instances needs one with a blank mask"
        findings += [Finding("id-missing", "error", None, name, missing) for name in sizes if name not in seen]
    return findings


def _blanks(rows: Sequence[Row], sizes: Sizes) -> list[Finding]:
    """Blank rows beside masks of the same image, or beside another blank row; of the wanted images only."""
    masks: dict[str, int] = {}
    for row in rows:
        if row.whole and row.text:
            masks.setdefault(row.image, row.line)
    findings: list[Finding] = []
    first: dict[str, int] = {}
    for row in rows:
        if not row.whole or row.text or row.image not in sizes:
            continue
        if row.image in masks:
            said = f"the row is blank, which says that the image is empty, yet row {masks[row.image]} has a mask of it"
            findings.append(Finding("blank-beside-masks", "error", row.line, row.image, said))
        elif first.setdefault(row.image, row.line) != row.line:
            said = f"the row is blank as row {first[row.image]} is; an empty image has one"
            findings.append(Finding("duplicate-blank", "error", row.line, row.image, said))
    return findings


def _repeated(rows: Sequence[Row], sizes: Sizes) -> dict[int, int]:
    """Index of each row that repeats the mask of a row above it (same wanted image) -> line of the first such row."""
    first: dict[tuple[str, str], int] = {}
    repeated: dict[int, int] = {}
    for k, row in enumerate(rows):
        key = (row.image, row.text)
        if row.whole and row.text and row.image in sizes and first.setdefault(key, row.line) != row.line:
            repeated[k] = first[key]
    return repeated


def _duplicates(rows: Sequence[Row], repeated: Mapping[int, int], level: Level) -> list[Finding]:
    return [
        Finding("duplicate-row", level, rows[k].line, rows[k].image, f"the mask is that of row {line} again")
        for k, line in repeated.items()
    ]


def _overlaps(rows: Sequence[Row], runs: RowRuns, base: int) -> list[Finding]:
    """One finding for each image whose rows share a pixel: the first such pixel in the contest's own order."""
    numbers: dict[str, int] = {}
    image_of_row = np.array([numbers.setdefault(row.image, len(numbers)) for row in rows], np.int64)
    begin = runs.start - base
    shared = sweep.overlaps(image_of_row[runs.row], begin, begin + runs.length)
    findings = []
    for a, b, pixel, claims in zip(
        shared.earlier, shared.later, shared.pixel.tolist(), shared.claims.tolist(), strict=True
    ):
        one, two = sorted((rows[runs.row[a]], rows[runs.row[b]]), key=lambda row: row.line)
        more = f"; {claims} pixels in all would have to be given up" if claims > 1 else ""
        said = f"rows {one.line} and {two.line} share pixel {pixel + base}{more}; the contest forbids overlap"
        findings.append(Finding("overlap", "error", two.line, two.image, said))
    return findings
