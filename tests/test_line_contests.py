"""The whole line, from a contest's files to its submission, for a contest of each layout that is not plain rows."""

from __future__ import annotations

from pathlib import Path

import pytest
from fixtures.layouts import draw_contest
from fixtures.line import TINY, places, typed

OWN = {"coco": ["competition.categories=[cell,vessel]", "competition.codes={cell: '10',vessel: '20'}"]}


@pytest.mark.parametrize("key", ["severstal", "hubmap2023", "coco"])
def test_run_leads_from_files_of_any_layout_to_a_submission_without_findings(key: str, tmp_path: Path) -> None:
    competition, _ = draw_contest(tmp_path / "data", key)
    words = [f"competition={key}", *OWN.get(key, []), *places(tmp_path / "data", tmp_path)]
    done = typed("run", *words, "n_folds=2", *TINY)
    assert done.returncode == 0, done.stderr
    file = tmp_path / "output" / competition.submission_file
    lint = typed("lint", *words, f"submission={file}")
    assert (lint.returncode, lint.stdout.strip()) == (0, "no findings")
    assert list((tmp_path / "submissions").glob("*/record.yaml"))
