"""The stage `lint`: any submission file against its contest's rules."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pipeline.competition import Competition
from pipeline.data import coco as annotations
from pipeline.errors import InputError
from pipeline.files import Paths, read_coco
from pipeline.submission.case import source_ids
from pipeline.submission.finding import Finding
from pipeline.submission.lint import lint as check

_SHOWN_PER_CODE = 20


def lint(*, competition: Competition, paths: Paths, submission: Path, format: Literal["text", "json"]) -> None:
    """Check a submission file against the contest's rules, and say what is wrong in which row.

    Reads the file, and the test images' names and sizes from test.json, which `convert` makes. Writes nothing. Prints
    one line for each finding, of each code the first twenty; or, format=json, one JSON object with all of them: file,
    competition, errors and warnings (their numbers), findings (code, level, row, image, message; row and image may be
    null). Raises InputError where there are errors.
    """
    coco = read_coco(paths.test)
    findings = check(submission, competition, annotations.sizes(coco), source_ids(coco))
    errors = sum(finding.level == "error" for finding in findings)
    if format == "json":
        report = {
            "file": str(submission),
            "competition": competition.key,
            "errors": errors,
            "warnings": len(findings) - errors,
            "findings": [dataclasses.asdict(finding) for finding in findings],
        }
        print(json.dumps(report, indent=1))
    else:
        print("\n".join(_lines(findings)))
    if errors:
        said = f"{errors} error{'s' * (errors > 1)}; {competition.title} would refuse the file or score it wrongly"
        raise InputError(f"{submission}: {said}")


def _lines(findings: Sequence[Finding]) -> list[str]:
    """One line for each finding, of each code the first twenty, and how many more of it there are."""
    counts: Counter[str] = Counter()
    lines = []
    for finding in findings:
        counts[finding.code] += 1
        if counts[finding.code] <= _SHOWN_PER_CODE:
            lines.append(str(finding))
    more = [(code, count) for code, count in counts.items() if count > _SHOWN_PER_CODE]
    lines += [f"{code}: {count - _SHOWN_PER_CODE} more, {count} in all" for code, count in more]
    return lines or ["no findings"]
