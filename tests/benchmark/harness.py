"""One row of the benchmark: our way and a peer's, measured by turns in one run, their results compared first."""

from __future__ import annotations

import ctypes
import gc
import json
import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Row:
    """What is compared.

    work, peer: in words. ours, theirs: do the whole work and return the result. equal: takes both results and raises
    AssertionError unless they are the same. goal: the least ratio of the two times. repeats: of ours and of theirs.
    memory_goal: the most MB that ours may add to the process at its peak; null where it is not measured.
    memory_of_peer: measure the peer's as well; not where it would fill the machine.
    """

    work: str
    peer: str
    ours: Callable[[], Any]
    theirs: Callable[[], Any]
    equal: Callable[[Any, Any], None]
    goal: float
    repeats: tuple[int, int] = (9, 3)
    memory_goal: float | None = None
    memory_of_peer: bool = False


@dataclass(frozen=True)
class Result:
    """Medians in seconds, their ratio, peaks in MB where they were measured."""

    work: str
    peer: str
    ours: float
    theirs: float
    ratio: float
    goal: float
    memory: float | None
    memory_goal: float | None
    memory_of_peer: float | None


def measure(row: Row) -> Result:
    """Compare the results once, then time by turns: a busy machine slows both."""
    row.equal(row.ours(), row.theirs())
    most = max(row.repeats)
    times: tuple[list[float], list[float]] = ([], [])
    for turn in range(most):
        for side, work in enumerate((row.ours, row.theirs)):
            # Spread the fewer repeats evenly over the turns.
            if (turn + 1) * row.repeats[side] // most > turn * row.repeats[side] // most:
                times[side].append(seconds(work))
    ours, theirs = (statistics.median(side) for side in times)
    memory = None if row.memory_goal is None else extra_memory(row.ours)
    other = extra_memory(row.theirs) if row.memory_of_peer else None
    return Result(row.work, row.peer, ours, theirs, theirs / ours, row.goal, memory, row.memory_goal, other)


def seconds(work: Callable[[], Any]) -> float:
    """Wall-clock time of one call, without the collection of its garbage."""
    gc.collect()
    gc.disable()
    try:
        begin = time.perf_counter()
        work()
        return time.perf_counter() - begin
    finally:
        gc.enable()


def extra_memory(work: Callable[[], Any]) -> float:
    """MB that the process grows by at the peak of one call (Linux: the high-water mark is set back first)."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    before = _status("VmRSS")
    work()
    return (_status("VmHWM") - before) / 1024


def _status(name: str) -> int:
    """A figure of this process in kB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1])
    raise LookupError(name)


HEADER = ("work", "peer", "ours", "peer's", "ratio", "goal", "extra memory")


def table(results: Iterable[Result]) -> str:
    """The results as a Markdown table; a ratio that misses its goal is marked."""
    lines = ["| " + " | ".join(HEADER) + " |", "|" + "---|" * len(HEADER)]
    return "\n".join(lines + [line(result) for result in results])


def line(result: Result) -> str:
    """One line of the table."""
    missed = "" if result.ratio >= result.goal else " (missed)"
    memory = ""
    if result.memory is not None and result.memory_goal is not None:
        over = "" if result.memory < result.memory_goal else " (missed)"
        memory = f"{result.memory:.0f} MB, goal < {result.memory_goal:.0f}{over}"
        if result.memory_of_peer is not None:
            memory += f", peer {result.memory_of_peer:.0f} MB"
    cells = (
        result.work, result.peer, _time(result.ours), _time(result.theirs), f"**{result.ratio:.3g}×**{missed}",
        f"≥ {result.goal:g}×", memory,
    )  # fmt: skip
    return "| " + " | ".join(cells) + " |"


def _time(value: float) -> str:
    return f"{value:.2f} s" if value >= 1 else f"{value * 1000:.3g} ms"


def write(results: Iterable[Result], path: Path) -> None:
    """The results as JSON."""
    path.write_text(json.dumps([vars(result) for result in results], indent=1) + "\n")
