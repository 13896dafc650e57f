"""A contest that nobody has seen: one file of facts, taken from the README, and no code."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd
from fixtures.contests import text, write_picture
from fixtures.line import TINY, places, typed

README = Path(__file__).resolve().parent.parent / "README.md"


def facts() -> str:
    """The first YAML block of the README's section."""
    section = README.read_text(encoding="utf-8").partition("## Your own contest")[2]
    found = re.search(r"```yaml\n# competition/mycells.yaml\n(.*?)```", section, re.DOTALL)
    assert found is not None
    return found[1]


def draw(folder: Path) -> None:
    """Four training and two test images of 70×60 pixels with discs and bars, in the layout that the facts state."""
    rng = np.random.default_rng(0)
    rows = []
    y, x = np.mgrid[:70, :60]
    for name in ("train/a", "train/b", "train/c", "train/d", "test/e", "test/f"):
        masks = [(y - 20) ** 2 + (x - rng.integers(15, 45)) ** 2 < 80, (abs(y - 50) < 4) & (abs(x - 30) < 20)]
        pixels = 60 + 120 * np.any(masks, 0) + rng.integers(0, 30, (70, 60))
        write_picture(folder / f"{name}.png", pixels.astype(np.uint8))
        if name.startswith("train"):
            rows += [(name[-1], text(m, "column"), kind) for m, kind in zip(masks, ("round", "spindle"), strict=True)]
    pd.DataFrame(rows, columns=["id", "rle", "kind"]).to_csv(folder / "train.csv", index=False)
    pd.DataFrame({"id": ["e", "f"], "rle": ["", ""]}).to_csv(folder / "sample_submission.csv", index=False)


def test_the_invented_contest_of_the_readme_runs_from_its_file_alone(tmp_path: Path) -> None:
    draw(tmp_path / "data")
    (tmp_path / "own/competition").mkdir(parents=True)
    (tmp_path / "own/competition/mycells.yaml").write_text(facts(), encoding="utf-8")
    own = ["--config-dir", str(tmp_path / "own"), "competition=mycells"]
    done = typed("run", *own, *places(tmp_path / "data", tmp_path), "n_folds=2", *TINY)
    assert done.returncode == 0, done.stderr
    rows = pd.read_csv(tmp_path / "output/submission.csv", dtype=str, keep_default_na=False)
    assert list(rows.columns) == ["id", "rle"]
    assert set(rows["id"]) == {"e", "f"}


def test_who_has_no_test_images_trains_and_is_scored_all_the_same(tmp_path: Path) -> None:
    draw(tmp_path / "data")
    (tmp_path / "own/competition").mkdir(parents=True)
    (tmp_path / "own/competition/mycells.yaml").write_text(facts(), encoding="utf-8")
    own = ["--config-dir", str(tmp_path / "own"), "competition=mycells", "competition.sample_submission=null"]
    done = typed("run", *own, *places(tmp_path / "data", tmp_path), "n_folds=2", *TINY)
    assert done.returncode == 0, done.stderr
    assert "validation of tiny: mean precision" in done.stdout
    assert not (tmp_path / "output/submission.csv").exists()
    alone = typed("submit", *own, *places(tmp_path / "data", tmp_path), "run=tiny")
    assert (alone.returncode, "there is no test image, so there is nothing to submit" in alone.stderr) == (1, True)
