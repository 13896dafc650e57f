"""The stage `tune`: thresholds of post-processing, chosen on out-of-fold predictions by the contest's own metric."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import yaml

from pipeline.competition import Competition
from pipeline.data import coco as annotations
from pipeline.errors import ConfigError, InputError
from pipeline.files import Paths, atomic, read_coco, read_detections, read_folds, write_json
from pipeline.inference.postprocess import Rules, decide
from pipeline.inference.tune import FIELDS, Choice, Search, Trials, choose, try_all
from pipeline.inference.tune_classes import ByClass
from pipeline.metrics.scoring import as_submitted, score
from pipeline.progress import track
from pipeline.record import describe, file_hash

log = logging.getLogger(__name__)
_PARTS = 4  # of the images, where only one fold was predicted


def tune(
    *, competition: Competition, paths: Paths, run: str, postprocess: Rules, search: Search, seed: int, quiet: bool
) -> float:
    """Try every combination of `search` on the validation images, and say what the choice is worth on other images.

    Reads runs/<run>/detections_validation.npz, annotations.json and folds.csv. Writes tuned.yaml (the rules that
    `tuned=true` applies) and tuning.json in the run's folder. The rules taken are the middle of the plateau of trials
    that are as good as the best; search.per_class=true goes on from there to rules of each class. The nested score is
    that of rules chosen, in the same way, without the images that they are scored on, and is returned: the best score
    of a search would flatter a sweep over what is not searched here. With search=given both are the same.
    """
    if competition.ranked:
        raise ConfigError(f"competition={competition.key}: its metric ranks instances by score; no threshold helps it")
    source = paths.run(run) / "detections_validation.npz"
    detections, coco = read_detections(source, "ensemble"), read_coco(paths.annotations)
    truth = annotations.truth(annotations.subset(coco, [one.image_id for one in detections]))
    by_name = {one.image_id: one for one in detections}
    detections = [by_name[one.image_id] for one in truth]
    base = postprocess.settled(competition)

    table = np.empty((*map(len, search.grid()), len(truth)))
    steps = try_all(detections, truth, competition, base, search)
    for place, values in track(steps, int(np.prod(table.shape[:3])), "tuning", "rules", quiet):
        table[place] = values
    plain = [decide(one, base, competition.overlap) for one in detections]
    sides = (as_submitted(side, competition) for side in (truth, plain))
    default = score(*sides, competition, by_class=True).per_image
    groups = [annotations.by_name(coco)[one.image_id]["group"] for one in truth]
    trials = Trials(search, tuple(one.image_id for one in truth), table)
    by_class = ByClass(trials, detections, truth, competition, base) if search.per_class else None
    parts = _parts(paths, trials.image_ids, groups)
    found = choose(trials, base, default, parts, groups, seed, by_class)

    with atomic(paths.run(run) / "tuned.yaml") as partial:
        rules = {name: getattr(found.rules, name) for name in FIELDS}
        others = {name: value for name, value in describe(found.rules).items() if name not in (*FIELDS, "_target_")}
        content = {"version": 1, "detections": file_hash(source), "rules": rules, "chosen_with": others}
        partial.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    write_json(paths.run(run) / "tuning.json", {"version": 1, **asdict(found), "surface": surface(trials)}, indent=1)
    print("\n".join(lines(run, found)))
    log.info("%s, %s", paths.run(run) / "tuned.yaml", paths.run(run) / "tuning.json")
    return found.nested.mean


def surface(trials: Trials) -> dict[str, Any]:
    """The mean of the images at every least score and least area, the other rules being those of the plateau's middle.

    score, min_area: the axes. values: a row for each min_area.
    """
    place = trials.chosen(np.ones(len(trials.image_ids), bool))
    values = trials.table[place[:3]].mean(-1).T.tolist()
    return {"score": list(trials.search.scores), "min_area": list(trials.search.areas), "values": values}


def lines(run: str, found: Choice) -> list[str]:
    """What was found, for a terminal."""

    def said(rules: Rules) -> str:
        return ", ".join(f"{name} {_said(getattr(rules, name))}" for name in FIELDS)

    result = [
        f"tuning of {run}: {found.trials} trials, {found.plateau} of them as good as the best ({found.peak:.4f})",
        f"  untuned  {found.default}",
        f"  tuned    {found.tuned} on the images it was chosen on: {said(found.rules)}",
        f"  nested   {found.nested} on images it was not chosen on, gain {found.gain}",
    ]
    if found.by_class is not None:
        result.append(f"  classes  {found.by_class} of this is what rules of each class add to those for all")
    return result + [f"  part {name} alone would take: {said(rules)}" for name, rules in found.parts.items()]


def _said(value: Any) -> str:
    return (
        ", ".join(f"{key}: {one}" for key, one in value.items()).join("{}")
        if isinstance(value, Mapping)
        else f"{value}"
    )


def _parts(paths: Paths, names: Sequence[str], groups: Sequence[Any]) -> list[int]:
    """The part of each image: its fold, or where all are of one fold, groups dealt in turn."""
    folds = read_folds(paths.folds)
    own = [folds[name] for name in names]
    if len(set(own)) > 1:
        return own
    turn = {group: i % _PARTS for i, group in enumerate(sorted(set(groups)))}
    if len(turn) < 2:
        raise InputError(f"{paths.folds}: all images are of one group; nothing can be chosen without them")
    return [turn[group] for group in groups]
