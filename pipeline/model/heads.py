"""The second stage of the detector: classes, boxes and masks from the features of boxes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models.detection.roi_heads import RoIHeads, fastrcnn_loss

from pipeline.instances import Alignment
from pipeline.masks.windows import Windows
from pipeline.model.detail import Refine
from pipeline.model.losses import MASK_LOSSES, MaskLoss, class_loss, weights_of
from pipeline.model.pooling import PyramidPool
from pipeline.model.targets import mask_targets

DETAIL = "detail"  # the name of the image's own features among those of the pyramid

# Boxes per pass of the mask head, which bounds its memory: few on a CPU, whose cache should hold what they make.
_MASK_CHUNK = {"cpu": 32, "other": 512}


class Heads(RoIHeads):
    """torchvision's box and mask heads; `targets[i]["masks"]` are `Windows`, and masks are neither pasted nor stacked.

    `targets[i]["factor"]`, float32 (4,), is what the windows' pixels are multiplied by to give those of the boxes.
    Sampling, box coding, losses and box post-processing are torchvision's own, but for the two that may be chosen.
    alignment: of the mask targets. mask_loss: one of `pipeline.model.losses`. class_weights: of the background and of
    each category in the loss of the classes, K + 1 numbers; null for torchvision's own loss. Raises ConfigError for
    another number of them. detail: whether masks are refined by the features `DETAIL`, as `pipeline.model.detail` has
    it, which then are among those that the heads are given.
    """

    def __init__(
        self,
        *,
        alignment: Alignment,
        mask_loss: MaskLoss = "bce",
        class_weights: tuple[float, ...] | None = None,
        detail: bool = False,
        **settings: Any,
    ):
        super().__init__(**settings)
        self.refine: Refine | None = None
        if detail:
            self.refine = Refine(self.mask_predictor.conv5_mask.out_channels)
            self.detail_pool = PyramidPool((1,), 2 * self.mask_roi_pool.side, alignment)
        self.alignment, self.mask_loss = alignment, mask_loss
        self.mask_batch_norm = any(isinstance(part, nn.BatchNorm2d) for part in self.mask_head.modules())
        classes = self.box_predictor.cls_score.out_features
        # No part of the weights file: another training may weigh otherwise.
        self.register_buffer("class_weights", weights_of(class_weights, classes), persistent=False)

    def forward(
        self,
        features: dict[str, Tensor],
        proposals: list[Tensor],
        image_shapes: list[tuple[int, int]],
        targets: list[dict[str, object]] | None = None,
    ) -> tuple[list[dict[str, Tensor]], dict[str, Tensor]]:
        """Training: no results and the losses. Otherwise per image boxes, labels, scores, masks (n, M, M) and none."""
        if self.training:
            return [], self._losses(features, proposals, image_shapes, targets)
        pooled = self.box_head(self.box_roi_pool(features, proposals, image_shapes))
        logits, regression = self.box_predictor(pooled)
        boxes, scores, labels = self.postprocess_detections(logits, regression, proposals, image_shapes)
        masks = self.masks(features, boxes, labels)
        columns = zip(boxes, scores, labels, masks, strict=True)
        return [{"boxes": b, "scores": s, "labels": c, "masks": m} for b, s, c, m in columns], {}

    def masks(self, features: dict[str, Tensor], boxes: list[Tensor], labels: list[Tensor]) -> list[Tensor]:
        """Mask probabilities float32 (n, M, M) of the given boxes for the given labels, per image."""
        result = []
        for i, (box, label) in enumerate(zip(boxes, labels, strict=True)):
            single = {name: plane[i : i + 1] for name, plane in features.items()}
            size = _chunk(box)
            parts = [
                self._mask_logits(single, [part], chosen).sigmoid()
                for part, chosen in zip(box.split(size), label.split(size), strict=True)
            ]
            result.append(torch.cat(parts))
        return result

    def _mask_logits(self, features: dict[str, Tensor], boxes: list[Tensor], labels: Tensor) -> Tensor:
        pooled = self.mask_roi_pool(features, boxes).contiguous(memory_format=torch.channels_last)
        # Batch norm in training wants to see all boxes at once.
        size = max(len(pooled), 1) if self.training and self.mask_batch_norm else _chunk(pooled)
        details = self.detail_pool({DETAIL: features[DETAIL]}, boxes).split(size) if self.refine else ()
        parts = []
        for i, (part, chosen) in enumerate(zip(pooled.split(size), labels.split(size), strict=True)):
            hidden = quarters(self.mask_predictor, self.mask_head(part))
            logits = chosen_logits(self.mask_predictor, hidden, chosen)
            parts.append(logits + self.refine(hidden, details[i]) if self.refine else logits)
        return torch.cat(parts).float()

    def _losses(self, features, proposals, image_shapes, targets) -> dict[str, Tensor]:  # type: ignore[no-untyped-def]
        proposals, matched, labels, regression = self.select_training_samples(proposals, targets)
        pooled = self.box_head(self.box_roi_pool(features, proposals, image_shapes))
        box_logits, box_regression = self.box_predictor(pooled)
        loss_class, loss_box = fastrcnn_loss(box_logits, box_regression, labels, regression)
        if self.class_weights is not None:
            loss_class = class_loss(box_logits, torch.cat(labels), self.class_weights)
        positive = [torch.where(label > 0)[0] for label in labels]
        boxes = [box[index] for box, index in zip(proposals, positive, strict=True)]
        owners = [owner[index] for owner, index in zip(matched, positive, strict=True)]
        chosen = torch.cat([label[index] for label, index in zip(labels, positive, strict=True)])
        logits = self._mask_logits(features, boxes, chosen)
        # Masks are never resized: their targets are looked up in the image's own pixels.
        boxes = [box / target["factor"] for box, target in zip(boxes, targets, strict=True)]
        masks = [target["masks"] for target in targets]
        loss_mask = mask_loss(logits, masks, owners, boxes, self.alignment, self.mask_loss)
        return {"loss_classifier": loss_class, "loss_box_reg": loss_box, "loss_mask": loss_mask}


def _chunk(boxes: Tensor) -> int:
    return _MASK_CHUNK.get(boxes.device.type, _MASK_CHUNK["other"])


def quarters(predictor: nn.Module, features: Tensor) -> Tensor:
    """What torchvision's `MaskRCNNPredictor` makes of features (P, C, S, S) before its last layer: (P, S, S, 2, 2, C').

    It doubles the sides by a convolution of kernel and stride 2, which is one matrix product: row and column of the
    cell, row and column inside it.
    """
    up = predictor.conv5_mask
    count, _, side, _ = features.shape
    kernel = up.weight.permute(2, 3, 1, 0).flatten(0, 2)  # (2 · 2 · C', C)
    hidden = functional.relu(functional.linear(features.permute(0, 2, 3, 1), kernel, up.bias.repeat(4)))
    return hidden.view(count, side, side, 2, 2, up.out_channels)


def chosen_logits(predictor: nn.Module, hidden: Tensor, labels: Tensor) -> Tensor:
    """The logits (P, 2S, 2S) of one class per box, int64 (P,), of what `quarters` gives.

    torchvision's predictor has a logit for each class, of which one is wanted: the others are not computed.
    """
    last = predictor.mask_fcn_logits
    count, side = hidden.shape[:2]
    logits = hidden.view(count, 4 * side * side, last.in_channels) @ last.weight[labels, :, 0]
    logits = logits + last.bias[labels, None, None]
    return logits.view(count, side, side, 2, 2).transpose(2, 3).reshape(count, 2 * side, 2 * side)


def mask_loss(
    logits: Tensor,
    windows: list[Windows],
    owners: list[Tensor],
    boxes: list[Tensor],
    alignment: Alignment = "aligned",
    kind: MaskLoss = "bce",
) -> Tensor:
    """The loss `kind` of mask logits (P, M, M) against `mask_targets`; 0 where there are no boxes."""
    if not len(logits):
        return logits.sum() * 0
    bins = logits.shape[-1]
    with torch.autocast(logits.device.type, enabled=False):
        targets = [mask_targets(w, o, b, bins, alignment) for w, o, b in zip(windows, owners, boxes, strict=True)]
        return MASK_LOSSES[kind](logits.float(), torch.cat(targets))
