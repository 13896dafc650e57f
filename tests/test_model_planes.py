from __future__ import annotations

import numpy as np
from fixtures.dense import LAW, stacks
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from pipeline.masks.runs import from_dense
from pipeline.masks.windows import windows
from pipeline.model.planes import between, depth, label_plane

BIG = st.tuples(st.integers(1, 12), st.integers(1, 12)).flatmap(stacks)


def plane(masks: NDArray[np.bool_]) -> NDArray[np.int32]:
    return label_plane(windows(from_dense(masks)))


# Laws, against what the definitions say pixel by pixel ---------------------------------------------------------------


@LAW
@given(BIG)
def test_a_pixel_belongs_to_the_smallest_mask_that_holds_it(masks: NDArray[np.bool_]) -> None:
    labels = plane(masks)
    assert labels.dtype == np.int32
    assert labels.shape == masks.shape[1:]
    for y, x in np.ndindex(*labels.shape):
        holders = np.flatnonzero(masks[:, y, x])
        if not holders.size:
            assert labels[y, x] == 0
            continue
        assert labels[y, x] - 1 in holders
        assert masks[labels[y, x] - 1].sum() == masks[holders].sum((1, 2)).min()


@LAW
@given(BIG, st.integers(1, 3))
def test_a_pixel_is_between_if_two_instances_are_in_reach(masks: NDArray[np.bool_], reach: int) -> None:
    labels = plane(masks)
    found = between(labels, reach)
    assert found.dtype == np.float32
    for y, x in np.ndindex(*labels.shape):
        near = labels[max(y - reach, 0) : y + reach + 1, max(x - reach, 0) : x + reach + 1]
        assert found[y, x] == (len(set(near[near > 0].tolist())) > 1)


@LAW
@given(BIG)
def test_depth_is_the_distance_to_the_own_rim_as_a_share_of_the_deepest(masks: NDArray[np.bool_]) -> None:
    labels = plane(masks)
    found = depth(labels)
    assert found.dtype == np.float32
    assert (found[labels == 0] == 0).all()
    for number in set(labels[labels > 0].tolist()):
        own = labels == number
        framed = np.pad(labels, 1, mode="edge")  # the border of the picture is no rim
        others = [np.roll(framed, step, axis)[1:-1, 1:-1] != number for step in (1, -1) for axis in (0, 1)]
        rim = np.argwhere(own & np.any(others, 0))
        places = np.argwhere(own)
        far = np.ones(len(places))
        if len(rim):
            far += np.sqrt(((places[:, None] - rim[None]) ** 2).sum(2)).min(1)
        np.testing.assert_allclose(found[own], far / far.max(), rtol=1e-6)


# By hand -------------------------------------------------------------------------------------------------------------


def test_planes_of_two_touching_bars() -> None:
    masks = np.zeros((2, 3, 8), bool)
    masks[0, :, 1:4], masks[1, :, 4:6] = True, True
    labels = plane(masks)
    assert labels.tolist() == [[0, 1, 1, 1, 2, 2, 0, 0]] * 3
    assert between(labels, 1).tolist() == [[0, 0, 0, 1, 1, 0, 0, 0]] * 3
    assert depth(labels).tolist() == [[0, 0.5, 1, 0.5, 1, 1, 0, 0]] * 3


def test_nothing_and_an_instance_without_a_rim() -> None:
    assert depth(plane(np.zeros((0, 4, 5), bool))).tolist() == [[0] * 5] * 4
    assert depth(plane(np.ones((1, 4, 5), bool))).tolist() == [[1] * 5] * 4
