"""The stage `compare`: two runs on the validation images that both were scored on, image by image."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pipeline.competition import Competition
from pipeline.data import coco as annotations
from pipeline.data.coco import Coco
from pipeline.errors import ConfigError, InputError
from pipeline.files import Paths, read_coco, read_detections, read_instances, write_json
from pipeline.instances import Instances
from pipeline.metrics.scoring import as_submitted, score
from pipeline.metrics.uncertainty import Interval, bootstrap

_SHOWN = 5


def compare(*, competition: Competition, paths: Paths, a: str | None, b: str | None, seed: int) -> None:
    """Say by how much run b is better than run a, in all and per class, with a 95 % interval, and where it moved most.

    Reads detections_validation.npz (whose images they are) and instances_validation.json of both runs, and
    annotations.json. A paired bootstrap over groups of images: what both runs find hard cancels out. Writes
    runs/<b>/compared_with_<a>.json.
    """
    if a is None or b is None:
        raise ConfigError(f"{'a' if a is None else 'b'}: wanted the name of a run, got null; a=RUN b=RUN are compared")
    if competition.ranked:
        raise ConfigError(f"competition={competition.key}: its metric ranks all images together and has none per image")
    coco = read_coco(paths.annotations)
    names = _common(paths, a, b, [image["name"] for image in coco["images"]])
    subset = annotations.subset(coco, names)
    truth = annotations.truth(subset)
    ours, theirs = (_instances(paths, run, coco, names) for run in (b, a))
    groups = [image["group"] for image in subset["images"]]

    found: dict[str, Interval] = {}
    difference = _difference(truth, ours, theirs, competition)
    found["all"] = bootstrap(difference, groups, seed)
    for label, name in enumerate(competition.categories, 1):
        seen = np.array([(one.labels == label).any() for one in truth])
        if seen.any() and len(competition.categories) > 1:
            parts = [[_only(one, label) for one in images] for images in (truth, ours, theirs)]
            own = _difference(*parts, competition)
            found[name] = bootstrap(own[seen], [g for g, s in zip(groups, seen, strict=True) if s], seed)

    moved = np.argsort(-np.abs(difference), kind="stable")[:_SHOWN]
    print("\n".join(lines(a, b, len(truth), found)))
    for i in moved.tolist():
        print(f"  {truth[i].image_id}  {difference[i]:+.4f}")
    images = [{"image_id": one.image_id, "difference": float(d)} for one, d in zip(truth, difference, strict=True)]
    content = {"a": a, "b": b, "difference": {name: vars(one) for name, one in found.items()}, "images": images}
    write_json(paths.run(b) / f"compared_with_{a}.json", content, indent=1)


def lines(a: str, b: str, images: int, found: dict[str, Interval]) -> list[str]:
    """The differences as text."""
    result = [f"{b} minus {a}, {images} images, 95 % interval"]
    for name, one in found.items():
        verdict = "" if one.low <= 0 <= one.high else f"  {b if one.mean > 0 else a} is better"
        result.append(f"  {name:<12} {one.mean:+.4f} [{one.low:+.4f}, {one.high:+.4f}]{verdict}")
    return result


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


def _difference(
    truth: list[Instances], ours: list[Instances], theirs: list[Instances], competition: Competition
) -> np.ndarray:
    wanted, better, worse = (as_submitted(images, competition) for images in (truth, ours, theirs))
    first, second = (score(wanted, found, competition, by_class=True).per_image for found in (better, worse))
    return first - second


def _only(image: Instances, label: int) -> Instances:
    return image.select(image.labels == label)
