"""The stage `lint`: what it prints, when it fails, and what it needs."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest
from fixtures.contests import facts

from pipeline.errors import InputError
from pipeline.files import Paths, write_coco
from pipeline.stages.lint import lint


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    """A folder in which `convert` has listed two test images of 2×3 pixels."""
    made = Paths(tmp_path / "data", tmp_path / "output", tmp_path / "submissions")
    images = [
        {"id": k + 1, "name": name, "file_name": f"test/{name}.png", "height": 2, "width": 3, "group": ""}
        for k, name in enumerate("ab")
    ]
    info = {"format": "maskline-coco", "version": 1, "competition": "toy"}
    write_coco(made.test, {"info": info, "images": images, "categories": [], "annotations": []})
    return made


def run(paths: Paths, text: str) -> Path:
    submission = paths.data.parent / "some.csv"
    submission.write_text(text, encoding="utf-8")
    lint(competition=facts("toy"), paths=paths, submission=submission)
    return submission


def test_a_clean_file_prints_no_findings_and_returns(paths: Paths, capsys: pytest.CaptureFixture[str]) -> None:
    run(paths, "id,predicted\na,1 3\na,5 1\nb,\n")
    assert capsys.readouterr().out == "no findings\n"


def test_a_warning_is_printed_and_is_no_failure(paths: Paths, capsys: pytest.CaptureFixture[str]) -> None:
    run(paths, "id,predicted\na,5 1 1 3\nb,\n")
    assert capsys.readouterr().out == (
        "warning rle-unsorted: row 2, image a: run 2 starts before the run in front of it does\n"
    )


def test_errors_are_printed_with_row_and_image_and_fail(paths: Paths, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(InputError, match=r"some\.csv: 2 errors; Toy contest .* would refuse the file"):
        run(paths, "id,predicted\na,1 3 6\na,5 3\nb,\n")
    assert capsys.readouterr().out.splitlines() == [
        "error rle-odd: row 2, image a: 3 values, wanted pairs of start and length; the last is 6",
        "error rle-end: row 3, image a: run 1 ends at pixel 7, the image has 6",
    ]


def test_of_each_code_twenty_findings_are_printed_and_the_others_counted(
    paths: Paths, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(InputError, match="26 errors"):
        run(paths, "id,predicted\na,1\nb,\n" + "x,\n" * 25)
    lines = capsys.readouterr().out.splitlines()
    assert sum(line.startswith("error id-unknown: row") for line in lines) == 20
    assert lines[0].startswith("error rle-odd")
    assert lines[-1] == "id-unknown: 5 more, 25 in all"


def test_without_the_test_images_it_says_to_run_convert(tmp_path: Path) -> None:
    paths = Paths(tmp_path / "data", tmp_path / "output", tmp_path / "submissions")
    with pytest.raises(InputError, match=r"test\.json does not exist; the stage `convert` makes it"):
        run(paths, "id,predicted\n")


def test_its_help_is_one_line() -> None:
    first, second = (inspect.getdoc(lint) or "").splitlines()[:2]
    assert first.endswith(".")
    assert second == ""
