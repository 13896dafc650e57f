from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from fixtures.dense import LAW
from fixtures.detectors import build, noise
from hypothesis import given
from hypothesis import strategies as st

from pipeline.inference.tiles import Tiles, detect_tiled, is_cut, merge, tile_boxes
from pipeline.inference.views import View, Views, detect
from pipeline.instances import Detections

SIZE = (100, 180)


def of(*rows: tuple[list[float], float, int]) -> Detections:
    """Detections of (box, score, label) in the image's frame."""
    boxes, scores = np.array([row[0] for row in rows], np.float32), np.array([row[1] for row in rows], np.float32)
    labels = np.array([row[2] for row in rows], np.int64)
    return Detections("a", SIZE, boxes.reshape(-1, 4), scores, labels, np.zeros((len(rows), 2, 2), np.float32))


def seen(objects: np.ndarray, tile: np.ndarray) -> Detections:
    """What a perfect detector says of objects, int64 (N, 4), in a tile: their visible parts, of score .9, .89, …"""
    low, high = np.maximum(objects[:, :2], tile[:2]), np.minimum(objects[:, 2:], tile[2:])
    shown = ((high - low) > 0).all(1)
    boxes = np.concatenate([low, high], 1).astype(np.float32)[shown]
    scores = (0.9 - 0.01 * np.arange(len(objects))).astype(np.float32)[shown]
    return Detections("a", SIZE, boxes, scores, np.ones(len(boxes), np.int64), np.zeros((len(boxes), 2, 2), np.float32))


# Laws ---------------------------------------------------------------------------------------------------------------


@LAW
@given(st.integers(1, 300), st.integers(1, 300), st.integers(8, 120), st.integers(0, 60))
def test_tiles_cover_the_image_and_share_what_they_should(height: int, width: int, side: int, shared: int) -> None:
    shared = min(shared, side - 1)
    boxes = tile_boxes((height, width), side, shared)
    covered = np.zeros((height, width), bool)
    for x0, y0, x1, y1 in boxes.tolist():
        assert (x1 - x0, y1 - y0) == (min(side, width), min(side, height))
        covered[y0:y1, x0:x1] = True
    assert covered.all()
    for axis, length in ((0, width), (1, height)):
        begins = np.unique(boxes[:, axis])
        assert (begins[:-1] + side - begins[1:] >= shared).all()
        assert length <= side or len(begins) > 1


@LAW
@given(st.integers(0, 10_000), st.integers(0, 12))
def test_objects_no_larger_than_what_tiles_share_come_out_whole_and_once(seed: int, count: int) -> None:
    """Far enough apart for the NMS: one object in each cell of a grid."""
    rng = np.random.default_rng(seed)
    cell = rng.permutation(15)[:count]
    corner = np.stack([cell % 5 * 36, cell // 5 * 33], 1) + rng.integers(0, 10, (count, 2))
    objects = np.concatenate([corner, corner + rng.integers(4, 20, (count, 2))], 1)
    tiles = tile_boxes(SIZE, 64, 24)
    found = merge([seen(objects, tile) for tile in tiles], tiles, 0.5, 100)
    np.testing.assert_array_equal(found.boxes, objects[: len(found)])
    assert len(found) == count


def test_an_image_in_one_tile_is_detected_as_ever() -> None:
    detector, image = build().eval(), noise(75, 101)
    plain = detect(detector, image, "a", [View()])
    for tiles in (Tiles(None, 0), Tiles(128, 32)):
        found = detect_tiled(detector, image, "a", Views(), tiles)
        np.testing.assert_array_equal(found.boxes, plain.boxes)
        np.testing.assert_array_equal(found.masks, plain.masks)


def test_detections_of_tiles_lie_where_the_tile_is() -> None:
    """The same picture twice, side by side, in two tiles that share nothing: the same detections twice."""
    detector, image = build(score_floor=0.2, nms=0.3).eval(), noise(64, 64)
    alone = detect(detector, image, "a", [View()])
    inner = alone.select(~is_cut(alone.boxes, np.array([0, 0, 64, 64]), (64, 128)))
    found = detect_tiled(detector, torch.cat([image, image], 2), "a", Views(), Tiles(64, 0))
    assert found.size == (64, 128)
    for shift in (0, 64):
        for box, score in zip(inner.boxes + np.array([shift, 0, shift, 0]), inner.scores, strict=True):
            assert (np.abs(found.boxes - box).max(1) + np.abs(found.scores - score) < 1e-4).any()


# By hand ------------------------------------------------------------------------------------------------------------


def test_what_is_whole_comes_before_what_is_cut_whatever_their_scores() -> None:
    tiles = np.array([[0, 0, 100, 100], [80, 0, 180, 100]])
    left = of(([85, 10, 100, 30], 0.9, 1), ([20, 20, 40, 40], 0.3, 1))  # the first ends at the inner border
    right = of(([85, 10, 112, 30], 0.6, 1), ([85, 10, 112, 30], 0.5, 2))
    found = merge([left, right], tiles, 0.5, 10)
    assert found.boxes.tolist() == [[85, 10, 112, 30], [85, 10, 112, 30], [20, 20, 40, 40]]
    np.testing.assert_allclose(found.scores, [0.6, 0.5, 0.3])
    assert found.labels.tolist() == [1, 2, 1]


def test_an_object_larger_than_what_tiles_share_comes_in_pieces_and_is_not_lost() -> None:
    tiles = np.array([[0, 0, 100, 100], [80, 0, 180, 100]])
    found = merge([of(([30, 10, 100, 30], 0.9, 1)), of(([80, 10, 150, 30], 0.8, 1))], tiles, 0.5, 10)
    assert found.boxes.tolist() == [[30, 10, 100, 30], [80, 10, 150, 30]]


def test_the_border_of_the_image_cuts_nothing() -> None:
    boxes = np.array([[0, 5, 10, 20], [5, 90, 20, 100], [95, 5, 100, 9], [40, 40, 50, 50]], np.float32)
    assert is_cut(boxes, np.array([0, 0, 100, 100]), SIZE).tolist() == [False, False, True, False]


def test_nothing_in_any_tile_is_nothing() -> None:
    assert len(merge([of(), of()], np.array([[0, 0, 100, 100], [80, 0, 180, 100]]), 0.5, 10)) == 0


@pytest.mark.parametrize("fields", [{"side": 64, "shared": 64}, {"side": 64, "shared": -1}])
def test_tiles_that_would_not_advance_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="shared: wanted 0 to 63 pixels, less than a tile's side, got "):
        Tiles(**fields)
