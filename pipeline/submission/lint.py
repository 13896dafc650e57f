"""The linter of a submission file: what the contest would refuse, or score other than meant, before it is sent."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.competition import Competition, SubmissionLayout
from pipeline.errors import InputError
from pipeline.submission import counts, rle_rules
from pipeline.submission.case import Case, Sizes
from pipeline.submission.content import Content
from pipeline.submission.finding import Finding, quoted
from pipeline.submission.identity import (
    check_blanks,
    check_classes,
    check_images,
    check_missing,
    check_missing_pairs,
    check_once,
    check_pairs,
    check_stated,
)
from pipeline.submission.order import check_order
from pipeline.submission.results import read_results
from pipeline.submission.sharing import check_duplicates, check_overlaps
from pipeline.submission.table import Row, Table, read_table

_MEGABYTE = 10**6
Check = Callable[[Content, Case], list[Finding]]


class Layout(NamedTuple):
    """How a file is read to rows, and these to masks; what is then checked, and what if all of the file was read."""

    rows: Callable[[Path, Case], Table]
    masks: Callable[[list[Row], Case], tuple[Content, list[Finding]]]
    checks: tuple[Check, ...]
    whole: tuple[Check, ...]


LAYOUTS: Mapping[SubmissionLayout, Layout] = {
    "rows": Layout(
        read_table,
        rle_rules.read_masks,
        (check_images, check_classes, check_stated, check_blanks, check_duplicates, check_overlaps, check_order),
        (check_missing,),
    ),
    "class_rows": Layout(
        read_table,
        rle_rules.read_masks,
        (check_images, check_classes, check_stated, check_pairs, check_overlaps, check_order),
        (check_missing, check_missing_pairs),
    ),
    "strings": Layout(
        read_table,
        counts.read_predictions,
        (check_images, check_once, check_stated, check_classes, check_duplicates, check_overlaps),
        (check_missing,),
    ),
    "coco": Layout(
        read_results,
        counts.read_counts,
        (check_images, check_classes, check_duplicates, check_overlaps),
        (),
    ),
}


def lint(
    path: Path,
    competition: Competition,
    sizes: Sizes,
    source_ids: Mapping[str, Any] | None = None,
    name: str | None = None,
) -> list[Finding]:
    """All findings on a submission file, in the order of its rows; an empty list where there is nothing to say.

    sizes: (height, width) in pixels of the original images by image id, of all images that the contest wants, and of
    no other. source_ids: what COCO results write for an image id, null: the id. name: under which the file is to be
    sent, where it is not its own. Bad content never raises; InputError only where there is no file. Codes:

    file-name (a warning), file-size; encoding, empty-file, columns, json, result: the file as a table or a list.
    id-missing, id-unknown, id-repeated: its images. class-unknown, class-missing, class-repeated: their classes.
    size: a stated height or width. blank, blank-beside-masks, duplicate-blank, duplicate-row: rows that contradict or
    repeat one another. rle-integer, rle-odd, rle-run, rle-start, rle-end, rle-overlap, rle-unsorted and rle-touching
    (warnings): one row's text. triples, confidence, mask-code, mask-empty (a warning), box: one prediction.
    overlap: two masks of an image share a pixel where the contest forbids it; one finding per image (and class).
    order: the masks seem to be numbered in the other order of pixels; square images do not tell.
    """
    return check(path, competition, sizes, source_ids, name)[1]


def check(
    path: Path,
    competition: Competition,
    sizes: Sizes,
    source_ids: Mapping[str, Any] | None = None,
    name: str | None = None,
) -> tuple[Content, list[Finding]]:
    """What the file says, and the findings of `lint`; where one is an error the content is not to be relied on."""
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: there is no such file; wanted a submission file")
    case, layout = Case.of(competition, sizes, source_ids), LAYOUTS[competition.submission_layout]
    table = layout.rows(path, case)
    content, findings = layout.masks(table.rows, case)
    findings = _check_file(path, name or path.name, competition) + table.findings + findings
    checks = layout.checks + (layout.whole if table.complete else ())
    findings += [finding for one in checks for finding in one(content, case)]
    return content, sorted(findings, key=lambda f: (f.row is None, f.row or 0))


def _check_file(path: Path, name: str, competition: Competition) -> list[Finding]:
    findings = []
    wanted, most = competition.submission_file, competition.submission_megabytes
    if Path(name).suffix.lower() != Path(wanted).suffix.lower():
        said = f"the file is called {quoted(name)}, the contest wants {wanted}"
        findings.append(Finding("file-name", "warning", None, None, said))
    megabytes = path.stat().st_size / _MEGABYTE
    if most is not None and megabytes > most:
        said = f"the file has {megabytes:.1f} MB, the contest takes {most:g} MB at most"
        findings.append(Finding("file-size", "error", None, None, said))
    return findings
