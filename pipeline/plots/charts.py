"""Charts of scores. Names of classes and images are drawn as they are: a dollar sign in one starts no formula."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray

INK = "#1f2328"
"""Of all text, axes and grids: a page that is dark may put its own colour in this one's place."""

BLUE, ORANGE, GREEN, PINK, GREY = "#0072b2", "#e69f00", "#009e73", "#cc79a7", "#8a8f98"
_MARK = "#ff5a00"  # seen on the dark and on the bright end of cividis
_STYLES = ((BLUE, "-", "o"), (ORANGE, "--", "s"), (GREEN, "-.", "^"), (PINK, ":", "D"), (GREY, "-", "v"))


def bars(labels: Sequence[str], values: Sequence[float], title: str = "", most: float | None = 1) -> Figure:
    """Values as horizontal bars, the first on top, each with its figure.

    most: where the axis ends, a little above it; null: the largest value.
    """
    figure = Figure(figsize=(9, 0.3 * len(labels) + 0.9), layout="constrained")
    axis = _axis(figure, title)
    drawn = axis.barh(range(len(labels)), values, color=BLUE, height=0.72)
    axis.bar_label(drawn, fmt="%.3f", padding=3, color=INK)
    axis.set_yticks(range(len(labels)), labels, parse_math=False)
    axis.tick_params(axis="y", length=0)
    axis.invert_yaxis()
    least = min(0.0, *values) if len(values) else 0.0
    axis.set_xlim(1.15 * least, 1.12 * (most if most is not None else max([1e-3, *values])))
    return figure


def lines(x: Sequence[float], rows: Mapping[str, Sequence[float]], across: str, up: str, title: str = "") -> Figure:
    """Some values, 0 to 1, of the same x as lines; told apart by colour, dash and mark. across, up: the axes' names."""
    figure = Figure(figsize=(5.6, 3.2), layout="constrained")
    axis = _axis(figure, title, across, up)
    for (name, values), (colour, dash, mark) in zip(rows.items(), _STYLES * len(rows), strict=False):
        axis.plot(x, values, color=colour, linestyle=dash, marker=mark, markersize=4, linewidth=1.6, label=name)
    axis.set_ylim(0, 1)
    axis.grid(color=INK, alpha=0.12)
    if len(rows) > 1:
        _legend(axis)
    return figure


def calibration(scores: Sequence[float], shares: Sequence[float], counts: Sequence[int], title: str = "") -> Figure:
    """Share of hits by the predictions' scores, both 0 to 1, against the line on which they are the same.

    A point for each range of scores; counts: how many predictions are in it, shown as bars below.
    """
    figure = Figure(figsize=(5.6, 4.2), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    _plain(above, title, "", "share that are hits")
    _plain(below, "", "score the model gave", "predictions")
    above.plot([0, 1], [0, 1], color=GREY, linestyle="--", linewidth=1.2, label="as sure as right")
    above.plot(scores, shares, color=BLUE, marker="o", markersize=5, linewidth=1.6, label="this run")
    below.bar(scores, counts, width=0.06, color=BLUE)
    above.set(xlim=(0, 1), ylim=(0, 1))
    above.grid(color=INK, alpha=0.12)
    _legend(above)
    return figure


def surface(
    x: Sequence[float],
    y: Sequence[float],
    values: ArrayLike,
    chosen: tuple[float, float] | None,
    across: str,
    up: str,
    title: str = "",
) -> Figure:
    """A score, float (len(y), len(x)), at the points of a grid, with the chosen x and y marked; a row for each y."""
    table = np.asarray(values, float)
    figure = Figure(figsize=(6.8, 0.34 * len(y) + 1.9), layout="constrained")
    axis = _plain(figure.subplots(), title, across, up)
    shown = axis.imshow(table, cmap="cividis", aspect="auto", origin="lower", interpolation="nearest")
    step = -(-len(x) // 10)
    axis.set_xticks(range(0, len(x), step), [f"{value:g}" for value in x[::step]])
    axis.set_yticks(range(len(y)), [f"{value:g}" for value in y])
    bar = figure.colorbar(shown, ax=axis, label="score")
    bar.ax.tick_params(colors=INK)
    bar.ax.yaxis.label.set_color(INK)
    bar.outline.set_visible(False)  # type: ignore[operator]
    best = np.unravel_index(int(np.nanargmax(table)), table.shape)
    axis.plot(best[1], best[0], "+", color=_MARK, markersize=11, markeredgewidth=2, label="highest")
    if chosen is not None:
        place = [int(np.abs(np.asarray(own) - at).argmin()) for own, at in zip((x, y), chosen, strict=True)]
        axis.plot(*place, "o", markerfacecolor="none", color=_MARK, markersize=13, markeredgewidth=2, label="chosen")
    legend = axis.legend(facecolor="#3b3f46", labelcolor="white", framealpha=0.8, loc="best")
    legend.get_frame().set_linewidth(0)
    return figure


def history(folds: Mapping[str, Mapping[str, Sequence[float]]], title: str = "") -> Figure:
    """Loss and validation score by step, a line for each training.

    folds: by name, columns of equal length: step, loss, validation_score. A column may be missing.
    """
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    shown = (("loss", "loss"), ("validation_score", "validation score"))
    for axis, (column, name) in zip(figure.subplots(1, 2), shown, strict=True):
        _plain(axis, title if column == "loss" else "", "step", name)
        axis.grid(color=INK, alpha=0.12)
        for (fold, table), (colour, dash, mark) in zip(folds.items(), _STYLES * len(folds), strict=False):
            if column in table:
                style = {"color": colour, "linestyle": dash, "marker": mark, "markersize": 3, "linewidth": 1.4}
                axis.plot(table["step"], table[column], label=fold, **style)
        axis.set_ylim(0, 1.06 * max(1e-3, axis.get_ylim()[1]))
    if len(folds) > 1:
        _legend(axis)
    return figure


def differences(values: Sequence[float] | NDArray[np.float64], title: str = "") -> Figure:
    """Differences of two runs, image by image, sorted: how many images gain, how many lose, and how much."""
    ordered = np.sort(np.asarray(values, float))[::-1]
    figure = Figure(figsize=(5.6, 2.8), layout="constrained")
    axis = _axis(figure, title, "images, sorted", "difference")
    axis.bar(range(ordered.size), ordered, width=1.0, color=np.where(ordered >= 0, BLUE, ORANGE))
    axis.axhline(0, color=INK, linewidth=0.8)
    gains, losses = int((ordered > 0).sum()), int((ordered < 0).sum())
    axis.text(0.98, 0.95, f"{gains} better, {losses} worse, {ordered.size - gains - losses} equal", color=INK,
              transform=axis.transAxes, ha="right", va="top")  # fmt: skip
    return figure


def _axis(figure: Figure, title: str, across: str = "", up: str = "") -> Axes:
    return _plain(figure.subplots(), title, across, up)


def _plain(axis: Axes, title: str, across: str = "", up: str = "") -> Axes:
    """No frame above and at the right, all in one ink, no background, names as they are."""
    axis.set_title(title, fontsize=10, color=INK, parse_math=False)
    axis.set_xlabel(across, color=INK)
    axis.set_ylabel(up, color=INK)
    axis.tick_params(colors=INK)
    axis.spines[:].set_color(INK)
    axis.spines[["top", "right"]].set_visible(False)
    axis.patch.set_alpha(0)
    return axis


def _legend(axis: Axes) -> None:
    if not axis.get_legend_handles_labels()[0]:
        return
    for text in axis.legend(frameon=False, labelcolor=INK).get_texts():
        text.set_parse_math(False)
