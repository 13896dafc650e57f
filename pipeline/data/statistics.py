"""Measures what a training set holds: the figures from which caps, anchors and the input scale are derived."""

from __future__ import annotations

from typing import Any

import numpy as np

from pipeline.data import coco as views
from pipeline.data.coco import Coco
from pipeline.data.columns import values

Statistics = dict[str, Any]

LEVELS = {"min": 0.0, "p01": 0.01, "p05": 0.05, "p25": 0.25, "p50": 0.5, "p75": 0.75, "p95": 0.95, "p99": 0.99,
          "max": 1.0}  # fmt: skip
PER_IMAGE = {"min": 0.0, "median": 0.5, "p95": 0.95, "max": 1.0}


def measure(coco: Coco) -> Statistics:
    """Counts, instances per image, quantiles of area, box side and aspect, image sizes, and the same per category.

    Area is in pixels of the mask, box side is the root of the box's area in pixels, aspect is height / width of the
    box. Quantiles are linear between neighbours; of nothing they are None. All values are plain int, float or None.
    """
    table = views.counts(coco)
    return {
        "version": 1,
        "images": len(coco["images"]),
        "instances": len(coco["annotations"]),
        "per_image": _quantiles(table.sum(1), PER_IMAGE),
        **_shapes(*_measures(coco)),
        "sizes": _sizes(coco),
        "per_category": _per_category(coco, table),
    }


def _per_category(coco: Coco, table: np.ndarray) -> dict[str, Any]:
    """Of each category: instances, images that show it, instances per such image, and the shapes."""
    result: dict[str, Any] = {}
    labels, (area, box) = values(coco["annotations"], "category_id"), _measures(coco)
    for column, category in enumerate(coco["categories"]):
        own = labels == category["id"]
        shown = table[table[:, column] > 0, column]
        result[category["name"]] = {
            "instances": int(own.sum()),
            "images": len(shown),
            "per_image": _quantiles(shown, PER_IMAGE),
            **_shapes(area[own], box[own]),
        }
    return result


def _measures(coco: Coco) -> tuple[np.ndarray, np.ndarray]:
    """Area (N,), and width and height of the box (N, 2), of every annotation: float64, pixels."""
    area, box = (values(coco["annotations"], name).astype(np.float64) for name in ("area", "bbox"))
    return area, box[:, 2:]


def _shapes(area: np.ndarray, box: np.ndarray) -> dict[str, Any]:
    return {
        "area": _quantiles(area, LEVELS),
        "box_side": _quantiles(np.sqrt(box.prod(1)), LEVELS),
        "aspect": _quantiles(box[:, 1] / box[:, 0], LEVELS),
    }


def _sizes(coco: Coco) -> dict[str, int]:
    """Images of each size, "HEIGHTxWIDTH", the most frequent first."""
    names, numbers = np.unique([f"{i['height']}x{i['width']}" for i in coco["images"]], return_counts=True)
    pairs = zip(names.tolist(), numbers.tolist(), strict=True)
    return dict(sorted(pairs, key=lambda pair: (-pair[1], pair[0])))


def _quantiles(values: np.ndarray, levels: dict[str, float]) -> dict[str, float | None]:
    if not len(values):
        return dict.fromkeys(levels)
    return dict(zip(levels, np.quantile(values, list(levels.values())).tolist(), strict=True))
