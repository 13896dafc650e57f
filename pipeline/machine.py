"""What the machine does to a command: it is told to end, its reader goes, its disk is full. None of it is a defect."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import signal
import sys
import threading
from collections.abc import Iterator
from typing import Any

from pipeline.errors import Ended

_WHAT_TO_DO = {
    errno.ENOSPC: "make room there, or write elsewhere with paths.output=DIR",
    getattr(errno, "EDQUOT", errno.ENOSPC): "your quota is used up: make room there, or write elsewhere",
    errno.EFBIG: "no larger file may be written there (`ulimit -f`), or the disk is full",
    errno.EROFS: "it can only be read; write elsewhere with paths.output=DIR",
    errno.EACCES: "see who may read and write there, or write elsewhere with paths.output=DIR",
    errno.EPERM: "see who may write there, or write elsewhere with paths.output=DIR",
    errno.ENOTDIR: "a file lies where a folder is wanted",
    errno.EISDIR: "a folder lies where a file is wanted",
    errno.ENOENT: "it was there when it was needed before; did somebody delete its folder?",
    errno.EIO: "the disk has failed to read or write",
    errno.ESTALE: "the network's disk is gone",
    errno.EMFILE: "too many open files; raise the limit (`ulimit -n`)",
    errno.ENFILE: "too many open files on the whole machine",
    errno.ENOMEM: "there is not enough memory",
    errno.ENAMETOOLONG: "give a shorter name, as of run=NAME",
}


def fault(error: BaseException | None) -> str | None:
    """What to tell a user of an error that is a fault of the machine, or None of any other.

    Looked for is an OSError with a number, the error itself or what it came from.
    """
    while error is not None:
        if isinstance(error, MemoryError):
            return f"out of memory{f': {error}' if str(error) else ''}"
        if isinstance(error, OSError) and error.errno in _WHAT_TO_DO:
            where = f"{os.fspath(error.filename)!r}: " if error.filename is not None else ""
            return f"{where}{error.strerror or error}; {_WHAT_TO_DO[error.errno]}"
        error = error.__cause__
    return None


def ending(error: KeyboardInterrupt) -> tuple[int, str]:
    """Exit status and words of a command that was told to end."""
    ended = error if isinstance(error, Ended) else Ended(signal.SIGINT)
    return 128 + ended.number, str(ended)


@contextlib.contextmanager
def ended_by_sigterm() -> Iterator[None]:
    """Let SIGTERM end what is under way as Ctrl-C does, by Ended, so that it clears away what is half done."""

    def end(number: int, frame: Any) -> None:
        raise Ended(number)

    ours = threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    if ours:
        signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        if ours:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


def reader_is_gone() -> bool:
    """Whether nobody reads what is printed any more, as behind `| head`; what else is printed then goes nowhere."""
    output = sys.__stdout__
    if output is None or sys.stdout is not output or not hasattr(select, "poll"):  # a notebook, Windows
        return False
    own = output.fileno()
    poll = select.poll()
    poll.register(own, select.POLLOUT)
    if not any(state & select.POLLERR for _, state in poll.poll(0)):
        return False
    os.dup2(os.open(os.devnull, os.O_WRONLY), own)
    return True
