"""The detector: torchvision's Mask R-CNN built from its parts, sized by what was measured of the data."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead, FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.rpn import RPNHead
from torchvision.ops import FrozenBatchNorm2d

from pipeline.instances import Alignment, Detections
from pipeline.model.backbone import Backbone, build_backbone
from pipeline.model.detail import Detail
from pipeline.model.heads import DETAIL, Heads
from pipeline.model.images import resized
from pipeline.model.pooling import PyramidPool
from pipeline.model.proposals import Proposals

_ASPECTS = (0.5, 1.0, 2.0)
_CHANNELS_LAST = torch.channels_last


@dataclass(frozen=True)
class MaskRCNN:
    """What detector to build. Null means: derived from the statistics of the data, see `sized`.

    weights: "coco" (torchvision's, for resnet50), "imagenet" (backbone only), "none", or a weights file of `train`.
    heads: "plain" as in torchvision's maskrcnn_resnet50_fpn, or "v2" as in its maskrcnn_resnet50_fpn_v2: four
    convolutions before the box head's dense layer, one more in the proposal network, and norms in box and mask head.
    mask_size: M, bins per side of a mask. alignment: of pooled features, mask targets and pasted masks: "aligned" in
    continuous coordinates, "torchvision" as its Mask R-CNN has them, for weights trained under it.
    scale: factor on the image's sides before the backbone.
    anchors: side in pixels of the anchors of the five levels. detections: the most an image may have.
    proposals: kept after the proposal network's NMS; candidates: before it, per level.
    box_samples: boxes per image that train the box head. score_floor, nms: of detections, 0 to 1.
    mask_loss: of the mask head. class_weights: of the background and of each category in the loss of the box head's
    classes, null for equal ones. detail: whether masks are refined from the image's own pixels, see
    `pipeline.model.detail`.
    """

    family: ClassVar[str] = "maskrcnn"

    backbone: Backbone
    weights: str
    mask_size: int
    alignment: Alignment
    scale: float
    anchors: tuple[float, ...] | None
    detections: int | None
    proposals: int | None
    candidates: int | None
    box_samples: int
    score_floor: float
    nms: float
    mask_loss: Literal["bce", "dice", "bce_dice", "lovasz"] = "bce"
    class_weights: tuple[float, ...] | None = None
    heads: Literal["plain", "v2"] = "plain"
    detail: bool = False

    def sized(self, statistics: Mapping[str, Any]) -> MaskRCNN:
        """The same with every null replaced by a number derived from `statistics`, as `convert` measures them.

        Detections: half more than the fullest image has, at least 100. Anchors: the smallest is the 5 % quantile of
        the box sides, each level doubles it. Proposals: twice the detections.
        """
        fullest = statistics["per_image"]["max"] or 0
        smallest = (statistics["box_side"]["p05"] or 16) * self.scale
        detections = self.detections or max(100, math.ceil(1.5 * fullest))
        # Powers of two, so that a few more images do not change the model; none is smaller than the finest cell.
        base = max(2.0 ** min(round(math.log2(smallest)), 5), float(self.backbone.stride))
        return dataclasses.replace(
            self,
            detections=detections,
            anchors=self.anchors or tuple(base * 2**level for level in range(len(self.backbone.strides))),
            proposals=self.proposals or max(500, 2 * detections),
            candidates=self.candidates or max(1000, 2 * detections),
        )

    def build(self, categories: int, pretrained: bool = True) -> Detector:
        """The module for `categories` classes. Every field must be set (see `sized`).

        pretrained: load the ImageNet weights that `weights` names; `pipeline.model.weights` loads the other kinds.
        """
        if self.anchors is None or self.proposals is None or self.candidates is None or self.detections is None:
            raise ValueError("the detector has no sizes yet: call sized(statistics) first")
        backbone = build_backbone(self.backbone, pretrained and self.weights == "imagenet", self.weights != "none")
        if self.weights == "coco" and self.heads == "plain":
            _remove_epsilon(backbone)
        detector = Detector(self, backbone, categories)
        # Dense convolutions of large planes: backward on a CPU, channels-last costs them twice the time.
        return detector.arranged(torch.contiguous_format if self.backbone.is_plain_resnet else _CHANNELS_LAST)

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> MaskRCNN:
        """Inverse of `dataclasses.asdict`, also after a journey through JSON or a weights file.

        Weights files from before there was a choice of alignment are aligned.
        """
        own = {name: value for name, value in plain.items() if name != "family"}
        lists = {name: tuple(own[name]) for name in ("anchors", "class_weights") if own.get(name) is not None}
        return cls(**{"alignment": "aligned", **own, **lists, "backbone": Backbone.from_plain(plain["backbone"])})


class Detector(nn.Module):
    """Images in, losses or detections out; parameters are named as in torchvision's Mask R-CNN.

    Under autocast the heavy modules run in low precision and hand on float32: boxes computed in bfloat16 would be
    off by pixels.
    """

    predictors: ClassVar[tuple[str, ...]] = (
        "roi_heads.box_predictor.",
        "roi_heads.mask_predictor.mask_fcn_logits.",
        "roi_heads.refine.",
        "detail.",
    )
    """Beginnings of the names of the parameters that a start may lack: those of the categories, and of the detail."""

    mean: Tensor
    std: Tensor
    order: torch.memory_format = _CHANNELS_LAST

    def __init__(self, spec: MaskRCNN, backbone: nn.Module, categories: int):
        super().__init__()
        self.spec, self.backbone = spec, backbone
        self.rpn, self.roi_heads = _proposals(spec), _heads(spec, categories)
        self.detail = Detail() if spec.detail else None
        self.register_buffer("mean", torch.tensor(spec.backbone.mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(spec.backbone.std).view(3, 1, 1), persistent=False)
        for part in (self.backbone, self.rpn.head, self.roi_heads.box_predictor, self.roi_heads.mask_predictor):
            part.register_forward_hook(_to_float32)

    def arranged(self, order: torch.memory_format) -> Detector:
        """Itself, with parameters and batches in this order in memory from now on."""
        self.order = order
        return self.to(memory_format=order)

    def forward(self, images: list[Tensor], targets: list[dict[str, Any]] | None = None) -> Any:
        """Training: a dict of losses. Otherwise a dict per image, in its own pixels.

        images: uint8 (3, H, W), of any sizes. targets: per image boxes float32 (n, 4), half-open xyxy pixels; labels
        int64 (n,) from 1; masks `Windows`. Result: boxes float32 (n, 4), labels int64 (n,), scores float32 (n,)
        in falling order, masks float32 (n, M, M) in the box's frame.
        """
        batch, sizes = self.batch(images)
        factors = [factor_of(image, size) for image, size in zip(images, sizes, strict=True)]
        scaled = None if targets is None else [_scaled(t, f) for t, f in zip(targets, factors, strict=True)]
        features = self.backbone(batch)
        proposals, losses = self.rpn(ImageList(batch, sizes), features, scaled)
        results, more = self.roi_heads(features | self.details(batch), proposals, sizes, scaled)
        if self.training:
            return losses | more
        for result, factor in zip(results, factors, strict=True):
            result["boxes"] = result["boxes"] / factor
        return results

    def details(self, batch: Tensor) -> dict[str, Tensor]:
        """The features of a batch, as `batch` gives it, that the heads want beside those of the backbone."""
        return {} if self.detail is None else {DETAIL: self.detail(batch).float()}

    def batch(self, images: list[Tensor]) -> tuple[Tensor, list[tuple[int, int]]]:
        """Normalised images (B, 3, h, w), padded right and below to a multiple of 32, and their own sizes."""
        planes = [resized((image / 255 - self.mean) / self.std, self.spec.scale) for image in images]
        sizes = [(plane.shape[-2], plane.shape[-1]) for plane in planes]
        height, width = (-(-max(side) // 32) * 32 for side in zip(*sizes, strict=True))
        padded = [functional.pad(p, (0, width - p.shape[-1], 0, height - p.shape[-2])) for p in planes]
        return torch.stack(padded).contiguous(memory_format=self.order), sizes

    @torch.inference_mode()
    def detect(self, image: Tensor, image_id: str) -> Detections:
        """Detections of one image, uint8 (3, H, W), on any device; the module must be in evaluation mode."""
        device = self.mean.device
        result = {name: column.cpu().numpy() for name, column in self([image.to(device)])[0].items()}
        return Detections(
            image_id,
            (image.shape[-2], image.shape[-1]),
            result["boxes"].astype(np.float32),
            result["scores"].astype(np.float32),
            result["labels"].astype(np.int64),
            result["masks"].astype(np.float32),
            self.spec.alignment,
        )


def factor_of(image: Tensor, size: tuple[int, int]) -> Tensor:
    """By what an image's boxes grow with it to `size` (h, w), float32 (4,): its sides are whole, `scale` is not."""
    across, down = size[1] / image.shape[-1], size[0] / image.shape[-2]
    return torch.tensor([across, down, across, down], device=image.device)


def _scaled(target: dict[str, Any], factor: Tensor) -> dict[str, Any]:
    """The target in the pixels of the resized image; the masks stay as they are, so the heads are told the factor."""
    return {**target, "boxes": target["boxes"] * factor, "factor": factor}


def _remove_epsilon(backbone: nn.Module) -> None:
    """torchvision's COCO weights were trained without batch norm's epsilon; its own builder removes it as well."""
    for part in backbone.modules():
        if isinstance(part, FrozenBatchNorm2d):
            part.eps = 0.0


def _proposals(spec: MaskRCNN) -> Proposals:
    """torchvision's proposal network with its defaults, but anchors and caps of the data."""
    anchors = AnchorGenerator(tuple((side,) for side in spec.anchors or ()), (_ASPECTS,) * len(spec.backbone.strides))
    before = {"training": spec.candidates, "testing": spec.candidates}
    after = {"training": spec.proposals, "testing": spec.proposals}
    head = RPNHead(spec.backbone.channels, len(_ASPECTS), conv_depth=1 if spec.heads == "plain" else 2)
    return Proposals(anchors, head, 0.7, 0.3, 256, 0.5, before, after, 0.7)


def _heads(spec: MaskRCNN, categories: int) -> Heads:
    """torchvision's heads with its defaults, but aligned pooling, Windows as masks, and caps of the data."""
    channels, classes, strides = spec.backbone.channels, categories + 1, spec.backbone.strides[:-1]
    if spec.mask_size % 2:
        raise ValueError(f"model.mask_size: wanted an even number, got {spec.mask_size}")
    # Levels by the size of the anchors: the finest anchor belongs to the finest level, whatever its size in pixels.
    finest = (spec.anchors or (32.0,))[0]
    scale, level = round(224 * finest / 32), spec.backbone.stride.bit_length() + 1
    norm = None if spec.heads == "plain" else spec.backbone.norm_layer()
    return Heads(
        alignment=spec.alignment,
        mask_loss=spec.mask_loss,
        class_weights=spec.class_weights,
        detail=spec.detail,
        box_roi_pool=PyramidPool(strides, 7, spec.alignment, scale, level),
        box_head=_box_head(spec, norm),
        box_predictor=FastRCNNPredictor(1024, classes),
        fg_iou_thresh=0.5,
        bg_iou_thresh=0.5,
        batch_size_per_image=spec.box_samples,
        positive_fraction=0.25,
        bbox_reg_weights=None,
        score_thresh=spec.score_floor,
        nms_thresh=spec.nms,
        detections_per_img=spec.detections,
        mask_roi_pool=PyramidPool(strides, spec.mask_size // 2, spec.alignment, scale, level),
        mask_head=MaskRCNNHeads(channels, (channels,) * 4, 1, norm_layer=norm),
        mask_predictor=MaskRCNNPredictor(channels, channels, classes),
    )


def _box_head(spec: MaskRCNN, norm: Callable[[int], nn.Module] | None) -> nn.Module:
    channels = spec.backbone.channels
    if spec.heads == "plain":
        return TwoMLPHead(channels * 7 * 7, 1024)
    return FastRCNNConvFCHead((channels, 7, 7), [channels] * 4, [1024], norm_layer=norm)


def _to_float32(_module: nn.Module, _inputs: Any, output: Any) -> Any:
    """A forward hook: whatever a heavy module computed in, its output is float32."""
    if isinstance(output, Tensor):
        return output.float()
    if isinstance(output, dict):
        return {name: _to_float32(_module, _inputs, value) for name, value in output.items()}
    return type(output)(_to_float32(_module, _inputs, value) for value in output)
