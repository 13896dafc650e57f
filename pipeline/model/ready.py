"""A model made ready for inference: the same function of the image, with less to compute."""

from __future__ import annotations

import copy
import logging
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d

from pipeline.model.detector import Detector

log = logging.getLogger(__name__)
_NORMS = (nn.BatchNorm2d, FrozenBatchNorm2d)
_TOLERANCE = 1e-3  # of the largest feature; folding moves them by rounding, some 1e-6


def ready(model: Any, score_floor: float | None = None) -> Any:
    """A copy in evaluation mode for inference only: batch norms folded into convolutions.

    Its detections are those of the original up to rounding; its state dict is another and no training's start.
    score_floor: least score of a detection, 0 to 1, instead of the description's. It acts before the mask head, most
    of whose work is for detections that no one keeps, and leaves the detections above it as they are.
    """
    result = copy.deepcopy(model).eval().requires_grad_(False)
    two_stages = isinstance(result, Detector)
    if score_floor is not None:
        if two_stages:
            result.roi_heads.score_thresh = score_floor
        else:
            result.score_floor = score_floor
    name = next((own for own in ("backbone", "network") if hasattr(result, own)), None)
    if name is None:  # nothing that learns
        return result
    example = torch.linspace(-2, 2, 3 * 64 * 64, device=model.mean.device).view(1, 3, 64, 64)
    folded = copy.deepcopy(getattr(result, name))
    fold_norms(folded, example)
    if _close(folded(example), getattr(result, name)(example)):
        setattr(result, name, folded)
    else:
        log.info("the backbone uses its convolutions in a way that keeps batch norm from being folded into them")
    return result.arranged(torch.channels_last)


def _close(one: Any, other: Any) -> bool:
    """Whether two planes, or two mappings of them, are the same up to rounding."""
    if isinstance(one, Tensor):
        return bool((one - other).abs().max() <= _TOLERANCE * other.abs().max())
    return all(_close(plane, other[name]) for name, plane in one.items())


@torch.no_grad()
def fold_norms(module: nn.Module, example: Any) -> int:
    """Fold, in place, each batch norm of a module in evaluation mode into the convolution whose result it is given.

    example: an input of the module, from which it is seen what follows what. Gives how many were folded. Where a
    network uses the convolution's own result as well, or a layer more than once, the result is another function.
    """
    pairs = _norms_after_convolutions(module, example)
    names = {id(part): name for name, part in module.named_modules()}
    for norm, convolution in pairs:
        scale = (norm.running_var.double() + norm.eps).rsqrt() * (1 if norm.weight is None else norm.weight)
        bias = -norm.running_mean * scale + (0 if norm.bias is None else norm.bias)
        bias = bias + (0 if convolution.bias is None else convolution.bias * scale)
        convolution.weight.copy_(convolution.weight * scale[:, None, None, None])
        convolution.bias = nn.Parameter(bias.to(convolution.weight.dtype), requires_grad=False)
        # timm's norms hold the activation that follows.
        module.set_submodule(names[id(norm)], getattr(norm, "act", nn.Identity()))
    return len(pairs)


def _norms_after_convolutions(module: nn.Module, example: Any) -> list[tuple[Any, nn.Conv2d]]:
    """Pairs of a batch norm and the convolution that gives its input."""
    made: list[tuple[Tensor, nn.Conv2d]] = []  # results are kept, so that no two have the same identity
    pairs: list[tuple[Any, nn.Conv2d]] = []

    def remember(part: nn.Module, _inputs: Any, output: Tensor) -> None:
        made.append((output, part))

    def look(part: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        pairs.extend((part, own) for output, own in made if output is inputs[0])

    handles = [part.register_forward_hook(remember) for part in module.modules() if isinstance(part, nn.Conv2d)]
    handles += [part.register_forward_pre_hook(look) for part in module.modules() if isinstance(part, _NORMS)]
    try:
        module(example)
    finally:
        for handle in handles:
            handle.remove()
    return pairs
