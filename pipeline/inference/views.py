"""Views of an image (test-time augmentation): symmetries, scales and changes of light, merged step by step.

Merging whole predictions would have to guess which boxes of two views are the same. Here the views agree before each
step goes on: on the proposals, on the boxes and classes, on the masks. So each view answers for the same boxes, and a
mean is a mean of answers to one question.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional
from torchvision.ops import nms

from pipeline.instances import Detections
from pipeline.model.detector import Detector
from pipeline.model.steps import Seen, choose

_MEMORY = 512 << 20  # bytes of features that are kept from one step to the next; above it they are made again


@dataclass(frozen=True)
class View:
    """One look at an image, and the way back.

    symmetry: 0 to 7, its bits mirror x, mirror y and then transpose. scale: factor on the sides, before which they are
    rounded to whole pixels. gamma: exponent on the levels. invert: negative.
    """

    symmetry: int = 0
    scale: float = 1.0
    gamma: float = 1.0
    invert: bool = False

    def image(self, image: Tensor) -> Tensor:
        """The view of an image (3, H, W) of levels 0 to 255: float32 (3, h, w) of the same range."""
        result = self._turned(image.float())
        if self.scale != 1:
            size = self._size(tuple(image.shape[-2:]))
            result = functional.interpolate(result[None], size, mode="bilinear", antialias=True)[0]
        if self.gamma != 1:
            result = (result / 255) ** self.gamma * 255
        return 255 - result if self.invert else result

    def boxes(self, boxes: Tensor, size: tuple[int, int]) -> Tensor:
        """Boxes (…, 4), half-open xyxy, of an image of `size` (H, W), in the pixels of its view: x' = W - x."""
        height, width = size
        x0, y0, x1, y1 = boxes.unbind(-1)
        if self.symmetry & 1:
            x0, x1 = width - x1, width - x0
        if self.symmetry & 2:
            y0, y1 = height - y1, height - y0
        if self.symmetry & 4:
            x0, y0, x1, y1 = y0, x0, y1, x1
        return torch.stack([x0, y0, x1, y1], -1) * self._factor(boxes, size)

    def undo_boxes(self, boxes: Tensor, size: tuple[int, int]) -> Tensor:
        """The inverse of `boxes`; size: (H, W) of the image, not of the view."""
        height, width = size
        x0, y0, x1, y1 = (boxes / self._factor(boxes, size)).unbind(-1)
        if self.symmetry & 4:
            x0, y0, x1, y1 = y0, x0, y1, x1
        if self.symmetry & 2:
            y0, y1 = height - y1, height - y0
        if self.symmetry & 1:
            x0, x1 = width - x1, width - x0
        return torch.stack([x0, y0, x1, y1], -1)

    def masks(self, masks: Tensor) -> Tensor:
        """Masks (…, M, M) in the frame of their boxes, as the view has them."""
        return self._turned(masks)

    def undo_masks(self, masks: Tensor) -> Tensor:
        """The inverse of `masks`."""
        masks = masks.transpose(-1, -2) if self.symmetry & 4 else masks
        return masks.flip(self._mirrored) if self._mirrored else masks

    @property
    def _mirrored(self) -> list[int]:
        return [-1] * (self.symmetry & 1) + [-2] * (self.symmetry >> 1 & 1)

    def _turned(self, planes: Tensor) -> Tensor:
        planes = planes.flip(self._mirrored) if self._mirrored else planes
        return planes.transpose(-1, -2) if self.symmetry & 4 else planes

    def _size(self, size: tuple[int, ...]) -> tuple[int, int]:
        """(h, w) of the view of an image of `size` (H, W)."""
        height, width = (max(1, round(side * self.scale)) for side in size)
        return (width, height) if self.symmetry & 4 else (height, width)

    def _factor(self, boxes: Tensor, size: tuple[int, int]) -> Tensor:
        height, width = self._size(size)
        whole = size[::-1] if self.symmetry & 4 else size
        return boxes.new_tensor([width / whole[1], height / whole[0]]).repeat(2)


@dataclass(frozen=True)
class Views:
    """Which views: every combination of these.

    symmetries: numbers from 0 to 7, as `View` has them. scales: factors. gammas: exponents. inverts: false, true.
    """

    symmetries: tuple[int, ...] = (0,)
    scales: tuple[float, ...] = (1.0,)
    gammas: tuple[float, ...] = (1.0,)
    inverts: tuple[bool, ...] = (False,)

    def __post_init__(self) -> None:
        ranges = {
            "symmetries": ("whole numbers from 0 to 7", [0 <= number <= 7 for number in self.symmetries]),
            "scales": ("factors above 0", [scale > 0 for scale in self.scales]),
            "gammas": ("exponents above 0", [gamma > 0 for gamma in self.gammas]),
            "inverts": ("false, true or both", [True for _ in self.inverts]),
        }
        for name, (wanted, right) in ranges.items():
            if not right or not all(right):
                raise ValueError(f"{name}: wanted {wanted}, at least one, got {list(getattr(self, name))}")

    def all(self) -> tuple[View, ...]:
        """The views, each once."""
        product = itertools.product(self.symmetries, self.scales, self.gammas, self.inverts)
        return tuple(dict.fromkeys(View(*choice) for choice in product))


@torch.inference_mode()
def detect(
    detector: Detector, image: Tensor, image_id: str, views: Sequence[View], memory: int = _MEMORY
) -> Detections:
    """Detections of one image, uint8 (3, H, W), in which all views have the same say.

    The order of the views does not matter, beyond rounding. memory: bytes of features that may be kept from one step
    to the next; where they need more they are computed anew, which changes nothing. The module must be in evaluation
    mode.
    """
    size = (image.shape[-2], image.shape[-1])
    looks = [_Look(detector, view, image.to(detector.mean.device)) for view in views]
    kept = looks[0].seen().bytes * len(looks) <= memory
    heads = detector.roi_heads

    proposals = _merged([look.proposals(kept) for look in looks], detector)
    boxes, probabilities = _mean([look.classes(proposals, kept) for look in looks])
    chosen, scores, labels = choose(boxes, probabilities, size, heads)
    (masks,) = _mean([(look.masks(chosen, labels, kept),) for look in looks])
    columns = (column.cpu().numpy() for column in (chosen, scores, labels, masks))
    return Detections(image_id, size, *columns, detector.spec.alignment)


class _Look:
    """A view of one image: what the detector says in it, in the image's own frame."""

    def __init__(self, detector: Detector, view: View, image: Tensor):
        self.detector, self.view, self.image = detector, view, image
        self.size = (image.shape[-2], image.shape[-1])
        self._seen: Seen | None = None

    def seen(self, keep: bool = True) -> Seen:
        found, self._seen = self._seen or Seen(self.detector, self.view.image(self.image)), None
        if keep:
            self._seen = found
        return found

    def proposals(self, keep: bool) -> tuple[Tensor, Tensor]:
        boxes, scores = self.seen(keep).proposals()
        return self.view.undo_boxes(boxes, self.size), scores

    def classes(self, boxes: Tensor, keep: bool) -> tuple[Tensor, Tensor]:
        refined, probabilities = self.seen(keep).classes(self.view.boxes(boxes, self.size))
        return self.view.undo_boxes(refined, self.size), probabilities

    def masks(self, boxes: Tensor, labels: Tensor, keep: bool) -> Tensor:
        return self.view.undo_masks(self.seen(keep).masks(self.view.boxes(boxes, self.size), labels))


def _merged(proposals: Sequence[tuple[Tensor, Tensor]], detector: Detector) -> Tensor:
    """The proposals of all views, of those that agree the surest; as many as one view may have."""
    boxes, scores = (torch.cat(column) for column in zip(*proposals, strict=True))
    if len(proposals) == 1:
        return boxes
    rpn = detector.rpn
    return boxes[nms(boxes, scores, rpn.nms_thresh)[: rpn.post_nms_top_n()]]


def _mean(answers: Sequence[tuple[Tensor, ...]]) -> list[Tensor]:
    """Of each column the mean over the views."""
    return [sum(column[1:], column[0]) / len(column) for column in zip(*answers, strict=True)]
