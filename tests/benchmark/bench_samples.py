"""Training samples of crowded images: the targets of a crop, and a whole sample, against the dense way.

The truth is that of two real images of Sartorius, 121 and 782 instances. The second one's picture is not among the
public files: the pixels of another picture of the same size stand in, for both sides.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from harness import Row
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco_mask

from pipeline.data.annotations import Annotations, gather
from pipeline.data.augment import Augment, crop_box, least, place
from pipeline.data.dataset import Sample, TrainingSamples
from pipeline.data.pixels import open_pixels
from pipeline.masks.cells import view
from pipeline.masks.runs import area, to_coco
from pipeline.masks.text import from_text
from pipeline.masks.windows import Windows

try:
    import cv2
except ImportError:  # no dependency of the project: Pillow does the peer's work then
    cv2 = None

SIZE = (520, 704)
CROWDS = {"1de9612cb6e1": "1de9612cb6e1", "d164e96bb7a9": "0eb1d03df587"}  # image id: picture
SIDE = 256
BATCH = 8  # samples of one measurement: a worker process makes one after the other
AFFINE = Augment(
    crop=SIDE, symmetries=True, brightness=0.2, contrast=0.2, gamma=0.3, invert=0.0, grey=0.0, min_area=8,
    min_share=0.1, rotation=180.0, scale=0.3, stretch=0.1, shear=5.0,
)  # fmt: skip
Targets = tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.int64]]  # masks (N, H, W), boxes (N, 4), labels (N,)


def rows(data: Path) -> Iterator[Row]:
    """Targets of a crop, then whole samples."""
    root = data / "sartorius"
    if cv2 is not None:
        cv2.setNumThreads(torch.get_num_threads())
    coco = _coco(root)
    annotations = gather(coco, list(CROWDS))
    crowd, counts = len(CROWDS) - 1, np.diff(annotations.instances)
    places = [crop_box(SIZE, AFFINE, np.random.default_rng(seed)) for seed in range(BATCH)]
    rles = _rles(coco, crowd)
    yield Row(
        f"targets of {BATCH} crops {SIDE}×{SIDE} of an image with {counts[crowd]} instances",
        "decode all (pycocotools), crop, boxes of what is left",
        lambda: [_cropped(annotations, crowd, box) for box in places],
        lambda: [_decoded(rles, box) for box in places],
        _same_targets,
        goal=300,
        repeats=(15, 1),
    )
    with tempfile.TemporaryDirectory() as folder:
        pixels = open_pixels(root, coco["images"], Path(folder), quiet=True)
        samples = TrainingSamples(root, annotations, AFFINE, 0, pixels)
        for index, goal in enumerate((150, 600)):
            files, rles = coco["images"][index]["file_name"], _rles(coco, index)
            yield Row(
                f"{BATCH} samples (affine, {SIDE}×{SIDE}) of an image with {counts[index]} instances, "
                "pixels from the map of decoded images",
                f"{'cv2' if cv2 else 'Pillow'}: read PNG, decode all, warp image and every mask, crop, boxes",
                partial(_samples, samples, index),
                partial(_dense_samples, root / files, rles, index),
                _same_samples,
                goal=goal,
                repeats=(15, 1),
            )


def _coco(root: Path) -> dict[str, Any]:
    table = pd.read_csv(root / "train_all_annotations.csv", usecols=["id", "annotation"])
    images, found = [], []
    for number, (name, picture) in enumerate(CROWDS.items(), 1):
        file = f"train/{picture}.png"
        images.append({"id": number, "name": name, "file_name": file, "height": SIZE[0], "width": SIZE[1]})
        runs = from_text(table.annotation[table.id == name].tolist(), SIZE, "row")
        found += [
            {
                "image_id": number,
                "category_id": 1 + i % 3,
                "area": pixels,
                "segmentation": {"size": SIZE, "counts": rle},
            }
            for i, (pixels, rle) in enumerate(zip(area(runs).tolist(), to_coco(runs), strict=True))
        ]
    return {"images": images, "annotations": found}


def _rles(coco: dict[str, Any], index: int) -> list[dict[str, Any]]:
    return [row for row in coco["annotations"] if row["image_id"] == index + 1]


# Targets of a crop --------------------------------------------------------------------------------------------------


def _cropped(annotations: Annotations, index: int, box: tuple[int, int, int, int]) -> tuple[Windows, NDArray[np.int64]]:
    x0, y0, _, _ = box
    own = annotations.of(index)
    matrix = np.array([[1.0, 0, x0], [0, 1, y0]])
    masks, shown = view(annotations.cells(index), matrix, (SIDE, SIDE), least(annotations.areas[own], AFFINE))
    return masks, annotations.categories[own][shown].astype(np.int64)


def _decoded(rows: list[dict[str, Any]], box: tuple[int, int, int, int]) -> Targets:
    x0, y0, x1, y1 = box
    masks = np.stack([coco_mask.decode(row["segmentation"]) for row in rows])
    labels = np.array([row["category_id"] for row in rows])
    part = masks[:, y0:y1, x0:x1]
    left = part.sum((1, 2))
    keep = (left >= AFFINE.min_area) & (left >= AFFINE.min_share * np.array([row["area"] for row in rows]))
    return _with_boxes(part[keep], labels[keep])


def _with_boxes(masks: NDArray[np.uint8], labels: NDArray[np.int64]) -> Targets:
    boxes = np.zeros((len(masks), 4), np.int64)
    for i, mask in enumerate(masks):
        y, x = np.nonzero(mask)
        boxes[i] = x.min(), y.min(), x.max() + 1, y.max() + 1
    return masks, boxes, labels


# Whole samples ------------------------------------------------------------------------------------------------------


def _samples(samples: TrainingSamples, index: int) -> list[Sample]:
    return [samples[position, index] for position in range(BATCH)]


def _dense_samples(file: Path, rows: list[dict[str, Any]], index: int) -> list[tuple[NDArray[np.uint8], Targets]]:
    return [_dense(file, rows, position, index) for position in range(BATCH)]


def _dense(file: Path, rows: list[dict[str, Any]], position: int, index: int) -> tuple[NDArray[np.uint8], Targets]:
    """The same sample: what is drawn is drawn alike, the map is applied to the picture and to every mask."""
    rng = np.random.default_rng((0, position, index))
    matrix, size = place(SIZE, AFFINE, rng)
    image = _read(file)
    masks = [coco_mask.decode(row["segmentation"]) for row in rows]
    labels = np.array([row["category_id"] for row in rows])
    warped = np.stack([_warp(mask, matrix, size, smooth=False) for mask in masks])
    left, areas = warped.sum((1, 2)), np.array([row["area"] for row in rows])
    magnified = 1 / abs(float(np.linalg.det(matrix[:, :2])))
    keep = (left >= AFFINE.min_area) & (left >= AFFINE.min_share * magnified * areas)
    picture = _light(_warp(image, matrix, size, smooth=True), rng)
    return picture, _with_boxes(warped[keep], labels[keep])


def _light(image: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Gamma, contrast and brightness in floating point, with the numbers that `pipeline.data.augment.light` draws."""
    shift, stretch, power = rng.uniform(-1, 1, 3)
    value = (image.astype(np.float32) / 255) ** np.float32(2 ** (power * AFFINE.gamma))
    mean = value.mean()
    value = (value - mean) * np.float32(1 + stretch * AFFINE.contrast) + mean
    value = value * np.float32(1 + shift * AFFINE.brightness)
    return np.rint(np.clip(value, 0, 1) * 255).astype(np.uint8)


def _read(file: Path) -> NDArray[np.uint8]:
    if cv2 is None:
        return np.asarray(Image.open(file).convert("RGB"))
    return np.asarray(cv2.imread(str(file))[:, :, ::-1])


def _warp(image: NDArray[np.uint8], matrix: NDArray[np.float64], size: tuple[int, int], smooth: bool) -> Any:
    """The whole image warped, then cropped."""
    height, width = image.shape[:2]
    x0, y0 = (width - size[1]) // 2, (height - size[0]) // 2
    whole = matrix.copy()
    whole[:, 2] -= matrix[:, :2] @ (x0, y0)  # the sample lies in the middle
    if cv2 is None:
        how = Image.Resampling.BILINEAR if smooth else Image.Resampling.NEAREST
        made = Image.fromarray(image).transform((width, height), Image.Transform.AFFINE, tuple(whole.ravel()), how)
        found = np.asarray(made)
    else:
        whole[:, 2] += whole[:, :2] @ (0.5, 0.5) - 0.5  # its pixel centres lie on whole numbers
        how = (cv2.INTER_LINEAR if smooth else cv2.INTER_NEAREST) | cv2.WARP_INVERSE_MAP
        found = cv2.warpAffine(image, whole, (width, height), flags=how)
    return found[y0 : y0 + size[0], x0 : x0 + size[1]]


# Equality -----------------------------------------------------------------------------------------------------------


def _opened(masks: Windows) -> NDArray[np.uint8]:
    dense = np.zeros((len(masks), *masks.size), np.uint8)
    for mask, (x0, y0, x1, y1), begin in zip(dense, masks.boxes.tolist(), masks.offset.tolist(), strict=True):
        part = masks.data[begin : begin + (x1 - x0) * (y1 - y0)]
        mask[y0:y1, x0:x1] = part.reshape(x1 - x0, y1 - y0).T
    return dense


def _same(masks: Windows, boxes: Any, labels: Any, wanted: Targets) -> None:
    np.testing.assert_array_equal(_opened(masks), wanted[0])
    np.testing.assert_array_equal(boxes, wanted[1])
    np.testing.assert_array_equal(labels, wanted[2])


def _same_targets(ours: list[tuple[Windows, NDArray[np.int64]]], theirs: list[Targets]) -> None:
    """Masks, boxes and labels to the last pixel; and there are overlaps to lose."""
    for (masks, labels), wanted in zip(ours, theirs, strict=True):
        _same(masks, masks.boxes, labels, wanted)
        assert (wanted[0].sum(0) > 1).any()


def _same_samples(ours: list[Sample], theirs: list[tuple[NDArray[np.uint8], Targets]]) -> None:
    """The same to the last pixel of every mask; the picture to one of 256 levels, and a level of the changed light.

    Pillow's map is in fixed point: of its masks one pixel in a thousand may be another, of its picture one level more.
    """
    for sample, (picture, wanted) in zip(ours, theirs, strict=True):
        masks = sample.target["masks"]
        if cv2 is None:
            other = _opened(masks).sum(0) != wanted[0].sum(0)
            assert other.mean() < 0.001, other.mean()
        else:
            _same(masks, sample.target["boxes"].numpy(), sample.target["labels"].numpy(), wanted)
        apart = np.abs(sample.image.permute(1, 2, 0).numpy().astype(int) - picture)
        assert apart.max() <= (4 if cv2 is None else 2), apart.max()
