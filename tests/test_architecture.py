"""The floors of the house: who may import whom. A drawing that is tested cannot drift from what it draws."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent / "pipeline"
FLOORS = {
    0: {"errors", "atomic"},
    1: {"masks", "alone", "machine", "progress", "record", "journal", "build"},
    2: {"instances", "competition", "toy"},
    3: {"data", "model", "metrics", "submission", "files", "kaggle", "plots"},
    4: {"inference", "report", "records"},
    5: {"stages"},
    6: {"compose", "sweep", "__main__"},
}
FLOOR = {room: floor for floor, rooms in FLOORS.items() for room in rooms}
TORCH = {"torch", "torchvision", "lightning", "timm"}
LIBRARIES = {"masks": {"numpy", "pycocotools"}, "errors": set(), "build": {"omegaconf", "hydra"}}  # of others: FLOOR_1
FLOOR_1 = {"numpy", "pycocotools", "yaml", "tqdm"}
FRONT_DOOR = {"build", "errors", "machine", "journal", "stages", "sweep", "compose"}  # floor 6 knows no domain room
RUNNERS = {"stages.run", "stages.reproduce"}  # stages that run other stages
DISK = {"os", "io", "pathlib", "shutil", "tempfile", "open"}


def imports(source: str) -> Iterator[str]:
    """Yield the dotted name of everything that a module imports, anywhere in it, and the bare names it reads."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{'.' * node.level}{node.module or ''}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "os":
            yield f"os.{node.attr}"
        elif isinstance(node, ast.Name) and node.id == "open":
            yield "open"


def violations(module: str, source: str) -> list[str]:
    """Return what the module (`masks.runs`, `stages.train`) imports against the table."""
    room, found = module.partition(".")[0], []
    for name in imports(source):
        first, *rest = name.split(".")
        inner = first == "pipeline"
        other = rest[0] if inner and rest else first
        same_stage = room == "stages" and rest[1:2] in ([], [module.partition(".")[2]])
        wrong = {
            "relative import": name.startswith("."),
            "unknown room": inner and other not in FLOOR,
            "room of this floor or above": inner
            and other != room
            and FLOOR.get(other, 0) >= FLOOR[room]
            and (other, room) not in {("compose", "__main__"), ("sweep", "__main__"), ("sweep", "compose")},
            "room below, closed to masks": room == "masks" and inner and other != room,
            "another stage": room == "stages" and other == room and not same_stage and module not in RUNNERS,
            "domain room": FLOOR[room] == 6 and inner and other not in FRONT_DOOR,
            "Hydra": first in {"hydra", "omegaconf"} and room not in {"build", "compose", "sweep", "__main__"},
            "torch": first in TORCH and FLOOR[room] <= 2 and room != "instances",
            "pandas": first == "pandas" and FLOOR[room] <= 2,
            "argument parser": first == "argparse" and room != "__main__",
            "environment": room == "stages" and name in {"os.environ", "os.getenv", "dotenv"},
            "disk": room == "masks" and first in DISK,
            "library": FLOOR[room] <= 1
            and not inner
            and first not in {*sys.stdlib_module_names, *LIBRARIES.get(room, FLOOR_1), "open"},
        }
        found += [f"pipeline.{module} imports {name}: {rule}" for rule, broken in wrong.items() if broken]
    return found


MODULES = sorted(path.relative_to(ROOT).with_suffix("") for path in ROOT.rglob("*.py"))


@pytest.mark.parametrize("path", [path for path in MODULES if path.parts != ("__init__",)], ids=str)
def test_every_module_imports_only_from_the_floors_below(path: Path) -> None:
    parts = path.parts[:-1] if path.name == "__init__" else path.parts
    assert parts[0] in FLOOR, f"{parts[0]} stands on no floor: add it to the table"
    assert violations(".".join(parts), (ROOT / path).with_suffix(".py").read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("module", "source", "rule"),
    [
        ("masks.runs", "import torch", "torch"),
        ("masks.runs", "from pipeline.errors import InputError", "closed to masks"),
        ("masks.runs", "def f():\n    return open('x')", "disk"),
        ("masks.text", "import scipy.ndimage", "library"),
        ("record", "from pipeline.files import Paths", "this floor or above"),
        ("competition", "import pandas as pd", "pandas"),
        ("data.folds", "from pipeline import metrics", "this floor or above"),
        ("data.folds", "from pipeline.model.backbone import build", "this floor or above"),
        ("metrics.coco", "def f():\n    from hydra.utils import instantiate", "Hydra"),
        ("model.heads", "from . import targets", "relative"),
        ("inference.views", "from pipeline.stages import train", "this floor or above"),
        ("stages.train", "from pipeline.stages.convert import convert", "another stage"),
        ("stages.train", "import argparse", "argument parser"),
        ("stages.train", "import os\nos.environ['X']", "environment"),
        ("stages.train", "from os import environ", "environment"),
        ("__main__", "from pipeline.model import detector", "domain room"),
        ("data.folds", "import pipeline.drawer", "unknown room"),
    ],
)
def test_the_table_catches_a_violation(module: str, source: str, rule: str) -> None:
    assert any(rule in found for found in violations(module, source))


def test_the_table_lets_pass_what_it_should() -> None:
    assert violations("stages.run", "from pipeline.stages.train import train\nimport torch") == []
    assert violations("data.folds", "from pipeline.masks.runs import Runs\nimport pandas, sklearn") == []
    assert violations("masks.text", "import numpy as np\nfrom pipeline.masks.runs import Runs") == []


def test_no_module_is_longer_than_a_reader_keeps_in_mind() -> None:
    lengths = {str(path): len((ROOT / path).with_suffix(".py").read_text().splitlines()) for path in MODULES}
    assert {path: length for path, length in lengths.items() if length >= 300} == {}
