"""The stage `train`: fine-tune the detector on one fold or on all."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import torch
from lightning.pytorch.loggers import Logger
from torch import nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader

from pipeline.alone import alone
from pipeline.atomic import atomic
from pipeline.competition import Competition
from pipeline.data import coco as annotations
from pipeline.data.annotations import gather, of_categories
from pipeline.data.augment import Augment
from pipeline.data.coco import Coco
from pipeline.data.dataset import TrainingSamples, as_tensor
from pipeline.data.pictures import read_image
from pipeline.data.pixels import open_pixels
from pipeline.data.pseudo import Pseudo
from pipeline.data.sampling import Positions, Sampler, Uniform
from pipeline.errors import ConfigError, InputError
from pipeline.files import Paths, read_coco, read_folds, read_instances, read_json
from pipeline.inference.calibrate import calibrate_weights
from pipeline.inference.postprocess import Rules
from pipeline.inference.validation import Judge, Validation, judge_of
from pipeline.instances import Detections
from pipeline.model import ranks
from pipeline.model.classifier import Classifier
from pipeline.model.ending import leave_signals
from pipeline.model.engine import build_trainer, quiet_engine
from pipeline.model.families import Description
from pipeline.model.initial import initial_weights
from pipeline.model.module import Module
from pipeline.model.schedule import Rates
from pipeline.model.training import Trainer
from pipeline.model.untrained import without_training
from pipeline.progress import since
from pipeline.record import Step, describe, file_hash

log = logging.getLogger(__name__)
UNIFORM, NO_PSEUDO = Uniform(), Pseudo()
Fold = int | Literal["all"]


def train(
    *,
    competition: Competition,
    paths: Paths,
    run: str,
    fold: Fold | None,
    seed: int,
    model: Description,
    augment: Augment,
    optimizer: Callable[..., Optimizer],
    schedule: Rates,
    trainer: Trainer,
    postprocess: Rules,
    overwrite: bool,
    quiet: bool,
    sampler: Sampler = UNIFORM,
    categories: Sequence[str] | None = None,
    logger: Callable[..., Logger] | None = None,
    pseudo: Pseudo = NO_PSEUDO,
) -> float | None:
    """Fine-tune a model of whatever family on one fold or on each of them, or with fold=all on every image.

    Reads what `convert` wrote and the training images. Writes runs/<run>/fold<k>/: best.pt (the weights of the highest
    validation score), last.ckpt (to resume from), history.csv and a TensorBoard log; and once for all runs pixels/, the
    decoded images, which may be deleted at any time. A run that was interrupted goes on from its last epoch and ends
    with the same weights; one that is complete is skipped. sampler: how often each image comes. categories: names of
    those to learn, null for all; what belongs to others is background, and is left out of the truth of validations.
    A model's thresholds that are null are chosen on the validation images at the end.
    pseudo: what another run found in the test images, to train on as well. logger: makes another log than
    TensorBoard's, of the folder `save_dir`. With fold=all nothing is validated, the last weights are kept, and
    runs/<run>/all takes the place of the fold's folder. Returns the validation figure by which the weights were kept,
    the mean over the folds; null where nothing was validated.
    """
    if isinstance(model, Classifier):
        _check_samples(augment, categories)
    coco, statistics = of_categories(read_coco(paths.annotations), categories), read_json(paths.statistics, "convert")
    folds = read_folds(paths.folds)
    found = None if pseudo.run is None else paths.run(pseudo.run) / "instances_test.json"
    coco, more = _with_pseudo(coco, paths, pseudo, found)
    if trainer.threads is not None:
        torch.set_num_threads(trainer.threads)
    settings = {
        "seed": seed,
        "model": model,
        "augment": augment,
        "sampler": sampler,
        "categories": categories,
        "optimizer": optimizer,
        "schedule": schedule,
        # How many processes load the samples changes none of them; with other threads sums are rounded otherwise.
        "trainer": replace(trainer, workers=0, threads=None, pictures=0),
        "postprocess": postprocess,
        "pseudo": pseudo,
    }
    for k in chosen_folds(folds, fold):
        step = _step(paths, run, k, settings, found)
        if not overwrite and step.is_done():
            log.info(
                "%s is complete and made from the same data and settings; overwrite=true trains again", step.folder
            )
            continue
        with alone(step.lock, f"training in {step.folder}"):
            begin = time.monotonic()
            _prepare(step, overwrite)
            learn, held_out = ([name for name, own in folds.items() if (own == k) == out] for out in (False, True))
            learn += more
            log.info("%s: %d images to train on, %d to validate", step.folder.name, len(learn), len(held_out))
            torch.manual_seed(seed)
            detector = _detector(model, statistics, len(competition.categories))
            truth = annotations.truth(annotations.subset(coco, _few(held_out, trainer.validation_images)))
            tuned = trainer.select == "tuned_score"
            judge = judge_of(model, truth, postprocess.settled(competition), competition, tuned)
            info = {"competition": competition.key, "categories": list(competition.categories), "fold": k, "run": run}
            validation = partial(_validation_loader, paths.data, coco, [one.image_id for one in truth])
            if not any(True for _ in detector.parameters()):
                without_training(detector, validation(), judge.score, step.folder, info)
                step.finish()
                continue
            settled = (schedule, trainer.steps, seed, trainer.nonfinite, judge.score, trainer.layer_decay)
            module = Module(detector, optimizer, *settled)
            pixels = open_pixels(
                paths.data, coco["images"], paths.output / ("pixels_pseudo" if more else "pixels"), quiet
            )
            samples = TrainingSamples(paths.data, gather(coco, learn), augment, seed, pixels)
            last = step.folder / "last.ckpt"
            with quiet_engine():
                log_of_run = None if logger is None else partial(_logger, logger, step.folder, settings)
                draw = partial(_draw, judge, paths.data, coco, trainer.pictures)
                engine = build_trainer(trainer, step.folder, info, quiet, bool(truth), log_of_run, draw)
                engine.fit(
                    module,
                    _training_loader(samples, sampler, trainer, engine, seed),
                    validation(engine.global_rank, engine.world_size) if truth else None,
                    ckpt_path=str(last) if last.is_file() else None,
                    weights_only=True,
                )
            if ranks.is_first():
                if isinstance(judge, Validation) and truth:
                    best, device = step.folder / "best.pt", engine.strategy.root_device
                    calibrate_weights(best, model, validation(), judge.decided, judge.total, device)
                step.finish()
                _say(engine, trainer, step, since(begin))
    return _reached([paths.fold(run, k) for k in chosen_folds(folds, fold)], trainer.select)


def _check_samples(augment: Augment, categories: Sequence[str] | None) -> None:
    """A classifier is asked for every category, and of whole images."""
    if categories is not None:
        raise ConfigError(f"categories: wanted null, a classifier is asked for every category; got {list(categories)}")
    if augment.crop is not None:
        said = "trained on crops of %d pixels and what they show; augment.crop=null shows whole images, as predict does"
        log.warning(said, augment.crop)


def _say(engine: Any, spec: Trainer, step: Step, duration: str) -> None:
    """How the training ended and which of its weights were kept."""
    name, kept = step.folder.name, engine.checkpoint_callback
    if engine.global_step < spec.steps:
        log.info("%s: ended at step %d, no better for %d validations", name, engine.global_step, spec.patience)
    score = "" if kept.figure is None else f" (validation {kept.figure} {kept.best:.4f})"
    log.info("%s: trained in %s, weights of step %d%s in %s", name, duration, kept.best_step, score, step.outputs[0])


def _reached(folders: Sequence[Path], select: str) -> float | None:
    """The highest validation figure of each training (of select=last the last score), the mean over all of them."""
    figure = f"validation_{'score' if select == 'last' else select}"
    histories = [pd.read_csv(folder / "history.csv") for folder in folders if ranks.is_first()]
    columns = [history[figure].dropna() for history in histories if figure in history]
    values = [column.iloc[-1] if select == "last" else column.max() for column in columns if len(column)]
    return sum(values) / len(values) if values else None


def _logger(make: Callable[..., Logger], folder: Path, settings: Mapping[str, Any]) -> Logger:
    try:
        logger = make(save_dir=str(folder))
    except ImportError as error:
        raise InputError(f"logger: it needs a package that is not installed: {error}") from error
    logger.log_hyperparams(describe(settings))
    return logger


def _detector(model: Description, statistics: Mapping[str, Any], categories: int) -> nn.Module:
    spec = model.sized(statistics)
    derived = {name: getattr(spec, name) for name, value in vars(model).items() if value != getattr(spec, name)}
    log.info("derived from the data: %s", ", ".join(f"{name} {value}" for name, value in derived.items()) or "nothing")
    detector = spec.build(categories)
    initial_weights(detector)
    return detector


def chosen_folds(folds: Mapping[str, int], fold: Fold | None) -> list[Fold]:
    """The folds to work on: the given one, or each; "all" is none held out. Raises InputError for an unknown one."""
    known: list[Fold] = sorted(set(folds.values()))
    if fold is None:
        return known
    if fold not in (*known, "all"):
        raise InputError(f"fold={fold}: the folds of this contest are {known}; convert makes them with n_folds=N")
    return [fold]


def _with_pseudo(coco: Coco, paths: Paths, pseudo: Pseudo, file: Path | None) -> tuple[Coco, list[str]]:
    """The truth with the labels of a file, if there is one, and the names of the images that it is of."""
    if file is None:
        return coco, []
    test = read_coco(paths.test)
    coco, names = pseudo.added(coco, test, read_instances(file, test))
    log.info("pseudo-labels: %d of %d test images from %s", len(names), len(test["images"]), file)
    return coco, names


def _step(paths: Paths, run: str, fold: Fold, settings: Mapping[str, Any], pseudo: Path | None = None) -> Step:
    folder = paths.fold(run, fold)
    inputs = {path.name: file_hash(path) for path in (paths.annotations, paths.folds, paths.statistics)}
    model = settings["model"]
    starts = {
        "pseudo": pseudo,
        "weights": model.weights,
        "backbone": getattr(getattr(model, "backbone", None), "weights", None),
    }
    for name, weights in starts.items():
        if weights is not None and Path(weights).is_file():  # a file of the same name may have become another
            inputs[name] = file_hash(Path(weights))
    return Step(folder / ".train.json", (folder / "best.pt", folder / "history.csv"), settings, inputs)


def _prepare(step: Step, overwrite: bool) -> None:
    """Make the folder ready for a training, or for the rest of one.

    Hours of training are never thrown away silently: a folder made from other settings or data is refused.
    """
    folder = step.folder
    started = Step(folder / ".started.json", (), {**step.settings}, step.inputs)
    if overwrite:
        for name in (".train.json", ".started.json", "last.ckpt", "best.pt", "history.csv"):
            (folder / name).unlink(missing_ok=True)
    elif _has_result(folder) and not started.is_done():
        raise InputError(
            f"{folder} holds a training with other settings or data ({', '.join(started.what_changed()) or 'version'} "
            "changed). Give this one a name of its own with run=NAME, or overwrite=true to replace it"
        )
    folder.mkdir(parents=True, exist_ok=True)
    started.finish()


def _has_result(folder: Path) -> bool:
    return any((folder / name).is_file() for name in ("last.ckpt", "best.pt"))


def _training_loader(
    samples: TrainingSamples, sampler: Sampler, spec: Trainer, engine: Any, seed: int
) -> DataLoader[Any]:
    batch = spec.batch_size * engine.world_size * spec.accumulate
    order = Positions(
        len(samples), spec.epoch_steps * batch, seed,
        lambda: engine.global_step * batch, engine.global_rank, engine.world_size,
        sampler.weights(samples.annotations),
    )  # fmt: skip
    return DataLoader(
        samples, spec.batch_size, sampler=order, num_workers=spec.workers, collate_fn=list,
        pin_memory=False, persistent_workers=spec.workers > 0,
        worker_init_fn=leave_signals,
    )  # fmt: skip


def _validation_loader(root: Path, coco: Coco, names: Sequence[str], rank: int = 0, world: int = 1) -> DataLoader[Any]:
    """The images of one process: every world-th, and one at least, since all wait for one another at the end."""
    files, names = annotations.by_name(coco), names[rank % max(len(names), 1) :: world]
    images = [(as_tensor(read_image(root / files[name]["file_name"])), name) for name in names]
    return DataLoader(images, 1, collate_fn=list)  # type: ignore[arg-type]


def _draw(judge: Judge, root: Path, coco: Coco, most: int, path: Path, found: Sequence[Detections]) -> None:
    files = annotations.by_name(coco)
    picture = judge.picture(found, lambda name: read_image(root / files[name]["file_name"]), most)
    with atomic(path) as unfinished:
        picture.savefig(unfinished, format="png", dpi=80)


def _few(names: Sequence[str], most: int | None) -> list[str]:
    """At most so many names, evenly spread over the list."""
    if most is None or most >= len(names):
        return list(names)
    return [names[i * len(names) // most] for i in range(most)]
