"""What a report says, before it is a page: measured from truth and prediction, or read from a run's files."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.competition import Competition
from pipeline.errors import InputError
from pipeline.files import Paths, read_json
from pipeline.instances import Instances
from pipeline.metrics.breakdown import Group, by_confidence, by_density, by_size
from pipeline.metrics.errors import KINDS, Cost, Verdicts, costs, judge
from pipeline.metrics.score import Score
from pipeline.metrics.uncertainty import Interval, bootstrap
from pipeline.progress import track
from pipeline.report.shots import Shot

log = logging.getLogger(__name__)

SIZES = (50, 75, 90)
"""Hundredths of IoU at which objects are counted as found by their size."""

_SHOWN = (("worst", 8), ("median", 3), ("best", 1))
Pixels = Callable[[Instances], NDArray[np.uint8]]


@dataclass(frozen=True, eq=False)
class Row:
    """One image in the list of all. counts: objects, found, missed, false alarms."""

    image_id: str
    score: float
    counts: tuple[int, int, int, int]
    labels: tuple[int, ...]


@dataclass(frozen=True)
class Extras:
    """What other stages left of a run; empty where they did not run.

    tuning: tuning.json. history: by fold, the columns of its history.csv. compared: compared_with_<run>.json.
    ceiling: ceiling.json.
    """

    tuning: Mapping[str, Any] = field(default_factory=dict)
    history: Mapping[str, Mapping[str, Sequence[float]]] = field(default_factory=dict)
    compared: Sequence[Mapping[str, Any]] = ()
    ceiling: Sequence[Mapping[str, Any]] = ()


@dataclass(frozen=True, eq=False)
class Findings:
    """Everything that a page shows.

    title: what was scored. interval: of the score; null where the metric has none per image. sizes: values are the
    shares found above `SIZES`; crowds: mean scores; sure: mean confidence and share of hits. rows: worst image first.
    """

    contest: str
    title: str
    categories: tuple[str, ...]
    result: Score
    interval: Interval | None
    costs: Sequence[Cost]
    sizes: Sequence[Group]
    crowds: Sequence[Group]
    sure: Sequence[Group]
    rows: Sequence[Row]
    shots: Sequence[Shot]
    extras: Extras


def findings(
    title: str,
    competition: Competition,
    result: Score,
    truth: Sequence[Instances],
    found: Sequence[Instances],
    ranks: NDArray[np.float64],
    groups: Sequence[Any],
    pixels: Pixels,
    by_class: bool,
    others: Extras,
    quiet: bool = True,
) -> Findings:
    """Measure what a page shows.

    result: the score of `found` against `truth`, images in the same order. ranks: float64 (n,), by which the images are
    worst or best. groups: of each image, see `bootstrap`. pixels: gives an image on the canvas of its masks and raises
    InputError where it cannot; the page then has no images. by_class: see `pipeline.metrics.scoring.score`.
    quiet: no progress bar.
    """
    classes = by_class and len(competition.categories) > 1
    shown = [one.select(one.scores >= 0.5) for one in found] if competition.ranked else list(found)
    verdicts = [judge(*pair, competition.iou_thresholds, classes) for pair in zip(truth, shown, strict=True)]
    order = np.argsort(ranks, kind="stable").tolist()
    scored = not np.isnan(result.per_image).any()
    return Findings(
        contest=competition.title,
        title=title,
        categories=competition.categories if by_class else competition.categories[:1],
        result=result,
        interval=bootstrap(result.per_image, groups) if scored else None,
        costs=list(track(costs(truth, found, competition, by_class), len(KINDS), "errors", "kind", quiet)),
        sizes=by_size(truth, verdicts, SIZES),
        crowds=by_density(truth, ranks),
        sure=by_confidence(shown, verdicts),
        rows=[_row(truth[i], shown[i], verdicts[i], float(ranks[i])) for i in order],
        shots=_shots(order, truth, shown, verdicts, ranks, pixels),
        extras=others,
    )


def extras(paths: Paths, run: str) -> Extras:
    """What other stages left of a run. A file that is none of theirs is left out with a warning."""
    folder = paths.run(run)
    histories = {path.parent.name: path for path in sorted(folder.glob("fold[0-9]*/history.csv"))}
    compared = [_read(path, ("a", "b", "difference", "images")) for path in sorted(folder.glob("compared_with_*.json"))]
    ceiling = _read(paths.output / "ceiling.json", ())
    limits = ceiling.get("ceilings") if isinstance(ceiling, dict) else ceiling  # older files are the list alone
    limits = limits if isinstance(limits, list) else []
    return Extras(
        tuning=_read(folder / "tuning.json", ("rules", "default", "nested")) or {},
        history={fold: table for fold, path in histories.items() if (table := _columns(path))},
        compared=[one for one in compared if one],
        ceiling=[one for one in limits if isinstance(one, dict) and {"factor", "choice", "score"} <= one.keys()],
    )


def _read(path: Path, keys: Sequence[str]) -> Any:
    if not path.is_file():
        return None
    try:
        content = read_json(path, path.stem.split("_")[0])
    except InputError as error:
        log.warning("left out of the report: %s", error)
        return None
    if keys and not (isinstance(content, dict) and set(keys) <= content.keys()):
        log.warning("left out of the report: %s has no %s", path, ", ".join(keys))
        return None
    return content


def _columns(path: Path) -> dict[str, list[float]]:
    try:
        table = pd.read_csv(path)
        return {name: table[name].tolist() for name in ("step", "loss", "validation_score") if name in table}
    except (OSError, ValueError) as error:
        log.warning("left out of the report: %s (%s)", path, error)
        return {}


def _row(truth: Instances, found: Instances, verdicts: Verdicts, score: float) -> Row:
    hits = int((verdicts.truth == "hit").sum())
    labels = tuple(sorted({*truth.labels.tolist(), *found.labels.tolist()}))
    return Row(truth.image_id, score, (len(truth), hits, len(truth) - hits, len(found) - hits), labels)


def _shots(
    order: Sequence[int],
    truth: Sequence[Instances],
    found: Sequence[Instances],
    verdicts: Sequence[Verdicts],
    ranks: NDArray[np.float64],
    pixels: Pixels,
) -> list[Shot]:
    """Of the images that show an instance the worst, those in the middle, and the best, none twice."""
    order = [i for i in order if len(truth[i]) or len(found[i])]
    half = max(len(order) // 2 - 1, 0)
    starts = {"worst": 0, "median": half, "best": max(len(order) - 1, 0)}
    chosen: dict[int, str] = {}
    for place, count in _SHOWN:
        rest = [i for i in order[starts[place] :] if i not in chosen]
        chosen |= dict.fromkeys(rest[:count], place)
    try:
        return [
            Shot(place, float(ranks[i]), pixels(truth[i]), truth[i], found[i], verdicts[i])
            for i, place in chosen.items()
        ]
    except InputError as error:
        log.warning("the report shows no images: %s", error)
        return []
