"""A training of two processes, as a user starts it, learns what one process learns from the same images."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from fixtures.line import maskline, to_be_killed, typed

from pipeline import toy

# Everything that depends on how the batch is cut is taken out: batch norm (its statistics are of a process's own
# images), and the sampling of anchors and boxes (drawn by each process for itself; here there are few enough to take
# all). What remains is that the loss is a mean over the processes of means over their own boxes.
SMALL = [
    "fold=0",
    "seed=1",
    "model/backbone=timm",
    "model.backbone.name=convnext_atto",
    "model.backbone.channels=16",
    "model.backbone.norm=group",
    "model.weights=none",
    "model.box_samples=512",
    "model.detections=20",
    "model.proposals=50",
    "augment.crop=32",
    "trainer.steps=4",
    "trainer.epoch_steps=2",
    "trainer.validation_images=3",
    "trainer.threads=1",
    "trainer.accelerator=cpu",
    "trainer.pictures=0",
]
TWO = ["trainer.devices=2", "trainer.strategy=ddp", "trainer.batch_size=1"]


@pytest.fixture(scope="module")
def contest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("ranks")
    toy.draw(root / "toy", seed=3, n_train=8, n_test=3)
    done = typed("convert", *places(root), "n_folds=2")
    assert done.returncode == 0, done.stderr
    return root


def places(root: Path) -> list[str]:
    return [f"paths.data={root / 'toy'}", f"paths.output={root / 'out'}"]


def train(
    root: Path, run: str, *own: str, start: Callable[..., subprocess.CompletedProcess[str]] = maskline
) -> tuple[pd.DataFrame, dict[str, torch.Tensor], Path]:
    done = start("train", *places(root), *SMALL, f"run={run}", *own)
    assert done.returncode == 0, done.stderr
    return result(root, run)


def result(root: Path, run: str) -> tuple[pd.DataFrame, dict[str, torch.Tensor], Path]:
    folder = root / "out" / "runs" / run / "fold0"
    state = torch.load(folder / "last.ckpt", map_location="cpu", weights_only=True)["state_dict"]
    return pd.read_csv(folder / "history.csv"), state, folder


@pytest.fixture(scope="module")
def double(contest: Path) -> tuple[pd.DataFrame, dict[str, torch.Tensor], Path]:
    return train(contest, "two", *TWO)


@pytest.mark.slow
def test_two_processes_learn_what_one_does_from_the_same_images(
    contest: Path, double: tuple[pd.DataFrame, dict[str, torch.Tensor], Path]
) -> None:
    one, weights, _ = train(contest, "one", "trainer.batch_size=2", start=typed)
    two, others, folder = double
    alike, means = ["loss_objectness", "loss_classifier"], ["loss_rpn_box_reg", "loss_box_reg", "loss_mask", "loss"]
    assert one["step"].tolist() == two["step"].tolist() == [2, 4]
    np.testing.assert_allclose(two[alike], one[alike], rtol=0.01)  # as many anchors and boxes in each image
    np.testing.assert_allclose(two[means], one[means], rtol=0.35, atol=0.01)  # an image of few cells weighs as much
    moved = torch.cat([(others[name] - weights[name]).flatten() for name in weights if weights[name].ndim > 1])
    rates = 4e-4 * (1 + 2 + 3 + 4) / 50  # of the four steps of the warm-up together
    assert moved.abs().max() < 2.5 * rates, "no weight is further away than the steps of AdamW are long"
    figures = [name for name in one if name.startswith("validation")]
    np.testing.assert_allclose(two[figures], one[figures], atol=0.2)  # each image counted once, by whichever process
    assert {path.name for path in folder.iterdir()} >= {"best.pt", "last.ckpt", "history.csv", ".train.json"}


@pytest.mark.slow
def test_two_processes_that_are_killed_go_on_to_the_same_weights(
    contest: Path, double: tuple[pd.DataFrame, dict[str, torch.Tensor], Path]
) -> None:
    process = to_be_killed("train", *places(contest), *SMALL, "run=killed", *TWO)
    history = contest / "out" / "runs" / "killed" / "fold0" / "history.csv"
    limit = time.monotonic() + 400
    while not history.is_file():
        assert process.poll() is None, "the training ended before its time"
        assert time.monotonic() < limit, "the training did not reach its first validation"
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    table, state, _ = train(contest, "killed", *TWO)
    whole, wanted, _ = double
    pd.testing.assert_frame_equal(table.drop(columns="seconds"), whole.drop(columns="seconds"), rtol=1e-5)
    assert all(torch.allclose(state[name], tensor, rtol=1e-5, atol=1e-7) for name, tensor in wanted.items())
