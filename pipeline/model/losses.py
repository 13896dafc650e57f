"""Losses of the second stage: masks of boxes against their targets, and classes of unequal weight.

A mask loss takes logits float32 (P, M, M) of P boxes, P at least 1, and targets float32 (P, M, M), 0 to 1, and returns
a scalar, at least 0: the mean over the boxes. Targets are shares of a bin's area, so most are 0 or 1 and those along an
outline lie between.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from pipeline.errors import ConfigError

MaskLoss = Literal["bce", "dice", "bce_dice", "lovasz"]


def bce(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean binary cross-entropy of all bins, as Mask R-CNN has it (He et al. 2017, arXiv:1703.06870)."""
    return functional.binary_cross_entropy_with_logits(logits, targets)


def dice(logits: Tensor, targets: Tensor) -> Tensor:
    """1 - 2 Σ p t / (Σ p² + Σ t²) over the bins of each box, 0 to 1 (Milletari et al. 2016, arXiv:1606.04797).

    With squares below, a soft target is matched by itself: the loss is 0 where p = t, and nowhere else. One bin is
    added above and below, so that nothing found where nothing is counts as right.
    """
    found, wanted = logits.sigmoid().flatten(1), targets.flatten(1)
    common = (found * wanted).sum(1)
    return (1 - (2 * common + 1) / (found.square().sum(1) + wanted.square().sum(1) + 1)).mean()


def bce_dice(logits: Tensor, targets: Tensor) -> Tensor:
    """The sum of the two: the one rates every bin alike, the other each box as a whole."""
    return bce(logits, targets) + dice(logits, targets)


def lovasz(logits: Tensor, targets: Tensor) -> Tensor:
    """Lovász hinge of the Jaccard loss of each box (Berman et al. 2018, arXiv:1705.08790, section 3.1), at least 0.

    A bin is foreground from a target of a half on. 0 where every logit is on its side of 0 by a margin of 1.
    """
    inside = (targets >= 0.5).flatten(1).to(logits.dtype)
    errors = 1 - logits.flatten(1) * (2 * inside - 1)
    errors, order = errors.sort(1, descending=True)
    inside = inside.gather(1, order)
    # The Jaccard loss of the first k bins being wrong, for each k; what the k-th adds to it weighs its error.
    total = inside.sum(1, keepdim=True)
    jaccard = 1 - (total - inside.cumsum(1)) / (total + (1 - inside).cumsum(1))
    added = torch.diff(jaccard, dim=1, prepend=jaccard.new_zeros(len(jaccard), 1))
    return (errors.relu() * added).sum(1).mean()


MASK_LOSSES: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {
    "bce": bce, "dice": dice, "bce_dice": bce_dice, "lovasz": lovasz,
}  # fmt: skip


def class_loss(logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    """Cross-entropy of class logits (R, K + 1) with labels int64 (R,), as a mean weighted by each box's own class.

    weights: float32 (K + 1,), of the background and the K categories. Their common factor does not matter.
    """
    return functional.cross_entropy(logits, labels, weights.to(logits.dtype))


def weights_of(classes: tuple[float, ...] | None, wanted: int) -> Tensor | None:
    """Class weights as float32 (wanted,), None for none. Raises ConfigError for another number, or one not above 0."""
    if classes is None:
        return None
    if len(classes) != wanted:
        rule = f"wanted {wanted}, one for the background and one for each category"
        raise ConfigError(f"model.class_weights: {rule}, got {len(classes)}: {list(classes)}")
    result = torch.tensor(classes, dtype=torch.float32)
    if not bool((torch.isfinite(result) & (result > 0)).all()):
        raise ConfigError(f"model.class_weights: wanted numbers above 0, got {list(classes)}")
    return result
