"""Several processes, one per device, that share a work of independent parts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import distributed

from pipeline.errors import InputError

Result = TypeVar("Result")
Item = TypeVar("Item")
_PATIENCE = timedelta(days=30)  # of one that has done its share and waits; a process that dies is noticed at once


@dataclass(frozen=True)
class Ranks:
    """The processes, as one of them sees it. rank: its number, 0 to world - 1. device: its own. group: their talk."""

    device: torch.device
    rank: int = 0
    world: int = 1
    group: Any = None

    def share(self, items: Sequence[Item]) -> list[Item]:
        """Of items that all know, those of this process: every world-th."""
        return list(items[self.rank :: self.world])

    def agree(self, decide: Callable[[], Result]) -> Result:
        """What the first process decides, in all of them. An error of the first is one of all."""
        result: list[Any] = [None]

        def first() -> None:
            if self.rank == 0:
                result[0] = decide()

        self.together(first)
        if self.world > 1:
            self._talk(distributed.broadcast_object_list, result, 0)
        found: Result = result[0]
        return found

    def together(self, work: Callable[[], None]) -> None:
        """Do this process's work, and wait for that of the others.

        An error of this process is raised once all are through. That of another raises InputError, saying whose and
        which; so does the death of a process.
        """
        failed: Exception | None = None
        try:
            work()
        except Exception as error:
            if self.world == 1:
                raise
            failed = error
        if self.world > 1:
            said: list[str | None] = [None] * self.world
            self._talk(distributed.all_gather_object, said, None if failed is None else str(failed) or repr(failed))
            if failed is not None:
                raise failed
            for number, message in enumerate(said):
                if message:
                    raise InputError(f"process {number + 1} of {self.world}: {message}")

    def _talk(self, act: Callable[..., Any], *words: Any) -> None:
        try:
            act(*words, group=self.group)
        except RuntimeError as error:
            said = f"another of the {self.world} processes has died; its own last lines say why"
            raise InputError(f"process {self.rank + 1}: {said}. Run again to go on where it stopped") from error


def gather(accelerator: str, devices: int | str, nodes: int) -> Ranks:
    """The processes for so many devices on so many nodes, as Lightning takes them; this one alone for one device.

    Those that are missing are started by Lightning, with this process's own command line; under torchrun or a cluster's
    launcher they are there already.
    """
    if devices in (1, "1") and nodes == 1:
        on_gpu = accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available()
        return Ranks(torch.device("cuda" if on_gpu else "cpu"))
    import lightning  # takes seconds, which one process alone does without
    from lightning.fabric.strategies import DDPStrategy

    # Only words are exchanged, so gloo will do whatever the devices; no gradient ever travels.
    strategy = DDPStrategy(process_group_backend="gloo", timeout=_PATIENCE)
    fabric = lightning.Fabric(accelerator=accelerator, devices=devices, num_nodes=nodes, strategy=strategy)
    fabric.launch()
    # A group of its own: after a training there is one already, with another backend and less patience.
    group = distributed.new_group(backend="gloo", timeout=_PATIENCE)
    return Ranks(fabric.device, fabric.global_rank, fabric.world_size, group)
