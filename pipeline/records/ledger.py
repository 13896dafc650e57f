"""The ledger of submissions: one row for each record, newest first, between two marks of a Markdown file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pipeline.errors import InputError
from pipeline.records.content import Record, read

BEGIN, END = "<!-- ledger: made by `maskline ledger` -->", "<!-- end of the ledger -->"
_COLUMNS = ("record", "contest", "own validation", "public", "private", "minutes", "commit", "sha256 of the file")


def records(folder: Path) -> list[Record]:
    """The records of a folder, newest first. Raises InputError for one that cannot be read."""
    return [read(path.parent) for path in sorted(folder.glob("*/record.yaml"), reverse=True)]


def table(found: Iterable[Record]) -> str:
    """The records as a Markdown table."""
    rows = [_COLUMNS, ("---",) * len(_COLUMNS), *map(_row, found)]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def insert(text: str, made: str) -> str:
    """`text` with the table in the place of the one between the marks; at its end where it has no marks.

    Raises InputError for a text with one of the marks alone.
    """
    block = f"{BEGIN}\n\n{made}\n{END}"
    if (text.count(BEGIN), text.count(END)) == (0, 0):
        return f"{text.rstrip()}\n\n{block}\n".lstrip()
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise InputError(f"README.md of the records: wanted {BEGIN} and then {END}, got one of them")
    return f"{before}{block}{after}"


def _row(record: Record) -> tuple[str, ...]:
    content = record.content
    minutes = sum(stage.get("minutes") or 0 for stage in content["stages"])
    score: Mapping[str, Any] = content.get("score") or {}
    environment = content.get("environment") or {}
    commit = (environment.get("commit") or "unknown")[:7] + ("" if environment.get("clean") else ", changed")
    return (
        f"[{record.name}]({record.name}/record.yaml)",
        str(content["competition"]),
        _validation(content.get("validation")),
        *(_number(score.get(name)) for name in ("public", "private")),
        f"{minutes:.0f}",
        commit,
        str(content["submission"]["sha256"])[:12],
    )


def _validation(found: Mapping[str, Any] | None) -> str:
    if not found or found["score"] is None:
        return "–"
    interval = found.get("interval")
    said = f" [{interval[0]:.3f}, {interval[1]:.3f}]" if interval else ""
    return f"{found['score']:.3f}{said}, {found['images']} images"


def _number(value: Any) -> str:
    return "–" if value is None else str(value)
