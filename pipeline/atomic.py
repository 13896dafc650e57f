"""Writing a file, or a folder of them, whole or not at all."""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import re
import shutil
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path

_PARTIAL = re.compile(r"\..+\.([0-9a-f]{8})-(\d+)\.partial")
_DAY = 86_400  # seconds after which what another machine has not written to is abandoned


@contextlib.contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`, renamed to it when the block ends well, deleted when it does not.

    What killed processes have left of their temporary files in the folder is deleted as well, and a folder that
    somebody has deleted meanwhile is made again.
    """
    with _partial(path) as partial:
        yield partial
        with open(partial, "r+b") as file:  # Windows syncs only what is open for writing
            os.fsync(file.fileno())
        path.parent.mkdir(parents=True, exist_ok=True)
        os.replace(partial, path)


@contextlib.contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """A temporary folder beside `path` that takes its place, and that of what lay there, when the block ends well."""
    with _partial(path) as partial:
        partial.mkdir()
        yield partial
        shutil.rmtree(path, ignore_errors=True)
        os.replace(partial, path)


@contextlib.contextmanager
def _partial(path: Path) -> Iterator[Path]:
    path.parent.mkdir(parents=True, exist_ok=True)
    _clear(path.parent)
    partial = path.with_name(f".{path.name}.{_machine()}-{os.getpid()}.partial")
    try:
        yield partial
    finally:
        _delete(partial)


@cache
def _clear(folder: Path) -> None:
    """Delete the temporary files of processes that are no more; once, for a folder may hold very many files."""
    for entry in os.scandir(folder):
        found = _PARTIAL.fullmatch(entry.name)
        if found and _is_abandoned(Path(entry.path), found[1], int(found[2])):
            _delete(Path(entry.path))


def _is_abandoned(path: Path, machine: str, process: int) -> bool:
    """Whether nobody writes to a temporary file any more: not to be told of other machines but by its age."""
    if machine == _machine():
        return not _runs(process)
    try:
        return time.time() - path.stat().st_mtime > _DAY
    except OSError:
        return False


def _delete(path: Path) -> None:
    with contextlib.suppress(OSError):  # a disk that can only be read has said so already, or soon will
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


@cache
def _machine() -> str:
    return hashlib.sha256(platform.node().encode()).hexdigest()[:8]


def _runs(process: int) -> bool:
    """Whether there is a process of this number."""
    if os.name == "nt":  # where the signal 0 is one that interrupts
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OverflowError, OSError):
        return True
    return True
