"""How good probabilities are of what is in an image."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

_SUREST = 1e-6  # no answer is taken to be surer: one wrong 0 would make the mean infinite

Probabilities = NDArray[np.float32]
Truth = NDArray[np.bool_]


def log_loss(probable: Probabilities, there: Truth) -> float:
    """Mean binary cross-entropy, at least 0, of probabilities (n, K) that a category is there; 0 of no image."""
    sure = np.clip(probable.astype(np.float64), _SUREST, 1 - _SUREST)
    return float(-np.log(np.where(there, sure, 1 - sure)).mean()) if there.size else 0.0


def ranking(probable: Probabilities, there: Truth) -> float | None:
    """Area under the ROC curve, 0 to 1, as a mean over the categories; None where there is none to rank.

    Of one category it is the probability that an image with it has the higher probability than one without, ties
    counting half: the statistic of Mann and Whitney. Categories that all images have, or none, are left out.
    """
    values = [_ranking(*one) for one in zip(probable.T, there.T, strict=True) if 0 < one[1].sum() < len(one[1])]
    return float(np.mean(values)) if values else None


def _ranking(probable: Probabilities, there: Truth) -> float:
    count = int(there.sum())
    above = rankdata(probable)[there].sum() - count * (count + 1) / 2
    return float(above / (count * (len(there) - count)))
