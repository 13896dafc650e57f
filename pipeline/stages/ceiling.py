"""The stage `ceiling`: what a perfect detector would lose to each limit of the pipeline."""

from __future__ import annotations

import logging
from typing import Any

from pipeline import plots
from pipeline.competition import Competition
from pipeline.data import coco as annotations
from pipeline.files import Paths, atomic, read_coco, read_json, write_json
from pipeline.inference.ceiling import Ceiling, ceilings, limits
from pipeline.inference.postprocess import Rules
from pipeline.model.families import Description
from pipeline.progress import track

log = logging.getLogger(__name__)


def ceiling(
    *,
    competition: Competition,
    paths: Paths,
    model: Description,
    postprocess: Rules,
    quiet: bool,
) -> None:
    """Score perfect detections under each limit: overlap rule, cap, mask size, alignment, holes, parts, tiles.

    Reads annotations.json and statistics.json, which `convert` makes; needs no training. Prints the highest score that
    each limit leaves, and writes ceiling.json and ceiling.png in paths.output.
    """
    truth = annotations.truth(read_coco(paths.annotations))
    sized: Any = model.sized(read_json(paths.statistics, "convert"))
    rules = postprocess.settled(competition)
    chosen = limits(rules, competition.overlap, sized.alignment, sized.mask_size, sized.detections or 0)
    found = list(track(ceilings(truth, chosen), len(chosen), "ceilings", "limit", quiet))
    write_json(paths.output / "ceiling.json", {"version": 1, "ceilings": [vars(one) for one in found]}, indent=1)
    labels = [f"{one.factor} {one.choice}".strip() for one in found]
    with atomic(paths.output / "ceiling.png") as partial:
        plots.bars(labels, [one.score for one in found], "highest possible score").savefig(partial, format="png")
    print(summary(competition.key, len(truth), found))
    log.info("%s, %s", paths.output / "ceiling.json", paths.output / "ceiling.png")


def summary(key: str, images: int, found: list[Ceiling]) -> str:
    """The ceilings as lines of text."""
    lines = [f"{key}: highest mean precision that a perfect detector could reach, {images} images"]
    width = max(len(one.choice) for one in found)
    lines += [f"  {one.factor:<17} {one.choice:<{width}}  {one.score:.3f}  {one.instances:>6}" for one in found]
    return "\n".join(lines)
