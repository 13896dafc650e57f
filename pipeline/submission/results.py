"""COCO results, a JSON list of masks: read to rows, with what is wrong with each."""

from __future__ import annotations

import json
import math
import reprlib
from pathlib import Path
from typing import Any

from pipeline.submission.case import Case
from pipeline.submission.finding import plain, quoted
from pipeline.submission.table import Row, Table

_WANTED = "wanted image_id, category_id, segmentation and score"


def read_results(path: Path, case: Case) -> Table:
    """The results of a JSON list as rows, their place in the list, from 1, as line. Bad content becomes findings."""
    data, table = path.read_bytes(), Table()
    if not data.strip():
        return table.stop("empty-file", "the file is empty; wanted a JSON list of results, [] where there are none")
    try:
        results = json.loads(data.decode("utf-8"))  # left to itself it would guess
    except (ValueError, RecursionError) as error:
        return table.stop("json", f"the file is no JSON ({quoted(str(error))}); wanted a list of results")
    if not isinstance(results, list):
        return table.stop("json", f"the file holds {_kind(results)}, wanted a list of results")
    for place, result in enumerate(results, 1):
        row = _row(place, result, case, table)
        table.rows += [row] if row is not None else []
    return table


def _row(place: int, result: Any, case: Case, table: Table) -> Row | None:
    if not isinstance(result, dict) or not {"image_id", "category_id", "segmentation", "score"} <= result.keys():
        table.add("result", f"the result is {_kind(result)}, {_WANTED}", place)
        return None
    name = case.names.get(result["image_id"]) if _is_id(result["image_id"]) else None
    name = name or reprlib.repr(result["image_id"])  # a text is shown with its quotation marks, as no image is called
    counts = _counts(place, name, result["segmentation"], case, table)
    _check_box(place, name, result.get("bbox"), table)
    score = result["score"]
    if not (_is_number(score) and 0 <= score <= 1):
        table.add("confidence", f"the score is {plain(reprlib.repr(score))}, wanted a number from 0 to 1", place, name)
        score = 0.0
    return Row(place, name, counts, counts != "", reprlib.repr(result["category_id"]), score=float(score))


def _counts(place: int, name: str, segmentation: Any, case: Case, table: Table) -> str:
    """The counts of a mask, "" where there are none that fit the image."""
    size, counts = (segmentation.get(key) if isinstance(segmentation, dict) else None for key in ("size", "counts"))
    if not isinstance(counts, str) or not counts:
        got = _kind(segmentation if not isinstance(segmentation, dict) else counts)
        said = f"the segmentation's counts are {got}, wanted compressed COCO counts, a text"
        table.add("mask-code", said, place, name)
        return ""
    if name in case.sizes and size != list(case.sizes[name]):
        said = f"the segmentation's size is {plain(reprlib.repr(size))}, wanted {list(case.sizes[name])}"
        table.add("size", said, place, name)
        return ""
    return counts


def _check_box(place: int, name: str, box: Any, table: Table) -> None:
    """A box may be left out; pycocotools takes a result's area from it where it is there."""
    if box is None:
        return
    if not (isinstance(box, list) and len(box) == 4 and all(_is_number(v) for v in box) and min(box[2:]) >= 0):
        said = f"the bbox is {plain(reprlib.repr(box))}, wanted x, y, width and height in pixels"
        table.add("box", said, place, name)


def _is_id(value: Any) -> bool:
    return isinstance(value, int | str) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    """Whether it is a finite number; an integer past the range of floats is none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def _kind(value: Any) -> str:
    """What a value is, in words, without what it holds; of an object its first keys."""
    if isinstance(value, dict):
        return f"an object of {quoted(', '.join(map(str, list(value)[:8])), 60)}"
    names = {list: "a list", str: "a text", type(None): "nothing", bool: "a truth value"}
    return names.get(type(value), "a number")
