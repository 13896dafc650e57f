"""The stages by name, and what can be told of them without importing one (imports of training take seconds).

A stage is a function of keyword arguments in the module of its name; its signature is its configuration, and the
first line of its docstring is its help.
"""

from __future__ import annotations

import ast
import importlib
from collections.abc import Callable
from functools import cache
from pathlib import Path

LINE = ("download", "convert", "train", "predict", "ensemble", "tune", "postprocess", "evaluate", "submit")
"""The stages that `run` runs, in order; `tune` where it is asked for."""

OTHERS = ("compare", "lint", "ceiling", "reproduce", "bundle", "ledger")
"""Stages that work on what is there, made here or not."""

STAGES = {name: f"pipeline.stages.{name}:{name}" for name in (*LINE, *OTHERS, "run")}
"""Every stage and where its function is."""


def load(stage: str) -> Callable[..., None]:
    """Import the function of a stage."""
    module, _, name = STAGES[stage].partition(":")
    function: Callable[..., None] = getattr(importlib.import_module(module), name)
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


@cache
def _definition(stage: str) -> ast.FunctionDef:
    module, _, name = STAGES[stage].partition(":")
    source = Path(__file__).with_name(f"{module.rpartition('.')[2]}.py").read_text(encoding="utf-8")
    return next(node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef) and node.name == name)
