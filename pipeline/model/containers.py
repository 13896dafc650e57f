"""Files of tensors, of torch and of safetensors: nothing in them can run, and none unpacks to more than it is.

Both are read into plain values: tensors, numbers, texts, lists and mappings.
"""

from __future__ import annotations

import importlib.util
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipeline.errors import InputError

_KEY = "maskline"  # of a safetensors file's metadata: the JSON of all that is no tensor
SUFFIX = ".safetensors"


def load(path: Path) -> Any:
    """The content of a file that `torch.save` wrote, on the CPU. Raises whatever the reader does for another file."""
    if zipfile.is_zipfile(path):  # files from before torch 1.6 are none
        _check_archive(path)
    return torch.load(path, map_location="cpu", weights_only=True)


def _check_archive(path: Path) -> None:
    """Torch packs nothing, so that what it reads is never more than the file; its reader would unpack, though."""
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
    packed = [entry.filename for entry in entries if entry.compress_type != zipfile.ZIP_STORED]
    if packed or sum(entry.file_size for entry in entries) > path.stat().st_size:
        raise ValueError("its entries are packed or lie over one another, which torch does not write")


def load_safetensors(path: Path) -> tuple[dict[str, Tensor], Any]:
    """Tensors by name, and what `save_safetensors` kept with them; None of a file that it did not write.

    Raises InputError where the package is missing, and whatever its reader does for another file.
    """
    _require_package(path)
    from safetensors import safe_open

    with safe_open(path, framework="pt", device="cpu") as file:
        kept = (file.metadata() or {}).get(_KEY)
        return {name: file.get_tensor(name) for name in file.keys()}, None if kept is None else json.loads(kept)  # noqa: SIM118


def save_safetensors(path: Path, state: Mapping[str, Tensor], kept: Any) -> None:
    """Tensors by name, and plain values for JSON. Raises InputError where the package is missing."""
    _require_package(path)
    from safetensors.torch import save_file

    save_file(dict(state), path, {_KEY: json.dumps(kept)})


def _require_package(path: Path) -> None:
    if importlib.util.find_spec("safetensors") is None:
        raise InputError(f'{path}: for files of this kind, pip install "maskline[timm]" or safetensors')
