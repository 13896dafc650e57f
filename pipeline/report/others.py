"""Sections on what other stages found: thresholds, trainings, other runs, the ceiling. None: nothing to show."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline import plots
from pipeline.report.findings import Findings
from pipeline.report.markup import Markup, chart, table, tag
from pipeline.report.parts import folded, interval, is_interval, section, share


def thresholds(found: Findings) -> Markup | None:
    """What `tune` found."""
    tuning = found.extras.tuning
    if not tuning:
        return None
    known = [(key, name) for key, name in _TUNED if is_interval(tuning.get(key))]
    rows = [(name, interval(tuning[key], signs=key == "gain")) for key, name in known]
    alone = tuning.get("parts", {})
    columns = [tuning["rules"], *alone.values()]
    chosen = [(name, *(_plainly(one.get(name)) for one in columns)) for name in tuning["rules"]]
    top = ("rule", "chosen", *(f"by part {name} alone" for name in alone))
    said = "What the stage tune found on these validation images. “Nested” is what the choice is worth on images it "
    said += "was not made on; a gain whose interval holds 0 is none."
    worth = table(("rules", "score"), rows, class_="wordy")
    parts = worth, _surface(tuning), folded("what was chosen", table(top, chosen))
    return section("thresholds", "Thresholds", said, *parts)


_TUNED = (
    ("default", "as they were"),
    ("tuned", "tuned, on the images they were chosen on"),
    ("nested", "tuned, on other images (nested)"),
    ("gain", "gain of the nested over those as they were"),
)


def _surface(tuning: Mapping[str, Any]) -> Markup | None:
    """tuning["surface"]: score and min_area, the axes, and values, a row for each min_area."""
    grid, rules = tuning.get("surface"), tuning["rules"]
    if not isinstance(grid, dict) or not {"score", "min_area", "values"} <= grid.keys():
        return None
    x, y = grid["score"], grid["min_area"]
    marked = (rules.get("score"), rules.get("min_area"))
    # Rules of each class are no point of it.
    chosen = marked if all(isinstance(one, (int, float)) for one in marked) else None
    drawn = plots.surface(x, y, grid["values"], chosen, "least score", "least area in px")
    return chart(drawn, "score by least score and least area, with the chosen rules")


def training(found: Findings) -> Markup | None:
    """Curves of the trainings."""
    histories = {fold: table for fold, table in found.extras.history.items() if len(table.get("step", ()))}
    if not histories:
        return None
    said = "Loss and validation score of each fold. The best weights, not the last, were kept."
    drawn = chart(plots.history(histories), "loss and validation score by training step")
    return section("training", "Training", said, drawn)


def compared(found: Findings) -> Markup | None:
    """This run against others."""
    pieces: list[Markup] = []
    for one in found.extras.compared:
        pieces.append(tag("h3", f"{one['b']} against {one['a']}"))
        known = {name: value for name, value in one["difference"].items() if is_interval(value)}
        rows = [(name, interval(value, signs=True)) for name, value in known.items()]
        pieces.append(table(("class", "difference"), rows))
        values = [image["difference"] for image in one["images"]]
        if values:
            pieces.append(chart(plots.differences(values), f"difference of each image, {one['b']} minus {one['a']}"))
    if not pieces:
        return None
    said = "Image by image on those that both were scored on, with 95 % intervals; one that holds 0 says that neither "
    return section("compared", "Run against run", said + "is better. As the stage compare found it.", *pieces)


def ceiling(found: Findings) -> Markup | None:
    """What a perfect detector would lose."""
    rows = [(f"{one['factor']} {one['choice']}".strip(), share(one["score"])) for one in found.extras.ceiling]
    if not rows:
        return None
    said = "What a perfect detector would still lose to each limit of the pipeline, alone: the highest score possible."
    return section("ceiling", "The ceiling", said, folded("all limits", table(("limit", "score"), rows, class_="bars")))


def _plainly(value: Any) -> str:
    return "none" if value is None else str(value)
