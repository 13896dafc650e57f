"""Weights: into a file with what is needed to build their detector again, and out of files and published sets."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torchvision.models.detection import MaskRCNN_ResNet50_FPN_Weights, maskrcnn_resnet50_fpn

from pipeline.errors import InputError
from pipeline.model.backbone import DOWNLOAD_ERRORS, download_help, first_line
from pipeline.model.detector import Detector, MaskRCNN

log = logging.getLogger(__name__)
WEIGHTS_FORMAT = ("maskline-weights", 1)


def save_weights(path: Path, detector: Detector, info: Mapping[str, Any]) -> None:
    """State dict, the detector's resolved description and plain information, loadable without running code."""
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in detector.state_dict().items()}
    form, version = WEIGHTS_FORMAT
    content = {"format": form, "version": version, "model": dataclasses.asdict(detector.spec), "info": dict(info)}
    partial = path.with_name(f".{path.name}.partial")
    torch.save({**content, "state": state}, partial)
    partial.replace(path)


def read_weights(path: Path) -> dict[str, Any]:
    """Content of a file that `train` wrote: model, info, state. Nothing in the file can run.

    Raises InputError for another file or another version.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise InputError(f"{path} does not exist; the stage `train` makes it") from None
    except Exception as error:  # whatever a broken or hostile file makes the reader raise
        raise InputError(f"{path} is no weights file of this pipeline: {first_line(error)}") from None
    got = (content.get("format"), content.get("version")) if isinstance(content, dict) else (None, None)
    if got != WEIGHTS_FORMAT:
        raise InputError(f"{path}: wanted {WEIGHTS_FORMAT[0]} of version {WEIGHTS_FORMAT[1]}, got {got[0]} of {got[1]}")
    return dict(content)


def load_detector(path: Path) -> tuple[Detector, dict[str, Any]]:
    """The detector of a weights file, in evaluation mode on the CPU, and the file's information."""
    content = read_weights(path)
    spec = MaskRCNN.from_plain(content["model"])
    detector = spec.build(len(content["info"]["categories"]), pretrained=False)
    detector.load_state_dict(content["state"])
    return detector.eval(), content["info"]


def initial_weights(detector: Detector) -> None:
    """Load the weights that the detector's description names, other than those of its backbone alone.

    Tensors of another shape are left at their random start when they belong to the class-dependent predictors, and
    refused with their names otherwise. The log says how many tensors came from where, and which did not.
    """
    name = detector.spec.weights
    if name in ("imagenet", "none"):
        log.info("weights: %s", "backbone from ImageNet" if name == "imagenet" else "none, a random start")
        return
    state = _coco_state(detector.spec) if name == "coco" else read_weights(Path(name))["state"]
    own = detector.state_dict()
    predictors = ("roi_heads.box_predictor.", "roi_heads.mask_predictor.mask_fcn_logits.")
    fits = {key: value for key, value in state.items() if key in own and own[key].shape == value.shape}
    wrong = [key for key in state.keys() | own.keys() if key not in fits and not key.startswith(predictors)]
    wrong = [key for key in wrong if not key.endswith("num_batches_tracked")]
    if wrong:
        some = ", ".join(sorted(wrong)[:5])
        raise InputError(f"weights {name} do not fit the model: {len(wrong)} tensors differ, such as {some}")
    detector.load_state_dict(fits, strict=False)
    left = sorted(key for key in own if key not in fits and not key.endswith("num_batches_tracked"))
    beginning = f"; at a random start: {', '.join(left)}" if left else ""
    log.info("weights: %d of %d tensors from %s%s", len(fits), len(own), name, beginning)


def _coco_state(spec: MaskRCNN) -> Mapping[str, Tensor]:
    if spec.backbone.name != "resnet50" or spec.mask_size != 28:
        wanted = "model.backbone.name=resnet50 and model.mask_size=28"
        raise InputError(f"model.weights=coco are torchvision's and want {wanted}")
    try:
        # Through torchvision's own builder: the published file has tensor names that only its modules translate.
        return maskrcnn_resnet50_fpn(weights=MaskRCNN_ResNet50_FPN_Weights.COCO_V1, progress=False).state_dict()
    except DOWNLOAD_ERRORS as error:
        raise InputError(download_help("COCO weights of Mask R-CNN", error)) from error
