"""Averages of the weights of several steps, which generalise better than those of any one.

Lightning's own callback copies the whole module, the truth of the validation images included, and cannot give the
average outside a validation, where it is saved; this one keeps tensors only.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn


class Averaging(Callback):
    """Keeps an average of parameters and batch statistics; validations look at it, and it is what is saved as best.pt.

    share: of the newest weights in the average after so many optimizer steps, 0 to 1, or None to leave it as it is;
    the first one is taken whole. The average travels in the checkpoint, so a resumed run has the same bits.
    """

    def __init__(self, share: Callable[[int], float | None]):
        self.share, self.step = share, 0
        self.average: dict[str, Tensor] = {}
        self._swap = contextlib.ExitStack()

    def on_train_start(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        self.average = {name: tensor.to(module.device) for name, tensor in self.average.items()}

    @torch.no_grad()
    def on_train_batch_end(self, trainer: lightning.Trainer, module: lightning.LightningModule, *_: Any) -> None:
        if trainer.global_step == self.step:
            return  # a batch of several to a step
        self.step = trainer.global_step
        share = self.share(self.step)
        if share is None:
            return
        for name, tensor in module.detector.state_dict().items():
            if name not in self.average:
                self.average[name] = tensor.clone()
            elif tensor.is_floating_point():
                self.average[name].lerp_(tensor, share)
            else:
                self.average[name].copy_(tensor)

    @contextlib.contextmanager
    def shown(self, detector: nn.Module) -> Iterator[None]:
        """The detector with the average in place of its weights, if there is one yet."""
        own = {name: tensor.clone() for name, tensor in detector.state_dict().items()} if self.average else {}
        try:
            _put(detector, self.average)
            yield
        finally:
            _put(detector, own)

    def on_validation_start(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        self._swap.enter_context(self.shown(module.detector))

    def on_validation_end(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        self._swap.close()

    def state_dict(self) -> dict[str, Any]:
        return {"step": self.step, "average": self.average}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.step, self.average = int(state_dict["step"]), dict(state_dict["average"])


@torch.no_grad()
def _put(detector: nn.Module, state: Mapping[str, Tensor]) -> None:
    own = detector.state_dict() if state else {}
    for name, tensor in state.items():
        own[name].copy_(tensor)


def moving(decay: float) -> Callable[[int], float]:
    """An exponential moving average, as in timm and the EfficientDet code: young averages forget faster."""
    return lambda step: 1 - min(decay, (1 + step) / (10 + step))


def last_epochs(count: int, steps: int, epoch_steps: int) -> Callable[[int], float | None]:
    """The plain mean of the weights at the ends of the last so many epochs of a training of `steps` steps."""

    def share(step: int) -> float | None:
        if step % epoch_steps and step != steps:
            return None
        number = math.ceil(step / epoch_steps) - max(math.ceil(steps / epoch_steps) - count, 0)
        return 1 / number if number > 0 else None

    return share
