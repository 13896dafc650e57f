"""The stage `lint`: any submission file against its contest's rules."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from pipeline.competition import Competition
from pipeline.errors import InputError
from pipeline.files import Paths, read_coco
from pipeline.submission.lint import lint as check

_SHOWN_PER_CODE = 20


def lint(*, competition: Competition, paths: Paths, submission: Path) -> None:
    """Check a submission file against the contest's rules, and say what is wrong in which row.

    Reads the file, and the test images' names and sizes from test.json, which `convert` makes. Prints one line per
    finding and writes nothing. Raises InputError where there are errors.
    """
    sizes = {image["name"]: (image["height"], image["width"]) for image in read_coco(paths.test)["images"]}
    findings = check(submission, competition, sizes)

    counts: Counter[str] = Counter()
    for finding in findings:
        counts[finding.code] += 1
        if counts[finding.code] <= _SHOWN_PER_CODE:
            print(finding)
    for code, count in counts.items():
        if count > _SHOWN_PER_CODE:
            print(f"{code}: {count - _SHOWN_PER_CODE} more, {count} in all")
    if not findings:
        print("no findings")

    errors = sum(finding.level == "error" for finding in findings)
    if errors:
        said = f"{errors} error{'s' * (errors > 1)}; {competition.title} would refuse the file or score it wrongly"
        raise InputError(f"{submission}: {said}")
