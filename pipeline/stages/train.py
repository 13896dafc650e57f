"""The stage `train`: fine-tune the detector on one fold or on all."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.optim import Optimizer
from torch.utils.data import DataLoader

from pipeline.competition import Competition
from pipeline.data import coco as annotations
from pipeline.data.annotations import gather
from pipeline.data.augment import Augment
from pipeline.data.coco import Coco
from pipeline.data.dataset import TrainingSamples, as_tensor, read_image
from pipeline.data.pixels import open_pixels
from pipeline.data.sampling import Positions
from pipeline.errors import InputError
from pipeline.files import Paths, read_coco, read_folds, read_json
from pipeline.inference.postprocess import Rules, decide
from pipeline.instances import Detections, Instances
from pipeline.metrics.mean_precision import mean_precision
from pipeline.metrics.scoring import as_submitted, score
from pipeline.model.detector import Detector, MaskRCNN
from pipeline.model.training import Module, Schedule, Trainer, build_trainer, quiet_engine
from pipeline.model.weights import initial_weights
from pipeline.progress import since
from pipeline.record import Step, file_hash

log = logging.getLogger(__name__)


def train(
    *,
    competition: Competition,
    paths: Paths,
    run: str,
    fold: int | None,
    seed: int,
    model: MaskRCNN,
    augment: Augment,
    optimizer: Callable[..., Optimizer],
    schedule: Schedule,
    trainer: Trainer,
    postprocess: Rules,
    overwrite: bool,
    quiet: bool,
) -> None:
    """Fine-tune Mask R-CNN on one fold or on all of them.

    Reads what `convert` wrote and the training images. Writes runs/<run>/fold<k>/: best.pt (the weights of the highest
    validation score), last.ckpt (to resume from), history.csv and a TensorBoard log; and once for all runs pixels/, the
    decoded images, which may be deleted at any time. A run that was interrupted goes on from its last epoch and ends
    with the same weights; one that is complete is skipped.
    """
    coco, statistics = read_coco(paths.annotations), read_json(paths.statistics, "convert")
    folds = read_folds(paths.folds)
    if trainer.threads is not None:
        torch.set_num_threads(trainer.threads)
    settings = {
        "seed": seed,
        "model": model,
        "augment": augment,
        "optimizer": optimizer,
        "schedule": schedule,
        "trainer": replace(trainer, workers=0),  # how many processes load the samples changes none of them
        "postprocess": postprocess,
    }
    for k in chosen_folds(folds, fold):
        step = _step(paths, run, k, settings)
        if _is_done(step, overwrite):
            continue
        begin = time.monotonic()
        learn, held_out = ([name for name, own in folds.items() if (own == k) == out] for out in (False, True))
        log.info("fold %d: %d images to train on, %d to validate", k, len(learn), len(held_out))
        torch.manual_seed(seed)
        detector = _detector(model.sized(statistics), len(competition.categories))
        truth = annotations.truth(annotations.subset(coco, _few(held_out, trainer.validation_images)))
        scorer = partial(_score, truth=truth, rules=postprocess.settled(competition), competition=competition)
        module = Module(detector, optimizer, schedule, trainer.steps, seed, trainer.nonfinite, scorer)
        pixels = open_pixels(paths.data, coco["images"], paths.output / "pixels", quiet)
        samples = TrainingSamples(paths.data, gather(coco, learn), augment, seed, pixels)
        info = {"competition": competition.key, "categories": list(competition.categories), "fold": k, "run": run}
        last = step.stamp.parent / "last.ckpt"
        with quiet_engine():
            engine = build_trainer(trainer, step.stamp.parent, info, quiet)
            engine.fit(
                module,
                _training_loader(samples, trainer, engine, seed),
                _validation_loader(paths.data, coco, [one.image_id for one in truth]),
                ckpt_path=str(last) if last.is_file() else None,
                weights_only=True,
            )
        step.finish()
        log.info("fold %d: trained in %s, weights in %s", k, since(begin), step.outputs[0])


def _detector(spec: MaskRCNN, categories: int) -> Detector:
    log.info("derived from the data: anchors %s px, at most %d detections", spec.anchors, spec.detections)
    detector = spec.build(categories)
    initial_weights(detector)
    return detector


def chosen_folds(folds: Mapping[str, int], fold: int | None) -> list[int]:
    """The folds to work on: the given one, or all. Raises InputError for one that there is not."""
    known = sorted(set(folds.values()))
    if fold is None:
        return known
    if fold not in known:
        raise InputError(f"fold={fold}: the folds of this contest are {known}; convert makes them with n_folds=N")
    return [fold]


def _step(paths: Paths, run: str, fold: int, settings: Mapping[str, Any]) -> Step:
    folder = paths.fold(run, fold)
    inputs = {path.name: file_hash(path) for path in (paths.annotations, paths.folds, paths.statistics)}
    weights = Path(settings["model"].weights)
    if weights.is_file():  # a file of the same name may have become another
        inputs["weights"] = file_hash(weights)
    return Step(folder / ".train.json", (folder / "best.pt", folder / "history.csv"), settings, inputs)


def _is_done(step: Step, overwrite: bool) -> bool:
    """Whether the fold needs no training; prepares the folder when it does.

    Hours of training are never thrown away silently: a folder made from other settings or data is refused.
    """
    folder = step.stamp.parent
    started = Step(folder / ".started.json", (), {**step.settings}, step.inputs)
    if overwrite:
        for name in (".train.json", ".started.json", "last.ckpt", "best.pt", "history.csv"):
            (folder / name).unlink(missing_ok=True)
    elif step.is_done():
        log.info("%s is complete and made from the same data and settings; overwrite=true trains again", folder)
        return True
    elif _has_result(folder) and not started.is_done():
        raise InputError(
            f"{folder} holds a training with other settings or data ({', '.join(started.what_changed()) or 'version'} "
            "changed). Give this one a name of its own with run=NAME, or overwrite=true to replace it"
        )
    folder.mkdir(parents=True, exist_ok=True)
    started.finish()
    return False


def _has_result(folder: Path) -> bool:
    return any((folder / name).is_file() for name in ("last.ckpt", "best.pt"))


def _training_loader(samples: TrainingSamples, spec: Trainer, engine: Any, seed: int) -> DataLoader[Any]:
    batch = spec.batch_size * engine.world_size * spec.accumulate
    order = Positions(
        len(samples), spec.epoch_steps * batch, seed,
        lambda: engine.global_step * batch, engine.global_rank, engine.world_size,
    )  # fmt: skip
    return DataLoader(
        samples, spec.batch_size, sampler=order, num_workers=spec.workers, collate_fn=list,
        pin_memory=False, persistent_workers=False,
    )  # fmt: skip


def _validation_loader(root: Path, coco: Coco, names: Sequence[str]) -> DataLoader[Any]:
    files = annotations.by_name(coco)
    images = [(as_tensor(read_image(root / files[name]["file_name"])), name) for name in names]
    return DataLoader(images, 1, collate_fn=list)  # type: ignore[arg-type]


def _few(names: Sequence[str], most: int | None) -> list[str]:
    """At most so many names, evenly spread over the list."""
    if most is None or most >= len(names):
        return list(names)
    return [names[i * len(names) // most] for i in range(most)]


def _score(
    found: Sequence[Detections], truth: Sequence[Instances], rules: Rules, competition: Competition
) -> dict[str, float]:
    """The contest's metric, by which the best weights are chosen, and AP at IoU .5, which any contest has."""
    decided = [decide(one, rules, competition.overlap) for one in found]
    sides = (as_submitted(side, competition) for side in (truth, decided))
    total = score(*sides, competition, by_class=True).total
    # A metric of nothing has no value, and no weights are the better for it.
    return {"score": float(np.nan_to_num(total)), "ap50": float(mean_precision(truth, decided, (50,)).pooled[0])}
