from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from fixtures.contests import facts
from fixtures.dense import stacks
from fixtures.detectors import ellipses
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from pipeline.data import coco
from pipeline.data.annotations import Annotations, gather
from pipeline.masks.runs import from_dense, to_dense
from pipeline.masks.windows import windows

Masks = NDArray[np.bool_]


def dict_of(images: dict[str, tuple[Masks, list[int]]]) -> dict[str, Any]:
    """The COCO dict of dense masks (N, H, W) and categories per image."""
    entries = {
        name: {"id": i, "name": name, "file_name": f"train/{name}.png", "height": masks.shape[1],
               "width": masks.shape[2], "group": name}
        for i, (name, (masks, _)) in enumerate(images.items(), 1)
    }  # fmt: skip
    found = []
    for name, (masks, categories) in images.items():
        found += coco.masks_of_runs([name] * len(masks), categories, from_dense(masks))
    return coco.build(facts("sartorius"), entries, found)


def one(masks: Masks) -> Annotations:
    """Annotations of one image whose category i is that of mask i, in the order of the COCO dict."""
    return gather(dict_of({"a": (masks, [1 + i % 3 for i in range(len(masks))])}), ["a"])


def ordered(masks: Masks) -> list[bytes]:
    return sorted(mask.tobytes() for mask in masks)


EVERYWHERE = (0, 0, 10**6, 10**6)


@given(stacks())
def test_what_touches_the_whole_image_is_every_mask_with_a_pixel(masks: Masks) -> None:
    runs, labels = one(masks).touching(0, EVERYWHERE)
    wanted = masks[masks.any((1, 2))]
    assert runs.size == masks.shape[1:]
    assert ordered(to_dense(runs)) == ordered(wanted)
    assert len(labels) == len(runs) == len(wanted)
    assert runs.start.dtype == runs.stop.dtype == np.int64


@given(st.integers(0, 1000), st.integers(0, 30), st.integers(0, 30), st.integers(1, 40), st.integers(1, 40))
def test_what_touches_a_box_is_what_a_look_at_the_tight_boxes_says(
    seed: int, x0: int, y0: int, width: int, height: int
) -> None:
    masks = ellipses((40, 50), 7, seed)
    box = (x0, y0, x0 + width, y0 + height)
    runs, _ = one(masks).touching(0, box)
    tight = windows(from_dense(masks)).boxes
    meets = [max(b[0], box[0]) < min(b[2], box[2]) and max(b[1], box[1]) < min(b[3], box[3]) for b in tight.tolist()]
    assert ordered(to_dense(runs)) == ordered(masks[meets])
    # None that has a pixel in the box is missing.
    inside = masks[:, y0 : y0 + height, x0 : x0 + width].any((1, 2))
    assert not (inside & ~np.array(meets)).any()


def test_labels_go_with_their_masks() -> None:
    masks = np.zeros((4, 12, 12), bool)
    for i in range(4):
        masks[i, 3 * i : 3 * i + 2, :2] = True
    annotations = gather(dict_of({"a": (masks, [3, 1, 2, 1])}), ["a"])
    for i, label in enumerate([3, 1, 2, 1]):
        runs, labels = annotations.touching(0, (0, 3 * i, 12, 3 * i + 2))
        assert labels.tolist() == [label]
        np.testing.assert_array_equal(to_dense(runs)[0], masks[i])


def test_images_come_in_the_order_asked_for_with_their_own_masks() -> None:
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
        assert ordered(to_dense(annotations.touching(i, EVERYWHERE)[0])) == ordered(images[name][0])


def test_an_image_without_instances_is_legal() -> None:
    annotations = one(np.zeros((0, 20, 25), bool))
    runs, labels = annotations.touching(0, (0, 0, 5, 5))
    assert (len(runs), labels.shape, runs.size) == (0, (0,), (20, 25))
    assert annotations.boxes[0].shape == (0, 4)


def test_no_image_at_all_is_legal() -> None:
    annotations = gather(dict_of({"a": (ellipses((30, 40), 2), [1, 1])}), [])
    assert (len(annotations), annotations.sizes.shape) == (0, (0, 2))


def test_equal_and_overlapping_masks_stay_apart() -> None:
    mask = ellipses((30, 40), 1)[0]
    runs, _ = one(np.stack([mask, mask, np.roll(mask, 2, 1)])).touching(0, EVERYWHERE)
    assert len(runs) == 3
    assert ordered(to_dense(runs)) == ordered(np.stack([mask, mask, np.roll(mask, 2, 1)]))


def test_an_unknown_image_is_an_error() -> None:
    with pytest.raises(KeyError, match="zz"):
        gather(dict_of({"a": (ellipses((30, 40), 2), [1, 1])}), ["zz"])


def test_memory_follows_the_outlines_not_the_areas() -> None:
    masks = np.zeros((50, 200, 200), bool)
    masks[:, 20:180, 20:180] = True
    annotations = one(masks)
    # One run per column and mask, two int32 each.
    assert annotations.start[0].nbytes + annotations.stop[0].nbytes == 50 * 160 * 8
