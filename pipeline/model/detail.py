"""Outlines from the image itself: what a mask head cannot see in features of one cell per four pixels.

The finest features of a pyramid have a cell per four pixels, so a nucleus of twenty pixels is five cells wide, and its
outline a guess between them. Here a few filters look at the image in its own resolution, are pooled in the frame of
each box like any features, and correct the mask's logits. The idea of handing fine features to a late stage of the mask
head is RefineMask's (Zhang et al. 2021) and PointRend's (Kirillov et al. 2020); this is a small form of it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

CHANNELS = 16
_MIXED = 32


class Detail(nn.Sequential):
    """Features (B, 16, H, W) of normalised images (B, 3, H, W), in their own resolution, each of 5 × 5 pixels."""

    def __init__(self) -> None:
        parts: list[nn.Module] = []
        for inputs in (3, CHANNELS):
            convolution = nn.Conv2d(inputs, CHANNELS, 3, padding=1, bias=False)
            parts += [convolution, nn.BatchNorm2d(CHANNELS), nn.ReLU(inplace=True)]
        super().__init__(*parts)


class Refine(nn.Module):
    """What to add to the logits of masks, of the mask head's features and of the image's own; at first nothing.

    channels: C of the mask head's features.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.reduce = nn.Linear(channels, _MIXED)
        self.mix = nn.Sequential(
            nn.Conv2d(_MIXED + CHANNELS, _MIXED, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(_MIXED, _MIXED, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(_MIXED, 1, 1),
        )
        last = self.mix[-1]
        for value in (last.weight, last.bias):
            nn.init.zeros_(value)  # type: ignore[arg-type]

    def forward(self, hidden: Tensor, detail: Tensor) -> Tensor:
        """hidden: (P, S, S, 2, 2, C), features of each quarter of S × S cells; detail: (P, 16, 2S, 2S).

        Gives (P, 2S, 2S).
        """
        count, side = hidden.shape[:2]
        mixed = self.reduce(hidden).transpose(2, 3).reshape(count, 2 * side, 2 * side, _MIXED).permute(0, 3, 1, 2)
        both = torch.cat([mixed, detail.to(mixed.dtype)], 1).contiguous(memory_format=torch.channels_last)
        result: Tensor = self.mix(both)
        return result[:, 0]
