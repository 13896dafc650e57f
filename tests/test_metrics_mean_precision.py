"""Mean precision over IoU thresholds: laws, an independent dense implementation, and values worked by hand."""

from __future__ import annotations

import json
from fractions import Fraction
from random import Random

import numpy as np
import pytest
from fixtures.scored import LAW, SIZE, Masks, bars, dense_counts, instances, mask_pairs, mask_sets
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from pipeline.errors import InputError
from pipeline.instances import Instances
from pipeline.metrics.mean_precision import THRESHOLDS, hits, mean_precision, score_image


def disjoint(masks: Masks) -> Masks:
    """Each pixel stays with the first mask that has it; masks left without a pixel go."""
    first = masks & (np.cumsum(masks, axis=0) == 1)
    return first[first.any(axis=(1, 2))]


def table(truth: Instances, predicted: Instances, thresholds: tuple[int, ...] = THRESHOLDS) -> list[tuple[int, ...]]:
    counts = score_image(truth, predicted, thresholds)
    return list(zip(counts.tp.tolist(), counts.fp.tolist(), counts.fn.tolist(), strict=True))


# laws


@given(mask_sets())
@LAW
def test_truth_against_itself_scores_one_also_where_it_overlaps(masks: Masks) -> None:
    truth = instances(masks)
    assert mean_precision([truth], [truth]).total == 1


@given(mask_pairs(), st.sampled_from([THRESHOLDS, (0, 5, 25), (60,), (100,)]))
@settings(LAW, max_examples=300)
def test_counts_agree_with_dense_masks_exact_fractions_and_the_hungarian_method(
    pair: tuple[Masks, Masks], thresholds: tuple[int, ...]
) -> None:
    truth, predicted = pair
    assert table(instances(truth), instances(predicted), thresholds) == dense_counts(truth, predicted, thresholds)


@given(mask_pairs(), st.sampled_from([0, 25, 50, 75]))
@LAW
def test_the_instances_that_are_hits_are_as_many_as_are_counted_and_fit_one_another(
    pair: tuple[Masks, Masks], threshold: int
) -> None:
    truth, predicted = pair
    found, right = hits(instances(truth), instances(predicted), threshold)
    tp = score_image(instances(truth), instances(predicted), (threshold,)).tp[0]
    assert found.sum() == right.sum() == tp
    # The chosen instances alone can all be matched: that they were chosen is no accident of counting.
    assert dense_counts(truth[found], predicted[right], (threshold,)) == [(tp, 0, 0)]


@given(mask_pairs(), st.randoms(use_true_random=False))
@LAW
def test_the_order_of_instances_does_not_matter(pair: tuple[Masks, Masks], random: Random) -> None:
    truth, predicted = (m[random.sample(range(len(m)), len(m))] if len(m) else m for m in pair)
    assert table(instances(truth), instances(predicted)) == table(instances(pair[0]), instances(pair[1]))


@given(mask_pairs(), st.integers(0, 3), st.booleans())
@LAW
def test_turning_and_mirroring_the_canvas_does_not_matter(
    pair: tuple[Masks, Masks], turns: int, mirrored: bool
) -> None:
    moved = [np.rot90(m[..., ::-1] if mirrored else m, turns, axes=(1, 2)) for m in pair]
    assert table(instances(moved[0]), instances(moved[1])) == table(instances(pair[0]), instances(pair[1]))


@given(mask_pairs())
@LAW
def test_swapping_truth_and_prediction_swaps_misses_and_false_alarms_only(pair: tuple[Masks, Masks]) -> None:
    truth, predicted = instances(pair[0]), instances(pair[1])
    assert table(predicted, truth) == [(tp, fn, fp) for tp, fp, fn in table(truth, predicted)]
    assert mean_precision([predicted], [truth]).total == mean_precision([truth], [predicted]).total


@given(mask_pairs())
@LAW
def test_hits_never_grow_with_the_threshold(pair: tuple[Masks, Masks]) -> None:
    counts = score_image(instances(pair[0]), instances(pair[1]))
    assert (np.diff(counts.tp) <= 0).all()


@given(mask_pairs())
@LAW
def test_disjoint_labels_score_as_in_the_widely_used_label_image_formula(pair: tuple[Masks, Masks]) -> None:
    truth, predicted = disjoint(pair[0]), disjoint(pair[1])
    assume(len(truth) and len(predicted))
    number = [np.concatenate([np.zeros((1, *SIZE), bool), m]).argmax(axis=0).ravel() for m in (truth, predicted)]
    joint = np.histogram2d(*number, bins=(np.arange(len(truth) + 2), np.arange(len(predicted) + 2)))[0]
    union = joint.sum(axis=1)[:, None] + joint.sum(axis=0)[None, :] - joint
    iou = joint[1:, 1:] / union[1:, 1:]
    scores = []
    for threshold in np.arange(0.5, 1.0, 0.05):
        hit = iou > threshold
        tp, fn, fp = (hit.sum(axis=1) == 1).sum(), (hit.sum(axis=1) == 0).sum(), (hit.sum(axis=0) == 0).sum()
        scores.append(tp / (tp + fp + fn))
    assert mean_precision([instances(truth)], [instances(predicted)]).total == pytest.approx(np.mean(scores), abs=1e-12)


@given(st.lists(mask_pairs(), min_size=1, max_size=3))
@LAW
def test_all_fields_follow_from_the_counts_of_the_images(pairs: list[tuple[Masks, Masks]]) -> None:
    truth = [instances(a, image_id=str(k)) for k, (a, _) in enumerate(pairs)]
    predicted = [instances(b, image_id=str(k)) for k, (_, b) in enumerate(pairs)]
    score = mean_precision(truth, predicted[::-1])
    counts = np.array([dense_counts(a, b, THRESHOLDS) for a, b in pairs])  # (n, T, 3)
    ratio = [[Fraction(int(c[0]), int(c.sum())) if c.sum() else Fraction(1) for c in image] for image in counts]
    np.testing.assert_array_equal(np.stack([score.tp, score.fp, score.fn], axis=-1), counts)
    assert score.image_ids == tuple(str(k) for k in range(len(pairs)))
    np.testing.assert_allclose(score.per_image, [float(sum(row) / len(row)) for row in ratio])
    np.testing.assert_allclose(score.per_threshold, np.array(ratio, float).mean(axis=0))
    assert score.total == pytest.approx(score.per_image.mean())
    summed = counts.sum(axis=0)
    np.testing.assert_allclose(score.pooled, [c[0] / c.sum() if c.sum() else 1 for c in summed])


@given(mask_pairs(), st.data())
@LAW
def test_a_class_scores_as_its_instances_alone(pair: tuple[Masks, Masks], data: st.DataObject) -> None:
    labels = [data.draw(st.lists(st.integers(1, 2), min_size=len(m), max_size=len(m))) for m in pair]
    truth, predicted = (instances(m, own) for m, own in zip(pair, labels, strict=True))
    score = mean_precision([truth], [predicted], categories=("one", "two"))
    for label, name in ((1, "one"), (2, "two")):
        mine, theirs = (image.select(image.labels == label) for image in (truth, predicted))
        alone = mean_precision([mine], [theirs]).total if len(mine) + len(theirs) else np.nan
        np.testing.assert_equal(score.per_class[name], alone)


# values worked by hand


@pytest.mark.parametrize("hundredths", THRESHOLDS)
def test_an_iou_exactly_at_a_threshold_is_no_hit_there_but_below(hundredths: int) -> None:
    truth, predicted = instances(bars((0, 100), width=100)), instances(bars((0, hundredths), width=100))
    assert score_image(truth, predicted).tp.tolist() == [int(t < hundredths) for t in THRESHOLDS]


def test_six_of_ten_pixels_hit_at_two_of_ten_thresholds() -> None:
    score = mean_precision([instances(bars((0, 10)))], [instances(bars((0, 6)))])
    assert score.tp.tolist() == [[1, 1, 0, 0, 0, 0, 0, 0, 0, 0]]
    assert score.total == pytest.approx(0.2)


def test_two_truths_and_three_guesses_score_as_worked_by_hand() -> None:
    # IoU 10/10 and 9/12 = 0.75 and a false alarm: 2 / (2 + 1 + 0) below .75 (5 thresholds), else 1 / (1 + 2 + 1).
    truth, predicted = bars((0, 10), (12, 24)), bars((0, 10), (12, 21), (30, 33))
    score = mean_precision([instances(truth)], [instances(predicted)])
    assert score.per_threshold.tolist() == pytest.approx([2 / 3] * 5 + [1 / 4] * 5)
    assert score.total == pytest.approx(11 / 24)


def test_one_prediction_finds_only_one_of_two_equal_truths() -> None:
    counts = score_image(instances(bars((0, 10), (0, 10))), instances(bars((0, 10))))
    assert (counts.tp.tolist(), counts.fp.tolist(), counts.fn.tolist()) == ([1] * 10, [0] * 10, [1] * 10)


def test_candidates_that_share_their_only_partner_are_one_hit() -> None:
    truth, predicted = bars((0, 10), (0, 10), (20, 30)), bars((0, 10), (20, 30), (20, 30))
    assert table(instances(truth), instances(predicted)) == [(2, 1, 1)] * 10


def test_hits_name_the_instances_that_have_a_partner() -> None:
    found, right = hits(instances(bars((0, 10), (12, 24), (26, 27))), instances(bars((30, 33), (0, 10), (12, 21))), 75)
    assert (found.tolist(), right.tolist()) == ([True, False, False], [False, True, False])
    found, right = hits(instances(bars((0, 10), (12, 24), (26, 27))), instances(bars((30, 33), (0, 10), (12, 21))), 70)
    assert (found.tolist(), right.tolist()) == ([True, True, False], [False, True, True])


def test_matching_gives_up_the_best_pair_where_that_finds_more() -> None:
    # truth 0-10 fits 0-10 (IoU 1) and 0-9 (.9); truth 0-12 fits 0-10 (10/12) but not 0-9 (9/12) above .75.
    truth, predicted = instances(bars((0, 10), (0, 12))), instances(bars((0, 10), (0, 9)))
    assert score_image(truth, predicted, (75, 80, 85, 90)).tp.tolist() == [2, 2, 1, 1]


def test_an_image_empty_in_truth_and_prediction_scores_one_and_in_one_of_them_zero() -> None:
    none, some = bars(), bars((0, 10))
    truth = [instances(none, image_id="both"), instances(none, image_id="guess"), instances(some, image_id="truth")]
    predicted = [instances(none, image_id="both"), instances(some, image_id="guess"), instances(none, image_id="truth")]
    score = mean_precision(truth, predicted)
    assert score.per_image.tolist() == [1, 0, 0]
    assert score.total == pytest.approx(1 / 3)
    assert score.pooled.tolist() == [0] * 10


def test_a_missing_prediction_counts_as_empty() -> None:
    truth = [instances(bars((0, 10)), image_id="a"), instances(bars(), image_id="b")]
    assert mean_precision(truth, []).per_image.tolist() == [0, 1]


def test_pooled_counts_weigh_instances_and_the_total_weighs_images() -> None:
    truth = [instances(bars((0, 2), (4, 6), (8, 10)), image_id="a"), instances(bars((0, 2)), image_id="b")]
    score = mean_precision(truth, [truth[0]])
    assert score.total == pytest.approx(0.5)
    assert score.pooled.tolist() == [0.75] * 10


def test_a_class_is_scored_on_the_images_where_it_occurs_and_the_total_ignores_classes() -> None:
    both = bars((0, 10), (12, 22))
    truth = [instances(both, [1, 2], "a"), instances(both, [1, 1], "b")]
    predicted = [instances(both, [1, 1], "a"), instances(both, [1, 1], "b")]
    score = mean_precision(truth, predicted, categories=("round", "spindle", "never"))
    assert score.total == 1
    assert score.per_class["round"] == pytest.approx((1 / 2 + 1) / 2)
    assert score.per_class["spindle"] == 0
    assert np.isnan(score.per_class["never"])


def test_a_score_becomes_plain_json() -> None:
    score = mean_precision([instances(bars((0, 10)))], [instances(bars((0, 6)))], (50, 75), ("cell", "never"))
    assert json.loads(json.dumps(score.to_dict(), allow_nan=False)) == {
        "metric": "mean_precision",
        "total": 0.5,
        "thresholds": [0.5, 0.75],
        "per_threshold": [1.0, 0.0],
        "pooled": [1.0, 0.0],
        "per_class": {"cell": 0.5, "never": None},
        "images": [{"image_id": "a", "score": 0.5, "tp": [1, 0], "fp": [0, 1], "fn": [0, 1]}],
    }


# wrong input


def test_an_unknown_image_is_refused_by_name() -> None:
    with pytest.raises(InputError, match=r"1 of 1 predicted images are not in the truth, the first is b; .* is a"):
        mean_precision([instances(bars())], [instances(bars(), image_id="b")])


@pytest.mark.parametrize(("truth", "predicted", "what"), [("aa", "a", "truth"), ("a", "aa", "predictions")])
def test_an_image_that_occurs_twice_is_refused(truth: str, predicted: str, what: str) -> None:
    sides = ([instances(bars(), image_id=name) for name in names] for names in (truth, predicted))
    with pytest.raises(InputError, match=f"image a occurs twice in the {what}"):
        mean_precision(*sides)


def test_a_prediction_of_another_size_is_refused() -> None:
    with pytest.raises(InputError, match=r"image a: the prediction is made for 1×30 .* the truth has 1×40"):
        mean_precision([instances(bars())], [instances(bars(width=30))])


def test_no_image_at_all_is_refused() -> None:
    with pytest.raises(InputError, match="no image in the truth"):
        mean_precision([], [])


@pytest.mark.parametrize("thresholds", [(), (0.5,), (101,), (-1,), (True,)])
def test_thresholds_are_integer_hundredths(thresholds: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="wanted integers 0-100"):
        score_image(instances(bars()), instances(bars()), thresholds)
