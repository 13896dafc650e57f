"""The stage `convert`: from a contest's files to the line's own: truth, test images, folds, statistics."""

from __future__ import annotations

import logging

from pipeline.competition import Competition
from pipeline.data import coco, contest, folds, statistics
from pipeline.data.coco import Coco
from pipeline.data.contest import Source
from pipeline.files import Paths, write_coco, write_folds, write_json
from pipeline.record import Step, file_hash, folder_state

log = logging.getLogger(__name__)


def convert(
    *,
    competition: Competition,
    paths: Paths,
    n_folds: int,
    seed: int,
    annotations: Source = "csv",
    overwrite: bool = False,
) -> None:
    """Turn the contest's files into COCO JSON, folds and statistics.

    Reads the contest's folder `paths.data`: the training CSV (annotations=csv) or the folders of one mask per file
    (annotations=masks), the sample submission and the headers of all images. Writes `annotations.json`, `test.json`,
    `folds.csv` and `statistics.json`, after everything has been read and checked. Raises InputError on bad input.
    """
    step = _step(competition, paths, n_folds, seed, annotations)
    if not overwrite and step.is_done():
        log.info("convert: %s was made from these files and settings; overwrite=true remakes it", paths.annotations)
        return
    train = contest.read_train(paths.data, competition, annotations)
    test = contest.read_test(paths.data, competition)
    fold = folds.assign(train, n_folds, seed)
    measured = statistics.measure(train)

    step.stamp.unlink(missing_ok=True)  # from here to the end the outputs are not what it says
    write_coco(paths.annotations, train)
    write_coco(paths.test, test)
    write_folds(paths.folds, dict(zip(coco.by_name(train), fold.tolist(), strict=True)))
    write_json(paths.statistics, measured, indent=1)
    step.finish()
    _log_summary(measured, test)


def _step(competition: Competition, paths: Paths, n_folds: int, seed: int, annotations: Source) -> Step:
    """What the outputs depend on: the tables by content, the pictures by name, size and time."""
    tables = [paths.data / name for name in (competition.train_annotations, competition.sample_submission)]
    pictures = contest.list_pictures(paths.data, competition, annotations)
    return Step(
        stamp=paths.output / ".convert.json",
        outputs=(paths.annotations, paths.test, paths.folds, paths.statistics),
        settings={"competition": competition, "n_folds": n_folds, "seed": seed, "annotations": annotations},
        inputs={path.name: file_hash(path) for path in tables if path.is_file()} | {"pictures": folder_state(pictures)},
    )


def _log_summary(measured: statistics.Statistics, test: Coco) -> None:
    per_image = measured["per_image"]
    parts = ", ".join(f"{name} {part['instances']}" for name, part in measured["per_category"].items())
    sizes = ", ".join(f"{size} ({number})" for size, number in measured["sizes"].items())
    log.info("%d training images, %d instances: %s", measured["images"], measured["instances"], parts)
    log.info("sizes: %s", sizes)
    log.info("instances per image: min %(min)g, median %(median)g, max %(max)g", per_image)
    log.info("%d test images", len(test["images"]))
