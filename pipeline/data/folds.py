"""Splits training images into folds of equal size that look alike, without ever splitting a group.

Groups (images of one plate, one patient, one frame) are put in the order of their stratum (which categories they
show, the image size, the tercile of instances per image) and dealt like cards, one to each fold and round. In a round
the group with the most images, then instances, goes to the fold that has the fewest so far. From that follow the
tolerances, which hold for every input:

- the number of images of two folds differs by at most the largest group (so by at most 1 without groups);
- without groups, their instances differ by at most the instances of the most crowded image;
- without groups, their images of one stratum differ by at most 2.

The fold of an image depends on the names, the content and the seed, never on the order in which images are listed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.data import coco as views
from pipeline.data.coco import Coco
from pipeline.errors import ConfigError, InputError


@dataclass(frozen=True)
class _Group:
    """Images that must stay together: their rows in the COCO dict, instances in all, and what they look like."""

    rows: list[int]
    instances: int
    stratum: tuple[Any, ...]


def assign(coco: Coco, n_folds: int, seed: int) -> np.ndarray:
    """Fold of each image: int64 (images,) in 0..n_folds - 1, in the order of the images.

    Raises ConfigError for fewer than two folds, InputError for fewer images or groups than folds.
    """
    if n_folds < 2:
        raise ConfigError(f"n_folds is {n_folds}, wanted 2 or more")
    groups = _groups(coco)
    _enough(len(coco["images"]), len(groups), n_folds)
    random = np.random.default_rng(seed)
    groups = [groups[i] for i in random.permutation(len(groups))]
    groups.sort(key=lambda group: group.stratum)
    folds = np.zeros(len(coco["images"]), np.int64)
    for fold, dealt in enumerate(_deal(groups, n_folds, random)):
        folds[[row for group in dealt for row in group.rows]] = fold
    return folds


def _deal(groups: list[_Group], n_folds: int, random: np.random.Generator) -> list[list[_Group]]:
    """One group to each fold and round: the largest of the round to the fold that has the least."""
    hands: list[list[_Group]] = [[] for _ in range(n_folds)]
    totals = [(0, 0)] * n_folds
    for start in range(0, len(groups), n_folds):
        dealt = sorted(groups[start : start + n_folds], key=lambda group: (-len(group.rows), -group.instances))
        luck = random.permutation(n_folds).tolist()
        poorest = sorted(range(n_folds), key=lambda fold: (totals[fold], luck[fold]))
        for group, fold in zip(dealt, poorest, strict=False):
            hands[fold].append(group)
            totals[fold] = (totals[fold][0] + len(group.rows), totals[fold][1] + group.instances)
    return hands


def _groups(coco: Coco) -> list[_Group]:
    """Groups in the order of their first name, so that the order of the images does not matter."""
    table = views.counts(coco)
    terciles = _terciles(table.sum(1))
    members: dict[str, list[int]] = {}
    for row in sorted(range(len(coco["images"])), key=lambda row: coco["images"][row]["name"]):
        members.setdefault(coco["images"][row]["group"], []).append(row)
    return [_Group(rows, int(table[rows].sum()), _stratum(coco, table, terciles, rows)) for rows in members.values()]


def _stratum(coco: Coco, table: np.ndarray, terciles: np.ndarray, rows: list[int]) -> tuple[Any, ...]:
    """Categories from the most to the least frequent, size of the first image, median tercile of instances."""
    total = table[rows].sum(0)
    mix = tuple(int(c) for c in np.argsort(-total, kind="stable") if total[c])
    first = coco["images"][rows[0]]
    return mix, (first["height"], first["width"]), float(np.median(terciles[rows]))


def _terciles(instances: np.ndarray) -> np.ndarray:
    """Tercile 0, 1 or 2 of each image by its number of instances; equal numbers share a tercile."""
    if not len(instances):
        return np.zeros(0, np.int64)
    return np.searchsorted(np.quantile(instances, [1 / 3, 2 / 3]), instances, side="left")


def _enough(images: int, groups: int, n_folds: int) -> None:
    if groups < n_folds:
        kept = f" in {groups} groups that must stay together" if groups < images else ""
        remedy = f"Set n_folds={groups} or fewer" if groups > 1 else "Add training images"
        if kept:
            remedy += " (leaks=false leaves the groups out that were found from the pixels)"
        raise InputError(
            f"{n_folds} folds were asked for, but there are only {images} image{'s' * (images > 1)}{kept}. {remedy}."
        )
