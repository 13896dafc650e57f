"""Outlines on images, made to be read when cells crowd."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from pipeline.masks.runs import Runs, split_columns

# Okabe and Ito's palette, told apart by colour-blind readers.
HIT, MISS, FALSE_ALARM = "#009E73", "#E69F00", "#CC79A7"
_CLASSES = ("#56B4E9", "#E69F00", "#009E73", "#CC79A7", "#F0E442", "#D55E00", "#0072B2", "#999999")


@dataclass(frozen=True, eq=False)
class Panel:
    """One image with its truth and its prediction.

    image: uint8 (H, W, 3). truth, predicted: masks on that canvas. hit_truth, hit_predicted: bool (N,), which of them
    found a partner. title: one line.
    """

    image: NDArray[np.uint8]
    truth: Runs
    predicted: Runs
    hit_truth: NDArray[np.bool_]
    hit_predicted: NDArray[np.bool_]
    title: str


@dataclass(frozen=True, eq=False)
class Labelled:
    """One image with instances of any class.

    image: uint8 (H, W, 3). masks: on that canvas. labels: int64 (N,), category ids from 1. title: one line.
    """

    image: NDArray[np.uint8]
    masks: Runs
    labels: NDArray[np.int64]
    title: str


@dataclass(frozen=True, eq=False)
class Detail:
    """A part of an image with something odd.

    image: grey (h, w), any real numbers. others, marked: masks on that canvas, the odd ones apart. title: some lines.
    """

    image: NDArray[Any]
    others: Runs
    marked: Runs
    title: str


def comparison(panels: Sequence[Panel]) -> Figure:
    """Images side by side, above as they are, below with outlines of hits, misses and false alarms (IoU over .5)."""
    columns = max(len(panels), 1)
    slimmest = max((panel.image.shape[0] / panel.image.shape[1] for panel in panels), default=1.0)
    figure = Figure(figsize=(4.2 * columns, 8.4 * slimmest + 0.9), layout="constrained")
    axes = figure.subplots(2, columns, squeeze=False)
    for column, panel in enumerate(panels):
        for axis in axes[:, column]:
            axis.imshow(panel.image)
        axes[0, column].set_title(panel.title, fontsize=10, parse_math=False)
        draw(axes[1, column], panel)
        counts = (panel.hit_predicted.sum(), (~panel.hit_truth).sum(), (~panel.hit_predicted).sum())
        axes[1, column].set_title("{} hits, {} missed, {} false alarms".format(*counts), fontsize=10)
    for axis in axes.ravel():
        axis.set_axis_off()
    lines = [Line2D([], [], color=HIT), Line2D([], [], color=MISS), Line2D([], [], color=FALSE_ALARM)]
    figure.legend(lines, ["hit", "missed (truth)", "false alarm"], loc="outside lower center", ncols=3, frameon=False)
    return figure


def annotated(images: Sequence[Labelled], categories: Sequence[str]) -> Figure:
    """Images side by side with the outlines of their instances, a colour for each class."""
    columns = max(len(images), 1)
    tallest = max((one.image.shape[0] / one.image.shape[1] for one in images), default=1.0)
    figure = Figure(figsize=(4.2 * columns, 4.2 * tallest + 0.8), layout="constrained")
    for axis in (axes := figure.subplots(1, columns, squeeze=False).ravel()):
        axis.set_axis_off()
    for axis, one in zip(axes, images, strict=False):
        axis.imshow(one.image)
        axis.set_title(one.title, fontsize=10, parse_math=False)
        for label in range(1, len(categories) + 1):
            lines = outlines(one.masks.select(one.labels == label))
            axis.add_collection(LineCollection(list(lines), colors=colour(label), linewidths=_width(len(one.masks))))
    marks = [Line2D([], [], color=colour(label)) for label in range(1, len(categories) + 1)]
    legend = figure.legend(marks, list(categories), loc="outside lower center", ncols=6, frameon=False)
    for text in legend.get_texts():
        text.set_parse_math(False)
    return figure


def colour(label: int) -> str:
    """A colour for a category id, from 1; they repeat after eight."""
    return _CLASSES[(label - 1) % len(_CLASSES)]


def details(shown: Sequence[Detail], columns: int = 4) -> Figure:
    """A page of details: the outlines of what is marked stand out, those of the other masks are thin."""
    lines = max(-(-len(shown) // columns), 1)
    figure = Figure(figsize=(3.2 * columns, 3.6 * lines + 0.4))
    figure.subplots_adjust(0.01, 0.01, 0.99, 1 - 0.6 / (3.6 * lines + 0.4), 0.04, 0.2)
    for axis in (axes := figure.subplots(lines, columns, squeeze=False).ravel()):
        axis.set_axis_off()
    for axis, detail in zip(axes, shown, strict=False):
        low, high = np.percentile(detail.image, [0.5, 99.5]) if detail.image.size else (0, 1)
        axis.imshow(detail.image, cmap="gray", vmin=low, vmax=max(high, low + 1e-6))
        axis.add_collection(LineCollection(list(outlines(detail.others)), colors=HIT, linewidths=0.5))
        axis.add_collection(LineCollection(list(outlines(detail.marked)), colors=MISS, linewidths=1.6))
        axis.set_title(detail.title, fontsize=8, parse_math=False)
    if not shown:
        axes[0].set_title("nothing odd was found", fontsize=10)
    return figure


def brightened(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A dark image as bright as can be, uint8 of its shape: all channels times one number, so that colours stay.

    Fluorescence fills a small part of the range that a file has. One that reaches 200 of 255 levels is not changed.
    """
    high = float(np.percentile(image, 99.8)) if image.size else 255.0
    if high >= 200:
        return image
    return np.clip(image.astype(np.float32) * (255 / max(high, 1.0)), 0, 255).astype(np.uint8)


def draw(axis: Axes, panel: Panel) -> None:
    """Outlines of one panel on a matplotlib axis: predictions as found, truth only where it was missed."""
    parts = (
        (panel.predicted.select(panel.hit_predicted), HIT),
        (panel.predicted.select(~panel.hit_predicted), FALSE_ALARM),
        (panel.truth.select(~panel.hit_truth), MISS),
    )
    width = _width(max(len(panel.truth), len(panel.predicted)))
    for runs, shade in parts:
        axis.add_collection(LineCollection(list(outlines(runs)), colors=shade, linewidths=width))


def _width(count: int) -> float:
    """Points of an outline's width among so many: where cells crowd, lines must not cover them."""
    return 1.4 if count < 60 else 1.0 if count < 200 else 0.6


def outlines(runs: Runs) -> NDArray[np.float64]:
    """Borders of all masks as segments (S, 2, 2) of x, y in pixels; the centre of pixel (0, 0) lies at 0, 0.

    A segment is the side that a mask's pixel shares with a pixel outside the mask.
    """
    x, top, bottom, run = split_columns(runs)
    level = [np.stack([x, at, x + 1, at], 1) for at in (top, bottom)]
    owner = runs.instance[run]
    height = runs.size[0]
    pixel = (owner * (runs.size[1] + 2) + x) * height
    # A side between two columns is a border where exactly one of them holds the row.
    ends = np.concatenate([pixel + top, pixel + bottom, pixel + height + top, pixel + height + bottom])
    ends.sort()
    begin, end = ends[0::2], ends[1::2]
    real = end > begin
    column, row = np.divmod(begin[real], height)
    at = column % (runs.size[1] + 2)
    upright = np.stack([at, row, at, row + (end - begin)[real]], 1)
    return np.concatenate([*level, upright]).reshape(-1, 2, 2) - 0.5
