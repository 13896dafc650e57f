"""How long, on what and how fast to train. Lightning itself, seconds to import, is left to those that train."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch


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
    select: which weights become best.pt: those of the best validation "score", those of the best "tuned_score" (at the
    best of some score thresholds), or the "last" ones.
    ema: decay of an exponential moving average of the weights, such as 0.999; average_last: epochs at the end whose
    weights are averaged; null for neither. The average is validated and kept instead of the weights.
    layer_decay: factor on the learning rate from each of the backbone's five stages to the one before it.
    pictures: validation images that are drawn with what is found in them at each validation.
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
    select: Literal["score", "tuned_score", "last"] = "score"
    ema: float | None = None
    average_last: int | None = None
    layer_decay: float = 1.0
    pictures: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "epoch_steps", "batch_size", "accumulate", "validation_images"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name}: wanted at least 1, got {value}")
        if self.ema is not None and self.average_last is not None:
            raise ValueError("ema, average_last: wanted one average, got both")
        for name, value in (("ema", self.ema), ("layer_decay", self.layer_decay)):
            if value is not None and not 0 < value <= 1:
                raise ValueError(f"{name}: wanted more than 0 and at most 1, got {value}")


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


def precision(wanted: str, accelerator: str) -> str:
    """Lightning's name of the precision: "auto" is bf16 where the GPU has it, else fp16, and float32 on a CPU."""
    if wanted != "auto":
        return wanted
    if accelerator == "cpu" or not torch.cuda.is_available():
        return "32-true"
    # Emulated bfloat16 is offered by older GPUs and is slower than float32.
    return "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "16-mixed"
