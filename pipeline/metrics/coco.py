"""COCO average precision by pycocotools, of all instances and not of the first 100.

The library does the matching and the curve. Around it: annotation ids from 1 (it takes 0 for unmatched), areas that do
not overflow, empty results, no printing, as many detections as any image has, and the precision array itself: the
library's summary knows 100 detections only. Of area ranges there is one, "all".
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from pipeline.instances import Instances
from pipeline.masks.runs import area
from pipeline.metrics.pairing import check_thresholds, paired
from pipeline.metrics.score import Ranked


def coco_ap(
    truth: Iterable[Instances],
    predicted: Iterable[Instances],
    thresholds: Sequence[int],
    categories: Mapping[str, int],
) -> Ranked:
    """COCO AP of predictions against truth, paired by image_id: precision at 101 points of recall.

    thresholds: integer hundredths of IoU; an IoU exactly at one is a hit. categories: names and labels of the classes
    that count; instances of others are not looked at. No truth is a crowd. figures: AP50 and AP75, where these are
    among the thresholds, and AR, the recall of all detections, mean over classes and thresholds. Of equal scores the
    instance of the earlier image of the truth is first, in one image the earlier instance. Raises InputError for an id
    that occurs twice or that the truth does not have, for sizes that differ, and where there is no image at all.
    """
    check_thresholds(thresholds)
    images = paired(truth, predicted)
    most = max(len(guess) for _, guess in images.values())
    precision, recall = _evaluate(list(images.values()), thresholds, list(categories.values()), most)
    present = recall[0] >= 0  # the library marks a class that the truth does not have by -1
    by_class = np.where(present, precision.mean(axis=(0, 1)), np.nan)
    per_threshold = _mean(precision[:, :, present], axes=(1, 2))
    figures = {f"AP{t}": float(per_threshold[list(thresholds).index(t)]) for t in (50, 75) if t in thresholds}
    return Ranked(
        metric="coco",
        total=float(_mean(precision[:, :, present], axes=(0, 1, 2))),
        image_ids=tuple(images),
        per_image=np.full(len(images), np.nan),
        per_class=dict(zip(categories, by_class.tolist(), strict=True)),
        thresholds=tuple(thresholds),
        per_threshold=per_threshold,
        figures={**figures, "AR": float(_mean(recall[:, present], axes=(0, 1)))},
        detections=most,
    )


def _evaluate(
    images: Sequence[tuple[Instances, Instances]], thresholds: Sequence[int], labels: Sequence[int], most: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Precision (T, 101, K) and recall (T, K) of K labels, -1 for those that the truth does not have."""
    with contextlib.redirect_stdout(io.StringIO()):
        known = _dataset([target for target, _ in images], labels)
        found = _dataset([guess for _, guess in images], labels)
        evaluation = COCOeval(known, found, "segm")
        evaluation.params.iouThrs = np.array(thresholds) / 100
        evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0, np.inf]], ["all"]
        evaluation.params.maxDets = [max(most, 1)]
        evaluation.evaluate()
        evaluation.accumulate()
    # The library sorts the category ids.
    order = np.argsort(np.argsort(labels))
    return evaluation.eval["precision"][:, :, order, 0, 0], evaluation.eval["recall"][:, order, 0, 0]


def _dataset(images: Sequence[Instances], labels: Sequence[int]) -> COCO:
    """The instances of these labels as the library holds a file of annotations or results."""
    rows: list[dict[str, Any]] = []
    for number, one in enumerate(images, 1):
        pixels = area(one.runs).tolist()
        columns = zip(one.labels.tolist(), one.scores.tolist(), one.rles(), pixels, strict=True)
        rows += [
            {"image_id": number, "category_id": label, "score": score, "segmentation": rle, "area": size, "iscrowd": 0}
            for label, score, rle, size in columns
        ]
    dataset = COCO()
    dataset.dataset = {
        "images": [{"id": i, "height": one.size[0], "width": one.size[1]} for i, one in enumerate(images, 1)],
        "categories": [{"id": label} for label in labels],
        "annotations": [{"id": i, **row} for i, row in enumerate(rows, 1)],
    }
    dataset.createIndex()
    return dataset


def _mean(values: NDArray[np.float64], axes: tuple[int, ...]) -> NDArray[np.float64]:
    """The mean, NaN of nothing, without a warning."""
    count = np.prod([values.shape[axis] for axis in axes])
    return values.sum(axis=axes) / count if count else np.full(values.sum(axis=axes).shape, np.nan)
