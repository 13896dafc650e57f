"""Wheels for a machine without network that has torch, numpy and pandas, and not what this package needs besides.

pip fetches them here: the versions installed here, so that the record's versions travel with it. Of a compiled package
one wheel for each Python that Kaggle's image has had of late.
"""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from pipeline.errors import InputError
from pipeline.record import installed_version

PURE = (
    "hydra-core",
    "omegaconf",
    "antlr4-python3-runtime",  # the index has its source alone, so its wheel is built here
    "lightning",
    "pytorch-lightning",
    "lightning-utilities",
    "torchmetrics",
    "timm",
)
COMPILED = ("pycocotools",)
PYTHONS = ("3.11", "3.12", "3.13")
PLATFORMS = ("manylinux2014_x86_64", "manylinux_2_28_x86_64")
SOURCES = Path(__file__).resolve().parents[2]


def fetch(folder: Path) -> list[str]:
    """Put the wheels into `folder` and return their packages by name, this one first.

    Never torch, torchvision or numpy, nor anything else that Kaggle's image has: dependencies are not followed.
    Raises InputError where this package runs without its sources, and where pip is missing or fails.
    """
    if not (SOURCES / "pyproject.toml").is_file():
        raise InputError(f"{SOURCES}: a bundle holds a wheel of this package, which is built from a checkout of it")
    if importlib.util.find_spec("pip") is None:
        raise InputError(f"{sys.executable} has no pip, which fetches the wheels; install it: python -m ensurepip")
    folder.mkdir(parents=True, exist_ok=True)
    _pip("wheel", ["--wheel-dir", str(folder), str(SOURCES)])
    names = [name for name in PURE if installed_version(name)]
    _pip("wheel", ["--wheel-dir", str(folder), *map(_pinned, names)])
    for python in PYTHONS:
        platforms = [word for platform in PLATFORMS for word in ("--platform", platform)]
        words = ["--dest", str(folder), "--only-binary", ":all:", "--python-version", python, *platforms]
        _pip("download", [*words, *map(_pinned, COMPILED)])
    return ["maskline", *names, *COMPILED]


def _pinned(package: str) -> str:
    return f"{package}=={installed_version(package)}"


def _pip(command: str, words: Sequence[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pip", command, "--quiet", "--disable-pip-version-check", "--no-deps", *words],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        said = re.sub(r"\S+://\S+", "(address)", "\n  ".join(errors or done.stderr.splitlines()[-3:]))
        raise InputError(f"pip {command} failed; a bundle is made on a machine that reaches a package index:\n  {said}")
