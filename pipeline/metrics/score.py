"""What a metric says of a set of images: in all, per image and per class; as lines of text and as plain values."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Int = NDArray[np.int64]
Float = NDArray[np.float64]

_NAMES = {
    "mean_precision": "mean precision",
    "mean_precision_by_class": "mean precision by class",
    "f2": "F2",
    "dice": "mean Dice",
    "average_precision": "mean average precision",
    "coco": "COCO AP",
}


@dataclass(frozen=True, eq=False)
class Score:
    """A metric of a set of n images; all scores are in 0-1, NaN where the metric has no value.

    metric: as a contest's file names it. total: the contest's number. image_ids: n ids, in the order of the truth.
    per_image: float64 (n,). per_class: by the category's name, of the categories that count.
    """

    metric: str
    total: float
    image_ids: tuple[str, ...]
    per_image: Float
    per_class: dict[str, float]

    def lines(self) -> list[str]:
        """For a terminal: the total, what it is made of, and the classes that have a value."""
        head = f"{_NAMES[self.metric]} {self.total:.4f} over {len(self.image_ids)} images"
        classes = [f"  {name}: {value:.4f}" for name, value in self.per_class.items() if not math.isnan(value)]
        return [head, *self._details(), *classes]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for a JSON file, None in the place of NaN."""
        return {
            "metric": self.metric,
            "total": plain(self.total),
            "per_class": {name: plain(value) for name, value in self.per_class.items()},
            "images": [
                {"image_id": name, "score": plain(score)}
                for name, score in zip(self.image_ids, self.per_image.tolist(), strict=True)
            ],
        }

    def _details(self) -> list[str]:
        return []


@dataclass(frozen=True, eq=False)
class Counted(Score):
    """A score made of hits, false alarms and misses of n images at T thresholds; total is the mean of per_image.

    thresholds: IoU in hundredths, T of them. per_threshold: float64 (T,), mean over the images.
    pooled: float64 (T,), the same ratio of the counts of all images together; of TP / (TP + FP + FN) it is what the
    StarDist paper calls AP. tp, fp, fn: int64 (n, T).
    per_class: mean over the images where the class occurs in truth or prediction, both restricted to the class; NaN for
    a class that occurs nowhere.
    """

    thresholds: tuple[int, ...]
    per_threshold: Float
    pooled: Float
    tp: Int
    fp: Int
    fn: Int

    def to_dict(self) -> dict[str, Any]:
        """Plain values for a JSON file: thresholds as IoU in 0-1, the counts with each image."""
        content = super().to_dict()
        for image, tp, fp, fn in zip(content["images"], self.tp, self.fp, self.fn, strict=True):
            image.update(tp=tp.tolist(), fp=fp.tolist(), fn=fn.tolist())
        return {
            **content,
            "thresholds": [threshold / 100 for threshold in self.thresholds],
            "per_threshold": self.per_threshold.tolist(),
            "pooled": self.pooled.tolist(),
        }

    def _details(self) -> list[str]:
        return _table("IoU over", self.thresholds, {"per image": self.per_threshold, "pooled": self.pooled})


@dataclass(frozen=True, eq=False)
class Ranked(Score):
    """A mean over classes of the area under precision by recall, of instances ranked by confidence, at T thresholds.

    Such a score has no value per image: per_image is NaN. per_class: mean over the thresholds; NaN for a class that the
    truth does not have. total: mean over the others; NaN where there are none.
    thresholds: IoU in hundredths. per_threshold: float64 (T,), mean over the classes.
    figures: further numbers by name, 0-1. detections: the most instances that any image has, of which none is left out.
    """

    thresholds: tuple[int, ...]
    per_threshold: Float
    figures: Mapping[str, float]
    detections: int

    def to_dict(self) -> dict[str, Any]:
        """Plain values for a JSON file: thresholds as IoU in 0-1."""
        return {
            **super().to_dict(),
            "thresholds": [threshold / 100 for threshold in self.thresholds],
            "per_threshold": [plain(value) for value in self.per_threshold.tolist()],
            "figures": {name: plain(value) for name, value in self.figures.items()},
            "detections": self.detections,
        }

    def _details(self) -> list[str]:
        if math.isnan(self.total):
            return ["  no value: the truth has no instance of a class that is submitted"]
        figures = [f"  {name} {value:.4f}" for name, value in self.figures.items()]
        return [
            *_table("IoU from", self.thresholds, {"AP": self.per_threshold}),
            *figures,
            f"  at most {self.detections} instances in an image, none left out",
        ]


def plain(value: float) -> float | None:
    """A number as JSON has it: None for NaN."""
    return None if math.isnan(value) else value


def _table(head: str, thresholds: Sequence[int], rows: Mapping[str, Float]) -> list[str]:
    """A line of thresholds over lines of values, in columns of four characters."""
    lines = [f"  {head:<12}" + " ".join(f" .{threshold:02d}" for threshold in thresholds)]
    return lines + [f"  {name:<12}" + " ".join(map(_short, values.tolist())) for name, values in rows.items()]


def _short(value: float) -> str:
    return f"{value:.2f}".removeprefix("0").rjust(4)
