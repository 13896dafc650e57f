"""The stage `evaluate`: the contest's own metric and a picture of hits, misses and false alarms."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from pipeline import plots
from pipeline.competition import Competition
from pipeline.data import coco as annotations
from pipeline.data.coco import Coco
from pipeline.data.contest import read_truth
from pipeline.data.dataset import read_image
from pipeline.errors import ConfigError
from pipeline.files import Paths, atomic, read_coco, read_detections, read_instances, write_json
from pipeline.instances import Instances
from pipeline.metrics.mean_precision import Score, hits, mean_precision
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
    """Score the run's validation instances, or any submission CSV against a truth CSV.

    Reads runs/<run>/instances_validation.json and annotations.json, or submission= and truth= (in the format of the
    contest's training CSV). Prints the score and writes scores.json and evaluation.png: beside the instances, or
    submission_scores.json and submission.png in paths.output.
    """
    if (submission is None) != (truth is None):
        missing = "truth" if truth is None else "submission"
        raise ConfigError(f"{missing}: wanted a CSV, got null; submission= and truth= go together")
    if submission is None or truth is None:
        coco = read_coco(paths.annotations)
        names = [one.image_id for one in read_detections(paths.run(run) / "detections_validation.npz", "ensemble")]
        coco = annotations.subset(coco, names)
        wanted = annotations.truth(coco)
        found = read_instances(
            paths.run(run) / "instances_validation.json", read_coco(paths.annotations), [one.image_id for one in wanted]
        )
        title, table, picture = f"validation of {run}", "scores.json", "evaluation.png"
        folder = paths.run(run)
    else:
        coco = read_truth(truth, competition, read_coco(paths.test))
        wanted, found = annotations.truth(coco), read(submission, competition, annotations.sizes(coco))
        title, table, picture = submission.name, "submission_scores.json", "submission.png"
        folder = paths.output
    # The rows of a submission carry no class, so there is nothing to break down by it.
    categories = competition.categories if submission is None else ()
    score = mean_precision(wanted, found, categories=categories)
    write_json(folder / table, score.to_dict(), indent=1)
    _draw(folder / picture, paths, coco, score, wanted, found)
    print(summary(title, score))
    log.info("%s, %s", folder / table, folder / picture)


def summary(title: str, score: Score) -> str:
    """The score as a few lines of text: total, per threshold, per class."""
    lines = [f"{title}: mean precision {score.total:.4f} over {len(score.image_ids)} images"]
    lines.append("  IoU over    " + " ".join(f" .{threshold:02d}" for threshold in score.thresholds))
    lines.append("  per image   " + " ".join(_short(value) for value in score.per_threshold))
    lines.append("  pooled      " + " ".join(_short(value) for value in score.pooled))
    lines += [f"  {name}: {value:.4f}" for name, value in score.per_class.items()]
    return "\n".join(lines)


def _short(value: float) -> str:
    return f"{value:.2f}".removeprefix("0").rjust(4) if value < 1 else "1.00"


def _draw(
    path: Path, paths: Paths, coco: Coco, score: Score, truth: Sequence[Instances], found: Sequence[Instances]
) -> None:
    """The worst, the median and the best of the images that show an instance."""
    files = annotations.by_name(coco)
    by_score = [i for i in score.per_image.argsort(kind="stable").tolist() if len(truth[i]) or len(found[i])]
    chosen = sorted({0, len(by_score) // 2, len(by_score) - 1}) if by_score else []
    panels = []
    for place in chosen:
        i = by_score[place]
        pixels = read_image(paths.data / files[truth[i].image_id]["file_name"])
        hit_truth, hit_found = hits(truth[i], found[i], 50)
        title = f"{truth[i].image_id[:12]}  {score.per_image[i]:.2f}"
        panels.append(plots.Panel(pixels, truth[i].runs, found[i].runs, hit_truth, hit_found, title))
    with atomic(path) as partial:
        plots.comparison(panels).savefig(partial, format="png", dpi=110)
