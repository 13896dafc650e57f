"""Pictures for files, reports and notebooks alike. Figures are returned, never shown; nothing is drawn at import."""

from __future__ import annotations

from pipeline.plots.charts import BLUE, INK, bars, calibration, differences, history, lines, surface
from pipeline.plots.gallery import gallery
from pipeline.plots.images import (
    FALSE_ALARM,
    HIT,
    MISS,
    Detail,
    Labelled,
    Panel,
    annotated,
    brightened,
    comparison,
    details,
    draw,
    outlines,
)

__all__ = [
    "BLUE",
    "FALSE_ALARM",
    "HIT",
    "INK",
    "MISS",
    "Detail",
    "Labelled",
    "Panel",
    "annotated",
    "bars",
    "brightened",
    "calibration",
    "comparison",
    "details",
    "differences",
    "draw",
    "gallery",
    "history",
    "lines",
    "outlines",
    "surface",
]
