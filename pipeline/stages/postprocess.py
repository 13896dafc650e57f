"""The stage `postprocess`: from soft detections to decided instances."""

from __future__ import annotations

import logging
from typing import Literal

from pipeline.competition import Competition
from pipeline.files import Paths, read_coco, read_detections, write_instances
from pipeline.inference.postprocess import Rules, decide
from pipeline.record import Step, file_hash

log = logging.getLogger(__name__)


def postprocess(
    *,
    competition: Competition,
    paths: Paths,
    run: str,
    split: Literal["validation", "test"] | None,
    postprocess: Rules,
    overwrite: bool,
) -> None:
    """Decide instances: score and mask thresholds, removal of overlaps where the contest forbids them, minimum area.

    Reads runs/<run>/detections_<split>.npz, writes instances_<split>.json beside it, in COCO's results format.
    """
    rules = postprocess.settled(competition)
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
