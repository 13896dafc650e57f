"""Numbers in texts: read and written as Python does it, one by one."""

from __future__ import annotations

import numpy as np
import pytest
from fixtures.dense import LAW
from hypothesis import given
from hypothesis import strategies as st

from pipeline.masks import numbers

NUMBERS = st.one_of(st.integers(0, 99), st.integers(0, 10**18 - 1))
LISTS = st.lists(st.lists(NUMBERS, max_size=5), max_size=5)


def read(texts: list[str]) -> tuple[list[int], list[int]] | None:
    found = numbers.read(texts, np.array([len(text) for text in texts], np.int64))
    return None if found is None else (found[0].tolist(), found[1].tolist())


@LAW
@given(LISTS)
def test_what_is_written_is_what_str_writes_and_is_read_back(lists: list[list[int]]) -> None:
    values = np.array([value for one in lists for value in one], np.int64)
    words = np.array([len(one) for one in lists], np.int64)
    texts = numbers.write(values, words)
    assert texts == [" ".join(map(str, one)) for one in lists]
    assert read(texts) == (values.tolist(), words.tolist())


@LAW
@given(st.lists(st.text("0123456789 ", max_size=12), max_size=4))
def test_any_text_of_digits_and_blanks_is_read_as_int_reads_its_words(texts: list[str]) -> None:
    words = [text.split() for text in texts]
    assert read(texts) == ([int(word) for one in words for word in one], [len(one) for one in words])


@pytest.mark.parametrize("text", ["1\t2", "1\n", "-1", "+1", "1.0", "a", "/", ":", "\u0663", "1" * 19])
def test_other_texts_are_not_read(text: str) -> None:
    assert read(["12 3", text]) is None


def test_numbers_take_half_the_bytes_where_they_fit() -> None:
    lengths = np.array([11], np.int64)
    assert numbers.read(["999999999 1"], lengths)[0].dtype == np.int32  # type: ignore[index]
    assert numbers.read(["1000000000 "], lengths)[0].dtype == np.int64  # type: ignore[index]
