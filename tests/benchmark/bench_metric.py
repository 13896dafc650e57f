"""The contest's metric on crowded images, from RLE and from text, and the sweep over thresholds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from harness import Row
from numpy.typing import NDArray
from pycocotools import mask as coco_mask
from scipy.optimize import linear_sum_assignment

from pipeline.instances import Instances
from pipeline.masks.geometry import remove_overlaps
from pipeline.masks.runs import Runs, area, concatenate, pixels, to_coco
from pipeline.masks.text import from_text, to_text
from pipeline.masks.windows import crop
from pipeline.metrics.mean_precision import compare, count_hits, mean_precision
from pipeline.metrics.sweep import sweep

HEIGHT, WIDTH = SIZE = (520, 704)
THRESHOLDS = [t / 100 for t in range(50, 100, 5)]
SCORES, AREAS = np.linspace(0.05, 0.95, 25), list(range(0, 200, 10))
Counts = NDArray[np.int64]


def rows(data: Path) -> Iterator[Row]:
    table = pd.read_csv(data / "sartorius" / "train_all_annotations.csv", usecols=["id", "annotation"])
    counts = table.id.value_counts()
    near = counts.index[(counts - 550).abs().argsort(kind="stable")][:4]
    truth = [from_text(table.annotation[table.id == name].tolist(), SIZE, "row") for name in near]
    generator = np.random.default_rng(0)
    scores = [generator.random(len(one)).astype(np.float32) for one in truth]
    # Guesses are the truth a pixel to the left or up by turns: IoUs on both sides of every threshold.
    guesses = [remove_overlaps(moved(one), score) for one, score in zip(truth, scores, strict=True)]
    seen = [area(one) > 0 for one in guesses]
    guesses = [one.select(kept) for one, kept in zip(guesses, seen, strict=True)]
    scores = [one[kept] for one, kept in zip(scores, seen, strict=True)]
    work = f"contest metric, {len(truth)} images with {min(map(len, truth))}-{max(map(len, truth))} instances"
    # The peers take truth that does not overlap itself.
    truth = [remove_overlaps(one, -np.arange(len(one))) for one in truth]
    yield from from_masks(work, truth, guesses)
    yield from_strings(work, truth, guesses)
    yield from_one_pass(truth, guesses, scores)


def moved(runs: Runs) -> Runs:
    """Every second mask a pixel to the left, the others a pixel up."""
    left, up = crop(runs, (1, 0, WIDTH, HEIGHT), SIZE), crop(runs, (0, 1, WIDTH, HEIGHT), SIZE)
    index = np.arange(len(runs))
    return concatenate([left, up], SIZE).select(index + index % 2 * len(runs))


def instances(images: Sequence[tuple[str, ...]], scores: Sequence[NDArray[np.float32]]) -> list[Instances]:
    """New ones for every call: an Instances keeps its runs once it has read them."""
    return [
        Instances(str(k), SIZE, score, np.ones(len(masks), np.int64), masks)
        for k, (masks, score) in enumerate(zip(images, scores, strict=True))
    ]


def ones(images: Sequence[Sequence[object]]) -> list[NDArray[np.float32]]:
    return [np.ones(len(one), np.float32) for one in images]


def same_counts(ours: Counts, theirs: Counts) -> None:
    np.testing.assert_array_equal(ours, theirs)


def from_masks(work: str, truth: Sequence[Runs], guesses: Sequence[Runs]) -> Iterator[Row]:
    """Ours from the runs of pasted masks, and from the COCO RLE of files; the peer from label images.

    The peer does as stardist.matching.matching does (0.9.2, which takes 1.15 times as long), with NumPy's bincount for
    its compiled loop, without relabelling and other figures; "above" instead of "at least", as the contest has it.
    """
    known, guessed = ([tuple(to_coco(one)) for one in side] for side in (truth, guesses))
    labels = [tuple(map(label_image, pair)) for pair in zip(truth, guesses, strict=True)]

    def from_runs() -> Counts:
        return np.array([count_hits(compare(*pair)).tp for pair in zip(truth, guesses, strict=True)])

    def from_rle() -> Counts:
        return mean_precision(instances(known, ones(known)), instances(guessed, ones(guessed))).tp

    def theirs() -> Counts:
        return np.array([matching(*pair) for pair in labels])

    peer = "as stardist.matching: label images, dense IoU, linear_sum_assignment at each threshold"
    yield Row(f"{work}, from runs", peer, from_runs, theirs, same_counts, goal=10, repeats=(15, 3))
    yield Row(f"{work}, from COCO RLE", peer, from_rle, theirs, same_counts, goal=6, repeats=(15, 3))


def label_image(runs: Runs) -> NDArray[np.int32]:
    """Numbers of the masks from 1, int32 (H, W); 0 is background."""
    flat = np.zeros(HEIGHT * WIDTH, np.int32)
    place, owner = pixels(runs)
    flat[place] = owner + 1
    return np.ascontiguousarray(flat.reshape(WIDTH, HEIGHT).T)


def matching(truth: NDArray[np.int32], guess: NDArray[np.int32]) -> list[int]:
    """True positives at each threshold."""
    shape = (int(truth.max()) + 1, int(guess.max()) + 1)
    overlap = np.bincount(truth.ravel() * shape[1] + guess.ravel(), minlength=shape[0] * shape[1]).reshape(shape)
    union = overlap.sum(axis=0, keepdims=True) + overlap.sum(axis=1, keepdims=True) - overlap
    iou = np.divide(overlap, union, out=np.zeros(shape), where=union > 0)[1:, 1:]
    hits = []
    for threshold in THRESHOLDS:
        costs = -(iou > threshold).astype(float) - iou / (2 * min(iou.shape))
        first, second = linear_sum_assignment(costs)
        hits.append(int(np.count_nonzero(iou[first, second] > threshold)))
    return hits


def from_strings(work: str, truth: Sequence[Runs], guesses: Sequence[Runs]) -> Row:
    """From two columns of text, image by image, to the hits at each threshold.

    Text down the columns, which pycocotools can take without decoding.
    """
    known, guessed = ([to_text(one, "column") for one in side] for side in (truth, guesses))

    def ours() -> Counts:
        images = zip(known, guessed, strict=True)
        return np.array([count_hits(compare(*(from_text(one, SIZE, "column") for one in pair))).tp for pair in images])

    def theirs() -> Counts:
        return np.array([hits(*pair) for pair in zip(known, guessed, strict=True)])

    return Row(
        f"{work}, from the strings of two CSVs",
        "split, pycocotools.frPyObjects, pycocotools.iou, loop over thresholds",
        ours, theirs, same_counts, goal=6, repeats=(15, 5),
    )  # fmt: skip


def hits(known: Sequence[str], guessed: Sequence[str]) -> list[int]:
    first, second = ([encoded(text) for text in side] for side in (known, guessed))
    iou = coco_mask.iou(first, second, [0] * len(second))
    return [precision_at(threshold, iou)[0] for threshold in THRESHOLDS]


def precision_at(threshold: float, iou: NDArray[np.float64]) -> tuple[int, int, int]:
    """Hits, false alarms and misses as the notebooks of both contests count them; iou: (truth, guesses)."""
    matches = iou > threshold
    hit = np.sum(matches, axis=1) == 1
    missed = np.sum(matches, axis=1) == 0
    false_alarm = np.sum(matches, axis=0) == 0
    return int(np.sum(hit)), int(np.sum(false_alarm)), int(np.sum(missed))


def encoded(text: str) -> dict[str, object]:
    """COCO RLE of "start length start length …"."""
    values = list(map(int, text.split()))
    counts, place = [], 0
    for start, length in zip(values[0::2], values[1::2], strict=True):
        counts += [start - 1 - place, length]
        place = start - 1 + length
    counts.append(HEIGHT * WIDTH - place)
    result: dict[str, object] = coco_mask.frPyObjects({"size": list(SIZE), "counts": counts}, HEIGHT, WIDTH)
    return result


def from_one_pass(truth: Sequence[Runs], guesses: Sequence[Runs], scores: Sequence[NDArray[np.float32]]) -> Row:
    """Both from COCO RLE to the table of totals: the peer compares the masks once, then loops."""
    known, guessed = ([tuple(to_coco(one)) for one in side] for side in (truth, guesses))

    def ours() -> NDArray[np.float64]:
        return sweep(instances(known, ones(known)), instances(guessed, scores), SCORES, AREAS).totals

    def theirs() -> NDArray[np.float64]:
        images = [compared(*three) for three in zip(known, guessed, scores, strict=True)]
        table = [[np.mean([at(s, a, *image) for image in images]) for a in AREAS] for s in SCORES.astype(np.float32)]
        return np.array(table)

    def equal(ours: NDArray[np.float64], theirs: NDArray[np.float64]) -> None:
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-12)

    return Row(
        f"sweep over {len(SCORES)} score thresholds × {len(AREAS)} areas, {len(truth)} such images",
        "pycocotools.iou once, then loops over points, images and thresholds",
        ours, theirs, equal, goal=160, repeats=(9, 1),
    )  # fmt: skip


def compared(
    known: Sequence[str], guessed: Sequence[str], scores: NDArray[np.float32]
) -> tuple[NDArray[np.float64], NDArray[np.float32], NDArray[np.int64]]:
    first, second = ([{"size": list(SIZE), "counts": text} for text in side] for side in (known, guessed))
    # One by one: with NumPy 2 the areas of a list of 256 masks or more are wrong.
    areas = np.array([coco_mask.area(rle) for rle in second], np.int64)
    return coco_mask.iou(first, second, [0] * len(second)), scores, areas


def at(
    score: np.float32, least: int, iou: NDArray[np.float64], scores: NDArray[np.float32], areas: NDArray[np.int64]
) -> float:
    """The score of one image at one point."""
    kept = iou[:, (scores >= score) & (areas >= least)]
    result = []
    for threshold in THRESHOLDS:
        tp, fp, fn = precision_at(threshold, kept)
        result.append(tp / (tp + fp + fn) if tp + fp + fn else 1.0)
    return float(np.mean(result))
