"""From soft masks in their boxes' frames to hard masks of the image, under the convention they were trained in."""

from __future__ import annotations

from pipeline.instances import Detections
from pipeline.masks import windows
from pipeline.masks.runs import Runs
from pipeline.masks.windows import from_windows


def paste(detections: Detections, threshold: float = 0.5) -> Runs:
    """Masks of the image, one per detection; a pixel is set where the probability exceeds `threshold`, 0 to 1.

    Aligned detections: see `pipeline.masks.windows.paste`. Those in torchvision's alignment become, bit for bit, what
    its `paste_masks_in_image` gives: boxes grown by the rim of one bin and cut to whole pixels. No image-sized array
    is made for either.
    """
    if detections.alignment == "aligned":
        return windows.paste(detections.masks, detections.boxes, detections.size, threshold)
    from pipeline.inference.cut import cut  # torchvision takes seconds to import, and no other alignment needs it

    return from_windows(cut(detections, threshold))
