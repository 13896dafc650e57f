"""What happens around the steps of a training: history, checkpoints, early end, pictures, progress."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning
import pandas as pd
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.callbacks import Checkpoint as LightningCheckpoint
from lightning.pytorch.callbacks import EarlyStopping as LightningEarlyStopping

from pipeline.atomic import atomic
from pipeline.instances import Detections
from pipeline.model import ranks
from pipeline.model.averaging import Averaging
from pipeline.model.ending import Told
from pipeline.model.weights import save_weights
from pipeline.progress import Bar


class History(Callback):
    """One row per epoch in a CSV: epoch, step, learning rate, mean losses, validation figures, seconds so far.

    The rows travel in the checkpoint, so a resumed run neither loses nor repeats one. Losses are those that the module
    has summed up, also of an epoch that was interrupted.
    """

    def __init__(self, file: Path):
        self.file, self.before, self.start = file, 0.0, 0.0
        self.rows: list[dict[str, Any]] = []

    def on_train_start(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        self.start = time.monotonic()

    def on_train_epoch_end(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        if self.rows and self.rows[-1]["step"] == trainer.global_step:
            return  # a resumed engine first closes the epoch it was saved in, without a step
        figures = {
            name.removesuffix("_epoch"): float(value)
            for name, value in trainer.callback_metrics.items()
            if not name.endswith("_step")
        }
        rate = trainer.optimizers[0].param_groups[0]["lr"]
        seconds = round(self.before + time.monotonic() - self.start, 1)
        place = {"epoch": len(self.rows), "step": trainer.global_step, "learning_rate": rate}
        self.rows.append({**place, **figures, **module.mean_losses(), "seconds": seconds})
        if trainer.is_global_zero:
            with atomic(self.file) as partial:
                pd.DataFrame(self.rows).to_csv(partial, index=False, float_format="%.6g", lineterminator="\n")

    def state_dict(self) -> dict[str, Any]:
        return {"rows": self.rows, "seconds": self.before + time.monotonic() - self.start}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.rows, self.before = list(state_dict["rows"]), float(state_dict["seconds"])


class Checkpoint(LightningCheckpoint):
    """At the end of each epoch last.ckpt, to resume from, and best.pt, the weights of the highest validation figure.

    figure: the name of that figure; null: the newest weights are the best. averaging: what is saved is its average.
    Both files appear whole or not at all. best, best_step: the highest figure so far and its step. A training that is
    told to end finishes its step, and a validation that has begun, saves last.ckpt and raises Ended.
    """

    def __init__(self, folder: Path, info: Mapping[str, Any], figure: str | None, averaging: Averaging | None):
        self.folder, self.info, self.figure, self.averaging = folder, dict(info), figure, averaging
        self.best, self.best_step, self.step = float("-inf"), 0, 0
        self.told = Told()

    def on_train_start(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        self.told.listen()

    def on_train_batch_end(
        self, trainer: lightning.Trainer, module: lightning.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        done = batch_idx + 1
        # A step that ends an epoch is saved with it; gradients of a part of one cannot be.
        if done % trainer.accumulate_grad_batches or done >= trainer.num_training_batches:
            return
        if trainer.global_step < trainer.max_steps and ranks.any_of(bool(self.told.number), module.device):
            self._end(trainer)

    def on_train_epoch_end(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        if trainer.global_step == self.step:
            return
        self.step = trainer.global_step
        figures = {name: float(value) for name, value in trainer.callback_metrics.items()}
        found = self.best if self.figure is None else figures[f"validation_{self.figure}"]
        # Of equals the later: a training that scores 0 for some epochs has learnt something by the last of them.
        if found >= self.best:
            self.best, self.best_step = found, self.step
            if trainer.is_global_zero:
                self._save(module, {name: value for name, value in figures.items() if name.startswith("validation_")})
        if ranks.any_of(bool(self.told.number), module.device):
            self._end(trainer)
        trainer.save_checkpoint(self.folder / "last.ckpt", weights_only=False)

    def teardown(self, *_: Any, **__: Any) -> None:
        self.told.release()

    def _end(self, trainer: lightning.Trainer) -> None:
        trainer.save_checkpoint(self.folder / "last.ckpt", weights_only=False)
        self.told.end(f"saved at step {trainer.global_step}, where the same command goes on")

    def _save(self, module: lightning.LightningModule, figures: Mapping[str, float]) -> None:
        with contextlib.nullcontext() if self.averaging is None else self.averaging.shown(module.detector):
            save_weights(self.folder / "best.pt", module.detector, {**self.info, "step": self.step, **figures})

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "best_step": self.best_step, "step": self.step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best, self.step = float(state_dict["best"]), int(state_dict["step"])
        self.best_step = int(state_dict.get("best_step", 0))  # checkpoints of before do not say


class EarlyStopping(LightningEarlyStopping):
    """Lightning's, which also ends a training at once that was killed after it should have ended."""

    def on_train_start(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        if self.wait_count >= self.patience:
            trainer.should_stop = True


class Pictures(Callback):
    """A picture of validation detections for each epoch, under a folder. save: writes it to a path."""

    def __init__(self, folder: Path, save: Callable[[Path, Sequence[Detections]], None]):
        self.folder, self.save = folder, save

    def on_validation_end(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        if trainer.is_global_zero:
            self.folder.mkdir(exist_ok=True)
            self.save(self.folder / f"step{trainer.global_step:07d}.png", module.found)


class Progress(Callback):
    """A bar over all steps of the run with the loss, the last score and the time left."""

    def __init__(self, quiet: bool):
        self.quiet = quiet
        self.bar: Bar | None = None

    def on_train_start(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        quiet = self.quiet or not trainer.is_global_zero
        steps, every = trainer.max_steps, int(trainer.limit_train_batches) // trainer.accumulate_grad_batches
        left = -(-steps // every) - trainer.global_step // every
        besides = f", besides {left} validations" if trainer.enable_validation else ""
        first = trainer.global_step
        self.bar = Bar(steps, "training", "step", initial=first, quiet=quiet, timed=10, besides=besides)

    def on_train_batch_end(self, trainer: lightning.Trainer, *_: Any) -> None:
        figures = trainer.callback_metrics
        shown = {"loss": figures.get("loss_step"), "score": figures.get("validation_score")}
        if self.bar is not None:
            note = ", ".join(f"{name} {float(value):.3f}" for name, value in shown.items() if value is not None)
            self.bar.update(trainer.global_step - self.bar.done, note)

    def teardown(self, *_: Any, **__: Any) -> None:
        if self.bar is not None:
            self.bar.close()
            self.bar = None
