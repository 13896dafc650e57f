"""The stage `tune`: thresholds of post-processing, chosen on out-of-fold predictions by the contest's own metric."""

from __future__ import annotations

import logging
from collections.abc import Sequence
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
from pipeline.metrics.scoring import as_submitted, score
from pipeline.progress import track
from pipeline.record import file_hash

log = logging.getLogger(__name__)
_PARTS = 4  # of the images, where only one fold was predicted


def tune(
    *, competition: Competition, paths: Paths, run: str, postprocess: Rules, search: Search, seed: int, quiet: bool
) -> None:
    """Try every combination of `search` on the validation images, and say what the choice is worth on other images.

    Reads runs/<run>/detections_validation.npz, annotations.json and folds.csv. Writes tuned.yaml (the rules that
    `tuned=true` applies) and tuning.json in the run's folder. The rules taken are the middle of the plateau of trials
    that are as good as the best; the nested score is that of rules chosen without the images that they are scored on.
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
    found = choose(trials, base, default, _parts(paths, trials.image_ids, groups), groups, seed)

    with atomic(paths.run(run) / "tuned.yaml") as partial:
        content = {"detections": file_hash(source), "rules": {name: getattr(found.rules, name) for name in FIELDS}}
        partial.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    write_json(paths.run(run) / "tuning.json", asdict(found), indent=1)
    print("\n".join(lines(run, found)))
    log.info("%s, %s", paths.run(run) / "tuned.yaml", paths.run(run) / "tuning.json")


def lines(run: str, found: Choice) -> list[str]:
    """What was found, for a terminal."""

    def said(rules: Rules) -> str:
        return ", ".join(f"{name} {getattr(rules, name)}" for name in FIELDS)

    result = [
        f"tuning of {run}: {found.trials} trials, {found.plateau} of them as good as the best ({found.peak:.4f})",
        f"  untuned  {found.default}",
        f"  tuned    {found.tuned} on the images it was chosen on: {said(found.rules)}",
        f"  nested   {found.nested} on images it was not chosen on, gain {found.gain}",
    ]
    return result + [f"  part {name} alone would take: {said(rules)}" for name, rules in found.parts.items()]


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
