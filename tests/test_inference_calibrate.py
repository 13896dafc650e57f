from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from fixtures.dense import LAW
from fixtures.detectors import LITE0, noise
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy import ndimage

from pipeline.inference.calibrate import FOREGROUND, MARKER, calibrate, calibrate_weights, plateau
from pipeline.model.unet import UNet
from pipeline.model.weights import load_detector, save_weights


@dataclass(frozen=True)
class Spec:
    foreground: float = 0.5
    marker: float = 0.4


def describe() -> UNet:
    return UNet(LITE0, "none", 1.0, 2, 0.5, 0.4, 10, 28, 0.05)


class Mapper:
    """A model whose "detections" are the thresholds that it was asked with."""

    mean = torch.zeros(1)

    def __init__(self) -> None:
        self.spec, self.drawn = Spec(), 0

    def maps(self, image: torch.Tensor) -> torch.Tensor:
        self.drawn += 1
        return image[None].float()

    def instances(self, maps: torch.Tensor, name: str, size: tuple[int, int]) -> Any:
        return SimpleNamespace(spec=self.spec, name=name, size=size, maps=maps)


IMAGES = [(torch.full((3, 4, 5), i, dtype=torch.uint8), f"image{i}") for i in range(3)]


def chosen(score: Any) -> Any:
    def figure(found: Any) -> float:
        return score(found[0].spec.foreground, found[0].spec.marker)

    return calibrate(Mapper(), IMAGES, lambda one: one, figure)


def test_the_thresholds_of_the_best_score_are_found() -> None:
    found = chosen(lambda foreground, marker: 1 - abs(foreground - 0.6) - abs(marker - 0.2))
    assert (found.foreground, found.marker) == (0.6, 0.2)
    assert found.before == pytest.approx(0.7)
    assert found.after == pytest.approx(1.0)


def test_a_lonely_peak_is_not_taken_for_a_plateau() -> None:
    """At (.4, .5) one value of .9 among zeros; around (.7, .2) several of .8."""
    found = chosen(lambda f, m: 0.9 if (f, m) == (0.4, 0.5) else 0.8 if f >= 0.6 and m <= 0.3 else 0.0)
    assert found.foreground >= 0.6
    assert found.marker <= 0.3
    assert found.after == 0.8


def test_the_own_thresholds_stay_where_none_is_better() -> None:
    found = chosen(lambda f, m: 1.0 if (f, m) == (0.5, 0.4) else 0.5)
    assert (found.foreground, found.marker, found.before, found.after) == (0.5, 0.4, 1.0, 1.0)
    found = chosen(lambda f, m: 0.5)
    assert (found.foreground, found.marker) == (0.5, 0.4)


def test_maps_are_drawn_once_for_each_image_and_the_model_is_left_as_it_was() -> None:
    model = Mapper()
    seen: list[list[str]] = []
    calibrate(model, IMAGES, lambda one: one, lambda found: seen.append([one.name for one in found]) or 0.0)
    assert model.drawn == len(IMAGES)
    assert model.spec == Spec()
    assert seen == [["image0", "image1", "image2"]] * (1 + len(FOREGROUND) * len(MARKER))


def test_the_model_is_left_as_it_was_after_a_failure() -> None:
    model = Mapper()

    def fails(one: Any) -> Any:
        raise MemoryError

    with pytest.raises(MemoryError):
        calibrate(model, IMAGES, fails, lambda found: 0.0)
    assert model.spec == Spec()


def test_a_weights_file_gets_what_it_leaves_open_once(tmp_path: Path) -> None:
    wanted = replace(describe(), foreground=None, marker=0.3)
    model = wanted.sized({}).build(1, pretrained=False).eval()
    path, images = tmp_path / "best.pt", [[(noise(64, 64), "a")]]
    save_weights(path, model, {"categories": ["cell"]})
    figures = iter([0.1, 0.2, 0.3, 0.9, 0.4])

    def choose() -> None:
        calibrate_weights(path, wanted, images, lambda one: one, lambda found: next(figures), torch.device("cpu"))  # type: ignore[arg-type, return-value]

    choose()
    loaded, info = load_detector(path)
    assert (loaded.spec.foreground, loaded.spec.marker) == (0.7, 0.3)  # .9 and .4: more than .3 to .9 by their mean
    assert info["calibration"] == {"foreground": 0.7, "marker": 0.3, "before": 0.1, "after": 0.4}
    assert all(torch.equal(tensor, loaded.state_dict()[name]) for name, tensor in model.state_dict().items())
    before = path.read_bytes()
    choose()  # a training that was killed after it
    assert path.read_bytes() == before

    save_weights(path, model, {"categories": ["cell"]})
    wanted = replace(wanted, foreground=0.5)
    choose()
    assert "calibration" not in load_detector(path)[1]


@LAW
@given(arrays.arrays(np.float64, st.tuples(st.integers(1, 5), st.integers(1, 5)), elements=st.floats(0, 1)))
def test_a_plateau_is_a_mean_over_the_cross_of_neighbours(table: np.ndarray) -> None:
    cross = ndimage.generate_binary_structure(2, 1).astype(float)
    total = ndimage.convolve(table, cross, mode="constant")
    count = ndimage.convolve(np.ones_like(table), cross, mode="constant")
    np.testing.assert_allclose(plateau(table), total / count)
