"""The stage `bundle`: a folder from which a notebook without network submits, whatever the test images are."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from fixtures.records import Made, flip_last_bit, submitted

from pipeline import toy
from pipeline.__main__ import main
from pipeline.errors import InputError
from pipeline.records import wheels

WEIGHTS = "runs/tiny/fold0/best.pt"


@pytest.fixture(scope="module")
def bundle(made: Made) -> Path:
    done = subprocess.run(
        [sys.executable, "-m", "pipeline", "bundle", f"record={made.record}", f"paths.output={made.folder / 'output'}"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if "a bundle is made on a machine that reaches a package index" in done.stderr:
        pytest.skip("no package index can be reached, and the wheels of a bundle come from one")
    assert done.returncode == 0, done.stderr
    return made.folder / "output" / "bundles" / made.record.name


def test_a_bundle_holds_wheels_weights_record_and_notebook_and_neither_torch_nor_numpy(bundle: Path) -> None:
    names = sorted(path.name.partition("-")[0] for path in (bundle / "wheels").iterdir())
    assert {"maskline", "hydra_core", "omegaconf", "antlr4_python3_runtime", "pycocotools", "lightning"} <= set(names)
    assert not {"torch", "torchvision", "numpy", "pandas", "scipy"} & set(names)
    assert all(path.suffix == ".whl" for path in (bundle / "wheels").iterdir())
    beside = {str(path.relative_to(bundle)) for path in bundle.rglob("*") if path.parent.name != "wheels"}
    assert {WEIGHTS, "bundle/record.yaml", "bundle/config.yaml", "submit.ipynb", "dataset-metadata.json"} <= beside
    metadata = json.loads((bundle / "dataset-metadata.json").read_text())
    assert len(metadata["title"]) <= 50
    notebook = json.loads((bundle / "submit.ipynb").read_text())
    assert (notebook["nbformat"], [cell["cell_type"] for cell in notebook["cells"]]) == (4, ["markdown"] + ["code"] * 4)


@pytest.mark.parametrize("budget", ["8h", "1s"])
def test_the_notebook_submits_other_test_images_without_network_and_in_time(
    budget: str, bundle: Path, made: Made, tmp_path: Path
) -> None:
    toy.draw(tmp_path / "input" / "competitions" / "toy", seed=9, n_train=2, n_test=2)
    shutil.copytree(bundle, tmp_path / "input" / "kit")
    cells = json.loads((bundle / "submit.ipynb").read_text())["cells"]
    code = "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    (tmp_path / "working").mkdir()
    places = {f"MASKLINE_{name.upper()}": str(tmp_path / name) for name in ("input", "working", "work")}
    places["MASKLINE_OUTPUT"] = places.pop("MASKLINE_WORKING")
    refusing = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9")
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True, text=True, check=False, cwd=tmp_path,
        env={**os.environ, **places, **refusing, "MASKLINE_BUDGET": budget, **_apart(tmp_path / "site")},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = (tmp_path / "working" / "submission.csv").read_text().splitlines()
    wanted = (tmp_path / "input/competitions/toy/sample_submission.csv").read_text().splitlines()
    assert {row.partition(",")[0] for row in rows} == {row.partition(",")[0] for row in wanted}
    data, found = tmp_path / "input" / "competitions" / "toy", tmp_path / "working" / "submission.csv"
    by_hand = submitted(made, data, tmp_path / "own")
    assert budget == "1s" or found.read_bytes() == by_hand
    own = [f"paths.data={data}", f"paths.output={tmp_path / 'own' / 'output'}"]
    assert main(["lint", f"submission={found}", *own]) == 0


def _apart(folder: Path) -> dict[str, str]:
    """Lets the notebook install into a folder of its own, which comes before the environment that runs the tests."""
    return {"PIP_TARGET": str(folder), "PYTHONPATH": str(folder)}


def test_weights_that_are_not_the_recorded_ones_are_not_bundled(
    made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = made.copied(tmp_path, WEIGHTS)
    flip_last_bit(tmp_path / "output" / WEIGHTS)
    assert main(["bundle", *other.words()]) == 1
    assert f"{WEIGHTS} is another file than the recorded" in capsys.readouterr().err
    assert not (tmp_path / "output" / "bundles").exists()


def test_without_a_package_index_the_message_says_so_and_tells_no_address(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wheels, "SOURCES", tmp_path)
    with pytest.raises(InputError, match="a bundle holds a wheel of this package, which is built from a checkout"):
        wheels.fetch(tmp_path / "wheels")
    (tmp_path / "pyproject.toml").write_text('[build-system]\nrequires = ["no-such-backend-anywhere"]\n')
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_INDEX_URL", "http://user:secret@127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "0")
    with pytest.raises(InputError, match="a bundle is made on a machine that reaches a package index") as error:
        wheels.fetch(tmp_path / "wheels")
    assert "secret" not in str(error.value)
    assert "127.0.0.1" not in str(error.value)
