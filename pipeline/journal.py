"""The journal of a contest's folder: every command that was given there, one JSON object to a line.

Standard library only. A stamp says what a file was made from, the journal by which command: `submit` brings the two
together, so that a record can be run again. Nothing else reads it, and without it only the overrides are not known.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

NAME = "logs/commands.jsonl"


def note(output: Path, commands: Iterable[Mapping[str, Any]]) -> None:
    """Append commands that begin now: stage, overrides as they were typed, settings as they were composed.

    output: the contest's folder of all that is made.
    """
    begun = datetime.now(UTC).isoformat(timespec="microseconds")  # as stamps have it: sorts as text
    lines = [json.dumps({"version": 1, "begun": begun, **command}, ensure_ascii=False) + "\n" for command in commands]
    if lines:
        (output / NAME).parent.mkdir(parents=True, exist_ok=True)
        with open(output / NAME, "a", encoding="utf-8") as file:
            file.write("".join(lines))


def commands(output: Path) -> list[dict[str, Any]]:
    """The commands of a folder, in the order in which they began; a line that a crash cut short is left out."""
    try:
        lines = (output / NAME).read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):  # none yet, or bytes that are no text
        return []
    found = []
    for line in lines:
        try:
            one = json.loads(line)
        except (ValueError, RecursionError):
            continue
        known = isinstance(one, dict) and {"begun", "stage", "overrides", "settings"} <= one.keys()
        if known and isinstance(one["settings"], dict) and isinstance(one["begun"], str) and one.get("version", 1) == 1:
            found.append(one)
    return sorted(found, key=lambda one: str(one["begun"]))


def command_of(found: Iterable[Mapping[str, Any]], stage: str, at: str, **places: Any) -> Mapping[str, Any] | None:
    """The command by which a stage made something that was finished `at` that time: the last that had begun.

    places: settings that the command must have, such as run="a", fold=0; a command for all of them (null) will do.
    """

    def fits(command: Mapping[str, Any]) -> bool:
        own = command["settings"]
        same = all(own.get(name) in (None, value) for name, value in places.items())
        return bool(command["stage"] == stage and command["begun"] <= at and same)

    return max(filter(fits, found), key=lambda command: str(command["begun"]), default=None)
