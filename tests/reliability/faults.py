"""Faults, each brought about for real, and what is expected of a command that one befalls."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from killing import RUN, Place, differences, holds, left, line_of, restored
from many import measured
from PIL import Image

_QUIET = "no traceback, exit status 1, a message"

# In a process whose memory is limited once all is imported: what torch maps at its start needs more than any image.
_LIMITED = """
import resource, sys
import lightning, torch
import pipeline.stages.{stage}
from pipeline.__main__ import main
used = int(next(line for line in open("/proc/self/status") if line.startswith("VmSize")).split()[1]) << 10
resource.setrlimit(resource.RLIMIT_AS, (used + ({room} << 20),) * 2)
sys.exit(main(sys.argv[1:]))
"""

# A clock that is three hours fast until it is put back, for all that asks the C library.
_CLOCK = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <time.h>
int clock_gettime(clockid_t id, struct timespec *t) {
    static int (*plain)(clockid_t, struct timespec *) = 0;
    if (!plain) plain = dlsym(RTLD_NEXT, "clock_gettime");
    int status = plain(id, t);
    char *until = getenv("PUT_BACK_AT");
    if (id == CLOCK_REALTIME && until && t->tv_sec < atol(until)) t->tv_sec += 3 * 3600;
    return status;
}
"""


@dataclass(frozen=True)
class Finding:
    """What a fault does, and what of it is not as it should be."""

    fault: str
    behaviour: str
    wrong: tuple[str, ...]

    def line(self) -> str:
        return (
            f"{self.fault}: {self.behaviour}; {'as expected' if not self.wrong else 'WRONG: ' + '; '.join(self.wrong)}"
        )


def full_disk(place: Place) -> Finding:
    """A training on a disk of 12 MB: it has room for the truth, not for weights. Then the disk grows."""
    restored(place.folder, 1)
    with _tmpfs(place.folder / "small", "12m") as disk:
        how = "tmpfs of 12 MB"
        if disk is None:
            disk, how = place.work, "files of 4 MB at most (RLIMIT_FSIZE), no file system may be mounted here"
        else:
            shutil.copytree(place.work, disk / "work")
            disk = disk / "work"
        small = Place(place.folder, place.experiment, place.data, disk)
        limit = None if how.startswith("tmpfs") else lambda: _limit(resource.RLIMIT_FSIZE, 4 << 20)
        done = _run(small, ["train", "trainer.steps=12"], limit)
        wrong = _refused(done, "No space left on device" if limit is None else "File too large") + left(disk)
        if limit is None:
            subprocess.run(["mount", "-o", "remount,size=400m", place.folder / "small"], check=True)
        wrong += _finished(_run(small, ["train", "trainer.steps=12"]))
        wrong += left(disk)
    return Finding("disk full", f"{how}: {_QUIET}; goes on when there is room", tuple(wrong))


def read_only(place: Place) -> Finding:
    """An output folder on a disk that can only be read: what is complete is skipped, what is not is refused."""
    restored(place.folder, 5)
    with _tmpfs(place.folder / "fixed", "200m") as disk:
        if disk is None:
            return Finding("read-only output", "not tried: no file system may be mounted here", ())
        shutil.copytree(place.work, disk / "work")
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        there = Place(place.folder, place.experiment, place.data, disk / "work")
        wrong = _refused(_run(there, ["postprocess", "overwrite=true"]), "it can only be read")
        wrong += _refused(_run(there, ["evaluate"]), "it can only be read")
    return Finding("read-only output", _QUIET, tuple(wrong))


def memory_in_prediction(place: Place) -> Finding:
    """One test image of 5000x5000 among small ones and 600 MB of room."""
    restored(place.folder, 2)
    wrong = []
    data = place.folder / "with_large"
    shutil.rmtree(data, ignore_errors=True)
    shutil.copytree(place.data or place.folder / "toy", data)
    first = sorted((data / "test").iterdir())[0]
    Image.new("L", (5000, 5000), 90).save(first)
    there = Place(place.folder, place.experiment, data)
    wrong += _finished(_run(there, ["convert", "overwrite=true"]))
    # The weights are of the same truth: only the test images have changed.
    line = ["predict", "split=test"]
    wrong += _refused(_run(there, line, room=600), f"image {first.stem} does not fit into memory")
    done = _run(there, [*line, "budget=1h"], room=600)
    wrong += _finished(done)
    wrong += [] if "half its size" in done.stderr or "left blank" in done.stderr else ["nothing is said of the image"]
    behaviour = (
        "the others are predicted, the image is named, status 1; with budget= tried at half its size, then blank"
    )
    return Finding("out of memory in a prediction", behaviour, tuple(wrong))


def memory_in_training(place: Place) -> Finding:
    """Batches of 200 crops and 400 MB of room."""
    restored(place.folder, 1)
    line = ["train", "trainer.workers=0", "trainer.batch_size=200"]
    wrong = _refused(_run(place, line, room=400), "out of memory")
    return Finding("out of memory in a training", f"{_QUIET} with what needs less", tuple(wrong))


def worker(place: Place) -> Finding:
    """The data-loading process is killed in the second epoch."""
    restored(place.folder, 1)
    wrong: list[str] = []

    def kill(process: subprocess.Popen[str]) -> None:
        _until(process, lambda: (place.work / f"runs/{RUN}/fold0/history.csv").is_file())
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        if not children:
            wrong.append("there was no data-loading process to kill")
        for child in children:
            os.kill(int(child), signal.SIGKILL)

    done = _run(place, ["train"], meanwhile=kill)
    wrong += _refused(done, "a data-loading process has ended") + left(place.work)
    return Finding("a data-loading process is killed", f"{_QUIET}; the same command goes on", tuple(wrong))


def truncated_image(place: Place) -> Finding:
    """A training image is cut short after it was converted; decoded images are not kept, for want of room."""
    restored(place.folder, 1)
    data = place.folder / "with_truncated"
    shutil.rmtree(data, ignore_errors=True)
    shutil.copytree(place.data or place.folder / "toy", data)
    images = sorted((data / "train").iterdir())
    for image in images:
        image.write_bytes(image.read_bytes()[: image.stat().st_size // 2])
    done = _run(Place(place.folder, place.experiment, data), ["train"])
    wrong = _refused(done, "is no readable image: image file is truncated")
    return Finding("a truncated image", f"{_QUIET} with the image's name", tuple(wrong))


def deleted_logs(place: Place) -> Finding:
    """The logs, and the whole folder of the training, are deleted while it runs."""
    restored(place.folder, 1)
    folder, wrong = place.work / f"runs/{RUN}/fold0", []

    def delete(process: subprocess.Popen[str]) -> None:
        _until(
            process, lambda: (folder / "last.ckpt").is_file()
        )  # in the middle of a write it would end with a message
        shutil.rmtree(place.work / "logs")
        shutil.rmtree(folder, ignore_errors=True)

    wrong += _finished(_run(place, ["train"], meanwhile=delete))
    wrong += [f"{name} is missing" for name in ("best.pt", "last.ckpt", "history.csv") if not (folder / name).is_file()]
    return Finding("logs and folder deleted while training", "they are made again", tuple(wrong))


def two_at_once(place: Place) -> Finding:
    """A second training into the same folder; then the first is killed, and the second, started again, goes on."""
    restored(place.folder, 1)
    wrong: list[str] = []

    def second(process: subprocess.Popen[str]) -> None:
        _until(process, lambda: (place.work / f"runs/{RUN}/fold0/last.ckpt").is_file())
        process.send_signal(signal.SIGSTOP)  # it holds what it has, and does not end meanwhile
        wrong.extend(_refused(_run(place, ["train"]), f"process {process.pid} on "))
        process.kill()

    _run(place, ["train"], meanwhile=second)
    wrong += _finished(_run(place, ["train"]))
    return Finding("two runs into one folder", "the second is refused with the first's number and start", tuple(wrong))


def clock(place: Place) -> Finding:
    """The clock is put back by three hours while a prediction runs."""
    source, library = place.folder / "clock.c", place.folder / "clock.so"
    source.write_text(_CLOCK)
    if not shutil.which("cc") or subprocess.run(["cc", "-shared", "-fPIC", "-o", library, source, "-ldl"]).returncode:
        return Finding("the clock is put back", "not tried: no compiler", ())
    restored(place.folder, 2)
    wrong = _finished(_run(place, ["predict"]))
    wanted = holds(place.work)
    restored(place.folder, 2)
    own = {"LD_PRELOAD": str(library), "PUT_BACK_AT": str(int(time.time()) + 8)}
    wrong += _finished(_run(place, ["predict"], environment=own))
    wrong += differences(wanted, holds(place.work), 0.0)
    return Finding("the clock is put back", "the same bytes", tuple(wrong))


def many_images(place: Place) -> Finding:
    """100,000 images in one folder, links to one tiny picture, against 25,000: four times as many cost as much more."""
    seconds = {count: _listing(place.folder / f"many{count}", count) for count in (25_000, 100_000)}
    few, many = seconds.values()
    wrong = [f"{name} takes {many[name] / few[name]:.1f} times as long" for name in few if many[name] > 7 * few[name]]
    said = ", ".join(f"{name} {few[name]:.2f} and {many[name]:.2f} s" for name in few)
    return Finding("25,000 and 100,000 images", f"processor time: {said}", tuple(wrong))


FAULTS: Mapping[str, Callable[[Place], Finding]] = {
    "disk": full_disk,
    "read_only": read_only,
    "predict_memory": memory_in_prediction,
    "train_memory": memory_in_training,
    "worker": worker,
    "image": truncated_image,
    "logs": deleted_logs,
    "two": two_at_once,
    "clock": clock,
    "many": many_images,
}


def _run(
    place: Place,
    line: list[str],
    limit: Callable[[], None] | None = None,
    room: int | None = None,
    environment: Mapping[str, str] | None = None,
    meanwhile: Callable[[subprocess.Popen[str]], None] | None = None,
) -> subprocess.CompletedProcess[str]:
    """The command to its end. room: megabytes of memory. meanwhile: is called while it runs."""
    words = line_of(place, line)
    if room is not None:
        words = [sys.executable, "-c", _LIMITED.format(stage=line[0], room=room), *words[3:]]
    said = place.folder / f"said{os.urandom(4).hex()}.txt"
    with open(said, "w", encoding="utf-8") as file:
        own = {**os.environ, **(environment or {})}
        process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=file, text=True, preexec_fn=limit, env=own)
        if meanwhile is not None:
            meanwhile(process)
        process.wait(1800)
    text = said.read_text(encoding="utf-8", errors="replace")
    said.unlink()
    return subprocess.CompletedProcess(words, process.returncode, "", text)


def _refused(done: subprocess.CompletedProcess[str], message: str) -> list[str]:
    wrong = [] if done.returncode == 1 else [f"exit status {done.returncode}"]
    wrong += ["a traceback"] if "Traceback" in done.stderr else []
    return wrong + ([] if message in done.stderr else [f"{message!r} is not said: {done.stderr[-1500:]}"])


def _finished(done: subprocess.CompletedProcess[str]) -> list[str]:
    return [] if done.returncode == 0 else [f"it did not finish: {done.stderr[-1500:]}"]


def _until(process: subprocess.Popen[str], there: Callable[[], bool]) -> None:
    limit = time.monotonic() + 900
    while not there() and process.poll() is None and time.monotonic() < limit:
        time.sleep(0.02)


def _limit(what: int, most: int) -> None:
    resource.setrlimit(what, (most, most))


@contextmanager
def _tmpfs(folder: Path, size: str) -> Iterator[Path | None]:
    """A disk of its own, or None where this user may not mount one."""
    folder.mkdir(exist_ok=True)
    words = ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(folder)]
    if not shutil.which("mount") or subprocess.run(words, capture_output=True).returncode:
        yield None
        return
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


def _listing(root: Path, count: int) -> dict[str, float]:
    """Seconds of processor time that listing, converting and planning a prediction take of so many images."""
    shutil.rmtree(root, ignore_errors=True)
    try:
        return measured(root, count)
    finally:
        shutil.rmtree(root, ignore_errors=True)
