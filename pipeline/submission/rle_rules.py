"""The rules of RLE text, checked on all rows of a file at once: every bad row is reported, by its first bad run."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import numpy as np

from pipeline.masks import numbers
from pipeline.submission import sweep
from pipeline.submission.case import Case
from pipeline.submission.content import Bool, Content, Int, RowRuns
from pipeline.submission.finding import Finding, Level, quoted
from pipeline.submission.table import Row

_INTEGER = re.compile(r"-?[0-9]+")
_DIGITS = 18  # any integer of as many digits fits int64, and the sum of two does
_HUGE = 10**_DIGITS


def read_masks(rows: list[Row], case: Case) -> tuple[Content, list[Finding]]:
    """The masks of rows of RLE text, one for each row, and findings on the text of each.

    A row of an image that the contest does not want is checked as text only, and its runs are not returned.
    """
    base, sizes = case.competition.base, case.sizes
    findings, runs = _parse(rows)
    known = np.array([row.image in sizes for row in rows], bool)[runs.row]
    areas = {name: _pixels(sizes.get(name)) for name in {row.image for row in rows}}
    pixels = np.array([areas[row.image] for row in rows], np.int64)[runs.row]
    wrong, found = _check_runs(rows, runs, pixels, base)
    touching = _touching(rows, runs)
    runs = runs.select(known & ~np.isin(runs.row, wrong))
    inside = sweep.overlaps(runs.row, runs.start, runs.start + runs.length)
    findings += found + _overlaps(rows, runs, inside) + touching
    return Content(rows, rows, runs.select(~np.isin(runs.row, inside.group))), findings


def _parse(rows: Sequence[Row]) -> tuple[list[Finding], RowRuns]:
    """The values of all rows whose text is an even number of integers, as runs; findings for the others."""
    texts = [row.text if row.whole else "" for row in rows]
    read = numbers.read(texts, np.fromiter(map(len, texts), np.int64, len(texts)))
    if read is not None and not (read[1] % 2).any():
        return [], _runs(read[0].astype(np.int64), read[1] // 2)
    return _parse_each(rows)


def _parse_each(rows: Sequence[Row]) -> tuple[list[Finding], RowRuns]:
    """The same row by row, where there is something to find."""
    findings: list[Finding] = []
    values: list[int] = []
    counts = np.zeros(len(rows), np.int64)
    for k, row in enumerate(rows):
        found = _numbers(row.text) if row.whole else []
        if isinstance(found, str):
            findings.append(Finding("rle-integer", "error", row.line, row.image, found))
        elif len(found) % 2:
            got = f"{len(found)} value{'s' * (len(found) > 1)}"
            said = f"{got}, wanted pairs of start and length; the last is {found[-1]}"
            findings.append(Finding("rle-odd", "error", row.line, row.image, said))
        else:
            values += found
            counts[k] = len(found) // 2
    return findings, _runs(np.array(values, np.int64), counts)


def _runs(values: Int, counts: Int) -> RowRuns:
    """Runs of all values in turn, starts and lengths by turns; counts: int64 (N,), runs of each row."""
    position = np.arange(len(values) // 2) - np.repeat(np.cumsum(counts) - counts, counts)
    return RowRuns(np.repeat(np.arange(len(counts)), counts), position, values[0::2], values[1::2])


def _numbers(text: str) -> list[int] | str:
    """The integers of a text, or a sentence on the first value that is none."""
    tokens = text.split()
    if text.isascii() and "".join(tokens).isdigit() and max(map(len, tokens)) <= _DIGITS:
        return list(map(int, tokens))
    for k, token in enumerate(tokens):
        if not _INTEGER.fullmatch(token):
            return f"value {k + 1} of {len(tokens)} is {quoted(token, 40)}, wanted an integer"
    # No image is as large as a value of more digits: such a run ends past the end, whatever is put in its place.
    return [int(t) if len(t) <= _DIGITS else (-_HUGE if t.startswith("-") else _HUGE) for t in tokens]


def _pixels(size: tuple[int, int] | None) -> int:
    """Pixels of an image; the largest number where the image, and so its size, is unknown."""
    return int(size[0]) * int(size[1]) if size else int(np.iinfo(np.int64).max)


def _check_runs(rows: Sequence[Row], runs: RowRuns, pixels: Int, base: int) -> tuple[Int, list[Finding]]:
    """Indices of the rows with a run outside its image or without length, and findings. pixels: int64 (R,), per run."""
    number, start, length = runs.position + 1, runs.start, runs.length
    short, low, high = length < 1, start < base, start - base + length > pixels
    descends = (np.diff(start, prepend=0) < 0) & (runs.position > 0)

    def past(k: int) -> str:
        numbers = "" if base == 1 else f" ({base} to {pixels[k] - 1 + base})"
        return f"run {number[k]} ends at pixel {start[k] + length[k] - 1}, the image has {pixels[k]}{numbers}"

    checks: list[tuple[str, Level, Bool, Callable[[int], str]]] = [
        ("rle-run", "error", short, lambda k: f"run {number[k]} has length {length[k]}, wanted at least 1"),
        ("rle-start", "error", low, lambda k: f"run {number[k]} starts at pixel {start[k]}, the first pixel is {base}"),
        ("rle-end", "error", high, past),
        ("rle-unsorted", "warning", descends, lambda k: f"run {number[k]} starts before the run in front of it does"),
    ]
    findings = []
    for code, level, at, say in checks:
        where = np.flatnonzero(at)
        bad, first = np.unique(runs.row[where], return_index=True)
        for index, k in zip(bad.tolist(), where[first].tolist(), strict=True):
            findings.append(Finding(code, level, rows[index].line, rows[index].image, say(k)))
    return np.unique(runs.row[short | low | high]), findings


def _touching(rows: Sequence[Row], runs: RowRuns) -> list[Finding]:
    """One finding for the file: an encoder that does it once does it everywhere."""
    meets = (runs.start[1:] == runs.start[:-1] + runs.length[:-1]) & (runs.position[1:] > 0) & (runs.length[1:] > 0)
    where = np.flatnonzero(meets)
    if not where.size:
        return []
    row, first, count = rows[runs.row[where[0]]], int(runs.position[where[0]]) + 1, np.unique(runs.row[where]).size
    more = f"; so do runs of {count - 1} more row{'s' * (count > 2)}" if count > 1 else ""
    said = f"runs {first} and {first + 1} touch and could be one{more}"
    return [Finding("rle-touching", "warning", row.line, row.image, said)]


def _overlaps(rows: Sequence[Row], runs: RowRuns, inside: sweep.Overlap) -> list[Finding]:
    """A finding for each row whose own runs overlap."""
    findings = []
    ends = np.sort(np.stack([runs.position[inside.earlier], runs.position[inside.later]], axis=1) + 1, axis=1)
    for index, (one, two), pixel in zip(inside.group.tolist(), ends.tolist(), inside.pixel.tolist(), strict=True):
        said = f"runs {one} and {two} share pixel {pixel}; wanted runs that do not overlap"
        findings.append(Finding("rle-overlap", "error", rows[index].line, rows[index].image, said))
    return findings
