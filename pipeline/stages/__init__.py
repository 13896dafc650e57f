"""The stages by name, and what can be told of them without importing one (imports of training take seconds).

A stage is a function of keyword arguments in the module of its name; its signature is its configuration, and the
first line of its docstring is its help.
"""

from __future__ import annotations

import ast
import importlib
import os
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path

from pipeline.errors import InputError

LINE = ("download", "convert", "train", "predict", "ensemble", "tune", "postprocess", "evaluate", "submit")
"""The stages that `run` runs, in order; `tune` where it is asked for."""

OTHERS = ("compare", "lint", "ceiling", "reproduce", "bundle", "ledger")
"""Stages that work on what is there, made here or not."""

STAGES = {name: f"pipeline.stages.{name}:{name}" for name in (*LINE, *OTHERS, "run")}
"""Every stage and where its function is."""


def load(stage: str) -> Callable[..., float | None]:
    """Import the function of a stage."""
    module, _, name = STAGES[stage].partition(":")
    function: Callable[..., float | None] = getattr(importlib.import_module(module), name)
    return function


def description(stage: str) -> str:
    """Return the docstring of a stage, without importing it."""
    return ast.get_docstring(_definition(stage)) or ""


def parameters(stage: str) -> tuple[str, ...]:
    """Return the keys that a stage takes, in order, without importing it; `run` takes those of all it runs."""
    arguments = _definition(stage).args
    if arguments.kwarg is None or arguments.kwonlyargs:
        return tuple(argument.arg for argument in (*arguments.args, *arguments.kwonlyargs))
    return tuple(dict.fromkeys(key for name in LINE for key in parameters(name)))


def scores(stage: str) -> bool:
    """Whether a stage returns a score that a sweeper can search by, without importing it; more of it is better."""
    returned = _definition(stage).returns
    return returned is not None and ast.unparse(returned) != "None"


def lend(paths: Mapping[str, str], lender: str, run: str) -> None:
    """Show the detections of one run, and the stamps that say what they were made from, in the folder of another.

    Raises InputError where that run has detections of its own, which stay.
    """
    from pipeline.files import Paths  # which a page of help does without

    places = Paths(**{name: Path(path) for name, path in paths.items() if name != "_target_"})
    source, folder = places.run(lender), places.run(run)
    for file in [*source.glob("detections_*.npz"), *source.glob(".ensemble_*.json")]:
        own, shown = folder / file.name, Path(os.path.relpath(file, folder))
        if own.is_symlink() and own.readlink() == shown:
            continue
        if own.exists():
            raise InputError(f"{own} is not that of {lender}, and a job would take its place; give another run=NAME")
        folder.mkdir(parents=True, exist_ok=True)
        own.unlink(missing_ok=True)
        own.symlink_to(shown)


@cache
def _definition(stage: str) -> ast.FunctionDef:
    module, _, name = STAGES[stage].partition(":")
    source = Path(__file__).with_name(f"{module.rpartition('.')[2]}.py").read_text(encoding="utf-8")
    return next(node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef) and node.name == name)
