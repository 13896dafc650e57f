"""What the kill harness does to one stage."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import yaml

from pipeline import toy

SMALL = [
    "fold=0", "model.weights=none", "model.backbone.channels=16", "model.detections=20",
    "model.proposals=50", "augment.crop=64", "trainer.steps=48", "trainer.epoch_steps=6", "trainer.validation_images=1",
    "trainer.threads=1", "trainer.accelerator=cpu", "trainer.workers=1", "model.score_floor=0",
]  # fmt: skip
TWO = ["trainer.devices=2", "trainer.strategy=ddp", "trainer.batch_size=1", "trainer.workers=0", "model.box_samples=32"]
RUN = "baseline"
VOLATILE = ("logs", "tensorboard")  # they say when and where, not what

# Of outputs a stamp holds the sizes, and that of a history has its seconds in it.
_PASSING = ("made", "outputs", "at", "created", "minutes", "seconds", "peak_memory_mb", "commit", "clean")

STAGES: dict[str, list[str]] = {
    "convert": ["convert"],
    "train": ["train"],
    "train2": ["train", *TWO],
    "predict": ["predict"],
    "ensemble": ["ensemble", "runs=[baseline,other]", "run=both"],
    "tune": ["tune"],
    "postprocess": ["postprocess"],
    "evaluate": ["evaluate"],
    "submit": ["submit", "name=killed"],
    "run": ["run"],
}
"""Each stage's command; the stages before it have been run."""

_STATUS = {"kill": (-9,), "term": (143, -15), "int": (130, -2)}
"""What a stage says of its end; the negative ones where the interpreter was still starting."""

_BEFORE = {"convert": 0, "train": 1, "train2": 1, "predict": 2, "ensemble": 3, "tune": 4, "postprocess": 4,
           "evaluate": 5, "submit": 5, "run": 0}  # fmt: skip
_SIGNALS = {"kill": signal.SIGKILL, "term": signal.SIGTERM, "int": signal.SIGINT}
_STEPS = (["convert"], ["train"], ["predict"], ["ensemble"], ["postprocess"])


@dataclass(frozen=True)
class Place:
    """Where the harness works, and on what: the toy contest, or the data of an experiment of conf/."""

    folder: Path
    experiment: str | None = None
    data: Path | None = None
    output: Path | None = None

    @property
    def work(self) -> Path:
        return self.output or self.folder / "work"

    def words(self) -> list[str]:
        own = [f"paths.data={self.data or self.folder / 'toy'}", f"paths.output={self.work}"]
        own += [f"paths.submissions={self.work / 'submissions'}"]
        return own if self.experiment is None else [f"experiment={self.experiment}", *own]


@dataclass
class Report:
    """What became of a stage. kills: that hit it while it ran. wrong: what was not as it should be."""

    stage: str
    signal: str
    seconds: float = 0.0
    kills: int = 0
    starts: int = 0
    finished: int = 0
    wrong: list[str] = field(default_factory=list)

    def line(self) -> str:
        verdict = "as if undisturbed" if not self.wrong else f"WRONG: {'; '.join(self.wrong[:5])}"
        counts = f"{self.kills} times {self.signal}, {self.finished} times finished in {self.starts} starts"
        return f"{self.stage}: {self.seconds:.1f} s undisturbed; {counts}; {verdict}"


def prepare(place: Place) -> None:
    """The contest, and an output folder for each number of stages that have been run."""
    folder = place.folder
    if (folder / "after5").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    if place.data is None:
        toy.draw(folder / "toy", seed=3, n_train=6, n_test=6)
    (folder / "after0").mkdir()
    for number, step in enumerate(_STEPS, 1):
        restored(folder, number - 1)
        short = ["trainer.steps=6"] if step == ["train"] else []
        _finish(place, [*step, *short])
        if step == ["predict"]:
            shutil.copytree(place.work / f"runs/{RUN}", place.work / "runs/other")
        shutil.copytree(place.work, folder / f"after{number}")


def torture(name: str, place: Place, kills: int, kind: str, chance: random.Random) -> Report:
    """Kill a stage so many times at random moments, each time starting it again where it was left."""
    report, command, folder = Report(name, kind), STAGES[name], place.folder
    restored(folder, _BEFORE[name])
    begin = time.monotonic()
    _finish(place, command)
    report.seconds = time.monotonic() - begin
    wanted = holds(place.work)
    most = 3 * kills + 10
    while report.kills < kills and report.starts < most:
        restored(folder, _BEFORE[name])
        # A training is hit several times before it may end; anything else would end by itself.
        for _ in range(min(5, kills - report.kills) if command[0] in ("train", "run") else 1):
            report.starts += 1
            hit, wrong = _killed(place, command, chance.uniform(0, report.seconds), kind)
            report.kills += hit
            wrong += _broken(place.work)
            wrong += left(place.work) if kind != "kill" else []
            report.wrong += [f"after kill {report.kills}: {one}" for one in wrong]
            if not hit:
                break
        report.starts += 1
        report.wrong += _finish(place, command, check=False)
        report.finished += 1
        tolerance = 1e-5 if name == "train2" else 0.0
        report.wrong += differences(wanted, holds(place.work), tolerance)
    return report


def line_of(place: Place, command: Sequence[str]) -> list[str]:
    stage, *own = command
    processor = [word for word in SMALL if word in ("trainer.accelerator=cpu", "trainer.threads=1")]
    known = {"train": SMALL, "run": [*SMALL, "n_folds=2"], "convert": ["n_folds=2"], "predict": processor}
    run = [] if stage == "convert" or own[:1] == ["runs=[baseline,other]"] else [f"run={RUN}"]
    return [sys.executable, "-m", "pipeline", stage, *place.words(), *run, *known.get(stage, []), *own]


def restored(folder: Path, number: int) -> None:
    shutil.rmtree(folder / "work", ignore_errors=True)
    shutil.copytree(folder / f"after{number}", folder / "work")


def _finish(place: Place, command: Sequence[str], check: bool = True) -> list[str]:
    """Run to the end; what was wrong."""
    done = subprocess.run(line_of(place, command), capture_output=True, text=True, check=False)
    if done.returncode and check:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr[-2000:]}")
    return [f"it did not finish: {done.stderr[-500:]}"] if done.returncode else []


def _killed(place: Place, command: Sequence[str], after: float, kind: str) -> tuple[bool, list[str]]:
    """Start it and send a signal, to all of its processes, after so many seconds.

    Whether that hit it running, and what was wrong with the way it ended.
    """
    with open(place.folder / "said.txt", "w+b") as said:
        line = line_of(place, command)
        process = subprocess.Popen(line, start_new_session=True, stdout=subprocess.DEVNULL, stderr=said)
        try:
            process.wait(after)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, _SIGNALS[kind])
        try:
            process.wait(120)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            raise RuntimeError(f"{' '.join(command)} was still there two minutes after signal {kind}") from None
        finally:
            _end_of(process.pid)
        said.seek(0)
        text = said.read().decode(errors="replace")
    status = process.returncode
    wrong = [] if status in (0, *_STATUS[kind]) else [f"its exit status is {status}: {text[-500:]}"]
    if kind != "kill" and status > 0 and "Traceback" in text:
        wrong.append(f"it shows a traceback: {text[-500:]}")
    return status != 0, wrong


def left(output: Path) -> list[str]:
    """Temporary files that a stage has not cleared away though it was told to end."""
    return [f"{path.relative_to(output)} was left behind" for path in output.rglob("*.partial")]


def _end_of(group: int) -> None:
    """Wait until the last process of the group is gone: one that still wrote would be another experiment."""
    limit = time.monotonic() + 60
    while time.monotonic() < limit:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return
        time.sleep(0.02)
    os.killpg(group, signal.SIGKILL)


def _files(output: Path) -> list[Path]:
    return sorted(p for p in output.rglob("*") if p.is_file() and not set(p.relative_to(output).parts) & {*VOLATILE})


def _broken(output: Path) -> list[str]:
    """Files under final names that cannot be read."""
    return [f"{path.relative_to(output)} {error}" for path in _files(output) if (error := _error(path))]


def _error(path: Path) -> str:
    if path.name.startswith(".") or ".partial" in path.name or "tmp" in path.suffix:
        return ""
    try:
        _read(path)
    except Exception as error:
        return f"is broken: {type(error).__name__}: {error}"
    return ""


def _read(path: Path) -> Any:
    """The content of a file by its ending: tensors of weights, bytes of anything else."""
    if path.suffix in (".pt", ".ckpt"):
        content = torch.load(path, map_location="cpu", weights_only=True)
        return content["state_dict" if path.suffix == ".ckpt" else "state"]
    if path.suffix in (".json", ".yaml"):  # JSON is YAML, and stamps and records say when they were made
        content = yaml.load(path.read_bytes(), yaml.CSafeLoader)
        return json.dumps(_lasting(content), sort_keys=True, default=str).encode()
    if path.suffix == ".npz":
        with np.load(path) as arrays:
            for name in arrays.files:
                arrays[name]
    elif path.name == "history.csv":  # its last column is the time that an epoch took
        return pd.read_csv(path).iloc[:, :-1].to_csv().encode()
    return path.read_bytes()


def _lasting(content: Any) -> Any:
    """Plain content without what says when, how long and from which state of the sources."""
    if isinstance(content, dict):
        return {key: _lasting(value) for key, value in content.items() if key not in _PASSING}
    return [_lasting(value) for value in content] if isinstance(content, list) else content


def holds(output: Path) -> dict[str, Any]:
    """What an output folder holds: digests, and the tensors of weights, by the file's place in it."""
    result = {}
    for path in _files(output):
        content = _read(path)
        result[str(path.relative_to(output))] = (
            hashlib.sha256(content).hexdigest() if isinstance(content, bytes) else content
        )
    return result


def differences(wanted: dict[str, Any], found: dict[str, Any], tolerance: float) -> list[str]:
    """Names of files that only one has, and of those that are not the same."""
    result = [f"{name} is missing" for name in wanted.keys() - found.keys()]
    result += [f"{name} was left behind" for name in found.keys() - wanted.keys()]
    for name in wanted.keys() & found.keys():
        one, other = wanted[name], found[name]
        if isinstance(one, dict):
            off = _farthest(one, other)
            result += [f"{name} differs by {off:.2g}"] if off > tolerance else []
        elif one != other and not tolerance:
            result.append(f"{name} differs")
    return sorted(result)


def _farthest(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    if one.keys() != other.keys():
        return float("inf")
    return max(float((one[name].double() - other[name].double()).abs().max()) for name in one if one[name].numel())
