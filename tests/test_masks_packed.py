"""Packed masks: the contest's own steps, and what comes from elsewhere."""

from __future__ import annotations

import base64
import tracemalloc
import zlib
from contextlib import suppress

import numpy as np
import pytest
from fixtures.dense import LAW, Masks, reference_coco, stacks
from hypothesis import given
from hypothesis import strategies as st
from pycocotools import mask as tools

from pipeline.masks.packed import PackedError, check, limit, pack, unpack


def zipped(content: bytes) -> str:
    return base64.b64encode(zlib.compress(content)).decode()


@LAW
@given(stacks())
def test_packing_is_what_the_contests_page_says_and_unpacking_undoes_it(masks: Masks) -> None:
    counts = reference_coco(masks)
    wanted = [
        base64.b64encode(
            zlib.compress(tools.encode(np.asfortranarray(mask, np.uint8))["counts"], zlib.Z_BEST_COMPRESSION)
        ).decode()
        for mask in masks
    ]
    assert pack(counts) == wanted
    assert [unpack(text, masks.shape[1:]) for text in wanted] == counts


@LAW
@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 2**32))
def test_no_mask_needs_more_bytes_than_the_limit(height: int, width: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    masks = rng.random((3, height, width)) < np.array([0.5, 0.1, 0.01])[:, None, None]
    # Runs that are long and short in turn need most characters.
    flat = np.zeros(height * width, bool)
    flat[np.cumsum(rng.choice([1, 17, 40], height * width)) % flat.size] = True
    masks = np.concatenate(
        [masks, flat.reshape(1, width, height).transpose(0, 2, 1), np.indices(masks[:1].shape).sum(0) % 2]
    )
    assert max(map(len, reference_coco(masks != 0))) <= limit((height, width))


@LAW
@given(st.text(st.characters(min_codepoint=32, max_codepoint=300), max_size=40))
def test_any_text_is_a_mask_or_a_packed_error(text: str) -> None:
    for one in (text, zipped(text.encode())):
        with suppress(PackedError):
            assert 0 <= int(tools.area({"size": [3, 4], "counts": unpack(one, (3, 4)).encode()})) <= 12


def test_a_mask_worked_out_by_hand() -> None:
    # 2 rows, 3 columns; the middle column: 2 pixels before it, 2 of it, 2 behind it: counts 2 2 2, each one character.
    assert unpack(zipped(b"222"), (2, 3)) == "222"


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("", "its zlib stream is cut off"),
        ("a b", '"a b" is no base64'),
        ("£", '"£" is no base64'),
        ("YWJj", "what base64 holds is no zlib stream (Error -3 while decompressing data: incorrect header check)"),
        (zipped(b"222")[:-8] + "AAAA", "its zlib stream is cut off"),
        (
            base64.b64encode(zlib.compress(b"222") + b"more").decode(),
            "4 bytes follow the end of its zlib stream",
        ),
        (zipped(b"2" * 29), "it inflates to more than 28 bytes, which no mask of this size needs"),
        (zipped(b""), "its RLE covers 0 pixels, the image has 6 (2 × 3)"),
        (zipped(b"22"), "its RLE covers 4 pixels, the image has 6 (2 × 3)"),
        (zipped(b"2 2"), "its counts are no compressed COCO RLE: '2 2'"),
        (zipped(b"2R"), "its counts are no compressed COCO RLE: '2R'"),
        (zipped(b"\xff"), "its counts are no compressed COCO RLE: they hold bytes that are no ASCII"),
        (zipped(b"O7"), "a count of its RLE is -1, the image has 6 pixels"),
        (zipped(b"7"), "a count of its RLE is 7, the image has 6 pixels"),
        (zipped(b"P" * 10 + b"1"), "a count of its RLE is larger than any canvas"),
    ],
)
def test_what_is_no_mask_is_refused_with_the_rule(text: str, rule: str) -> None:
    with pytest.raises(PackedError) as error:
        unpack(text, (2, 3))
    assert error.value.rule == rule


def test_a_bomb_costs_no_more_than_a_mask() -> None:
    bomb = base64.b64encode(zlib.compress(bytes(1 << 28), 9)).decode()  # a quarter of a gigabyte in 350 kB
    tracemalloc.start()
    try:
        with pytest.raises(PackedError, match="inflates to more than 524304 bytes"):
            unpack(bomb, (512, 512))
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()


def test_counts_that_would_overflow_are_refused() -> None:
    with pytest.raises(PackedError, match=r"a count of its RLE is 1000000000000, the image has 6 pixels"):
        check(counts_text([10**12]), (2, 3))
    # Sums of these wrap around 64 bits to 6.
    with pytest.raises(PackedError, match="a count of its RLE is"):
        check(counts_text([2**49] * 2**15 + [6]), (2, 3))


def counts_text(values: list[int]) -> str:
    """rleToString of the COCO tools, with Python's numbers."""
    text = ""
    for place, value in enumerate(values):
        rest = value - (values[place - 2] if place > 2 else 0)
        more = True
        while more:
            low, rest = rest & 31, rest >> 5
            more = rest != (-1 if low & 16 else 0)
            text += chr(48 + low + 32 * more)
    return text
