"""Every on-disk format of the line, read and written, each write atomic: a file under its final name is whole."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pipeline.atomic import atomic
from pipeline.competition import is_inside
from pipeline.errors import ConfigError, InputError
from pipeline.files.checks import FAULTS, check_coco, check_columns, check_folds, check_names, told
from pipeline.files.detections import join_detections, read_detections, write_detections
from pipeline.files.plain import check_version, read_json, read_yaml
from pipeline.files.presence import join_presence, read_presence
from pipeline.instances import Instances

__all__ = [
    "Paths",
    "atomic",
    "check_version",
    "join_detections",
    "join_presence",
    "read_coco",
    "read_detections",
    "read_folds",
    "read_instances",
    "read_json",
    "read_presence",
    "read_yaml",
    "write_coco",
    "write_detections",
    "write_folds",
    "write_instances",
    "write_json",
]


@dataclass(frozen=True)
class Paths:
    """Where one contest's files lie on this machine.

    data: the contest's folder as Kaggle unpacks it. output: holds all that is made. submissions: the records.
    """

    data: Path
    output: Path
    submissions: Path

    @property
    def annotations(self) -> Path:
        """Truth of the training images, COCO JSON."""
        return self.output / "annotations.json"

    @property
    def test(self) -> Path:
        """The test images, COCO JSON without annotations."""
        return self.output / "test.json"

    @property
    def holdout(self) -> Path:
        """Truth of the test images where training images were held out to test on, COCO JSON."""
        return self.output / "holdout.json"

    @property
    def folds(self) -> Path:
        """CSV of image_id, fold."""
        return self.output / "folds.csv"

    @property
    def statistics(self) -> Path:
        """What was measured of the truth, JSON."""
        return self.output / "statistics.json"

    @property
    def audit(self) -> Path:
        """What is odd in the truth of the training images, JSON."""
        return self.output / "audit.json"

    @property
    def audit_picture(self) -> Path:
        """A page of the most striking findings of the audit, PNG."""
        return self.output / "audit.png"

    @property
    def leaks(self) -> Path:
        """Images that show the same, and what folds would leak that do not know it, JSON."""
        return self.output / "leaks.json"

    @property
    def submission(self) -> Path:
        """The checked CSV for the contest."""
        return self.output / "submission.csv"

    def run(self, run: str) -> Path:
        """The folder of a training run. Raises ConfigError for a name that leads out of the folder of runs."""
        if not is_inside(run):
            raise ConfigError(f"run: wanted a name, or a path inside {self.output / 'runs'}; got {run!r:.80}")
        return self.output / "runs" / run

    def fold(self, run: str, fold: int | str) -> Path:
        """The folder of one fold of a run; of "all", a training without a fold held out."""
        return self.run(run) / (f"fold{fold}" if isinstance(fold, int) else fold)


def write_json(path: Path, value: Any, indent: int | None = None) -> None:
    """Compact JSON unless `indent` is given; NaN is refused with ValueError."""
    _write_text(path, [_json(value, indent)])


def _json(value: Any, indent: int | None = None) -> str:
    separators = (",", ":") if indent is None else None
    return json.dumps(value, indent=indent, separators=separators, allow_nan=False, ensure_ascii=False)


def _write_text(path: Path, pieces: Iterable[str]) -> None:
    with atomic(path) as partial, open(partial, "w", encoding="utf-8", newline="\n") as file:
        file.writelines(pieces)
        file.write("\n")


def read_coco(path: Path) -> dict[str, Any]:
    """COCO JSON that `convert` wrote. Raises InputError for another file, another version of it, or a broken one."""
    coco = read_json(path, "convert")
    info = coco.get("info") if isinstance(coco, dict) else None
    form, version = (info.get("format"), info.get("version")) if isinstance(info, dict) else (None, None)
    if (form, version) != ("maskline-coco", 1):
        got = f"got {form} of version {version}"
        raise InputError(f"{path}: wanted maskline-coco of version 1, {got}; run `convert` again")
    try:
        check_coco(coco)
    except FAULTS as error:
        raise InputError(f"{path} is broken ({told(error)}); run `convert` again") from None
    return dict(coco)


def write_coco(path: Path, coco: Mapping[str, Any]) -> None:
    """Compact JSON of what `pipeline.data.coco.build` returns, or of what `read_coco` does: the same bytes."""
    _write_text(path, _pieces(coco))


def _pieces(coco: Mapping[str, Any]) -> Iterator[str]:
    for place, (key, value) in enumerate(coco.items()):
        yield f"{',' if place else '{'}{_json(key)}:"
        # Columns of annotations write their own text, piece by piece.
        yield from value.to_json() if hasattr(value, "to_json") else [_json(value)]
    yield "}" if coco else "{}"


def read_folds(path: Path) -> dict[str, int]:
    """Fold of each training image by the contest's id, in the order of the file.

    Raises InputError for a missing file and for one without these columns.
    """
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False, index_col=False)
        names, folds = table["image_id"].tolist(), [int(fold) for fold in table["fold"]]
        check_names(names)
        check_folds(folds)
        return dict(zip(names, folds, strict=True))
    except FileNotFoundError:
        raise InputError(f"{path} does not exist; the stage `convert` makes it") from None
    except FAULTS as error:
        raise InputError(f"{path} is no table of image_id and fold ({told(error)}); run `convert` again") from None


def write_folds(path: Path, folds: Mapping[str, int]) -> None:
    """CSV with the columns image_id and fold."""
    table = pd.DataFrame({"image_id": list(folds.keys()), "fold": list(folds.values())})
    with atomic(path) as partial:
        table.to_csv(partial, index=False, lineterminator="\n")


def write_instances(path: Path, instances: Sequence[Instances], coco: Mapping[str, Any]) -> None:
    """COCO results JSON; `coco` gives the integer id of each image. Raises InputError for an image that it lacks."""
    number = {image["name"]: image["id"] for image in coco["images"]}
    strange = next((one.image_id for one in instances if len(one) and one.image_id not in number), None)
    if strange is not None:
        said = f"image {strange} is none of the {len(number)} images of this contest"
        raise InputError(f"{path} is not written: {said}; run `convert` and the stages after it again")
    rows = [
        {
            "image_id": number[one.image_id],
            "category_id": int(label),
            "score": round(float(score), 6),
            "segmentation": rle,
        }
        for one in instances
        for label, score, rle in zip(one.labels, one.scores, one.rles(), strict=True)
    ]
    write_json(path, rows)


def read_instances(path: Path, coco: Mapping[str, Any], image_ids: Sequence[str] | None = None) -> list[Instances]:
    """Instances of the images of `coco` (of those named, in that order); an image without results is empty.

    Raises InputError for a missing file and for one that is no COCO results.
    """
    rows = read_json(path, "postprocess")
    images = {image["name"]: image for image in coco["images"]}
    wanted = [images[name] for name in (images if image_ids is None else image_ids)]
    by_image: dict[int, list[dict[str, Any]]] = {}
    try:
        for row in rows:
            by_image.setdefault(row["image_id"], []).append(row)
        labels = len(coco["categories"])
        return [_instances_of(image, by_image.get(image["id"], []), labels) for image in wanted]
    except FAULTS as error:
        raise InputError(f"{path} holds no COCO results ({told(error)}); run `postprocess` again") from None


def _instances_of(image: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], categories: int) -> Instances:
    scores, labels = ([row[name] for row in rows] for name in ("score", "category_id"))
    check_columns(scores, labels, [row["segmentation"]["counts"] for row in rows], categories)
    return Instances(
        image["name"],
        (image["height"], image["width"]),
        np.array([row["score"] for row in rows], np.float32),
        np.array([row["category_id"] for row in rows], np.int64),
        tuple(row["segmentation"]["counts"] for row in rows),
    )
