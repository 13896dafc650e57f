"""Looks for what is odd in a contest's truth: measured on runs, many images at a time, no mask is decoded.

Nothing is changed here. What turns out to be a fault is mended by a patch (see `pipeline.data.patch`), which names an
annotation by the `fingerprint` that each finding carries.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.data import coco as views
from pipeline.data.coco import Coco
from pipeline.data.columns import values
from pipeline.data.looks import Look
from pipeline.data.oddities import ALIKE, HOLES, canvases, pairs, shapes
from pipeline.data.patch import fingerprint
from pipeline.masks.runs import Int, Runs, boxes, from_coco
from pipeline.masks.windows import crop

Audit = dict[str, Any]

OUTLIER = 3.5  # robust z-score (Iglewicz and Hoaglin, How to detect and handle outliers, 1993)
CAPS = (100, 300)  # detections per image that libraries stop at
LISTED = 100  # findings of a kind in the report, the most striking ones
SHOWN = 2  # of a kind on the page of pictures, each from another image

KINDS = {
    "holes": f"holes of more than {HOLES:.0%} of the area",
    "parts": "several parts",
    "thin": "nowhere thicker than one pixel",
    "duplicates": "exact duplicates in an image",
    "near_duplicates": f"near duplicates in an image (IoU above {ALIKE:g})",
    "overlaps": "pairs that share pixels",
    "on_border": "boxes on the image's border",
    "many_or_few": "images whose number of instances is an outlier",
    "bright_or_dark": "images whose brightness is an outlier",
}


class Found(NamedTuple):
    """Findings of one kind. one, other: int64 (n,), rows of annotations, or of images where other is None (a kind
    about images); other is -1 where there is none. measure: float64 (n,), the larger (of outliers, the farther from 0)
    the more striking.
    """

    one: Int
    other: Int | None
    measure: NDArray[np.float64]


class View(NamedTuple):
    """A part of an image with a finding: what a picture of it needs.

    file_name: of the image, inside the contest's folder. box: the part shown, x0 y0 x1 y1, half-open, pixels.
    others, marked: masks of the part, those that the finding is about and the rest. title: two lines.
    """

    file_name: str
    box: tuple[int, int, int, int]
    others: Runs
    marked: Runs
    title: str


def measure(coco: Coco, looks: Sequence[Look]) -> Audit:
    """The report, plain JSON: of each kind how many there are, in how many images, and the most striking ones.

    looks: one of each image, in the order of the dict. measure of holes: their share of the filled mask; parts: their
    number; thin: 1 / area; duplicates and near duplicates: the IoU; overlaps: the share of the smaller mask; on_border:
    the number of borders; outliers: the robust z-score (of log(1 + instances), of the average grey).
    """
    kinds = {**_of_masks(coco), **_of_images(coco, looks)}
    return {
        "version": 1,
        "images": len(coco["images"]),
        "instances": len(coco["annotations"]),
        "kinds": {kind: _listed(coco, kinds[kind]) for kind in KINDS},
        "caps": {str(cap): _lost(views.counts(coco).sum(1), cap) for cap in CAPS},
    }


def lines(audit: Audit) -> list[str]:
    """What was found, a line for each kind that was."""
    found = {kind: part for kind, part in audit["kinds"].items() if part["count"]}
    told = [f"{KINDS[kind]}: {part['count']}" + _where(kind, part["images"]) for kind, part in found.items()]
    caps = {cap: part for cap, part in audit["caps"].items() if part["lost"]}
    return told + [
        f"a cap of {cap} detections would lose {part['lost']} instances ({part['share']:.1%})"
        + _where("", part["images"])
        for cap, part in caps.items()
    ]


def _where(kind: str, images: int) -> str:
    return "" if kind in ("many_or_few", "bright_or_dark") else f" in {images} image{'s' * (images > 1)}"


def show(coco: Coco, audit: Audit) -> list[View]:
    """The most striking findings of every kind but boxes on borders, which are no fault."""
    images, rows = views.by_name(coco), views.grouped(coco)
    result = []
    for kind, part in audit["kinds"].items():
        first = {found["image"]: found for found in reversed(part["worst"])} if kind != "on_border" else {}
        for found in sorted(first.values(), key=part["worst"].index)[:SHOWN]:
            image = images[found["image"]]
            result.append(_view(KINDS[kind], found, image, rows[image["id"]]))
    return result


def _view(what: str, found: dict[str, Any], image: dict[str, Any], rows: list[dict[str, Any]]) -> View:
    size = (image["height"], image["width"])
    runs = from_coco([row["segmentation"]["counts"] for row in rows], size)
    marked = np.array([row["id"] in (found.get("annotation"), found.get("other")) for row in rows], bool)
    box = _around(boxes(runs)[marked], size)
    cut = crop(runs, box)
    where = f"{image['name'][:12]} {found['annotation']}" if "annotation" in found else image["name"][:12]
    title = f"{what}\n{where}: {found['measure']:g}"
    return View(image["file_name"], box, cut.select(~marked), cut.select(marked), title)


def _around(marked: Int, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """A square three times as large as the boxes, 64 pixels at least, as far as it lies in the image; all for none."""
    if not len(marked):
        return 0, 0, size[1], size[0]
    low, high = marked[:, :2].min(0), marked[:, 2:].max(0)
    reach = max(3 * int((high - low).max()), 64) // 2
    x, y = ((low + high) // 2).tolist()
    return max(x - reach, 0), max(y - reach, 0), min(x + reach, size[1]), min(y + reach, size[0])


def _of_masks(coco: Coco) -> dict[str, Found]:
    """The kinds that are about annotations."""
    per_mask: dict[str, list[tuple[Int, Int, NDArray[np.float64]]]] = {kind: [] for kind in KINDS}
    for rows, runs in canvases(coco):
        for kind, (one, other, value) in (*shapes(runs), *pairs(runs)):
            second = np.where(other < 0, other, rows[other]) if one.size else other
            per_mask[kind].append((rows[one], second, value))
    found = {}
    for kind, pieces in per_mask.items():
        one, other, value = (np.concatenate([np.zeros(0, np.int64), *column]) for column in _columns(pieces))
        found[kind] = Found(one.astype(np.int64), other.astype(np.int64), value.astype(np.float64))
    return {**found, "on_border": _on_border(coco)}


def _columns(pieces: Sequence[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    return list(zip(*pieces, strict=True)) or [(), (), ()]


def _on_border(coco: Coco) -> Found:
    sizes = {image["id"]: (image["height"], image["width"]) for image in coco["images"]}
    size = np.array([sizes[i] for i in values(coco["annotations"], "image_id").tolist()], np.int64).reshape(-1, 2)
    box = values(coco["annotations"], "bbox")
    touching = np.concatenate([box[:, :2] == 0, box[:, :2] + box[:, 2:] == size[:, ::-1]], 1).sum(1)
    one = np.flatnonzero(touching)
    return Found(one, np.full(one.size, -1), touching[one].astype(np.float64))


def _of_images(coco: Coco, looks: Sequence[Look]) -> dict[str, Found]:
    """The kinds that are about images."""
    quantities = {
        "many_or_few": np.log1p(views.counts(coco).sum(1)),
        "bright_or_dark": np.array([one.brightness for one in looks], np.float64),
    }
    found = {}
    for kind, quantity in quantities.items():
        score = robust_z(quantity)
        one = np.flatnonzero(np.abs(score) > OUTLIER)
        found[kind] = Found(one, None, score[one])
    return found


def robust_z(quantity: NDArray[np.float64]) -> NDArray[np.float64]:
    """How far each value is from the median, float64 (n,), in robust standard deviations.

    These are 1.4826 of the median distance from the median; where more than half of the values are equal 1.2533 of the
    average distance; where all are, every score is 0.
    """
    if not quantity.size:
        return quantity
    off = quantity - np.median(quantity)
    spread = 1.4826 * np.median(np.abs(off)) or 1.2533 * np.abs(off).mean() or 1.0
    scores: NDArray[np.float64] = off / spread
    return scores


def _lost(per_image: Int, cap: int) -> dict[str, Any]:
    lost = np.maximum(per_image - cap, 0)
    share = lost.sum() / max(per_image.sum(), 1)
    return {"images": int((lost > 0).sum()), "lost": int(lost.sum()), "share": round(float(share), 4)}


def _listed(coco: Coco, found: Found) -> dict[str, Any]:
    """The count, the number of images, and the most striking findings, the first first."""
    rows, images = coco["annotations"], {image["id"]: image["name"] for image in coco["images"]}
    names = {category["id"]: category["name"] for category in coco["categories"]}
    order = np.lexsort((found.one, -np.abs(found.measure)))[:LISTED]
    listed: list[dict[str, Any]] = []
    for at in order.tolist():
        value = round(float(found.measure[at]), 4)
        if found.other is None:
            listed.append({"image": coco["images"][int(found.one[at])]["name"], "measure": value})
            continue
        row, other = rows[int(found.one[at])], int(found.other[at])
        name = fingerprint(names[row["category_id"]], row["segmentation"]["counts"])
        beside = {} if other < 0 else {"other": rows[other]["id"]}
        place = {"image": images[row["image_id"]], "annotation": row["id"], "fingerprint": name}
        listed.append({**place, **beside, "measure": value})
    concerned = found.one if found.other is None else values(rows, "image_id")[found.one]
    return {"count": len(found.one), "images": len(np.unique(concerned)), "worst": listed}
