"""A training that is told to end: it finishes its step, saves, and says so."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType
from typing import Any

from pipeline.errors import Ended

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_AGAIN = b"\ninterrupted: finishing the step; once more ends at once, and what came after the last validation is lost\n"


class Told:
    """Whether this process was told to end, by SIGTERM or Ctrl-C, while it listened; a second Ctrl-C ends it at once.

    number: the signal's, 0 for none yet.
    """

    def __init__(self) -> None:
        self.number = 0
        self.before: dict[int, Any] = {}

    def listen(self) -> None:
        """Take note of signals from here on, in place of what was done about them."""
        if threading.current_thread() is threading.main_thread():  # Python allows no other to
            self.before = {number: signal.signal(number, self._note) for number in _SIGNALS}

    def release(self) -> None:
        """Do about signals what was done before; what others have put in place meanwhile stays."""
        for number, handler in self.before.items():
            if signal.getsignal(number) == self._note:
                signal.signal(number, handler)
        self.before = {}

    def end(self, how: str) -> None:
        """Raise Ended, saying how things stand."""
        raise Ended(self.number or signal.SIGTERM, how)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT:
            if self.number == number:
                raise Ended(number)
            os.write(2, _AGAIN)  # a stream must not be written to from here
        self.number = number


def leave_signals(worker: int) -> None:
    """Let a data-loading process leave Ctrl-C and SIGTERM, sent to all of a group, to the process it works for."""
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)
