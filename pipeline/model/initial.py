"""The weights that a training starts from: published ones, those of a file, or none."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torchvision.models import detection

from pipeline.errors import InputError
from pipeline.model.detector import MaskRCNN
from pipeline.model.pretrained import DOWNLOAD_ERRORS, download_help
from pipeline.model.weights import read_weights

log = logging.getLogger(__name__)
_IGNORED = "num_batches_tracked"  # a count that no computation reads


def initial_weights(model: nn.Module) -> None:
    """Load the weights that the model's description names, other than those of its backbone alone.

    Tensors of another shape are left at their random start when they belong to the class-dependent `predictors` of the
    model, and refused with their names otherwise. The log says how many tensors came from where, and which did not.
    """
    spec: Any = model.spec
    name = str(spec.weights)
    if name in ("imagenet", "none"):
        source = getattr(getattr(model, "backbone", None), "source", "") or "backbone from ImageNet"
        log.info(
            "weights: %s", f"{source}; the rest at a random start" if name == "imagenet" else "none, a random start"
        )
        return
    state = _coco_state(spec) if name == "coco" else read_weights(Path(name))["state"]
    own = model.state_dict()
    predictors: tuple[str, ...] = getattr(model, "predictors", ())
    fits = {key: value for key, value in state.items() if key in own and own[key].shape == value.shape}
    wrong = [key for key in state.keys() | own.keys() if key not in fits and not key.startswith(predictors)]
    wrong = [key for key in wrong if not key.endswith(_IGNORED)]
    if wrong:
        some = ", ".join(sorted(wrong)[:5])
        raise InputError(f"weights {name} do not fit the model: {len(wrong)} tensors differ, such as {some}")
    model.load_state_dict(fits, strict=False)
    left = sorted(key for key in own if key not in fits and not key.endswith(_IGNORED))
    beginning = f"; at a random start: {', '.join(left)}" if left else ""
    log.info("weights: %d of %d tensors from %s%s", len(fits), len(own), name, beginning)


def _coco_state(spec: MaskRCNN) -> Mapping[str, Tensor]:
    if spec.family != "maskrcnn" or spec.backbone.name != "resnet50" or spec.mask_size != 28:
        wanted = "model.backbone.name=resnet50 and model.mask_size=28"
        raise InputError(f"model.weights=coco are torchvision's Mask R-CNN's and want {wanted}")
    version = "_V2" if spec.heads == "v2" else ""
    make = getattr(detection, f"maskrcnn_resnet50_fpn{version.lower()}")
    published = getattr(detection, f"MaskRCNN_ResNet50_FPN{version}_Weights").COCO_V1
    try:
        # Through torchvision's own builder: the published file has tensor names that only its modules translate.
        return dict(make(weights=published, progress=False).state_dict())
    except DOWNLOAD_ERRORS as error:
        raise InputError(download_help("COCO weights of Mask R-CNN", error)) from error
