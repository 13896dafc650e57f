from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from fixtures.detectors import noise
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from pipeline.inference.detect import detect_images
from pipeline.inference.maps import Mapper, detect_mapped, mean_maps
from pipeline.inference.tiles import WHOLE, Tiles
from pipeline.inference.views import View, Views
from pipeline.instances import Detections

D4 = tuple(range(8))


class Blurred(nn.Module):
    """A model that knows no direction: two maps of the 3 × 3 mean round a pixel; what it finds is their bright half."""

    def __init__(self) -> None:
        super().__init__()
        self.mean = nn.Parameter(torch.zeros(3, 1, 1))
        self.asked: list[tuple[int, ...]] = []

    def maps(self, image: Tensor) -> Tensor:
        self.asked.append(tuple(image.shape[-2:]))
        plane = functional.avg_pool2d(image.mean(0)[None, None], 3, 1, 1, count_include_pad=False)[0]
        return torch.cat([plane, 255 - plane]) / 255

    def instances(self, maps: Tensor, image_id: str, size: tuple[int, int]) -> Detections:
        rows, columns = np.nonzero((maps[0] > maps[0].median()).cpu().numpy())
        boxes = np.array([[columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]], np.float32)
        score, label = maps[:1].mean((1, 2)).cpu().numpy(), np.ones(1, np.int64)
        return Detections(image_id, size, boxes, score, label, np.ones((1, 2, 2), np.float32))


class Slanted(Blurred):
    """One that does: its map is brighter to the left."""

    def maps(self, image: Tensor) -> Tensor:
        return super().maps(image) + torch.linspace(1, 0, image.shape[-1])


def test_a_model_that_knows_no_direction_draws_the_same_maps_in_all_symmetries() -> None:
    model, image = Blurred(), noise(40, 56)
    plain = mean_maps(model, image.float(), [View()])
    assert plain.shape == (2, 40, 56)
    for number in D4:
        torch.testing.assert_close(mean_maps(model, image.float(), [View(symmetry=number)]), plain, atol=1e-5, rtol=0)
    torch.testing.assert_close(mean_maps(model, image.float(), Views(D4).all()), plain, atol=1e-5, rtol=0)


def test_maps_of_a_turned_picture_are_turned_whatever_the_model() -> None:
    model, image = Slanted(), noise(40, 56).float()
    plain = mean_maps(model, image, Views(D4).all())
    for number in (1, 4, 6):
        view = View(symmetry=number)
        found = mean_maps(model, view.image(image), Views(D4).all())
        torch.testing.assert_close(view.undo_maps(found, (40, 56)), plain, atol=1e-5, rtol=0)


@pytest.mark.parametrize("symmetry", [0, 5])
def test_maps_of_a_scaled_view_have_the_size_of_the_image(symmetry: int) -> None:
    smooth = functional.interpolate(torch.rand(1, 3, 5, 7), (45, 63), mode="bilinear")[0] * 255
    plain, scaled = (mean_maps(Blurred(), smooth, [View(symmetry, scale)]) for scale in (1.0, 1.5))
    assert plain.shape == scaled.shape == (2, 45, 63)
    assert (plain - scaled).abs().max() < 0.05


def test_tiles_are_averaged_where_they_overlap_and_instances_found_once() -> None:
    model, image = Blurred(), noise(60, 100)
    whole = detect_mapped(model, image, "a", [View()], WHOLE)
    model.asked.clear()
    tiled = detect_mapped(model, image, "a", [View()], Tiles(40, 20))
    assert len(model.asked) == 8
    assert (tiled.image_id, tiled.size, len(tiled)) == ("a", (60, 100), 1)
    np.testing.assert_allclose(tiled.boxes, whole.boxes, atol=2)
    np.testing.assert_allclose(tiled.scores, whole.scores, atol=1e-2)


def test_maps_by_hand_in_two_tiles() -> None:
    """Two tiles of 4 × 4 that share two columns: there the map is the mean of both, elsewhere its only tile's."""

    class Columns(Blurred):
        def maps(self, image: Tensor) -> Tensor:
            return torch.arange(4.0).repeat(1, 4, 1)

        def instances(self, maps: Tensor, image_id: str, size: tuple[int, int]) -> Detections:
            assert maps[0, 0].tolist() == [0, 1, 1, 2, 2, 3]
            return Detections.empty(image_id, size, 2)

    assert len(detect_mapped(Columns(), torch.zeros(3, 4, 6, dtype=torch.uint8), "a", [View()], Tiles(4, 2))) == 0


def test_images_of_such_a_model_are_detected_by_its_maps(tmp_path: Path) -> None:
    image = noise(40, 56)
    Image.fromarray(image.permute(1, 2, 0).numpy()).save(tmp_path / "a.png")
    rows = [{"name": "a", "file_name": "a.png", "height": 40, "width": 56}]
    model = Blurred()
    assert isinstance(model, Mapper)
    (found,) = detect_images(model, tmp_path, rows, views=Views(D4))
    assert sorted(model.asked) == [(40, 56)] * 4 + [(56, 40)] * 4
    alone = detect_mapped(model, image, "a", [View()], WHOLE)
    np.testing.assert_array_equal(found.boxes, alone.boxes)
    assert found.scores == pytest.approx(alone.scores, abs=1e-5)
