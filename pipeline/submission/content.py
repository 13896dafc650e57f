"""What a submission file says once its text is understood: its rows, its masks, and their runs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.submission.table import Row

Int = NDArray[np.int64]
Bool = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class RowRuns:
    """Runs of several masks, in the order of the text.

    row: int64 (R,), index of the mask. position: int64 (R,), 0 for a mask's first run.
    start, length: int64 (R,), pixels, numbered as in the contest's text; masks of COCO kind down the columns.
    """

    row: Int
    position: Int
    start: Int
    length: Int

    def select(self, kept: Bool) -> RowRuns:
        """The runs where `kept`, bool (R,), is true."""
        return RowRuns(self.row[kept], self.position[kept], self.start[kept], self.length[kept])


@dataclass(frozen=True, eq=False)
class Content:
    """rows: as the file has them. masks: one for each mask, and for each blank row where a row holds one mask.

    runs: those of the masks that are right; their `row` is the place in `masks`.
    """

    rows: list[Row]
    masks: list[Row]
    runs: RowRuns
