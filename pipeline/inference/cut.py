"""From soft masks to hard masks of the image in torchvision's alignment."""

from __future__ import annotations

import numpy as np
import torch
from torchvision.models.detection.roi_heads import expand_boxes, expand_masks

from pipeline.instances import Detections
from pipeline.masks.windows import Windows


@torch.inference_mode()
def cut(detections: Detections, threshold: float) -> Windows:
    """Masks of the image, each as far as its box goes: bit for bit those of torchvision's `paste_masks_in_image`."""
    masks, scale = expand_masks(torch.tensor(detections.masks)[:, None], padding=1)
    whole = expand_boxes(torch.tensor(detections.boxes), scale).to(torch.int64).numpy()
    # torchvision's boxes include their last pixel.
    side = np.maximum(whole[:, 2:] - whole[:, :2] + 1, 1)
    limit = np.array(detections.size)[::-1]
    low, high = np.maximum(whole[:, :2], 0), np.minimum(whole[:, 2:] + 1, limit)
    box = np.where((low < high).all(1)[:, None], np.concatenate([low, high], 1), 0)
    area = (box[:, 2:] - box[:, :2]).prod(1)
    offset = np.cumsum(area) - area
    data = np.zeros(int(area.sum()), bool)
    inner = (box - np.tile(whole[:, :2], 2)).tolist()
    sides, begins, ends = side[:, ::-1].tolist(), offset.tolist(), (offset + area).tolist()
    resize = torch.ops.aten.upsample_bilinear2d.default  # what torch.nn.functional.interpolate comes down to
    single = masks.split(1)
    for i in np.flatnonzero(area).tolist():
        x0, y0, x1, y1 = inner[i]
        soft = resize(single[i], sides[i], False).numpy()[0, 0, y0:y1, x0:x1]
        np.greater(soft.T, threshold, out=data[begins[i] : ends[i]].reshape(x1 - x0, y1 - y0))
    return Windows(detections.size, box, data.view(np.uint8), offset)
