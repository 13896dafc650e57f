"""Mask targets: what each instance looks like in the frame of a proposal, in continuous coordinates.

The picture of a mask is taken to be linear between pixel centres; a target bin is its exact mean over the bin. Boxes
are never rounded to whole pixels, which is where torchvision's target and paste disagree by up to a pixel. Its own
target, `roi_align` without half-pixel alignment on the stack of masks, is offered for comparison and for its weights.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pipeline.instances import Alignment
from pipeline.masks.windows import Windows

_BUDGET = 1 << 22  # elements of the largest working array


def mask_targets(
    windows: Windows, matched: Tensor, boxes: Tensor, bins: int, alignment: Alignment = "aligned"
) -> Tensor:
    """Target probabilities float32 (P, bins, bins), 0 to 1, for P boxes, on the boxes' device.

    windows: the instances' masks. matched: int64 (P,), the instance of each box. boxes: float32 (P, 4), x0 y0 x1 y1,
    half-open, in pixels of the windows' canvas. A mask that ends at the canvas's border counts as going on beyond it.
    alignment: "torchvision" gives what its `project_masks_on_boxes` gives for boxes inside the canvas.
    """
    device = boxes.device
    weights = {"aligned": _means, "torchvision": _samples}[alignment]
    result = torch.zeros(len(boxes), bins, bins, device=device)
    if not len(boxes):
        return result
    frame = torch.from_numpy(windows.boxes).to(device)[matched]
    offset = torch.from_numpy(windows.offset).to(device)[matched]
    data = torch.from_numpy(windows.data).to(device)
    side = (frame[:, 2:] - frame[:, :2]).amax(1)
    # Boxes of like instances together, so that one large cell does not make every working array large.
    order = torch.argsort(side)
    sides = side[order].tolist()
    first = 0
    while first < len(sides):
        last = _chunk_end(sides, first)
        part = order[first:last]
        box = boxes[part].float()
        pixels = _pixels(data, offset[part], frame[part], windows.size)
        across = weights(box[:, 0], box[:, 2], frame[part, 0], pixels.shape[1], bins)
        down = weights(box[:, 1], box[:, 3], frame[part, 1], pixels.shape[2], bins)
        result[part] = (down @ pixels.transpose(1, 2) @ across.transpose(1, 2)).clamp(0, 1)
        first = last
    return result


def _chunk_end(sides: list[int], first: int) -> int:
    last = first + 1
    while last < len(sides) and (last + 1 - first) * (sides[last] + 2) ** 2 <= _BUDGET:
        last += 1
    return last


def _pixels(data: Tensor, offset: Tensor, frame: Tensor, size: tuple[int, int]) -> Tensor:
    """The masks in `frame` (P, 4) with a rim of one pixel, float32 (P, columns, rows): columns first, as in windows."""
    height, width = size
    x, shown_x = _padded(frame[:, 0], frame[:, 2], width)
    y, shown_y = _padded(frame[:, 1], frame[:, 3], height)
    shown = shown_x[:, :, None] & shown_y[:, None, :]
    if not data.numel():
        return shown.float() * 0
    rows = frame[:, 3] - frame[:, 1]
    place = offset[:, None, None] + x[:, :, None] * rows[:, None, None] + y[:, None, :]
    return data[place.clamp(0, data.numel() - 1)].float() * shown


def _padded(low: Tensor, high: Tensor, canvas: int) -> tuple[Tensor, Tensor]:
    """Pixels -1, 0, …, n of windows that begin at `low`, clamped into the window, and whether each is shown."""
    length = high - low
    place = torch.arange(-1, int(length.max()) + 1, device=low.device).expand(len(low), -1)
    inside = (place >= 0) & (place < length[:, None])
    before = (place == -1) & (low == 0)[:, None]
    after = (place == length[:, None]) & (high == canvas)[:, None]
    shown = (inside | before | after) & (length > 0)[:, None]
    return place.clamp(min=0).minimum((length - 1).clamp(min=0)[:, None]), shown


def _means(low: Tensor, high: Tensor, origin: Tensor, pixels: int, bins: int) -> Tensor:
    """Weights (P, bins, pixels): mean over each of `bins` equal parts of low..high of the hat function of each pixel.

    Pixel k (the first is -1) has its centre at origin + k + 0.5. The integral of the hat 1 - |t| has a closed form.
    """
    edges = torch.linspace(0, 1, bins + 1, device=low.device)
    width = (high - low).clamp(min=1e-3)
    # Box and window are close together: their difference first keeps the fractions of a pixel.
    edge = (low - origin)[:, None] + width[:, None] * edges
    centre = torch.arange(-1, pixels - 1, device=low.device) + 0.5
    area = _hat_integral(edge[:, :, None] - centre)
    return (area[:, 1:] - area[:, :-1]) * (bins / width)[:, None, None]


def _samples(low: Tensor, high: Tensor, origin: Tensor, pixels: int, bins: int) -> Tensor:
    """Weights (P, bins, pixels) of torchvision's RoIAlign: mean of the hats at evenly spaced points of each bin.

    A bin of b pixels has ceil(b) points, a box has at least one pixel, and pixel k has its centre at k, not k + 0.5.
    """
    step = (high - low).clamp(min=1) / bins
    points = step.ceil()
    centre = torch.arange(-1, pixels - 1, device=low.device)
    edge = (low - origin)[:, None] + step[:, None] * torch.arange(bins, device=low.device)
    total = torch.zeros(len(low), bins, pixels, device=low.device)
    for i in range(int(points.max())):
        place = edge + (step * (i + 0.5) / points)[:, None]
        hat = (1 - (place[:, :, None] - centre).abs()).clamp(min=0)
        total += hat * (i < points)[:, None, None]
    return total / points[:, None, None]


def _hat_integral(t: Tensor) -> Tensor:
    """Integral of max(0, 1 - |s|) over s from minus infinity to t."""
    t = t.clamp(-1, 1)
    return 0.5 + t - 0.5 * t * t.abs()
