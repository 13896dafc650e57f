"""Runs: their laws against dense masks and pycocotools, and values worked by hand."""

from __future__ import annotations

import numpy as np
import pytest
from fixtures.dense import LAW, Masks, assert_same, disks, pairs, reference_coco, stacks
from hypothesis import given
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

from pipeline.masks import runs
from pipeline.masks.runs import Runs, from_coco, from_dense, to_coco, to_dense

# Three rows, four columns. Pixels down the columns: 0 1 2 | 3 4 5 | 6 7 8 | 9 10 11.
WORKED = np.array([[[0, 1, 1, 0], [1, 1, 0, 0], [1, 0, 0, 1]]], bool)


def test_the_runs_of_a_worked_mask_go_down_its_columns() -> None:
    found = from_dense(WORKED)
    assert (found.size, len(found)) == ((3, 4), 1)
    assert found.start.tolist() == [1, 6, 11]  # pixels 1 2 3 4 join across the column's end
    assert found.stop.tolist() == [5, 7, 12]
    assert runs.area(found).tolist() == [6]
    assert runs.boxes(found).tolist() == [[0, 0, 4, 3]]


def test_the_coco_text_of_a_worked_mask() -> None:
    # Counts 1 4 1 1 4 1; from the fourth on the differences to two before: 1 4 1 -3 3 0; as characters + 48: -3 is
    # five bits 11101 = 29, so "M".
    assert to_coco(from_dense(WORKED)) == ["141M30"]


@LAW
@given(stacks())
def test_dense_to_runs_and_back_changes_nothing(masks: Masks) -> None:
    found = from_dense(masks)
    np.testing.assert_array_equal(to_dense(found), masks)
    assert_same(from_dense(to_dense(found)), found)


@LAW
@given(stacks())
def test_coco_text_equals_that_of_pycocotools(masks: Masks) -> None:
    assert to_coco(from_dense(masks)) == reference_coco(masks)


@LAW
@given(stacks(), st.booleans())
def test_coco_text_is_read_back_from_str_and_from_bytes(masks: Masks, as_bytes: bool) -> None:
    texts = reference_coco(masks)
    given_texts = [text.encode() for text in texts] if as_bytes else texts
    assert_same(from_coco(given_texts, masks.shape[1:]), from_dense(masks))


def test_coco_text_of_large_counts_equals_that_of_pycocotools() -> None:
    masks = np.zeros((4, 2100, 2300), bool)
    masks[0, 5:1900, 7:2200] = True
    masks[1, 2099, 2299] = True
    masks[2, ::2, 1000:1003] = True
    texts = reference_coco(masks)
    assert to_coco(from_dense(masks)) == texts
    assert_same(from_coco(texts, (2100, 2300)), from_dense(masks))


@LAW
@given(st.lists(st.lists(st.integers(0, 5), min_size=1, max_size=12), max_size=4))
def test_coco_text_with_counts_of_zero_is_joined_to_the_runs_of_its_mask(counts: list[list[int]]) -> None:
    width = max([sum(one) for one in counts], default=1) or 1
    counts = [[*one, width - sum(one)] if len(one) % 2 == 0 else [*one, 0, width - sum(one)] for one in counts]
    texts, masks = [], np.zeros((len(counts), 1, width), bool)
    for mask, one in zip(masks, counts, strict=True):
        texts.append(coco_mask.frPyObjects({"size": [1, width], "counts": one}, 1, width)["counts"])
        edges = np.cumsum([0, *one])
        for low, high in zip(edges[1:-1:2], edges[2::2], strict=False):
            mask[0, low:high] = True
    assert_same(from_coco(texts, (1, width)), from_dense(masks))


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "its RLE covers 0 pixels"),
        ("5", "its RLE covers 5 pixels"),
        ("<1", "its RLE covers 13 pixels"),
        ("6O7", "a count of its RLE is -1"),  # 6 - 1 + 7 = 12: the sum alone would pass
        ("OMm0", "a count of its RLE is -1"),
        ("=O", "a count of its RLE is 13"),
        ("P", "no compressed COCO RLE"),  # says that another character follows
        ("<\n", "no compressed COCO RLE"),
        ("12 0", "no compressed COCO RLE"),
        ("[12]", "no compressed COCO RLE"),
        ("<\u00ff", "no compressed COCO RLE"),
        ("\u20ac", "no compressed COCO RLE"),
        ("\ud800", "no compressed COCO RLE"),
        (b"<\xff", "no compressed COCO RLE"),
        ("P" * 12 + "0", "larger than any canvas"),
        ("o" * 9 + "0", "a count of its RLE is"),
    ],
)
def test_what_is_no_coco_text_of_the_canvas_is_refused_naming_the_mask(text: str | bytes, why: str) -> None:
    with pytest.raises(ValueError, match=r"^mask 1: ") as caught:
        from_coco(["<", text, "0<"], (3, 4))
    assert why in str(caught.value)


def test_a_character_outside_ascii_is_not_read_as_a_question_mark() -> None:
    assert from_coco(["?"], (3, 5)).count == 1  # a question mark is the count 15
    with pytest.raises(ValueError, match="no compressed COCO RLE"):
        from_coco(["\u00e9"], (3, 5))


@given(st.lists(st.text(max_size=12), max_size=3))
@LAW
def test_any_text_is_refused_with_a_value_error_or_is_lawful(texts: list[str]) -> None:
    try:
        found = from_coco(texts, (3, 4))
    except ValueError:
        return
    assert_same(from_coco(to_coco(found), (3, 4)), found)


@LAW
@given(stacks())
def test_areas_and_boxes_equal_those_of_the_dense_masks(masks: Masks) -> None:
    found = from_dense(masks)
    assert runs.area(found).dtype == runs.boxes(found).dtype == np.int64
    assert runs.area(found).tolist() == masks.sum((1, 2)).tolist()
    assert runs.boxes(found).tolist() == [dense_box(mask) for mask in masks]


def dense_box(mask: Masks) -> list[int]:
    y, x = np.nonzero(mask)
    return [int(x.min()), int(y.min()), int(x.max()) + 1, int(y.max()) + 1] if len(y) else [0, 0, 0, 0]


def test_three_hundred_masks_at_once_equal_pycocotools() -> None:
    masks = disks(300, (90, 70), seed=1)
    found = from_dense(masks)
    rles = [{"size": [90, 70], "counts": text} for text in to_coco(found)]
    # pycocotools counts its masks in a uint8 here, so one at a time.
    assert runs.area(found).tolist() == [int(coco_mask.area(rle)) for rle in rles]
    assert runs.boxes(found).tolist() == [dense_box(mask) for mask in masks]
    assert to_coco(found) == reference_coco(masks)
    assert_same(from_coco(to_coco(found), (90, 70)), found)


@LAW
@given(stacks(), st.data())
def test_selecting_masks_is_indexing_the_dense_stack(masks: Masks, data: st.DataObject) -> None:
    found, places = from_dense(masks), st.integers(-len(masks), len(masks) - 1)
    index = data.draw(st.lists(places, max_size=6) if len(masks) else st.just([]))
    assert_same(found.select(np.array(index, np.int64)), from_dense(masks[np.array(index, np.int64)]))
    assert_same(found.select(index), from_dense(masks[np.array(index, np.int64)]))
    chosen = np.array(data.draw(st.lists(st.booleans(), min_size=len(masks), max_size=len(masks))), bool)
    assert_same(found.select(chosen), from_dense(masks[chosen]))


@pytest.mark.parametrize("index", [[3], [-4], [0.5], [True, False], np.array([True] * 4)])
def test_an_index_that_fits_no_mask_is_refused(index: object) -> None:
    with pytest.raises(IndexError):
        runs.empty(3, (2, 2)).select(index)


@LAW
@given(st.data())
def test_concatenated_masks_are_the_concatenated_stack(data: st.DataObject) -> None:
    size = data.draw(st.tuples(st.integers(1, 5), st.integers(1, 5)))
    parts = data.draw(st.lists(stacks(size, max_count=3), max_size=4))
    whole = runs.concatenate([from_dense(part) for part in parts], size)
    assert_same(whole, from_dense(np.concatenate([*parts, np.zeros((0, *size), bool)])))


@LAW
@given(pairs())
def test_concatenated_masks_can_be_selected_apart(two: tuple[Masks, Masks]) -> None:
    a, b = (from_dense(masks) for masks in two)
    whole = runs.concatenate([a, b], a.size)
    assert_same(whole.select(np.arange(len(a))), a)
    assert_same(whole.select(np.arange(len(a), len(whole))), b)


@LAW
@given(st.lists(st.tuples(st.integers(-9, 9), st.integers(0, 4)), max_size=6))
def test_expand_lists_the_members_of_intervals(intervals: list[tuple[int, int]]) -> None:
    begin, length = (np.array([one[i] for one in intervals], np.int64) for i in (0, 1))
    wanted = [low + step for low, count in intervals for step in range(count)]
    assert runs.expand(begin, length).tolist() == wanted


@LAW
@given(stacks())
def test_the_pieces_of_columns_hold_every_pixel_once(masks: Masks) -> None:
    found = from_dense(masks)
    again = np.zeros(masks.shape, int)
    for x, top, bottom, run in zip(*runs.split_columns(found), strict=True):
        assert top < bottom
        again[found.instance[run], top:bottom, x] += 1
    np.testing.assert_array_equal(again, masks)


@LAW
@given(stacks())
def test_pixels_are_those_of_the_dense_masks(masks: Masks) -> None:
    place, owner = runs.pixels(from_dense(masks))
    again = np.zeros((len(masks), masks[0].size if len(masks) else 0), int)
    np.add.at(again, (owner, place), 1)
    np.testing.assert_array_equal(again, masks.transpose(0, 2, 1).reshape(again.shape))


def test_empty_masks_have_no_pixel_and_no_box() -> None:
    for count in (0, 3):
        none = runs.empty(count, (4, 5))
        assert to_dense(none).shape == (count, 4, 5)
        assert runs.area(none).tolist() == [0] * count
        assert runs.boxes(none).tolist() == [[0, 0, 0, 0]] * count
        assert to_coco(none) == ["d0"] * count  # one count of 20: 20 = 0b10100, as "d" (more) and "0"
        assert from_coco(to_coco(none), (4, 5)).count == count


def test_nothing_that_is_given_is_changed() -> None:
    masks = disks(5, (20, 20), seed=2)
    found = from_dense(masks)
    before = [column.copy() for column in (found.start, found.stop, found.instance)]
    frozen = Runs(found.size, found.count, found.start, found.stop, found.instance)
    for column in (frozen.start, frozen.stop, frozen.instance):
        column.flags.writeable = False
    to_coco(frozen), runs.area(frozen), runs.boxes(frozen), frozen.select([1, 0]), to_dense(frozen)
    runs.concatenate([frozen, frozen], frozen.size)
    for column, kept in zip((found.start, found.stop, found.instance), before, strict=True):
        np.testing.assert_array_equal(column, kept)
