"""Annotations as columns: a sequence of dicts, their JSON text, and their order."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.data.columns import Columns, Masks, joined, values
from pipeline.files import read_json, write_coco, write_json

COUNTS = st.text([chr(code) for code in range(48, 112)], min_size=1, max_size=9)  # of COCO: the backslash among them
SMALL = st.integers(0, 3)


@st.composite
def masks(draw: st.DrawFn, count: int | None = None) -> Masks:
    """Masks with many ties, of three images."""
    number = draw(st.integers(0, 12)) if count is None else count
    columns = [draw(st.lists(st.integers(0, 2), min_size=number, max_size=number)) for _ in range(7)]
    image, category, area, *box = (np.array(column, np.int64) for column in columns)
    counts = draw(st.lists(COUNTS, min_size=number, max_size=number))
    return Masks(image, category, counts, area, np.stack(box, 1))


def columns_of(own: Masks) -> Columns:
    numbers = np.arange(1, len(own) + 1)
    size = np.stack([own.image + 5, own.category + 7], 1)
    return Columns(numbers, own.image + 1, own.category, size, own.counts, own.area, own.box)


def dicts(own: Masks) -> list[dict[str, Any]]:
    """What the columns mean, put together one by one."""
    return [
        {
            "id": i + 1,
            "image_id": int(own.image[i]) + 1,
            "category_id": int(own.category[i]),
            "segmentation": {"size": [int(own.image[i]) + 5, int(own.category[i]) + 7], "counts": own.counts[i]},
            "area": int(own.area[i]),
            "bbox": own.box[i].tolist(),
            "iscrowd": 0,
        }
        for i in range(len(own))
    ]


@given(masks())
@settings(deadline=None)
def test_columns_are_the_sequence_of_their_dicts(own: Masks) -> None:
    found, wanted = columns_of(own), dicts(own)
    assert list(found) == wanted
    assert found == wanted
    assert wanted == found
    assert [found[i] for i in range(-len(own), len(own))] == wanted + wanted
    assert found[1::2] == wanted[1::2]
    assert found[::-1] == wanted[::-1]
    assert found != [*wanted, {}]
    for name in ("id", "image_id", "category_id", "area", "bbox"):
        np.testing.assert_array_equal(values(found, name), values(wanted, name))


@pytest.mark.parametrize("index", [3, -4])
def test_an_index_out_of_range_is_refused(index: int) -> None:
    none = np.zeros(3, np.int64)
    own = Masks(none, none, ["0"] * 3, none, np.zeros((3, 4), np.int64))
    with pytest.raises(IndexError, match=f"annotation {index} of 3"):
        columns_of(own)[index]


@given(masks())
@settings(deadline=None)
def test_their_json_is_that_of_the_list_of_dicts(own: Masks) -> None:
    text = json.dumps(dicts(own), separators=(",", ":"), allow_nan=False, ensure_ascii=False)
    assert "".join(columns_of(own).to_json()) == text


@pytest.mark.parametrize("count", [0, 1, 9000])
def test_a_file_of_columns_has_the_bytes_of_a_file_of_dicts(tmp_path: Path, count: int) -> None:
    generator = np.random.default_rng(count)
    image, category, area, *box = generator.integers(0, 900, (7, count))
    own = Masks(image // 90, category % 3, ["0\\n`o5\\\\1"] * count, area, np.stack(box, 1))
    head = {"info": {"who": "Zoë"}, "images": [{"id": 1, "name": "a"}], "categories": []}
    write_coco(tmp_path / "columns.json", {**head, "annotations": columns_of(own)})
    write_json(tmp_path / "dicts.json", {**head, "annotations": dicts(own)})
    assert (tmp_path / "columns.json").read_bytes() == (tmp_path / "dicts.json").read_bytes()
    assert read_json(tmp_path / "columns.json", "convert")["annotations"] == columns_of(own)
    write_coco(tmp_path / "plain.json", {**head, "annotations": dicts(own)})
    assert (tmp_path / "plain.json").read_bytes() == (tmp_path / "dicts.json").read_bytes()
    write_coco(tmp_path / "nothing.json", {})
    assert (tmp_path / "nothing.json").read_text() == "{}\n"


@given(masks(), st.permutations([0, 1, 2]))
@settings(deadline=None)
def test_the_order_is_by_image_corner_counts_and_category(own: Masks, rank: list[int]) -> None:
    keys = [(rank[own.image[i]], own.box[i, 0], own.box[i, 1], own.counts[i], own.category[i]) for i in range(len(own))]
    assert own.order(np.array(rank, np.int64)).tolist() == sorted(range(len(own)), key=keys.__getitem__)


@given(masks(), masks())
@settings(deadline=None)
def test_joined_masks_can_be_selected_apart(one: Masks, other: Masks) -> None:
    whole = joined([one, other])
    for part, index in ((one, np.arange(len(one))), (other, np.arange(len(one), len(whole)))):
        again = whole.select(index)
        assert again.counts == part.counts
        for name in ("image", "category", "area", "box"):
            np.testing.assert_array_equal(getattr(again, name), getattr(part, name))
    assert len(joined([])) == 0
    assert joined([]).box.shape == (0, 4)
