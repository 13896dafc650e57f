"""Mean Dice of the classes' areas, the metric of Severstal's steel defects and of the clouds contest.

Per image and class the Dice coefficient of all pixels of the class in truth and in prediction, 2 |A ∩ B| / (|A| + |B|),
1 where both are empty; the total is the mean over all pairs of an image and a class: the evaluation pages of both.
Into how many instances the pixels of a class are cut, and whether those overlap, does not matter.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from pipeline.instances import Instances
from pipeline.masks.intervals import rising
from pipeline.metrics.pairing import paired
from pipeline.metrics.score import Float, Int, Score


def mean_dice(truth: Iterable[Instances], predicted: Iterable[Instances], categories: Mapping[str, int]) -> Score:
    """The contests' score of predictions against truth, paired by image_id.

    categories: names and labels of the classes that count, at least one; instances of others are not looked at.
    per_image: mean over the classes. per_class: mean over the images. An image without a prediction counts as predicted
    empty. Raises InputError for an id that occurs twice or that the truth does not have, for sizes that differ, and
    where there is no image at all.
    """
    images = paired(truth, predicted)
    labels = list(categories.values())
    table = np.stack([dice(target, guess, labels) for target, guess in images.values()])
    per_class = dict(zip(categories, table.mean(axis=0).tolist(), strict=True))
    return Score("dice", float(table.mean()), tuple(images), table.mean(axis=1), per_class)


def dice(truth: Instances, predicted: Instances, labels: Sequence[int]) -> Float:
    """Dice of one image for each of K labels, float64 (K,), 0 to 1; both on canvases of one size."""
    a, b = _covered([truth], labels), _covered([predicted], labels)
    common = a + b - _covered([truth, predicted], labels)
    return np.where(a + b > 0, 2 * common / np.maximum(a + b, 1), 1.0)


def _covered(images: Sequence[Instances], labels: Sequence[int]) -> Int:
    """Pixels of one canvas that the instances of each label hold together, int64 (K,)."""
    columns = [(one.runs.start, one.runs.stop, one.labels[one.runs.instance]) for one in images]
    start, stop, label = (np.concatenate(parts) for parts in zip(*columns, strict=True))
    result = np.zeros(len(labels), np.int64)
    for place, wanted in enumerate(labels):
        own = np.flatnonzero(label == wanted)
        own = own[rising(start[own])]
        # What a run adds is what lies beyond all that those before it reach.
        reach = np.concatenate([[0], np.maximum.accumulate(stop[own])])[: own.size]
        result[place] = np.maximum(stop[own] - np.maximum(start[own], reach), 0).sum()
    return result
