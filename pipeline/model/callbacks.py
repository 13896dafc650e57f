"""What happens around the steps of a training: history, checkpoints, progress."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning
import pandas as pd
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.callbacks import Checkpoint as LightningCheckpoint

from pipeline.model.weights import save_weights
from pipeline.progress import bar


class History(Callback):
    """One row per epoch in a CSV: epoch, step, learning rate, mean losses, validation figures, seconds so far.

    The rows travel in the checkpoint, so a resumed run neither loses nor repeats one.
    """

    def __init__(self, file: Path):
        self.file, self.rows, self.before, self.start = file, [], 0.0, 0.0

    def on_train_start(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        self.start = time.monotonic()

    def on_train_epoch_end(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        figures = {
            name.removesuffix("_epoch"): float(value)
            for name, value in trainer.callback_metrics.items()
            if not name.endswith("_step")
        }
        rate = trainer.optimizers[0].param_groups[0]["lr"]
        seconds = round(self.before + time.monotonic() - self.start, 1)
        row = {"epoch": len(self.rows), "step": trainer.global_step, "learning_rate": rate, **figures, "seconds": seconds}
        self.rows.append(row)
        if trainer.is_global_zero:
            partial = self.file.with_name(f".{self.file.name}.{os.getpid()}.partial")
            pd.DataFrame(self.rows).to_csv(partial, index=False, float_format="%.6g", lineterminator="\n")
            os.replace(partial, self.file)

    def state_dict(self) -> dict[str, Any]:
        return {"rows": self.rows, "seconds": self.before + time.monotonic() - self.start}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.rows, self.before = list(state_dict["rows"]), float(state_dict["seconds"])


class Checkpoint(LightningCheckpoint):
    """At the end of each epoch last.ckpt, to resume from, and best.pt, the weights of the highest validation score.

    Both appear whole or not at all.
    """

    def __init__(self, folder: Path, info: Mapping[str, Any]):
        self.folder, self.info, self.best = folder, dict(info), float("-inf")

    def on_train_epoch_end(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        score = float(trainer.callback_metrics.get("validation_score", 0.0))
        if score > self.best:
            self.best = score
            if trainer.is_global_zero:
                at = {"step": trainer.global_step, "validation_score": score}
                save_weights(self.folder / "best.pt", module.detector, {**self.info, **at})
        partial = self.folder / ".last.ckpt.partial"
        trainer.save_checkpoint(partial)
        if trainer.is_global_zero:
            os.replace(partial, self.folder / "last.ckpt")

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best = float(state_dict["best"])


class Progress(Callback):
    """A bar over all steps of the run with the loss, the last score and the time left."""

    def on_train_start(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        quiet = not trainer.is_global_zero
        self.bar = bar(trainer.max_steps, "training", "step", initial=trainer.global_step, quiet=quiet)

    def on_train_batch_end(self, trainer: lightning.Trainer, *_: Any) -> None:
        figures = trainer.callback_metrics
        shown = {"loss": figures.get("loss_step", figures.get("loss")), "score": figures.get("validation_score")}
        self.bar.set_postfix({k: f"{float(v):.3f}" for k, v in shown.items() if v is not None}, refresh=False)
        self.bar.update(trainer.global_step - self.bar.n)

    def on_train_end(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        self.bar.close()

    def on_exception(self, trainer: lightning.Trainer, *_: Any) -> None:
        if hasattr(self, "bar"):
            self.bar.close()
