"""The notebook of a bundle: on Kaggle, without network, from the test images that are there to a checked submission."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

_TITLE = """\
# {name}

Makes `{file}` of the contest's test images, whichever are there, from the weights of this bundle, without network.
Add the bundle (as a dataset) and the contest's data to the notebook, switch the internet off and run all cells.
"""

_PLACES = '''\
import os
import shutil
import subprocess
import sys
from pathlib import Path

INPUT = Path(os.environ.get("MASKLINE_INPUT", "/kaggle/input"))
OUTPUT = Path(os.environ.get("MASKLINE_OUTPUT", "/kaggle/working"))
WORK = Path(os.environ.get("MASKLINE_WORK", "/tmp/maskline"))  # what is needed on the way only
BUDGET = os.environ.get("MASKLINE_BUDGET", {budget!r})  # time to predict in; views, then models are dropped to keep it


def find(name):
    """The folder below INPUT that holds a file: datasets and contests have been mounted at several depths."""
    for depth in range(1, 6):
        for path in INPUT.glob("*/" * depth + name):
            return path.parents[name.count("/")]
    raise FileNotFoundError(f"{{INPUT}}: no {{name}} in it; add the bundle and the contest's data to this notebook")


BUNDLE, CONTEST = find("bundle/record.yaml").resolve(), find({sample!r}).resolve()
print(BUNDLE, CONTEST)
'''

_INSTALL = """\
# What is installed stays as it is; torch and numpy are never touched.
pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--find-links", BUNDLE / "wheels"]
subprocess.run([*pip, {packages}], check=True)
"""

_PREDICT = """\
words = ["record=" + str(BUNDLE / "bundle"), "kept=" + str(BUNDLE), "start=predict", "hidden=true", "quiet=true"]
words += ["paths.data=" + str(CONTEST), "paths.output=" + str(WORK){budgeted}]
subprocess.run([sys.executable, "-m", "pipeline", "reproduce", *words], check=True, cwd=OUTPUT)
"""

_FINISH = """\
made = WORK / "reproduced" / "bundle" / "predict" / {file!r}
shutil.copyfile(made, OUTPUT / {file!r})  # it was checked by the contest's rules before it was written
print(*made.read_text().splitlines()[:5], sep="\\n")
"""


def notebook(name: str, file: str, sample: str, packages: Sequence[str], budget: str) -> dict[str, Any]:
    """A notebook as nbformat 4.5 has it.

    name: of the record. file: what the contest calls a submission. sample: the contest's sample submission, by which
    its folder is known. packages: to install from the bundle's wheels. budget: time to predict in, as "8h".
    """
    listed = ", ".join(f'"{package}"' for package in packages)
    cells = [
        _cell(0, "markdown", _TITLE.format(name=name, file=file)),
        _cell(1, "code", _PLACES.format(sample=sample, budget=budget)),
        _cell(2, "code", _INSTALL.format(packages=listed)),
        _cell(3, "code", _PREDICT.format(budgeted=', "budget=" + BUDGET')),
        _cell(4, "code", _FINISH.format(file=file)),
    ]
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    return {"cells": cells, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}


def _cell(number: int, kind: str, text: str) -> dict[str, Any]:
    cell = {"id": f"cell-{number}", "cell_type": kind, "metadata": {}, "source": text.splitlines(keepends=True)}
    return cell | ({"execution_count": None, "outputs": []} if kind == "code" else {})
