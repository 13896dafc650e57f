"""Views of an image (test-time augmentation): symmetries, scales and changes of light, merged step by step.

Merging whole predictions would have to guess which boxes of two views are the same. Here the views agree before each
step goes on: on the proposals, on the boxes and classes, on the masks. So each view answers for the same boxes, and a
mean is a mean of answers to one question.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torchvision.ops import box_iou, clip_boxes_to_image, nms

from pipeline.inference.view import View
from pipeline.instances import Detections
from pipeline.model.detector import Detector
from pipeline.model.heads import Heads
from pipeline.model.steps import Seen, choose, together

__all__ = ["View", "Views", "detect", "detect_together"]

_MEMORY = 512 << 20  # bytes of features that are kept from one step to the next; above it they are made again
_BATCH = {"cuda": 16}  # views that the backbone sees at once; on a CPU more than one at once is slower
_SUPPORT = 0.5  # share of the least score that a proposal must reach in its own view for the others to be asked
_BENEATH = 0.65  # IoU with a better box from which on they are not asked either
_CHUNK = 256  # boxes that are compared with all others at once

Agreement = Literal["merged", "averaged"]


@dataclass(frozen=True)
class Views:
    """Which views: every combination of these, and how they agree.

    symmetries: numbers from 0 to 7, as `View` has them. scales: factors. gammas: exponents. inverts: false, true.
    mask_views: how many views answer for the mask of a detection, those that are surest of it; null for all. Masks
    are most of the work; the others' share in boxes, classes and scores stays. proposals: "merged", the surest of
    all views; or "averaged" at each anchor first, between views whose cells coincide (of one scale, with sides that
    are multiples of 32 pixels where they mirror), and merged beyond.
    """

    symmetries: tuple[int, ...] = (0,)
    scales: tuple[float, ...] = (1.0,)
    gammas: tuple[float, ...] = (1.0,)
    inverts: tuple[bool, ...] = (False,)
    mask_views: int | None = None
    proposals: Agreement = "merged"

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
        if self.mask_views is not None and self.mask_views < 1:
            raise ValueError(f"mask_views: wanted at least 1, or null for all, got {self.mask_views}")

    def all(self) -> tuple[View, ...]:
        """The views, each once."""
        product = itertools.product(self.symmetries, self.scales, self.gammas, self.inverts)
        return tuple(dict.fromkeys(View(*choice) for choice in product))

    def detect(self, detector: Detector, images: Sequence[Tensor], image_ids: Sequence[str]) -> list[Detections]:
        """See `detect_together`."""
        return detect_together(detector, images, image_ids, self.all(), self.mask_views, self.proposals)


def detect(
    detector: Detector,
    image: Tensor,
    image_id: str,
    views: Sequence[View],
    mask_views: int | None = None,
    proposals: Agreement = "merged",
    memory: int = _MEMORY,
) -> Detections:
    """Detections of one image, uint8 (3, H, W): see `detect_together`."""
    return detect_together(detector, [image], [image_id], views, mask_views, proposals, memory)[0]


@torch.inference_mode()
def detect_together(
    detector: Detector,
    images: Sequence[Tensor],
    image_ids: Sequence[str],
    views: Sequence[View],
    mask_views: int | None = None,
    proposals: Agreement = "merged",
    memory: int = _MEMORY,
    batch: int | None = None,
) -> list[Detections]:
    """Detections of each image, uint8 (3, H, W), in which all views have the same say.

    The order of the views does not matter, beyond rounding. mask_views, proposals: see `Views`. memory: bytes of
    features that may be kept from one step to the next; where they need more they are computed anew. batch: how many
    views of equal size the backbone sees at once, of one image or of several; None for what suits the device. Neither
    changes the result, beyond rounding. The module must be in evaluation mode.
    """
    device = detector.mean.device
    looks = [[_Look(detector, view, image.to(device)) for view in views] for image in images]
    for group in _groups([look for own in looks for look in own], batch or _BATCH.get(device.type, 1)):
        pictures = [look.view.image(look.image) for look in group]
        seen = together(detector, pictures) if len(group) > 1 else [Seen(detector, pictures[0])]
        for look, own in zip(group, seen, strict=True):
            memory -= look.see(own, proposals == "averaged", memory)
    return [_merged(own, image_id, mask_views, proposals) for own, image_id in zip(looks, image_ids, strict=True)]


class _Look:
    """A view of one image: what the detector says in it, in the image's own frame."""

    def __init__(self, detector: Detector, view: View, image: Tensor):
        self.detector, self.view, self.image = detector, view, image
        self.size = (image.shape[-2], image.shape[-1])
        self.proposed: Any = None  # in the view's own frame
        self.kept: Seen | None = None
        self.shape = (0, 0)  # what the network is shown

    def see(self, seen: Seen, every_anchor: bool, memory: int = 0) -> int:
        """Take the proposals, or what is said of every anchor, and keep the features; gives the memory they take."""
        self.proposed = seen.anchors() if every_anchor else seen.proposals()
        self.shape = seen.sizes[0]
        if seen.bytes > memory:
            return 0
        self.kept = seen
        return seen.bytes

    def seen(self) -> Seen:
        return self.kept or Seen(self.detector, self.view.image(self.image))

    def proposals(self) -> tuple[Tensor, Tensor]:
        boxes, scores = self.proposed
        return self.view.undo_boxes(boxes, self.size), scores

    def anchors(self) -> list[tuple[Tensor, Tensor]]:
        return [
            (self.view.undo_grid(self.view.undo_boxes(boxes, self.size)), self.view.undo_grid(logits))
            for boxes, logits in self.proposed
        ]

    def classes(self, boxes: Tensor) -> tuple[Tensor, Tensor]:
        refined, probabilities = self.seen().classes(self.view.boxes(boxes, self.size))
        return self.view.undo_boxes(refined, self.size), probabilities

    def masks(self, boxes: Tensor, labels: Tensor) -> Tensor:
        return self.view.undo_masks(self.seen().masks(self.view.boxes(boxes, self.size), labels))


def _groups(looks: Sequence[_Look], most: int) -> Iterator[list[_Look]]:
    """Looks that have one size in their views, at most so many; in the order of the first of each."""
    if most == 1:
        yield from ([look] for look in looks)
        return
    sizes: dict[tuple[int, ...], list[_Look]] = {}
    for look in looks:
        sizes.setdefault(look.view.size(look.size), []).append(look)
    for own in sizes.values():
        yield from (own[first : first + most] for first in range(0, len(own), most))


def _merged(looks: Sequence[_Look], image_id: str, mask_views: int | None, agreement: Agreement) -> Detections:
    """Detections of the one image that all looks are of."""
    detector, size = looks[0].detector, looks[0].size
    boxes, source = _proposals(looks, agreement)
    boxes, probabilities = _classes(looks, boxes, source)
    chosen, scores, labels, place = choose(boxes, probabilities.mean(0), size, detector.roi_heads)
    masks = _masks(looks, chosen, labels, probabilities.flatten(1)[:, place], mask_views)
    columns = (column.cpu().numpy() for column in (chosen, scores, labels, masks))
    return Detections(image_id, size, *columns, detector.spec.alignment)


def _proposals(looks: Sequence[_Look], agreement: Agreement) -> tuple[Tensor, Tensor]:
    """Boxes (n, 4) of all views, the surest of those that agree, and the view int64 (n,) that each comes from."""
    found = _averaged(looks) if agreement == "averaged" else [(*look.proposals(), i) for i, look in enumerate(looks)]
    boxes, scores = (torch.cat([part[column] for part in found]) for column in (0, 1))
    source = torch.cat([torch.as_tensor(own, device=boxes.device).expand(len(part)) for part, _, own in found])
    if len(found) == 1:
        return boxes, source
    rpn = looks[0].detector.rpn
    best = nms(boxes, scores, rpn.nms_thresh)[: rpn.post_nms_top_n()]
    return boxes[best], source[best]


def _averaged(looks: Sequence[_Look]) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Boxes, scores and views of each group of views whose cells coincide, boxes and logits averaged at each anchor.

    The view of a proposal is the surest of those that were averaged.
    """
    groups: dict[tuple[int, ...], list[int]] = {}
    for i, look in enumerate(looks):
        groups.setdefault(_cells(look), []).append(i)
    result = []
    for own in groups.values():
        levels = list(zip(*(looks[i].anchors() for i in own), strict=True))
        boxes = torch.cat([torch.stack([box for box, _ in level]).mean(0).view(-1, 4) for level in levels])
        logits = torch.cat([torch.stack([logit for _, logit in level]).flatten(1) for level in levels], 1)
        counts = [level[0][1].numel() for level in levels]
        best, scores, index = looks[0].detector.rpn.kept(boxes, logits.mean(0), looks[0].size, counts)
        result.append((best, scores, torch.tensor(own, device=boxes.device)[logits[:, index].argmax(0)]))
    return result


def _cells(look: _Look) -> tuple[int, ...]:
    """Equal for views whose cells coincide: mirrored ones only where no padding shifts them."""
    height, width = look.shape
    if look.view.symmetry & 4:
        height, width = width, height
    mirrored = (look.view.symmetry & 1, look.view.symmetry & 2)
    return height, width, *(bit * (side % 32 > 0) for bit, side in zip(mirrored, (width, height), strict=True))


def _classes(looks: Sequence[_Look], boxes: Tensor, source: Tensor) -> tuple[Tensor, Tensor]:
    """Of proposals (n, 4), each from the view int64 (n,): refined boxes (m, C, 4), the mean over the views, and the
    probabilities of the V views (V, m, C).

    Each view answers for its own first, and all for those that have support (see `_supported`): most are background or
    lie beneath a better one, which no mean is likely to change. Where all views agree none is lost that counts.
    """
    heads = looks[0].detector.roi_heads
    count = heads.box_predictor.cls_score.out_features - 1
    refined = boxes.new_zeros(len(boxes), count, 4)
    probabilities = boxes.new_zeros(len(looks), len(boxes), count)
    for i, look in enumerate(looks):
        own = torch.where(source == i)[0]
        if len(own):
            refined[own], probabilities[i, own] = look.classes(boxes[own])
    if len(looks) == 1:
        return refined, probabilities
    stays = _supported(refined, probabilities.sum(0), looks[0].size, heads)
    boxes, source, refined, probabilities = boxes[stays], source[stays], refined[stays], probabilities[:, stays]
    for i, look in enumerate(looks):
        others = torch.where(source != i)[0]
        if len(others):
            more, probabilities[i, others] = look.classes(boxes[others])
            refined[others] += more
    return refined / len(looks), probabilities


def _supported(boxes: Tensor, probabilities: Tensor, size: tuple[int, int], heads: Heads) -> Tensor:
    """Numbers of the proposals, of what their own views say of them, that may become detections.

    Those that would without any other view, and those that come near: half the least score, and not too far beneath one
    of the former.
    """
    surest = choose(boxes, probabilities, size, heads)[3]
    count, scores = probabilities.shape[1], probabilities.flatten()
    near = torch.where(scores > _SUPPORT * heads.score_thresh)[0]
    # Boxes of different classes are moved apart, and so do not overlap.
    far = torch.arange(len(scores), device=boxes.device) % count * (max(size) + 1)
    apart = clip_boxes_to_image(boxes, size).flatten(0, 1) + far[:, None]
    for part in surest.split(_CHUNK):
        near = near[(box_iou(apart[near], apart[part]) < _BENEATH).all(1)]
    return torch.unique(torch.cat([surest, near]) // count)


def _masks(looks: Sequence[_Look], boxes: Tensor, labels: Tensor, sure: Tensor, most: int | None) -> Tensor:
    """Masks (d, M, M) of boxes (d, 4) and labels (d,): the mean over the views that are surest of each; sure: (V, d).

    Which views these are depends on what they say alone, not on their order: turned pictures have turned masks.
    """
    count = min(most or len(looks), len(looks))
    voters = sure.topk(count, 0).indices
    side = looks[0].detector.spec.mask_size
    total = boxes.new_zeros(len(boxes), side, side)
    for i, look in enumerate(looks):
        own = torch.where((voters == i).any(0))[0]
        if len(own):
            total[own] += look.masks(boxes[own], labels[own])
    return total / count
