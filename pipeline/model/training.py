"""Training: the Lightning module, and the trainer that stops, resumes and stays exact.

A run resumes bit for bit on one machine because nothing depends on how far a process has come but the step: the order
of samples and their augmentation (see `pipeline.data.sampling`), the global generators, re-seeded at each step, and
the learning rate. Checkpoints are written at the end of an epoch, when no sample is half used.
"""

from __future__ import annotations

import contextlib
import logging
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import lightning
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback, EarlyStopping
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from pipeline.errors import InputError
from pipeline.instances import Detections
from pipeline.model.callbacks import Checkpoint, History, Progress
from pipeline.model.detector import Detector

log = logging.getLogger(__name__)
Score = Callable[[Sequence[Detections]], Mapping[str, float]]


@dataclass(frozen=True)
class Trainer:
    """How long and on what to train.

    steps: optimizer steps in all. epoch_steps: steps between two validations and checkpoints. batch_size: images per
    process and step; accumulate: batches per optimizer step. validation_images: the most that a validation during
    training looks at, null for all. patience: validations without a better score before stopping, null for never.
    gradient_clip: largest norm of the gradient. nonfinite: whether a loss that is not finite stops the run or skips
    the batch (at most ten). workers: data-loading processes. threads: of the processor, null for all.
    precision: "auto" is 32-true on a CPU, bf16-mixed or 16-mixed on a GPU. accelerator, devices, nodes, strategy: as
    Lightning takes them.
    """

    steps: int
    epoch_steps: int
    batch_size: int
    accumulate: int
    validation_images: int | None
    patience: int | None
    gradient_clip: float
    nonfinite: Literal["stop", "skip"]
    workers: int
    threads: int | None
    precision: str
    accelerator: str
    devices: int | str
    nodes: int
    strategy: str

    def __post_init__(self) -> None:
        for name in ("steps", "epoch_steps", "batch_size", "accumulate", "validation_images"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name}: wanted at least 1, got {value}")


@dataclass(frozen=True)
class Schedule:
    """Linear warm-up over `warmup` steps, then a half cosine down to `final` times the full rate."""

    warmup: int
    final: float

    def factor(self, step: int, steps: int) -> float:
        """Factor on the learning rate at a step of 0 … steps - 1."""
        rise = min(1.0, (step + 1) / max(self.warmup, 1))
        share = min(max(step - self.warmup, 0) / max(steps - self.warmup, 1), 1.0)
        return rise * (self.final + (1 - self.final) * 0.5 * (1 + math.cos(math.pi * share)))


class Module(lightning.LightningModule):
    """The detector under training. `score` turns validation detections into named figures; "score" selects the best."""

    def __init__(
        self,
        detector: Detector,
        optimizer: Callable[..., Optimizer],
        schedule: Schedule,
        steps: int,
        seed: int,
        nonfinite: str,
        score: Score,
    ):
        super().__init__()
        self.detector, self.make_optimizer, self.schedule = detector, optimizer, schedule
        self.steps, self.seed, self.nonfinite, self.score = steps, seed, nonfinite, score
        self.skipped = 0
        self.validated: list[Detections] = []

    def on_fit_start(self) -> None:
        """A GPU computes faster, forward and backward, with the channels of a place side by side in memory."""
        if self.device.type == "cuda":
            self.detector.arranged(torch.channels_last)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Sampling of anchors and boxes uses the global generators: make them a function of the step."""
        place = (self.seed, self.global_step, self.global_rank, batch_idx)
        torch.manual_seed(int(np.random.SeedSequence(place).generate_state(1)[0]))

    def transfer_batch_to_device(self, batch: Sequence[Any], device: torch.device, dataloader_idx: int) -> list[Any]:
        """Images and boxes go to the device; the masks stay, and the mask loss takes what it needs of them."""
        return [item if isinstance(item, tuple) else item.to(device) for item in batch]

    def training_step(self, batch: Sequence[Any], batch_idx: int) -> Tensor | None:
        """Sum of the five losses of a batch of `Sample`s, or None for a batch that is skipped."""
        before = [buffer.clone() for buffer in self.detector.buffers()] if self.nonfinite == "skip" else []
        losses = self.detector([sample.image for sample in batch], [sample.target for sample in batch])
        total = torch.stack(list(losses.values())).sum()
        if not torch.isfinite(total):
            self._nonfinite(batch, losses)
            # The pass forward has moved the running statistics of batch norm, to NaN for ever if nothing is done.
            for buffer, old in zip(self.detector.buffers(), before, strict=True):
                buffer.copy_(old)
            return None
        self.log("loss", total.detach(), batch_size=len(batch), on_step=True, on_epoch=True)
        for name, loss in losses.items():
            self.log(name, loss.detach(), batch_size=len(batch), on_step=False, on_epoch=True)
        return total

    def _nonfinite(self, batch: Sequence[Any], losses: Mapping[str, Tensor]) -> None:
        names = ", ".join(sample.image_id for sample in batch)
        found = ", ".join(f"{name} {loss.item():.3g}" for name, loss in losses.items())
        message = f"step {self.global_step}: the loss is not finite ({found}) on the images {names}"
        self.skipped += 1
        if self.nonfinite == "stop" or self.skipped > 10:
            way_out = "lower optimizer.lr, or trainer.nonfinite=skip leaves out such a batch, up to ten of them"
            raise InputError(f"{message}; {way_out}")
        log.warning("%s; the batch is left out (%d of at most 10)", message, self.skipped)

    def validation_step(self, batch: Sequence[Any], batch_idx: int) -> None:
        """Detections of one batch of (image, image_id)."""
        for image, image_id in batch:
            self.validated.append(self.detector.detect(image, image_id))

    def on_validation_epoch_end(self) -> None:
        figures = self.score(self.validated)
        self.validated = []
        self.log_dict({f"validation_{name}": float(value) for name, value in figures.items()}, rank_zero_only=False)

    def configure_optimizers(self) -> Any:
        decayed: list[Tensor] = []
        rest: list[Tensor] = []
        for parameter in self.detector.parameters():
            if parameter.requires_grad:
                (decayed if parameter.ndim > 1 else rest).append(parameter)
        # Biases and norms have no scale to keep small.
        optimizer = self.make_optimizer([{"params": decayed}, {"params": rest, "weight_decay": 0.0}])
        schedule = LambdaLR(optimizer, lambda step: self.schedule.factor(step, self.steps))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def build_trainer(spec: Trainer, folder: Path, info: Mapping[str, Any], quiet: bool) -> lightning.Trainer:
    """The engine for a run in `folder`, which gets last.ckpt, best.pt, history.csv and a TensorBoard log."""
    callbacks: list[Callback] = [History(folder / "history.csv"), Checkpoint(folder, info), Progress(quiet)]
    if spec.patience is not None:
        stop = EarlyStopping("validation_score", mode="max", patience=spec.patience, check_on_train_epoch_end=False)
        callbacks.insert(0, stop)
    return lightning.Trainer(
        accelerator=spec.accelerator,
        devices=spec.devices,
        num_nodes=spec.nodes,
        strategy=spec.strategy,
        precision=precision(spec.precision, spec.accelerator),  # type: ignore[arg-type]
        max_steps=spec.steps,
        max_epochs=-1,
        limit_train_batches=spec.epoch_steps * spec.accumulate,
        gradient_clip_val=spec.gradient_clip,
        accumulate_grad_batches=spec.accumulate,
        callbacks=callbacks,
        logger=TensorBoardLogger(str(folder), name="", version="tensorboard"),
        default_root_dir=str(folder),
        log_every_n_steps=1,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=True,
    )


@contextlib.contextmanager
def quiet_engine() -> Iterator[None]:
    """Lightning's tips and its advice on loaders are not for users of this pipeline; its warnings of trouble are."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            for message in (".*does not have many workers.*", ".*LeafSpec.*", ".*treespec.*", ".*lr_scheduler.step.*"):
                warnings.filterwarnings("ignore", message=message)
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def precision(wanted: str, accelerator: str) -> str:
    """Lightning's name of the precision: "auto" is bf16 where the GPU has it, else fp16, and float32 on a CPU."""
    if wanted != "auto":
        return wanted
    if accelerator == "cpu" or not torch.cuda.is_available():
        return "32-true"
    # Emulated bfloat16 is offered by older GPUs and is slower than float32.
    return "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "16-mixed"
