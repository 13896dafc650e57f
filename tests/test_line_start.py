"""What a stage does without it does not import: the libraries of training take seconds, at each command."""

from __future__ import annotations

import subprocess
import sys

import pytest

LIGHT = ["download", "convert", "ensemble", "tune", "postprocess", "evaluate", "submit", "compare", "lint", "ledger"]


@pytest.mark.parametrize(
    ("names", "heavy"), [(LIGHT, ["torch", "torchvision", "lightning"]), (["predict"], ["lightning"])]
)
def test_a_stage_starts_without_the_libraries_of_those_before_it(names: list[str], heavy: list[str]) -> None:
    code = "import sys; from pipeline import stages; [stages.load(name) for name in sys.argv[1:]]; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code, *names], capture_output=True, text=True, check=True)
    assert set(heavy) & set(done.stdout.split()) == set()
