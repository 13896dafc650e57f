"""A prediction by two processes ends with the files of one, as a user would start it; one that fails, fails the run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from fixtures.line import TINY, maskline, typed

from pipeline import toy

TWO = "trainer.devices=2"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A folder with weights and the prediction of one process, and the words that made it."""
    root = tmp_path_factory.mktemp("devices")
    toy.draw(root / "toy", seed=3, n_train=4, n_test=36)
    places = [f"paths.data={root / 'toy'}", f"paths.output={root / 'output'}"]
    words = [*places, "run=tiny", "split=test", "trainer.threads=1", "trainer.accelerator=cpu", "overwrite=true"]
    for line in (["convert", "n_folds=2", *places], ["train", *TINY, "trainer.steps=1", *places], ["predict", *words]):
        done = typed(*line)
        assert done.returncode == 0, done.stderr
    return root, words


def result(root: Path) -> Path:
    return root / "output" / "runs" / "tiny" / "fold0" / "detections_test.npz"


def test_two_processes_give_the_bytes_of_one(trained: tuple[Path, list[str]]) -> None:
    root, words = trained
    wanted = result(root).read_bytes()
    result(root).unlink()
    done = maskline("predict", *words, TWO)
    assert done.returncode == 0, done.stderr
    assert result(root).read_bytes() == wanted
    assert not result(root).with_suffix(".parts").exists()
    assert done.stderr.count("fold 0, test: 36 images") == 1
    again = maskline("predict", *words[:-1], TWO)
    assert again.returncode == 0, again.stderr
    assert "is complete" in again.stderr


def test_processes_that_torchrun_started_share_the_work_as_well(trained: tuple[Path, list[str]]) -> None:
    root, words = trained
    wanted = result(root).read_bytes()
    result(root).unlink()
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command = [*torchrun, "-m", "pipeline", "predict", *words, TWO]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert result(root).read_bytes() == wanted


def test_a_process_that_fails_fails_the_run_and_says_why(trained: tuple[Path, list[str]]) -> None:
    """Of three parts the second is the second process's; what the first has made stays for the next try."""
    root, words = trained
    wanted = result(root).read_bytes()
    picture = sorted((root / "toy" / "test").iterdir())[20]
    whole = picture.read_bytes()
    picture.write_bytes(whole[:100])
    done = maskline("predict", *words, TWO)
    picture.write_bytes(whole)
    assert done.returncode == 1
    assert f"process 2 of 2: {picture} is no readable image" in done.stderr
    parts = result(root).with_suffix(".parts")
    assert sorted(path.name for path in parts.glob("0*.npz")) == ["000000.npz", "000002.npz"]
    assert result(root).read_bytes() == wanted
