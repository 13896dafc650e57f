"""The stage `ledger`: one table of all records."""

from __future__ import annotations

import logging

from pipeline.errors import InputError
from pipeline.files import Paths, atomic
from pipeline.records.ledger import insert, records, table

log = logging.getLogger(__name__)


def ledger(*, paths: Paths) -> None:
    """Write the ledger of submissions: a row for each record, newest first.

    Reads paths.submissions/*/record.yaml. Writes README.md there: the table between its marks, all else as it was.
    """
    file = paths.submissions / "README.md"
    found = records(paths.submissions)
    if not found:
        raise InputError(f"{paths.submissions}: there is no record; the stage `submit` makes one")
    before = file.read_text(encoding="utf-8") if file.is_file() else "# Submissions\n"
    with atomic(file) as partial:
        partial.write_text(insert(before, table(found)), encoding="utf-8")
    log.info("%s: %d records", file, len(found))
