"""Truth and prediction of the same images, side by side."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from pipeline.errors import InputError
from pipeline.instances import Instances


def paired(truth: Iterable[Instances], predicted: Iterable[Instances]) -> dict[str, tuple[Instances, Instances]]:
    """Truth and prediction of each image by its id, in the order of the truth; a missing prediction is an empty one.

    Raises InputError for an id that occurs twice or that the truth does not have, for sizes that differ, and where
    there is no image at all.
    """
    known, guesses = _by_id(truth, "truth"), _by_id(predicted, "predictions")
    _check_ids(known, guesses)
    pairs = {name: (one, guesses.get(name, Instances.empty(name, one.size))) for name, one in known.items()}
    for one, guess in pairs.values():
        check_size(one, guess)
    return pairs


def check_size(truth: Instances, predicted: Instances) -> None:
    """Raises InputError where truth and prediction of one image do not lie on canvases of one size."""
    if tuple(truth.size) != tuple(predicted.size):
        raise InputError(
            f"image {truth.image_id}: the prediction is made for {predicted.size[0]}×{predicted.size[1]} pixels "
            f"(height × width), the truth has {truth.size[0]}×{truth.size[1]}; both must describe the same canvas"
        )


def check_thresholds(thresholds: Sequence[int]) -> None:
    """Raises ValueError unless there is at least one threshold and all are integer hundredths of IoU, 0-100."""
    wrong = [t for t in thresholds if isinstance(t, bool) or not isinstance(t, (int, np.integer)) or not 0 <= t <= 100]
    if wrong or len(thresholds) == 0:
        raise ValueError(
            f"thresholds: wanted integers 0-100 (hundredths of IoU), at least one; got {tuple(thresholds)}"
        )


def _by_id(images: Iterable[Instances], what: str) -> dict[str, Instances]:
    found: dict[str, Instances] = {}
    for image in images:
        if image.image_id in found:
            raise InputError(
                f"image {image.image_id} occurs twice in the {what}; each image must occur once, with all its instances"
            )
        found[image.image_id] = image
    return found


def _check_ids(truth: dict[str, Instances], predicted: dict[str, Instances]) -> None:
    if not truth:
        raise InputError("there is no image in the truth: nothing can be scored")
    unknown = [name for name in predicted if name not in truth]
    if unknown:
        raise InputError(
            f"{len(unknown)} of {len(predicted)} predicted images are not in the truth, the first is {unknown[0]}; "
            f"the truth has {len(truth)} images, the first is {next(iter(truth))}: give the truth of the same images"
        )
