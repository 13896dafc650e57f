"""Detections of many images, one image at a time: memory does not grow with their number."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from pipeline.data.dataset import as_tensor, read_image
from pipeline.inference.tiles import WHOLE, Tiles, detect_tiled
from pipeline.inference.views import View
from pipeline.instances import Detections
from pipeline.model.detector import Detector


def detect_images(
    detector: Detector,
    root: Path,
    images: Sequence[Mapping[str, Any]],
    precision: str = "32-true",
    views: Sequence[View] = (View(),),
    tiles: Tiles = WHOLE,
) -> Iterator[Detections]:
    """Detections of each image of a COCO dict's list, in its order.

    root: the contest's folder. precision: "32-true", or "bf16-mixed" or "16-mixed" for autocast on the detector's
    device. views: of each image, which have the same say. tiles: in which each is seen.
    """
    kind = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}.get(precision)
    device = next(detector.parameters()).device.type
    for image in images:
        pixels = as_tensor(read_image(root / image["file_name"]))
        # Not round the yield: the caller's own work is none of autocast's.
        with torch.autocast(device, kind, enabled=kind is not None):
            found = detect_tiled(detector, pixels, image["name"], views, tiles)
        yield found
