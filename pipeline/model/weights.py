"""Weights: into a file with what is needed to build their model again, and out of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.atomic import atomic
from pipeline.errors import InputError
from pipeline.model.containers import SUFFIX, load, load_safetensors, save_safetensors
from pipeline.model.families import described
from pipeline.model.pretrained import first_line

WEIGHTS_FORMAT = ("maskline-weights", 1)


_SIDE, _WIDTH, _NAMES = 1024, 2048, 65_536  # most bins per side of a mask, channels of a plane, categories


def save_weights(path: Path, model: nn.Module, info: Mapping[str, Any]) -> None:
    """State dict, the model's family and resolved description, and plain information, loadable without running code.

    model: what a description builds, see `pipeline.model.families`. info: `load_detector` needs its `categories`.
    A path that ends with .safetensors gets a file of that kind; it takes the package safetensors.
    """
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    form, version = WEIGHTS_FORMAT
    spec: Any = model.spec
    plain = {"family": spec.family, **dataclasses.asdict(spec)}
    content = {"format": form, "version": version, "model": plain, "info": dict(info)}
    if path.suffix == SUFFIX:
        with atomic(path) as partial:
            save_safetensors(partial, state, content)
    else:
        save_whole(path, {**content, "state": state})


def save_whole(path: Path, content: Any) -> None:
    """`torch.save` of a file that appears whole or not at all. Raises OSError where it cannot be written."""
    with atomic(path) as partial, open(partial, "wb") as file:
        try:
            torch.save(content, file)
        except RuntimeError as error:  # on its way out torch covers up why a file was not written to its end
            if error.__context__ is None:
                raise
            raise error.__context__ from None


def read_weights(path: Path) -> dict[str, Any]:
    """Content of a file that `save_weights` wrote: model, info, state. Nothing in the file can run.

    Raises InputError for another file or another version.
    """
    try:
        content = _content(path)
    except FileNotFoundError:
        raise InputError(f"{path} does not exist; the stage `train` makes it") from None
    except InputError:
        raise
    except Exception as error:  # whatever a broken or hostile file makes the reader raise
        raise InputError(f"{path} is no weights file of this pipeline: {first_line(error)}") from None
    got = (content.get("format"), content.get("version")) if isinstance(content, dict) else (None, None)
    if got != WEIGHTS_FORMAT:
        wanted = f"wanted {WEIGHTS_FORMAT[0]} of version {WEIGHTS_FORMAT[1]}, got {got[0]!s:.40} of {got[1]!s:.40}"
        raise InputError(f"{path}: {wanted}; a newer version of this program may read it, or train again")
    try:
        _check(content)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path} is a broken weights file: {type(error).__name__}: {first_line(error)}") from None
    return dict(content)


def _content(path: Path) -> Any:
    if path.suffix == SUFFIX:
        state, kept = load_safetensors(path)
        return {**kept, "state": state} if isinstance(kept, dict) else None
    return load(path)


def _check(content: Mapping[str, Any]) -> None:
    """What is relied on before the model is built. Numbers that would ask for more memory than any model has are none.

    Raises AttributeError, KeyError, TypeError or ValueError.
    """
    state, names, model = content["state"], content["info"]["categories"], content["model"]
    if not all(isinstance(key, str) and isinstance(value, Tensor) for key, value in state.items()):
        raise TypeError("state: wanted tensors by name")
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names) or len(names) > _NAMES:
        raise TypeError(f"info.categories: wanted a list of names, got {type(names).__name__}")
    width, side = dict(model.get("backbone") or {}).get("channels", 1), model.get("mask_size", 1)
    for key, value, most in (("model.backbone.channels", width, _WIDTH), ("model.mask_size", side, _SIDE)):
        if not 1 <= value <= most:
            raise ValueError(f"{key}: wanted 1 to {most}, got {value!r:.40}")


def load_detector(path: Path) -> tuple[Any, dict[str, Any]]:
    """The model of a weights file, of whatever family, in evaluation mode on the CPU, and the file's information.

    Raises InputError, beside what `read_weights` does, for a family or a description that is not known, and for
    tensors that are not those of the description.
    """
    content = read_weights(path)
    try:
        model = described(content["model"]).build(len(content["info"]["categories"]), pretrained=False)
        model.load_state_dict(content["state"])
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    except (RuntimeError, TypeError, ValueError, LookupError, AttributeError) as error:
        said = " ".join(str(error).split())
        raise InputError(f"{path}: its description and its tensors make no model: {said:.300}") from None
    return model.eval(), content["info"]
