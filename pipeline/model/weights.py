"""Weights: into a file with what is needed to build their model again, and out of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pipeline.atomic import atomic
from pipeline.errors import InputError
from pipeline.model.families import described
from pipeline.model.pretrained import first_line

WEIGHTS_FORMAT = ("maskline-weights", 1)


def save_weights(path: Path, model: nn.Module, info: Mapping[str, Any]) -> None:
    """State dict, the model's family and resolved description, and plain information, loadable without running code.

    model: what a description builds, see `pipeline.model.families`. info: `load_detector` needs its `categories`.
    """
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    form, version = WEIGHTS_FORMAT
    spec: Any = model.spec
    plain = {"family": spec.family, **dataclasses.asdict(spec)}
    save_whole(path, {"format": form, "version": version, "model": plain, "info": dict(info), "state": state})


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


def load_detector(path: Path) -> tuple[Any, dict[str, Any]]:
    """The model of a weights file, of whatever family, in evaluation mode on the CPU, and the file's information.

    Raises InputError, beside what `read_weights` does, for a family or a description that is not known.
    """
    content = read_weights(path)
    try:
        spec = described(content["model"])
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    model = spec.build(len(content["info"]["categories"]), pretrained=False)
    model.load_state_dict(content["state"])
    return model.eval(), content["info"]
