"""Rules: the order of the steps, the steps that the standard order does not have, and thresholds of each class."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from fixtures.contests import facts
from fixtures.dense import LAW as MANY
from fixtures.soft import changed, dense, full, random
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from pipeline.build import build
from pipeline.compose import CONF
from pipeline.data import coco as annotations
from pipeline.data import contest
from pipeline.errors import ConfigError
from pipeline.inference.ceiling import soften
from pipeline.inference.paste import paste
from pipeline.inference.postprocess import STEPS, decide, start
from pipeline.inference.postprocess import rescore as rescored
from pipeline.inference.rules import HARD, SOFT, STANDARD, Rules
from pipeline.instances import Detections, Instances
from pipeline.masks.geometry import iou, nms, share_out
from pipeline.masks.runs import area, concatenate
from pipeline.masks.shape import fill_holes, largest_part

LAW = settings(MANY, max_examples=25)
NAMES = ("astro", "cort", "shsy5y")
CONTEST = facts("sartorius")
ORDERS = st.sampled_from(["score", "small_first", "large_first"])
OVERLAPS = st.sampled_from(["forbidden", "within_class", "allowed"])


def in_one_go(detections: Detections, rules: Rules, overlap: str) -> Instances:
    """The standard order written as one function, for one number of each threshold."""
    sure = detections.select(detections.scores >= rules.score)
    sure = sure.select(np.argsort(-sure.scores, kind="stable"))
    runs = paste(sure, rules.mask)
    runs = fill_holes(runs) if rules.holes == "fill" else runs
    runs = largest_part(runs) if rules.parts == "largest" else runs
    if rules.nms is not None:
        kept = nms(runs, sure.scores, rules.nms)
        sure, runs = sure.select(kept), runs.select(kept)
    if overlap != "allowed":
        areas = area(runs) * {"score": 0, "small_first": 1, "large_first": -1}[rules.order]
        order, kept, parts = np.argsort(areas, kind="stable"), [], {}
        for group in np.unique(sure.labels) if overlap == "within_class" else [None]:
            own = order if group is None else order[sure.labels[order] == group]
            stays, shared = share_out(runs.select(own), rules.min_share)
            parts |= {int(own[i]): shared.select([place]) for place, i in enumerate(stays)}
        kept = sorted(parts)
        runs = concatenate([parts[i] for i in kept], runs.size)
        sure = sure.select(np.array(kept, int))
        runs = largest_part(runs) if rules.parts == "largest" else runs
    keep = np.flatnonzero(area(runs) >= max(rules.min_area, 1))
    return Instances.of_runs(sure.image_id, runs.select(keep), sure.scores[keep], sure.labels[keep])


def same(one: Instances, other: Instances) -> None:
    assert one.masks == other.masks
    np.testing.assert_array_equal(one.scores, other.scores)
    np.testing.assert_array_equal(one.labels, other.labels)


# The order of the steps ---------------------------------------------------------------------------------------------


@LAW
@given(
    st.integers(0, 30),
    st.integers(0, 999),
    st.sampled_from([None, 0.1, 0.4]),
    ORDERS,
    OVERLAPS,
    st.sampled_from(["keep", "fill"]),
    st.sampled_from(["all", "largest"]),
)
def test_the_standard_order_is_what_one_function_did(
    count: int, seed: int, limit: float | None, order: Any, overlap: Any, holes: Any, parts: Any
) -> None:
    rules = Rules(0.2, 0.45, 4, 0.4, order=order, holes=holes, parts=parts, nms=limit)
    detections = random(count, seed)
    same(decide(detections, rules, overlap), in_one_go(detections, rules, overlap))


def test_the_configuration_states_the_standard_order() -> None:
    content = yaml.safe_load((CONF / "postprocess/default.yaml").read_text())
    assert tuple(content["steps"]) == STANDARD
    assert {*SOFT, "mask", *HARD} == set(STEPS)
    changed_by = {key: value for key, value in content.items() if key not in ("_target_", "steps")}
    assert Rules(**changed_by) == dataclasses.replace(Rules(**changed_by), steps=STANDARD)


def test_contests_of_one_class_an_image_vote_first_and_do_the_rest_alike() -> None:
    content = yaml.safe_load((CONF / "postprocess/one_class.yaml").read_text())
    assert tuple(content["steps"]) == ("vote", *STANDARD)


def test_a_step_that_is_left_out_is_not_done_and_one_that_is_moved_is_done_there() -> None:
    pair = full(([0, 0, 6, 5], 0.9), ([4, 0, 9, 5], 0.8))  # the second keeps 15 of 25 pixels
    small = changed(min_area=20)
    assert decide(pair, small, "forbidden").labels.tolist() == [1]
    before = dataclasses.replace(small, steps=("score", "mask", "min_area", "overlaps"))
    assert dense(decide(pair, before, "forbidden")).sum((1, 2)).tolist() == [30, 15]
    none = dataclasses.replace(small, steps=("mask",))
    assert dense(decide(pair, none, "allowed")).sum((1, 2)).tolist() == [30, 25]
    unsure = dataclasses.replace(changed(score=0.85), steps=("mask", "overlaps"))
    assert len(decide(pair, unsure, "forbidden")) == 2


@LAW
@given(st.integers(0, 30), st.integers(0, 999), ORDERS, OVERLAPS, st.data())
def test_rules_that_say_they_are_nested_give_some_of_the_same_instances_when_stricter(
    count: int, seed: int, order: Any, overlap: Any, data: st.DataObject
) -> None:
    before, hard = data.draw(st.lists(st.sampled_from(SOFT), max_size=3)), data.draw(st.permutations(HARD[:-1]))
    some = hard[: data.draw(st.integers(0, len(hard)))]
    steps = (*before, "score", "mask", *some, "min_area")
    rules = changed(min_share=0.6, nms=0.3, order=order, parts="largest", steps=steps)
    assume(rules.nested(overlap))
    detections = random(count, seed)
    everything = decide(detections, rules, overlap)
    stricter = decide(detections, dataclasses.replace(rules, score=0.4, min_area=12), overlap)
    kept = (everything.scores >= np.float32(0.4)) & (area(everything.runs) >= 12)
    same(stricter, everything.select(kept))


@pytest.mark.parametrize(
    ("steps", "order", "overlap", "wanted"),
    [
        (STANDARD, "score", "forbidden", True),
        (STANDARD, "small_first", "forbidden", False),
        (STANDARD, "small_first", "allowed", True),
        (("rescore", "vote", *STANDARD), "score", "forbidden", True),
        (("score", "vote", "mask", "overlaps", "min_area"), "score", "forbidden", False),
        (("score", "rescore", "mask", "overlaps", "min_area"), "score", "forbidden", False),
        (("score", "mask", "min_area", "overlaps"), "score", "forbidden", False),
        (("score", "mask", "min_area", "overlaps", "min_area"), "score", "forbidden", False),
        (("mask", "overlaps", "min_area"), "score", "forbidden", False),
        (("score", "mask", "overlaps"), "score", "forbidden", False),
    ],
)
def test_which_orders_of_steps_are_nested(steps: Any, order: Any, overlap: Any, wanted: bool) -> None:
    assert changed(order=order, steps=steps).nested(overlap) is wanted


@pytest.mark.parametrize(
    ("steps", "said"),
    [
        (("score", "maks"), "steps: maks: no such step; there are: gate, vote, rescore, score, mask, holes"),
        (("score",), "steps: wanted mask once, got it 0 times in score"),
        (("mask", "mask"), "steps: wanted mask once, got it 2 times"),
        (("mask", "score"), "steps: wanted gate, vote, rescore, score before mask and .* after it, got mask, score"),
        (("nms", "mask"), "steps: wanted gate, vote, rescore, score before mask and .* after it, got nms, mask"),
    ],
)
def test_steps_that_cannot_follow_one_another_are_refused(steps: Any, said: str) -> None:
    with pytest.raises(ValueError, match=f"^{said}"):
        changed(steps=steps)


def test_steps_that_leave_overlaps_are_refused_where_the_contest_forbids_them() -> None:
    without, filled = changed(steps=("mask",)), changed(steps=("mask", "overlaps", "holes"))
    assert without.settled(facts("hubmap2023")).steps == ("mask",)
    with pytest.raises(ConfigError, match=r"^postprocess.steps: the contest forbids overlaps; wanted overlaps among"):
        without.settled(CONTEST)
    with pytest.raises(ConfigError, match="holes behind overlaps fills what another instance holds"):
        filled.settled(CONTEST)


# Vote and rescoring -------------------------------------------------------------------------------------------------


@LAW
@given(st.integers(0, 20), st.integers(0, 999))
def test_after_a_vote_all_are_of_the_class_with_the_most_score(count: int, seed: int) -> None:
    detections = random(count, seed)
    rules = changed(steps=("vote", *STANDARD))
    found = decide(detections, rules, "allowed")
    totals = {int(label): detections.scores[detections.labels == label].sum() for label in set(detections.labels)}
    assert set(found.labels.tolist()) <= {max(totals, key=lambda label: totals[label])} if totals else not len(found)
    alone = decide(detections, changed(), "allowed")
    assert found.masks == alone.masks


def test_the_vote_counts_scores_and_not_heads() -> None:
    three = full(([0, 0, 5, 5], 0.9), ([10, 0, 15, 5], 0.4), ([20, 0, 25, 5], 0.4))
    three = dataclasses.replace(three, labels=np.array([1, 2, 2]))
    assert decide(three, changed(steps=("vote", "mask")), "allowed").labels.tolist() == [1, 1, 1]
    # Behind the score threshold only those that are kept vote.
    more = dataclasses.replace(three, scores=np.array([0.6, 0.4, 0.4], np.float32))
    assert decide(more, changed(score=0.5, steps=("vote", "score", "mask")), "allowed").labels.tolist() == [2]
    assert decide(more, changed(score=0.5, steps=("score", "vote", "mask")), "allowed").labels.tolist() == [1]


@LAW
@given(st.integers(0, 12), st.integers(0, 999), st.floats(0.05, 0.95))
def test_a_rescored_detection_is_worth_the_mean_of_its_foreground(count: int, seed: int, level: float) -> None:
    detections = random(count, seed)
    found = rescored(start(detections), changed(mask=level), "allowed").found
    wanted = []
    for mask, score in zip(detections.masks, detections.scores, strict=True):
        inside = mask[mask > np.float32(level)]
        wanted.append(float(score) * (inside.mean() if inside.size else 0.0))
    np.testing.assert_allclose(found.scores, sorted(wanted, reverse=True), atol=1e-6)
    assert (np.diff(found.scores) <= 0).all()


def test_rescoring_changes_who_comes_first_and_comes_before_the_threshold() -> None:
    pair = full(([0, 0, 6, 5], 0.9), ([4, 0, 10, 5], 0.8))
    pair = dataclasses.replace(pair, masks=np.stack([np.full((4, 4), 0.6), np.ones((4, 4))]).astype(np.float32))
    rules = changed(steps=("rescore", *STANDARD))
    found = decide(pair, rules, "forbidden")
    assert found.labels.tolist() == [2, 1]
    np.testing.assert_allclose(found.scores, [0.8, 0.54], atol=1e-6)
    assert dense(found).sum((1, 2)).tolist() == [30, 20]
    assert decide(pair, dataclasses.replace(rules, score=0.6), "forbidden").labels.tolist() == [2]


# Thresholds of each class -------------------------------------------------------------------------------------------


@LAW
@given(st.integers(0, 25), st.integers(0, 999), OVERLAPS, ORDERS)
def test_a_mapping_to_one_number_is_that_number(count: int, seed: int, overlap: Any, order: Any) -> None:
    plain = changed(score=0.3, mask=0.45, min_area=6, min_share=0.4, nms=0.4, order=order)
    numbers: dict[str, Any] = {name: getattr(plain, name) for name in ("score", "mask", "min_area", "nms")}
    each = changed(order=order, min_share=0.4, **{name: {"default": value} for name, value in numbers.items()})
    mixed = changed(order=order, min_share=0.4, **{n: dict.fromkeys(NAMES, value) for n, value in numbers.items()})
    detections, contest = random(count, seed), dataclasses.replace(CONTEST, overlap=overlap)
    for rules in (each, mixed):
        same(decide(detections, rules.settled(contest), overlap), decide(detections, plain, overlap))


@LAW
@given(st.integers(0, 25), st.integers(0, 999))
def test_where_classes_do_not_meet_each_is_decided_by_its_own_numbers(count: int, seed: int) -> None:
    own = {"score": (0.2, 0.5, 0.7), "mask": (0.3, 0.5, 0.6), "min_area": (3, 12, 1)}
    contest = dataclasses.replace(CONTEST, overlap="within_class")
    by_name = {name: dict(zip(NAMES, numbers, strict=True)) for name, numbers in own.items()}
    detections = random(count, seed)
    found = decide(detections, changed(min_share=0.5, **by_name).settled(contest), "within_class")  # type: ignore
    for label in (1, 2, 3):
        numbers: dict[str, Any] = {name: values[label - 1] for name, values in own.items()}
        alone = decide(detections.select(detections.labels == label), changed(min_share=0.5, **numbers), "forbidden")
        same(found.select(found.labels == label), alone)


@LAW
@given(st.integers(0, 20), st.integers(0, 999))
def test_of_two_masks_too_much_alike_the_class_of_the_weaker_decides(count: int, seed: int) -> None:
    limits = {"astro": 0.1, "cort": None, "default": 0.4}
    detections = random(count, seed)
    found = decide(detections, changed(nms=limits).settled(CONTEST), "allowed")  # type: ignore[arg-type]
    ordered = start(detections).found
    runs, kept = paste(ordered, 0.5), []
    ratio = iou(runs, runs)
    for i, label in enumerate(ordered.labels.tolist()):
        if all(ratio[j, i] <= (0.1, 1.0, 0.4)[label - 1] for j in kept):
            kept.append(i)
    visible = [i for i in kept if area(runs)[i]]
    np.testing.assert_array_equal(found.scores, ordered.scores[visible])
    np.testing.assert_array_equal(found.labels, ordered.labels[visible])


def test_settled_rules_hold_a_number_for_each_label() -> None:
    rules = changed(score={"cort": 0.7, "default": 0.4}, min_area={"shsy5y": 9, "astro": 3, "cort": 4}, nms=0.5)
    found = rules.settled(CONTEST)
    assert (found.score, found.mask, found.min_area, found.nms) == ((0.4, 0.7, 0.4), 0.5, (3, 4, 9), 0.5)
    assert found.settled(CONTEST) == found
    assert changed(nms={"astro": None, "default": 0.5}).settled(CONTEST).nms == (1.0, 0.5, 0.5)
    with pytest.raises(ValueError, match=r"^score, min_area: wanted a number of each label, got names"):
        decide(random(3, 0), rules, "allowed")
    numbers = dataclasses.replace(CONTEST, categories=("1", "2"))  # as severstal has them
    assert changed(mask={1: 0.4, 2: 0.6}).settled(numbers).mask == (0.4, 0.6)  # type: ignore[dict-item]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"score": {"astro": 0.3}}, "postprocess.score: no number for cort, shsy5y; wanted one of each of astro, cort"),
        ({"mask": {"astr": 0.3, "default": 0.5}}, "postprocess.mask: astr: no such category; wanted one of each of"),
        ({"min_area": (1, 2)}, "postprocess.min_area: wanted one of each of astro, cort, shsy5y, got 1, 2"),
    ],
)
def test_numbers_that_do_not_fit_the_categories_are_refused(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=f"^{said}"):
        changed(**given).settled(CONTEST)


def test_a_number_of_a_class_out_of_its_range_is_refused_by_its_name() -> None:
    with pytest.raises(ValueError, match=r"^score.cort: wanted a number from 0 to 1, got 1.5$"):
        changed(score={"cort": 1.5})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"^min_area.default: wanted 0 pixels or more, got -1$"):
        changed(min_area={"default": -1})  # type: ignore[arg-type]


# From the configuration ---------------------------------------------------------------------------------------------


def stage(*, postprocess: Rules) -> None: ...


def built(**changes: Any) -> Rules:
    content = yaml.safe_load((CONF / "postprocess/default.yaml").read_text()) | changes
    rules: Rules = build(stage, {"postprocess": content})["postprocess"]
    return rules


def test_rules_come_from_the_configuration_by_their_place_now_and_before() -> None:
    assert built() == Rules(None, 0.5, 10, 0.6)
    assert built(_target_="pipeline.inference.postprocess.Rules") == built()
    assert built(score={"astro": 0, "default": 0.5}, min_area=0).score == {"astro": 0.0, "default": 0.5}
    assert built(steps=["vote", "mask", "overlaps"]).steps == ("vote", "mask", "overlaps")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"steps": ["score", "mask", "overlap"]}, r"postprocess.steps\[2\]: expected one of .*; nearest: overlaps"),
        ({"steps": ["mask", "score"]}, "postprocess: .*Rules refuses its keys: steps: wanted gate, vote, rescore"),
        ({"score": {"astro": "much"}}, "postprocess.score.astro: expected float, got 'much'"),
        ({"score": {"astro": 2}}, "refuses its keys: score.astro: wanted a number from 0 to 1, got 2.0"),
        ({"min_area": 2.5}, "postprocess.min_area: expected int or Mapping or list of int, got 2.5"),
    ],
)
def test_a_wrong_configuration_is_refused_by_its_key(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        built(**changes)


def test_crowded_real_images_come_out_as_from_one_function(real_data: Path) -> None:
    """Their truth as a perfect mask head gives it, twice over: once with boxes a little off."""
    truth = annotations.truth(contest.read_train(real_data / "sartorius", CONTEST, "csv"))
    for image in sorted(truth, key=len)[-3:]:
        one, two = (soften(image, "aligned", 28, noise) for noise in (0.0, 1.5))
        columns = {
            name: np.concatenate([getattr(one, name), getattr(two, name)]) for name in ("boxes", "masks", "labels")
        }
        scores = np.concatenate([one.scores - 0.3, two.scores * 0.7])
        both = dataclasses.replace(one, scores=scores.astype(np.float32), **columns)
        for rules in (
            Rules(0.4, 0.5, 10, 0.6),
            Rules(0.3, 0.45, 20, 0.3, nms=0.6, order="small_first", parts="largest"),
        ):
            same(decide(both, rules, "forbidden"), in_one_go(both, rules, "forbidden"))
