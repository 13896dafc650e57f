"""What the linter says about one place of a file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Level = Literal["error", "warning"]


@dataclass(frozen=True)
class Finding:
    """One breach of a rule.

    code: short fixed name of the rule. level: an error is refused by the contest or scored other than meant, a warning
    is not. row: line of the file where the row begins, the header is 1; None where the finding is about no single row.
    image: the id as the file has it; None where there is none. message: one line, with what was found and wanted.
    """

    code: str
    level: Level
    row: int | None
    image: str | None
    message: str

    def __str__(self) -> str:
        places = ([f"row {self.row}"] if self.row is not None else []) + (
            [f"image {plain(self.image)}"] if self.image else []
        )
        return f"{self.level} {self.code}: {', '.join(places)}{': ' if places else ''}{self.message}"


def plain(text: str, limit: int = 80) -> str:
    """A stranger's text fit to be printed in one line: control characters escaped, cut at `limit` characters."""
    start = text[:limit]
    shown = start if start.isprintable() else start.encode("unicode_escape").decode("ascii")
    return shown[:limit] + ("…" if len(text) > limit or len(shown) > limit else "")


def quoted(text: str, limit: int = 80) -> str:
    """The same within quotation marks, so that blanks at the ends are seen."""
    return f"'{plain(text, limit)}'"
