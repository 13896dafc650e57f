"""Feature extractors of torchvision and timm behind one face: planes, each half as fine as the one before.

What a network does with an image is seen, not looked up: it is run once on a small picture of zeros, which tells the
strides, the widths, the order of the axes, and which layer belongs to which stage.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torchvision
from torch import Tensor, nn
from torchvision.models._utils import IntermediateLayerGetter

from pipeline.errors import InputError
from pipeline.model.pretrained import DOWNLOAD_ERRORS, download_help

_PROBE = (128, 64)  # height and width of the picture of zeros; twice as high as wide, to tell the axes apart
_OF_TORCHVISION = ("res*", "wide_res*", "mobilenet*", "convnext*", "swin*", "efficientnet*", "densenet*", "vgg*")


@dataclass(frozen=True)
class Look:
    """What a network did: strides and widths of its planes, whether their channels come last, and per parameter its
    stage: 0 what is finer than the first plane, 1, 2 … the way to each plane."""

    strides: tuple[int, ...]
    widths: tuple[int, ...]
    channels_last: bool
    stages: Mapping[str, int]


class Stages(nn.Module):
    """The `features` of a torchvision classifier, of which the last layer of each stride from 4 on is given."""

    def __init__(self, features: nn.Sequential, levels: int):
        super().__init__()
        last: dict[int, int] = {}
        with torch.no_grad():
            plane = torch.zeros(1, 3, *_PROBE)
            for place, layer in enumerate(features.eval()):
                plane = layer(plane)
                last[_PROBE[0] // _height(plane)] = place
        self.ends = tuple(last.get(4 * 2**level, -1) for level in range(levels))
        self.features = features[: self.ends[-1] + 1].train()

    def forward(self, plane: Tensor) -> list[Tensor]:
        planes = []
        for place, layer in enumerate(self.features):
            plane = layer(plane)
            if place in self.ends:
                planes.append(plane)
        return planes


def torchvision_body(name: str, pretrained: bool, levels: int, norm: Callable[..., nn.Module]) -> nn.Module:
    """A feature extractor of torchvision, with its ImageNet weights if `pretrained`; norm: of ResNets.

    levels: how many planes, of strides 4, 8 …
    """
    known = torchvision.models.list_models(torchvision.models, include=_OF_TORCHVISION)
    if name not in known:
        raise InputError(f"model.backbone.name: wanted one of torchvision's {', '.join(known)}, got {name}")
    try:
        weights = torchvision.models.get_model_weights(name).DEFAULT if pretrained else None
        own = {"norm_layer": norm} if is_resnet(name) else {}
        network = torchvision.models.get_model(name, weights=weights, **own)
    except DOWNLOAD_ERRORS as error:
        raise InputError(download_help(f"ImageNet weights of {name}", error)) from error
    if is_resnet(name):
        return IntermediateLayerGetter(network, {f"layer{i + 1}": str(i) for i in range(levels)})
    return Stages(network.features, levels)


def is_resnet(name: str) -> bool:
    """Whether the name is of torchvision's ResNets, wide ones and ResNeXts included."""
    return name.startswith(("res", "wide_res"))


def timm_body(name: str, pretrained: bool, levels: int, norm: Callable[..., nn.Module]) -> nn.Module:
    """A feature extractor of timm, with the weights of its hub if `pretrained`, which has norms of its own.

    levels: how many planes, the last ones that the network has.
    """
    if importlib.util.find_spec("timm") is None:
        raise InputError(f'the backbone {name} needs timm: pip install "maskline[timm]"')
    import timm

    if not timm.is_model(name):
        raise InputError(f"model.backbone.name: timm {timm.__version__} has no model {name}")
    # Windows that fit one size of image only are not for images of all sizes.
    sizes: dict[str, Any] = {"strict_img_size": False} if name.startswith("swin") else {}
    try:
        return timm.create_model(
            name, features_only=True, out_indices=tuple(range(-levels, 0)), pretrained=pretrained, **sizes
        )
    except DOWNLOAD_ERRORS as error:
        raise InputError(download_help(f"ImageNet weights of {name}", error)) from error


def planes_of(result: Any) -> list[Tensor]:
    """The planes that an extractor gives, finest first; some give a mapping."""
    return list(result.values() if isinstance(result, Mapping) else result)


def refine(body: nn.Module, halvings: int) -> None:
    """Halve, in place and so often, the stride of the first layer that makes the image coarser.

    All planes become finer by as much; a convolution over patches that do not overlap gets some that do. Raises
    InputError where such patches would lie off the cells' middles.
    """
    for _ in range(halvings):
        coarser = [part for _, part, _ in _calls(body)[0] if max(_pair(getattr(part, "stride", 1))) > 1]
        if not coarser:
            return
        first: Any = coarser[0]
        stride, kernel = max(_pair(first.stride)) // 2, max(_pair(first.kernel_size))
        first.stride = (stride, stride) if isinstance(first.stride, tuple) else stride
        if kernel % 2 == 0 and stride % 2:
            raise InputError(f"model.backbone.stride: patches of {kernel} pixels have no middle at strides of {stride}")
        if kernel % 2 == 0:
            first.padding = ((kernel - stride) // 2,) * 2


def _pair(value: Any) -> tuple[int, ...]:
    return tuple(value) if isinstance(value, Iterable) and not isinstance(value, str) else (int(value or 1),)


def look(body: nn.Module, name: str) -> Look:
    """Run the network once, in evaluation mode, and tell what it does. Raises InputError where it is no pyramid."""
    try:
        calls, planes = _calls(body)
        heights = [_height(plane) for plane in planes]
    except (AssertionError, IndexError, RuntimeError, ValueError) as error:
        raise InputError(f"model.backbone.name: {name} cannot see images of every size: {error}") from error
    strides = tuple(_PROBE[0] // height for height in heights)
    last = planes[0].shape[1] == heights[0] and planes[0].shape[2] != planes[0].shape[3] * 2
    widths = tuple(plane.shape[-1 if last else 1] for plane in planes)
    return Look(strides, widths, last, _stages(body, calls, planes))


def _height(plane: Tensor) -> int:
    """Of (1, C, H, W) or (1, H, W, C), H being twice W."""
    return plane.shape[2] if plane.shape[2] == 2 * plane.shape[3] else plane.shape[1]


@torch.no_grad()
def _calls(body: nn.Module) -> tuple[list[tuple[str, nn.Module, Tensor]], list[Tensor]]:
    """Name, module and result of each part in the order in which they finish, and the planes."""
    calls: list[tuple[str, nn.Module, Tensor]] = []

    def remember(name: str) -> Callable[..., None]:
        def hook(part: nn.Module, _inputs: Any, output: Any) -> None:
            if isinstance(output, Tensor):
                calls.append((name, part, output))  # kept, so that no two results share an address

        return hook

    handles = [part.register_forward_hook(remember(name)) for name, part in body.named_modules()]
    was_training = body.training
    try:
        return calls, planes_of(body.eval()(torch.zeros(1, 3, *_PROBE)))
    finally:
        body.train(was_training)
        for handle in handles:
            handle.remove()


def _stages(body: nn.Module, calls: list[tuple[str, nn.Module, Tensor]], planes: list[Tensor]) -> dict[str, int]:
    """Per parameter its stage: that of the first plane that is finished after the part that holds it."""
    address = [output.untyped_storage().data_ptr() for _, _, output in calls]
    ends = [max((i for i, a in enumerate(address) if a == p.untyped_storage().data_ptr()), default=-1) for p in planes]
    coarse = [i for i, (_, _, output) in enumerate(calls) if output.ndim == 4 and _height(output) <= _height(planes[0])]
    first = min(coarse, default=0)
    stage_of = {name: 0 if i < first else 1 + sum(end < i for end in ends) for i, (name, _, _) in enumerate(calls)}
    return {name: min(_nearest(name, stage_of), len(planes)) for name, _ in body.named_parameters()}


def _nearest(name: str, stage_of: Mapping[str, int]) -> int:
    """The stage of the innermost part round a parameter that was called; some parts read the weights of others."""
    while name:
        name = name.rpartition(".")[0]
        if name and name in stage_of:
            return stage_of[name]
    return 0
