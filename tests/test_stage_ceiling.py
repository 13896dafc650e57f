"""The stage `ceiling` as a user types it, and a score floor of `predict` that is none."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from fixtures.contests import draw

REPOSITORY = Path(__file__).resolve().parent.parent


def pipeline(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run `python -m pipeline` with these words in the folder `cwd`."""
    path = os.pathsep.join(filter(None, [str(REPOSITORY), os.environ.get("PYTHONPATH")]))
    command = [sys.executable, "-m", "pipeline", *words]
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300)


def test_the_ceilings_of_a_converted_contest_are_printed_written_and_drawn(tmp_path: Path) -> None:
    draw(tmp_path / "data", "sartorius")
    places = ("competition=sartorius", f"paths.data={tmp_path / 'data'}", "paths.output=out")
    assert pipeline("convert", *places, "n_folds=2", cwd=tmp_path).returncode == 0
    done = pipeline("ceiling", *places, "model.mask_size=56", "postprocess.min_area=2", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "out" / "ceiling.json").read_text())["ceilings"]
    assert [(one["factor"], one["score"], one["instances"]) for one in found[:1]] == [("truth as it is", 1.0, 3)]
    assert found[-1]["choice"] == "56×56, aligned, at most 100, boxes off by 0.7 px"
    (small,) = (one for one in found if one["factor"] == "smallest area")
    # Of the instances of 2, 6 and 1 pixels the last is lost. It is alone in its image, which then scores 0; the image
    # without instances scores 1.
    assert (small["choice"], small["instances"], small["score"]) == ("2 px", 2, pytest.approx(2 / 3))
    assert "sartorius: highest mean precision that a perfect detector could reach, 3 images" in done.stdout
    assert (tmp_path / "out" / "ceiling.png").stat().st_size > 5000


def test_ceilings_need_a_converted_contest(tmp_path: Path) -> None:
    done = pipeline("ceiling", "competition=sartorius", "paths.data=data", cwd=tmp_path)
    assert done.returncode == 1
    assert "annotations.json does not exist; the stage `convert` makes it" in done.stderr
    assert not list(tmp_path.rglob("ceiling.*"))


@pytest.mark.parametrize("floor", ["1.5", "-0.1"])
def test_a_score_floor_outside_0_to_1_is_refused(tmp_path: Path, floor: str) -> None:
    done = pipeline("predict", f"score_floor={floor}", cwd=tmp_path)
    assert done.returncode == 2
    assert f"score_floor: wanted 0 to 1, got {floor}" in done.stderr
