from __future__ import annotations

import hashlib
import itertools
from typing import Any

import numpy as np
import pytest
from fixtures.dense import LAW
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.data.annotations import Annotations, gather
from pipeline.data.sampling import ByClass, ByDensity, Positions, RepeatFactor, Sampler, Uniform, holdings, limited
from pipeline.masks.runs import from_dense, to_coco


def epoch(
    images: int, length: int, seed: int, begin: int, rank: int = 0, world: int = 1, weights: Any = None
) -> list[tuple[int, int]]:
    return list(Positions(images, length, seed, lambda: begin, rank, world, weights))


def many(images: int, length: int, seed: int, epochs: int) -> list[tuple[int, int]]:
    return list(itertools.chain.from_iterable(epoch(images, length, seed, k * length) for k in range(epochs)))


@given(st.integers(1, 20), st.integers(1, 30), st.integers(0, 99))
def test_each_pass_over_the_images_is_a_permutation(images: int, length: int, seed: int) -> None:
    passes = 4
    sequence = many(images, length, seed, -(-passes * images // length))
    assert [position for position, _ in sequence] == list(range(len(sequence)))
    for k in range(passes):
        assert sorted(image for _, image in sequence[k * images : (k + 1) * images]) == list(range(images))


@given(st.integers(1, 20), st.integers(1, 30), st.integers(0, 99), st.integers(0, 100))
def test_from_any_position_the_same_sequence_goes_on(images: int, length: int, seed: int, begin: int) -> None:
    wanted = many(images, length, seed, begin // length + 2)
    rest = epoch(images, length, seed, begin)
    assert rest == wanted[begin : (begin // length + 1) * length]  # what is left of the interrupted epoch
    behind = begin + len(rest)
    assert epoch(images, length, seed, behind) == wanted[behind : behind + length]


@given(st.integers(1, 20), st.integers(1, 8), st.integers(1, 4), st.integers(0, 99), st.integers(0, 5))
def test_processes_share_an_epoch_without_overlap(images: int, each: int, world: int, seed: int, number: int) -> None:
    length = each * world
    whole = epoch(images, length, seed, number * length)
    parts = [epoch(images, length, seed, number * length, rank, world) for rank in range(world)]
    assert sorted(itertools.chain(*parts)) == whole
    assert {len(part) for part in parts} == {each}
    assert len(Positions(images, length, seed, lambda: 0, 0, world)) == each
    # They advance together: the i-th samples of all processes are neighbours.
    for i, together in enumerate(zip(*parts, strict=True)):
        assert list(together) == whole[i * world : (i + 1) * world]


def test_the_order_depends_on_the_seed_and_on_the_pass() -> None:
    one = [image for _, image in many(30, 30, 0, 2)]
    assert one[:30] != one[30:]
    assert one != [image for _, image in many(30, 30, 1, 2)]
    assert one == [image for _, image in many(30, 30, 0, 2)]


@pytest.mark.parametrize("length", [7, 20, 60])
def test_the_length_of_an_epoch_does_not_change_the_order(length: int) -> None:
    assert many(10, length, 3, 2)[:14] == many(10, 5, 3, 4)[:14]


def test_the_position_is_asked_for_when_an_epoch_begins() -> None:
    place = [0]
    order = Positions(5, 4, 0, lambda: place[0])
    first = list(order)
    place[0] = 4
    assert [position for position, _ in first] == [0, 1, 2, 3]
    assert [position for position, _ in order] == [4, 5, 6, 7]


def test_the_uniform_order_is_that_of_the_first_release() -> None:
    """A run that was begun before samplers were known goes on in its order."""
    images = [image for _, image in many(37, 20, 5, 8)]
    digest = hashlib.sha256(np.array(images, "<i8").tobytes()).hexdigest()
    assert digest == "1a8f6a813e20ababfeb5ccb17ed0521860f5c2378965f6a93a78147fbcbd5d1a"


# Weights ------------------------------------------------------------------------------------------------------------


def truth(*images: list[int]) -> Annotations:
    """Annotations of images with instances of these categories."""
    pixel = to_coco(from_dense(np.ones((1, 1, 1), bool)))[0]
    rows = [
        {"image_id": number, "category_id": category, "segmentation": {"size": [1, 1], "counts": pixel}}
        for number, own in enumerate(images, 1)
        for category in own
    ]
    entries = [
        {"id": i, "name": str(i), "file_name": f"{i}.png", "height": 1, "width": 1} for i in range(1, len(images) + 1)
    ]
    return gather({"images": entries, "annotations": rows}, [str(i) for i in range(1, len(images) + 1)])


SHARES = st.lists(st.integers(0, 9), min_size=1, max_size=12).filter(any).map(lambda w: np.array(w, float) / sum(w))


@LAW
@given(SHARES, st.integers(0, 99))
def test_each_pass_holds_every_image_as_often_as_its_share_rounded_up_or_down(weights: Any, seed: int) -> None:
    images = len(weights)
    sequence = [image for _, image in list(epoch(images, 5 * images, seed, 0, weights=weights))]
    for k in range(5):
        count = np.bincount(sequence[k * images : (k + 1) * images], minlength=images)
        assert (np.abs(count - images * weights) < 1 + 1e-9).all()
        assert (count[weights == 0] == 0).all()


def test_over_many_passes_the_frequencies_are_the_shares() -> None:
    weights = np.array([0.05, 0.0, 0.37, 0.08, 0.5])
    order = [image for _, image in epoch(5, 20_000, 1, 0, weights=weights)]
    np.testing.assert_allclose(np.bincount(order, minlength=5) / 20_000, weights, atol=0.004)


@LAW
@given(SHARES, st.integers(1, 12), st.integers(1, 4), st.integers(0, 99), st.integers(0, 60))
def test_a_weighted_order_is_the_same_resumed_and_shared_among_processes(
    weights: Any, each: int, world: int, seed: int, begin: int
) -> None:
    images, length = len(weights), each * world
    whole = [
        pair for k in range(begin // length + 1) for pair in epoch(images, length, seed, k * length, weights=weights)
    ]
    assert epoch(images, length, seed, begin, weights=weights) == whole[begin:]
    first = begin // length * length
    parts = [epoch(images, length, seed, first, rank, world, weights) for rank in range(world)]
    assert sorted(itertools.chain(*parts)) == whole[first:]


@LAW
@given(st.integers(1, 30), st.integers(0, 99))
def test_equal_weights_give_every_image_once_in_each_pass(images: int, seed: int) -> None:
    order = [image for _, image in epoch(images, 2 * images, seed, 0, weights=np.full(images, 1 / images))]
    assert sorted(order[:images]) == sorted(order[images:]) == list(range(images))


# Samplers -----------------------------------------------------------------------------------------------------------

SAMPLERS = [ByClass(), ByClass(0.3), ByDensity(), ByDensity(-1.0), RepeatFactor(), RepeatFactor(1.0), Uniform(1.0)]
IMAGES = st.lists(st.lists(st.integers(1, 4), max_size=5), min_size=1, max_size=8)


@pytest.mark.parametrize("sampler", SAMPLERS, ids=str)
@settings(LAW, max_examples=20)
@given(images=IMAGES)
def test_shares_sum_to_one_and_the_empty_images_keep_theirs(sampler: Sampler, images: list[list[int]]) -> None:
    assert isinstance(sampler, Sampler)
    weights = sampler.weights(truth(*images))
    assert weights is not None
    assert weights.shape == (len(images),)
    assert weights.sum() == pytest.approx(1)
    assert (weights > 0).all()
    blank = np.array([not own for own in images])
    assert weights[blank].sum() == pytest.approx(blank.mean())


@LAW
@given(IMAGES, st.floats(0, 1))
def test_empty_images_are_limited_and_the_others_keep_their_proportions(images: list[list[int]], most: float) -> None:
    annotations, blank = truth(*images), np.array([not own for own in images])
    free, held = ByDensity().weights(annotations), ByDensity(empty=most).weights(annotations)
    assert free is not None
    assert held is not None
    if not blank.all():
        assert held[blank].sum() <= most + 1e-12
        assert held[blank].sum() == pytest.approx(min(most, blank.mean()))
        np.testing.assert_allclose(held[~blank] / held[~blank].sum(), free[~blank] / free[~blank].sum())
    assert held.sum() == pytest.approx(1)


def test_uniform_without_a_limit_is_the_plain_order() -> None:
    assert Uniform().weights(truth([1], [], [2])) is None
    weights = Uniform(empty=0.1).weights(truth([1], [], [2], []))
    np.testing.assert_allclose(weights, [0.45, 0.05, 0.45, 0.05])


def test_by_class_every_class_is_drawn_as_often() -> None:
    annotations = truth([1], [1], [1, 1, 1], [1, 2], [3])
    weights = ByClass().weights(annotations)
    # A class first: 1/3 each. Class 1 is held by four images, classes 2 and 3 by one.
    np.testing.assert_allclose(weights, np.array([1, 1, 1, 5, 4]) / 12)
    # With a power of 0 an image counts once for each of its classes.
    np.testing.assert_allclose(ByClass(0).weights(annotations), np.array([1, 1, 1, 2, 1]) / 6)
    assert holdings(annotations).sum(0).tolist() == [4, 1, 1]


def test_by_density_every_instance_is_drawn_as_often() -> None:
    annotations = truth([1], [1, 1, 1], [2] * 4)
    np.testing.assert_allclose(ByDensity(1).weights(annotations), np.array([1, 3, 4]) / 8)
    np.testing.assert_allclose(ByDensity(0.5).weights(annotations), np.sqrt([1, 3, 4]) / np.sqrt([1, 3, 4]).sum())
    np.testing.assert_allclose(ByDensity(-1).weights(annotations), np.array([12, 4, 3]) / 19)


def test_repeat_factors_are_those_of_the_paper() -> None:
    annotations = truth([1], [1], [1], [1, 2])
    # f is 1 and 1/4: factors 1 and sqrt(0.5 / 0.25), the largest of an image's classes.
    weights = RepeatFactor(0.5).weights(annotations)
    np.testing.assert_allclose(weights, np.array([1, 1, 1, 2**0.5]) / (3 + 2**0.5))
    np.testing.assert_allclose(RepeatFactor(0.25).weights(annotations), np.full(4, 0.25))


def test_nothing_but_empty_images_are_drawn_alike() -> None:
    np.testing.assert_allclose(limited(np.ones(2), truth([], []), 0.0), [0.5, 0.5])


@pytest.mark.parametrize("make", [Uniform, ByClass, ByDensity, RepeatFactor])
def test_a_share_that_cannot_be_meant_is_refused(make: Any) -> None:
    with pytest.raises(ValueError, match="empty: wanted a share of the samples, 0 to 1, or null, got 2"):
        make(empty=2.0)


def test_a_threshold_that_is_no_share_is_refused() -> None:
    with pytest.raises(ValueError, match="threshold: wanted a share of the images, 0 to 1, got 30"):
        RepeatFactor(30.0)
