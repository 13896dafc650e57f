"""Fingerprints and stamps: a step counts as done only while nothing it was made from has changed."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

from pipeline import record
from pipeline.record import Step, describe


@dataclasses.dataclass(frozen=True)
class Rules:
    score: float
    sizes: tuple[int, ...] = (1, 2)
    inner: Rules | None = None


# --- describe


def test_settings_are_described_as_plain_data() -> None:
    found = describe(
        {"rules": Rules(0.5, inner=Rules(0.1)), "path": PurePosixPath("a/b"), "rest": [1, None, True, "x"]}
    )
    name = f"{Rules.__module__}.Rules"
    assert found == {
        "rules": {
            "_target_": name,
            "score": 0.5,
            "sizes": [1, 2],
            "inner": {"_target_": name, "score": 0.1, "sizes": [1, 2], "inner": None},
        },
        "path": "a/b",
        "rest": [1, None, True, "x"],
    }
    assert json.loads(json.dumps(found)) == found


def test_partial_objects_are_described_with_all_that_was_fixed() -> None:
    assert describe(functools.partial(Counter, a=1)) == {"_target_": "collections.Counter", "_partial_": True, "a": 1}
    first, second = (describe(functools.partial(Counter, [value])) for value in (1, 2))
    assert first == {"_target_": "collections.Counter", "_partial_": True, "_args_": [[1]]}
    assert first != second


@pytest.mark.parametrize("value", [object(), {1, 2}, len, lambda: 0, Rules, b"bytes", 1j, iter([])])
def test_what_has_no_lasting_description_is_refused(value: Any) -> None:
    for settings in (value, {"a": [value]}, Rules(value), functools.partial(Counter, a=value)):
        with pytest.raises(
            TypeError, match=f"settings hold a {type(value).__name__}, which has no lasting description"
        ):
            describe(settings)


def test_the_same_settings_are_described_the_same_in_another_process() -> None:
    code = (
        "import functools, json, collections; from pathlib import Path; from pipeline.record import describe;"
        "f = functools.partial(collections.Counter, a=1e-7);"
        "print(json.dumps(describe({'f': f, 'p': Path('x'), 's': (1, 2)})))"
    )
    prints = {
        subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True, text=True, check=True, cwd=Path(__file__).parent.parent, env={"PYTHONHASHSEED": seed},
        ).stdout
        for seed in ("1", "2")
    }  # fmt: skip
    assert len(prints) == 1
    here = describe({"f": functools.partial(Counter, a=1e-7), "p": Path("x"), "s": (1, 2)})
    assert json.loads(prints.pop()) == here


# --- hashes


def test_a_file_is_known_by_its_bytes(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    assert record.file_hash(tmp_path / "a") == hashlib.sha256(b"abc").hexdigest()
    assert record.file_hash(tmp_path / "a").startswith("ba7816bf")  # the standard's own example


def test_a_folder_is_known_by_names_sizes_and_times(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("a", "b")]
    for path in paths:
        path.write_text("1")
    first = record.folder_state(paths)
    assert record.folder_state(reversed(paths)) == first
    paths[0].write_text("22")
    changed = record.folder_state(paths)
    assert changed != first
    assert record.folder_state(paths[:1]) not in (first, changed)


# --- steps


def step(folder: Path, **changes: Any) -> Step:
    values = {
        "stamp": folder / ".step.json",
        "outputs": (folder / "a.txt", folder / "b.txt"),
        "settings": {"rules": Rules(0.5), "seed": 0},
        "inputs": {"truth": "1234"},
    }
    return Step(**{**values, **changes})


@pytest.fixture
def done(tmp_path: Path) -> Step:
    one = step(tmp_path)
    assert not one.is_done()
    assert one.what_changed() == []
    for path in one.outputs:
        path.write_text(path.name)
    assert not one.is_done()  # outputs without a stamp may be half of them
    one.finish()
    return one


def test_a_finished_step_is_done_also_for_an_equal_one(done: Step, tmp_path: Path) -> None:
    assert done.is_done()
    assert step(tmp_path).is_done()
    assert step(tmp_path, settings={"seed": 0, "rules": Rules(0.5)}).is_done()  # order is no matter
    assert step(tmp_path).what_changed() == []
    assert sorted(path.name for path in tmp_path.iterdir()) == [".step.json", "a.txt", "b.txt"]


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"inputs": {"truth": "1235"}}, ["inputs.truth"]),
        ({"inputs": {"truth": "1234", "more": "5"}}, ["inputs.more"]),
        ({"inputs": {}}, ["inputs.truth"]),
        ({"settings": {"rules": Rules(0.6), "seed": 0}}, ["settings.rules"]),
        ({"settings": {"rules": Rules(0.5, (1, 3)), "seed": 1}}, ["settings.rules", "settings.seed"]),
        ({"settings": {"rules": Rules(0.5)}, "inputs": {"truth": ""}}, ["settings.seed", "inputs.truth"]),
    ],
)
def test_a_changed_setting_or_input_is_not_done_and_is_named(
    done: Step, tmp_path: Path, changes: dict[str, Any], names: list[str]
) -> None:
    other = step(tmp_path, **changes)
    assert not other.is_done()
    assert other.what_changed() == names
    assert done.is_done()


def test_a_missing_or_cut_output_is_not_done(done: Step) -> None:
    done.outputs[1].write_text("b")
    assert not done.is_done()
    done.outputs[1].unlink()
    assert not done.is_done()


def test_another_version_of_the_program_is_not_done(done: Step, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record, "version", lambda: "0.0.0")
    assert not done.is_done()
    assert done.what_changed() == []


def test_a_stamp_cut_anywhere_is_not_done(done: Step) -> None:
    whole = done.stamp.read_bytes()
    for length in range(len(whole.rstrip())):
        done.stamp.write_bytes(whole[:length])
        assert not done.is_done()
        assert done.what_changed() == []
    done.stamp.write_bytes(whole)
    assert done.is_done()


@pytest.mark.parametrize("content", [b"\xff\xfe", b"[]", b"3", b"null"])
def test_a_stamp_of_another_making_is_not_done(done: Step, content: bytes) -> None:
    done.stamp.write_bytes(content)
    assert not done.is_done()
    assert isinstance(done.what_changed(), list)


def test_a_step_without_all_its_outputs_cannot_be_finished(tmp_path: Path) -> None:
    one = step(tmp_path)
    one.outputs[0].write_text("a")
    with pytest.raises(FileNotFoundError, match=r"the step ended without its output .*b\.txt"):
        one.finish()
    assert not one.stamp.exists()


# --- the machine


def test_the_environment_is_plain_data_with_the_versions_that_matter() -> None:
    found = record.environment()
    assert json.loads(json.dumps(found)) == found
    assert found["python"] == ".".join(map(str, sys.version_info[:3]))
    assert found["packages"]["numpy"]
    assert record.installed_version("no-such-package-anywhere") is None


def test_the_commit_of_a_checkout_and_whether_it_is_clean(tmp_path: Path) -> None:
    assert record.commit(tmp_path) == {"commit": None, "clean": None}

    def git(*words: str) -> str:
        own = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
        return subprocess.run(["git", *own, *words], cwd=tmp_path, capture_output=True, text=True, check=True).stdout

    git("init", "-q")
    (tmp_path / "a").write_text("1")
    git("add", "a")
    git("commit", "-q", "-m", "first")
    assert record.commit(tmp_path) == {"commit": git("rev-parse", "HEAD").strip(), "clean": True}
    (tmp_path / "a").write_text("2")
    assert record.commit(tmp_path)["clean"] is False
