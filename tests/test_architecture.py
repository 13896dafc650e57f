"""The floors of the house: who may import whom. A drawing that is tested cannot drift from what it draws."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
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


# What is installed ---------------------------------------------------------------------------------------------------

MODULE_OF = {"pillow": "PIL", "hydra-core": "hydra", "scikit-image": "skimage", "pyyaml": "yaml"}  # others: their name
BY_NAME_ONLY = {"tensorboard"}  # Lightning's logger imports it


def declared() -> tuple[set[str], set[str]]:
    """The modules that an installation brings, and those that an extra does which is not for developing."""
    project = tomllib.loads((ROOT.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = [word for name, words in project["optional-dependencies"].items() if name != "dev" for word in words]

    def modules(words: list[str]) -> set[str]:
        names = (re.split(r"[^A-Za-z0-9._-]", word)[0].lower() for word in words)
        return {MODULE_OF.get(name, name.replace("-", "_")) for name in names}

    return modules(project["dependencies"]), modules(extras)


def imported(inside: type[ast.AST] | tuple[type[ast.AST], ...]) -> dict[str, str]:
    """Modules of others that the package imports below nodes of this kind, each with a file that does."""
    found = {}
    for path in sorted(ROOT.rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            for inner in ast.walk(node) if isinstance(node, inside) else ():
                names = [one.name for one in inner.names] if isinstance(inner, ast.Import) else []
                names += [str(inner.module)] if isinstance(inner, ast.ImportFrom) else []
                found |= {name.partition(".")[0]: path.name for name in names}
    return {name: file for name, file in found.items() if name not in {*sys.stdlib_module_names, "pipeline"}}


def test_every_import_is_of_a_declared_dependency_and_of_an_extra_only_where_it_is_asked_for() -> None:
    always, extras = declared()
    everywhere, lazily = imported(ast.Module), imported((ast.FunctionDef, ast.AsyncFunctionDef))
    assert {name: file for name, file in everywhere.items() if name not in always | extras} == {}
    of_extras = {name: file for name, file in everywhere.items() if name not in always}
    assert of_extras.keys() <= lazily.keys()


def test_every_declared_dependency_is_used() -> None:
    always, _ = declared()
    assert always - imported(ast.Module).keys() - BY_NAME_ONLY == set()


# What may run ---------------------------------------------------------------------------------------------------------


def test_nothing_is_unpickled_evaluated_or_given_to_a_shell() -> None:
    """Calls by which a file's content, or a text, would run; a `torch.load` or `np.load` says that it must not."""
    found = []
    for path in sorted(ROOT.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            name, words = ast.unparse(node.func), {one.arg: ast.unparse(one.value) for one in node.keywords}
            wrong = (
                name in {"eval", "exec", "compile", "__import__", "os.system", "os.popen", "input"}
                or re.match(r"(pickle|marshal|shelve|dill|joblib|cloudpickle)\.", name) is not None
                or (name == "torch.load" and words.get("weights_only") != "True")
                or (name == "np.load" and words.get("allow_pickle") != "False")
                or re.match(r"yaml\.(load|full_load|unsafe_load|load_all|unsafe_load_all)$", name) is not None
                or (name.endswith(".fit") and words.get("weights_only", "True") != "True")
                or words.get("shell") == "True"
                or name.endswith((".load_from_checkpoint", ".read_pickle", ".to_pickle", "tarfile.open"))
            )
            found += [f"{path.relative_to(ROOT)}:{node.lineno} {name}"] if wrong else []
    assert found == []
