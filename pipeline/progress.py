"""Progress on standard error: a bar on a terminal, a plain line now and then where the output goes to a file."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

Item = TypeVar("Item")
_SECONDS = 15.0  # between two plain lines


def bar(total: int, what: str, unit: str, initial: int = 0, quiet: bool = False) -> tqdm[None]:
    """A bar over `total` units, `initial` of them done before, to be moved with update()."""
    terminal = sys.stderr.isatty()
    return tqdm(
        total=total,
        desc=what,
        unit=unit,
        initial=initial,
        disable=quiet,
        dynamic_ncols=terminal,
        ascii=not terminal,
        mininterval=0.2 if terminal else _SECONDS,
        bar_format=None if terminal else "{desc}: {n_fmt}/{total_fmt} {unit} [{elapsed}<{remaining}, {rate_fmt}{postfix}]\n",
    )


def track(items: Iterable[Item], total: int, what: str, unit: str, quiet: bool = False) -> Iterator[Item]:
    """The items, with progress shown; a note of the total time in the end is left to the caller's log."""
    with bar(total, what, unit, quiet=quiet) as shown:
        for item in items:
            yield item
            shown.update()


def since(start: float) -> str:
    """Time since `start` (of time.monotonic), as "12.3 s" or "4 min 05 s"."""
    seconds = time.monotonic() - start
    return f"{seconds:.1f} s" if seconds < 100 else f"{int(seconds) // 60} min {int(seconds) % 60:02d} s"
