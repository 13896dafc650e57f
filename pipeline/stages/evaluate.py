"""The stage `evaluate`: the contest's own metric, a picture of hits, misses and false alarms, and a report."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from pipeline import plots, report
from pipeline.competition import Competition
from pipeline.data import coco as annotations
from pipeline.data.coco import Coco
from pipeline.data.contest import read_truth
from pipeline.data.pictures import read_image
from pipeline.errors import ConfigError, InputError
from pipeline.files import Paths, atomic, read_coco, read_detections, read_instances, write_json
from pipeline.instances import Instances
from pipeline.metrics.mean_precision import hits, mean_precision
from pipeline.metrics.scoring import as_submitted, score
from pipeline.submission.case import source_ids
from pipeline.submission.rows import read

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Case:
    """What is scored: instances against a truth, the folder and the names of the files that say how they fare."""

    title: str
    folder: Path
    names: tuple[str, str, str]
    coco: Coco
    found: list[Instances]
    by_class: bool
    others: report.Extras


def evaluate(
    *,
    competition: Competition,
    paths: Paths,
    run: str,
    submission: Path | None,
    truth: Path | None,
    quiet: bool,
    split: Literal["validation", "test"] | None = None,
) -> float:
    """Score the run's instances, or any submission file against a truth, by the contest's own metric.

    Reads runs/<run>/instances_validation.json and annotations.json, and where training images were held out to test on
    instances_test.json and holdout.json; or submission= and truth= (in the format of the contest's training
    annotations) of the test images, or of the training images if the truth holds instances of those alone. Prints the
    score and writes scores.json, evaluation.png and report.html beside the instances (with test_ before their names),
    or submission_scores.json, submission.png and submission_report.html in paths.output. The report is one file for any
    browser; it also shows what `tune`, `compare` and `ceiling` found and the curves of the trainings, where they ran.
    Returns the score, of the validation images where test images were scored as well: a search must not see those.
    """
    if (submission is None) != (truth is None):
        missing = "truth" if truth is None else "submission"
        raise ConfigError(f"{missing}: wanted a file, got null; submission= and truth= go together")
    if submission is not None and truth is not None:
        cases = [_of_file(competition, paths, submission, truth)]
    else:
        cases = [_of_run(paths, run, part) for part in _parts(paths, run, split)]
    scores = [_evaluate(competition, paths, case, quiet) for case in cases]
    return scores[0]


def _evaluate(competition: Competition, paths: Paths, case: _Case, quiet: bool) -> float:
    wanted, found = (as_submitted(side, competition) for side in (annotations.truth(case.coco), case.found))
    result = score(wanted, found, competition, case.by_class)
    table, picture, page = (case.folder / name for name in case.names)
    write_json(table, {"version": 1, **result.to_dict()}, indent=1)
    print(f"{case.title}: " + "\n".join(result.lines()))
    log.info("%s", table)

    by_image = {one.image_id: one for one in found}
    found = [by_image.get(one.image_id, Instances.empty(one.image_id, one.size)) for one in wanted]
    shown = _shown(found, competition)
    # Where the metric has no value per image, they are told apart by their hits at IoU over .5.
    ranks = mean_precision(wanted, shown, (50,)).per_image if competition.ranked else result.per_image
    pixels = partial(_pixels, paths, annotations.by_name(case.coco))
    _draw(picture, pixels, ranks, wanted, shown)
    groups = [image.get("group", image["name"]) for image in case.coco["images"]]
    said = report.findings(
        case.title, competition, result, wanted, found, ranks, groups,
        pixels=pixels, by_class=case.by_class, others=case.others, quiet=quiet,
    )  # fmt: skip
    with atomic(page) as unfinished:
        unfinished.write_text(report.page(said), encoding="utf-8")
    log.info("%s", page)
    return float(result.total)


def _parts(paths: Paths, run: str, split: Literal["validation", "test"] | None) -> list[Literal["validation", "test"]]:
    """What of a run is scored: the part that is asked for, or all of which there is a truth and that was decided."""
    if split == "test" and not paths.holdout.is_file():
        raise InputError(
            f"{paths.holdout} does not exist: the truth of the test images is not known. `convert` with holdout_ids= "
            "tests on training images; a submission is scored with submission=FILE truth=FILE"
        )
    if split is not None:
        return [split]
    held = paths.holdout.is_file() and (paths.run(run) / "instances_test.json").is_file()
    validated = (paths.run(run) / "instances_validation.json").is_file()
    return [*(["validation"] if validated or not held else []), *(["test"] if held else [])]


def _of_run(paths: Paths, run: str, part: Literal["validation", "test"]) -> _Case:
    """A part of the images, and the instances decided from the run's detections in them."""
    before = "test_" if part == "test" else ""
    names = (f"{before}scores.json", f"{before}evaluation.png", f"{before}report.html")
    coco = read_coco(paths.annotations if part == "validation" else paths.holdout)
    known = read_detections(paths.run(run) / f"detections_{part}.npz", "ensemble")
    coco = annotations.subset(coco, [one.image_id for one in known])
    found = read_instances(paths.run(run) / f"instances_{part}.json", coco)
    return _Case(f"{part} of {run}", paths.run(run), names, coco, found, True, report.extras(paths, run))


def _of_file(competition: Competition, paths: Paths, submission: Path, truth: Path) -> _Case:
    """The images that a truth is about, and the instances of a submission file in them."""
    names = ("submission_scores.json", "submission.png", "submission_report.html")
    images = _images(paths)
    coco = _scored(read_truth(truth, competition, images), read_coco(paths.test))
    found = read(submission, competition, annotations.sizes(coco), source_ids(images))
    return _Case(submission.name, paths.output, names, coco, found, _has_classes(competition), report.Extras())


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


def _shown(found: Sequence[Instances], competition: Competition) -> list[Instances]:
    """What a picture shows: of a metric that wants low scores kept, which are too many to see, those from .5 on."""
    return [one.select(one.scores >= 0.5) for one in found] if competition.ranked else list(found)


def _draw(
    path: Path,
    pixels: Callable[[Instances], NDArray[np.uint8]],
    ranks: NDArray[np.float64],
    truth: Sequence[Instances],
    found: Sequence[Instances],
) -> None:
    """The worst, the median and the best of the images that show an instance; none where the images are not there."""
    order = [i for i in ranks.argsort(kind="stable").tolist() if len(truth[i]) or len(found[i])]
    places = sorted({0, len(order) // 2, len(order) - 1}) if order else []
    try:
        panels = [_panel(pixels(truth[i]), truth[i], found[i], ranks[i]) for i in (order[place] for place in places)]
    except InputError as error:
        path.unlink(missing_ok=True)
        log.warning("no picture is drawn: %s", error)
        return
    with atomic(path) as unfinished:
        plots.comparison(panels).savefig(unfinished, format="png", dpi=110)
    log.info("%s", path)


def _panel(image: NDArray[np.uint8], truth: Instances, found: Instances, rank: float) -> plots.Panel:
    title = f"{truth.image_id[:12]}  {rank:.2f}"
    return plots.Panel(image, truth.runs, found.runs, *hits(truth, found, 50), title)


def _pixels(paths: Paths, images: Mapping[str, Mapping[str, Any]], truth: Instances) -> NDArray[np.uint8]:
    """An image on the canvas of its masks, uint8 (H, W, 3)."""
    pixels = read_image(paths.data / images[truth.image_id]["file_name"])
    rows, columns = (np.arange(new) * old // new for new, old in zip(truth.size, pixels.shape[:2], strict=True))
    return pixels[rows][:, columns]
