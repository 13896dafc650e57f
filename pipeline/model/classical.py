"""The classical baseline: Otsu's threshold and a watershed of the distance to the background. It learns nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from scipy import ndimage
from skimage.feature import peak_local_max
from skimage.filters import threshold_otsu
from torch import Tensor, nn

from pipeline.instances import Alignment, Detections
from pipeline.model import watershed
from pipeline.model.watershed import Plane


@dataclass(frozen=True)
class Otsu:
    """Otsu's threshold on the brightness of an image and a watershed from the middles of what it finds.

    objects: whether the instances are brighter or darker than the background; "fewer": whichever side of the threshold
    has fewer pixels. blur: standard deviation in pixels of the Gaussian before the threshold. apart: least distance in
    pixels of the middles of two instances. min_area: smallest instance in pixels. mask_size: M, bins per side of a
    mask. weights: "none".
    """

    family: ClassVar[str] = "classical"
    alignment: ClassVar[Alignment] = "aligned"
    detections: ClassVar[None] = None  # no limit

    objects: Literal["fewer", "bright", "dark"]
    blur: float
    apart: int
    min_area: int
    mask_size: int
    weights: str = "none"

    def sized(self, statistics: Mapping[str, Any]) -> Otsu:
        """Itself: nothing in it follows from the data."""
        return self

    def build(self, categories: int, pretrained: bool = True) -> Thresholder:
        """The module; whatever it finds is of the first category."""
        return Thresholder(self)

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> Otsu:
        """Inverse of `dataclasses.asdict`."""
        return cls(**{name: value for name, value in plain.items() if name != "family"})


class Thresholder(nn.Module):
    """Images in, detections out; there are no parameters."""

    mean: Tensor
    score_floor: float = 0.0

    def __init__(self, spec: Otsu):
        super().__init__()
        self.spec = spec
        self.register_buffer("mean", torch.zeros(1), persistent=False)

    def maps(self, image: Tensor) -> Tensor:
        """One plane float32 (1, H, W), 0 to 1, of an image (3, H, W) of levels 0 to 255, on its device.

        0 and 1 are its extreme levels, 0.5 is the threshold.
        """
        grey = ndimage.gaussian_filter(image.float().mean(0).cpu().numpy(), self.spec.blur)
        return torch.from_numpy(_around_threshold(grey, self.spec.objects))[None].to(image.device)

    def instances(self, maps: Tensor, image_id: str, size: tuple[int, int]) -> Detections:
        """The instances in such a plane of an image of `size` (H, W)."""
        soft = maps[0].float().cpu().numpy()
        inside = soft > 0.5
        distance = ndimage.gaussian_filter(ndimage.distance_transform_edt(np.pad(inside, 1))[1:-1, 1:-1], 1)
        tops = np.zeros(size, bool)
        tops[tuple(peak_local_max(distance, min_distance=self.spec.apart, labels=inside.astype(int)).T)] = True
        found = watershed.regions(inside, distance, tops, self.spec.min_area)
        one_class = np.zeros((0, *size), np.float32)
        return watershed.detections(found, soft, 0.5, one_class, image_id, self.spec.mask_size, self.score_floor)

    def detect(self, image: Tensor, image_id: str) -> Detections:
        """Detections of one image, uint8 (3, H, W)."""
        return self.instances(self.maps(image), image_id, (image.shape[-2], image.shape[-1]))


def _around_threshold(grey: Plane, objects: str) -> Plane:
    """Levels (H, W) as float32 0 to 1 in two straight lines that meet at Otsu's threshold, which becomes 0.5."""
    low, high = float(grey.min()), float(grey.max())
    if low == high:  # a picture of one level has nothing in it
        return np.zeros(grey.shape, np.float32)
    middle = float(threshold_otsu(grey))
    soft = np.interp(grey, [low, middle, high], [0.0, 0.5, 1.0]).astype(np.float32)
    dark = objects == "dark" or (objects == "fewer" and (soft > 0.5).mean() > 0.5)
    return 1 - soft if dark else soft
