"""The stage `predict`: what the trained folds say of validation and test images."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from pipeline.alone import alone
from pipeline.data import coco as annotations
from pipeline.errors import ConfigError, InputError
from pipeline.files import Paths, join_detections, join_presence, read_coco, read_folds, write_detections
from pipeline.inference.budget import Pace, seconds
from pipeline.inference.careful import Careful
from pipeline.inference.detect import NoMemory, detect_images
from pipeline.inference.ranks import gather
from pipeline.inference.tiles import Tiles
from pipeline.inference.views import Views
from pipeline.instances import Detections
from pipeline.model.classifier import Classifier
from pipeline.model.ready import ready
from pipeline.model.training import Trainer, precision
from pipeline.model.unet import Thresholds
from pipeline.model.weights import load_detector, read_weights
from pipeline.progress import Bar, since
from pipeline.record import Step, file_hash, folder_state

log = logging.getLogger(__name__)
Split = Literal["validation", "test"]
SPLITS: tuple[Split, ...] = ("validation", "test")
Images = list[dict[str, Any]]  # entries of a COCO dict
_PART = 16  # images after which what was predicted is on disk: a killed prediction loses no more


def predict(
    *,
    paths: Paths,
    run: str,
    fold: int | Literal["all"] | None,
    split: Split | None,
    trainer: Trainer,
    views: Views,
    tiles: Tiles,
    overwrite: bool,
    quiet: bool,
    score_floor: float | None,
    watershed: Thresholds,
    budget: str | None = None,
) -> None:
    """Detect instances with the weights of each fold: in its own validation images and in the test images.

    Reads runs/<run>/fold<k>/best.pt and the images. Writes detections_validation.npz and detections_test.npz beside
    the weights: boxes and soft masks in the boxes' frames, before any threshold but score_floor (null: the one the
    weights were trained with) and those of a U-Net's watershed (null: those in its weights). A higher floor saves the
    masks of detections below it, and a sweep cannot go below it. All `views` of an image have the same say in its
    boxes, classes and masks; large images may be seen in `tiles`. A prediction that was killed goes on where it
    stopped; memory does not grow with the number of images. With several trainer.devices or trainer.nodes each process
    predicts a share of the images; the files are the same.
    Of a classifier it writes presence_validation.csv and presence_test.csv instead: a row for each image with the
    probability that each category is there, the mean over its views, and of its tiles the highest.
    With a budget (8h, 90m) views, then models are dropped so as to finish within it, as `pipeline.inference.budget`
    has it, and an image that cannot be read or held in memory is left blank with a warning.
    """
    if score_floor is not None and not 0 <= score_floor <= 1:
        raise ConfigError(f"score_floor: wanted 0 to 1, got {score_floor}")
    folds = read_folds(paths.folds)
    ranks = gather(trainer.accelerator, trainer.devices, trainer.nodes)
    if trainer.threads is not None:
        torch.set_num_threads(trainer.threads)
    pace = None if budget is None else Pace(seconds(budget), time.monotonic)
    known = trained_folds(paths, run, fold)
    works = [(k, part, _images(paths, folds, k, part)) for k in known for part in _splits(k, split)]
    for number, (k, part, images) in enumerate(works):
        name, join = _written(paths.fold(run, k) / "best.pt", part)
        step = _step(paths, run, k, part, name, images, trainer, views, tiles, score_floor, watershed, budget)
        later = tuple(len(some) for _, _, some in works[number + 1 :])
        if pace and number and not ranks.agree(partial(pace.keeps, (len(images), *later))):
            log.warning("fold %s, %s is dropped: the budget does not allow for it", k, part)
            continue
        with ExitStack() as held:
            begin = time.monotonic()
            parts, missing = ranks.agree(partial(_begun, step, images, overwrite, held))
            if not parts:
                continue
            others = set(missing).difference(ranks.share(missing))
            own = {path: some for path, some in parts.items() if path not in others}
            model = cache(partial(_model, paths.fold(run, k) / "best.pt", ranks.device, score_floor, watershed))
            kind = precision(trainer.precision, trainer.accelerator)
            look: Callable[[Images], Iterable[Detections]] = partial(_look, model, paths.data, kind, views, tiles)
            if pace is not None:
                left = sum(len(some) for path, some in own.items() if not path.is_file())
                shared = tuple(-(-count // ranks.world) for count in later)  # this process has its share of each
                look = Careful(model, paths.data, kind, views, tiles, pace, left, shared).look
            besides = f", besides {sum(later)} of other folds and splits" if later else ""
            ranks.together(partial(_detect, own, look, f"fold {k}, {part}", quiet or ranks.rank > 0, besides))
            if ranks.rank == 0:
                step.stamp.unlink(missing_ok=True)
                join(step.outputs[0], list(parts))
                step.finish()
                shutil.rmtree(next(iter(parts)).parent)
                log.info("fold %s, %s: %d images in %s", k, part, len(images), since(begin))


def _written(weights: Path, split: Split) -> tuple[str, Callable[[Path, Sequence[Path]], None]]:
    """The name of the file that a model's answers become, and what makes it of its parts."""
    content = read_weights(weights)
    if content["model"].get("family") == Classifier.family:
        return f"presence_{split}.csv", partial(join_presence, categories=content["info"]["categories"])
    return f"detections_{split}.npz", join_detections


def _begun(step: Step, images: Images, overwrite: bool, held: ExitStack) -> tuple[dict[Path, Images], list[Path]]:
    """See `_parts`, and which of them are missing; none where all is done. held: holds the step from here on."""
    if not overwrite and step.is_done():
        log.info("%s is complete; overwrite=true predicts again", step.outputs[0])
        return {}, []
    held.enter_context(alone(step.lock, f"predicting {step.outputs[0]}"))
    parts = _parts(step, images, overwrite)
    return parts, [path for path in parts if not path.is_file()]


def _parts(step: Step, images: Images, overwrite: bool) -> dict[Path, Images]:
    """Files of some images each, and their images. What a killed prediction left in them stays if it fits."""
    folder = step.outputs[0].with_suffix(".parts")
    started = Step(folder / ".started.json", (), step.settings, step.inputs)
    if overwrite or not started.is_done():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        started.finish()
    starts = range(0, max(len(images), 1), _PART)
    return {folder / f"{start // _PART:06d}.npz": images[start : start + _PART] for start in starts}


def _detect(
    parts: Mapping[Path, Images],
    look: Callable[[Images], Iterable[Detections]],
    what: str,
    quiet: bool,
    besides: str = "",
) -> None:
    """Write the parts that are not there yet; at the end InputError naming images that did not fit into memory."""
    large: list[str] = []
    done = sum(len(images) for path, images in parts.items() if path.is_file())
    with Bar(sum(map(len, parts.values())), what, "image", done, quiet, timed=3, besides=besides) as shown:
        for path, images in parts.items():
            if path.is_file():
                continue
            found = []
            try:
                for one in look(images):
                    found.append(one)
                    shown.update()
            except NoMemory as error:
                log.warning("%s: put off, with the others of its %d", error, len(images))
                large.append(str(error))
            else:
                write_detections(path, found)
    if large:
        others = f", nor do images of {len(large) - 1} other parts" if large[1:] else ""
        raise InputError(
            f"{what}: {large[0]}{others}. What was predicted is kept, and the same command tries the rest again; "
            "tiles.side=1024 needs less memory, and budget=12h sees such an image at half its size or leaves it blank"
        )


def _model(weights: Path, device: torch.device, score_floor: float | None, watershed: Thresholds) -> nn.Module:
    model: Any
    model, _ = load_detector(weights)
    model.spec = watershed.within(model.spec)
    return ready(model.to(device), score_floor)


def _look(
    model: Callable[[], nn.Module], root: Path, kind: str, views: Views, tiles: Tiles, images: Images
) -> Iterable[Detections]:
    return detect_images(model(), root, images, kind, views, tiles)


def trained_folds(paths: Paths, run: str, fold: int | str | None) -> list[int | str]:
    """The folds of a run that have weights, "all" among them, or the given one. Raises InputError where none has."""
    known: list[int | str] = sorted(int(p.parent.name[4:]) for p in paths.run(run).glob("fold[0-9]*/best.pt"))
    known += ["all"] if (paths.fold(run, "all") / "best.pt").is_file() else []
    if not known or (fold is not None and fold not in known):
        which = "no fold" if not known else f"only the folds {known}"
        raise InputError(f"{paths.run(run)}: {which} of run={run} trained; the stage `train` makes best.pt")
    return known if fold is None else [fold]


def _splits(fold: int | str, split: Split | None) -> tuple[Split, ...]:
    """A training on all images has none left to validate."""
    wanted = SPLITS if split is None else (split,)
    return tuple(part for part in wanted if part == "test" or fold != "all")


def _images(paths: Paths, folds: dict[str, int], fold: int | str, split: Split) -> Images:
    if split == "test":
        return list(read_coco(paths.test)["images"])
    images = annotations.by_name(read_coco(paths.annotations))
    return [images[name] for name, own in folds.items() if own == fold]


def _step(
    paths: Paths,
    run: str,
    fold: int | str,
    split: Split,
    name: str,
    images: Images,
    trainer: Trainer,
    views: Views,
    tiles: Tiles,
    score_floor: float | None,
    watershed: Thresholds,
    budget: str | None,
) -> Step:
    folder = paths.fold(run, fold)
    files: list[Path] = [paths.data / image["file_name"] for image in images]
    return Step(
        stamp=folder / f".predict_{split}.json",
        outputs=(folder / name,),
        settings={
            "precision": precision(trainer.precision, trainer.accelerator),
            "split": split,
            "score_floor": score_floor,
            "views": views,
            "tiles": tiles,
            **({"watershed": watershed} if watershed.given() else {}),
            **({"budget": budget} if budget is not None else {}),
        },
        inputs={"best.pt": file_hash(folder / "best.pt"), "images": folder_state(files)},
    )
