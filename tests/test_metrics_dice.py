"""Mean Dice of images and classes: laws, an independent dense implementation, values worked by hand."""

from __future__ import annotations

import json

import numpy as np
import pytest
from fixtures.scored import LAW, SIZE, Masks, bars, image_pairs, instances, mask_sets
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import InputError
from pipeline.instances import Instances
from pipeline.masks.runs import to_dense
from pipeline.metrics.dice import mean_dice

CLASSES = {"one": 1, "two": 2}
FEW = settings(LAW, max_examples=50)
Pairs = list[tuple[Instances, Instances]]


def area_of(image: Instances, label: int) -> Masks:
    """The pixels of one class, bool (H, W)."""
    return to_dense(image.runs)[image.labels == label].any(axis=0)


# laws


@given(image_pairs())
@settings(LAW, max_examples=80)
def test_dice_is_that_of_painted_classes(pairs: Pairs) -> None:
    wanted = np.zeros((len(pairs), 2))
    for row, (truth, predicted) in enumerate(pairs):
        for column, label in enumerate(CLASSES.values()):
            a, b = area_of(truth, label), area_of(predicted, label)
            wanted[row, column] = 2 * (a & b).sum() / (a.sum() + b.sum()) if (a | b).any() else 1
    truth, predicted = zip(*pairs, strict=True)
    found = mean_dice(truth, predicted[::-1], CLASSES)
    np.testing.assert_allclose(found.per_image, wanted.mean(axis=1), rtol=1e-12)
    np.testing.assert_allclose(list(found.per_class.values()), wanted.mean(axis=0), rtol=1e-12)
    assert found.total == pytest.approx(wanted.mean(), rel=1e-12)
    assert found.image_ids == tuple(one.image_id for one in truth)


@given(image_pairs())
@FEW
def test_swapping_truth_and_prediction_changes_nothing(pairs: Pairs) -> None:
    truth, predicted = zip(*pairs, strict=True)
    assert mean_dice(truth, predicted, CLASSES).total == mean_dice(predicted, truth, CLASSES).total


@given(mask_sets(), mask_sets(), st.data())
@FEW
def test_how_a_class_is_cut_into_instances_does_not_matter(masks: Masks, other: Masks, data: st.DataObject) -> None:
    whole = masks.any(axis=0, keepdims=True) if len(masks) else masks
    cut = data.draw(st.integers(0, SIZE[0]))
    halves = np.concatenate([whole, whole])  # and one of them overlaps the other
    halves[len(whole) :, :cut] = False
    scores = [mean_dice([instances(other)], [instances(one)], {"one": 1}).total for one in (masks, whole, halves)]
    assert scores[0] == scores[1] == scores[2]


@given(image_pairs())
@FEW
def test_truth_against_itself_scores_one(pairs: Pairs) -> None:
    truth = [one for one, _ in pairs]
    assert mean_dice(truth, truth, CLASSES).total == 1


# values worked by hand


def test_two_classes_score_as_worked_by_hand() -> None:
    # one: 6 of 10 pixels found, 2 · 6 / (10 + 6) = 3/4. two: 4 pixels of nothing, 0. three: nowhere, 1.
    truth = instances(bars((0, 10)), [1])
    predicted = instances(bars((0, 6), (20, 24)), [1, 2])
    found = mean_dice([truth], [predicted], {**CLASSES, "three": 3})
    assert found.per_class == {"one": 0.75, "two": 0, "three": 1}
    assert found.total == pytest.approx(1.75 / 3)


def test_pixels_that_instances_of_a_class_share_count_once() -> None:
    # 0-10 and 5-15 cover 15 pixels, of which 10 are found: 2 · 10 / (15 + 10).
    truth = instances(bars((0, 10), (5, 15)))
    assert mean_dice([truth], [instances(bars((0, 10)))], {"one": 1}).total == pytest.approx(20 / 25)


def test_an_instance_inside_another_of_its_class_adds_nothing() -> None:
    truth = instances(bars((0, 10), (2, 4), (6, 12)))
    assert mean_dice([truth], [instances(bars((0, 12)))], {"one": 1}).total == 1


def test_every_pair_of_image_and_class_weighs_the_same() -> None:
    # Image a: 1 and 1 (empty on both sides). Image b: 0 (missed) and 1.
    truth = [instances(bars((0, 10)), [1], "a"), instances(bars((0, 2)), [1], "b")]
    found = mean_dice(truth, truth[:1], CLASSES)
    assert found.per_image.tolist() == [1, 0.5]
    assert found.total == 0.75


def test_a_class_that_does_not_count_is_not_looked_at() -> None:
    truth = instances(bars((0, 10), (20, 30)), [1, 2])
    assert mean_dice([truth], [instances(bars((0, 10)), [1])], {"one": 1}).total == 1


def test_lines_and_plain_values_hold_total_and_classes() -> None:
    truth = instances(bars((0, 10)), [1])
    found = mean_dice([truth], [instances(bars((0, 6)), [1])], CLASSES)
    assert found.lines() == ["mean Dice 0.8750 over 1 images", "  one: 0.7500", "  two: 1.0000"]
    assert json.loads(json.dumps(found.to_dict(), allow_nan=False)) == {
        "metric": "dice",
        "total": 0.875,
        "per_class": {"one": 0.75, "two": 1},
        "images": [{"image_id": "a", "score": 0.875}],
    }


# wrong input


def test_a_prediction_of_another_size_is_refused() -> None:
    with pytest.raises(InputError, match=r"image a: the prediction is made for 1×30 .* the truth has 1×40"):
        mean_dice([instances(bars())], [instances(bars(width=30))], CLASSES)


def test_an_unknown_image_is_refused_by_name() -> None:
    with pytest.raises(InputError, match="not in the truth, the first is b"):
        mean_dice([instances(bars())], [instances(bars(), image_id="b")], CLASSES)
