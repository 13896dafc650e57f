from __future__ import annotations

import pytest
import torch
from fixtures.dense import LAW
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import InputError
from pipeline.inference.ranks import Ranks, gather

CPU = torch.device("cpu")


@LAW
@given(st.lists(st.integers()), st.integers(1, 5))
def test_the_shares_are_all_items_each_once(items: list[int], world: int) -> None:
    shares = [Ranks(CPU, rank, world).share(items) for rank in range(world)]
    assert sorted(item for own in shares for item in own) == sorted(items)
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_one_process_decides_and_works_by_itself() -> None:
    alone, done = gather("cpu", 1, 1), []
    assert (alone.rank, alone.world, alone.device) == (0, 1, CPU)
    assert alone.agree(lambda: "yes") == "yes"
    alone.together(lambda: done.append(1))
    assert done == [1]
    assert not torch.distributed.is_initialized()


def test_an_error_of_one_process_is_its_own() -> None:
    def fail() -> None:
        raise InputError("a.png is no readable image")

    for act in (Ranks(CPU).together, Ranks(CPU).agree):
        with pytest.raises(InputError, match=r"^a\.png is no readable image$"):
            act(fail)
