"""A training or a prediction that is killed and started again ends as one that never was, as a user would do it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from pipeline import toy

SMALL = [
    "fold=0",
    "model.weights=none",
    "model.backbone.channels=16",
    "model.detections=20",
    "model.proposals=50",
    "augment.crop=64",
    "trainer.steps=24",
    "trainer.epoch_steps=6",
    "trainer.validation_images=1",
    "trainer.threads=1",
    "trainer.accelerator=cpu",
    "trainer.workers=1",
]


@pytest.fixture(scope="module")
def contest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("contest") / "toy"
    toy.draw(root, seed=3, n_train=4, n_test=3)
    return root


def command(stage: str, contest: Path, output: Path) -> list[str]:
    own = SMALL if stage == "train" else ["n_folds=2"]
    places = [f"paths.data={contest}", f"paths.output={output}"]
    return [sys.executable, "-m", "pipeline", stage, *places, *own]


def weights(output: Path) -> dict[str, torch.Tensor]:
    folder = output / "runs" / "baseline" / "fold0"
    return torch.load(folder / "last.ckpt", map_location="cpu", weights_only=True)["state_dict"]


def kill_in_training(contest: Path, output: Path, epoch: int) -> None:
    """Start the training and kill it, with its loader, some steps after it has finished that many epochs."""
    process = subprocess.Popen(command("train", contest, output), start_new_session=True, stderr=subprocess.DEVNULL)
    history = output / "runs" / "baseline" / "fold0" / "history.csv"
    limit = time.monotonic() + 240
    while not (history.is_file() and len(history.read_text().splitlines()) > epoch):
        assert process.poll() is None, "the training ended before its time"
        assert time.monotonic() < limit, "the training did not reach the epoch after which to kill it"
        time.sleep(0.05)
    time.sleep(0.4)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert process.returncode == -signal.SIGKILL, "the training ended before it was killed"


def test_a_training_killed_twice_ends_with_the_same_bits_as_one_never_killed(contest: Path, tmp_path: Path) -> None:
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    for output in (undisturbed, killed):
        subprocess.run(command("convert", contest, output), check=True, capture_output=True)
    subprocess.run(command("train", contest, undisturbed), check=True, capture_output=True)
    kill_in_training(contest, killed, epoch=1)
    kill_in_training(contest, killed, epoch=2)
    done = subprocess.run(command("train", contest, killed), check=True, capture_output=True, text=True)
    assert "Traceback" not in done.stderr

    wanted, found = weights(undisturbed), weights(killed)
    assert wanted.keys() == found.keys()
    assert [name for name in wanted if not torch.equal(wanted[name], found[name])] == []
    rows = [(o / "runs/baseline/fold0/history.csv").read_text().splitlines() for o in (undisturbed, killed)]
    assert [row.rsplit(",", 1)[0] for row in rows[0]] == [row.rsplit(",", 1)[0] for row in rows[1]]


def test_a_complete_training_is_skipped_and_another_one_in_its_place_is_refused(contest: Path, tmp_path: Path) -> None:
    subprocess.run(command("convert", contest, tmp_path), check=True, capture_output=True)
    short = [*command("train", contest, tmp_path), "trainer.steps=2", "trainer.epoch_steps=2"]
    subprocess.run(short, check=True, capture_output=True)
    again = subprocess.run(short, check=True, capture_output=True, text=True)
    assert "is complete" in again.stderr
    other = subprocess.run([*short, "seed=1"], capture_output=True, text=True)
    assert other.returncode == 1
    assert "settings.seed changed" in other.stderr
    assert "run=NAME" in other.stderr


def test_a_prediction_that_is_killed_goes_on_and_ends_with_the_same_bytes(tmp_path: Path) -> None:
    data, output = tmp_path / "toy", tmp_path / "output"
    toy.draw(data, seed=3, n_train=4, n_test=40)
    subprocess.run(command("convert", data, output), check=True, capture_output=True)
    short = [*command("train", data, output), "trainer.steps=1", "trainer.epoch_steps=1"]
    subprocess.run(short, check=True, capture_output=True)
    fold = output / "runs" / "baseline" / "fold0"
    words = [sys.executable, "-m", "pipeline", "predict", f"paths.data={data}", f"paths.output={output}"]
    words += ["split=test", "trainer.threads=1", "trainer.accelerator=cpu"]
    subprocess.run(words, check=True, capture_output=True)
    wanted = (fold / "detections_test.npz").read_bytes()

    again = subprocess.Popen([*words, "overwrite=true"], stderr=subprocess.DEVNULL)
    limit = time.monotonic() + 240
    while not (fold / "detections_test.parts" / "000000.npz").is_file():
        assert again.poll() is None, "the prediction ended before its first part was written"
        assert time.monotonic() < limit
        time.sleep(0.01)
    again.kill()
    assert again.wait() == -signal.SIGKILL, "the prediction ended before it was killed"
    assert (fold / "detections_test.npz").read_bytes() == wanted, "what was whole stays until the new file is"

    (fold / "detections_test.npz").unlink()
    resumed = subprocess.run(words, check=True, capture_output=True, text=True)
    assert "fold 0, test: 40 images" in resumed.stderr
    assert (fold / "detections_test.npz").read_bytes() == wanted
    assert not (fold / "detections_test.parts").exists()
