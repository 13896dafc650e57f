"""What several processes of one training tell one another. With one process each function gives back what it got."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, distributed

from pipeline.instances import Detections


def world() -> int:
    """How many processes there are."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def any_of(flag: bool, device: torch.device) -> bool:
    """Whether the flag is true in any process: what one leaves out all must leave out, or they wait for ever."""
    if world() == 1:
        return flag
    count = torch.tensor(float(flag), device=device)
    distributed.all_reduce(count)
    return bool(count)


def total(tensor: Tensor) -> Tensor:
    """The sum of a tensor over all processes."""
    if world() > 1:
        tensor = tensor.clone()
        distributed.all_reduce(tensor)
    return tensor


def share(tensors: Iterable[Tensor]) -> None:
    """Give every process, in place, the tensors of the first."""
    if world() > 1:
        for tensor in tensors:
            distributed.broadcast(tensor, 0)


def gathered(own: Sequence[Detections]) -> list[Detections]:
    """The detections of all processes, each image once, where process r of n had the images r, r + n, …"""
    parts: list[Sequence[Detections]] = [own]
    if world() > 1:
        parts = [()] * world()
        distributed.all_gather_object(parts, list(own))
    rows = [part[i] for i in range(max(map(len, parts))) for part in parts if i < len(part)]
    return list({one.image_id: one for one in reversed(rows)}.values())[::-1]


def is_first() -> bool:
    """Whether this process is the first, which writes what is written once."""
    return world() == 1 or distributed.get_rank() == 0
