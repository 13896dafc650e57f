"""The two carriers: what they refuse at construction, selection, and their masks in pycocotools' hands."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from fixtures.dense import LAW, Masks, assert_same, disks, reference_coco, stacks
from hypothesis import given
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

from pipeline.errors import InputError
from pipeline.instances import Detections, Instances
from pipeline.masks.runs import from_dense


def instances(masks: Masks) -> Instances:
    count = len(masks)
    scores = np.linspace(1, 0.5, count, dtype=np.float32)
    return Instances("a", masks.shape[1:], scores, np.arange(1, count + 1), tuple(reference_coco(masks)))


def detections(count: int, side: int = 3) -> Detections:
    generator = np.random.default_rng(count)
    boxes, scores = generator.random((count, 4), np.float32), generator.random(count, np.float32)
    return Detections(
        "a", (9, 7), boxes, scores, np.arange(1, count + 1), generator.random((count, side, side), np.float32)
    )


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # inside pycocotools
@LAW
@given(stacks())
def test_the_masks_of_instances_are_runs_and_rles_of_the_image(masks: Masks) -> None:
    found = instances(masks)
    assert_same(found.runs, from_dense(masks))
    assert len(found) == len(masks)
    for rle, mask in zip(found.rles(), masks, strict=True):
        np.testing.assert_array_equal(coco_mask.decode(rle), mask)


@LAW
@given(stacks(), st.data())
def test_selected_instances_are_those_of_the_index_in_its_order(masks: Masks, data: st.DataObject) -> None:
    found = instances(masks)
    places = st.lists(st.integers(0, len(masks) - 1), max_size=5) if len(masks) else st.just([])
    index = np.array(data.draw(places), np.int64)
    part = found.select(index)
    assert (part.image_id, part.size) == (found.image_id, found.size)
    assert part.labels.tolist() == (index + 1).tolist()
    assert part.masks == tuple(found.masks[i] for i in index)
    np.testing.assert_array_equal(part.scores, found.scores[index])
    kept = np.array(data.draw(st.lists(st.booleans(), min_size=len(masks), max_size=len(masks))), bool)
    assert found.select(kept).labels.tolist() == (np.flatnonzero(kept) + 1).tolist()


def test_selected_detections_are_those_of_the_index_in_its_order() -> None:
    found = detections(4)
    for index in (np.array([2, 0, 2]), np.array([True, False, False, True]), np.zeros(0, np.int64)):
        part = found.select(index)
        assert (part.image_id, part.size, len(part)) == ("a", (9, 7), len(found.labels[index]))
        for name in ("boxes", "scores", "labels", "masks"):
            np.testing.assert_array_equal(getattr(part, name), getattr(found, name)[index])


@LAW
@given(stacks())
def test_instances_of_runs_are_those_of_their_strings(masks: Masks) -> None:
    runs, wanted = from_dense(masks), instances(masks)
    found = Instances.of_runs("a", runs, wanted.scores, wanted.labels)
    assert (found.masks, found.size) == (wanted.masks, wanted.size)
    assert found.runs is runs
    assert dataclasses.replace(found, masks=found.masks).runs is not runs


def test_empty_carriers_are_legal() -> None:
    none = Instances.empty("x", (4, 5))
    assert (len(none), none.rles(), none.runs.count, none.size) == (0, [], 0, (4, 5))
    nothing = Detections.empty("x", (4, 5), 28)
    assert (len(nothing), nothing.masks.shape, nothing.boxes.shape) == (0, (0, 28, 28), (0, 4))
    assert len(nothing.select([])) == len(none.select([])) == 0


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("boxes", np.zeros((3, 4), np.float32), r"boxes: wanted float32 \(2, 4\), got float32 \(3, 4\)"),
        ("boxes", np.zeros((2, 4)), r"boxes: wanted float32 \(2, 4\), got float64 \(2, 4\)"),
        ("scores", np.zeros(2), r"scores: wanted float32 \(2,\), got float64 \(2,\)"),
        ("labels", np.ones(2, np.int32), r"labels: wanted int64 \(2,\), got int32 \(2,\)"),
        ("labels", [1, 2], r"labels: wanted int64 \(2,\), got <class 'list'> None"),
        ("masks", np.zeros((2, 3, 4), np.float32), r"masks: wanted float32 \(2, 4, 4\), got float32 \(2, 3, 4\)"),
        ("masks", np.zeros((1, 3, 3), np.float32), r"masks: wanted float32 \(2, 3, 3\), got float32 \(1, 3, 3\)"),
        ("masks", np.zeros((2, 3, 3), bool), r"masks: wanted float32 \(2, 3, 3\), got bool \(2, 3, 3\)"),
        ("masks", [[[0.5]], [[0.5]]], r"masks: wanted float32 \(2, 1, 1\), got <class 'list'> None"),
        ("masks", np.float32(1), r"masks: wanted float32 \(2, 0, 0\), got float32 \(\)"),
    ],
)
def test_a_column_of_detections_that_does_not_fit_is_named(field: str, value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"^Detections of image a: {message}$"):
        dataclasses.replace(detections(2), **{field: value})


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("scores", np.ones(3, np.float32), r"scores: wanted float32 \(2,\), got float32 \(3,\)"),
        ("labels", np.ones(2), r"labels: wanted int64 \(2,\), got float64 \(2,\)"),
        ("masks", ("d0",), r"scores: wanted float32 \(1,\), got float32 \(2,\)"),
    ],
)
def test_a_column_of_instances_that_does_not_fit_is_named(field: str, value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"^Instances of image a: {message}$"):
        dataclasses.replace(instances(disks(2, (4, 5), seed=1)), **{field: value})


def test_masks_of_another_size_are_refused_when_read() -> None:
    found = dataclasses.replace(instances(disks(2, (4, 5), seed=1)), size=(5, 5))
    with pytest.raises(InputError, match=r"mask 0: its RLE covers 20 pixels, the canvas \(5, 5\) has 25"):
        _ = found.runs


def test_a_carrier_cannot_be_given_other_columns_later() -> None:
    for carrier in (detections(1), instances(disks(1, (4, 5), seed=1))):
        with pytest.raises(dataclasses.FrozenInstanceError):
            carrier.labels = np.ones(1, np.int64)  # type: ignore[misc]
