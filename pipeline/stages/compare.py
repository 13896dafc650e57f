"""The stage `compare`: two runs on the validation images that both were scored on, image by image."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline import plots
from pipeline.competition import Competition
from pipeline.data import coco as annotations
from pipeline.data.coco import Coco
from pipeline.data.pictures import read_image
from pipeline.errors import ConfigError, InputError
from pipeline.files import Paths, atomic, read_coco, read_detections, read_instances, write_json
from pipeline.instances import Instances
from pipeline.metrics.mean_precision import hits
from pipeline.metrics.scoring import as_submitted, score
from pipeline.metrics.uncertainty import Interval, bootstrap
from pipeline.progress import track

log = logging.getLogger(__name__)

Float = NDArray[np.float64]
_SHOWN = 5
_DRAWN = 2


def compare(
    *, competition: Competition, paths: Paths, a: str | None, b: str | None, seed: int, quiet: bool = False
) -> None:
    """Say by how much run b is better than run a, in all and per class, with a 95 % interval, and where it moved most.

    Reads detections_validation.npz (whose images they are) and instances_validation.json of both runs, and
    annotations.json. A paired bootstrap over groups of images: what both runs find hard cancels out. A class is
    compared on the images where the truth or one of the runs has it. Writes runs/<b>/compared_with_<a>.json, and where
    the images are at hand compared_with_<a>.png with those that moved most.
    """
    if a is None or b is None:
        raise ConfigError(f"{'a' if a is None else 'b'}: wanted the name of a run, got null; a=RUN b=RUN are compared")
    if competition.ranked:
        raise ConfigError(f"competition={competition.key}: its metric ranks all images together and has none per image")
    coco = read_coco(paths.annotations)
    names = _common(paths, a, b, [image["name"] for image in coco["images"]])
    subset = annotations.subset(coco, names)
    sides = [annotations.truth(subset), *(_instances(paths, run, coco, names) for run in (a, b))]
    truth, before, after = (as_submitted(images, competition) for images in sides)
    groups = [image["group"] for image in subset["images"]]

    old, new = (_per_image(truth, one, competition) for one in track((before, after), 2, "scoring", "run", quiet))
    found = {"all": bootstrap(new - old, groups, seed)}
    if len(competition.categories) > 1:
        found |= _by_class(truth, before, after, competition, groups, seed, quiet)

    ids = [one.image_id for one in truth]
    moved = np.argsort(-np.abs(new - old), kind="stable")[:_SHOWN].tolist()
    print("\n".join([*lines(a, b, (old.mean(), new.mean()), len(ids), found), *_moved(ids, old, new, moved)]))
    images = [
        {"image_id": name, "difference": float(y - x), "a": float(x), "b": float(y)}
        for name, x, y in zip(ids, old, new, strict=True)
    ]
    differences = {name: vars(one) for name, one in found.items()}
    content = {"version": 1, "a": a, "b": b, "difference": differences, "images": images}
    write_json(paths.run(b) / f"compared_with_{a}.json", content, indent=1)
    shown = [i for i in moved[:_DRAWN] if old[i] != new[i]]
    sources = {image["name"]: paths.data / image["file_name"] for image in subset["images"]}
    panels = [(truth[i], {f"{a} {old[i]:.2f}": before[i], f"{b} {new[i]:.2f}": after[i]}) for i in shown]
    _draw(paths.run(b) / f"compared_with_{a}.png", panels, sources)


def lines(a: str, b: str, totals: tuple[float, float], images: int, found: Mapping[str, Interval]) -> list[str]:
    """The differences as text."""
    result = [f"{b} minus {a}, {images} images, 95 % interval"]
    for name, one in found.items():
        verdict = "" if one.low <= 0 <= one.high else f"  {b if one.mean > 0 else a} is better"
        result.append(f"  {name:<12} {one.mean:+.4f} [{one.low:+.4f}, {one.high:+.4f}]{verdict}")
    return [*result, f"  {a} has {totals[0]:.4f}, {b} {totals[1]:.4f}; moved most"]


def _moved(ids: Sequence[str], old: Float, new: Float, moved: Sequence[int]) -> list[str]:
    return [f"  {ids[i]}  {new[i] - old[i]:+.4f}  from {old[i]:.4f} to {new[i]:.4f}" for i in moved]


def _common(paths: Paths, a: str, b: str, order: Sequence[str]) -> list[str]:
    first, second = (
        {one.image_id for one in read_detections(paths.run(run) / "detections_validation.npz", "ensemble")}
        for run in (a, b)
    )
    common = [name for name in order if name in first & second]
    if not common:
        raise InputError(f"runs {a} and {b} have no validation image in common; were their folds the same?")
    return common


def _instances(paths: Paths, run: str, coco: Coco, names: Sequence[str]) -> list[Instances]:
    return read_instances(paths.run(run) / "instances_validation.json", coco, names)


def _per_image(truth: Sequence[Instances], found: Sequence[Instances], competition: Competition) -> Float:
    return score(truth, found, competition, by_class=True).per_image


def _by_class(
    truth: Sequence[Instances],
    before: Sequence[Instances],
    after: Sequence[Instances],
    competition: Competition,
    groups: Sequence[object],
    seed: int,
    quiet: bool,
) -> dict[str, Interval]:
    """The difference in each category, on the images where the truth or a run has it."""
    result, names = {}, competition.categories
    for label, name in track(enumerate(names, 1), len(names), "comparing", "class", quiet):
        own = [[_only(one, label) for one in images] for images in (truth, before, after)]
        seen = [i for i, three in enumerate(zip(*own, strict=True)) if any(map(len, three))]
        if not seen or competition.code(label) is None:
            continue
        wanted, old, new = ([images[i] for i in seen] for images in own)
        difference = _per_image(wanted, new, competition) - _per_image(wanted, old, competition)
        result[name] = bootstrap(difference, [groups[i] for i in seen], seed)
    return result


def _only(image: Instances, label: int) -> Instances:
    return image.select(image.labels == label)


def _draw(path: Path, images: Sequence[tuple[Instances, Mapping[str, Instances]]], sources: Mapping[str, Path]) -> None:
    """Images with what each run finds in them; no picture where none moved or the image files are not there."""
    path.unlink(missing_ok=True)
    try:
        panels = [
            plots.Panel(_pixels(sources[truth.image_id], truth), truth.runs, one.runs, *hits(truth, one, 50), title)
            for truth, sides in images
            for title, one in sides.items()
        ]
    except InputError as error:
        log.warning("no picture is drawn: %s", error)
        return
    if not panels:
        return
    with atomic(path) as unfinished:
        plots.comparison(panels).savefig(unfinished, format="png", dpi=110)
    log.info("%s", path)


def _pixels(path: Path, truth: Instances) -> NDArray[np.uint8]:
    """An image on the canvas of its masks, uint8 (H, W, 3)."""
    pixels = read_image(path)
    rows, columns = (np.arange(new) * old // new for new, old in zip(truth.size, pixels.shape[:2], strict=True))
    return pixels[rows][:, columns]
