from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fixtures.detectors import build, noise
from PIL import Image

from pipeline.errors import InputError
from pipeline.inference.detect import detect_images
from pipeline.model.detector import Detector

SIZES = {"b": (64, 48), "a": (40, 90), "c": (33, 35)}


@pytest.fixture(scope="module")
def contest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("contest")
    for i, (name, size) in enumerate(SIZES.items()):
        Image.fromarray(noise(*size, i).permute(1, 2, 0).numpy()).save(root / f"{name}.png")
    return root


@pytest.fixture(scope="module")
def detector() -> Detector:
    return build().eval()


def entries(*names: str) -> list[dict[str, Any]]:
    return [
        {"name": name, "file_name": f"{name}.png", "height": SIZES[name][0], "width": SIZES[name][1]} for name in names
    ]


def test_images_are_detected_one_by_one_in_their_order(contest: Path, detector: Detector) -> None:
    found = list(detect_images(detector, contest, entries("b", "a", "c")))
    assert [(one.image_id, one.size) for one in found] == list(SIZES.items())
    for i, one in enumerate(found):
        alone = detector.detect(noise(*one.size, i), one.image_id)
        assert len(one) > 0
        for column in ("boxes", "scores", "labels", "masks"):
            np.testing.assert_array_equal(getattr(one, column), getattr(alone, column))


def test_images_of_one_size_are_looked_at_together_where_that_is_asked_for(contest: Path, detector: Detector) -> None:
    rows = entries("b", "b", "b", "a", "c", "c")
    alone, together = (list(detect_images(detector, contest, rows, together=most)) for most in (1, 2))
    for one, other in zip(alone, together, strict=True):
        assert one.image_id == other.image_id
        np.testing.assert_array_equal(one.labels, other.labels)
        for column in ("boxes", "scores", "masks"):
            np.testing.assert_allclose(getattr(one, column), getattr(other, column), atol=1e-4)


def test_nothing_is_read_before_it_is_asked_for(contest: Path, detector: Detector) -> None:
    missing = {"name": "x", "file_name": "x.png", "height": 4, "width": 4}
    found = detect_images(detector, contest, [*entries("c"), missing])
    assert next(found).image_id == "c"
    with pytest.raises(InputError, match=r"x\.png is no readable image"):
        next(found)


def test_no_image_gives_no_detections(contest: Path, detector: Detector) -> None:
    assert list(detect_images(detector, contest, [])) == []


def test_low_precision_gives_float32_and_does_not_leak_to_the_caller(contest: Path, detector: Detector) -> None:
    found = detect_images(detector, contest, entries("b", "a"), "bf16-mixed")
    low = next(found)
    assert not torch.is_autocast_enabled("cpu")
    assert not torch.is_inference_mode_enabled()
    assert (low.boxes.dtype, low.scores.dtype, low.masks.dtype) == (np.float32,) * 3
    exact = next(detect_images(detector, contest, entries("b")))
    assert low.scores[:5] == pytest.approx(exact.scores[:5], abs=0.05)
    assert not np.array_equal(low.scores, exact.scores)  # bfloat16 was at work
