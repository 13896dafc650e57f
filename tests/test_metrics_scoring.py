"""The metric of every contest by one call: laws, classes, and agreement with other implementations on real cells."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from fixtures.contests import facts
from fixtures.scored import LAW, bars, dense_counts, image_pairs, instances
from hypothesis import given, settings
from pycocotools import mask as coco_mask
from scipy.optimize import linear_sum_assignment

from pipeline.competition import Competition
from pipeline.data import coco as annotations
from pipeline.data.contest import read_train
from pipeline.errors import InputError
from pipeline.instances import Instances
from pipeline.masks.runs import pixels, to_dense
from pipeline.metrics.mean_precision import THRESHOLDS
from pipeline.metrics.scoring import score

KEYS = (
    "sartorius", "dsb2018", "airbus", "imaterialist2019", "severstal", "clouds", "openimages2019", "hpa2021",
    "hubmap2023", "coco", "toy",
)  # fmt: skip
CONTESTS = [pytest.param(facts(key), id=key) for key in KEYS]
METRICS = [
    pytest.param(facts(key), id=facts(key).metric)
    for key in ("sartorius", "imaterialist2019", "airbus", "severstal", "hpa2021", "coco")
]
FEW = settings(LAW, max_examples=20)
Pairs = list[tuple[Instances, Instances]]


def two_classes(contest: Competition) -> Competition:
    """The contest's metric with two categories, both of which are submitted; any layout can hold those of coco."""
    metric, thresholds = contest.metric, contest.iou_thresholds
    return dataclasses.replace(facts("coco"), categories=("one", "two"), metric=metric, iou_thresholds=thresholds)


def sides(pairs: Pairs) -> tuple[list[Instances], list[Instances]]:
    return [one for one, _ in pairs], [other for _, other in pairs]


def relabelled(image: Instances) -> Instances:
    return Instances(image.image_id, image.size, image.scores, 3 - image.labels, image.masks)


# laws


@pytest.mark.parametrize("contest", CONTESTS)
@given(pairs=image_pairs())
@FEW
def test_truth_against_itself_scores_one_in_every_contest(contest: Competition, pairs: Pairs) -> None:
    truth = []
    for image, _ in pairs:
        keys = list(zip(image.labels.tolist(), image.masks, strict=True))  # see the head of average_precision
        truth.append(image.select(np.array([keys.index(key) == i for i, key in enumerate(keys)], bool)))
    found = score(truth, truth, two_classes(contest), by_class=True)
    if contest.ranked and not any(map(len, truth)):
        assert np.isnan(found.total)
        return
    assert found.total == pytest.approx(1, abs=1e-9)
    assert all(np.isnan(value) or value == pytest.approx(1, abs=1e-9) for value in found.per_class.values())
    assert all(value == 1 or contest.ranked for value in found.per_image)


@pytest.mark.parametrize("contest", METRICS)
@given(pairs=image_pairs())
@FEW
def test_other_numbers_for_the_categories_give_the_same(contest: Competition, pairs: Pairs) -> None:
    truth, predicted = sides(pairs)
    one = score(truth, predicted, two_classes(contest), by_class=True)
    turned = dataclasses.replace(two_classes(contest), categories=("two", "one"))
    other = score([relabelled(t) for t in truth], [relabelled(p) for p in predicted], turned, by_class=True)
    np.testing.assert_allclose(one.total, other.total)
    assert one.per_class.keys() == other.per_class.keys()
    np.testing.assert_allclose([other.per_class[name] for name in one.per_class], list(one.per_class.values()))


@pytest.mark.parametrize("contest", METRICS)
@given(pairs=image_pairs())
@FEW
def test_a_score_lies_in_0_to_1_names_its_images_and_becomes_plain_json(contest: Competition, pairs: Pairs) -> None:
    truth, predicted = sides(pairs)
    found = score(truth, predicted[::-1], two_classes(contest), by_class=True)
    plain = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert plain["metric"] == found.metric == contest.metric
    assert [image["image_id"] for image in plain["images"]] == list(found.image_ids) == [t.image_id for t in truth]
    numbers = [found.total, *found.per_image, *found.per_class.values()]
    assert all(np.isnan(number) or -1e-12 <= number <= 1 + 1e-12 for number in numbers)
    assert np.isnan(found.per_image).all() == contest.ranked
    assert len(found.per_image) == len(truth)
    assert f"over {len(truth)} images" in found.lines()[0]
    # Without a break-down the classes go, and nothing else changes.
    np.testing.assert_equal(score(truth, predicted, two_classes(contest), by_class=False).per_class, {})
    np.testing.assert_allclose(score(truth, predicted, two_classes(contest), by_class=False).total, found.total)


@pytest.mark.parametrize("contest", [case for case in METRICS if not case.values[0].ranked])
@given(pairs=image_pairs())
@FEW
def test_the_order_of_images_does_not_matter(contest: Competition, pairs: Pairs) -> None:
    truth, predicted = sides(pairs)
    one = score(truth, predicted, two_classes(contest), by_class=True)
    other = score(truth[::-1], predicted, two_classes(contest), by_class=True)
    assert one.total == pytest.approx(other.total)
    assert one.per_image.tolist() == pytest.approx(other.per_image[::-1].tolist())


@given(pairs=image_pairs())
@settings(LAW, max_examples=60)
def test_precision_by_class_adds_up_the_counts_of_each_class_alone(pairs: Pairs) -> None:
    contest = two_classes(facts("imaterialist2019"))
    found = score(*sides(pairs), contest, by_class=True)
    for k, (truth, predicted) in enumerate(pairs):
        counts = sum(
            np.array(dense_counts(*(to_dense(i.runs)[i.labels == label] for i in (truth, predicted)), THRESHOLDS))
            for label in (1, 2)
        )
        tp, fp, fn = np.asarray(counts).T
        np.testing.assert_array_equal([found.tp[k], found.fp[k], found.fn[k]], [tp, fp, fn])  # type: ignore[attr-defined]
        total = tp + fp + fn
        wanted = np.where(total > 0, tp / np.maximum(total, 1), 1).mean()
        assert found.per_image[k] == pytest.approx(wanted)


# values worked by hand


def test_a_hit_of_another_class_is_a_miss_and_a_false_alarm_where_the_class_counts() -> None:
    truth = instances(bars((0, 10), (12, 22)), [1, 2])
    predicted = instances(bars((0, 10), (12, 22)), [1, 1])
    agnostic, by_class = (two_classes(facts(key)) for key in ("dsb2018", "imaterialist2019"))
    assert score([truth], [predicted], agnostic, by_class=True).total == 1
    found = score([truth], [predicted], by_class, by_class=True)
    assert found.total == pytest.approx(1 / 3)  # TP 1, FP 1, FN 1
    assert found.per_class == pytest.approx({"one": 1 / 2, "two": 0})  # one: TP 1, FP 1; two: FN 1
    assert found.lines()[0] == "mean precision by class 0.3333 over 1 images"


def test_categories_that_are_not_submitted_do_not_count() -> None:
    contest = facts("hubmap2023")  # of blood_vessel, glomerulus and unsure the first is submitted
    truth = instances(bars((0, 10), (12, 22), (24, 34)), [1, 2, 3])
    found = score([truth], [instances(bars((0, 10), (36, 38)), [1, 2], scores=[0.5, 0.9])], contest, by_class=True)
    assert (found.total, found.per_class) == (1, {"blood_vessel": 1})


def test_categories_that_are_not_submitted_do_not_count_where_a_hit_does_not_ask_for_the_class_either() -> None:
    contest = facts("sartorius", codes={"astro": "astro", "cort": "cort"})
    truth, predicted = instances(bars((0, 10), (12, 22)), [1, 3]), instances(bars((0, 10), (30, 33)), [1, 3])
    assert score([truth], [predicted], contest, by_class=True).total == 1
    # Labels that mean nothing cannot say that an instance does not count: TP 1, FP 1.
    assert score([truth], [predicted], contest, by_class=False).total == 0.5


def test_a_submission_without_classes_is_scored_against_the_truth_of_all_that_are_submitted() -> None:
    truth = instances(bars((0, 10), (12, 22)), [2, 3])
    predicted = instances(bars((0, 10), (12, 22)), [1, 1])  # labels that mean nothing
    assert score([truth], [predicted], facts("sartorius"), by_class=False).total == 1


def test_the_thresholds_are_the_contests() -> None:
    truth, predicted = instances(bars((0, 20))), instances(bars((0, 11)))  # IoU .55
    assert score([truth], [predicted], two_classes(facts("openimages2019")), by_class=True).total == 1
    assert score([truth], [predicted], two_classes(facts("hpa2021")), by_class=True).total == 0
    assert score([truth], [predicted], facts("airbus"), by_class=True).total == pytest.approx(0.1)
    # 20 of 31 pixels: 2 · 11 / (20 + 11), and 1 for the class that is nowhere.
    assert score([truth], [predicted], two_classes(facts("clouds")), by_class=True).total == pytest.approx(
        (22 / 31 + 1) / 2
    )


# wrong input


@pytest.mark.parametrize("contest", METRICS)
def test_images_that_do_not_fit_the_truth_are_refused(contest: Competition) -> None:
    one = instances(bars(), image_id="a")
    cases = {
        "are not in the truth, the first is b": ([one], [instances(bars(), image_id="b")]),
        "image a occurs twice in the predictions": ([one], [one, one]),
        "image a: the prediction is made for 1×30 pixels": ([one], [instances(bars(width=30))]),
        "there is no image in the truth": ([], []),
    }
    for message, (truth, predicted) in cases.items():
        with pytest.raises(InputError, match=message):
            score(truth, predicted, contest, by_class=True)


# real cells, moved about


def real_truth(folder: Path, key: str, most: int) -> list[Instances]:
    truth = annotations.truth(read_train(folder, facts(key), "csv"))
    return truth[:: max(len(truth) // most, 1)][:most]


def perturbed(image: Instances, rng: np.random.Generator) -> Instances:
    """Every mask up to two pixels beside its place, some left out, in another order, with scores of their own."""
    kept = rng.permutation(np.flatnonzero(rng.random(len(image)) < 0.9))
    texts = []
    for mask in to_dense(image.runs)[kept].astype(np.uint8):
        moved = np.asfortranarray(np.roll(mask, rng.integers(-2, 3, 2), (0, 1)))
        texts.append(coco_mask.encode(moved)["counts"].decode())
    scores = rng.random(kept.size).astype(np.float32)
    return Instances(image.image_id, image.size, scores, image.labels[kept], tuple(texts))


def label_image(image: Instances) -> np.ndarray:
    """int (H·W,): 0 for background, i for the i-th mask; of two on one pixel the later."""
    result = np.zeros(image.size[0] * image.size[1], int)
    place, owner = pixels(image.runs)
    result[place] = owner + 1
    return result


def apart(image: Instances) -> Instances:
    """What is seen of each mask of a label image, without those that are hidden."""
    flat = label_image(image)
    masks = np.stack([flat == i for i in range(1, len(image) + 1)]).reshape(len(image), *image.size[::-1])
    return instances(masks[masks.any(axis=(1, 2))].transpose(0, 2, 1), image_id=image.image_id)


def stardist_counts(truth: np.ndarray, predicted: np.ndarray, threshold: float) -> tuple[int, int, int]:
    """TP, FP, FN of two label images as `stardist.matching` defines them.

    The assignment maximises the number of pairs with an IoU of the threshold or more, and among those the sum of their
    IoUs: costs are -(IoU >= t) - IoU / (2 · the smaller number of instances).
    """
    joint = np.zeros((truth.max() + 1, predicted.max() + 1))
    np.add.at(joint, (truth, predicted), 1)
    iou = (joint / (joint.sum(axis=1, keepdims=True) + joint.sum(axis=0, keepdims=True) - joint))[1:, 1:]
    costs = -(iou >= threshold).astype(float) - iou / (2 * min(iou.shape))
    i, j = linear_sum_assignment(costs)
    tp = int((iou[i, j] >= threshold).sum())
    return tp, iou.shape[1] - tp, iou.shape[0] - tp


def test_counts_of_dsb2018_are_those_of_the_stardist_formula(real_data: Path) -> None:
    rng = np.random.default_rng(0)
    truth = [apart(one) for one in real_truth(real_data / "dsb2018_mini", "dsb2018", 9) if max(one.size) < 700]
    predicted = [apart(perturbed(one, rng)) for one in truth]
    found = score(truth, predicted, facts("dsb2018"), by_class=False)
    wanted = np.array(
        [
            # A hit here is above the threshold, there at it.
            [stardist_counts(label_image(t), label_image(p), np.nextafter(at / 100, 1)) for at in THRESHOLDS]
            for t, p in zip(truth, predicted, strict=True)
        ]
    )
    assert sum(map(len, truth)) > 100
    np.testing.assert_array_equal(np.stack([found.tp, found.fp, found.fn], axis=-1), wanted)  # type: ignore[attr-defined]
    assert 0.2 < found.total < 0.9, "an easy or a hopeless case would show nothing"


def iou_of(truth: Instances, predicted: Instances) -> np.ndarray:
    """float64 (predictions, truths), by pycocotools."""
    return np.asarray(coco_mask.iou(predicted.rles(), truth.rles(), [0] * len(truth)))


def test_f2_of_overlapping_cells_is_that_of_pycocotools_ious_and_the_hungarian_method(real_data: Path) -> None:
    rng = np.random.default_rng(1)
    truth = real_truth(real_data / "sartorius", "sartorius", 4)
    predicted = [perturbed(one, rng) for one in truth]
    wanted = []
    for one, other in zip(truth, predicted, strict=True):
        hits = [iou_of(one, other) > at / 100 for at in THRESHOLDS]
        tp = np.array([hit[linear_sum_assignment(hit, maximize=True)].sum() for hit in hits])
        wanted.append((5 * tp / (5 * tp + 4 * (len(one) - tp) + len(other) - tp)).mean())
    contest = dataclasses.replace(facts("sartorius"), metric="f2")
    assert score(truth, predicted, contest, by_class=True).per_image.tolist() == pytest.approx(wanted, abs=1e-12)
    assert 0.2 < np.mean(wanted) < 0.9


def area_under_hits(ranked: Sequence[tuple[float, bool]], count: int) -> float:
    """Area under the interpolated curve, from both of its arrays with their end points, as VOC's kit has it."""
    hits = np.array([hit for _, hit in sorted(ranked, key=lambda rank: -rank[0])])
    recall = np.concatenate([[0], np.cumsum(hits) / count, [1]])
    precision = np.concatenate([[0], np.cumsum(hits) / np.arange(1, hits.size + 1), [0]])
    for k in range(precision.size - 2, -1, -1):
        precision[k] = max(precision[k], precision[k + 1])
    steps = np.flatnonzero(recall[1:] != recall[:-1]) + 1
    return float(((recall[steps] - recall[steps - 1]) * precision[steps]).sum())


def test_average_precision_of_overlapping_cells_is_that_of_pycocotools_ious_and_loops(real_data: Path) -> None:
    rng = np.random.default_rng(2)
    truth = real_truth(real_data / "sartorius", "sartorius", 8)
    predicted = [perturbed(one, rng) for one in truth]
    contest = dataclasses.replace(facts("sartorius"), metric="average_precision", iou_thresholds=(60,))
    found = score(truth, predicted, contest, by_class=True)
    present = sorted({label for one in truth for label in one.labels.tolist()})
    assert len(present) > 1
    for label in present:
        ranked: list[tuple[float, bool]] = []
        for one, other in zip(truth, predicted, strict=True):
            own, guess = one.select(one.labels == label), other.select(other.labels == label)
            if not len(guess):
                continue
            table, taken = iou_of(own, guess), set()
            for i in np.argsort(-guess.scores, kind="stable"):
                best = int(table[i].argmax())
                hit = table[i, best] >= 0.6 and best not in taken
                taken |= {best} if hit else set()
                ranked.append((float(guess.scores[i]), bool(hit)))
        wanted = area_under_hits(ranked, sum(int((one.labels == label).sum()) for one in truth))
        assert found.per_class[contest.categories[label - 1]] == pytest.approx(wanted, abs=1e-12)
    assert 0.2 < found.total < 0.9
