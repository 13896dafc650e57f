"""Where a submission that was made again parts from the recorded one, and what has changed since."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

STAGE_OF = {"detections_test.npz": "ensemble", "instances_test.json": "postprocess"}


def first(
    wanted: Mapping[str, Mapping[str, str]], got: Mapping[str, Mapping[str, str]], rows: Sequence[tuple[str, str]]
) -> str | None:
    """The first stage, image and row that differ, one sentence; None where all digests are equal.

    wanted, got: digests by file and image, as `digests.of_files` gives them; files that `got` lacks are not compared.
    rows: image and digest of each row of the new submission file. The first row is the one behind the header.
    """
    for file in wanted:
        if file not in got or wanted[file] == got[file]:
            continue
        images = [*wanted[file], *(name for name in got[file] if name not in wanted[file])]
        image = next(name for name in images if wanted[file].get(name) != got[file].get(name))
        old, new = (side[file].get(image, "") for side in (wanted, got))
        where = "" if file.startswith("runs/") else f", {_row(old.split(), new.split(), image, rows)}"
        return f"the first difference is in what {stage_of(file)} made ({file}): image {image}{where}"
    return None


def stage_of(file: str) -> str:
    """The stage that makes a file, by its path in paths.output."""
    if file.count("/") > 2:  # runs/<run>/<fold>/…
        return "predict"
    return STAGE_OF.get(file.rpartition("/")[2], "submit")


def _row(old: Sequence[str], new: Sequence[str], image: str, rows: Sequence[tuple[str, str]]) -> str:
    """Where in the new file the image's first other row stands."""
    place = next((k for k, pair in enumerate(zip(old, new, strict=False)) if pair[0] != pair[1]), len(new))
    numbers = [number for number, (name, _) in enumerate(rows, 1) if name == image]
    if place < len(numbers):
        return f"row {numbers[place]}"
    return f"which has {len(new)} rows instead of {len(old)}"


def changes(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What differs between two environments, one line each: commit, versions, processor, GPU."""
    lines = []
    for name in ("commit", "clean", "python", "platform", "processor", "processors", "gpu"):
        if then.get(name) != now.get(name):
            lines.append(f"{name}: was {then.get(name)}, is {now.get(name)}")
    old, new = then.get("packages", {}), now.get("packages", {})
    differ = [name for name in sorted({*old, *new}) if old.get(name) != new.get(name)]
    return lines + [f"{name}: was {old.get(name)}, is {new.get(name)}" for name in differ]


def changed_inputs(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What differs between two sets of hashes of inputs, one line each."""
    return [f"{name}: another content" for name in sorted({*then, *now}) if then.get(name) != now.get(name)]
