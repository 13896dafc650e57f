"""Progress on standard error: a bar on a terminal, a plain line now and then where the output goes to a file."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Self, TypeVar

from tqdm import tqdm

Item = TypeVar("Item")
_SECONDS = 15.0  # between two plain lines; of work that takes less its cost is not said beforehand
_LEAST = 1.0  # seconds that tell how fast some work is


class Bar:
    """How far some work has come. On a terminal a bar; else a line at most every 15 seconds; nothing if `quiet`.

    total: units in all, `initial` of them done before this process began. timed: of how many units the time is taken,
    behind the first, to say what the whole will cost; 0: none. besides: is added to what is said.
    """

    def __init__(
        self,
        total: int,
        what: str,
        unit: str,
        initial: int = 0,
        quiet: bool = False,
        timed: int = 0,
        besides: str = "",
    ):
        self.total, self.what, self.unit, self.done, self.initial = total, what, unit, initial, initial
        self.quiet, self.note = quiet, ""
        self.timed, self.besides = 0 if quiet else timed, besides
        self.first: tuple[float, int] | None = None  # when the first units were done, and how many
        self.begin = self.shown = time.monotonic()
        terminal = sys.stderr.isatty() and not quiet
        self.bar = tqdm(total=total, desc=what, unit=unit, initial=initial, dynamic_ncols=True) if terminal else None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def update(self, units: int = 1, note: str = "") -> None:
        """So many more units are done; `note` is shown behind the figures."""
        self.done += units
        self.note = note
        if self.bar is not None:
            self.bar.set_postfix_str(note, refresh=False)
            self.bar.update(units)
        elif time.monotonic() - self.shown >= _SECONDS:
            self._line()
        if self.timed:
            self._foretell()

    def _foretell(self) -> None:
        """Say once what the whole will cost. The first unit tells nothing: the start of everything is in it.

        Units that are done together end together: some time must have passed as well. Of short work nothing is said.
        """
        now = time.monotonic()
        begin, before = self.first = self.first or (now, self.done)
        if self.done - before < self.timed or now - begin < _LEAST:
            return
        self.timed, units = 0, self.total - self.initial
        seconds = (now - begin) / (self.done - before) * units
        if seconds >= _SECONDS:
            said = f"{self.what}: about {about(seconds)} for {units} {self.unit}s{self.besides}"
            tqdm.write(said, file=sys.stderr)  # which keeps out of the way of a bar

    def close(self) -> None:
        """End the bar; a file gets a last line if it has had any."""
        if self.bar is not None:
            self.bar.close()
        elif self.shown > self.begin:
            self._line()

    def _line(self) -> None:
        if self.quiet:
            return
        self.shown = time.monotonic()
        rate = (self.done - self.initial) / max(self.shown - self.begin, 1e-9)
        left = clock((self.total - self.done) / rate) if rate else "?"
        parts = (f"{self.what}: {self.done}/{self.total} {self.unit}s, {rate:.2g}/s, {left} left", self.note)
        print(", ".join(filter(None, parts)), file=sys.stderr, flush=True)


def track(items: Iterable[Item], total: int, what: str, unit: str, quiet: bool = False) -> Iterator[Item]:
    """The items, with progress shown as they are taken."""
    with Bar(total, what, unit, quiet=quiet) as shown:
        for item in items:
            yield item
            shown.update()


def since(start: float) -> str:
    """Time since `start` (of time.monotonic), as `clock` writes it."""
    return clock(time.monotonic() - start)


def about(seconds: float) -> str:
    """Seconds that are an estimate, as "35 s", "4 min" or "2.5 h"."""
    if seconds < 100:
        return f"{max(round(seconds / 5), 1) * 5} s"
    return f"{seconds / 60:.0f} min" if seconds < 100 * 60 else f"{seconds / 3600:.1f} h"


def clock(seconds: float) -> str:
    """Seconds as "12.3 s", "4 min 05 s" or "2 h 10 min"."""
    if seconds < 100:
        return f"{seconds:.1f} s"
    minutes = int(seconds) // 60
    return f"{minutes} min {int(seconds) % 60:02d} s" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02d} min"
