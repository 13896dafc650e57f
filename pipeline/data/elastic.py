"""Elastic deformation: a smooth random displacement, through which image and masks are looked up alike."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.data.augment import Augment
from pipeline.masks.cells import BEND, Bend, Matrix


def drawn_bend(size: tuple[int, int], matrix: Matrix, spec: Augment, rng: np.random.Generator) -> Bend | None:
    """What to add to the map `matrix` of a sample of `size` (h, w), int32 (2, h, w) as in `pipeline.masks.cells`.

    The displacement, in pixels of the sample, is a uniform cubic B-spline of independent control points, each between
    -s and s along both axes, s being drawn from 0 to `spec.elastic`. A spline never leaves its control points' range,
    nor its slope that of their differences, 2 s over their distance: with a distance above 4 s both slopes of a
    coordinate stay below a half, and no two places of the sample show the same one. None where it is not drawn.
    """
    if not spec.elastic or rng.random() >= spec.often:
        return None
    strength = spec.elastic * rng.random()
    down, across = (_spline(length, spec.elastic_every) for length in size)
    points = strength * rng.uniform(-1, 1, (2, down.shape[1], across.shape[1]))
    # The map is linear, so that it may be applied to the few control points.
    points = BEND * np.tensordot(matrix[:, :2], points, 1)
    # By torch, which keeps to the threads that it was given.
    found = (torch.from_numpy(down) @ torch.from_numpy(points) @ torch.from_numpy(across).T).numpy()
    return np.rint(found, out=found).astype(np.int32)


def _spline(length: int, every: float) -> NDArray[np.float64]:
    """Weights (length, n) of n control points, `every` pixels apart, at the centres of `length` pixels; rows sum to 1.

    The four pieces of the uniform cubic B-spline (de Boor, A Practical Guide to Splines, chapter IX).
    """
    at = (np.arange(length) + 0.5) / every
    first = np.floor(at).astype(np.int64)
    t = at - first
    pieces = ((1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3)
    weights = np.zeros((length, int(first[-1]) + 4))
    for k, piece in enumerate(pieces):
        weights[np.arange(length), first + k] = piece / 6
    return weights
