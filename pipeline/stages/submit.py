"""The stage `submit`: a file that the contest accepts, and the record of how it was made."""

from __future__ import annotations

import datetime
import logging
import re
from pathlib import Path

from pipeline import kaggle
from pipeline.alone import alone
from pipeline.competition import Competition
from pipeline.data import coco as annotations
from pipeline.errors import ConfigError, InputError
from pipeline.files import Paths, atomic, read_coco, read_instances
from pipeline.record import file_hash
from pipeline.records import content
from pipeline.submission.case import source_ids
from pipeline.submission.checked import write_checked

log = logging.getLogger(__name__)


def submit(
    *,
    competition: Competition,
    paths: Paths,
    run: str,
    name: str | None,
    overwrite: bool,
    upload: bool = False,
    message: str | None = None,
) -> None:
    """Write the submission file, check it by the contest's rules, and record how it was made.

    Reads runs/<run>/instances_test.json and test.json, and of what they were made from the stamps. Writes the file that
    the contest wants (its submission_file) to paths.output, only if the linter finds no error, and the folder
    paths.submissions/<date>_<competition>_<name>/: record.yaml (stages with their overrides, hashes, versions, score),
    config.yaml (the resolved configuration), images.csv (digests by image), scores.json and picture.png. upload=true
    sends the file to Kaggle under `message`, asks for its score and writes it into the record.
    """
    label = run if name is None else name
    if not re.fullmatch(r"[A-Za-z0-9._-]+", label):
        raise ConfigError(f"name: wanted letters, digits, '.', '_' and '-' only, got {label!r}")
    if upload and not competition.slug:
        raise ConfigError(f"upload: {competition.key} is no contest of Kaggle's")
    if upload and not message:
        raise ConfigError("message: wanted a few words that Kaggle shows beside the submission, got null")
    coco = read_coco(paths.test)
    if not coco["images"]:
        raise InputError(f"{paths.test}: there is no test image, so there is nothing to submit")
    instances = read_instances(paths.run(run) / "instances_test.json", coco)
    path = paths.output / competition.submission_file
    with alone(paths.output / ".submit.lock", f"submitting {path}"):
        with atomic(path) as partial:
            sizes = annotations.sizes(coco)
            findings = write_checked(instances, competition, partial, path.name, sizes, source_ids(coco))
        for finding in findings:
            log.warning("%s: %s", path, finding)
        digest = file_hash(path)
        said = f"findings: {len(findings)}" if findings else "no findings"
        log.info("%s: %d instances, %s, sha256 %s", path, sum(map(len, instances)), said, digest[:16])
        folder = _write_record(competition, paths, run, label, digest, overwrite)
    if upload and message:
        _upload(competition.slug, path, message, folder)


def _upload(contest: str, file: Path, message: str, folder: Path) -> None:
    """Send the file, and write into the record that it was sent and what it scored."""
    number = kaggle.submit(contest, file, message)
    content.write_score(folder, {"public": None, "private": None, "submission": number, "message": message})
    log.info("%s: sent to %s as submission %d; waiting for its score", file, contest, number)
    scores = kaggle.score(contest, number)
    if scores is None:
        log.warning("submission %d is not scored yet; write its score into %s by hand", number, folder / "record.yaml")
        return
    content.write_score(folder, scores)
    print(f"submission {number}: public {scores['public']}, private {scores['private']}")


def _write_record(competition: Competition, paths: Paths, run: str, label: str, digest: str, overwrite: bool) -> Path:
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    folder = paths.submissions / f"{today}_{competition.key}_{label}"
    path = folder / "record.yaml"
    if path.is_file() and not overwrite:
        if content.read(folder).content["submission"]["sha256"] == digest:
            log.info("%s stands already, for the same file", path)
            return folder
        raise InputError(
            f"{path} records another file of today; {paths.output / competition.submission_file} is written. Give this "
            "one a name of its own with name=NAME, or overwrite=true to replace the record"
        )
    content.write(folder, competition, paths, run)
    log.info("recorded in %s", path)
    return folder
