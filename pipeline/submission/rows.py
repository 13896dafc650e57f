"""Instances to a submission file of any layout, and back."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from pipeline.competition import Competition, Role
from pipeline.errors import InputError
from pipeline.instances import Instances
from pipeline.masks import text
from pipeline.masks.packed import pack
from pipeline.masks.resize import resized
from pipeline.masks.runs import Int, Runs, area, boxes, to_coco
from pipeline.submission.case import Case, Sizes, category_number, source_id
from pipeline.submission.lint import check
from pipeline.submission.sweep import union
from pipeline.submission.table import Row

_SHOWN = 5
_DIGITS = 6  # of a confidence


class _Image(NamedTuple):
    """What is submitted of one image: masks of the submitted size, none of them empty, scores and category ids."""

    name: str
    runs: Runs
    scores: np.ndarray
    labels: Int


def write(
    instances: Iterable[Instances],
    competition: Competition,
    path: Path,
    source_ids: Mapping[str, Any] | None = None,
) -> None:
    """Write a submission file in the contest's layout; equal instances give equal bytes.

    A CSV is UTF-8 with LF line ends, see `to_rows`; COCO results are compact JSON, see `to_results`.
    source_ids: what COCO results write for an image id; null: the id itself.
    """
    if competition.submission_layout == "coco":
        results = to_results(instances, competition, source_ids)
        path.write_text(json.dumps(results, separators=(",", ":"), allow_nan=False) + "\n", encoding="utf-8")
    else:
        frame = to_rows(instances, competition)
        frame.to_csv(path, index=False, lineterminator="\n", encoding="utf-8", na_rep="")


def to_rows(instances: Iterable[Instances], competition: Competition) -> pd.DataFrame:
    """The rows of a submission CSV, columns of text as in the contest's submission_columns, images in the order given.

    rows: one for each instance; one with the contest's empty_image for an image without any, its class the first one.
    class_rows: one for each image and class, all masks of the class in one, blank where there is none.
    strings: one for each image, "class confidence code …" by falling confidence (equals as given), code as by
    `masks.packed.pack`; empty_image where there is no instance.
    Masks are written at the submitted size, which is also what height and width columns say. An instance of a class
    that is not submitted, or without a pixel at that size, is left out. Raises InputError where an image occurs twice.
    Overlaps are the linter's business.
    """
    rows_of, lines = _ROWS[competition.submission_layout], []
    for image in _submitted(instances, competition):
        height, width = map(str, image.runs.size)
        for code, mask in rows_of(image, competition):
            values: dict[Role, str] = {
                "image": image.name,
                "mask": mask,
                "predictions": mask,
                "class": code,
                "image_class": f"{image.name}_{code}",
                "height": height,
                "width": width,
            }
            lines.append([values[role] for role in competition.submission_columns.values()])
    return pd.DataFrame(lines, columns=list(competition.submission_columns), dtype=str)


def to_results(
    instances: Iterable[Instances], competition: Competition, source_ids: Mapping[str, Any] | None
) -> list[dict[str, Any]]:
    """COCO results, one for each instance of a class that is submitted and with a pixel, in the order given.

    image_id: of source_ids. category_id: the number that the contest's codes give to the category; where it has no
    codes, the category's place among its categories, from 1, which is the label. bbox: x, y, width, height of the
    mask in pixels. score: 0 to 1, six decimals. segmentation: size (height, width) and compressed counts.
    """
    results = []
    for image in _submitted(instances, competition):
        x0, y0, x1, y1 = boxes(image.runs).T.tolist()
        columns = zip(image.labels.tolist(), image.scores.tolist(), to_coco(image.runs), strict=True)
        for k, (label, score, counts) in enumerate(columns):
            results.append(
                {
                    "image_id": source_id(image.name, source_ids),
                    "category_id": category_number(competition, label),
                    "bbox": [x0[k], y0[k], x1[k] - x0[k], y1[k] - y0[k]],
                    "score": round(score, _DIGITS),
                    "segmentation": {"size": list(image.runs.size), "counts": counts},
                }
            )
    return results


def _submitted(instances: Iterable[Instances], competition: Competition) -> Iterator[_Image]:
    seen: set[str] = set()
    for image in instances:
        if image.image_id in seen:
            raise InputError(
                f"image {image.image_id} occurs twice among the instances to submit; "
                "each image must occur once, with all its instances"
            )
        seen.add(image.image_id)
        size, runs = competition.submitted(image.size), image.runs
        runs = runs if tuple(size) == tuple(runs.size) else resized(runs, size)
        wanted = [competition.code(label) is not None for label in image.labels.tolist()]
        kept = np.flatnonzero(np.array(wanted, bool) & (area(runs) > 0))
        if kept.size == len(image):
            yield _Image(image.image_id, runs, image.scores, image.labels)
        else:
            yield _Image(image.image_id, runs.select(kept), image.scores[kept], image.labels[kept])


def _instance_rows(image: _Image, competition: Competition) -> list[tuple[str, str]]:
    texts = text.to_text(image.runs, _order(competition), competition.base)
    if texts or competition.empty_image is None:
        codes = [competition.code(label) or "" for label in image.labels.tolist()]
        return list(zip(codes, texts, strict=True))
    return [(next(iter(competition.labels())), competition.empty_image)]


def _class_rows(image: _Image, competition: Competition) -> list[tuple[str, str]]:
    place = {code: k for k, code in enumerate(competition.labels())}
    own = np.array([place[competition.code(label) or ""] for label in image.labels.tolist()], np.int64)
    merged = Runs(image.runs.size, len(place), *union(own[image.runs.instance], image.runs.start, image.runs.stop))
    texts = text.to_text(merged, _order(competition), competition.base)
    blank = competition.empty_image or ""
    return [(code, mask or blank) for code, mask in zip(place, texts, strict=True)]


def _string_rows(image: _Image, competition: Competition) -> list[tuple[str, str]]:
    codes = pack(to_coco(image.runs))
    words = [
        f"{competition.code(int(image.labels[k]))} {image.scores[k]:.{_DIGITS}f} {codes[k]}"
        for k in np.argsort(-image.scores, kind="stable")
    ]
    if not words and competition.empty_image is None:
        return []
    return [("", " ".join(words) or competition.empty_image or "")]


_ROWS: Mapping[str, Callable[[_Image, Competition], list[tuple[str, str]]]] = {
    "rows": _instance_rows,
    "class_rows": _class_rows,
    "strings": _string_rows,
}


def _order(competition: Competition) -> text.Order:
    if competition.order is None:
        raise ValueError(f"competition {competition.key}: order is null, but its masks are written as start and length")
    return competition.order


def read(
    path: Path, competition: Competition, sizes: Sizes, source_ids: Mapping[str, Any] | None = None
) -> list[Instances]:
    """The instances of any submission file, one entry for each image of sizes and in that order.

    sizes: (height, width) in pixels of the original images by image id; the instances have the submitted size.
    source_ids: what COCO results write for an image id; null: the id itself. Scores and labels are those of the file,
    1 where it has none. A row that is the contest's empty_image, and its image's only one, is no instance.
    Raises InputError with row, image and rule where the linter finds an error.
    """
    content, findings = check(path, competition, sizes, source_ids)
    errors = [finding for finding in findings if finding.level == "error"]
    if errors:
        shown = "\n".join(f"  {error}" for error in errors[:_SHOWN])
        more = f"\n  and {len(errors) - _SHOWN} more" if len(errors) > _SHOWN else ""
        raise InputError(f"{path}: the file breaks the rules of {competition.key}:\n{shown}{more}")
    case = Case.of(competition, sizes, source_ids)
    masks: dict[str, list[Row]] = {name: [] for name in sizes}
    for mask in _present(content.masks, competition):
        masks[mask.image].append(mask)
    return [_instances(name, masks[name], case) for name in sizes]


def _present(masks: list[Row], competition: Competition) -> list[Row]:
    """Those that are masks and not the sign of an image, or of an image's class, without any."""
    first, sign = next(iter(competition.labels())), competition.empty_image
    rows = Counter(mask.image for mask in masks)

    def says_empty(mask: Row) -> bool:
        if competition.submission_layout == "class_rows":
            return mask.text == sign
        return mask.text == sign and rows[mask.image] == 1 and mask.category in (None, first)

    return [mask for mask in masks if mask.text and not says_empty(mask)]


def _instances(name: str, masks: list[Row], case: Case) -> Instances:
    size, texts = case.sizes[name], [mask.text for mask in masks]
    scores = np.array([mask.score for mask in masks], np.float32)
    labels = np.array([1 if mask.category is None else case.labels[mask.category] for mask in masks], np.int64)
    if case.competition.submission_layout in ("strings", "coco"):
        return Instances(name, size, scores, labels, tuple(texts))
    runs = text.from_text(texts, size, _order(case.competition), case.competition.base)
    return Instances.of_runs(name, runs, scores, labels)
