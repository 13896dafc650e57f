from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from fixtures.dense import LAW
from hypothesis import given
from hypothesis import strategies as st
from skimage.filters import threshold_otsu

from pipeline.inference.paste import paste
from pipeline.masks.runs import to_dense
from pipeline.model.classical import Otsu
from pipeline.model.ready import ready
from pipeline.model.untrained import without_training
from pipeline.model.weights import load_detector

OTSU = Otsu(objects="fewer", blur=1.0, apart=5, min_area=20, mask_size=56)


def picture(seed: int = 0) -> tuple[torch.Tensor, np.ndarray]:
    """Bright disks on a dark noisy ground, uint8 (3, 64, 96), two of which touch; and the disks, bool (3, 64, 96)."""
    y, x = np.mgrid[:64, :96]
    disks = np.array([(y - cy) ** 2 + (x - cx) ** 2 <= 100 for cy, cx in ((20, 16), (20, 35), (44, 75))])
    levels = np.where(disks.any(0), 180, 40) + np.random.default_rng(seed).normal(0, 8, (64, 96))
    return torch.from_numpy(levels.clip(0, 255).astype(np.uint8)).expand(3, -1, -1), disks


@LAW
@given(st.integers(0, 10**6), st.sampled_from(["fewer", "bright"]))
def test_without_blur_the_plane_is_above_a_half_where_otsu_says_so(seed: int, objects: Any) -> None:
    image, _ = picture(seed)
    plane = dataclasses.replace(OTSU, blur=0.0, objects=objects).build(1).maps(image)[0].numpy()
    grey = image.float().mean(0).numpy()
    np.testing.assert_array_equal(plane > 0.5, grey > threshold_otsu(grey))
    assert (plane.min(), plane.max()) == (0, 1)


@pytest.mark.parametrize("objects", ["fewer", "dark"])
def test_a_negative_has_the_same_instances(objects: Any) -> None:
    image, _ = picture()
    one = dataclasses.replace(OTSU, objects="bright").build(1).detect(image, "a")
    two = dataclasses.replace(OTSU, objects=objects).build(1).detect(255 - image, "a")
    assert len(one) == len(two) == 3
    np.testing.assert_allclose(two.boxes, one.boxes, atol=1)


def test_touching_disks_are_found_apart() -> None:
    image, disks = picture()
    before = image.clone()
    found = OTSU.build(1).detect(image, "a")
    masks = to_dense(paste(found))
    assert torch.equal(image, before)
    assert found.labels.tolist() == [1, 1, 1]
    for disk in disks:
        overlaps = [(disk & mask).sum() / (disk | mask).sum() for mask in masks]
        assert max(overlaps) > 0.85


@pytest.mark.parametrize("level", [0, 128, 255])
def test_a_picture_of_one_level_has_nothing(level: int) -> None:
    assert len(OTSU.build(1).detect(torch.full((3, 20, 30), level, dtype=torch.uint8), "a")) == 0


def test_what_has_nothing_to_learn_leaves_the_files_of_a_training(tmp_path: Path) -> None:
    image, _ = picture()
    info = {"categories": ["nucleus"], "fold": 0}
    seen: list[int] = []

    def score(found: Any) -> dict[str, float]:
        seen.extend(len(one) for one in found)
        return {"score": 0.25, "ap50": 0.5}

    without_training(OTSU.build(1), [[(image, "a")], [(image, "b")]], score, tmp_path, info)
    assert seen == [3, 3]
    table = pd.read_csv(tmp_path / "history.csv")
    assert table.to_dict("records") == [{"epoch": 0, "step": 0, "validation_score": 0.25, "validation_ap50": 0.5}]
    loaded, read = load_detector(tmp_path / "best.pt")
    assert read == {**info, "step": 0, "validation_score": 0.25}
    assert loaded.spec == OTSU == Otsu.from_plain(json.loads(json.dumps(dataclasses.asdict(OTSU))))
    strict = ready(loaded, score_floor=1.0)
    assert (len(loaded.detect(image, "a")), len(strict.detect(image, "a"))) == (3, 0)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best.pt", "history.csv"]
