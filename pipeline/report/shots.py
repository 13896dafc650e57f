"""Images of the report: the picture as JPEG, outlines as vectors over it, sharp at any size and each with its error."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.instances import Instances
from pipeline.masks.runs import Runs
from pipeline.metrics.errors import KINDS, Verdicts
from pipeline.plots import brightened, outlines
from pipeline.report.markup import Markup, joined, tag

_LONGEST = 1200  # pixels of a picture's longer side; outlines are not affected
_QUALITY = 85
_CROWD = 120  # instances from which outlines are thinner
WORDS = {"hit": "hit", "class": "wrong class", "loose": "loose mask", "false_alarm": "false alarm"}
"""Kinds of error whose names are not what people call them."""


@dataclass(frozen=True, eq=False)
class Shot:
    """One image to show.

    place: why it is shown (worst, median, best). score: its own, 0 to 1. pixels: uint8 (H, W, 3). truth, predicted: on
    that canvas. verdicts: on both.
    """

    place: str
    score: float
    pixels: NDArray[np.uint8]
    truth: Instances
    predicted: Instances
    verdicts: Verdicts

    @property
    def labels(self) -> list[int]:
        """The classes that the image shows, rising."""
        return sorted({*self.truth.labels.tolist(), *self.predicted.labels.tolist()})


def figure(shot: Shot, number: int, categories: Sequence[str]) -> Markup:
    """The image as a link to itself: where it is the page's target, the page shows it as large as the window.

    Dark pictures are made brighter.
    """
    height, width = shot.truth.size
    name, counts = shot.truth.image_id, _counts(shot)
    drawing = tag(
        "svg",
        tag("image", href=_jpeg(shot.pixels), x=-0.5, y=-0.5, width=width, height=height),
        *_layers(shot, categories),
        viewBox=f"-0.5 -0.5 {width} {height}",
        role="img",
        aria_label=f"{name}: {counts}",
    )
    caption = tag(
        "figcaption",
        tag("span", shot.place, class_="place"),
        " ",
        tag("b", f"{shot.score:.3f}"),
        " ",
        tag("span", name, class_="name"),
        tag("span", counts, class_="counts"),
    )
    link = tag("a", drawing, href=f"#image-{number}", class_="open", title="open")
    back = tag("a", "close", href="#images", class_="close")
    labels = " ".join(map(str, shot.labels))
    kind = "shot crowded" if max(len(shot.truth), len(shot.predicted)) > _CROWD else "shot"
    return tag("figure", link, caption, back, id=f"image-{number}", class_=kind, data_classes=labels)


def _counts(shot: Shot) -> str:
    hits = int((shot.verdicts.truth == "hit").sum())
    wrong = len(shot.predicted) - hits
    return f"{hits} of {len(shot.truth)} found, {wrong} false alarm{'' if wrong == 1 else 's'}"


def _layers(shot: Shot, categories: Sequence[str]) -> list[Markup]:
    """Outlines by what they are: hits (as predicted), misses (the truth), false alarms."""
    hit = shot.verdicts.predicted == "hit"
    sides = (
        ("hit", shot.predicted, shot.verdicts.predicted, hit),
        ("false", shot.predicted, shot.verdicts.predicted, ~hit),
        ("miss", shot.truth, shot.verdicts.truth, shot.verdicts.truth != "hit"),
    )
    result = []
    for layer, instances, kinds, shown in sides:
        groups = sorted({*zip(kinds[shown].tolist(), instances.labels[shown].tolist(), strict=True)})
        paths = []
        for kind, label in groups:
            own = shown & (kinds == kind) & (instances.labels == label)
            said = _said(layer, kind, categories[label - 1] if len(categories) > 1 else "")
            paths.append(tag("path", tag("title", said), d=strokes(instances.runs.select(own)), data_class=label))
        result.append(tag("g", joined(paths), class_=layer))
    return result


def _said(layer: str, kind: str, category: str) -> str:
    side = {"hit": "", "false": "predicted, ", "miss": "truth, "}[layer]
    meaning = f" ({KINDS[kind]})" if kind in KINDS else ""
    return f"{side}{WORDS.get(kind, kind)}{meaning}" + (f": {category}" if category else "")


def strokes(runs: Runs) -> str:
    """The borders of all masks as an SVG path of level and upright strokes, in the frame of `plots.outlines`."""
    segments = outlines(runs)
    level = segments[:, 0, 1] == segments[:, 1, 1]
    parts = []
    for own, letter, along, across in ((level, "h", 0, 1), (~level, "v", 1, 0)):
        begin, end, at = segments[own][:, 0, along], segments[own][:, 1, along], segments[own][:, 0, across]
        for place, first, length in zip(*_strung(at, begin, end), strict=True):
            start = (first, place) if along == 0 else (place, first)
            parts.append(f"M{start[0]:g} {start[1]:g}{letter}{length:g}")
    return "".join(parts)


def _strung(at: NDArray[np.float64], begin: NDArray[np.float64], end: NDArray[np.float64]) -> list[list[float]]:
    """Pieces of lines strung together where one begins where another ends: place, begin and length of each stroke."""
    order = np.lexsort((begin, at))
    at, begin, end = at[order], begin[order], end[order]
    first = np.ones(at.size, bool)
    first[1:] = (at[1:] != at[:-1]) | (begin[1:] != end[:-1])
    last = np.append(first[1:], np.ones(min(at.size, 1), bool))
    return [at[first].tolist(), begin[first].tolist(), (end[last] - begin[first]).tolist()]


def _jpeg(pixels: NDArray[np.uint8]) -> str:
    picture = Image.fromarray(brightened(pixels))
    if max(picture.size) > _LONGEST:
        picture.thumbnail((_LONGEST, _LONGEST), Image.Resampling.LANCZOS)
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=_QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode("ascii")
