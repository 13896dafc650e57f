"""The stage `lint`: what it prints, when it fails, and what it needs."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Literal

import pytest
from fixtures.contests import facts

from pipeline.errors import InputError
from pipeline.files import Paths, read_coco, write_coco
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


def run(paths: Paths, text: str, format: Literal["text", "json"] = "text") -> Path:
    submission = paths.data.parent / "some.csv"
    submission.write_text(text, encoding="utf-8")
    lint(competition=facts("toy"), paths=paths, submission=submission, format=format)
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


def test_for_tools_there_is_one_json_object_with_every_finding(
    paths: Paths, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(InputError, match="31 errors"):
        run(paths, "id,predicted\na,5 1 1 3\nb,1\n" + "\u202e=1,\n" * 30, format="json")
    printed = capsys.readouterr().out
    assert printed.isascii()
    report = json.loads(printed)
    assert [report[key] for key in ("competition", "errors", "warnings")] == ["toy", 31, 1]
    assert report["file"].endswith("some.csv")
    assert len(report["findings"]) == 32
    said = "run 2 starts before the run in front of it does"
    first = {"code": "rle-unsorted", "level": "warning", "row": 2, "image": "a", "message": said}
    assert report["findings"][0] == first
    assert report["findings"][2]["image"] == "\u202e=1"
    run(paths, "id,predicted\na,\nb,\n", format="json")
    assert json.loads(capsys.readouterr().out)["findings"] == []


def test_coco_results_are_held_against_the_ids_of_the_contests_own_file(
    paths: Paths, capsys: pytest.CaptureFixture[str]
) -> None:
    coco = read_coco(paths.test)
    write_coco(paths.test, {**coco, "images": [{**one, "source_id": 40 + one["id"]} for one in coco["images"]]})
    submission = paths.data.parent / "some.json"
    result = {"image_id": 41, "category_id": 1, "score": 0.5, "segmentation": {"size": [2, 3], "counts": "114"}}
    submission.write_text(json.dumps([result]))
    lint(competition=facts("coco"), paths=paths, submission=submission, format="text")
    assert capsys.readouterr().out == "no findings\n"
    submission.write_text(json.dumps([{**result, "image_id": 1}]))
    with pytest.raises(InputError, match="1 error"):
        lint(competition=facts("coco"), paths=paths, submission=submission, format="text")
    assert "an id looks like '41'" in capsys.readouterr().out


def test_without_the_test_images_it_says_to_run_convert(tmp_path: Path) -> None:
    paths = Paths(tmp_path / "data", tmp_path / "output", tmp_path / "submissions")
    with pytest.raises(InputError, match=r"test\.json does not exist; the stage `convert` makes it"):
        run(paths, "id,predicted\n")


def test_its_help_is_one_line() -> None:
    first, second = (inspect.getdoc(lint) or "").splitlines()[:2]
    assert first.endswith(".")
    assert second == ""
