"""What befalls a command from outside: full disks, killed helpers, names in other letters, commas, ends.

Faults that take longer to bring about are in `python tests/reliability faults`.
"""

from __future__ import annotations

import contextlib
import locale
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from fixtures.dense import LAW
from fixtures.detectors import build
from fixtures.line import places, typed
from fixtures.records import Made
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader, Dataset

from pipeline import compose, toy
from pipeline.errors import InputError
from pipeline.inference.detect import NoMemory, _halved
from pipeline.model.engine import WholeFiles
from pipeline.model.faults import told
from pipeline.model.weights import save_weights
from pipeline.stages.predict import _detect


@contextlib.contextmanager
def no_file_above(size: int) -> Iterator[None]:
    """The system refuses to write more bytes than that into one file, in the middle of a write as a full disk does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def files(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and "logs" not in path.parts and "tensorboard" not in path.parts
    }


def lasting(found: dict[str, bytes]) -> dict[str, bytes]:
    """Without stamps, which say when."""
    return {name: content for name, content in found.items() if not Path(name).name.startswith(".")}


# --- the disk


@pytest.mark.parametrize(
    ("stage", "name"), [("ensemble overwrite=true", "detections_test.npz"), ("evaluate", "scores.json")]
)
def test_where_the_disk_is_full_a_command_says_so_and_leaves_nothing_half_written(
    made: Made, stage: str, name: str, tmp_path: Path
) -> None:
    made.whole(tmp_path)
    line = [*stage.split(), *places(made.data, tmp_path), "run=tiny"]
    before, wanted = files(tmp_path / "output"), (tmp_path / "output/runs/tiny" / name).read_bytes()
    with no_file_above(3000 if name.endswith("npz") else 200):
        refused = typed(*line)
    assert refused.returncode == 1
    assert "Traceback" not in refused.stderr
    assert "File too large; no larger file may be written there" in refused.stderr
    after = files(tmp_path / "output")
    assert after.keys() <= before.keys()
    assert {name: content for name, content in lasting(after).items() if content != before[name]} == {}
    done = typed(*line)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "output/runs/tiny" / name).read_bytes() == wanted


@pytest.mark.parametrize("what", ["weights", "checkpoint"])
def test_weights_that_do_not_fit_onto_the_disk_leave_the_old_ones(what: str, tmp_path: Path) -> None:
    model = build()
    state = dict(model.state_dict())

    def save() -> None:
        if what == "weights":
            save_weights(tmp_path / "file", model, {"categories": ["a", "b"]})
        else:
            WholeFiles().save_checkpoint({"state": state}, tmp_path / "file")

    save()
    before = (tmp_path / "file").read_bytes()
    with pytest.raises(OSError, match="File too large"), no_file_above(len(before) // 2):
        save()
    assert os.listdir(tmp_path) == ["file"]
    assert (tmp_path / "file").read_bytes() == before


def test_output_that_cannot_be_written_to_is_named_without_a_traceback(made: Made, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = typed("convert", f"paths.data={made.data}", f"paths.output={tmp_path / 'file' / 'out'}", "n_folds=2")
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1, done.stderr
    assert f"'{tmp_path}/file" in done.stderr
    assert "a file lies where a folder is wanted" in done.stderr


# --- helpers and memory


class Items(Dataset[int]):
    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> int:
        if index == 2:
            raise InputError("train/a.png is no readable image: image file is truncated")
        return index


def test_an_image_that_a_data_loading_process_cannot_read_is_named_without_its_traceback() -> None:
    with pytest.raises(InputError) as caught:
        list(DataLoader(Items(), num_workers=1))
    assert "Traceback" in str(caught.value)
    assert str(told(caught.value)) == "train/a.png is no readable image: image file is truncated"


def test_memory_that_does_not_suffice_is_told_with_what_needs_less() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 60)
    assert str(told(caught.value)).startswith("out of memory: ")
    assert "run=NAME" in str(told(caught.value))
    assert str(told(RuntimeError("CUDA error: unspecified launch failure\nmore"))).startswith(
        "the GPU has failed: CUDA"
    )
    for error in (
        RuntimeError("shapes differ"),
        RuntimeError("CUDA error: device-side assert triggered"),
        InputError("x"),
    ):
        assert told(error) is error


@LAW
@given(st.integers(1, 20), st.integers(1, 20))
def test_images_that_do_not_fit_into_memory_at_once_are_seen_in_parts_in_their_order(count: int, room: int) -> None:
    looks: list[int] = []

    def look(group: Sequence[Any]) -> list[Any]:
        if len(group) > room:
            raise MemoryError
        looks.append(len(group))
        return list(group)

    images = [{"name": str(number)} for number in range(count)]
    assert _halved(look, images) == images
    assert max(looks) <= room
    assert len(looks) < 2 * -(-count // room) + 1


def test_an_image_that_does_not_fit_into_memory_is_put_off_and_named(tmp_path: Path) -> None:
    def look(images: Sequence[Any]) -> Iterator[Any]:
        for image in images:
            if image in fails:
                raise NoMemory(f"image {image} does not fit into memory (so it is)")
            yield from ()

    parts = {tmp_path / f"{number}.npz": [f"{number}a", f"{number}b"] for number in range(3)}
    fails = {"1b"}
    with pytest.raises(InputError, match=r"^fold 0: image 1b does not fit .*kept, .*again; tiles\.side=1024"):
        _detect(parts, look, "fold 0", True)  # type: ignore[arg-type]
    assert sorted(os.listdir(tmp_path)) == ["0.npz", "2.npz"]
    fails = set()
    _detect(parts, look, "fold 0", True)  # type: ignore[arg-type]
    assert sorted(os.listdir(tmp_path)) == ["0.npz", "1.npz", "2.npz"]


# --- names, commas


@LAW
@given(st.text(st.characters(blacklist_categories=("Cs", "Cc")), min_size=1).filter(lambda text: "${" not in text))
def test_any_folder_s_name_can_be_given_on_the_command_line(name: str) -> None:
    """But for a comma, which is a sweep, and what is not said of a folder: quotes and brackets around it."""
    typed_as = f"paths.data=/data/{name.replace(',', '')}"
    (override,) = compose.parse([compose.readable(typed_as)])
    value = override.value()
    assert value == f"/data/{name.replace(',', '')}" or compose.readable(typed_as) == typed_as


def test_folders_with_blanks_and_other_letters_are_as_good_as_any(made: Made, tmp_path: Path) -> None:
    folder = tmp_path / "Zellen größe (1) 細胞 é=b"
    shutil.copytree(made.data, folder / "toy")
    done = typed("convert", *places(folder / "toy", folder), "n_folds=2")
    assert done.returncode == 0, done.stderr
    for name in ("annotations.json", "folds.csv", "statistics.json"):
        assert (folder / "output" / name).read_bytes() == (made.folder / "output" / name).read_bytes()


@pytest.fixture
def commas(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A locale that writes 0,5."""
    there = tmp_path / "locales"
    there.mkdir()
    made = shutil.which("localedef") and subprocess.run(
        ["localedef", "-i", "de_DE", "-f", "UTF-8", there / "de_DE.UTF-8"], capture_output=True, check=False
    )
    if not made or made.returncode > 1:
        pytest.skip("no locale with decimal commas, and none can be made")
    monkeypatch.setenv("LOCPATH", str(there))
    before = locale.setlocale(locale.LC_ALL)
    locale.setlocale(locale.LC_ALL, "de_DE.UTF-8")
    yield
    locale.setlocale(locale.LC_ALL, before)


def test_decimal_commas_change_no_file(made: Made, tmp_path: Path, commas: None) -> None:
    assert locale.format_string("%.1f", 0.5) == "0,5"
    made.whole(tmp_path / "again")
    where = [*places(made.data, tmp_path / "again"), "run=tiny"]
    assert typed("ensemble", *where, "overwrite=true").returncode == 0
    assert typed("postprocess", *where, "postprocess.score=0.3", "overwrite=true").returncode == 0  # as it was made
    assert typed("evaluate", *where).returncode == 0
    assert typed("submit", *where, "name=commas").returncode == 0
    one, other = (lasting(files(folder / "output")) for folder in (made.folder, tmp_path / "again"))
    compared = [name for name in other if Path(name).suffix in (".json", ".csv", ".npz", ".html")]
    assert {"submission.csv", "runs/tiny/scores.json", "runs/tiny/report.html"} <= {*compared}
    assert [name for name in compared if one[name] != other[name]] == []


# --- two at once, and ends

HOLD = """
import sys
from pathlib import Path
from pipeline.alone import alone
with alone(Path(sys.argv[1]), "converting"):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_second_command_into_the_same_folder_is_refused_with_the_first_one_s_number(
    made: Made, tmp_path: Path
) -> None:
    line = ["convert", *places(made.data, tmp_path), "n_folds=2"]
    own = [sys.executable, "-c", HOLD, str(tmp_path / "output" / ".convert.lock")]
    with subprocess.Popen(own, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == "held\n"
        refused = typed(*line)
        first.communicate("")
    assert refused.returncode == 1
    assert f"converting into {tmp_path / 'output'}: process {first.pid} on " in refused.stderr
    assert typed(*line).returncode == 0
    assert not (tmp_path / "output" / ".convert.lock").exists()


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_stage_that_is_told_to_end_says_so_in_one_line_and_clears_away(
    number: signal.Signals, status: int, tmp_path: Path
) -> None:
    toy.draw(tmp_path / "toy", seed=0, n_train=12, n_test=1)
    line = ["convert", *places(tmp_path / "toy", tmp_path), "n_folds=2", "quiet=true"]
    process = subprocess.Popen([sys.executable, "-m", "pipeline", *line], stderr=subprocess.PIPE, text=True)
    limit = time.monotonic() + 120
    while not (tmp_path / "output" / ".convert.lock").is_file():
        assert process.poll() is None
        assert time.monotonic() < limit
        time.sleep(0.005)
    process.send_signal(number)
    said = process.communicate()[1]
    assert process.returncode == status, said
    assert said == f"maskline convert: {'interrupted' if status == 130 else 'told to end (SIGTERM)'}\n"
    assert [path.name for path in (tmp_path / "output").iterdir()] == ["logs"]
