from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from fixtures.dense import LAW, stacks
from fixtures.detectors import ellipses
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from scipy import ndimage

from pipeline.data.collage import Layer, laid_out, pasted, quarters
from pipeline.masks.cells import cells, look, shown
from pipeline.masks.runs import from_dense, to_dense
from pipeline.masks.windows import from_windows

Masks = NDArray[np.bool_]


def layer(masks: Masks, level: int = 0, least: float = 1, channels: int = 1) -> Layer:
    """A layer of one level of grey, whose instances have the categories 1, 2, …"""
    size = masks.shape[1:]
    plane = look(cells(from_dense(masks)), np.eye(2, 3), size)
    image = np.full((*size, channels), level, np.uint8)
    return Layer(image, plane, np.arange(1, len(masks) + 1), np.full(len(masks), float(least)))


def opened(made: Layer) -> tuple[Masks, Any]:
    """The dense masks that a layer shows in the end, and their categories."""
    masks, kept = shown(made.plane, made.least)
    return to_dense(from_windows(masks)), made.categories[kept].tolist()


@LAW
@given(stacks(size=(6, 7)), stacks(size=(6, 7)), st.data())
def test_pasted_instances_hide_what_lies_under_them_in_picture_and_truth(
    under: Masks, over: Masks, data: st.DataObject
) -> None:
    which = data.draw(arrays(np.bool_, len(over)))
    made = pasted(layer(under, 50), layer(over, 200), which, 0)
    cover = over[which].any(0)
    np.testing.assert_array_equal(made.image[..., 0], np.where(cover, 200, 50))
    wanted = np.concatenate([under & ~cover, over[which]])
    names = np.concatenate([np.arange(1, len(under) + 1), np.flatnonzero(which) + 1])
    alive = wanted.any((1, 2))
    masks, categories = opened(made)
    np.testing.assert_array_equal(masks, wanted[alive])
    assert categories == names[alive].tolist()


def test_an_instance_that_is_hidden_but_for_a_rest_is_dropped() -> None:
    under, over = np.zeros((2, 10, 10), bool), np.zeros((1, 10, 10), bool)
    under[0, :, :5] = under[1, :, 5:] = over[0, :, :4] = True
    # 10 of 50 pixels are left: a share of 0.2.
    for least, kept in ((10, [1, 2, 1]), (11, [2, 1])):
        assert opened(pasted(layer(under, least=least), layer(over), np.array([True]), 0))[1] == kept


def test_a_soft_outline_mixes_the_pictures_and_leaves_the_masks_hard() -> None:
    over = ellipses((40, 50), 1, 3)
    hard, soft = (pasted(layer(over[:0], 40), layer(over, 240), np.array([True]), blur) for blur in (0, 2.0))
    np.testing.assert_array_equal(opened(hard)[0], opened(soft)[0])
    share = ndimage.gaussian_filter(over[0].astype(float), 2.0, mode="mirror", radius=6)
    assert np.abs(soft.image[..., 0] - (40 + 200 * share)).max() <= 0.51
    assert len(np.unique(soft.image)) > 20


def test_grey_and_coloured_pictures_go_together() -> None:
    over = ellipses((20, 20), 1)
    for channels in ((1, 3), (3, 1)):
        under, upper = (layer(over, 9, channels=count) for count in channels)
        assert pasted(under, upper, np.array([True]), 0).image.shape == (20, 20, 3)
        assert laid_out([under], [(0, 0, 20, 20)], (20, 20)).image.shape == (20, 20, channels[0])


@given(st.integers(2, 300), st.integers(2, 300), st.integers(0, 999))
def test_four_quarters_meet_in_the_middle_half_and_cover_the_canvas_once(height: int, width: int, seed: int) -> None:
    boxes = quarters((height, width), np.random.default_rng(seed))
    depth = np.zeros((height, width), int)
    for x0, y0, x1, y1 in boxes:
        assert x0 < x1
        assert y0 < y1
        depth[y0:y1, x0:x1] += 1
    assert (depth == 1).all()
    _, _, x, y = boxes[0]
    assert max(width // 4, 1) <= x <= max(width * 3 // 4, 1)
    assert max(height // 4, 1) <= y <= max(height * 3 // 4, 1)


@pytest.mark.parametrize("seed", range(5))
def test_layers_laid_out_are_their_dense_masks_side_by_side(seed: int) -> None:
    size = (30, 40)
    boxes = quarters(size, np.random.default_rng(seed))
    parts = [
        ellipses((y1 - y0 + 10, x1 - x0 + 10), 3 - i % 3, i)[:, 5:-5, 5:-5] for i, (x0, y0, x1, y1) in enumerate(boxes)
    ]
    made = laid_out([layer(part, 60 * i) for i, part in enumerate(parts)], boxes, size)
    wanted, names = [], []
    for i, (part, (x0, y0, x1, y1)) in enumerate(zip(parts, boxes, strict=True)):
        assert (made.image[y0:y1, x0:x1] == 60 * i).all()
        for number, mask in enumerate(part, 1):
            whole = np.zeros(size, bool)
            whole[y0:y1, x0:x1] = mask
            wanted += [whole] if mask.any() else []
            names += [number] if mask.any() else []
    masks, categories = opened(made)
    np.testing.assert_array_equal(masks, wanted)
    assert categories == names
