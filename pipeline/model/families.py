"""Families of models: what the stages ask of a model, whatever it is made of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, Self, runtime_checkable

from torch import nn

from pipeline.errors import InputError
from pipeline.model.classical import Otsu
from pipeline.model.classifier import Classifier
from pipeline.model.detector import MaskRCNN
from pipeline.model.unet import UNet


@runtime_checkable
class Description(Protocol):
    """What model to build: a frozen dataclass of plain values, which travels in records and in the weights file.

    Besides these methods it has the class variable `family`, its name in `FAMILIES`, and the field `weights`: what a
    training starts from. The module that it builds has the attributes `spec`, the description, and `mean`, a tensor on
    the module's device. In training `module(images, targets)` is a dict of losses, whose sum is minimised; in
    evaluation `module.detect(image, image_id)` are the `Detections` of an image, uint8 (3, H, W). A module may offer
    the latter in two steps, so that views of an image can be averaged between them: `maps(image)`, float32 (K, H, W),
    whose planes turn with the image, and `instances(maps, image_id, size)`. Those of a `Classifier` say what is in an
    image, not where: they are of the whole image, once of each category, and become a file of presence.
    """

    def sized(self, statistics: Mapping[str, Any]) -> Self:
        """The same with every null replaced by a number derived from `statistics`, as `convert` measures them."""

    def build(self, categories: int, pretrained: bool = True) -> nn.Module:
        """The module for `categories` classes; pretrained: with the weights of its backbone that `weights` names."""

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> Self:
        """Inverse of `dataclasses.asdict`, also after a journey through JSON; the key `family` is no field."""


FAMILIES: dict[str, type[Description]] = {kind.family: kind for kind in (MaskRCNN, UNet, Otsu, Classifier)}
"""The families by name: a weights file holds the name, so that any of them is loaded by one function."""


def described(plain: Mapping[str, Any]) -> Description:
    """The description that a weights file holds. One from before there were families is a Mask R-CNN's.

    Raises InputError for a family that there is not, and for fields that are not those of the family.
    """
    family = plain.get("family", MaskRCNN.family)
    if not isinstance(family, str) or family not in FAMILIES:
        raise InputError(f"the model is of the family {family!r:.60}; those known here are {', '.join(FAMILIES)}")
    try:
        return FAMILIES[family].from_plain(plain)
    except (TypeError, LookupError, ValueError) as error:
        raise InputError(f"the description of the model ({family}) is not that of this version: {error}") from None
