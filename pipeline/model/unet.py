"""A U-Net (Ronneberger et al. 2015) that says of each pixel what it is, and finds instances by a watershed.

Whatever the classes, the shape of an instance is told by three planes: foreground, boundary between neighbours, and
depth inside the own instance. Classes are told apart in the foreground alone. So instances of different classes that
touch are separated like any others, and doubt about a class does not cut one in two; a pixel has one instance only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.errors import ConfigError, InputError
from pipeline.instances import Alignment, Detections
from pipeline.model import planes, watershed
from pipeline.model.backbone import Backbone, timm_features
from pipeline.model.images import continued, resized

_STRIDES = (2, 4, 8, 16, 32)
_SHAPES = 3  # planes before those of the classes: foreground, boundary, depth
_ENCODER = {"stride": 4, "norm": None, "trainable_stages": 5}  # what it has no choice of; its finest stride is 2
_PRIOR = (0.2, 0.02)  # about the share of pixels that are foreground and boundary: where a random start begins


@dataclass(frozen=True)
class UNet:
    """What U-Net to build, and how instances follow from its planes.

    backbone: the encoder, of timm; its `channels` are those of the decoder's coarsest level, and each finer one has
    half of them. weights: "imagenet" (encoder only), "none", or a weights file of `train`.
    scale: factor on the image's sides before the encoder.
    reach: rows and columns from a pixel within which two instances make it boundary.
    foreground: probability above which a pixel belongs to an instance, 0 to 1. marker: height above which a connected
    part of the foreground is an instance of its own, 0 to 1: depth, times the probability that it is no boundary. Null,
    for either: `train` chooses it on the validation images when it ends; where there are none it is 0.5 or 0.4.
    min_area: smallest instance in pixels. mask_size: M, bins per side of a mask. score_floor: of detections, 0 to 1.
    Raises ValueError for a number out of its range.
    """

    family: ClassVar[str] = "unet"
    alignment: ClassVar[Alignment] = "aligned"
    detections: ClassVar[None] = None  # no limit
    OPEN: ClassVar[Mapping[str, float]] = {"foreground": 0.5, "marker": 0.4}  # until they are chosen

    backbone: Backbone
    weights: str
    scale: float
    reach: int
    foreground: float | None
    marker: float | None
    min_area: int
    mask_size: int
    score_floor: float

    def __post_init__(self) -> None:
        for name in ("foreground", "marker", "score_floor"):
            if getattr(self, name) is not None and not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name}: wanted a number from 0 to less than 1, got {getattr(self, name)}")
        for name in ("reach", "mask_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: wanted at least 1, got {getattr(self, name)}")
        if self.scale <= 0:
            raise ValueError(f"scale: wanted a factor above 0, got {self.scale}")

    def sized(self, statistics: Mapping[str, Any]) -> UNet:
        """The same with thresholds to begin with in the place of null; nothing in it follows from the statistics."""
        return replace(self, **{name: value for name, value in self.OPEN.items() if getattr(self, name) is None})

    def build(self, categories: int, pretrained: bool = True) -> Segmenter:
        """The module for `categories` classes. Every field must be set (see `sized`).

        pretrained: load the ImageNet weights that `weights` names.
        """
        if self.foreground is None or self.marker is None:
            raise ValueError("the U-Net has no thresholds yet: call sized(statistics) first")
        if self.backbone.library != "timm":
            wanted = "model.backbone.library: the encoder of a U-Net is one of timm's"
            raise InputError(f"{wanted}, got {self.backbone.library}; it has torchvision's ResNets as well")
        for name, only in _ENCODER.items():
            if getattr(self.backbone, name) != only:
                got = f"got {getattr(self.backbone, name)}"
                raise InputError(f"model.backbone.{name}: the encoder of a U-Net knows {only} alone, {got}")
        try:
            encoder = timm_features(self.backbone, pretrained and self.weights == "imagenet", _STRIDES)
        except (IndexError, AssertionError):  # what timm says of a network with fewer planes
            wanted = f"model.backbone.name: the encoder of a U-Net has planes of the strides {_STRIDES}"
            raise InputError(f"{wanted}, {self.backbone.name} has not; a ResNet or an EfficientNet has") from None
        return Segmenter(self, encoder, categories).arranged(torch.channels_last)

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> UNet:
        """Inverse of `dataclasses.asdict`, also after a journey through JSON or a weights file."""
        own = {name: value for name, value in plain.items() if name != "family"}
        return cls(**{**own, "backbone": Backbone.from_plain(plain["backbone"])})


@dataclass(frozen=True)
class Thresholds:
    """Thresholds of a U-Net's watershed in the place of those in its weights, each 0 to 1; null: the weights' own.

    foreground, marker: see `UNet`. Raises ValueError for a number out of its range.
    """

    foreground: float | None = None
    marker: float | None = None

    def __post_init__(self) -> None:
        for name, value in self.given().items():
            if not 0 <= value < 1:
                raise ValueError(f"{name}: wanted a number from 0 to less than 1, got {value}")

    def given(self) -> dict[str, float]:
        """Those that are not null."""
        own = {"foreground": self.foreground, "marker": self.marker}
        return {name: value for name, value in own.items() if value is not None}

    def within(self, spec: Any) -> Any:
        """A model's description with these thresholds. Raises ConfigError where the model has no watershed to set."""
        given = self.given()
        if given and not isinstance(spec, UNet):
            name, value = next(iter(given.items()))
            raise ConfigError(f"watershed.{name}={value}: wanted weights of model=unet, got those of {spec.family}")
        return replace(spec, **given) if given else spec


class Segmenter(nn.Module):
    """Images in, losses or detections out."""

    mean: Tensor
    std: Tensor
    order: torch.memory_format = torch.channels_last
    predictors: ClassVar[tuple[str, ...]] = ("network.1.classes.",)  # tensors that follow from the categories

    def __init__(self, spec: UNet, encoder: nn.Module, categories: int):
        super().__init__()
        widths: Sequence[int] = encoder.feature_info.channels()  # type: ignore[operator, union-attr]
        self.spec, self.score_floor = spec, spec.score_floor
        classes = categories if categories > 1 else 0
        self.network = nn.Sequential(encoder, Decoder(widths, spec.backbone.channels, classes))
        self.register_buffer("mean", torch.tensor(spec.backbone.mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(spec.backbone.std).view(3, 1, 1), persistent=False)

    def arranged(self, order: torch.memory_format) -> Segmenter:
        """Itself, with parameters and batches in this order in memory from now on."""
        self.order = order
        return self.to(memory_format=order)

    def forward(self, images: list[Tensor], targets: list[dict[str, Any]] | None = None) -> Any:
        """Training: a dict of losses. Otherwise the planes of each image, as `maps` gives them.

        images: (3, H, W) of levels 0 to 255, of any sizes. targets: per image labels int64 (n,) from 1 and masks
        `Windows`.
        """
        logits = self._logits(images)
        if not self.training:
            return [_probabilities(one) for one in logits]
        truth = [_truth(target, self.spec.reach) for target in targets or ()]
        flat = torch.cat([one.flatten(1) for one in logits], 1)
        shapes = torch.from_numpy(np.concatenate([one.reshape(_SHAPES, -1) for one, _ in truth], 1)).to(flat.device)
        classes = torch.from_numpy(np.concatenate([one.ravel() for _, one in truth])).to(flat.device)
        return losses(flat, shapes, classes)

    def _logits(self, images: Sequence[Tensor]) -> list[Tensor]:
        """The network's planes (K, H, W) for each image, in its own pixels, float32."""
        small = [resized((image / 255 - self.mean) / self.std, self.spec.scale) for image in images]
        batch, _ = continued(small, _STRIDES[-1])
        whole = self.network(batch.contiguous(memory_format=self.order)).float()
        own = [one[:, : p.shape[-2], : p.shape[-1]] for one, p in zip(whole, small, strict=True)]
        if self.spec.scale == 1:
            return own
        sizes = [image.shape[-2:] for image in images]
        return [functional.interpolate(p[None], s, mode="bilinear")[0] for p, s in zip(own, sizes, strict=True)]

    @torch.inference_mode()
    def maps(self, image: Tensor) -> Tensor:
        """Planes float32 (K, H, W), 0 to 1, of an image (3, H, W) of levels 0 to 255, on its device.

        In turn the probability of foreground, that of a boundary between two instances, and depth in the own instance;
        then, where there are several classes, the probability of each, which says something in the foreground only.
        The module must be in evaluation mode.
        """
        result: Tensor = self([image])[0]
        return result

    def instances(self, maps: Tensor, image_id: str, size: tuple[int, int]) -> Detections:
        """The instances in planes such as `maps` gives, of an image of `size` (H, W)."""
        foreground, boundary, depth, *classes = maps.float().cpu().numpy()
        spec = self.spec
        assert spec.foreground is not None and spec.marker is not None  # noqa: PT018
        height = depth * (1 - boundary)
        found = watershed.regions(foreground > spec.foreground, height, height > spec.marker, spec.min_area)
        probable = np.asarray(classes, np.float32).reshape(-1, *size)
        return watershed.detections(
            found, foreground, spec.foreground, probable, image_id, spec.mask_size, self.score_floor, height
        )

    def detect(self, image: Tensor, image_id: str) -> Detections:
        """Detections of one image, uint8 (3, H, W), on any device; the module must be in evaluation mode."""
        return self.instances(self.maps(image.to(self.mean.device)), image_id, (image.shape[-2], image.shape[-1]))


class Decoder(nn.Module):
    """Features of falling resolution back to planes of the image's."""

    def __init__(self, widths: Sequence[int], channels: int, classes: int):
        super().__init__()
        self.blocks = nn.ModuleList()
        before = widths[-1]
        for skip in (*widths[-2::-1], 0):
            self.blocks.append(nn.Sequential(*_convolution(before + skip, channels), *_convolution(channels, channels)))
            before, channels = channels, max(channels // 2, 8)
        self.shapes = nn.Conv2d(before, _SHAPES, 1)
        nn.init.zeros_(self.shapes.bias)
        with torch.no_grad():  # an optimizer that moves a bias by its rate would take a thousand steps to get there
            self.shapes.bias[:2] = torch.tensor(_PRIOR).logit()
        self.classes = nn.Conv2d(before, classes, 1) if classes else None

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Features (B, C, H/s, W/s), finest first; planes (B, 3 + classes, H, W)."""
        plane, *skips = reversed(features)
        for i, block in enumerate(self.blocks):
            plane = functional.interpolate(plane, scale_factor=2.0, mode="nearest")
            plane = block(torch.cat([plane, skips[i]], 1) if i < len(skips) else plane)
        shapes: Tensor = self.shapes(plane)
        return shapes if self.classes is None else torch.cat([shapes, self.classes(plane)], 1)


def losses(logits: Tensor, shapes: Tensor, classes: Tensor) -> dict[str, Tensor]:
    """Losses of P pixels.

    logits: (K, P): foreground, boundary, depth, and the classes where there are several. shapes: float32 (3, P), what
    the first three should be, 0 to 1. classes: int64 (P,), from 1, 0 outside the foreground.
    Foreground and boundary: binary cross-entropy and soft Dice. Depth: smooth L1, foreground and background each by its
    mean, so that neither is lost in the other. Classes: cross-entropy in the foreground.
    """
    inside = shapes[0] > 0
    depth = functional.smooth_l1_loss(logits[2].sigmoid(), shapes[2], reduction="none", beta=0.1)
    result = {
        "loss_foreground": _overlap(logits[0], shapes[0]),
        "loss_boundary": _overlap(logits[1], shapes[1]),
        "loss_depth": _mean(depth, inside) + _mean(depth, ~inside),
    }
    if len(logits) > _SHAPES:
        wrong = functional.cross_entropy(logits[_SHAPES:].T, (classes - 1).clamp(min=0), reduction="none")
        result["loss_class"] = _mean(wrong, inside)
    return result


def _mean(values: Tensor, where: Tensor) -> Tensor:
    return (values * where).sum() / where.sum().clamp(min=1)


def _overlap(logits: Tensor, truth: Tensor) -> Tensor:
    """Binary cross-entropy plus 1 - soft Dice (Milletari et al. 2016), over all pixels of the batch at once."""
    probable = logits.sigmoid()
    dice = (2 * (probable * truth).sum() + 1) / (probable.sum() + truth.sum() + 1)
    return functional.binary_cross_entropy_with_logits(logits, truth) + 1 - dice


def _truth(target: Mapping[str, Any], reach: int) -> tuple[np.ndarray, np.ndarray]:
    """Of one target: float32 (3, H, W), what foreground, boundary and depth are; int64 (H, W), the classes."""
    labels = planes.label_plane(target["masks"])
    shapes = np.stack([(labels > 0).astype(np.float32), planes.between(labels, reach), planes.depth(labels)])
    return shapes, np.append(0, target["labels"].cpu().numpy())[labels]


def _probabilities(logits: Tensor) -> Tensor:
    return torch.cat([logits[:_SHAPES].sigmoid(), logits[_SHAPES:].softmax(0)])


def _convolution(inputs: int, outputs: int) -> list[nn.Module]:
    return [nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]
