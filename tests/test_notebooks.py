"""The notebooks, each from its first cell to its last in a kernel of its own, on one small run of the toy contest."""

from __future__ import annotations

import ast
import json
import os
import shlex
from pathlib import Path
from typing import Any

import pytest
from fixtures.line import TINY, places
from fixtures.records import Made

from pipeline.records.notebook import notebook as bundled

FOLDER = Path(__file__).resolve().parent.parent / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("[0-9]*.ipynb"))
TRAINING = [word for word in TINY if not word.startswith(("run=", "postprocess."))]

nbformat = pytest.importorskip("nbformat", reason="the notebooks need the extra `notebooks`")
nbclient = pytest.importorskip("nbclient", reason="the notebooks need the extra `notebooks`")
pytest.importorskip("ipykernel", reason="the notebooks need the extra `notebooks`")


@pytest.fixture(scope="session")
def example(made: Made, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What the notebooks read from the environment: a finished run of a few toy images, and how to train a little."""
    folder = tmp_path_factory.mktemp("notebooks")
    made.whole(folder)
    return {
        "MASKLINE_EXAMPLE": shlex.join(places(folder / "toy", folder)),
        "MASKLINE_EXAMPLE_RUN": "tiny",
        "MASKLINE_EXAMPLE_TRAINING": shlex.join(TRAINING),
    }


def executed(path: Path, environment: dict[str, str]) -> Any:
    """The notebook with its outputs; what a cell raises is raised."""
    notebook = nbformat.read(path, as_version=4)
    client = nbclient.NotebookClient(
        notebook, timeout=180, kernel_name="python3", resources={"metadata": {"path": str(FOLDER)}}
    )
    # What a widget shows is output like any other here: nbclient's own way of following widgets blocks now and then
    # until the time is over (https://github.com/jupyter/nbclient/issues/312).
    client.handle_comm_msg = lambda *_: None
    client.execute(env={**os.environ, **environment})
    return notebook


def pictures(notebook: Any) -> int:
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    return sum("image/png" in output.get("data", {}) for output in outputs)


SHOWN = {"01_data": 4, "02_training": 2, "03_results": 3, "04_thresholds": 1, "05_submission": 1}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_from_top_to_bottom_and_shows_its_pictures(path: Path, example: dict[str, str]) -> None:
    notebook = executed(path, example)
    assert pictures(notebook) >= SHOWN[path.stem]


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.ipynb")), ids=lambda path: path.stem)
def test_a_notebook_is_kept_without_outputs_and_short(path: Path) -> None:
    content = json.loads(path.read_text(encoding="utf-8"))
    code = [cell for cell in content["cells"] if cell["cell_type"] == "code"]
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)
    assert sum(len(cell["source"]) for cell in code) < 120, "what is longer belongs into a module"


def test_the_notebook_for_kaggle_is_what_a_bundle_holds() -> None:
    """That one is executed, from a bundle, in the tests of the stage `bundle`."""
    held = json.loads((FOLDER / "kaggle_inference.ipynb").read_text(encoding="utf-8"))
    made = bundled("my_record", "submission.csv", "sample_submission.csv", ("maskline",), "8h")
    assert meant(held) == meant(made), "write what pipeline.records.notebook.notebook gives for these into the file"


def meant(notebook: Any) -> list[str]:
    """What the cells say, however their code is laid out."""
    sources = [(cell["cell_type"], "".join(cell["source"])) for cell in notebook["cells"]]
    return [ast.dump(ast.parse(text)) if kind == "code" else text.strip() for kind, text in sources]


def test_every_notebook_is_listed_in_this_test() -> None:
    assert {path.stem for path in NOTEBOOKS} == set(SHOWN)
