"""A submission file that the contest accepts, or none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.competition import Competition
from pipeline.errors import InputError
from pipeline.instances import Instances
from pipeline.submission.finding import Finding
from pipeline.submission.lint import lint
from pipeline.submission.rows import write


def write_checked(
    instances: Sequence[Instances],
    competition: Competition,
    path: Path,
    name: str,
    sizes: Mapping[str, tuple[int, int]],
    source_ids: Mapping[str, Any],
) -> list[Finding]:
    """Write a submission to `path` and check it as the file `name` that it will be; the linter's warnings.

    sizes, source_ids: of the test images. Raises InputError with the first errors where the contest would refuse it.
    """
    write(instances, competition, path, source_ids)
    findings = lint(path, competition, sizes, source_ids, name=name)
    errors = [str(one) for one in findings if one.level == "error"]
    if errors:
        shown = "\n  ".join(errors[:10])
        raise InputError(f"the submission breaks the rules of {competition.key}, nothing is written:\n  {shown}")
    return findings
