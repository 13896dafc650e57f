"""What a classifier says: views, tiles, folds, files, figures, the gate and the vote."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from fixtures.classifiers import classifier, describe
from fixtures.contests import facts
from fixtures.dense import LAW as MANY
from fixtures.detectors import noise
from fixtures.segmenters import describe as describe_unet
from fixtures.soft import changed, full, random
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from pipeline.compose import CONF
from pipeline.errors import ConfigError, InputError
from pipeline.files import join_presence, read_presence, write_detections
from pipeline.inference.detect import detect_images
from pipeline.inference.postprocess import apply, decide, start
from pipeline.inference.presence import Classified, Presence, joined
from pipeline.inference.rules import STANDARD
from pipeline.inference.tiles import Tiles
from pipeline.inference.validation import PresenceValidation, Validation, judge_of
from pipeline.inference.views import Views
from pipeline.instances import Detections, Instances
from pipeline.metrics.presence import log_loss, ranking
from pipeline.model.classifier import everywhere

LAW = settings(MANY, max_examples=40)
NAMES = ("astro", "cort", "shsy5y")
GATE = ("gate", *STANDARD)
PROBABLE = arrays(
    np.float32, 3, elements=st.sampled_from([np.float32(np.nan), *np.linspace(0, 1, 9, dtype=np.float32)])
)


# Views and tiles -----------------------------------------------------------------------------------------------------


def looked(tmp_path: Path, **changes: Any) -> np.ndarray:
    """What a classifier says of one image, through all that `predict` uses."""
    pixels = noise(64, 96)
    Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(tmp_path / "a.png")
    entry = {"name": "a", "file_name": "a.png", "height": 64, "width": 96}
    (found,) = detect_images(classifier(2).eval(), tmp_path, [entry], **changes)
    assert (found.image_id, found.size, found.labels.tolist()) == ("a", (64, 96), [1, 2])
    return found.scores


def test_views_have_the_same_say_and_of_tiles_the_surest_counts(tmp_path: Path) -> None:
    model, image = classifier(2).eval(), noise(64, 96).float()
    views = [image, image.flip(-1), image.flip(-2), image.flip(-1, -2)]
    wanted = torch.stack([model.probabilities(view) for view in views]).mean(0)
    np.testing.assert_allclose(looked(tmp_path, views=Views((0, 1, 2, 3))), wanted, atol=1e-6)
    parts = [image[:, :, :64], image[:, :, 32:]]
    surest = torch.stack([model.probabilities(part) for part in parts]).amax(0)
    np.testing.assert_allclose(looked(tmp_path, tiles=Tiles(64, 16)), surest, atol=1e-6)
    np.testing.assert_allclose(looked(tmp_path), model.probabilities(image), atol=1e-6)


# Files ---------------------------------------------------------------------------------------------------------------


def part(path: Path, *images: tuple[str, list[float]]) -> Path:
    write_detections(path, [everywhere(np.array(values, np.float32), name, (4, 5)) for name, values in images])
    return path


def test_what_is_written_is_read_a_row_for_each_image(tmp_path: Path) -> None:
    parts = [part(tmp_path / "0.npz", ("a", [0.25, 1e-5]), ("007", [1.0, 0.0])), part(tmp_path / "1.npz")]
    with_blank = [Detections.empty("not readable", (4, 5), 1), everywhere(np.ones(2, np.float32), "b, c", (4, 5))]
    write_detections(tmp_path / "2.npz", with_blank)
    join_presence(tmp_path / "p.csv", [*parts, tmp_path / "2.npz"], ("round", "two, of a kind"))
    assert (tmp_path / "p.csv").read_text().splitlines() == [
        'image_id,round,"two, of a kind"', "a,0.25,1e-05", "007,1,0", "not readable,,", '"b, c",1,1',
    ]  # fmt: skip
    found = read_presence(tmp_path / "p.csv", ("two, of a kind", "round"))
    assert list(found) == ["a", "007", "not readable", "b, c"]
    np.testing.assert_allclose(found["a"], [1e-5, 0.25], rtol=1e-6)
    assert np.isnan(found["not readable"]).all()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, r"p\.csv does not exist; the stage `predict` makes it of a model=classifier"),
        ("image_id,round,square\na,1,1\n", "wanted the columns image_id, round, spindle, got image_id, round, square"),
        ("image_id,round,spindle\na,1,x\n", "a probability is no number"),
        (
            "image_id,round,spindle\na,0,1\nb,0,1.5\n",
            r"row 3, image b: wanted probabilities of 0 to 1, got \[0.0, 1.5\]",
        ),
        ("", "is no table"),
    ],
)
def test_a_wrong_file_is_told_with_its_place(tmp_path: Path, text: str | None, said: str) -> None:
    if text is not None:
        (tmp_path / "p.csv").write_text(text)
    with pytest.raises(InputError, match=said):
        read_presence(tmp_path / "p.csv", ("round", "spindle"))


@LAW
@given(st.lists(st.dictionaries(st.sampled_from("abc"), PROBABLE), max_size=4))
def test_folds_are_averaged_over_those_that_know(folds: list[dict[str, np.ndarray]]) -> None:
    found = joined(folds)
    assert found.keys() == set().union(*folds)
    for name, values in found.items():
        for place, value in enumerate(values):
            known = [fold[name][place] for fold in folds if name in fold and not np.isnan(fold[name][place])]
            assert np.isnan(value) if not known else value == pytest.approx(np.mean(known), abs=1e-6)


# Figures -------------------------------------------------------------------------------------------------------------


@LAW
@given(st.integers(0, 12), st.integers(1, 3), st.integers(0, 999))
def test_the_ranking_is_the_share_of_pairs_in_the_right_order(count: int, categories: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    probable = rng.choice(np.linspace(0, 1, 5), (count, categories)).astype(np.float32)
    there = rng.random((count, categories)) < 0.5
    values = []
    for own, true in zip(probable.T, there.T, strict=True):
        pairs = [(a > b) + 0.5 * (a == b) for a in own[true] for b in own[~true]]
        values += [np.mean(pairs)] if pairs else []
    wanted = None if not values else pytest.approx(np.mean(values))
    assert ranking(probable, there) == wanted


def test_log_loss_by_hand() -> None:
    found = log_loss(np.array([[0.8, 0.5], [0.1, 0.5]], np.float32), np.array([[True, False], [False, True]]))
    assert found == pytest.approx(-(np.log(0.8) + np.log(0.5) + np.log(0.9) + np.log(0.5)) / 4)
    assert log_loss(np.array([[0.0]], np.float32), np.array([[True]])) == pytest.approx(np.log(1e6))
    assert log_loss(np.zeros((0, 2), np.float32), np.zeros((0, 2), bool)) == 0


def truth(*labels: list[int]) -> list[Instances]:
    masks = ("`0",)  # 16 pixels of background
    rows = enumerate(labels)
    return [
        Instances(str(i), (4, 4), np.ones(len(own), np.float32), np.array(own, np.int64), masks * len(own))
        for i, own in rows
    ]


def test_a_validation_prefers_weights_that_are_sure_of_what_is_true() -> None:
    judge = judge_of(describe(), truth([1, 1, 3], []), changed(), facts("sartorius"), tuned=False)
    assert isinstance(judge, PresenceValidation)
    sure = [everywhere(np.array(own, np.float32), str(i), (4, 4)) for i, own in enumerate([[1, 0, 1], [0, 0, 0]])]
    doubt = [everywhere(np.array(own, np.float32), str(i), (4, 4)) for i, own in enumerate([[0.5] * 3] * 2)]
    assert judge.score(doubt) == pytest.approx({"score": 0.5, "log_loss": np.log(2), "auc": 0.5})
    assert judge.score(sure) == pytest.approx({"score": 1, "log_loss": 0, "auc": 1}, abs=1e-5)
    alike = judge_of(describe(), truth([1], [1]), changed(), facts("dsb2018"), tuned=False)
    assert set(alike.score([one.select([0]) for one in sure])) == {"score", "log_loss"}
    picture = judge.picture(sure, lambda name: np.zeros((4, 4, 3), np.uint8), 2)
    assert [axis.get_title() for axis in picture.axes] == [
        "0, astro 1.00, shsy5y 1.00, cort 0.00", "1, astro 0.00, cort 0.00, shsy5y 0.00",
    ]  # fmt: skip


def test_other_families_are_judged_by_their_instances_and_a_classifier_has_no_thresholds() -> None:
    assert isinstance(judge_of(describe_unet(), [], changed(), facts("dsb2018"), True), Validation)
    with pytest.raises(ConfigError, match=r"trainer\.select: a classifier has no thresholds.*got tuned_score"):
        judge_of(describe(), [], changed(), facts("dsb2018"), True)


# The gate and the vote -----------------------------------------------------------------------------------------------


@LAW
@given(st.integers(0, 25), st.integers(0, 999), PROBABLE, st.floats(0, 1))
def test_behind_the_gate_are_those_of_categories_that_may_be_there(
    count: int, seed: int, probable: np.ndarray, least: float
) -> None:
    detections = random(count, seed)
    found = decide(detections, changed(steps=GATE), "allowed", Presence(probable, least))
    stays = [not probable[label - 1] < np.float32(least) for label in detections.labels]
    wanted = decide(detections.select(np.array(stays, bool)), changed(), "allowed")
    assert found.masks == wanted.masks
    np.testing.assert_array_equal(found.scores, wanted.scores)


@LAW
@given(st.integers(0, 25), st.integers(0, 999))
def test_a_classifier_that_is_sure_of_everything_changes_nothing(count: int, seed: int) -> None:
    detections, all_there = random(count, seed), Presence(np.ones(3, np.float32), 1.0)
    for steps in (GATE, ("vote", *STANDARD), ("rescore", "vote", *STANDARD)):
        plain = decide(detections, changed(steps=steps), "forbidden")
        assert decide(detections, changed(steps=steps), "forbidden", all_there).masks == plain.masks
    assert (
        decide(detections, changed(steps=GATE), "forbidden").masks == decide(detections, changed(), "forbidden").masks
    )


def test_the_vote_counts_scores_times_what_the_classifier_says() -> None:
    three = full(([0, 0, 5, 5], 0.9), ([10, 0, 15, 5], 0.4), ([20, 0, 25, 5], 0.4))
    three = dataclasses.replace(three, labels=np.array([1, 2, 2]))

    def voted(*probable: float, steps: Any = ("vote", "mask")) -> list[int]:
        seen = Presence(np.array(probable, np.float32), 0.5)
        return decide(three, changed(steps=steps), "allowed", seen).labels.tolist()

    assert voted(1, 1) == [1, 1, 1]
    assert voted(0.5, 1) == [2, 2, 2]
    assert voted(np.nan, 1) == [1, 1, 1]  # not known: as if there were no classifier
    assert voted(0, 0) == [1, 1, 1]
    assert voted(0.4, 0.9, steps=("gate", "vote", "mask")) == [2, 2]
    # A rescoring in between keeps the classifier in mind.
    state = apply(
        start(three, Presence(np.array([0.1, 1], np.float32), 0.5)), ("rescore", "vote"), changed(), "allowed"
    )
    assert state.found.labels.tolist() == [2, 2, 2]


def test_the_group_gate_asks_before_anything_else_and_does_the_rest_alike() -> None:
    content = yaml.safe_load((CONF / "postprocess/gate.yaml").read_text())
    assert tuple(content["steps"]) == GATE


def test_a_gate_without_a_classifier_and_a_classifier_without_a_gate_are_refused() -> None:
    Classified().check(STANDARD)
    Classified("ships").check(GATE)
    Classified("ships").check(("vote", *STANDARD))
    with pytest.raises(ConfigError, match=r"gate asks a classifier; wanted its run as presence\.run=NAME, got null"):
        Classified().check(GATE)
    with pytest.raises(
        ConfigError, match=r"presence\.run=ships: none of postprocess\.steps asks it; wanted gate or vote"
    ):
        Classified("ships").check(STANDARD)
    with pytest.raises(ValueError, match=r"least: wanted 0 to 1, got 1\.5"):
        Classified("ships", 1.5)
