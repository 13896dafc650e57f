"""The stage `postprocess`: from soft detections to decided instances."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Literal

import yaml

from pipeline.competition import Competition
from pipeline.errors import InputError
from pipeline.files import Paths, read_coco, read_detections, write_instances
from pipeline.inference.postprocess import Rules, decide
from pipeline.record import Step, describe, file_hash

log = logging.getLogger(__name__)


def postprocess(
    *,
    competition: Competition,
    paths: Paths,
    run: str,
    split: Literal["validation", "test"] | None,
    postprocess: Rules,
    tuned: bool,
    overwrite: bool,
) -> None:
    """Decide instances: score and mask thresholds, removal of overlaps where the contest forbids them, minimum area.

    Reads runs/<run>/detections_<split>.npz, writes instances_<split>.json beside it, in COCO's results format.
    tuned=true takes the thresholds of runs/<run>/tuned.yaml, which `tune` writes, instead of those given; the steps and
    what else is no threshold stay as given.
    """
    rules = _tuned(paths.run(run) / "tuned.yaml", postprocess) if tuned else postprocess
    rules = rules.settled(competition)
    for part in ("validation", "test") if split is None else (split,):
        source = paths.run(run) / f"detections_{part}.npz"
        truth = paths.annotations if part == "validation" else paths.test
        detections, coco = read_detections(source, "ensemble"), read_coco(truth)
        step = Step(
            stamp=paths.run(run) / f".postprocess_{part}.json",
            outputs=(paths.run(run) / f"instances_{part}.json",),
            settings={"postprocess": rules, "overlap": competition.overlap},
            inputs={source.name: file_hash(source), truth.name: file_hash(truth)},
        )
        if not overwrite and step.is_done():
            log.info("%s is complete", step.outputs[0])
            continue
        instances = [decide(one, rules, competition.overlap) for one in detections]
        step.stamp.unlink(missing_ok=True)
        write_instances(step.outputs[0], instances, coco)
        step.finish()
        count = sum(map(len, instances))
        log.info("%s: %d instances of %d detections, %d images", part, count, sum(map(len, detections)), len(instances))


def _tuned(path: Path, rules: Rules) -> Rules:
    """The rules with those of a file in their place."""
    if not path.is_file():
        raise InputError(f"{path} does not exist; the stage `tune` makes it")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        result, chosen_with = replace(rules, **content["rules"]), dict(content.get("chosen_with", {}))
    except (yaml.YAMLError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path} holds no rules ({error}); run `tune` again") from error
    now = describe(result)
    other = [
        f"{name} {chosen_with[name]}, now {now.get(name)}" for name in chosen_with if chosen_with[name] != now.get(name)
    ]
    if other:
        log.warning("%s was chosen with other rules: %s; run `tune` again", path, "; ".join(other))
    return result
