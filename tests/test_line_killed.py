"""A training or a prediction that is killed and started again ends as one that never was, as a user would do it."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch
from fixtures.line import maskline, to_be_killed, typed

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


def words(stage: str, contest: Path, output: Path) -> list[str]:
    own = SMALL if stage == "train" else ["n_folds=2"]
    return [stage, f"paths.data={contest}", f"paths.output={output}", *own]


def here(*line: str) -> str:
    """What a command writes to standard error that ends well in this process; the killed ones have their own."""
    done = typed(*line)
    assert done.returncode == 0, done.stderr
    return done.stderr


def weights(output: Path) -> dict[str, torch.Tensor]:
    folder = output / "runs" / "baseline" / "fold0"
    return torch.load(folder / "last.ckpt", map_location="cpu", weights_only=True)["state_dict"]


def converted(output: Path) -> dict[str, bytes]:
    """The files under final names, but for the stamp, which says when."""
    return {path.name: path.read_bytes() for path in output.glob("[!.]*") if path.is_file()}


def kill_in_training(contest: Path, output: Path, epoch: int) -> None:
    """Start the training and kill it, with its loader, some steps after it has finished that many epochs."""
    process = to_be_killed(*words("train", contest, output))
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
    here(*words("convert", contest, undisturbed))
    shutil.copytree(undisturbed, killed)
    here(*words("train", contest, undisturbed))
    kill_in_training(contest, killed, epoch=1)
    kill_in_training(contest, killed, epoch=2)
    done = maskline(*words("train", contest, killed))
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr

    wanted, found = weights(undisturbed), weights(killed)
    assert wanted.keys() == found.keys()
    assert [name for name in wanted if not torch.equal(wanted[name], found[name])] == []
    rows = [(o / "runs/baseline/fold0/history.csv").read_text().splitlines() for o in (undisturbed, killed)]
    assert [row.rsplit(",", 1)[0] for row in rows[0]] == [row.rsplit(",", 1)[0] for row in rows[1]]


def test_a_conversion_killed_at_random_moments_leaves_whole_files_and_ends_with_the_same_bytes(
    contest: Path, tmp_path: Path
) -> None:
    undisturbed, killed, chance = tmp_path / "undisturbed", tmp_path / "killed", random.Random(0)
    begin = time.monotonic()
    assert maskline(*words("convert", contest, undisturbed)).returncode == 0
    seconds, wanted = time.monotonic() - begin, converted(undisturbed)
    for _ in range(3):
        process = to_be_killed(*words("convert", contest, killed), "overwrite=true")
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(chance.uniform(0.3, 1.0) * seconds)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        found = converted(killed)
        assert found == {name: wanted[name] for name in found}
    here(*words("convert", contest, killed))
    assert converted(killed) == wanted
    assert {path.name for path in killed.iterdir()} == {path.name for path in undisturbed.iterdir()}


def test_a_complete_training_is_skipped_and_another_one_in_its_place_is_refused(contest: Path, tmp_path: Path) -> None:
    here(*words("convert", contest, tmp_path))
    short = [*words("train", contest, tmp_path), "trainer.steps=2", "trainer.epoch_steps=2"]
    here(*short)
    assert "is complete" in here(*short)
    other = typed(*short, "seed=1")
    assert other.returncode == 1
    assert "settings.seed changed" in other.stderr
    assert "run=NAME" in other.stderr


def test_a_prediction_that_is_killed_goes_on_and_ends_with_the_same_bytes(tmp_path: Path) -> None:
    data, output = tmp_path / "toy", tmp_path / "output"
    toy.draw(data, seed=3, n_train=4, n_test=40)
    here(*words("convert", data, output))
    here(*words("train", data, output), "trainer.steps=1", "trainer.epoch_steps=1")
    fold = output / "runs" / "baseline" / "fold0"
    line = ["predict", f"paths.data={data}", f"paths.output={output}"]
    line += ["split=test", "trainer.threads=1", "trainer.accelerator=cpu"]
    here(*line)
    wanted = (fold / "detections_test.npz").read_bytes()

    again = to_be_killed(*line, "overwrite=true")
    limit = time.monotonic() + 240
    while not (fold / "detections_test.parts" / "000000.npz").is_file():
        assert again.poll() is None, "the prediction ended before its first part was written"
        assert time.monotonic() < limit
        time.sleep(0.01)
    again.kill()
    assert again.wait() == -signal.SIGKILL, "the prediction ended before it was killed"
    assert (fold / "detections_test.npz").read_bytes() == wanted, "what was whole stays until the new file is"

    (fold / "detections_test.npz").unlink()
    assert "fold 0, test: 40 images" in here(*line)
    assert (fold / "detections_test.npz").read_bytes() == wanted
    assert not (fold / "detections_test.parts").exists()
