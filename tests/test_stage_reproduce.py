"""The stages `reproduce` and `ledger`: a record leads back to its bytes, anywhere; where it does not, it says why."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml
from fixtures.records import Made, edit, flip_last_bit, submitted

from pipeline import compose, journal, stages, toy
from pipeline.__main__ import main
from pipeline.build import build, slice_for
from pipeline.compose import Command
from pipeline.records.content import read

REPOSITORY = Path(__file__).resolve().parent.parent
WEIGHTS = "runs/tiny/fold0/best.pt"
FOLD = "runs/tiny/fold0/detections_test.npz"
FUSED = "runs/tiny/detections_test.npz"


def reproduced(made: Made, start: str) -> Path:
    return made.folder / "output" / "reproduced" / made.record.name / start / "submission.csv"


def test_a_record_names_its_stages_inputs_files_and_score(made: Made) -> None:
    content = made.content()
    assert [one["stage"] for one in content["stages"]] == ["convert", "train", "predict", "ensemble", "postprocess"]
    assert content["stages"][0]["overrides"] == ["n_folds=2"]
    assert {"run=tiny", "trainer.steps=2"} <= set(content["stages"][1]["overrides"])
    assert all(not word.startswith("paths.") for one in content["stages"] for word in one["overrides"])
    assert set(content["inputs"]) == {"train.csv", "sample_submission.csv"}
    assert {WEIGHTS, FOLD, FUSED, "test.json", "submission.csv"} <= set(content["files"])
    assert (content["images"]["test"], content["validation"]["images"]) == (3, 3)
    assert len(content["constraints"]) == 64
    assert content["score"] == {"public": None, "private": None}
    assert all(one["minutes"] >= 0 and one["peak_memory_mb"] > 0 for one in content["stages"])
    beside = {path.name for path in made.record.iterdir()}
    assert beside == {"record.yaml", "config.yaml", "images.csv", "scores.json", "picture.png"}
    assert yaml.safe_load((made.record / "config.yaml").read_text())["trainer"]["steps"] == 2
    text = "".join(path.read_text() for path in made.record.glob("*.yaml"))
    assert str(made.folder) not in text, "a record names no folder of the machine that made it"


@pytest.mark.parametrize(("kept", "start"), [([WEIGHTS, "test.json"], "predict"), ([FUSED], "postprocess")])
def test_from_weights_or_detections_the_bytes_are_the_same_in_another_folder(
    kept: list[str], start: str, made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = made.copied(tmp_path, *kept)
    assert main(["reproduce", *other.words()]) == 0
    printed = capsys.readouterr().out
    assert f"starts with {start}; from {'weights' if start == 'predict' else 'saved detections'}" in printed
    assert "the same bytes" in printed
    assert reproduced(other, start).read_bytes() == made.csv
    assert "reproduced: " in printed


def test_from_scratch_the_score_is_within_the_tolerance(
    made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = made.copied(tmp_path)
    assert main(["reproduce", *other.words(), "quiet=true"]) == 0
    printed = capsys.readouterr().out
    assert "starts with convert; from scratch: a validation score within" in printed
    assert reproduced(other, "convert").is_file()
    assert "reproduced: " in printed


def test_weights_changed_in_their_last_bit_are_named(
    made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = made.copied(tmp_path, WEIGHTS, "test.json")
    flip_last_bit(tmp_path / "output" / WEIGHTS)
    assert main(["reproduce", *other.words()]) == 1
    said = capsys.readouterr().err
    assert f"{WEIGHTS} is another file than the recorded {WEIGHTS}: sha256 " in said
    assert "start=convert" in said
    assert not (tmp_path / "output" / "reproduced").exists()


def test_a_start_whose_files_are_missing_is_refused_with_their_names(
    made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = made.copied(tmp_path, FUSED)
    assert main(["reproduce", *other.words(), "start=predict"]) == 1
    assert f"cannot start from predict:\n  {tmp_path / 'output' / WEIGHTS} does not exist" in capsys.readouterr().err


def test_a_dry_run_prints_commands_and_makes_nothing(
    made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = made.copied(tmp_path, WEIGHTS)
    before = sorted(tmp_path.rglob("*"))
    assert main(["reproduce", *other.words(), "dry_run=true"]) == 0
    lines = capsys.readouterr().out.splitlines()
    wanted = ["predict", "ensemble", "postprocess", "submit"]
    commands = [line.split() for line in lines if line.startswith("  maskline ")]
    assert [words[1] for words in commands] == wanted
    assert all("split=test" in words and "competition=toy" in words for words in commands[:-1])
    assert sorted(tmp_path.rglob("*")) == before


def test_where_the_result_differs_the_first_stage_image_and_row_are_named(
    made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = made.copied(tmp_path, FUSED, "test.json")

    def stricter(config: dict) -> None:
        config["postprocess"]["score"] = 0.9999

    def older(content: dict) -> None:
        content["environment"]["commit"] = "0" * 40
        content["environment"]["packages"]["numpy"] = "0.1"
        content["inputs"]["train.csv"] = "0" * 64

    edit(other.record / "config.yaml", stricter)
    edit(other.record / "record.yaml", older)
    assert main(["reproduce", *other.words()]) == 1
    said = capsys.readouterr().err
    assert re.search(
        r"the first difference is in what postprocess made \(runs/tiny/instances_test.json\): image \w+", said
    )
    assert "commit: was 0000" in said
    assert "numpy: was 0.1, is " in said
    assert "train.csv: another content" in said


def test_settings_that_todays_code_does_not_read_are_named_with_the_commit_that_does(
    made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = made.copied(tmp_path, FUSED, "test.json")
    edit(other.record / "config.yaml", lambda config: config["postprocess"].update(renamed_since=1))
    assert main(["reproduce", *other.words()]) == 1
    said = capsys.readouterr().err
    assert "this version does not read the recorded settings (postprocess.renamed_since: " in said
    assert "check out the commit that made the record" in said


def test_other_test_images_are_predicted_as_the_line_would(made: Made, tmp_path: Path) -> None:
    other = made.copied(tmp_path, WEIGHTS)
    toy.draw(tmp_path / "hidden", seed=7, n_train=2, n_test=2)
    words = [f"record={other.record}", f"paths.data={tmp_path / 'hidden'}", f"paths.output={tmp_path / 'work'}"]
    assert main(["reproduce", *words, f"kept={tmp_path / 'output'}", "hidden=true", "quiet=true"]) == 0
    got = tmp_path / "work/reproduced" / made.record.name / "predict/submission.csv"
    rows, wanted = (path.read_text().splitlines()[1:] for path in (got, tmp_path / "hidden/sample_submission.csv"))
    assert {row.partition(",")[0] for row in rows} == {row.partition(",")[0] for row in wanted}
    assert got.read_bytes() == submitted(made, tmp_path / "hidden", tmp_path / "own")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "record.yaml does not exist; the stage `submit` makes it"),
        ("a: [", "is no YAML"),
        ("[]", "wanted a mapping, got list"),
        (
            "format: maskline-record\nversion: 1\n",
            "wanted maskline-record of version 2, got maskline-record of version 1",
        ),
        ("format: maskline-record\nversion: 2\n", "competition, files, inputs, run, stages, submission missing"),
    ],
)
def test_a_folder_that_is_no_record_is_refused(
    content: str | None, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if content is not None:
        (tmp_path / "record.yaml").write_text(content)
        (tmp_path / "config.yaml").write_text("{}")
    assert main(["reproduce", f"record={tmp_path}"]) == 1
    assert said in capsys.readouterr().err
    assert main(["reproduce"]) == 1
    assert "record: wanted the folder of a record" in capsys.readouterr().err


def committed() -> list[Path]:
    return sorted(path.parent for path in (REPOSITORY / "submissions").glob("*/record.yaml"))


def check_composable(folder: Path) -> None:
    """The overrides of each stage compose with today's conf/, and its resolved settings build today's objects."""
    record = read(folder)
    for one in record.stages():
        if one["overrides"] is None:
            continue
        words = (f"competition={record.content['competition']}", "paths.data=data", *one["overrides"])
        own = [word for word in words if not (word.startswith("competition=") and word != words[0])]
        command = Command(one["stage"], tuple(own))
        compose.check(command)
        function = stages.load(one["stage"])
        with compose.composer(command):
            today = slice_for(function, compose.compose(own))
        build(function, {**today, **slice_for(function, one["settings"])})


@pytest.mark.parametrize("folder", committed(), ids=lambda folder: folder.name)
def test_every_committed_record_composes_with_todays_configuration(folder: Path) -> None:
    check_composable(folder)


def test_a_new_record_composes_and_gets_its_row_in_the_ledger(made: Made) -> None:
    check_composable(made.record)
    submissions = made.record.parent
    (submissions / "README.md").write_text("# Mine\n\nkept\n")
    for _ in range(2):
        assert main(["ledger", f"paths.submissions={submissions}"]) == 0
    text = (submissions / "README.md").read_text()
    assert text.startswith("# Mine\n\nkept\n\n<!-- ledger")
    (row,) = (line for line in text.splitlines() if line.startswith(f"| [{made.record.name}]"))
    assert "| toy | " in row
    assert made.content()["submission"]["sha256"][:12] in row


def test_the_journal_holds_every_command_without_the_places_of_the_machine(made: Made) -> None:
    lines = [json.loads(line) for line in (made.folder / "output" / journal.NAME).read_text().splitlines()]
    assert [line["stage"] for line in lines] == list(stages.LINE)
    assert all("paths" not in line["settings"] for line in lines)
    assert str(made.folder) not in json.dumps(lines)
