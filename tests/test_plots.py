"""Pictures: outlines against the dense border, and figures that can be drawn whatever they are given."""

from __future__ import annotations

import io
import subprocess
import sys

import numpy as np
import pytest
from fixtures.dense import LAW, Masks, disks, stacks
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

from pipeline import plots
from pipeline.masks.runs import empty, from_dense
from pipeline.plots import Detail, Panel, comparison, details, outlines


def border(mask: Masks) -> set[tuple[float, float, float, float]]:
    """Sides of one pixel's length between the mask and what is not the mask, by looking at every pixel's neighbours."""
    padded, sides = np.pad(mask, 1), set()
    for y, x in zip(*np.nonzero(mask), strict=True):
        for down, right in ((-1, 0), (1, 0), (0, -1), (0, 1)):
            if not padded[y + 1 + down, x + 1 + right]:
                along = (0.5, 0.0) if down else (0.0, 0.5)  # half a side, to both ends of its middle
                middle = (x + right / 2, y + down / 2)
                ends = (middle[0] - along[0], middle[1] - along[1], middle[0] + along[0], middle[1] + along[1])
                sides.add(tuple(map(float, ends)))
    return sides


def unit_sides(lines: np.ndarray) -> list[tuple[float, float, float, float]]:
    """Segments cut into sides of one pixel."""
    sides = []
    for (x0, y0), (x1, y1) in lines.tolist():
        length = int(abs(x1 - x0) + abs(y1 - y0))
        step = ((x1 - x0) / length, (y1 - y0) / length)
        for i in range(length):
            sides.append((x0 + i * step[0], y0 + i * step[1], x0 + (i + 1) * step[0], y0 + (i + 1) * step[1]))
    return sides


@LAW
@given(stacks())
def test_outlines_are_the_dense_borders_side_by_side(masks: Masks) -> None:
    found = outlines(from_dense(masks))
    assert found.shape[1:] == (2, 2)
    wanted = [side for mask in masks for side in border(mask)]
    assert sorted(unit_sides(found)) == sorted(wanted)
    assert np.abs(found[:, 1] - found[:, 0]).sum() == len(wanted)


def test_the_outline_of_one_pixel_goes_around_it() -> None:
    mask = np.zeros((1, 3, 4), bool)
    mask[0, 1, 2] = True
    assert sorted(map(tuple, outlines(from_dense(mask)).reshape(-1, 4).tolist())) == [
        (1.5, 0.5, 1.5, 1.5),
        (1.5, 0.5, 2.5, 0.5),
        (1.5, 1.5, 2.5, 1.5),
        (2.5, 0.5, 2.5, 1.5),
    ]


def test_no_mask_has_no_outline() -> None:
    assert outlines(empty(0, (3, 4))).shape == (0, 2, 2)
    assert outlines(empty(2, (3, 4))).shape == (0, 2, 2)


def panel(truth: Masks, predicted: Masks, seed: int = 0) -> Panel:
    generator = np.random.default_rng(seed)
    image = generator.integers(0, 255, (*truth.shape[1:], 3), dtype=np.uint8)
    hits = (generator.random(len(truth)) < 0.5, generator.random(len(predicted)) < 0.5)
    return Panel(image, from_dense(truth), from_dense(predicted), *hits, title=f"image {seed}")


def render(figure: Figure) -> int:
    """Bytes of the figure as PNG."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=30)
    return len(stream.getvalue())


@pytest.mark.parametrize("count", [0, 1, 3])
def test_a_comparison_of_any_number_of_images_can_be_drawn(count: int) -> None:
    panels = [panel(disks(4, (30, 40), seed), disks(5, (30, 40), seed + 9), seed) for seed in range(count)]
    figure = comparison(panels)
    assert len(figure.axes) == 2 * max(count, 1)
    assert render(figure) > 100


@pytest.mark.parametrize(("truths", "predictions"), [(0, 0), (0, 2), (2, 0)])
def test_a_comparison_with_no_masks_or_empty_ones_can_be_drawn(truths: int, predictions: int) -> None:
    size = (12, 9)
    drawn = panel(np.zeros((truths, *size), bool), np.zeros((predictions, *size), bool))
    assert render(comparison([drawn])) > 100


def test_a_comparison_counts_and_outlines_hits_misses_and_false_alarms() -> None:
    truth, predicted = disks(3, (30, 40), 1), disks(4, (30, 40), 2)
    hit_truth, hit_predicted = np.array([True, False, True]), np.array([True, True, False, False])
    image = np.zeros((30, 40, 3), np.uint8)
    shown = Panel(image, from_dense(truth), from_dense(predicted), hit_truth, hit_predicted, "cells")
    figure = comparison([shown])
    assert figure.axes[0].get_title() == "cells"
    assert figure.axes[1].get_title() == "2 hits, 1 missed, 2 false alarms"
    lines = [part for part in figure.axes[1].collections if isinstance(part, LineCollection)]
    parts = (predicted[hit_predicted], predicted[~hit_predicted], truth[~hit_truth])
    wanted = [len(outlines(from_dense(part))) for part in parts]
    assert [len(part.get_segments()) for part in lines] == wanted


def detail(others: Masks, marked: Masks, title: str = "holes\na 1: 0.5") -> Detail:
    size = marked.shape[1:]
    return Detail(np.arange(size[0] * size[1]).reshape(size), from_dense(others), from_dense(marked), title)


@pytest.mark.parametrize("count", [0, 1, 5])
def test_a_page_of_any_number_of_details_can_be_drawn(count: int) -> None:
    page = details([detail(disks(3, (30, 40), i), disks(1, (30, 40), i + 9)) for i in range(count)], columns=2)
    assert len(page.axes) == {0: 2, 1: 2, 5: 6}[count]
    assert render(page) > 100


def test_a_detail_outlines_what_is_marked_apart_from_the_others() -> None:
    others, marked = disks(3, (30, 40), 1), disks(2, (30, 40), 2)
    page = details([detail(others, marked)])
    lines = [part for part in page.axes[0].collections if isinstance(part, LineCollection)]
    assert [len(part.get_segments()) for part in lines] == [len(outlines(from_dense(m))) for m in (others, marked)]
    assert page.axes[0].get_title() == "holes\na 1: 0.5"


def test_a_page_without_details_says_so_and_odd_images_can_be_drawn() -> None:
    assert details([]).axes[0].get_title() == "nothing odd was found"
    none = np.zeros((0, 4, 4), bool)
    flat = Detail(np.zeros((4, 4), np.uint8), from_dense(none), from_dense(none), "uniform")
    deep = Detail(np.full((4, 4), 1e5, np.float32), from_dense(none), from_dense(none), "deep")
    assert render(details([flat, deep])) > 100


# Charts -------------------------------------------------------------------------------------------------------------

STRANGE = "a $\\frac{1}{0}$ <b>&"
CHARTS = {
    "bars": lambda: plots.bars([STRANGE, "b"], [0.5, 0.25], STRANGE),
    "bars of nothing": lambda: plots.bars([], [], most=None),
    "bars below nothing": lambda: plots.bars(["a"], [-0.25], most=None),
    "lines": lambda: plots.lines([0.5, 0.75], {STRANGE: [0.5, 0.25], "b": [0.25, 0.125]}, STRANGE, "score"),
    "calibration": lambda: plots.calibration([0.25, 0.75], [0.5, 1], [3, 4], STRANGE),
    "surface": lambda: plots.surface([0.5, 0.6, 0.7], [0, 10], [[0, 1, 0.5], [0.25, 0.5, 0.75]], (0.61, 9), "x", "y"),
    "a surface without a choice": lambda: plots.surface([0.5], [0], [[0.5]], None, "x", "y"),
    "history": lambda: plots.history({STRANGE: {"step": [1, 2], "loss": [2.0, 1.0]}, "b": {"step": []}}),
    "differences": lambda: plots.differences([0.5, -0.25, 0], STRANGE),
    "no differences": lambda: plots.differences([]),
    "many folds": lambda: plots.history({f"fold{i}": {"step": [1], "loss": [i]} for i in range(12)}),
    "a gallery": lambda: plots.gallery([(STRANGE, np.zeros((30, 40, 3), np.uint8), from_dense(disks(3, (30, 40), 1)))]),
}


@pytest.mark.parametrize("name", CHARTS)
def test_a_chart_can_be_drawn_and_its_names_are_no_formulas(name: str) -> None:
    figure = CHARTS[name]()
    assert isinstance(figure, Figure)
    assert render(figure) > 100


def test_bars_say_their_figures_and_the_surface_marks_highest_and_chosen() -> None:
    assert [text.get_text() for text in plots.bars(["a", "b"], [0.5, 0.25]).axes[0].texts] == ["0.500", "0.250"]
    marks = {line.get_label(): line.get_xydata().tolist() for line in CHARTS["surface"]().axes[0].lines}
    assert marks == {"highest": [[1, 0]], "chosen": [[1, 1]]}, "places on the grid: 0.6 and 0, 0.61 and 9"


def test_differences_are_sorted_and_counted() -> None:
    axis = plots.differences([-0.25, 0.5, 0, 0.125]).axes[0]
    assert [patch.get_height() for patch in axis.patches] == [0.5, 0.125, 0, -0.25]
    assert axis.texts[0].get_text() == "2 better, 1 worse, 1 equal"


@LAW
@given(arrays(np.uint8, st.tuples(st.integers(1, 6), st.integers(1, 6), st.just(3))))
def test_a_brightened_image_is_nowhere_darker_and_its_order_of_pixels_stays(image: np.ndarray) -> None:
    before = image.copy()
    bright = plots.brightened(image)
    assert (image == before).all()
    assert bright.shape == image.shape
    assert bright.dtype == np.uint8
    assert (bright >= image).all()
    order = np.argsort(image, axis=None, kind="stable")
    assert (np.diff(bright.ravel()[order].astype(int)) >= 0).all()


def test_a_bright_image_and_one_of_no_pixel_stay_as_they_are() -> None:
    for image in (np.full((4, 4, 3), 220, np.uint8), np.zeros((0, 4, 3), np.uint8)):
        assert plots.brightened(image) is image
    dim = plots.brightened(np.array([[[10, 20, 40]]], np.uint8))
    assert dim[0, 0, 2] >= 254
    assert dim[0, 0, 0] * 4 == pytest.approx(dim[0, 0, 2], abs=4)


def test_annotated_images_have_a_colour_for_each_class() -> None:
    masks = disks(4, (30, 40), 3)
    shown = plots.Labelled(np.zeros((30, 40, 3), np.uint8), from_dense(masks), np.array([1, 2, 1, 2]), STRANGE)
    figure = plots.annotated([shown, shown], [STRANGE, "b"])
    first, second = figure.axes[0].collections
    assert len(first.get_segments()) == len(outlines(from_dense(masks[[0, 2]])))
    assert (first.get_colors()[0] != second.get_colors()[0]).any()
    assert render(figure) > 100
    assert render(plots.annotated([], [])) > 100


def test_importing_draws_nothing_and_chooses_no_window() -> None:
    code = "import sys, pipeline.plots, pipeline.report; sys.exit('matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
