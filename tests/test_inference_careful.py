"""Under a time limit the work always ends: what fails is left blank, what is slow is seen in fewer views."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from pipeline.inference.budget import Pace
from pipeline.inference.careful import Careful
from pipeline.inference.tiles import WHOLE
from pipeline.inference.views import Views
from pipeline.model.faults import is_out_of_memory


@dataclass
class Clock:
    now: float = 0.0

    def __call__(self) -> float:
        return self.now


@dataclass(eq=False)
class Model(nn.Module):
    """A model that answers with maps, takes a second for each view, and has room for images of so many pixels."""

    clock: Clock
    room: float = float("inf")
    looks: list[tuple[int, int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()
        self.spec = SimpleNamespace(mask_size=4, alignment="torchvision")
        self.mean = torch.zeros(1)

    def maps(self, image: torch.Tensor) -> torch.Tensor:
        if image[0].numel() > self.room:
            raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate much")
        self.clock.now += 1
        self.looks.append((image.shape[-2], image.shape[-1]))
        return image[:1]

    def instances(self, maps: torch.Tensor, image_id: str, size: tuple[int, int]) -> Any:
        from pipeline.instances import Detections

        column = np.ones(1, np.float32)
        box, mask = np.array([[0, 0, 1, 1]], np.float32), np.ones((1, 4, 4), np.float32)
        return Detections(image_id, size, box, column, np.ones(1, np.int64), mask, "torchvision")


class Broken(Model):
    def maps(self, image: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("shapes differ")


@pytest.fixture
def images(tmp_path: Path) -> list[dict[str, Any]]:
    for name in "abcd":
        Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / f"{name}.png")
    return [{"name": name, "file_name": f"{name}.png", "height": 8, "width": 8} for name in "abcd"]


def careful(model: Model, root: Path, limit: float, later: tuple[int, ...] = ()) -> Careful:
    pace = Pace(limit, model.clock)
    return Careful(lambda: model, root, "32-true", Views(symmetries=(0, 1, 2, 3)), WHOLE, pace, 4, later)


def counts(found: Iterator[Any]) -> list[int]:
    return [len(one) for one in found]


def test_with_time_enough_every_image_is_seen_in_all_views(tmp_path: Path, images: list[dict[str, Any]]) -> None:
    model = Model(Clock())
    assert counts(careful(model, tmp_path, 1000).look(images)) == [1, 1, 1, 1]
    assert len(model.looks) == 16


def test_with_too_little_time_views_are_dropped_and_it_ends_in_time(
    tmp_path: Path, images: list[dict[str, Any]], caplog: pytest.LogCaptureFixture
) -> None:
    model = Model(Clock())
    with caplog.at_level(logging.INFO):
        assert counts(careful(model, tmp_path, 11).look(images)) == [1, 1, 1, 1]
    assert model.clock.now <= 11
    assert 4 < len(model.looks) < 16
    assert "1.00 s per image and view" in caplog.text


def test_behind_the_limit_images_are_left_blank_and_not_looked_at(tmp_path: Path, images: list[dict[str, Any]]) -> None:
    model = Model(Clock())
    found = list(careful(model, tmp_path, 2).look(images))
    assert [len(one) for one in found] == [1, 0, 0, 0], "the first one is needed to measure"
    assert [one.image_id for one in found] == list("abcd")
    assert {one.alignment for one in found} == {"torchvision"}
    assert found[1].masks.shape == (0, 4, 4)


def test_an_image_that_cannot_be_read_is_left_blank_with_its_name(
    tmp_path: Path, images: list[dict[str, Any]], caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "b.png").write_bytes((tmp_path / "b.png").read_bytes()[:40])
    assert counts(careful(Model(Clock()), tmp_path, 1000).look(images)) == [1, 0, 1, 1]
    assert "image b is left blank" in caplog.text


@pytest.mark.parametrize(("room", "found", "seen"), [(16, 1, (4, 4)), (15, 0, None)])
def test_an_image_that_does_not_fit_into_memory_is_seen_smaller_or_left_blank(
    room: float, found: int, seen: tuple[int, int] | None, tmp_path: Path, images: list[dict[str, Any]]
) -> None:
    model = Model(Clock(), room)
    assert counts(careful(model, tmp_path, 1000).look(images[:1])) == [found]
    assert model.looks == ([seen] if seen else [])


def test_any_other_error_is_no_lack_of_memory_and_ends_the_work(tmp_path: Path, images: list[dict[str, Any]]) -> None:
    with pytest.raises(RuntimeError, match="shapes differ"):
        list(careful(Broken(Clock()), tmp_path, 1000).look(images))
    assert is_out_of_memory(MemoryError())
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"))
    assert not is_out_of_memory(RuntimeError("shapes differ"))
