from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fixtures.contests import draw, facts
from hypothesis import given
from hypothesis import strategies as st

from pipeline.data import contest
from pipeline.data.coco import Coco, subset
from pipeline.data.statistics import measure


def make(images: list[list[tuple[int, int, int]]], sizes: list[tuple[int, int]] | None = None) -> Coco:
    """A COCO dict of images, each a list of (category, box width, box height); masks fill their boxes."""
    sizes = sizes or [(64, 64)] * len(images)
    entries = [{"id": i, "name": str(i), "height": h, "width": w} for i, (h, w) in enumerate(sizes, 1)]
    annotations = [
        {"image_id": i, "category_id": category, "area": width * height, "bbox": [0, 0, width, height]}
        for i, instances in enumerate(images, 1)
        for category, width, height in instances
    ]
    return {
        "images": entries,
        "annotations": annotations,
        "categories": [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}],
    }


instance = st.tuples(st.integers(1, 2), st.integers(1, 40), st.integers(1, 40))


@given(st.lists(st.lists(instance, max_size=8), min_size=1, max_size=8))
def test_categories_add_up_and_quantiles_are_ordered(images: list[Any]) -> None:
    found = measure(make(images))
    assert found["instances"] == sum(part["instances"] for part in found["per_category"].values())
    assert found["instances"] == sum(map(len, images))
    for quantity in ("area", "box_side", "aspect"):
        values = list(found[quantity].values())
        assert values == sorted(values) if found["instances"] else set(values) == {None}


@given(st.lists(st.lists(instance, max_size=8), min_size=1, max_size=8), st.randoms())
def test_the_order_of_images_and_annotations_does_not_matter(images: list[Any], luck: Any) -> None:
    coco = make(images)
    mixed = {
        **coco,
        "images": coco["images"][::-1],
        "annotations": luck.sample(coco["annotations"], len(coco["annotations"])),
    }
    assert measure(mixed) == measure(coco)


def test_five_boxes_worked_out_by_hand() -> None:
    coco = make([[(1, 4, 9), (1, 2, 2), (2, 10, 10)], [(1, 8, 2), (1, 5, 5)], []], [(64, 80), (64, 80), (32, 32)])
    found = measure(coco)
    assert (found["version"], found["images"], found["instances"]) == (1, 3, 5)
    assert found["per_image"] == {"min": 0.0, "median": 2.0, "p95": 2.9, "max": 3.0}
    assert found["sizes"] == {"64x80": 2, "32x32": 1}
    assert [found["area"][key] for key in ("min", "p25", "p50", "p75", "max")] == [4, 16, 25, 36, 100]
    assert [found["box_side"][key] for key in ("min", "p25", "p50", "p75", "max")] == [2, 4, 5, 6, 10]
    assert [found["aspect"][key] for key in ("min", "p25", "p50", "p75", "max")] == [0.25, 1, 1, 1, 2.25]
    own = found["per_category"]["a"]
    assert (own["instances"], own["images"], own["per_image"]["max"]) == (4, 2, 2.0)
    assert found["per_category"]["b"]["area"]["p50"] == 100


@pytest.mark.parametrize("images", [[], [[], []]])
def test_nothing_to_measure_is_legal_and_has_no_quantiles(images: list[Any]) -> None:
    found = measure(make(images))
    assert (found["images"], found["instances"]) == (len(images), 0)
    assert set(found["area"].values()) == {None}
    assert found["per_image"]["max"] == (0 if images else None)


def test_the_measure_is_plain_json_and_leaves_its_argument_alone(tmp_path: Path) -> None:
    coco = contest.read_train(draw(tmp_path, "sartorius"), facts("sartorius"), "csv")
    before = json.dumps(coco, default=list)
    found = measure(coco)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert json.dumps(coco, default=list) == before
    assert measure(subset(coco, ["c3"]))["per_category"]["cort"]["images"] == 0


def test_the_measure_of_dsb2018_is_what_is_known_of_it(real_data: Path) -> None:
    found = measure(contest.read_train(real_data / "dsb2018", facts("dsb2018"), "csv"))
    assert (found["images"], found["instances"]) == (670, 29_461)
    assert (found["per_image"]["min"], found["per_image"]["median"], found["per_image"]["max"]) == (1, 27, 375)
    assert len(found["sizes"]) == 9
    assert found["sizes"]["256x256"] == 334
    assert found["area"]["max"] <= 1040 * 1388
    assert np.isclose(found["box_side"]["p50"], 20.445, atol=1e-3)
