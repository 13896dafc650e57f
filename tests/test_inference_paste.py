"""Soft masks pasted under both conventions; torchvision's own function is the oracle of its alignment."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from fixtures.dense import LAW, assert_lawful, assert_same
from hypothesis import given
from hypothesis import strategies as st
from torchvision.models.detection.roi_heads import paste_masks_in_image

from pipeline.inference.paste import paste
from pipeline.instances import Alignment, Detections
from pipeline.masks import windows
from pipeline.masks.runs import empty, from_dense
from pipeline.masks.text import from_text
from pipeline.model.targets import mask_targets


def random(count: int, size: tuple[int, int], bins: int, seed: int, alignment: Alignment = "torchvision") -> Detections:
    """Random probabilities in boxes that may be thin and lie partly outside the canvas, on which they have a pixel."""
    rng = np.random.default_rng(seed)
    low = rng.uniform(-8, np.array(size[::-1]) - 0.5, (count, 2))
    boxes = np.concatenate([low, np.maximum(low + rng.uniform(0, 30, (count, 2)), 0.5)], 1).astype(np.float32)
    masks = rng.random((count, bins, bins), np.float32)
    return Detections("a", size, boxes, np.ones(count, np.float32), np.ones(count, np.int64), masks, alignment)


def by_torchvision(found: Detections, threshold: float) -> np.ndarray:
    """What torchvision's function gives, bool (N, H, W)."""
    masks, boxes = torch.from_numpy(found.masks)[:, None], torch.from_numpy(found.boxes)
    return (paste_masks_in_image(masks, boxes, found.size)[:, 0] > threshold).numpy()


@LAW
@given(
    st.integers(0, 6),
    st.tuples(st.integers(1, 40), st.integers(1, 40)),
    st.sampled_from([1, 7, 28, 56]),
    st.integers(0, 2**32 - 1),
    st.sampled_from([0.5, 0.3, 0.0]),
)
def test_torchvisions_alignment_is_pasted_bit_for_bit(
    count: int, size: tuple[int, int], bins: int, seed: int, threshold: float
) -> None:
    found = random(count, size, bins, seed)
    pasted = paste(found, threshold)
    assert_lawful(pasted)
    assert_same(pasted, from_dense(by_torchvision(found, threshold)))


def test_300_detections_at_once_are_pasted_bit_for_bit() -> None:
    found = random(300, (97, 83), 28, 0)
    assert_same(paste(found), from_dense(by_torchvision(found, 0.5)))


def test_real_masks_in_torchvisions_alignment_are_pasted_bit_for_bit(real_data: Path) -> None:
    rows = pd.read_csv(real_data / "sartorius" / "train.csv", dtype=str).head(150)
    runs = from_text(rows["annotation"].tolist(), (520, 704), "row")
    cut = windows.windows(runs)
    boxes = (cut.boxes + np.random.default_rng(0).normal(0, 0.7, cut.boxes.shape)).astype(np.float32)
    masks = mask_targets(cut, torch.arange(len(runs)), torch.from_numpy(boxes), 28, "torchvision").numpy()
    columns = (boxes, np.ones(len(runs), np.float32), np.ones(len(runs), np.int64), masks)
    found = Detections("a", runs.size, *columns, "torchvision")
    assert_same(paste(found), from_dense(by_torchvision(found, 0.5)))


def test_a_box_outside_the_canvas_is_an_empty_mask_where_torchvision_fails() -> None:
    columns = (np.ones(1, np.float32), np.ones(1, np.int64), np.ones((1, 28, 28), np.float32), "torchvision")
    for box in ([30, 2, 40, 9], [-40, 2, -30, 9], [2, 30, 9, 40], [2, -40, 9, -30]):
        assert_same(paste(Detections("a", (20, 20), np.float32([box]), *columns)), empty(1, (20, 20)))


def test_aligned_detections_are_pasted_in_continuous_coordinates() -> None:
    found = random(20, (40, 50), 28, 3, "aligned")
    assert_same(paste(found, 0.4), windows.paste(found.masks, found.boxes, found.size, 0.4))
    assert paste(found).start.tolist() != paste(replace(found, alignment="torchvision")).start.tolist()


@pytest.mark.parametrize("alignment", ["aligned", "torchvision"])
def test_no_detections_are_no_masks(alignment: Alignment) -> None:
    none = replace(Detections.empty("a", (5, 6), 28), alignment=alignment)
    assert_same(paste(none), empty(0, (5, 6)))


@pytest.mark.parametrize("alignment", ["aligned", "torchvision"])
def test_pasting_changes_no_detection(alignment: Alignment) -> None:
    found = random(5, (40, 50), 28, 1, alignment)
    for column in (found.boxes, found.masks, found.scores):
        column.flags.writeable = False
    paste(found)
