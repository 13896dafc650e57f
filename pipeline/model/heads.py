"""The second stage of the detector: features pooled for boxes, classes, boxes and masks from them."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models.detection.roi_heads import RoIHeads, fastrcnn_loss
from torchvision.ops import roi_align
from torchvision.ops.poolers import LevelMapper

from pipeline.masks.windows import Windows
from pipeline.model.targets import mask_targets

_MASK_CHUNK = 128  # boxes per pass of the mask head: bounds its memory whatever the number of detections


class AlignedPool(nn.Module):
    """RoIAlign over pyramid levels with half-pixel alignment; level by box size as in the FPN paper (equation 1).

    `torchvision.ops.MultiScaleRoIAlign` has no half-pixel alignment, so its features are shifted by half a cell.
    strides: pixels per cell of each level, finest first. output_size: cells per side of what is pooled.
    """

    def __init__(
        self, strides: tuple[int, ...], output_size: int, canonical_scale: int = 224, canonical_level: int = 4
    ):
        super().__init__()
        self.strides, self.output_size = strides, (output_size, output_size)
        levels = [stride.bit_length() - 1 for stride in strides]
        self.level_of = LevelMapper(levels[0], levels[-1], canonical_scale, canonical_level)

    def forward(self, features: dict[str, Tensor], boxes: list[Tensor], image_shapes: object = None) -> Tensor:
        """(P, C, S, S) for all boxes (P, 4) of all images; features: one (B, C, h, w) per level, extra ones unused."""
        maps = list(features.values())[: len(self.strides)]
        image = torch.cat([torch.full_like(b[:, :1], i) for i, b in enumerate(boxes)])
        rois = torch.cat([image, torch.cat(boxes)], 1)
        level = self.level_of(boxes)
        result = maps[0].new_zeros((len(rois), maps[0].shape[1], *self.output_size))
        for k, (plane, stride) in enumerate(zip(maps, self.strides, strict=True)):
            chosen = torch.where(level == k)[0]
            pooled = roi_align(plane, rois[chosen], self.output_size, 1 / stride, sampling_ratio=2, aligned=True)
            result[chosen] = pooled.to(result.dtype)
        return result


class Heads(RoIHeads):
    """torchvision's box and mask heads; `targets[i]["masks"]` are `Windows`, and masks are neither pasted nor stacked.

    `targets[i]["factor"]`, float32 (4,), is what the windows' pixels are multiplied by to give those of the boxes.
    Sampling, box coding, losses and box post-processing are torchvision's own.
    """

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
            parts = [
                self._mask_logits(single, [part], chosen).sigmoid()
                for part, chosen in zip(box.split(_MASK_CHUNK), label.split(_MASK_CHUNK), strict=True)
            ]
            result.append(torch.cat(parts))
        return result

    def _mask_logits(self, features: dict[str, Tensor], boxes: list[Tensor], labels: Tensor) -> Tensor:
        pooled = self.mask_roi_pool(features, boxes).contiguous(memory_format=torch.channels_last)
        logits = self.mask_predictor(self.mask_head(pooled))
        return logits[torch.arange(len(labels), device=labels.device), labels]

    def _losses(self, features, proposals, image_shapes, targets) -> dict[str, Tensor]:  # type: ignore[no-untyped-def]
        proposals, matched, labels, regression = self.select_training_samples(proposals, targets)
        pooled = self.box_head(self.box_roi_pool(features, proposals, image_shapes))
        box_logits, box_regression = self.box_predictor(pooled)
        loss_class, loss_box = fastrcnn_loss(box_logits, box_regression, labels, regression)
        positive = [torch.where(label > 0)[0] for label in labels]
        boxes = [box[index] for box, index in zip(proposals, positive, strict=True)]
        owners = [owner[index] for owner, index in zip(matched, positive, strict=True)]
        chosen = torch.cat([label[index] for label, index in zip(labels, positive, strict=True)])
        logits = self._mask_logits(features, boxes, chosen)
        # Masks are never resized: their targets are looked up in the image's own pixels.
        boxes = [box / target["factor"] for box, target in zip(boxes, targets, strict=True)]
        loss_mask = mask_loss(logits, [t["masks"] for t in targets], owners, boxes)
        return {"loss_classifier": loss_class, "loss_box_reg": loss_box, "loss_mask": loss_mask}


def mask_loss(logits: Tensor, windows: list[Windows], owners: list[Tensor], boxes: list[Tensor]) -> Tensor:
    """Mean binary cross-entropy of mask logits (P, M, M) against aligned targets; 0 where there are no boxes."""
    if not len(logits):
        return logits.sum() * 0
    bins = logits.shape[-1]
    with torch.autocast(logits.device.type, enabled=False):
        targets = [mask_targets(w, o, b, bins) for w, o, b in zip(windows, owners, boxes, strict=True)]
    return functional.binary_cross_entropy_with_logits(logits, torch.cat(targets))
