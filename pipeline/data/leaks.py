"""Images that show the same, found from their pixels: near duplicates, and tiles that were cut from one frame.

In two folds such images leak: what is learned from the one is known of the other. Borders and thumbnails are compared
by their correlation, which knows neither brightness nor contrast; those that are (nearly) uniform say nothing. The
thresholds were set on DSB2018, whose seams then fit together to frames without a contradiction. Tiles that overlap, or
that are turned or mirrored, are not found.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.data.coco import Coco
from pipeline.data.looks import SIDE, Float, Look
from pipeline.masks.intervals import components

SAME = 0.95  # correlation of thumbnails from which two images are near duplicates
COARSE = 0.85  # the same of their averages over 8 x 8 squares, or 32 parts of a border: candidates
CONTINUED = 0.9  # correlation of the two lines of pixels on either side of a seam
STEP = 1.25  # most that the lines differ across the seam, in units of what neighbouring lines in the images do
SMOOTH = 0.1  # least of that unit, in standard deviations of the lines: smooth images have no grain to go by
RIVAL = 0.7  # 1 - correlation of the best continuation, as a share of that of the second best (Lowe's ratio test, 2004)
VALUES = 8  # different grey values that a line or a thumbnail has at least: fewer say nothing
LEAST = 16  # pixels of a side: shorter ones say nothing
CANDIDATES = 8  # of an image or a border
_ALIKE = 4  # images that it takes until what all images have in common is no sign of a duplicate
_ROWS = 256  # compared with all others at a time


@dataclass(frozen=True)
class Pair:
    """Two images that belong in one fold. measure: the correlation, 0 to 1.

    kind: duplicate (they show the same), right (the second continues the first to the right), below (downwards).
    """

    kind: Literal["duplicate", "right", "below"]
    first: str
    second: str
    measure: float


def find(names: Sequence[str], looks: Sequence[Look]) -> list[Pair]:
    """Pairs of near duplicates and of neighbouring tiles among the images, sorted; the order of the images is free."""
    order = sorted(range(len(names)), key=names.__getitem__)
    names, looks = [names[i] for i in order], [looks[i] for i in order]
    small = np.array([min(one.left.shape[1], one.top.shape[1]) < LEAST for one in looks], bool)
    thumbs = np.array([one.thumb for one in looks], np.float32).reshape(len(looks), SIDE * SIDE)
    same = list(_duplicates(thumbs, small))
    # Of images that show the same one speaks for all: the others would be its rivals.
    root = _roots(len(names), [pair[:2] for pair in same])
    single = np.flatnonzero(root == np.arange(len(names)))
    chosen = [looks[i] for i in single.tolist()]
    right = _neighbours([one.right for one in chosen], [one.left for one in chosen])
    below = _neighbours([one.bottom for one in chosen], [one.top for one in chosen])
    pairs = [Pair("duplicate", names[i], names[j], measure) for i, j, measure in same]
    pairs += [Pair("right", names[single[i]], names[single[j]], measure) for i, j, measure in right]
    pairs += [Pair("below", names[single[i]], names[single[j]], measure) for i, j, measure in below]
    return sorted(pairs, key=lambda pair: (pair.kind, pair.first, pair.second))


def join(coco: Coco, pairs: Sequence[Pair]) -> Coco:
    """The dict with groups that hold both images of every pair: each the first name of the groups that it unites."""
    groups = sorted({image["group"] for image in coco["images"]})
    number = {group: i for i, group in enumerate(groups)}
    of = {image["name"]: number[image["group"]] for image in coco["images"]}
    root = _roots(len(groups), [(of[pair.first], of[pair.second]) for pair in pairs])
    images = [{**image, "group": groups[root[number[image["group"]]]]} for image in coco["images"]]
    return {**coco, "images": images}


def report(coco: Coco, pairs: Sequence[Pair], plain: NDArray[np.int64], n_folds: int) -> dict[str, Any]:
    """What was found, for `leaks.json`: the pairs, the groups of several images, and what folds without them leak.

    coco: with the joined groups. plain: int64 (images,), folds of the images that know nothing of the pairs. A pair
    leaks if its images are in two folds; in `expected` the folds are drawn at random, of equal size.
    """
    fold = {image["name"]: number for image, number in zip(coco["images"], plain.tolist(), strict=True)}
    members: dict[str, list[str]] = {}
    for image in coco["images"]:
        members.setdefault(image["group"], []).append(image["name"])
    groups = sorted((sorted(names) for names in members.values() if len(names) > 1), key=lambda n: (-len(n), n))
    count = len(coco["images"])
    apart = (count - count / n_folds) / max(count - 1, 1)
    return {
        "version": 1,
        "images": count,
        "counts": {kind: sum(pair.kind == kind for pair in pairs) for kind in ("duplicate", "right", "below")},
        "images_in_pairs": len({name for pair in pairs for name in (pair.first, pair.second)}),
        "leaked": {
            "n_folds": n_folds,
            "expected": round(len(pairs) * apart, 1),
            "plain_split": sum(fold[pair.first] != fold[pair.second] for pair in pairs),
        },
        "pairs": [asdict(pair) for pair in pairs],
        "groups": groups,
    }


def summary(found: Mapping[str, Any]) -> str:
    """One line of a report."""
    kinds, leaked, groups = found["counts"], found["leaked"], found["groups"]
    tiles = kinds["right"] + kinds["below"]
    return (
        f"near duplicates: {kinds['duplicate']} pairs, neighbouring tiles: {tiles}, images in them: "
        f"{found['images_in_pairs']}. With the contest's own groups there are {len(groups)} groups of up to "
        f"{max(map(len, groups), default=1)} images, each in one fold. A plain split into {leaked['n_folds']} folds "
        f"would leak {leaked['plain_split']} pairs, a random one {leaked['expected']:g}"
    )


def _roots(count: int, pairs: Sequence[tuple[int, int]]) -> NDArray[np.int64]:
    """Of each of `count` things the first of those that pairs join it with, int64 (count,)."""
    one, other = np.array(pairs, np.int64).reshape(-1, 2).T
    return components(count, one, other)


def _duplicates(thumbs: Float, small: NDArray[np.bool_]) -> Iterator[tuple[int, int, float]]:
    """Pairs i < j of near duplicates, and their correlation. thumbs: float32 (n, 32 * 32). small: (n,), say nothing."""
    fine = _normal(thumbs)
    coarse = _normal(thumbs.reshape(-1, 8, SIDE // 8, 8, SIDE // 8).mean((2, 4)).reshape(-1, 64))
    coarse[_flat(thumbs) | small] = 0
    total = fine.sum(0, dtype=np.float64)
    found = {(min(i, j), max(i, j)) for i, j in _candidates(coarse, coarse) if i != j}
    for i, j in sorted(found):
        # What the other images show too (the rim of a dish, a lamp's light) is taken away before it is compared.
        common = (total - fine[i] - fine[j]) / (len(thumbs) - 2 + _ALIKE)
        measure = _correlation(fine[i] - common, fine[j] - common)
        if measure > SAME:
            yield i, j, round(measure, 4)


def _neighbours(ends: Sequence[Float], begins: Sequence[Float]) -> Iterator[tuple[int, int, float]]:
    """Pairs (i, j), and their correlation: where image i ends, image j begins.

    ends, begins: of each image two lines of pixels, float32 (2, L), the outer one first.
    """
    lengths = np.array([line.shape[1] for line in ends], np.int64)
    for length in np.unique(lengths[lengths >= LEAST]).tolist():
        own = np.flatnonzero(lengths == length)
        end, begin = (np.stack([lines[i] for i in own.tolist()]) for lines in (ends, begins))
        for i, j, measure in _seams(end, begin):
            yield int(own[i]), int(own[j]), measure


def _seams(end: Float, begin: Float) -> Iterator[tuple[int, int, float]]:
    """The same for lines of one length: float32 (n, 2, L)."""
    parts = np.linspace(0, end.shape[2], min(end.shape[2], 32) + 1).astype(int)
    coarse = [_normal(np.stack([x[:, 0, a:b].mean(1) for a, b in pairwise(parts)], 1)) for x in (end, begin)]
    for lines, rough in zip((end, begin), coarse, strict=True):
        rough[_flat(lines[:, 0])] = 0
    found = [(i, j) for i, j in _candidates(*coarse) if i != j]
    measures = [_correlation(end[i, 0], begin[j, 0]) for i, j in found]
    best: dict[tuple[str, int], list[float]] = {}
    for (i, j), measure in zip(found, measures, strict=True):
        for border in (("end", i), ("begin", j)):
            best[border] = sorted([*best.get(border, []), 1 - measure])[:2]
    for (i, j), measure in zip(found, measures, strict=True):
        alone = all(
            other == 1 - measure and 1 - measure <= RIVAL * next(iter(rivals), 1.0)
            for other, *rivals in (best["end", i], best["begin", j])
        )
        if alone and measure > CONTINUED and _step(end[i], begin[j]) < STEP:
            yield i, j, round(measure, 4)


def _step(end: Float, begin: Float) -> float:
    """What the lines at a seam differ by, in units of what the lines next to the seam do inside the two images."""
    inside = (np.abs(end[0] - end[1]).mean() + np.abs(begin[0] - begin[1]).mean()) / 2
    least = SMOOTH * (end[0].std() + begin[0].std()) / 2
    return float(np.abs(end[0] - begin[0]).mean() / max(inside, least))


def _candidates(one: Float, other: Float) -> Iterator[tuple[int, int]]:
    """Rows i and j whose product is at least COARSE; of each i the best few. float32 (n, d) of length 1 or 0."""
    for first in range(0, len(one), _ROWS):
        product = one[first : first + _ROWS] @ other.T
        if product.shape[1] > CANDIDATES + 1:  # one more: itself
            least = np.partition(product, -CANDIDATES - 1, axis=1)[:, -CANDIDATES - 1]
            product[product < least[:, None]] = 0
        i, j = np.nonzero(product >= COARSE)
        yield from zip((i + first).tolist(), j.tolist(), strict=True)


def _flat(lines: Float) -> NDArray[np.bool_]:
    """Rows with few different values, bool (n,). lines: float32 (n, d)."""
    ordered = np.sort(lines, axis=1)
    flat: NDArray[np.bool_] = (np.diff(ordered, axis=1) > 0).sum(1) + 1 < VALUES
    return flat


def _normal(rows: Float) -> Float:
    """Each row less its average, scaled to length 1; a uniform row becomes 0."""
    centred = rows - rows.mean(1, keepdims=True, dtype=np.float64)
    length = np.sqrt((centred**2).sum(1, keepdims=True))
    scaled: Float = (centred / np.where(length > 1e-6, length, np.inf)).astype(np.float32)
    return scaled


def _correlation(one: NDArray[Any], other: NDArray[Any]) -> float:
    a, b = (_normal(row[None].astype(np.float64))[0].astype(np.float64) for row in (one, other))
    return float(a @ b)
