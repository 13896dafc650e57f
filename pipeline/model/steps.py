"""One image as a detector sees it, asked in steps: several views of an image then answer for the same boxes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import batched_nms, clip_boxes_to_image, remove_small_boxes

from pipeline.model.detector import Detector, factor_of
from pipeline.model.heads import Heads


class Seen:
    """The features of one image, (3, H, W) of levels 0 to 255, and what the heads say of boxes in them.

    Boxes are float32 (n, 4), half-open xyxy, in the image's own pixels. The module must be in evaluation mode; one
    step after the other, each given what the step before returned, is what the module does in one.
    """

    def __init__(self, detector: Detector, image: Tensor, features: dict[str, Tensor] | None = None):
        """features: of the image, where they are known already."""
        self.detector = detector
        batch, self.sizes = detector.batch([image])
        self.batch, self.factor = ImageList(batch, self.sizes), factor_of(image, self.sizes[0])
        self.features: dict[str, Tensor] = detector.backbone(batch) if features is None else features

    @property
    def bytes(self) -> int:
        """Memory of the features."""
        return sum(plane.numel() * plane.element_size() for plane in self.features.values())

    def proposals(self) -> tuple[Tensor, Tensor]:
        """Boxes where something may be, and how surely, float32 (n,) from 0 to 1, falling."""
        boxes, scores = self.detector.rpn.scored(self.batch, self.features)
        return boxes / self.factor, scores

    def anchors(self) -> list[tuple[Tensor, Tensor]]:
        """For each level, of h × w cells with k anchors: boxes (h, w, k, 4), logits (h, w, k) of something there."""
        boxes, logits, grids = self.detector.rpn.decoded(self.batch, self.features)
        counts = [rows * columns * kinds for rows, columns, kinds in grids]
        levels = zip((boxes / self.factor).split(counts), logits.split(counts), grids, strict=True)
        return [(box.view(*grid, 4), logit.view(grid)) for box, logit, grid in levels]

    def classes(self, boxes: Tensor) -> tuple[Tensor, Tensor]:
        """For each of n boxes and C classes, background left out: the refined box (n, C, 4), the probability (n, C)."""
        heads, own = self.detector.roi_heads, [boxes * self.factor]
        logits, shift = heads.box_predictor(heads.box_head(heads.box_roi_pool(self.features, own, self.sizes)))
        refined = heads.box_coder.decode(shift, own)[:, 1:] / self.factor
        return refined, logits.softmax(-1)[:, 1:]

    def masks(self, boxes: Tensor, labels: Tensor) -> Tensor:
        """Probabilities float32 (n, M, M) in the boxes' frames, for labels int64 (n,)."""
        features = self.features | self.detector.details(self.batch.tensors)
        return self.detector.roi_heads.masks(features, [boxes * self.factor], [labels])[0]


def together(detector: Detector, images: Sequence[Tensor]) -> list[Seen]:
    """Images of one size, (3, H, W) each, seen at once by the backbone."""
    features = detector.backbone(detector.batch(list(images))[0])
    own = ({name: plane[i : i + 1] for name, plane in features.items()} for i in range(len(images)))
    return [Seen(detector, image, planes) for image, planes in zip(images, own, strict=True)]


def choose(
    boxes: Tensor, probabilities: Tensor, size: tuple[int, int], heads: Heads
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Detections of what `Seen.classes` gives, by falling score: boxes (n, 4), scores (n,), labels int64 (n,) from 1.

    The rules of torchvision's box head, in the image's own pixels: least score, NMS in each class, the most an image
    may have. size: (H, W) of the image. Last the place int64 (n,) of each in the flattened `probabilities`.
    """
    boxes = clip_boxes_to_image(boxes, size).flatten(0, 1)
    labels = torch.arange(1, probabilities.shape[1] + 1, device=boxes.device).repeat(len(probabilities))
    scores = probabilities.flatten()
    kept = torch.where(scores > heads.score_thresh)[0]
    kept = kept[remove_small_boxes(boxes[kept], 1e-2)]
    kept = kept[batched_nms(boxes[kept], scores[kept], labels[kept], heads.nms_thresh)][: heads.detections_per_img]
    return boxes[kept], scores[kept], labels[kept], kept
