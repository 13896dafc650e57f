"""A classifier of images: which categories are there, nowhere in particular.

Whether a category is there follows from the instances that a sample shows, so a random crop has the labels of the crop,
not of its image. Whole images (`augment.crop=null`) are what a prediction sees as well.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from pipeline.instances import Alignment, Detections, Size
from pipeline.model.backbone import Backbone, Pyramid, build_planes
from pipeline.model.images import continued, resized

_STRIDE = 32  # of the coarsest plane, with a finest one of 4


@dataclass(frozen=True)
class Classifier:
    """What classifier to build.

    backbone: its planes are pooled as they are, so `channels` says nothing here. weights: "imagenet" (backbone only),
    "none", or a weights file of `train`. scale: factor on the image's sides before the backbone.
    Raises ValueError for a number out of its range.
    """

    family: ClassVar[str] = "classifier"
    alignment: ClassVar[Alignment] = "aligned"
    detections: ClassVar[None] = None  # no limit
    mask_size: ClassVar[int] = 1  # the whole image is one bin

    backbone: Backbone
    weights: str
    scale: float

    def __post_init__(self) -> None:
        if self.scale <= 0:
            raise ValueError(f"scale: wanted a factor above 0, got {self.scale}")

    def sized(self, statistics: Mapping[str, Any]) -> Classifier:
        """Itself: nothing in it follows from the data."""
        return self

    def build(self, categories: int, pretrained: bool = True) -> ImageClassifier:
        """The module for `categories` classes. pretrained: load the ImageNet weights that `weights` names."""
        backbone = build_planes(self.backbone, pretrained and self.weights == "imagenet", self.weights != "none")
        return ImageClassifier(self, backbone, categories).arranged(torch.channels_last)

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> Classifier:
        """Inverse of `dataclasses.asdict`, also after a journey through JSON or a weights file."""
        own = {name: value for name, value in plain.items() if name != "family"}
        return cls(**{**own, "backbone": Backbone.from_plain(plain["backbone"])})


class ImageClassifier(nn.Module):
    """Images in, losses or probabilities out."""

    mean: Tensor
    std: Tensor
    order: torch.memory_format = torch.channels_last
    predictors: ClassVar[tuple[str, ...]] = ("head.linear.",)  # tensors that follow from the categories

    def __init__(self, spec: Classifier, backbone: Pyramid, categories: int):
        super().__init__()
        self.spec, self.backbone = spec, backbone
        norm = spec.backbone.norm_layer() or nn.Identity
        self.head = Head([norm(width) for width in backbone.widths], sum(backbone.widths), categories)
        self.register_buffer("mean", torch.tensor(spec.backbone.mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(spec.backbone.std).view(3, 1, 1), persistent=False)

    def arranged(self, order: torch.memory_format) -> ImageClassifier:
        """Itself, with parameters and batches in this order in memory from now on."""
        self.order = order
        return self.to(memory_format=order)

    def forward(self, images: list[Tensor], targets: list[dict[str, Any]] | None = None) -> Any:
        """Training: a dict of one loss. Otherwise float32 (B, K): the probability that each category is there.

        images: (3, H, W) of levels 0 to 255, of any sizes. targets: per image labels int64 (n,), from 1. Every category
        is a question of its own, so that an image may show several or none; binary cross-entropy, as a mean over both.
        """
        logits = self._logits(images)
        if not self.training:
            return logits.sigmoid()
        truth = torch.stack([_there(target["labels"], logits.shape[1]) for target in targets or ()]).to(logits)
        return {"loss_presence": functional.binary_cross_entropy_with_logits(logits, truth)}

    def _logits(self, images: Sequence[Tensor]) -> Tensor:
        """float32 (B, K). Images are padded to one size; of each plane the cells count that its own image reaches."""
        small = [resized((image / 255 - self.mean) / self.std, self.spec.scale) for image in images]
        batch, sizes = continued(small, _STRIDE)
        planes = self.backbone(batch.contiguous(memory_format=self.order))
        result: Tensor = self.head(list(planes.values()), sizes, (batch.shape[-2], batch.shape[-1])).float()
        return result

    @torch.inference_mode()
    def probabilities(self, image: Tensor) -> Tensor:
        """float32 (K,), 0 to 1, for an image (3, H, W) of levels 0 to 255; the module must be in evaluation mode."""
        result: Tensor = self([image.to(self.mean.device)])[0]
        return result

    def detect(self, image: Tensor, image_id: str) -> Detections:
        """See `everywhere`; of an image uint8 (3, H, W), on any device."""
        size = (image.shape[-2], image.shape[-1])
        return everywhere(self.probabilities(image).cpu().numpy(), image_id, size)


class Head(nn.Module):
    """The mean and the maximum of every channel of every plane over the image, and one linear map of all of them.

    The mean says how much of something there is; in it an object of a few cells is lost among hundreds, in the maximum
    it is not. The norms come before the pooling, where a batch of two images has thousands of cells to take statistics
    of. The map starts at zero: what has not learnt says one half.
    """

    def __init__(self, norms: Sequence[nn.Module], width: int, categories: int):
        super().__init__()
        self.norms, self.linear = nn.ModuleList(norms), nn.Linear(2 * width, categories)
        for value in (self.linear.weight, self.linear.bias):
            nn.init.zeros_(value)

    def forward(self, planes: Sequence[Tensor], sizes: Sequence[Size], padded: Size) -> Tensor:
        """Logits (B, K) of planes (B, C, H/s, W/s), H and W being `padded`, of images whose own are `sizes`."""
        normed = [norm(plane) for norm, plane in zip(self.norms, planes, strict=True)]
        pooled = [torch.cat([_pooled(p[i], size, padded) for p in normed]) for i, size in enumerate(sizes)]
        result: Tensor = self.linear(torch.stack(pooled))
        return result


def everywhere(probabilities: NDArray[np.float32], image_id: str, size: Size) -> Detections:
    """What a classifier says, float32 (K,), as detections: the whole image of `size` (H, W), once of each category."""
    count, (height, width) = len(probabilities), size
    boxes = np.tile(np.array([0, 0, width, height], np.float32), (count, 1))
    labels, masks = np.arange(1, count + 1, dtype=np.int64), np.ones((count, 1, 1), np.float32)
    return Detections(image_id, size, boxes, probabilities.astype(np.float32), labels, masks)


def _there(labels: Tensor, categories: int) -> Tensor:
    """bool (K,): whether each category is among the labels int64 (n,), from 1."""
    result = torch.zeros(categories, dtype=torch.bool, device=labels.device)
    result[labels - 1] = True
    return result


def _pooled(plane: Tensor, size: Size, padded: Size) -> Tensor:
    """(2C,) of a plane (C, h, w) of an image padded from `size`: mean and maximum of the cells that show some of it."""
    rows, columns = (-(-own * cells // whole) for own, cells, whole in zip(size, plane.shape[-2:], padded, strict=True))
    own = plane[:, :rows, :columns].flatten(1)
    return torch.cat([own.mean(1), own.amax(1)])
