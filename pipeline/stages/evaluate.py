"""The stage `evaluate`: the contest's own metric and a picture of hits, misses and false alarms."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pipeline import plots
from pipeline.competition import Competition
from pipeline.data import coco as annotations
from pipeline.data.coco import Coco
from pipeline.data.contest import read_truth
from pipeline.data.dataset import read_image
from pipeline.errors import ConfigError, InputError
from pipeline.files import Paths, atomic, read_coco, read_detections, read_instances, write_json
from pipeline.instances import Instances
from pipeline.metrics.mean_precision import hits, mean_precision
from pipeline.metrics.score import Score
from pipeline.metrics.scoring import as_submitted, score
from pipeline.submission.case import source_ids
from pipeline.submission.rows import read

log = logging.getLogger(__name__)


def evaluate(
    *,
    competition: Competition,
    paths: Paths,
    run: str,
    submission: Path | None,
    truth: Path | None,
) -> None:
    """Score the run's validation instances, or any submission file against a truth, by the contest's own metric.

    Reads runs/<run>/instances_validation.json and annotations.json; or submission= and truth= (in the format of the
    contest's training annotations) of the test images, or of the training images if the truth holds instances of those
    alone. Prints the score and writes scores.json and evaluation.png beside the instances, or submission_scores.json
    and submission.png in paths.output.
    """
    if (submission is None) != (truth is None):
        missing = "truth" if truth is None else "submission"
        raise ConfigError(f"{missing}: wanted a file, got null; submission= and truth= go together")
    if submission is None or truth is None:
        title, table, picture, folder = f"validation of {run}", "scores.json", "evaluation.png", paths.run(run)
        coco, found = _validated(paths, run)
        by_class = True
    else:
        title, table, picture, folder = submission.name, "submission_scores.json", "submission.png", paths.output
        images = _images(paths)
        coco = _scored(read_truth(truth, competition, images), read_coco(paths.test))
        found = read(submission, competition, annotations.sizes(coco), source_ids(images))
        by_class = _has_classes(competition)
    wanted, found = (as_submitted(side, competition) for side in (annotations.truth(coco), found))
    result = score(wanted, found, competition, by_class)
    write_json(folder / table, result.to_dict(), indent=1)
    print(f"{title}: " + "\n".join(result.lines()))
    log.info("%s", folder / table)
    _draw(folder / picture, paths, coco, result, wanted, found)


def _validated(paths: Paths, run: str) -> tuple[Coco, list[Instances]]:
    """The truth of the images of which the run has validation detections, and the instances decided from those."""
    coco = read_coco(paths.annotations)
    names = [one.image_id for one in read_detections(paths.run(run) / "detections_validation.npz", "ensemble")]
    coco = annotations.subset(coco, names)
    return coco, read_instances(paths.run(run) / "instances_validation.json", coco)


def _images(paths: Paths) -> Coco:
    """All images that `convert` knows, without annotations; of two with one name that of the test."""
    coco = read_coco(paths.test)
    images = annotations.by_name(coco)
    if paths.annotations.is_file():
        images = annotations.by_name(read_coco(paths.annotations)) | images
    return {**coco, "images": [{**image, "id": number} for number, image in enumerate(images.values(), 1)]}


def _scored(truth: Coco, test: Coco) -> Coco:
    """What a truth of all images says of those that it is about: the test images, the others, or both."""
    names = annotations.by_name(truth).keys()
    of_test = names & annotations.by_name(test).keys()
    held = {one.image_id for one in annotations.truth(truth) if len(one)}
    parts = [part for part in (of_test, names - of_test) if held & part]
    return annotations.subset(truth, set().union(*parts) if held else of_test)


def _has_classes(competition: Competition) -> bool:
    roles = {"class", "image_class", "predictions"}
    return competition.submission_layout == "coco" or not roles.isdisjoint(competition.submission_columns.values())


def _draw(
    path: Path, paths: Paths, coco: Coco, result: Score, truth: Sequence[Instances], found: Sequence[Instances]
) -> None:
    """The worst, the median and the best of the images that show an instance; none where the images are not there.

    They are told apart by their scores or, where the metric has none, by hits at IoU over .5 as in the picture, which
    then shows the instances of a confidence from .5 on: those that such a metric wants kept are too many to see.
    """
    ranks = result.per_image
    if np.isnan(ranks).any():
        found = [one.select(one.scores >= 0.5) for one in found]
        ranks = mean_precision(truth, found, (50,)).per_image
    order = [i for i in ranks.argsort(kind="stable").tolist() if len(truth[i]) or len(found[i])]
    places = sorted({0, len(order) // 2, len(order) - 1}) if order else []
    try:
        panels = [_panel(paths, coco, truth[i], found[i], ranks[i]) for i in (order[place] for place in places)]
    except InputError as error:
        path.unlink(missing_ok=True)
        log.warning("no picture is drawn: %s", error)
        return
    with atomic(path) as partial:
        plots.comparison(panels).savefig(partial, format="png", dpi=110)
    log.info("%s", path)


def _panel(paths: Paths, coco: Coco, truth: Instances, found: Instances, rank: float) -> plots.Panel:
    pixels = read_image(paths.data / annotations.by_name(coco)[truth.image_id]["file_name"])
    rows, columns = (np.arange(new) * old // new for new, old in zip(truth.size, pixels.shape[:2], strict=True))
    title = f"{truth.image_id[:12]}  {rank:.2f}"
    return plots.Panel(pixels[rows][:, columns], truth.runs, found.runs, *hits(truth, found, 50), title)
