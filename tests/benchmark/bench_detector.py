"""The whole detector, R50-FPN, against torchvision's with the same weights: inference to RLE, and a training step.

No weights can be presumed to be there, so they are random, drawn so that the features neither fade nor explode, the
proposals differ, and the heads are sure enough for more than 500 detections of a real image.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bench_paste import encode
from harness import Row
from inputs import SIZE, crowd
from PIL import Image
from pycocotools import mask as coco_mask
from torch import Tensor, nn
from torchvision.models.detection import MaskRCNN as TorchvisionMaskRCNN
from torchvision.models.detection._utils import overwrite_eps
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.ops import FrozenBatchNorm2d, box_iou

from pipeline.data.dataset import as_tensor
from pipeline.inference.paste import paste
from pipeline.masks.runs import to_coco, to_dense
from pipeline.masks.windows import windows
from pipeline.model.backbone import Backbone
from pipeline.model.detector import Detector, MaskRCNN
from pipeline.model.ready import ready

_IMAGE = "0eb1d03df587"  # 550 cells
_RESNET50 = Backbone("resnet50", "torchvision", 256, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), 3)
_CLASSES = 91  # as torchvision's has them
_INSTANCES = 600

Found = tuple[np.ndarray, np.ndarray, np.ndarray, list[str]]  # boxes, scores, labels, RLE of the masks


def rows(data: Path) -> Iterator[Row]:
    """Rows of the group."""
    pixels = np.array(Image.open(data / "sartorius" / "train" / f"{_IMAGE}.png").convert("RGB"))
    yield from _inference(as_tensor(pixels))
    yield from _training(as_tensor(pixels), data)


def _inference(image: Tensor) -> Iterator[Row]:
    own = detector(proposals=1000)
    plain, resized = torchvisions(own, SIZE), torchvisions(own, None)
    fast, several = ready(own), 500
    at = score_of(fast, image, 120)
    yield Row(
        "R50-FPN inference to RLE, 520×704, 500 detections, CPU float32",
        "maskrcnn_resnet50_fpn, resize off, + pycocotools.encode",
        partial(found, fast, image), partial(theirs, plain, image, several), same_detections, 1.45, (2, 2),
    )  # fmt: skip
    yield Row(
        "the same",
        "maskrcnn_resnet50_fpn as it comes (800 px)",
        partial(found, fast, image), partial(theirs, resized, image, several), same_number, 2, (2, 1),
    )  # fmt: skip
    yield Row(
        "the same with 120 survivors of the score threshold",
        "as it comes: threshold on what the model returns",
        partial(found, ready(own, at), image), partial(theirs, resized, image, 120), same_number, 4.4, (2, 1),
    )  # fmt: skip
    if multiplies_bf16():
        yield Row(
            "bf16 inside the heavy modules, inference, 520×704",
            "float32 of ours",
            partial(found_in_bf16, fast, image), partial(found, fast, image), near_boxes, 1.6, (2, 2),
        )  # fmt: skip


def _training(image: Tensor, data: Path) -> Iterator[Row]:
    own = detector(proposals=2000).train()
    truth = Truth(data)
    step = partial(losses, own, image, truth.compact)
    yield Row(
        "R50-FPN training step (forward, backward), 520×704, 600 instances, CPU float32",
        "maskrcnn_resnet50_fpn, resize off",
        step, partial(losses, torchvisions(own, SIZE).train(), image / 255, truth.dense), same_losses, 1.35, (2, 2),
    )  # fmt: skip
    yield Row(
        "the same",
        "maskrcnn_resnet50_fpn as it comes (800 px)",
        step, partial(losses, torchvisions(own, None).train(), image / 255, truth.dense), finite_losses, 4.3, (2, 1),
    )  # fmt: skip
    if multiplies_bf16():
        yield Row(
            "bf16 inside the heavy modules, training step, 520×704",
            "float32 of ours",
            partial(losses_in_bf16, own, image, truth.compact), step, near_losses, 1.6, (2, 2),
        )  # fmt: skip


# The two detectors --------------------------------------------------------------------------------------------------


def multiplies_bf16() -> bool:
    """Whether the processor has bfloat16 products of its own; emulated ones are twenty times slower than float32."""
    flags = Path("/proc/cpuinfo").read_text()
    return "avx512_bf16" in flags or "amx_bf16" in flags


def detector(proposals: int) -> Detector:
    """Ours in torchvision's alignment and settings but 500 detections; proposals: before and after the NMS of them."""
    torch.manual_seed(0)
    anchors = (32.0, 64.0, 128.0, 256.0, 512.0)
    caps = (500, proposals, proposals, 512)
    spec = MaskRCNN(_RESNET50, "coco", 28, "torchvision", 1.0, anchors, *caps, 0.05, 0.5)
    own = spec.build(_CLASSES - 1, pretrained=False)
    with torch.no_grad():
        for name, tensor in own.named_buffers():
            if name.endswith("bn3.weight"):  # without it each block would double the variance
                tensor.fill_(0.3)
        own.rpn.head.cls_logits.weight *= 20
        own.rpn.head.bbox_pred.weight *= 7
        own.roi_heads.box_predictor.cls_score.weight *= 100
        own.roi_heads.mask_predictor.mask_fcn_logits.weight *= 30
    return own


def torchvisions(own: Detector, size: tuple[int, int] | None) -> nn.Module:
    """What `maskrcnn_resnet50_fpn` builds for its weights, with ours; size (H, W): of images that are not resized."""
    plain = {} if size is None else {"min_size": min(size), "max_size": max(size), "_skip_resize": True}
    backbone = resnet_fpn_backbone(
        backbone_name="resnet50", weights=None, norm_layer=FrozenBatchNorm2d, trainable_layers=3
    )
    result = TorchvisionMaskRCNN(backbone, _CLASSES, box_detections_per_img=500, **plain)
    overwrite_eps(result, 0.0)
    result.load_state_dict(own.state_dict())
    return result.eval()


# Inference ----------------------------------------------------------------------------------------------------------


def found(own: Detector, image: Tensor) -> Found:
    """Ours, from the image to RLE."""
    detections = own.detect(image, _IMAGE)
    return detections.boxes, detections.scores, detections.labels, to_coco(paste(detections))


def found_in_bf16(own: Detector, image: Tensor) -> Found:
    """The same under autocast."""
    with torch.autocast("cpu", torch.bfloat16):
        return found(own, image)


@torch.inference_mode()
def theirs(model: nn.Module, image: Tensor, most: int) -> Found:
    """torchvision's, from the image to RLE of the best `most`, as its tutorial takes them from what it returns."""
    result = model([image / 255])[0]
    kept = {name: column[:most] for name, column in result.items()}
    rles = encode((kept["masks"][:, 0] > 0.5).numpy())
    return kept["boxes"].numpy(), kept["scores"].numpy(), kept["labels"].numpy(), rles


def score_of(own: Detector, image: Tensor, rank: int) -> float:
    """A score that so many detections exceed."""
    scores = own.detect(image, _IMAGE).scores
    return float(scores[rank - 1] + scores[rank]) / 2


def same_detections(a: Found, b: Found) -> None:
    """Boxes to 0.01 px, scores to 1e-4, labels, and all but one in ten thousand of the masks' pixels."""
    assert len(a[1]) == len(b[1]) == 500, (len(a[1]), len(b[1]))
    np.testing.assert_allclose(a[0], b[0], atol=0.01)
    np.testing.assert_allclose(a[1], b[1], atol=1e-4)
    np.testing.assert_array_equal(a[2], b[2])
    pairs = [[{"size": SIZE, "counts": counts} for counts in pair] for pair in zip(a[3], b[3], strict=True)]
    common = sum(int(coco_mask.area(coco_mask.merge(pair, intersect=True))) for pair in pairs)
    areas = sum(int(coco_mask.area(pair).sum()) for pair in pairs)
    assert areas > 10_000
    assert areas - 2 * common <= areas * 1e-4, f"{areas - 2 * common} of {areas} pixels differ"


def same_number(a: Found, b: Found) -> None:
    """At another scale only their number can be the same; the row before compares the detections."""
    assert len(a[1]) == len(b[1]), (len(a[1]), len(b[1]))


def near_boxes(a: Found, b: Found) -> None:
    """Each of the best 50 has one nearby; with shifts as small as at the start of a training the tests want 0.999."""
    best = box_iou(torch.from_numpy(a[0][:50]), torch.from_numpy(b[0])).max(1).values
    assert best.mean() > 0.98, f"mean IoU {best.mean():.4f}"


# Training -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Truth:
    """600 real instances of one image as both detectors take them."""

    data: Path

    @cached_property
    def compact(self) -> dict[str, Any]:
        cut = windows(crowd(self.data, _INSTANCES))
        labels = torch.ones(_INSTANCES, dtype=torch.int64)
        return {"boxes": torch.from_numpy(cut.boxes).float(), "labels": labels, "masks": cut}

    @cached_property
    def dense(self) -> dict[str, Any]:
        stack = torch.from_numpy(to_dense(crowd(self.data, _INSTANCES))).to(torch.uint8).contiguous()
        return {**self.compact, "masks": stack}


def losses(model: nn.Module, image: Tensor, target: dict[str, Any]) -> dict[str, float]:
    """One pass forward and backward; the five losses, in the order of their names."""
    model.zero_grad(set_to_none=True)
    torch.manual_seed(1)  # which boxes are sampled
    result = model([image], [target])
    torch.stack(list(result.values())).sum().backward()
    return {name: result[name].item() for name in sorted(result)}


def losses_in_bf16(model: nn.Module, image: Tensor, target: dict[str, Any]) -> dict[str, float]:
    """The same with autocast round the pass forward, as the trainer has it."""
    model.zero_grad(set_to_none=True)
    torch.manual_seed(1)
    with torch.autocast("cpu", torch.bfloat16):
        result = model([image], [target])
    torch.stack(list(result.values())).sum().backward()
    return {name: result[name].item() for name in sorted(result)}


def same_losses(a: dict[str, float], b: dict[str, float]) -> None:
    """Of the same sampled boxes: equal but for rounding."""
    np.testing.assert_allclose(list(a.values()), list(b.values()), rtol=2e-4)


def finite_losses(a: dict[str, float], b: dict[str, float]) -> None:
    """At another scale other anchors are sampled; the row before compares the losses."""
    assert np.isfinite([*a.values(), *b.values()]).all()


def near_losses(a: dict[str, float], b: dict[str, float]) -> None:
    """Low precision moves proposals, and with them which boxes are sampled."""
    np.testing.assert_allclose(sum(a.values()), sum(b.values()), rtol=0.05)
