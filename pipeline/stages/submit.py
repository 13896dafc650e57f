"""The stage `submit`: a file that the contest accepts, and the record of how it was made."""

from __future__ import annotations

import datetime
import logging
import re
from typing import Any

import yaml

from pipeline.competition import Competition
from pipeline.data import coco as annotations
from pipeline.errors import ConfigError, InputError
from pipeline.files import Paths, atomic, read_coco, read_instances, read_json
from pipeline.record import describe, environment, file_hash
from pipeline.submission.case import source_ids
from pipeline.submission.lint import lint
from pipeline.submission.rows import write

log = logging.getLogger(__name__)


def submit(*, competition: Competition, paths: Paths, run: str, name: str | None, overwrite: bool) -> None:
    """Write the submission file, check it by the contest's rules, and record how it was made.

    Reads runs/<run>/instances_test.json and test.json. Writes the file that the contest wants (its submission_file) to
    paths.output, only if the linter finds no error, and paths.submissions/<date>_<competition>_<name>/record.yaml.
    """
    label = run if name is None else name
    if not re.fullmatch(r"[A-Za-z0-9._-]+", label):
        raise ConfigError(f"name: wanted letters, digits, '.', '_' and '-' only, got {label!r}")
    coco = read_coco(paths.test)
    if not coco["images"]:
        raise InputError(f"{paths.test}: there is no test image, so there is nothing to submit")
    instances = read_instances(paths.run(run) / "instances_test.json", coco)
    path, ids = paths.output / competition.submission_file, source_ids(coco)
    with atomic(path) as partial:
        write(instances, competition, partial, ids)
        findings = lint(partial, competition, annotations.sizes(coco), ids, name=path.name)
        errors = [str(one) for one in findings if one.level == "error"]
        if errors:
            shown = "\n  ".join(errors[:10])
            raise InputError(f"the submission breaks the rules of {competition.key}, nothing is written:\n  {shown}")
    for finding in findings:
        log.warning("%s: %s", path, finding)
    digest = file_hash(path)
    said = f"findings: {len(findings)}" if findings else "no findings"
    log.info("%s: %d instances, %s, sha256 %s", path, sum(map(len, instances)), said, digest[:16])
    _write_record(competition, paths, run, label, digest, overwrite)


def _write_record(competition: Competition, paths: Paths, run: str, label: str, digest: str, overwrite: bool) -> None:
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    path = paths.submissions / f"{today}_{competition.key}_{label}" / "record.yaml"
    if path.is_file() and not overwrite:
        old = yaml.safe_load(path.read_text(encoding="utf-8"))
        if old.get("submission", {}).get("sha256") == digest:
            log.info("%s stands already, for the same file", path)
            return
        raise InputError(
            f"{path} records another file of today; {paths.output / competition.submission_file} is written. Give this "
            "one a name of its own with name=NAME, or overwrite=true to replace the record"
        )
    with atomic(path) as partial:
        text = yaml.safe_dump(_record(competition, paths, run, digest), sort_keys=False, allow_unicode=True)
        partial.write_text(text, encoding="utf-8")
    log.info("recorded in %s", path)


def _record(competition: Competition, paths: Paths, run: str, digest: str) -> dict[str, Any]:
    folder = paths.run(run)
    steps = [*sorted(folder.glob("fold*/.train.json")), *sorted(folder.glob(".postprocess_test.json"))]
    scores = folder / "scores.json"
    made = [*folder.glob("fold*/best.pt"), *folder.glob("*.npz"), paths.annotations, paths.test, paths.folds]
    return {
        "format": "maskline-record",
        "version": 1,
        "competition": describe(competition),
        "run": run,
        "submission": {"file": competition.submission_file, "sha256": digest},
        "validation": read_json(scores, "evaluate")["total"] if scores.is_file() else None,
        "steps": {str(step.relative_to(folder)): read_json(step, "train") for step in steps},
        "files": {str(path.relative_to(paths.output)): file_hash(path) for path in sorted(made) if path.is_file()},
        "environment": environment(),
    }
