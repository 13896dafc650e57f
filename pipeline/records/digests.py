"""Short digests of a submission and what it was made from, image by image: they tell where two makings part.

A digest is the beginning of a SHA-256: enough to see that something changed, too short to say what it was.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from pipeline.competition import Competition
from pipeline.errors import InputError
from pipeline.files import atomic, read_coco, read_detections, read_instances
from pipeline.files.checks import FAULTS, told
from pipeline.submission.case import source_ids

_IMAGE, _ROW = 8, 4  # hexadecimal digits


def of_files(output: Path, names: Sequence[str], competition: Competition) -> dict[str, dict[str, str]]:
    """Of each file (its path in `output`), the digest of what it holds of each test image, by the image's id.

    Of detections (.npz), instances (.json in runs/) and a classifier's word (.csv in runs/) one digest; of the
    submission one for each row, with blanks between. names: of files that are there.
    """
    coco, found = read_coco(output / "test.json"), {}
    for name in names:
        path = output / name
        if name.endswith(".npz"):
            found[name] = {one.image_id: _columns(one, _DETECTED) for one in read_detections(path)}
        elif name.startswith("runs/") and name.endswith(".csv"):
            found[name] = _by_line(path)
        elif name.startswith("runs/"):
            found[name] = {one.image_id: _columns(one, _DECIDED) for one in read_instances(path, coco)}
        else:
            found[name] = _by_image(rows(path, competition, coco))
    return found


def _by_line(path: Path) -> dict[str, str]:
    """The digest of each line of a CSV by its first cell."""
    lines = pd.read_csv(path, dtype=str, keep_default_na=False).to_numpy().tolist()
    return {line[0]: hashlib.sha256("\n".join(line).encode()).hexdigest()[:_IMAGE] for line in lines}


_DETECTED, _DECIDED = ("boxes", "scores", "labels", "masks"), ("scores", "labels", "masks")


def _columns(one: Any, names: Iterable[str]) -> str:
    hashed = hashlib.sha256(repr(one.size).encode())
    for name in names:
        column = getattr(one, name)
        hashed.update("\n".join(column).encode() if isinstance(column, tuple) else column.tobytes())
    return hashed.hexdigest()[:_IMAGE]


def rows(path: Path, competition: Competition, coco: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The image of each row of a submission file, in order, and the row's digest; of COCO results, each result.

    coco: of the test images, which gives the names of COCO's numbers.
    """
    text = path.read_text(encoding="utf-8")
    if competition.submission_layout == "coco":
        ids = source_ids(coco)
        names = {str(number): name for name, number in ids.items()} if ids else {}
        return [(names.get(str(one["image_id"]), str(one["image_id"])), _row(one)) for one in json.loads(text)]
    columns = list(competition.submission_columns.values())
    place = columns.index("image") if "image" in columns else columns.index("image_class")
    known = [image["name"] for image in coco["images"]]
    whole = "image" in columns
    lines = pd.read_csv(io.StringIO(text), dtype=str, keep_default_na=False).to_numpy().tolist()
    return [(line[place] if whole else _image_of(line[place], known), _row(line)) for line in lines]


def _image_of(joined: str, known: Iterable[str]) -> str:
    """The image of an id that joins image and class with "_"."""
    return max((name for name in known if joined.startswith(f"{name}_")), key=len, default=joined)


def _row(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, ensure_ascii=False).encode()).hexdigest()[:_ROW]


def _by_image(lines: Iterable[tuple[str, str]]) -> dict[str, str]:
    found: dict[str, list[str]] = {}
    for name, digest in lines:
        found.setdefault(name, []).append(digest)
    return {name: " ".join(digests) for name, digests in found.items()}


def write(path: Path, found: Mapping[str, Mapping[str, str]]) -> None:
    """CSV with a row for each image and a column for each file, in their order."""
    names = dict.fromkeys(name for column in found.values() for name in column)
    table = pd.DataFrame({file: [column.get(name, "") for name in names] for file, column in found.items()}, dtype=str)
    table.insert(0, "image", list(names))
    with atomic(path) as partial:
        table.to_csv(partial, index=False, lineterminator="\n")


def read(path: Path) -> dict[str, dict[str, str]]:
    """Inverse of `write`. Raises InputError for a missing or broken file."""
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
        columns = [str(name) for name in table.columns if name != "image"]
        return {name: dict(zip(table["image"], table[name], strict=True)) for name in columns}
    except FAULTS as error:
        raise InputError(f"{path} is no table of digests by image ({told(error)})") from None
