from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.data.sampling import Positions


def epoch(images: int, length: int, seed: int, begin: int, rank: int = 0, world: int = 1) -> list[tuple[int, int]]:
    return list(Positions(images, length, seed, lambda: begin, rank, world))


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
