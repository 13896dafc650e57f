"""Whether the masks of a file were numbered along the rows where the contest reads down the columns, or the reverse.

Runs of a mask that lie in neighbouring lines touch. Read in the other order each line begins elsewhere, so that hardly
any do. Square images read alike both ways, one being the mirror image of the other, and say nothing; nor do masks that
are broader than the sides of their image differ.
"""

from __future__ import annotations

import numpy as np

from pipeline.submission.case import Case
from pipeline.submission.content import Content, Int, RowRuns
from pipeline.submission.finding import Finding

_FACTOR = 3  # times as many runs lie apart as in the other order
_LEAST = 30  # more such runs than in the other order: fewer may be chance
_NAMES = {"row": "along the rows", "column": "down the columns"}


def check_order(content: Content, case: Case) -> list[Finding]:
    """order: read the contest's way, far more runs lie apart from all others of their mask than the other way."""
    own = case.competition.order
    if own is None:
        return []
    sizes = np.array([case.sizes.get(row.image, (1, 1)) for row in content.masks], np.int64).reshape(-1, 2)
    oblong = sizes[:, 0] != sizes[:, 1]
    runs = content.runs.select(oblong[content.runs.row])
    height, width = sizes[runs.row].T
    lines, others = (height, width) if own == "column" else (width, height)
    apart, otherwise = _apart(runs, lines), _apart(runs, others)
    if apart < _FACTOR * otherwise or apart - otherwise < _LEAST:
        return []
    other = "row" if own == "column" else "column"
    said = (
        f"the masks seem to be numbered {_NAMES[other]}, the contest numbers pixels {_NAMES[own]}: read so, {apart} of "
        f"{len(runs.row)} runs touch no run of their mask in the next line, read {_NAMES[other]} only {otherwise}"
    )
    return [Finding("order", "error", None, None, said)]


def _apart(runs: RowRuns, line: Int) -> int:
    """How many runs touch, at an edge or a corner, no run of their mask in the line behind theirs.

    line: int64 (R,), pixels of a line of the run's image.
    """
    if not runs.row.size:
        return 0
    stop = runs.start + runs.length
    shift = runs.row * (int(stop.max()) + int(line.max()) + 2)  # one axis for all masks, on which none meets another
    order = np.argsort(runs.start + shift, kind="stable")
    begin, end = (runs.start + shift)[order], (stop + shift)[order]
    reach = line[order]
    first = np.searchsorted(end, begin + reach - 1, "right")
    first, missing = np.minimum(first, end.size - 1), first == end.size
    return int(np.count_nonzero(missing | (begin[first] >= end + reach + 1)))
