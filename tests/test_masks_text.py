"""Contest text: both pixel orders against an independent reader, every rule's message, and real annotation files."""

from __future__ import annotations

import csv
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from fixtures.dense import LAW, Masks, assert_same, disks, reference_coco, stacks
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as coco_mask

from pipeline.masks.runs import Runs, area, boxes, empty, from_coco, from_dense, to_coco
from pipeline.masks.text import CocoColumns, Order, TextError, from_text, text_to_coco, to_text, transpose

ORDERS = st.sampled_from(["row", "column"])
BASES = st.sampled_from([0, 1])
# Three rows, four columns.
WORKED = np.array([[[0, 1, 1, 0], [1, 1, 0, 0], [1, 0, 0, 1]]], bool)


def read_plainly(text: str, size: tuple[int, int], order: Order, base: int) -> Masks:
    """The mask of one text, pixel by pixel: bool (H, W)."""
    mask, words = np.zeros(size, bool), text.split()
    for start, length in zip(map(int, words[::2]), map(int, words[1::2]), strict=True):
        for place in range(start - base, start - base + length):
            slow, fast = divmod(place, size[1] if order == "row" else size[0])
            mask[(slow, fast) if order == "row" else (fast, slow)] = True
    return mask


@pytest.mark.parametrize(
    ("order", "base", "text"),
    [
        # Along the rows: 0 1 1 0 | 1 1 0 0 | 1 0 0 1; a run goes on into the next row only where both ends are set.
        ("row", 0, "1 2 4 2 8 1 11 1"),
        ("row", 1, "2 2 5 2 9 1 12 1"),
        # Down the columns: 0 1 1 | 1 1 0 | 1 0 0 | 0 0 1; the first run goes on into the second column.
        ("column", 0, "1 4 6 1 11 1"),
        ("column", 1, "2 4 7 1 12 1"),
    ],
)
def test_a_mask_worked_by_hand_in_both_orders(order: Order, base: int, text: str) -> None:
    assert to_text(from_dense(WORKED), order, base) == [text]
    assert_same(from_text([text], (3, 4), order, base), from_dense(WORKED))


@LAW
@given(stacks(), ORDERS, BASES)
def test_runs_to_text_and_back_change_nothing(masks: Masks, order: Order, base: int) -> None:
    found = from_dense(masks)
    assert_same(from_text(to_text(found, order, base), found.size, order, base), found)


@LAW
@given(stacks(), ORDERS, BASES)
def test_text_becomes_the_coco_text_area_and_box_of_its_mask(masks: Masks, order: Order, base: int) -> None:
    found = from_dense(masks)
    columns = text_to_coco(to_text(found, order, base), found.size, order, base)
    assert columns.counts == reference_coco(masks)
    assert_measured(columns, found)


def assert_measured(columns: CocoColumns, wanted: Runs) -> None:
    """Counts, areas and boxes are those of the runs, in int64."""
    assert columns.counts == to_coco(wanted)
    assert columns.area.dtype == columns.boxes.dtype == np.int64
    np.testing.assert_array_equal(columns.area, area(wanted))
    np.testing.assert_array_equal(columns.boxes, boxes(wanted))


@LAW
@given(stacks(), ORDERS, BASES)
def test_text_is_what_an_independent_reader_reads(masks: Masks, order: Order, base: int) -> None:
    texts = to_text(from_dense(masks), order, base)
    for text, mask in zip(texts, masks, strict=True):
        np.testing.assert_array_equal(read_plainly(text, mask.shape, order, base), mask)


@LAW
@given(stacks(), ORDERS, BASES)
def test_text_is_sorted_and_its_runs_do_not_touch(masks: Masks, order: Order, base: int) -> None:
    for text in to_text(from_dense(masks), order, base):
        values = np.array(text.split(), np.int64)
        assert " ".join(text.split()) == text
        assert (values[2::2] > values[:-2:2] + values[1:-2:2]).all()


@LAW
@given(stacks(), ORDERS, st.randoms(use_true_random=False))
def test_unsorted_and_touching_runs_are_read_as_the_same_mask(masks: Masks, order: Order, random: object) -> None:
    pixel_by_pixel = []
    for mask in masks:
        places = np.flatnonzero(mask.ravel("C" if order == "row" else "F")).tolist()
        random.shuffle(places)  # type: ignore[attr-defined]
        pixel_by_pixel.append(" ".join(f"{place + 1} 1" for place in places))
    assert_same(from_text(pixel_by_pixel, masks.shape[1:], order), from_dense(masks))
    assert_measured(text_to_coco(pixel_by_pixel, masks.shape[1:], order), from_dense(masks))


@LAW
@given(stacks())
def test_transposing_runs_is_transposing_the_masks(masks: Masks) -> None:
    found = from_dense(masks)
    assert_same(transpose(found), from_dense(masks.transpose(0, 2, 1)))
    assert_same(transpose(transpose(found)), found)


@LAW
@given(stacks())
def test_the_rows_of_a_canvas_are_the_columns_of_the_transposed_one(masks: Masks) -> None:
    found = from_dense(masks)
    assert to_text(found, "row") == to_text(transpose(found), "column")


def test_blank_texts_are_empty_masks() -> None:
    for order in ("row", "column"):
        assert_same(from_text(["", "  ", "\t\n"], (3, 4), order), empty(3, (3, 4)))
        assert_same(from_text([], (3, 4), order), empty(0, (3, 4)))
        assert to_text(empty(2, (3, 4)), order) == ["", ""]
        assert to_text(empty(0, (3, 4)), order) == []
        assert_measured(text_to_coco(["", "  ", "\t\n"], (3, 4), order), empty(3, (3, 4)))
        assert_measured(text_to_coco([], (3, 4), order), empty(0, (3, 4)))


def test_any_white_space_separates_values() -> None:
    assert_same(from_text([" 2  4\t7 1\n12 1\r\n"], (3, 4), "column"), from_dense(WORKED))
    assert_same(from_text(["  2  4 7 1   12 1 "], (3, 4), "column"), from_dense(WORKED))


def test_leading_zeros_are_read() -> None:
    assert_same(from_text(["02 4 00000000000007 1 12 01"], (3, 4), "column"), from_dense(WORKED))


@pytest.mark.parametrize("order", ["row", "column"])
def test_more_texts_than_one_pass_takes_are_read_as_one_by_one(order: Order) -> None:
    texts = to_text(from_dense(disks(50, (24, 18), seed=3)), order) * 90
    found = from_text(texts, (24, 18), order)
    assert found.count == 4500
    for place in (0, 2047, 2048, 4095, 4096, 4499):
        assert_same(found.select([place]), from_text([texts[place]], (24, 18), order))
    assert to_text(found, order) == texts
    assert_measured(text_to_coco(texts, (24, 18), order), found)
    assert_same(transpose(transpose(found)), found)
    with pytest.raises(TextError, match=r"^RLE 2049: ") as caught:
        from_text([*texts[:2049], "0 1"], (24, 18), order)
    assert caught.value.index == 2049


@pytest.mark.parametrize("order", ["row", "column"])
def test_texts_longer_than_a_pass_are_read_one_by_one(order: Order) -> None:
    masks = np.zeros((4, 800, 900), bool)
    masks[0, ::2, ::2] = masks[1, 1::2, ::2] = masks[3] = True
    texts = to_text(from_dense(masks), order)
    assert len(texts[0]) > 1 << 20
    assert_same(from_text(texts, (800, 900), order), from_dense(masks))
    assert_measured(text_to_coco(texts, (800, 900), order), from_dense(masks))


@pytest.mark.parametrize("size", [(6, 5), (5000, 7000), (46_340, 46_340), (100_000, 90_000), (2**31, 6), (6, 2**31)])
@pytest.mark.parametrize("order", ["row", "column"])
def test_canvases_of_every_size_are_alike(size: tuple[int, int], order: Order) -> None:
    # A block of two by two in each corner, worked out by hand; the keys of large canvases need 64 bits.
    height, width = size
    slow, fast = (height, width) if order == "row" else (width, height)
    lines = [(line * fast + place + 1, 2) for line in (0, 1, slow - 2, slow - 1) for place in (0, fast - 2)]
    texts = [" ".join(f"{start} {length}" for start, length in lines), f"{height * width} 1", "", "1 1"]
    found = from_text(texts, size, order)
    columns = text_to_coco(texts, size, order)
    assert columns.area.tolist() == [16, 1, 0, 1]
    assert columns.boxes.tolist() == [
        [0, 0, width, height], [width - 1, height - 1, width, height], [0, 0, 0, 0], [0, 0, 1, 1]
    ]  # fmt: skip
    assert_same(from_coco(columns.counts, size), found)
    assert_measured(columns, found)
    again = to_text(found, order)
    assert again[1:] == texts[1:]
    assert_same(from_text(again, size, order), found)


@pytest.mark.parametrize(
    ("text", "base", "rule"),
    [
        ("1 2 x", 1, '"x" is no whole number of a pixel or a length'),
        ("1.0 2", 1, '"1.0" is no whole number of a pixel or a length'),
        ("1e3 2", 1, '"1e3" is no whole number of a pixel or a length'),
        ("-1 2", 1, '"-1" is no whole number of a pixel or a length'),
        ("+1 2", 1, '"+1" is no whole number of a pixel or a length'),
        ("1_0 2", 1, '"1_0" is no whole number of a pixel or a length'),
        ("1,2", 1, '"1,2" is no whole number of a pixel or a length'),
        ("\u0663 2", 1, '"\u0663" is no whole number of a pixel or a length'),
        ("nan", 1, '"nan" is no whole number of a pixel or a length'),
        ("1" * 60, 1, f'"{"1" * 40}" is no whole number of a pixel or a length'),
        ("1 " + "9" * 19, 1, f'"{"9" * 19}" is no whole number of a pixel or a length'),
        ("3", 1, "an odd number of values (1); wanted start length pairs"),
        ("1 2 3", 1, "an odd number of values (3); wanted start length pairs"),
        ("1 2 5 0", 1, "run 2 has length 0, wanted at least 1"),
        ("0 1", 1, "run 1 starts at pixel 0, the first pixel is 1"),
        ("2 1 12 2", 1, "run 2 ends at pixel 13, the image has 12"),
        ("1 13", 1, "run 1 ends at pixel 13, the image has 12"),
        ("11 2", 0, "run 1 ends at pixel 12, the image has 12 (0 to 11)"),
        ("1 " + "9" * 18, 1, "run 1 ends at pixel 999999999999999999, the image has 12"),
        ("9" * 18 + " " + "9" * 18, 1, "run 1 ends at pixel 1999999999999999997, the image has 12"),
        ("1 3 3 2", 1, 'runs overlap: "1 3" and "3 2"'),
        ("3 2 1 3", 1, 'runs overlap: "1 3" and "3 2"'),
        ("0 3 2 2", 0, 'runs overlap: "0 3" and "2 2"'),
        ("4 1 4 1", 1, 'runs overlap: "4 1" and "4 1"'),
        ("1 9 2 1 5 1", 1, 'runs overlap: "1 9" and "2 1"'),
    ],
)
@pytest.mark.parametrize("order", ["row", "column"])
def test_each_rule_is_named_with_the_text_that_breaks_it(text: str, base: int, rule: str, order: Order) -> None:
    with pytest.raises(TextError) as caught:
        from_text(["1 1 3 1", "", text, "5 1"], (3, 4), order, base)
    assert (caught.value.index, caught.value.rule) == (2, rule)
    assert str(caught.value) == f"RLE 2: {rule}"
    assert isinstance(caught.value, ValueError)
    with pytest.raises(TextError) as caught:
        text_to_coco(["1 1 3 1", "", text, "5 1"], (3, 4), order, base)
    assert (caught.value.index, caught.value.rule) == (2, rule)


def test_runs_of_two_texts_may_overlap() -> None:
    assert from_text(["1 3", "2 3"], (3, 4), "column").stop.tolist() == [3, 4]


@pytest.mark.parametrize("order", ["rows", "C", "", None])
def test_an_unknown_order_is_refused_both_ways(order: Order) -> None:
    with pytest.raises(ValueError, match='order: wanted "row" or "column", got'):
        from_text([], (3, 4), order)
    with pytest.raises(ValueError, match='order: wanted "row" or "column", got'):
        to_text(empty(1, (3, 4)), order)
    with pytest.raises(ValueError, match='order: wanted "row" or "column", got'):
        text_to_coco([], (3, 4), order)


def test_a_base_below_zero_is_refused() -> None:
    with pytest.raises(ValueError, match="base: wanted the number of the first pixel, 0 or more, got -1"):
        to_text(empty(1, (3, 4)), "row", -1)


@LAW
@given(st.lists(st.text("0123456789 \t-x.", max_size=10), max_size=3), ORDERS, BASES)
def test_any_text_is_refused_or_means_what_an_independent_reader_reads(
    texts: list[str], order: Order, base: int
) -> None:
    try:
        found = from_text(texts, (3, 4), order, base)
    except TextError:
        return
    wanted = [read_plainly(text, (3, 4), order, base) for text in texts]
    assert_same(found, from_dense(np.array(wanted, bool).reshape(-1, 3, 4)))


def test_every_sartorius_annotation_is_written_back_byte_for_byte(real_data: Path) -> None:
    with open(real_data / "sartorius" / "train_all_annotations.csv", newline="") as file:
        texts = [row["annotation"] for row in csv.DictReader(file)]
    assert len(texts) > 1000
    found = from_text(texts, (520, 704), "row")
    assert to_text(found, "row") == texts
    assert_measured(text_to_coco(texts, (520, 704), "row"), found)
    columns = to_text(found, "column")
    assert_same(from_text(columns, (520, 704), "column"), found)
    sample = np.arange(0, len(texts), max(len(texts) // 150, 1))
    masks = np.array([painted(texts[i], (520, 704), "C") for i in sample])
    assert to_coco(found.select(sample)) == reference_coco(masks)


def test_every_dsb2018_annotation_is_written_back_byte_for_byte(real_data: Path) -> None:
    folder = real_data / "dsb2018"
    texts: dict[str, list[str]] = defaultdict(list)
    with open(folder / "stage1_train_labels_fixed.csv", newline="") as file:
        for row in csv.DictReader(file):
            texts[row["ImageId"]].append(row["EncodedPixels"])
    assert len(texts) > 100
    for i, (name, own) in enumerate(sorted(texts.items())):
        with Image.open(folder / "stage1_train" / name / "images" / f"{name}.png") as picture:
            width, height = picture.size
        found = from_text(own, (height, width), "column")
        assert to_text(found, "column") == own
        assert_measured(text_to_coco(own, (height, width), "column"), found)
        if i % 10 == 0:
            assert to_coco(found) == [objects_of_pycocotools(text, (height, width)) for text in own]
            assert_same(from_coco(to_coco(found), (height, width)), found)


def painted(text: str, size: tuple[int, int], memory: str) -> Masks:
    """One text painted on a flat dense canvas of the given memory order."""
    flat, values = np.zeros(size[0] * size[1], bool), np.array(text.split(), np.int64)
    for start, length in zip(values[::2] - 1, values[1::2], strict=True):
        flat[start : start + length] = True
    return flat.reshape(size, order=memory)  # type: ignore[call-overload]


def objects_of_pycocotools(text: str, size: tuple[int, int]) -> str:
    """Column-major text, compressed by pycocotools from uncompressed counts."""
    values = np.array(text.split(), np.int64)
    edges = np.stack([values[::2] - 1, values[::2] - 1 + values[1::2]], 1).ravel()
    counts = np.diff(edges, prepend=0, append=size[0] * size[1]).tolist()
    counts = counts if counts[-1] else counts[:-1]
    return coco_mask.frPyObjects({"size": list(size), "counts": counts}, *size)["counts"].decode()
