"""Locks: one process at a time, and no process that has died is ever waited for."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline import alone as room
from pipeline.alone import alone
from pipeline.errors import InputError

COUNT = """
import sys, time
from pathlib import Path
from pipeline.alone import alone
from pipeline.errors import InputError
lock, count = Path(sys.argv[1]), Path(sys.argv[2])
done = 0
while done < 25:
    try:
        with alone(lock, "counting"):
            number = int(count.read_text())
            time.sleep(0.0005)
            count.write_text(str(number + 1))
        done += 1
    except InputError:
        time.sleep(0.0005)
"""

HOLD = """
import os, sys, time
from pathlib import Path
from pipeline.alone import alone
with alone(Path(sys.argv[1]), "holding"):
    if os.fork() == 0:  # as a data-loading process that outlives the one it works for
        time.sleep(60)
        os._exit(0)
    print("held", flush=True)
    time.sleep(60)
"""


def python(code: str, *words: object, **options: object) -> subprocess.Popen[str]:
    line = [sys.executable, "-c", code, *map(str, words)]
    return subprocess.Popen(line, stdout=subprocess.PIPE, text=True, start_new_session=True, **options)  # type: ignore[call-overload, no-any-return]


def test_folders_made_for_a_lock_go_with_it_unless_something_else_is_in_them(tmp_path: Path) -> None:
    with alone(tmp_path / "a/b/.lock", "nothing"):
        assert (tmp_path / "a/b/.lock").is_file()
    assert not (tmp_path / "a").exists()
    with alone(tmp_path / "a/b/.lock", "something"):
        (tmp_path / "a/made").touch()
    assert [path.name for path in tmp_path.rglob("*")] == ["a", "made"]


def test_of_many_processes_one_at_a_time_has_a_lock(tmp_path: Path) -> None:
    count = tmp_path / "count"
    count.write_text("0")
    running = [python(COUNT, tmp_path / ".lock", count) for _ in range(4)]
    for process in running:
        with process:
            assert process.wait() == 0
    assert count.read_text() == "100"
    assert os.listdir(tmp_path) == ["count"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the holder forks")
def test_the_second_is_refused_with_the_first_one_s_number_and_start_and_a_killed_one_holds_nothing(
    tmp_path: Path,
) -> None:
    lock = tmp_path / "run" / ".train.lock"
    holder = python(HOLD, lock)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(InputError) as caught, alone(lock, f"training in {lock.parent}"):
            pass
        said = str(caught.value)
        assert said.startswith(f"training in {lock.parent}: process {holder.pid} on ")
        assert f"is at it since {time.strftime('%Y-', time.gmtime())}" in said
        assert "UTC (-c " in said
        os.kill(holder.pid, signal.SIGKILL)
        holder.wait()
        holder.stdout.close()
        assert lock.is_file(), "a killed process deletes nothing"
        with alone(lock, "training"):  # the process that it had started still runs
            assert str(os.getpid()) in lock.read_text()
    finally:
        os.killpg(holder.pid, signal.SIGKILL)
    assert not lock.exists()


def test_one_process_does_not_begin_the_same_work_twice(tmp_path: Path) -> None:
    with alone(tmp_path / "a", "training"), alone(tmp_path / "b", "training"):
        with (
            pytest.raises(InputError, match="training: this process is at it already"),
            alone(tmp_path / "a", "training"),
        ):
            pass
        assert (tmp_path / "a").exists()
    with pytest.raises(ZeroDivisionError), alone(tmp_path / "a", "training"):
        _ = 1 / 0
    with alone(tmp_path / "a", "training"):
        pass
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("name", ["RANK", "LOCAL_RANK", "SLURM_PROCID"])
def test_the_first_process_of_a_training_holds_the_lock_for_all(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with alone(tmp_path / "a", "training"):
        monkeypatch.setenv(name, "1")
        with alone(tmp_path / "a", "training"):
            pass
        monkeypatch.delenv(name)
        assert (tmp_path / "a").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="these are the system's numbers where it has fcntl")
def test_where_the_disk_knows_no_locks_the_work_is_done_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(room.fcntl, "lockf", refuse)
    with alone(tmp_path / "a", "training"), alone(tmp_path / "b", "training"):
        pass
