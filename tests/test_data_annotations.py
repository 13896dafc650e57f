from __future__ import annotations

import copy
import gc
import pickle
import re
from typing import Any

import numpy as np
import pytest
from fixtures.dense import LAW, stacks
from fixtures.detectors import ellipses
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from pipeline.data.annotations import Annotations, gather, of_categories
from pipeline.errors import ConfigError
from pipeline.masks.cells import view
from pipeline.masks.runs import from_dense, to_coco
from pipeline.masks.windows import windows

Masks = NDArray[np.bool_]


def dict_of(images: dict[str, tuple[Masks, list[int]]]) -> dict[str, Any]:
    """The COCO dict of dense masks (N, H, W) and categories per image."""
    entries, found = [], []
    for number, (name, (masks, categories)) in enumerate(images.items(), 1):
        height, width = masks.shape[1:]
        entries.append({"id": number, "name": name, "file_name": f"train/{name}.png", "height": height, "width": width})
        found += [
            {"image_id": number, "category_id": category, "segmentation": {"size": [height, width], "counts": counts}}
            for category, counts in zip(categories, to_coco(from_dense(masks)), strict=True)
        ]
    return {"images": entries, "annotations": found}


def one(masks: Masks) -> Annotations:
    """Annotations of one image whose category i is 1, 2 or 3 in turn."""
    return gather(dict_of({"a": (masks, [1 + i % 3 for i in range(len(masks))])}), ["a"])


def seen(annotations: Annotations, image: int, box: tuple[int, int, int, int]) -> Masks:
    """Dense masks of an image inside a box, (N, y1 - y0, x1 - x0); those without a pixel there are empty."""
    x0, y0, x1, y1 = box
    masks, chosen = view(annotations.cells(image), np.array([[1.0, 0, x0], [0, 1, y0]]), (y1 - y0, x1 - x0))
    dense = np.zeros((len(annotations.areas[annotations.of(image)]), *masks.size), bool)
    for i, (left, top, right, bottom), begin in zip(chosen, masks.boxes.tolist(), masks.offset.tolist(), strict=True):
        part = masks.data[begin : begin + (right - left) * (bottom - top)]
        dense[i, top:bottom, left:right] = part.reshape(right - left, bottom - top).T
    return dense


def whole(annotations: Annotations, image: int) -> Masks:
    height, width = annotations.size(image)
    return seen(annotations, image, (0, 0, width, height))


@LAW
@given(stacks())
def test_every_mask_comes_back_in_its_place(masks: Masks) -> None:
    annotations = one(masks)
    np.testing.assert_array_equal(whole(annotations, 0), masks)
    assert annotations.categories.tolist() == [1 + i % 3 for i in range(len(masks))]
    assert annotations.areas.tolist() == masks.sum((1, 2)).tolist()


@LAW
@given(st.integers(0, 1000), st.integers(-9, 30), st.integers(-9, 30), st.integers(1, 60), st.integers(1, 50))
def test_what_lies_in_a_box_is_what_a_dense_slice_holds(seed: int, x0: int, y0: int, width: int, height: int) -> None:
    masks = ellipses((40, 50), 7, seed)
    beyond = np.pad(masks, ((0, 0), (60, 60), (60, 60)))
    wanted = beyond[:, 60 + y0 : 60 + y0 + height, 60 + x0 : 60 + x0 + width]
    np.testing.assert_array_equal(seen(one(masks), 0, (x0, y0, x0 + width, y0 + height)), wanted)


def test_images_come_in_the_order_asked_for_with_their_own_masks_and_categories() -> None:
    images = {
        "b": (ellipses((30, 40), 5, 1), [1] * 5),
        "a": (np.zeros((0, 20, 25), bool), []),
        "c": (ellipses((25, 25), 2, 2), [2, 3]),
    }
    annotations = gather(dict_of(images), ["c", "a", "b"])
    assert annotations.image_ids == ("c", "a", "b")
    assert annotations.files == ("train/c.png", "train/a.png", "train/b.png")
    assert annotations.sizes.tolist() == [[25, 25], [20, 25], [30, 40]]
    assert len(annotations) == 3
    for i, name in enumerate(annotations.image_ids):
        np.testing.assert_array_equal(whole(annotations, i), images[name][0])
        assert annotations.categories[annotations.of(i)].tolist() == images[name][1]
        assert annotations.areas[annotations.of(i)].tolist() == images[name][0].sum((1, 2)).tolist()


def test_an_image_without_instances_is_legal() -> None:
    annotations = one(np.zeros((0, 20, 25), bool))
    assert whole(annotations, 0).shape == (0, 20, 25)
    assert annotations.areas[annotations.of(0)].shape == (0,)


def test_no_image_at_all_is_legal() -> None:
    annotations = gather(dict_of({"a": (ellipses((30, 40), 2), [1, 1])}), [])
    assert (len(annotations), annotations.sizes.shape, annotations.start.shape) == (0, (0, 2), (0,))


def test_equal_and_overlapping_masks_stay_apart() -> None:
    mask = ellipses((30, 40), 1)[0]
    masks = np.stack([mask, mask, np.roll(mask, 2, 1)])
    np.testing.assert_array_equal(whole(one(masks), 0), masks)


def test_an_unknown_image_is_an_error() -> None:
    with pytest.raises(KeyError, match="zz"):
        gather(dict_of({"a": (ellipses((30, 40), 2), [1, 1])}), ["zz"])


def test_memory_follows_the_outlines_not_the_areas() -> None:
    masks = np.zeros((50, 200, 200), bool)
    for i in range(50):
        masks[i, 20:180, 4 * i : 4 * i + 3] = True
    annotations = one(masks)
    # One piece per column and mask, three int32 each.
    assert sum(column.nbytes for column in (annotations.start, annotations.stop, annotations.label)) == 50 * 3 * 12
    # Where the same masks overlap in many columns, they are one set.
    masks[:, 20:180, 20:180] = True
    assert one(masks).member.size < 50 * 60


def reachable(root: Any) -> int:
    """Python objects that belong to the annotations: what a worker process would count references of."""
    found, todo = {}, [root]
    while todo:
        item = todo.pop()
        if id(item) not in found and not isinstance(item, type):
            found[id(item)] = item
            todo += gc.get_referents(item)
    return len(found)


def test_the_number_of_objects_does_not_grow_with_the_instances_and_all_columns_are_flat() -> None:
    few, many = (one(ellipses((80, 90), count)) for count in (3, 120))
    assert reachable(many) == reachable(few) < 60
    columns = [value for value in vars(many).values() if not isinstance(value, tuple)]
    assert all(type(column) is np.ndarray and column.dtype.kind == "i" for column in columns)
    # What a worker process is given weighs what the columns weigh.
    assert len(pickle.dumps(many)) < sum(column.nbytes for column in columns) + 4096


def test_the_cells_of_an_image_are_parts_of_the_flat_columns() -> None:
    annotations = one(ellipses((40, 50), 9))
    found = annotations.cells(0)
    for name in ("start", "stop", "label", "bounds", "member"):
        assert np.shares_memory(getattr(found, name), getattr(annotations, name))


# Boxes and categories -----------------------------------------------------------------------------------------------


@LAW
@given(stacks(), stacks())
def test_boxes_are_those_of_the_dense_masks(first: Masks, second: Masks) -> None:
    found = gather(dict_of({"a": (first, [1] * len(first)), "b": (second, [2] * len(second))}), ["b", "a"])
    assert found.boxes.dtype == np.int32
    assert found.boxes.shape == (len(first) + len(second), 4)
    for image, masks in enumerate((second, first)):
        np.testing.assert_array_equal(found.boxes[found.of(image)], windows(from_dense(masks)).boxes)


def test_a_dedicated_model_sees_its_categories_alone_in_all_images() -> None:
    coco = dict_of({"a": (ellipses((20, 20), 4), [1, 2, 3, 1]), "b": (ellipses((20, 20), 1), [2])})
    coco["categories"] = [{"id": number, "name": name} for number, name in enumerate(("cort", "shsy5y", "astro"), 1)]
    before = copy.deepcopy(coco)
    chosen = of_categories(coco, ["astro", "cort"])
    assert [row["category_id"] for row in chosen["annotations"]] == [1, 3, 1]
    assert chosen["images"] == coco["images"]
    assert chosen["categories"] == coco["categories"]  # labels keep their meaning
    assert coco == before
    assert of_categories(coco, None) is coco
    found = gather(chosen, ["a", "b"])
    assert found.categories.tolist() == [1, 3, 1]
    assert found.of(1) == slice(3, 3)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["astros"], "categories: 'astros' is not among cort, astro; nearest is 'astro'"),
        ([], "categories: wanted one at least of cort, astro, or null for all; got none"),
    ],
)
def test_categories_that_there_are_not_are_refused(names: list[str], message: str) -> None:
    coco = {"categories": [{"id": 1, "name": "cort"}, {"id": 2, "name": "astro"}], "images": [], "annotations": []}
    with pytest.raises(ConfigError, match=re.escape(message)):
        of_categories(coco, names)
