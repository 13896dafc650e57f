"""Masks of one image that are the same, or that share pixels where the contest forbids it."""

from __future__ import annotations

import numpy as np

from pipeline.submission import sweep
from pipeline.submission.case import Case
from pipeline.submission.content import Content
from pipeline.submission.finding import Finding, Level, plain
from pipeline.submission.table import Row


def check_duplicates(content: Content, case: Case) -> list[Finding]:
    """duplicate-row: a mask that an earlier one of its image and class is already; an error where overlap is."""
    level: Level = "warning" if case.competition.overlap == "allowed" else "error"
    findings = []
    for k, first in _repeated(content.masks, case).items():
        mask, other = content.masks[k], content.masks[first]
        said = f"{mask.mask} is {'that' if other.number is None else other.mask} of row {other.line} again"
        findings.append(Finding("duplicate-row", level, mask.line, mask.image, said))
    return findings


def check_overlaps(content: Content, case: Case) -> list[Finding]:
    """overlap: for each image whose masks (of one class) share a pixel, the first one in the file's numbering."""
    rule = case.competition.overlap
    if rule == "allowed":
        return []
    masks, runs = content.masks, content.runs
    # A repeated mask overlaps its twin in every pixel, which is said already.
    runs = runs.select(~np.isin(runs.row, np.fromiter(_repeated(masks, case), np.int64)))
    numbers: dict[tuple[str, str | None], int] = {}
    keys = [(mask.image, mask.category if rule == "within_class" else None) for mask in masks]
    group = np.array([numbers.setdefault(key, len(numbers)) for key in keys], np.int64)
    begin = runs.start - case.competition.base
    shared = sweep.overlaps(group[runs.row], begin, begin + runs.length)
    columns = (shared.earlier, shared.later, shared.pixel.tolist(), shared.claims.tolist())
    findings = []
    for a, b, pixel, claims in zip(*columns, strict=True):
        one, two = sorted((masks[runs.row[a]], masks[runs.row[b]]), key=lambda row: (row.line, row.number or 0))
        place = f"rows {one.line} and {two.line}" if one.line != two.line else f"{one.mask} and {two.mask}"
        more = f"; {claims} pixels in all would have to be given up" if claims > 1 else ""
        within = f" within a class ({plain(one.category or '')})" if rule == "within_class" else ""
        said = f"{place} share pixel {pixel + case.competition.base}{more}; the contest forbids overlap{within}"
        findings.append(Finding("overlap", "error", two.line, two.image, said))
    return findings


def _repeated(masks: list[Row], case: Case) -> dict[int, int]:
    """Place of each mask that repeats one above it (same wanted image, same class) -> place of the first such one."""
    first: dict[tuple[str, str | None, str], int] = {}
    repeated: dict[int, int] = {}
    for k, mask in enumerate(masks):
        if mask.whole and mask.text and mask.image in case.sizes:
            at = first.setdefault((mask.image, mask.category, mask.text), k)
            if at != k:
                repeated[k] = at
    return repeated
