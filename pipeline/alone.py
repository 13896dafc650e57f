"""One process at a time at one piece of work: a lock that the system itself takes back when its holder dies.

What is locked is a file beside the work, by the system's own record locks: they end with their process, however it
ends, and are not handed down to the processes that it starts. Who holds it stands in the file, for the message alone.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import platform
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from pipeline.errors import InputError

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

_HELD = {errno.EACCES, errno.EAGAIN, getattr(errno, "EDEADLK", errno.EAGAIN)}
_FAR = 1 << 30  # on Windows what is locked cannot be read: a byte behind what is written
_RANKS = ("RANK", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "SLURM_PROCID")
_held: set[Path] = set()  # by this process, to which the system would give them again


@contextlib.contextmanager
def alone(file: Path, work: str) -> Iterator[None]:
    """Hold the lock `file` during the block; InputError, naming the process and when it began, where another has it.

    work: what is done, for the message. Folders that are made for the lock go with it if nothing else is in them. Of
    several processes of one training the first holds it for all. Where the disk knows no locks, as some that are
    reached over a network, the block runs without.
    """
    if any(os.environ.get(name, "0") != "0" for name in _RANKS):
        yield
        return
    file = file.absolute()
    if file in _held:
        raise InputError(f"{work}: this process is at it already")
    new = [folder for folder in file.parents if not folder.exists()]  # the deepest first
    handle = _take(file, work)
    _held.add(file)
    try:
        yield
    finally:
        _held.discard(file)
        if handle is not None:
            if os.name != "nt":  # while it is held, so that nobody else deletes another's
                file.unlink(missing_ok=True)
            os.close(handle)
            if os.name == "nt":
                with contextlib.suppress(OSError):
                    file.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # the first that holds something keeps those above it
            for folder in new:
                folder.rmdir()


def _take(file: Path, work: str) -> int | None:
    """The open and locked file; None where the disk knows no locks."""
    while True:
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            handle = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
        except FileNotFoundError:  # its holder ended, and took the folder that it had made with it
            continue
        try:
            _lock(handle)
        except OSError as error:
            said = _said(handle)
            os.close(handle)
            if error.errno not in _HELD:
                return None
            raise InputError(f"{work}: {said}. Wait for it or end it, or give this one a name of its own") from None
        with contextlib.suppress(OSError):
            if os.path.samestat(os.fstat(handle), os.stat(file)):
                break
        os.close(handle)  # its holder ended, and deleted it, between the opening and the locking
    begun = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    about = {"pid": os.getpid(), "machine": platform.node(), "begun": begun, "command": " ".join(sys.argv)}
    os.ftruncate(handle, 0)
    os.write(handle, json.dumps(about).encode())
    return handle


def _lock(handle: int) -> None:
    if sys.platform == "win32":
        os.lseek(handle, _FAR, os.SEEK_SET)
        msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        os.lseek(handle, 0, os.SEEK_SET)
    else:
        fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _said(handle: int) -> str:
    """Who holds it, of what stands in the file."""
    try:
        about = json.loads(os.read(handle, 1 << 16))
        return f"process {about['pid']} on {about['machine']} is at it since {about['begun']} ({about['command']})"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process is at it since this moment"
