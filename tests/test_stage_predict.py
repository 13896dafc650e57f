from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.files import read_detections, write_detections
from pipeline.instances import Detections
from pipeline.record import Step
from pipeline.stages import predict


def seen(images: list[dict[str, Any]]) -> Iterator[Detections]:
    for image in images:
        yield Detections.empty(image["name"], (4, 5), 28)


def names(path: Path) -> list[str]:
    return [one.image_id for one in read_detections(path)]


def test_only_parts_that_are_missing_are_predicted(tmp_path: Path) -> None:
    images = [{"name": f"i{k}"} for k in range(40)]
    step = Step(tmp_path / "stamp.json", (tmp_path / "detections_test.npz",), {"score_floor": None}, {})
    parts = predict._parts(step, images, overwrite=False)
    assert [len(own) for own in parts.values()] == [16, 16, 8]
    first = next(iter(parts))
    write_detections(first, [Detections.empty("left by a killed process", (4, 5), 28)])
    predict._detect(parts, seen, "test", quiet=True)
    assert names(first) == ["left by a killed process"]
    assert [name for path in list(parts)[1:] for name in names(path)] == [f"i{k}" for k in range(16, 40)]


def test_parts_made_with_other_settings_or_to_be_overwritten_are_thrown_away(tmp_path: Path) -> None:
    images = [{"name": "a"}]
    for settings, overwrite, stays in (({"x": 1}, False, True), ({"x": 1}, True, False), ({"x": 2}, False, False)):
        old = Step(tmp_path / "stamp.json", (tmp_path / "detections_test.npz",), {"x": 1}, {})
        (path,) = predict._parts(old, images, overwrite=True)
        write_detections(path, [])
        new = Step(old.stamp, old.outputs, settings, {})
        predict._parts(new, images, overwrite)
        assert path.is_file() == stays


def test_no_image_is_one_part_of_none(tmp_path: Path) -> None:
    step = Step(tmp_path / "stamp.json", (tmp_path / "detections_test.npz",), {}, {})
    parts = predict._parts(step, [], overwrite=False)
    assert list(parts.values()) == [[]]
    predict._detect(parts, seen, "test", quiet=True)
    assert np.array(names(next(iter(parts)))).size == 0
