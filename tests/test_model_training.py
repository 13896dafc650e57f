from __future__ import annotations

import logging
import math
import os
import shutil
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from fixtures.contests import facts
from fixtures.detectors import build, describe, ellipses, noise, target
from lightning.pytorch.loggers import CSVLogger
from torch.utils.data import DataLoader

from pipeline import toy
from pipeline.data.augment import Augment
from pipeline.data.dataset import Sample
from pipeline.errors import Ended, InputError
from pipeline.files import Paths, read_folds
from pipeline.inference.postprocess import Rules
from pipeline.inference.validation import Validation
from pipeline.instances import Detections
from pipeline.model.averaging import Averaging, last_epochs, moving
from pipeline.model.engine import build_trainer, quiet_engine
from pipeline.model.module import Module
from pipeline.model.training import Schedule, Trainer, precision
from pipeline.model.weights import load_detector, read_weights
from pipeline.stages import train as stage
from pipeline.stages.convert import convert

SGD = partial(torch.optim.SGD, lr=0.02, momentum=0.9, weight_decay=1e-4)
ADAMW = partial(torch.optim.AdamW, lr=1e-3, weight_decay=0.01)
TRAINER = Trainer(
    steps=6,
    epoch_steps=2,
    batch_size=2,
    accumulate=1,
    validation_images=1,
    patience=None,
    gradient_clip=5.0,
    nonfinite="stop",
    workers=0,
    threads=1,
    precision="auto",
    accelerator="cpu",
    devices=1,
    nodes=1,
    strategy="auto",
)
LONG = replace(TRAINER, epoch_steps=3)
AUGMENT = Augment(
    crop=96, symmetries=True, brightness=0.2, contrast=0.2, gamma=0.3, invert=0.1, grey=0.1, min_area=8, min_share=0.1
)


@pytest.fixture(scope="module")
def contest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A toy contest of six images, and what `convert` makes of it."""
    root = tmp_path_factory.mktemp("training")
    toy.draw(root / "data", seed=4, n_train=6, n_test=3)
    convert(competition=facts("toy"), paths=places(root), n_folds=2, seed=0, annotations="csv", overwrite=False)
    return root


def places(root: Path) -> Paths:
    return Paths(root / "data", root / "out", root / "submissions")


def train(root: Path, run: str, **changes: Any) -> Path:
    """The stage on the contest in `root`; the folder of fold 0."""
    settings = {
        "fold": 0,
        "seed": 0,
        "model": describe(score_floor=0.3),
        "augment": AUGMENT,
        "optimizer": ADAMW,
        "schedule": Schedule(warmup=2, final=0.1),
        "trainer": TRAINER,
        "postprocess": Rules(score=0.3, mask=0.5, min_area=5, min_share=0.5),
        "overwrite": False,
        "quiet": True,
    }
    stage.train(competition=facts("toy"), paths=places(root), run=run, **(settings | changes))
    return places(root).fold(run, 0)


@pytest.fixture(scope="module")
def finished(contest: Path) -> Path:
    """The folder of a training that ran to its end in one go."""
    return train(contest, "whole")


def checkpoint(folder: Path) -> dict[str, Any]:
    return dict(torch.load(folder / "last.ckpt", map_location="cpu", weights_only=True))


def history(folder: Path) -> pd.DataFrame:
    return pd.read_csv(folder / "history.csv")


def assert_equal_trainings(one: Path, other: Path) -> None:
    """Weights, batch statistics, the optimizer's memory and the history agree bit for bit, all but the clock."""
    a, b = checkpoint(one), checkpoint(other)
    assert a["global_step"] == b["global_step"]
    assert a["state_dict"].keys() == b["state_dict"].keys()
    assert [name for name in a["state_dict"] if not torch.equal(a["state_dict"][name], b["state_dict"][name])] == []
    for i, memory in a["optimizer_states"][0]["state"].items():
        for name, value in memory.items():
            assert torch.equal(value, b["optimizer_states"][0]["state"][i][name]), (i, name)
    states = [read_weights(folder / "best.pt") for folder in (one, other)]
    assert states[0]["info"] == {**states[1]["info"], "run": states[0]["info"]["run"]}
    assert all(torch.equal(states[0]["state"][name], tensor) for name, tensor in states[1]["state"].items())
    tables = [history(folder).drop(columns="seconds") for folder in (one, other)]
    pd.testing.assert_frame_equal(*tables, check_exact=True)


class Crash(Exception):
    """Something that nobody foresaw."""


def crash_in(epoch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the validation of that epoch, from 0, end in an exception: its steps are made, nothing of it is saved."""
    plain, calls = Validation.score, [0]

    def score(*args: Any) -> Mapping[str, float]:
        calls[0] += 1
        if calls[0] == epoch + 1:
            raise Crash
        return plain(*args)

    monkeypatch.setattr(Validation, "score", score)


# A run --------------------------------------------------------------------------------------------------------------


def test_a_training_leaves_weights_a_checkpoint_and_its_history(finished: Path) -> None:
    names = {path.name for path in finished.iterdir()}
    assert names == {"best.pt", "last.ckpt", "history.csv", "tensorboard", ".started.json", ".train.json"}
    table = history(finished)
    assert table["epoch"].tolist() == [0, 1, 2]
    assert table["step"].tolist() == [2, 4, 6]
    losses = ["loss", "loss_objectness", "loss_rpn_box_reg", "loss_classifier", "loss_box_reg", "loss_mask"]
    assert set(table.columns) == {
        "epoch", "step", "learning_rate", *losses, "validation_score", "validation_ap50", "seconds"
    }  # fmt: skip
    assert np.isfinite(table.to_numpy()).all()
    np.testing.assert_allclose(table[losses[1:]].sum(axis=1), table["loss"], rtol=1e-4)
    detector, info = load_detector(finished / "best.pt")
    assert (info["competition"], info["categories"], info["fold"], info["run"]) == (
        "toy",
        ["round", "spindle"],
        0,
        "whole",
    )
    assert info["validation_score"] == pytest.approx(table["validation_score"].max(), abs=1e-6)
    assert detector.detect(noise(64, 64), "a").size == (64, 64)


def test_training_changes_every_part_of_the_detector(finished: Path) -> None:
    torch.manual_seed(0)
    fresh, state = build(score_floor=0.3).state_dict(), checkpoint(finished)["state_dict"]
    parts = {name.split(".")[0] + "." + name.split(".")[1] for name in fresh}
    for part in parts:
        own = [name for name in fresh if name.startswith(part)]
        assert any(not torch.equal(fresh[name], state[f"detector.{name}"]) for name in own), part


def test_a_training_never_sees_its_validation_images(contest: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    plain = stage.TrainingSamples.__getitem__
    monkeypatch.setattr(
        stage.TrainingSamples,
        "__getitem__",
        lambda self, place: seen.append(self.annotations.image_ids[place[1]]) or plain(self, place),
    )
    train(contest, "seen", fold=1)
    folds = read_folds(places(contest).folds)
    assert {folds[name] for name in seen} == {0}
    # Twelve samples are four passes over three images.
    assert {seen.count(name) for name in set(seen)} == {4}


def test_the_same_settings_give_the_same_weights_with_any_number_of_workers(contest: Path, finished: Path) -> None:
    again = train(contest, "workers", trainer=replace(TRAINER, workers=2))
    assert_equal_trainings(finished, again)


# Stop and go on -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("epoch", [0, 1, 2])
def test_an_interrupted_training_ends_with_the_same_weights(
    contest: Path, finished: Path, epoch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = f"crash{epoch}"
    with monkeypatch.context() as patch:
        crash_in(epoch, patch)
        with pytest.raises(Crash):
            train(contest, run)
    folder = places(contest).fold(run, 0)
    assert not (folder / ".train.json").exists()
    assert (folder / "last.ckpt").exists() == (epoch > 0)
    assert not (folder / "history.csv").exists() or len(history(folder)) == epoch
    assert train(contest, run) == folder
    assert_equal_trainings(finished, folder)


def test_a_training_interrupted_twice_ends_with_the_same_weights(
    contest: Path, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for epoch in (1, 1):  # the second time counted from where the first got to
        with monkeypatch.context() as patch:
            crash_in(epoch, patch)
            with pytest.raises(Crash):
                train(contest, "twice")
    assert_equal_trainings(finished, train(contest, "twice"))


def test_momentum_is_resumed_too(contest: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {"optimizer": SGD, "trainer": replace(TRAINER, steps=4, accumulate=2, batch_size=1)}
    whole = train(contest, "sgd", **settings)
    with monkeypatch.context() as patch:
        crash_in(1, patch)
        with pytest.raises(Crash):
            train(contest, "sgd_crash", **settings)
    assert_equal_trainings(whole, train(contest, "sgd_crash", **settings))
    assert history(whole)["step"].tolist() == [2, 4]


def told_at(step: int, number: int, patch: pytest.MonkeyPatch) -> None:
    """Let a signal reach this process while it makes that step, from 0."""
    plain = Module.training_step

    def training_step(self: Module, batch: Any, batch_idx: int) -> Any:
        if self.global_step == step:
            patch.setattr(Module, "training_step", plain)
            os.kill(os.getpid(), number)
        return plain(self, batch, batch_idx)

    patch.setattr(Module, "training_step", training_step)


@pytest.mark.parametrize(
    "changes", [{"trainer": replace(LONG, ema=0.9)}, {"trainer": replace(LONG, accumulate=2), "optimizer": SGD}],
    ids=["one batch", "two batches"],
)  # fmt: skip
def test_a_training_that_is_told_to_end_saves_its_step_and_ends_with_the_same_weights(
    contest: Path, changes: Mapping[str, Any], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    name = f"told{changes['trainer'].accumulate}"
    whole, folder = train(contest, f"{name}_whole", **changes), places(contest).fold(name, 0)
    # In the middle of an epoch, in its last step, in the middle again.
    for step, number, saved in ((1, signal.SIGTERM, 2), (2, signal.SIGINT, 3), (4, signal.SIGTERM, 5)):
        with monkeypatch.context() as patch:
            told_at(step, number, patch)
            with pytest.raises(SystemExit) as leaving:
                train(contest, name, **changes)
        ended = leaving.value.__context__
        assert isinstance(ended, Ended)
        assert ended.number == number
        assert ended.how == f"saved at step {saved}, where the same command goes on"
        assert checkpoint(folder)["global_step"] == saved
        assert ("once more ends at once" in capfd.readouterr().err) == (number == signal.SIGINT)
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    assert_equal_trainings(whole, train(contest, name, **changes))


def test_a_second_interruption_ends_a_training_at_once(contest: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = Module.training_step

    def impatient(self: Module, batch: Any, batch_idx: int) -> Any:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        return plain(self, batch, batch_idx)

    monkeypatch.setattr(Module, "training_step", impatient)
    with pytest.raises(SystemExit) as leaving:
        train(contest, "impatient")
    assert str(leaving.value.__context__) == "interrupted"
    assert not (places(contest).fold("impatient", 0) / "last.ckpt").exists()


def test_a_training_killed_between_its_last_save_and_its_stamp_is_only_stamped(contest: Path, finished: Path) -> None:
    folder = places(contest).fold("late", 0)
    shutil.copytree(finished, folder)
    (folder / ".train.json").unlink()
    before = (folder / "history.csv").read_bytes()
    train(contest, "late")
    assert (folder / ".train.json").exists()
    assert (folder / "history.csv").read_bytes() == before
    assert_equal_trainings(finished, folder)


def test_a_complete_training_is_skipped(contest: Path, finished: Path, caplog: pytest.LogCaptureFixture) -> None:
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*")}
    with caplog.at_level(logging.INFO):
        train(contest, "whole")
    assert {path: path.stat().st_mtime_ns for path in finished.rglob("*")} == before
    assert caplog.messages == [
        f"{finished} is complete and made from the same data and settings; overwrite=true trains again"
    ]


def test_other_settings_are_refused_with_what_changed(contest: Path, finished: Path) -> None:
    before = (finished / "best.pt").read_bytes()
    changes = {"seed": 1, "augment": replace(AUGMENT, crop=64)}
    with pytest.raises(InputError) as caught:
        train(contest, "whole", **changes)
    message = str(caught.value)
    assert message.startswith(f"{finished} holds a training with other settings or data")
    assert "(settings.augment, settings.seed changed)" in message
    assert "run=NAME, or overwrite=true" in message
    assert (finished / "best.pt").read_bytes() == before


def test_an_interrupted_training_is_not_continued_with_other_settings(
    contest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        crash_in(1, patch)
        with pytest.raises(Crash):
            train(contest, "half")
    with pytest.raises(InputError, match=r"settings\.optimizer changed"):
        train(contest, "half", optimizer=SGD)


def test_overwrite_trains_again_from_the_start(contest: Path) -> None:
    short = replace(TRAINER, steps=2)
    folder = train(contest, "again", trainer=short)
    first = checkpoint(folder)["state_dict"]
    train(contest, "again", trainer=short, seed=1, overwrite=True)
    second = checkpoint(folder)["state_dict"]
    assert any(not torch.equal(first[name], second[name]) for name in first)
    train(contest, "again", trainer=short, overwrite=True)
    third = checkpoint(folder)["state_dict"]
    assert all(torch.equal(first[name], third[name]) for name in first)
    assert len(history(folder)) == 1


def test_an_unknown_fold_is_refused(contest: Path) -> None:
    with pytest.raises(InputError, match=r"fold=7: the folds of this contest are \[0, 1\]"):
        train(contest, "none", fold=7)


def test_patience_ends_a_training_that_gets_no_better(contest: Path) -> None:
    rules = Rules(score=1.0, mask=0.5, min_area=5, min_share=0.5)  # nothing is ever found
    folder = train(contest, "patient", postprocess=rules, trainer=replace(TRAINER, steps=20, patience=1))
    assert history(folder)["step"].tolist() == [2, 4]
    assert (folder / ".train.json").exists()


def test_of_equal_scores_the_later_weights_are_kept(contest: Path) -> None:
    rules = Rules(score=1.0, mask=0.5, min_area=5, min_share=0.5)
    folder = train(contest, "equal", postprocess=rules, trainer=replace(TRAINER, steps=4))
    assert set(history(folder)["validation_score"]) == {0.0}
    assert read_weights(folder / "best.pt")["info"]["step"] == 4


# What is kept --------------------------------------------------------------------------------------------------------


def averages(folder: Path) -> Mapping[str, torch.Tensor]:
    return dict(checkpoint(folder)["callbacks"]["Averaging"]["average"])


SHORT = replace(TRAINER, steps=4)


@pytest.mark.parametrize("how", [{"ema": 0.9}, {"average_last": 2}], ids=["moving", "last"])
def test_an_interrupted_training_that_averages_weights_ends_with_the_same_bits(
    contest: Path, how: Mapping[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    name, spec = next(iter(how)), replace(SHORT, select="last", **how)
    whole = train(contest, f"{name}_whole", trainer=spec)
    with monkeypatch.context() as patch:
        crash_in(1, patch)
        with pytest.raises(Crash):
            train(contest, f"{name}_crash", trainer=spec)
    crashed = train(contest, f"{name}_crash", trainer=spec)
    assert_equal_trainings(whole, crashed)
    one, other, kept = averages(whole), averages(crashed), read_weights(whole / "best.pt")["state"]
    assert one.keys() == other.keys() == kept.keys()
    assert all(torch.equal(tensor, other[key]) and torch.equal(tensor, kept[key]) for key, tensor in one.items())
    own = checkpoint(whole)["state_dict"]
    assert any(not torch.equal(tensor, own[f"detector.{key}"]) for key, tensor in one.items())


def test_the_last_weights_are_kept_where_that_is_asked_for_and_the_rest_is_told(
    contest: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """One training with a tuned score, another log and pictures."""
    csv = partial(CSVLogger, name="", version="csv")
    spec = replace(TRAINER, steps=2, epoch_steps=1, select="tuned_score", pictures=1)
    with caplog.at_level(logging.INFO):
        folder = train(contest, "extras", trainer=spec, logger=csv)
    table = history(folder)
    assert (table["validation_tuned_score"] >= table["validation_score"]).all()
    best = read_weights(folder / "best.pt")["info"]
    assert best["validation_tuned_score"] == pytest.approx(table["validation_tuned_score"].max(), abs=1e-6)
    assert (
        f"weights of step {best['step']} (validation tuned_score {best['validation_tuned_score']:.4f})" in caplog.text
    )
    assert [path.name for path in sorted((folder / "pictures").iterdir())] == ["step0000001.png", "step0000002.png"]
    logged = pd.read_csv(folder / "csv" / "metrics.csv")
    np.testing.assert_allclose(logged["validation_tuned_score"].dropna(), table["validation_tuned_score"], atol=1e-6)
    assert "lr: 0.001" in (folder / "csv" / "hparams.yaml").read_text()


def test_a_training_on_all_images_validates_none_and_keeps_its_last_weights(contest: Path) -> None:
    spec = replace(TRAINER, steps=2, epoch_steps=1, patience=1, ema=0.5)
    train(contest, "every", trainer=spec, fold="all")
    folder = places(contest).run("every") / "all"
    assert places(contest).fold("every", "all") == folder
    assert read_weights(folder / "best.pt")["info"]["step"] == 2
    assert read_weights(folder / "best.pt")["info"]["fold"] == "all"
    assert [name for name in history(folder) if name.startswith("validation")] == []


def test_a_training_killed_between_its_early_end_and_its_stamp_makes_no_step_more(contest: Path) -> None:
    rules = Rules(score=1.0, mask=0.5, min_area=5, min_share=0.5)  # nothing is ever found
    settings = {"postprocess": rules, "trainer": replace(TRAINER, steps=20, epoch_steps=1, patience=1)}
    folder = train(contest, "ended", **settings)
    before = (folder / "last.ckpt").read_bytes(), history(folder)["step"].tolist()
    (folder / ".train.json").unlink()
    train(contest, "ended", **settings)
    assert ((folder / "last.ckpt").read_bytes(), history(folder)["step"].tolist()) == before
    assert before[1] == [1, 2]


def test_a_mean_of_the_last_epochs_is_a_mean() -> None:
    share = last_epochs(3, 11, 2)  # epochs end at 2, 4 … 10 and at the last step
    assert [share(step) for step in range(1, 12)] == [None] * 7 + [1.0, None, 1 / 2, 1 / 3]
    assert [moving(0.99)(step) for step in (1, 8, 10_000)] == pytest.approx([1 - 2 / 11, 0.5, 0.01])


def test_an_average_is_what_it_says(tmp_path: Path) -> None:
    """Three numbers taken one by one, with shares of 1, 1/2 and 1/3, give their mean; a share of 0.1 a tenth."""
    for share, wanted in ((lambda step: 1 / step, 2.0), (lambda step: 0.1, 1 * 0.81 + 2 * 0.09 + 3 * 0.1)):
        average, own = Averaging(share), module("stop")
        for value in (1.0, 2.0, 3.0):
            torch.nn.init.constant_(own.detector.rpn.head.cls_logits.weight, value)
            average.on_train_batch_end(SimpleNamespace(global_step=int(value)), own)  # type: ignore[arg-type]
        with average.shown(own.detector):
            np.testing.assert_allclose(own.detector.rpn.head.cls_logits.weight.detach(), wanted, rtol=1e-6)
        assert (own.detector.rpn.head.cls_logits.weight == 3).all()


def test_settings_that_contradict_are_refused() -> None:
    with pytest.raises(ValueError, match="ema, average_last: wanted one average, got both"):
        replace(TRAINER, ema=0.9, average_last=2)
    with pytest.raises(ValueError, match="layer_decay: wanted more than 0 and at most 1, got 2"):
        replace(TRAINER, layer_decay=2.0)


def test_another_number_of_threads_is_no_other_training(
    contest: Path, finished: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        train(contest, "whole", trainer=replace(TRAINER, threads=None, workers=3, pictures=2))
    assert "is complete" in caplog.text


def test_a_log_whose_package_is_missing_says_so(contest: Path) -> None:
    def missing(**_: Any) -> Any:
        raise ModuleNotFoundError("No module named 'wandb'")

    with pytest.raises(InputError, match="logger: it needs a package that is not installed: No module named 'wandb'"):
        train(contest, "unlogged", logger=missing)


# Losses that are not finite -----------------------------------------------------------------------------------------


def test_a_diverging_training_stops_and_names_the_images(contest: Path) -> None:
    wild = partial(torch.optim.SGD, lr=1e30)
    with pytest.raises(InputError) as caught:
        train(contest, "wild", optimizer=wild, schedule=Schedule(warmup=0, final=1.0))
    message = str(caught.value)
    assert message.startswith("step 1: the loss is not finite (")
    assert "lower optimizer.lr, or trainer.nonfinite=skip" in message
    folds = read_folds(places(contest).folds)
    named = message.partition("on the images ")[2].partition(";")[0].split(", ")
    assert len(named) == 2
    assert {folds[name] for name in named} == {1}
    assert not (places(contest).fold("wild", 0) / "best.pt").exists()


@pytest.mark.filterwarnings("ignore:`training_step` returned `None`")
def test_a_diverging_training_that_skips_stops_after_ten(contest: Path, caplog: pytest.LogCaptureFixture) -> None:
    wild, patient = partial(torch.optim.SGD, lr=1e30), replace(TRAINER, steps=30, epoch_steps=30, nonfinite="skip")
    with pytest.raises(InputError, match=r"step 11: the loss is not finite"), caplog.at_level(logging.WARNING):
        train(contest, "wilder", optimizer=wild, schedule=Schedule(warmup=0, final=1.0), trainer=patient)
    left_out = [message for message in caplog.messages if "the batch is left out" in message]
    assert [message.rpartition("(")[2] for message in left_out] == [f"{i} of at most 10)" for i in range(1, 11)]


def module(nonfinite: str, steps: int = 4, score: Callable[..., Any] = lambda found: {"score": 0.5}) -> Module:
    return Module(build(), ADAMW, Schedule(0, 1.0), steps, 0, nonfinite, score)


def samples(count: int) -> list[Sample]:
    return [Sample(noise(64, 64, i), target(ellipses((64, 64), 3, i)), f"image{i}") for i in range(count)]


def fit(folder: Path, own: Module, spec: Trainer, training: Sequence[Sample]) -> Any:
    folder.mkdir(parents=True, exist_ok=True)
    validation = DataLoader([(noise(64, 64), "v")], 1, collate_fn=list)  # type: ignore[arg-type]
    with quiet_engine():
        engine = build_trainer(spec, folder, {"categories": ["a", "b"]}, quiet=True)
        engine.fit(own, DataLoader(training, 1, collate_fn=list), validation)  # type: ignore[arg-type]
    return engine


@pytest.mark.filterwarnings("ignore:`training_step` returned `None`")
def test_one_bad_batch_is_left_out_without_a_trace(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A batch that turns all features into NaN moves neither weights nor batch statistics."""
    own, calls = module("skip"), [0]

    def poison(part: Any, inputs: tuple[torch.Tensor]) -> Any:
        calls[0] += part.training
        return (inputs[0] * math.nan,) if part.training and calls[0] == 2 else inputs

    own.detector.backbone.register_forward_pre_hook(poison)
    spec = replace(TRAINER, steps=4, epoch_steps=4, batch_size=1, nonfinite="skip")
    with caplog.at_level(logging.WARNING):
        engine = fit(tmp_path, own, spec, samples(4))
    (message,) = (line for line in caplog.messages if "left out" in line)
    assert message.endswith("on the images image1; the batch is left out (1 of at most 10)")
    assert own.skipped == 1
    assert engine.global_step == 4
    assert [name for name, tensor in own.detector.state_dict().items() if not torch.isfinite(tensor).all()] == []
    assert np.isfinite(history(tmp_path).to_numpy()).all()


# Parts --------------------------------------------------------------------------------------------------------------


def test_the_rate_rises_in_a_line_and_falls_in_half_a_cosine() -> None:
    schedule = Schedule(warmup=4, final=0.1)
    factors = [schedule.factor(step, 24) for step in range(25)]
    np.testing.assert_allclose(factors[:5], [0.25, 0.5, 0.75, 1.0, 1.0])
    assert all(a > b for a, b in pairwise(factors[4:]))
    assert factors[14] == pytest.approx(0.55)
    assert factors[24] == pytest.approx(0.1)
    assert schedule.factor(99, 24) == pytest.approx(0.1)
    assert [Schedule(0, 1.0).factor(step, 5) for step in range(5)] == [1.0] * 5


def test_the_history_shows_the_rate_of_the_schedule(finished: Path) -> None:
    schedule = Schedule(warmup=2, final=0.1)
    wanted = [1e-3 * schedule.factor(step, 6) for step in (2, 4, 6)]
    np.testing.assert_allclose(history(finished)["learning_rate"], wanted, rtol=1e-5)


def test_only_weights_with_a_scale_decay() -> None:
    own = module("stop")
    decayed, rest = own.configure_optimizers()["optimizer"].param_groups
    assert (decayed["weight_decay"], rest["weight_decay"]) == (0.01, 0.0)
    assert {p.ndim for p in decayed["params"]} == {2, 4}
    assert {p.ndim for p in rest["params"]} == {1}
    count = sum(p.requires_grad for p in own.detector.parameters())
    assert len(decayed["params"]) + len(rest["params"]) == count


def test_the_rate_falls_from_stage_to_stage_of_the_backbone() -> None:
    own = Module(build(), ADAMW, Schedule(0, 1.0), 4, 0, "stop", lambda found: {"score": 0.5}, layer_decay=0.5)
    groups = own.configure_optimizers()["optimizer"].param_groups
    rate = {id(p): group["lr"] for group in groups for p in group["params"]}
    stages = own.detector.backbone.stages
    for name, parameter in own.detector.named_parameters():
        stage = stages.get(name.removeprefix("backbone.body."), 5)
        assert rate[id(parameter)] == pytest.approx(1e-3 * 0.5 ** (5 - stage)), name
    assert groups[0]["lr"] == 1e-3, "the history shows that of the heads"
    assert len(rate) == sum(len(group["params"]) for group in groups) == len(list(own.detector.parameters()))


def test_how_many_batches_were_left_out_is_saved() -> None:
    own, resumed, content = module("skip"), module("skip"), {}
    own.skipped = 7
    own.on_save_checkpoint(content)
    resumed.on_load_checkpoint(content)
    assert resumed.skipped == 7


def test_frozen_parameters_are_left_to_themselves() -> None:
    own = module("stop")
    own.detector.backbone.body.requires_grad_(False)
    groups = own.configure_optimizers()["optimizer"].param_groups
    trained = {id(p) for group in groups for p in group["params"]}
    assert not trained & {id(p) for p in own.detector.backbone.body.parameters()}


def test_every_validation_scores_its_own_detections_once(tmp_path: Path) -> None:
    seen: list[list[str]] = []

    def score(found: Sequence[Detections]) -> Mapping[str, float]:
        seen.append([one.image_id for one in found])
        return {"score": len(seen) / 10, "other": 3.0}

    spec = replace(TRAINER, steps=4, epoch_steps=2, batch_size=1)
    fit(tmp_path, module("stop", score=score), spec, samples(2))
    assert seen == [["v"], ["v"]]
    table = history(tmp_path)
    np.testing.assert_allclose(table["validation_score"], [0.1, 0.2])
    assert table["validation_other"].tolist() == [3.0, 3.0]


def test_the_precision_is_named_as_lightning_names_it() -> None:
    assert precision("bf16-mixed", "cpu") == "bf16-mixed"
    assert precision("auto", "cpu") == "32-true"
    if not torch.cuda.is_available():
        assert precision("auto", "auto") == precision("auto", "gpu") == "32-true"


def test_training_in_bfloat16_learns_with_finite_losses(contest: Path) -> None:
    folder = train(contest, "low", trainer=replace(TRAINER, steps=2, precision="bf16-mixed"))
    assert np.isfinite(history(folder).to_numpy()).all()
    state = checkpoint(folder)["state_dict"]
    assert {tensor.dtype for tensor in state.values()} == {torch.float32, torch.int64}


def test_samples_go_to_the_device_with_all_but_their_masks() -> None:
    (sample,) = module("stop").transfer_batch_to_device(samples(1), torch.device("meta"), 0)
    assert {sample.image.device.type, sample.target["boxes"].device.type} == {"meta"}
    assert isinstance(sample.target["masks"].data, np.ndarray)


def test_other_weights_under_the_same_name_make_another_training(tmp_path: Path) -> None:
    paths = Paths(tmp_path, tmp_path, tmp_path)
    for path in (paths.annotations, paths.folds, paths.statistics):
        path.write_text("{}")
    weights = tmp_path / "start.pt"
    steps = []
    for content in (b"one", b"two", b"one"):
        weights.write_bytes(content)
        steps.append(stage._step(paths, "run", 0, {"model": describe(weights=str(weights))}))
    assert steps[0].inputs != steps[1].inputs
    assert steps[0] == steps[2]
