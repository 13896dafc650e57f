"""Training: the Lightning module, which stops, resumes and stays exact.

A run resumes bit for bit on one machine because nothing depends on how far a process has come but the step: the order
of samples and their augmentation (see `pipeline.data.sampling`), the global generators, re-seeded at each step, and
the learning rate. Checkpoints are written at the end of an epoch, and of a step where the training is told to end: no
sample is half used then, and the epoch's losses so far travel along. A sum of floating point
depends on how many threads share it: with another number of them a run goes on, but not to the same bits.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import lightning
import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from pipeline.errors import InputError
from pipeline.instances import Detections
from pipeline.model import ranks
from pipeline.model.schedule import Rates

log = logging.getLogger(__name__)
Score = Callable[[Sequence[Detections]], Mapping[str, float]]


class Module(lightning.LightningModule):
    """A detector, or a model of another family, under training.

    score: turns the detections of all validation images, in their order, into named figures. found: the detections of
    the last validation. layer_decay: see `Trainer`.
    """

    def __init__(
        self,
        detector: nn.Module,
        optimizer: Callable[..., Optimizer],
        schedule: Rates,
        steps: int,
        seed: int,
        nonfinite: str,
        score: Score,
        layer_decay: float = 1.0,
    ):
        super().__init__()
        self.detector, self.make_optimizer, self.schedule = detector, optimizer, schedule
        self.steps, self.seed, self.nonfinite, self.score = steps, seed, nonfinite, score
        self.layer_decay, self.skipped = layer_decay, 0
        self.sums: dict[str, Tensor] = {}  # of the losses of this epoch's samples, and under "" their number
        self.validated: list[Detections] = []
        self.found: Sequence[Detections] = ()

    def on_fit_start(self) -> None:
        """A GPU computes faster, forward and backward, with the channels of a place side by side in memory."""
        if self.device.type == "cuda" and hasattr(self.detector, "arranged"):
            self.detector.arranged(torch.channels_last)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Sampling of anchors and boxes uses the global generators: make them a function of the step."""
        # The batch's number in its epoch, also where a training goes on in the middle of one.
        group = self.trainer.accumulate_grad_batches
        number = self.global_step * group % int(self.trainer.limit_train_batches) + batch_idx % group
        place = (self.seed, self.global_step, self.global_rank, number)
        torch.manual_seed(int(np.random.SeedSequence(place).generate_state(1)[0]))

    def transfer_batch_to_device(self, batch: Sequence[Any], device: torch.device, dataloader_idx: int) -> list[Any]:
        """Images and boxes go to the device; the masks stay, and the mask loss takes what it needs of them."""
        return [item if isinstance(item, tuple) else item.to(device) for item in batch]

    def training_step(self, batch: Sequence[Any], batch_idx: int) -> Tensor | None:
        """Sum of the losses of a batch of `Sample`s, or None for a batch that is skipped, then by all processes."""
        before = [buffer.clone() for buffer in self.detector.buffers()] if self.nonfinite == "skip" else []
        losses = self.detector([sample.image for sample in batch], [sample.target for sample in batch])
        total = torch.stack(list(losses.values())).sum()
        if ranks.any_of(not torch.isfinite(total), self.device):
            self._nonfinite(batch, losses)
            # The pass forward has moved the running statistics of batch norm, to NaN for ever if nothing is done.
            for buffer, old in zip(self.detector.buffers(), before, strict=True):
                buffer.copy_(old)
            return None
        together = {"batch_size": len(batch), "on_epoch": True, "sync_dist": ranks.world() > 1}
        self.log("loss", total.detach(), on_step=True, **together)
        for name, loss in losses.items():
            self.log(name, loss.detach(), on_step=False, **together)
        for name, loss in {**losses, "loss": total, "": torch.ones_like(total)}.items():
            self.sums[name] = self.sums.get(name, torch.zeros_like(total)) + loss.detach() * len(batch)
        return total

    def mean_losses(self) -> dict[str, float]:
        """The means over this epoch's samples, of all processes, and the end of the epoch's account."""
        sums, self.sums = {name: ranks.total(value) for name, value in self.sums.items()}, {}
        count = float(sums.pop("", torch.ones(())))
        return {name: float(value) / count for name, value in sums.items()}

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

    def on_validation_start(self) -> None:
        """Every process validates its share of the images with the same batch statistics."""
        ranks.share(self.detector.buffers())

    def on_validation_epoch_end(self) -> None:
        self.found, self.validated = ranks.gathered(self.validated), []
        figures = self.score(self.found)
        self.log_dict({f"validation_{name}": float(value) for name, value in figures.items()}, rank_zero_only=False)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["skipped"], checkpoint["sums"] = self.skipped, dict(self.sums)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.skipped = int(checkpoint.get("skipped", 0))
        self.sums = {name: value.to(self.device) for name, value in checkpoint.get("sums", {}).items()}

    def configure_optimizers(self) -> Any:
        groups: dict[tuple[float, bool], list[Tensor]] = {}
        for name, parameter in self.detector.named_parameters():
            if parameter.requires_grad:
                # Biases and norms have no scale to keep small.
                groups.setdefault((self._share(name), parameter.ndim > 1), []).append(parameter)
        order = sorted(groups, reverse=True)  # heads first, those that decay before those that do not
        still = {True: {}, False: {"weight_decay": 0.0}}
        optimizer = self.make_optimizer([{"params": groups[key], **still[key[1]]} for key in order])
        for group, (share, _) in zip(optimizer.param_groups, order, strict=True):
            group["lr"] = group["lr"] * share if share != 1 else group["lr"]
        schedule = LambdaLR(optimizer, lambda step: self.schedule.factor(step, self.steps))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def _share(self, name: str) -> float:
        """Of the learning rate, for a parameter of the detector: less in the stages of the backbone."""
        stages = getattr(getattr(self.detector, "backbone", None), "stages", {})
        stage = stages.get(name.removeprefix("backbone.body."))
        return 1.0 if stage is None else float(self.layer_decay ** (5 - stage))
