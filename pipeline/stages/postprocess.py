"""The stage `postprocess`: from soft detections to decided instances."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from pipeline.alone import alone
from pipeline.competition import Competition
from pipeline.errors import InputError
from pipeline.files import (
    Paths,
    check_version,
    read_coco,
    read_detections,
    read_presence,
    read_yaml,
    write_instances,
)
from pipeline.inference.postprocess import Rules, decide
from pipeline.inference.presence import Classified, Presence, joined
from pipeline.instances import Detections
from pipeline.progress import track
from pipeline.record import Step, describe, file_hash

log = logging.getLogger(__name__)
NOT_ASKED = Classified()


def postprocess(
    *,
    competition: Competition,
    paths: Paths,
    run: str,
    split: Literal["validation", "test"] | None,
    postprocess: Rules,
    tuned: bool,
    overwrite: bool,
    presence: Classified = NOT_ASKED,
    quiet: bool = False,
) -> None:
    """Decide instances: score and mask thresholds, removal of overlaps where the contest forbids them, minimum area.

    Reads runs/<run>/detections_<split>.npz, writes instances_<split>.json beside it, in COCO's results format.
    tuned=true takes the thresholds of runs/<run>/tuned.yaml, which `tune` writes, instead of those given; the steps and
    what else is no threshold stay as given. presence: the run of a classifier, whose presence_<split>.csv of all folds,
    as `predict` writes them, the steps gate and vote ask: the mean of the folds that have looked at an image.
    """
    rules = _tuned(paths.run(run) / "tuned.yaml", postprocess) if tuned else postprocess
    rules = rules.settled(competition)
    presence.check(rules.steps)
    for part in ("validation", "test") if split is None else (split,):
        source = paths.run(run) / f"detections_{part}.npz"
        truth = paths.annotations if part == "validation" else paths.test
        detections, coco = read_detections(source, "ensemble"), read_coco(truth)
        files = {} if presence.run is None else _presence_files(paths, presence.run, part)
        step = Step(
            stamp=paths.run(run) / f".postprocess_{part}.json",
            outputs=(paths.run(run) / f"instances_{part}.json",),
            settings={
                "postprocess": rules,
                "overlap": competition.overlap,
                **({"presence": presence} if files else {}),
            },
            inputs={
                source.name: file_hash(source),
                truth.name: file_hash(truth),
                **{name: file_hash(file) for name, file in files.items()},
            },
        )
        if not overwrite and step.is_done():
            log.info("%s is complete", step.outputs[0])
            continue
        with alone(step.lock, f"deciding {step.outputs[0]}"):
            seen = _presence(presence, list(files.values()), competition.categories, detections)
            pairs = track(zip(detections, seen, strict=True), len(detections), f"deciding {part}", "image", quiet)
            instances = [decide(one, rules, competition.overlap, two) for one, two in pairs]
            step.stamp.unlink(missing_ok=True)
            write_instances(step.outputs[0], instances, coco)
            step.finish()
        count = sum(map(len, instances))
        log.info("%s: %d instances of %d detections, %d images", part, count, sum(map(len, detections)), len(instances))


def _presence_files(paths: Paths, run: str, part: str) -> dict[str, Path]:
    """What a classifier's folds say, by names such as those of the detections that `ensemble` reads."""
    folder, name = paths.run(run), f"presence_{part}.csv"
    files = [file for pattern in ("fold[0-9]*", "all") for file in sorted(folder.glob(f"{pattern}/{name}"))]
    if not files:
        raise InputError(
            f"{folder}: no {name} in fold[0-9]* or all; the stage `predict` makes it of a model=classifier"
        )
    return {f"{run}/{file.parent.name}/{file.name}": file for file in files}


def _presence(
    asked: Classified, files: Sequence[Path], categories: Sequence[str], detections: Sequence[Detections]
) -> list[Presence | None]:
    """What the classifier says of each image; None of each where none is asked."""
    if not files:
        return [None] * len(detections)
    known = joined([read_presence(file, categories) for file in files])
    missing = [one.image_id for one in detections if one.image_id not in known]
    if missing:
        where = f"presence.run={asked.run}: {len(missing)} of {len(detections)} images have no row in its files"
        raise InputError(f"{where}, such as {missing[0]}; train and predict the same folds of it as of this run")
    found = [Presence(known[one.image_id], asked.least) for one in detections]
    count = sum(int((~seen.there(one.labels)).sum()) for seen, one in zip(found, detections, strict=True))
    blank = sum(bool((seen.probable < asked.least).all()) for seen in found)
    said = "%s sees nothing in %d of %d images; %d detections are of categories that it does not see in theirs"
    log.info(said, asked.run, blank, len(found), count)
    return list(found)


def _tuned(path: Path, rules: Rules) -> Rules:
    """The rules with those of a file in their place."""
    if not path.is_file():
        raise InputError(f"{path} does not exist; the stage `tune` makes it")
    try:
        content = read_yaml(path, "tune")
        check_version(path, content, 1, "tune")
        result, chosen_with = replace(rules, **content["rules"]), dict(content.get("chosen_with", {}))
    except (InputError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path} holds no rules ({error}); run `tune` again") from error
    now = describe(result)
    other = [
        f"{name} {chosen_with[name]}, now {now.get(name)}" for name in chosen_with if chosen_with[name] != now.get(name)
    ]
    if other:
        log.warning("%s was chosen with other rules: %s; run `tune` again", path, "; ".join(other))
    return result
