"""Average precision, by the Open Images rules and by COCO's: laws, dense implementations, values worked by hand."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from random import Random

import numpy as np
import pytest
from fixtures.dense import disks
from fixtures.scored import LAW, bars, image_pairs, instances, ious
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from pipeline.errors import InputError
from pipeline.instances import Instances
from pipeline.masks.runs import area, to_dense
from pipeline.metrics.average_precision import area_under, average_precision
from pipeline.metrics.coco import coco_ap
from pipeline.metrics.mean_precision import THRESHOLDS
from pipeline.metrics.score import Ranked

CLASSES = {"one": 1, "two": 2}
FEW = settings(LAW, max_examples=30)
Pairs = list[tuple[Instances, Instances]]
Ranks = list[tuple[float, bool]]
KINDS = pytest.mark.parametrize("metric", [average_precision, coco_ap])


def dense(image: Instances, label: int) -> tuple[np.ndarray, list[float]]:
    """Masks and scores of one class, by falling score."""
    own = np.flatnonzero(image.labels == label).tolist()
    own.sort(key=lambda i: -image.scores[i])
    return to_dense(image.runs)[own], [float(image.scores[i]) for i in own]


def open_images_ranks(pairs: Pairs, label: int, threshold: Fraction) -> Ranks:
    """Score and hit or not of every prediction of a class: each one asks for its best truth alone."""
    ranks: Ranks = []
    for truth, predicted in pairs:
        masks, scores = dense(predicted, label)
        table = ious(masks, to_dense(truth.runs)[truth.labels == label])
        taken: set[int] = set()
        for row, value in zip(table, scores, strict=True):
            best = row.index(max(row)) if row else None
            hit = best is not None and row[best] > 0 and row[best] >= threshold and best not in taken
            taken |= {best} if hit and best is not None else set()
            ranks.append((value, hit))
    return sorted(ranks, key=lambda rank: -rank[0])


def coco_ranks(pairs: Pairs, label: int, threshold: Fraction) -> Ranks:
    """The same where a prediction takes the best of the truths that are free, of equal ones the last."""
    ranks: Ranks = []
    for truth, predicted in pairs:
        masks, scores = dense(predicted, label)
        free = dict.fromkeys(range(int((truth.labels == label).sum())))
        table = ious(masks, to_dense(truth.runs)[truth.labels == label])
        for row, value in zip(table, scores, strict=True):
            near = [i for i in free if row[i] >= threshold]
            best = max(near, key=lambda i: (row[i], i), default=None)
            free.pop(best, None) if best is not None else None
            ranks.append((value, best is not None))
    return sorted(ranks, key=lambda rank: -rank[0])


def curve(ranks: Ranks, count: int) -> list[tuple[Fraction, Fraction]]:
    """Recall and the best precision from there on, rank by rank."""
    hits = [sum(hit for _, hit in ranks[: k + 1]) for k in range(len(ranks))]
    precision = [Fraction(hit, k + 1) for k, hit in enumerate(hits)]
    return [(Fraction(hit, count), max(precision[k:])) for k, hit in enumerate(hits)]


def all_points(points: list[tuple[Fraction, Fraction]]) -> Fraction:
    """Width of each step of recall times its height."""
    total, before = Fraction(0), Fraction(0)
    for recall, height in points:
        total, before = total + (recall - before) * height, recall
    return total


def points_101(points: list[tuple[Fraction, Fraction]]) -> float:
    """Mean of the heights at the recalls 0, .01, … 1, as floating-point numbers: that is how COCO compares them."""
    heights = [
        next((float(height) for recall, height in points if float(recall) >= level), 0.0)
        for level in np.linspace(0, 1, 101)
    ]
    return float(np.mean(heights))


def sides(pairs: Pairs) -> tuple[list[Instances], list[Instances]]:
    return [one for one, _ in pairs], [other for _, other in pairs]


def counts(pairs: Pairs, label: int) -> int:
    return sum(int((truth.labels == label).sum()) for truth, _ in pairs)


def check(found: Ranked, wanted: dict[str, list[float]]) -> None:
    """The score is made of a table of classes (those of the truth) and thresholds."""
    for name, row in wanted.items():
        np.testing.assert_allclose(found.per_class[name], np.mean(row) if row else np.nan, rtol=1e-9, atol=1e-12)
    table = np.array([row for row in wanted.values() if row])
    if not len(table):
        assert np.isnan(found.total)
        return
    assert found.total == pytest.approx(table.mean(), rel=1e-9, abs=1e-12)
    np.testing.assert_allclose(found.per_threshold, table.mean(axis=0), rtol=1e-9, atol=1e-12)


# laws


@given(image_pairs(), st.sampled_from([(50,), (60,), THRESHOLDS]))
@settings(LAW, max_examples=80)
def test_open_images_ap_is_that_of_pixels_loops_and_exact_fractions(pairs: Pairs, thresholds: tuple[int, ...]) -> None:
    wanted = {}
    for name, label in CLASSES.items():
        count = counts(pairs, label)
        ranks = [open_images_ranks(pairs, label, Fraction(t, 100)) for t in thresholds]
        wanted[name] = [float(all_points(curve(one, count))) for one in ranks] if count else []
    check(average_precision(*sides(pairs), thresholds, CLASSES), wanted)


@given(image_pairs(), st.sampled_from([(50,), (75,), (50, 60, 70, 80, 90)]))
@FEW
def test_coco_ap_is_that_of_pixels_loops_and_101_points(pairs: Pairs, thresholds: tuple[int, ...]) -> None:
    wanted = {}
    for name, label in CLASSES.items():
        count = counts(pairs, label)
        ranks = [coco_ranks(pairs, label, Fraction(t, 100)) for t in thresholds]
        wanted[name] = [points_101(curve(one, count)) for one in ranks] if count else []
    check(coco_ap(*sides(pairs), thresholds, CLASSES), wanted)


@KINDS
@given(pairs=image_pairs())
@FEW
def test_any_scores_in_the_same_order_give_the_same(metric, pairs: Pairs) -> None:
    truth, predicted = sides(pairs)
    squared = [
        Instances(p.image_id, p.size, (p.scores**2 / 2).astype(np.float32), p.labels, p.masks) for p in predicted
    ]
    np.testing.assert_equal(
        metric(truth, squared, (50, 75), CLASSES).to_dict(), metric(truth, predicted, (50, 75), CLASSES).to_dict()
    )


@KINDS
@given(pairs=image_pairs(), random=st.randoms(use_true_random=False))
@FEW
def test_the_order_of_images_and_instances_does_not_matter_where_no_scores_are_equal(
    metric, pairs: Pairs, random: Random
) -> None:
    ranks = iter(random.sample(range(1, 100), sum(len(p) for _, p in pairs)))
    pairs = [
        (
            t,
            Instances(
                p.image_id, p.size, np.array([next(ranks) / 100 for _ in p.masks], np.float32), p.labels, p.masks
            ),
        )
        for t, p in pairs
    ]
    mixed = [(t, p.select(np.array(random.sample(range(len(p)), len(p)), int))) for t, p in pairs]
    random.shuffle(mixed)
    one, other = (metric(*sides(some), (50, 75), CLASSES) for some in (pairs, mixed))
    np.testing.assert_allclose(one.total, other.total)
    np.testing.assert_allclose(list(one.per_class.values()), list(other.per_class.values()))


@KINDS
@given(pairs=image_pairs())
@FEW
def test_other_numbers_for_the_classes_give_the_same(metric, pairs: Pairs) -> None:
    swapped = [
        tuple(Instances(one.image_id, one.size, one.scores, 3 - one.labels, one.masks) for one in pair)
        for pair in pairs
    ]
    one = metric(*sides(pairs), (50,), CLASSES)
    other = metric(*sides(swapped), (50,), {"one": 2, "two": 1})
    np.testing.assert_equal(one.per_class, other.per_class)
    np.testing.assert_allclose(one.total, other.total)


@KINDS
@given(pairs=image_pairs())
@FEW
def test_truth_against_itself_scores_one_whatever_its_scores(metric, pairs: Pairs) -> None:
    truth = []
    for image, _ in pairs:
        # Two instances of one class with the same pixels are one too many by the Open Images rules.
        keys = list(zip(image.labels.tolist(), image.masks, strict=True))
        truth.append(image.select(np.array([keys.index(key) == i for i, key in enumerate(keys)], bool)))
    found = metric(truth, truth, THRESHOLDS, CLASSES)
    present = {label for one in truth for label in one.labels.tolist()}
    assert found.total == (pytest.approx(1, abs=1e-9) if present else pytest.approx(np.nan, nan_ok=True))
    for name, label in CLASSES.items():
        assert np.isnan(found.per_class[name]) == (label not in present)


# agreement with the library's own way, where its caps allow


def by_files(pairs: Pairs, folder: Path) -> Sequence[float]:
    """The twelve figures of pycocotools from files of annotations and of results, with nothing but its defaults."""
    images = [{"id": i, "height": t.size[0], "width": t.size[1]} for i, (t, _) in enumerate(pairs, 1)]
    truth, results = [], []
    for i, (target, guess) in enumerate(pairs, 1):
        for label, rle, size in zip(target.labels.tolist(), target.rles(), area(target.runs).tolist(), strict=True):
            row = {"image_id": i, "category_id": label, "segmentation": rle, "area": size, "iscrowd": 0}
            truth.append({"id": len(truth) + 1, **row})
        for label, rle, value in zip(guess.labels.tolist(), guess.rles(), guess.scores.tolist(), strict=True):
            results.append({"image_id": i, "category_id": label, "segmentation": rle, "score": value})
    categories = [{"id": label, "name": name} for name, label in CLASSES.items()]
    file = folder / "truth.json"
    file.write_text(json.dumps({"info": {}, "images": images, "categories": categories, "annotations": truth}))
    with contextlib.redirect_stdout(io.StringIO()):
        known = COCO(str(file))
        evaluation = COCOeval(known, known.loadRes(results), "segm")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats


def moved(count: int, seed: int, image_id: str) -> tuple[Instances, Instances]:
    """Round masks of two classes, and the same a little beside their places with scores of their own."""
    rng = np.random.default_rng(seed)
    masks = disks(count, (60, 70), seed)
    masks = masks[masks.any(axis=(1, 2))]
    guess = np.stack([np.roll(mask, rng.integers(-1, 2, 2), (0, 1)) for mask in masks])
    labels = rng.integers(1, 3, len(masks)).tolist()
    other = [label if rng.random() < 0.9 else 3 - label for label in labels]
    scores = rng.random(len(masks)).tolist()
    return instances(masks, labels, image_id), instances(guess, other, image_id, scores)


def test_coco_ap_is_what_pycocotools_says_of_files_with_few_detections(tmp_path: Path) -> None:
    pairs = [moved(count, seed, str(seed)) for seed, count in enumerate((90, 40, 3, 70))]
    stats = by_files(pairs, tmp_path)
    found = coco_ap(*sides(pairs), THRESHOLDS, CLASSES)
    assert 0.2 < stats[0] < 0.9, "an easy or a hopeless case would show nothing"
    assert [found.total, found.figures["AP50"], found.figures["AP75"]] == pytest.approx(stats[:3].tolist(), abs=1e-12)
    assert found.figures["AR"] == pytest.approx(stats[8], abs=1e-12)


def test_detections_beyond_a_hundred_in_an_image_count(tmp_path: Path) -> None:
    masks = np.zeros((300, 30, 40), bool)
    masks[np.arange(300), np.arange(300) // 20 * 2, np.arange(300) % 20 * 2] = True
    image = instances(masks, scores=np.linspace(1, 0.5, 300).tolist())
    assert by_files([(image, image)], tmp_path)[1] == pytest.approx(1 / 3, abs=0.01), "the library's own cap of 100"
    found = coco_ap([image], [image], THRESHOLDS, CLASSES)
    assert (found.total, found.figures["AR"], found.detections) == (pytest.approx(1), 1, 300)


def test_nothing_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    coco_ap(*sides([moved(5, 0, "a")]), THRESHOLDS, CLASSES)
    assert capsys.readouterr() == ("", "")


# values worked by hand


def test_a_false_alarm_between_two_hits_costs_a_sixth() -> None:
    # By rank: hit, false alarm, hit. Precision 1, 1/2, 2/3; 1/2 of recall at 1 and 1/2 at 2/3.
    truth = instances(bars((0, 10), (12, 22)))
    predicted = instances(bars((0, 10), (30, 33), (12, 22)), scores=[0.9, 0.8, 0.7])
    assert average_precision([truth], [predicted], (50,), {"one": 1}).total == pytest.approx(5 / 6)
    # COCO: recalls 0 to .50 are 51 points at 1, .51 to 1 are 50 points at 2/3.
    assert coco_ap([truth], [predicted], (50,), {"one": 1}).total == pytest.approx((51 + 50 * 2 / 3) / 101)


def test_false_alarms_behind_the_last_hit_cost_nothing() -> None:
    assert area_under(np.array([True, True, False, False]), 2) == 1
    assert area_under(np.array([False, True]), 1) == 0.5
    assert area_under(np.array([False, True]), 2) == 0.25
    assert area_under(np.zeros(0, bool), 3) == 0


def test_the_best_precision_behind_a_rank_counts_for_it() -> None:
    # Precision by rank 0, 1/2, 2/3, 3/4: the first hit counts 3/4 as the last does. Of 4 truths 3 are found.
    assert area_under(np.array([False, True, True, True]), 4) == pytest.approx(3 * 0.75 / 4)


def test_a_second_detection_of_a_truth_is_a_false_alarm() -> None:
    truth = instances(bars((0, 10), (12, 22)))
    predicted = instances(bars((0, 10), (0, 9)), scores=[0.9, 0.8])
    assert average_precision([truth], [predicted], (50,), {"one": 1}).total == 0.5


def test_by_open_images_a_detection_asks_for_its_best_truth_alone_and_by_coco_for_the_best_free_one() -> None:
    # Truths 0-10 and 0-9 (IoU .9), detections 0-10 twice: both like 0-10 best, the second could have 0-9.
    truth = instances(bars((0, 10), (0, 9)))
    predicted = instances(bars((0, 10), (0, 10)), scores=[0.9, 0.8])
    assert average_precision([truth], [predicted], (50,), {"one": 1}).total == 0.5
    assert coco_ap([truth], [predicted], (50,), {"one": 1}).total == pytest.approx(1)


def test_of_two_truths_that_it_is_equally_like_a_detection_asks_for_the_first() -> None:
    # The first detection has IoU .5 with both, the second is the second truth.
    truth, predicted = instances(bars((0, 10), (10, 20))), instances(bars((0, 20), (10, 20)), scores=[0.9, 0.8])
    assert average_precision([truth], [predicted], (50,), {"one": 1}).total == 1


def test_a_detection_below_the_threshold_does_not_take_its_truth() -> None:
    truth = instances(bars((0, 10)))
    predicted = instances(bars((0, 4), (0, 10)), scores=[0.9, 0.8])  # IoU .4, 1: precision 0, 1/2
    assert average_precision([truth], [predicted], (50,), {"one": 1}).total == 0.5


@KINDS
def test_an_iou_exactly_at_the_threshold_is_a_hit(metric) -> None:
    truth, predicted = instances(bars((0, 10))), instances(bars((0, 6)))
    assert metric([truth], [predicted], (60,), {"one": 1}).total == pytest.approx(1)
    assert metric([truth], [predicted], (61,), {"one": 1}).total == 0


@KINDS
def test_the_instances_of_all_images_are_ranked_together(metric) -> None:
    # A false alarm of image b comes before the hit of image a: precision 0, 1/2.
    truth = [instances(bars((0, 10)), image_id="a"), instances(bars(), image_id="b")]
    predicted = [
        instances(bars((0, 10)), image_id="a", scores=[0.5]), instances(bars((0, 10)), image_id="b", scores=[0.9]),
    ]  # fmt: skip
    assert metric(truth, predicted, (50,), {"one": 1}).total == pytest.approx(0.5)


@KINDS
def test_of_equal_scores_the_earlier_image_and_the_earlier_instance_is_first(metric) -> None:
    truth = [instances(bars((0, 10)), image_id="a"), instances(bars(), image_id="b")]
    hit_first = [instances(bars((0, 10), (20, 22)), image_id="a"), instances(bars((0, 10)), image_id="b")]
    assert metric(truth, hit_first[::-1], (50,), {"one": 1}).total == pytest.approx(1)
    hit_last = [instances(bars((20, 22), (0, 10)), image_id="a"), instances(bars((0, 10)), image_id="b")]
    assert metric(truth, hit_last, (50,), {"one": 1}).total == pytest.approx(0.5)
    # Image b first: its false alarm comes before both of image a.
    assert metric(truth[::-1], hit_last, (50,), {"one": 1}).total == pytest.approx(1 / 3)


@KINDS
def test_the_mean_is_over_the_classes_that_the_truth_has(metric) -> None:
    truth = instances(bars((0, 10), (12, 22)), [1, 2])
    predicted = instances(bars((0, 10), (12, 22)), [1, 3])
    found = metric([truth], [predicted], (50,), {**CLASSES, "three": 3, "four": 4})
    assert found.total == pytest.approx(0.5)
    np.testing.assert_equal(
        {name: round(value, 9) for name, value in found.per_class.items()},
        {"one": 1, "two": 0, "three": np.nan, "four": np.nan},
    )


@KINDS
def test_a_truth_without_instances_has_no_score(metric) -> None:
    found = metric([instances(bars())], [instances(bars((0, 2)))], (50,), {"one": 1})
    assert np.isnan(found.total)
    assert found.lines()[1] == "  no value: the truth has no instance of a class that is submitted"
    plain = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert (plain["total"], plain["per_class"], plain["per_threshold"]) == (None, {"one": None}, [None])


@KINDS
def test_no_detection_at_all_scores_zero(metric) -> None:
    found = metric([instances(bars((0, 10)))], [], THRESHOLDS, {"one": 1})
    assert (found.total, found.per_class, found.detections) == (0, {"one": 0}, 0)


def test_lines_and_plain_values_hold_what_there_is() -> None:
    truth = instances(bars((0, 10), (12, 22)), [1, 1])
    predicted = instances(bars((0, 10), (12, 18)), [1, 1], scores=[0.9, 0.5])  # IoU 1, .6
    found = coco_ap([truth], [predicted], (50, 75), CLASSES)
    # Above .6 only the first is a hit: 51 of 101 points of recall.
    assert found.lines() == [
        "COCO AP 0.7525 over 1 images",
        "  IoU from     .50  .75",
        "  AP          1.00  .50",
        "  AP50 1.0000",
        "  AP75 0.5050",
        "  AR 0.7500",
        "  at most 2 instances in an image, none left out",
        "  one: 0.7525",
    ]
    plain = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert plain["thresholds"] == [0.5, 0.75]
    assert plain["figures"] == pytest.approx({"AP50": 1, "AP75": 51 / 101, "AR": 0.75})
    assert plain["images"] == [{"image_id": "a", "score": None}]
    assert average_precision([truth], [predicted], (50,), CLASSES).lines() == [
        "mean average precision 1.0000 over 1 images",
        "  IoU from     .50",
        "  AP          1.00",
        "  at most 2 instances in an image, none left out",
        "  one: 1.0000",
    ]


# wrong input


@KINDS
def test_wrong_images_sizes_and_thresholds_are_refused(metric) -> None:
    one = instances(bars())
    with pytest.raises(InputError, match="not in the truth, the first is b"):
        metric([one], [instances(bars(), image_id="b")], (50,), CLASSES)
    with pytest.raises(InputError, match="image a: the prediction is made for 1×30"):
        metric([one], [instances(bars(width=30))], (50,), CLASSES)
    with pytest.raises(ValueError, match="wanted integers 0-100"):
        metric([one], [one], (0.5,), CLASSES)
