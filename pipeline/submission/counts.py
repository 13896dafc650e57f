"""Masks of COCO kind, compressed counts: those of prediction strings and those of COCO results."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from pipeline.masks.packed import PackedError, check, inflate
from pipeline.masks.runs import from_coco
from pipeline.submission.case import Case
from pipeline.submission.content import Content, RowRuns
from pipeline.submission.finding import Finding, plain, quoted
from pipeline.submission.table import Row

Size = tuple[int, int]
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)


def read_predictions(rows: list[Row], case: Case) -> tuple[Content, list[Finding]]:
    """The masks of rows of "class confidence code …", code being base64(zlib(counts)), and findings on them."""
    findings: list[Finding] = []
    masks: list[Row] = []
    for row in rows:
        words = row.text.split() if row.whole and row.text != case.competition.empty_image else []
        if len(words) % 3:
            said = f"{len(words)} values, wanted a class, a confidence and a code for each mask; the last is "
            findings.append(Finding("triples", "error", row.line, row.image, said + quoted(words[-1], 40)))
            continue
        for k in range(0, len(words), 3):
            mask, found = _prediction(row, words[k : k + 3], k // 3 + 1, case)
            findings += found
            masks += [mask] if mask is not None else []
    content, more = read_counts(masks, case)
    return Content(rows, content.masks, content.runs), findings + more


def _prediction(row: Row, words: Sequence[str], number: int, case: Case) -> tuple[Row | None, list[Finding]]:
    """One mask with its counts as text; None where these are not to be had."""
    category, confidence, packed = words
    findings: list[Finding] = []
    if not (_NUMBER.fullmatch(confidence) and 0 <= float(confidence) <= 1):
        said = f"the confidence of prediction {number} is {quoted(confidence, 40)}, wanted a number from 0 to 1"
        findings.append(Finding("confidence", "error", row.line, row.image, said))
        confidence = "0"
    if row.image not in case.sizes:  # without its size a mask cannot be checked, and the image is refused anyway
        return None, findings
    try:
        counts = inflate(packed, case.sizes[row.image])  # read with all others at once
    except PackedError as error:
        said = f"prediction {number}: {plain(error.rule, 200)}"
        return None, [*findings, Finding("mask-code", "error", row.line, row.image, said)]
    return row._replace(text=counts, category=category, score=float(confidence), number=number), findings


def read_counts(rows: list[Row], case: Case) -> tuple[Content, list[Finding]]:
    """The masks of rows whose text is compressed COCO counts, those of images of one size together, and findings.

    A mask whose counts are wrong, or whose image is unknown, is left out.
    """
    by_size: dict[Size, list[Row]] = {}
    for row in rows:
        if row.whole and row.image in case.sizes:
            by_size.setdefault(case.sizes[row.image], []).append(row)
    masks: list[Row] = []
    findings: list[Finding] = []
    columns = [[np.zeros(0, np.int64)] * 4]
    for size, own in by_size.items():
        faults = _faults([row.text for row in own], size)
        findings += [
            Finding("mask-code", "error", own[k].line, own[k].image, f"{own[k].mask}: {rule}")
            for k, rule in faults.items()
        ]
        own = [row for k, row in enumerate(own) if k not in faults]
        runs = from_coco([row.text for row in own], size)
        bounds = runs.bounds()
        nothing = "has no pixel, so that it can only count as a false alarm"
        empty = [own[k] for k in np.flatnonzero(np.diff(bounds) == 0)]
        findings += [Finding("mask-empty", "warning", row.line, row.image, f"{row.mask} {nothing}") for row in empty]
        position = np.arange(runs.start.size) - bounds[runs.instance]
        start = runs.start + case.competition.base
        columns.append([runs.instance + len(masks), position, start, runs.stop - runs.start])
        masks += own
    return Content(rows, masks, RowRuns(*map(np.concatenate, zip(*columns, strict=True)))), findings


def _faults(texts: list[str], size: Size) -> dict[int, str]:
    """Place and rule of each bad text; sound ones are read all at once, as far as they go."""
    try:
        from_coco(texts, size)
    except ValueError:
        return {k: rule for k, text in enumerate(texts) if (rule := _fault(text, size))}
    return {}


def _fault(text: str, size: Size) -> str:
    try:
        check(text, size)
    except PackedError as error:
        return plain(error.rule, 200)
    return ""
