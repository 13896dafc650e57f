"""Kaggle through its official client, against a server on loopback that speaks its API; and without the client."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml
from fixtures.contests import facts
from fixtures.kaggle import Kaggle, archive, serving

from pipeline import kaggle
from pipeline.errors import InputError

CONTEST, TOKEN = "data-science-bowl-2018", "kgat-of-a-test"
client = pytest.mark.skipif(importlib.util.find_spec("kagglehub") is None, reason=f"needs {kaggle.INSTALL}")
TABLE = b"ImageId,EncodedPixels\na,1 1\n"


@pytest.fixture
def account(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An account of its own, with a token, that talks to loopback alone."""
    for name in [name for name in os.environ if name.startswith("KAGGLE")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("KAGGLE_API_ENVIRONMENT", "TEST")
    monkeypatch.setenv("KAGGLE_USERNAME", "somebody")
    monkeypatch.setenv("KAGGLE_KEY", TOKEN)


def files() -> dict[str, bytes]:
    """A contest as DSB2018 comes: tables, and archives inside of the archive."""
    images = archive({"a/images/a.png": b"picture"})
    return {"stage1_train_labels.csv": TABLE, "stage1_train.zip": images, "more/readme.txt": b"hello"}


@client
@pytest.mark.usefixtures("account")
def test_a_contests_files_are_fetched_unpacked_and_their_hashes_told(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    server = Kaggle(archive(files()))
    with serving(server):
        hashes = kaggle.download(CONTEST, tmp_path / "data")
    assert hashes == {"stage1_train_labels.csv": hashlib.sha256(TABLE).hexdigest()}
    found = {str(path.relative_to(tmp_path / "data")) for path in (tmp_path / "data").rglob("*") if path.is_file()}
    assert found == {"stage1_train_labels.csv", "stage1_train/a/images/a.png", "more/readme.txt"}
    assert [path.name for path in tmp_path.iterdir() if "download" in path.name] == []
    assert server.tokens, "the client gave its token"
    printed = capfd.readouterr()
    assert TOKEN not in printed.out + printed.err


@client
@pytest.mark.usefixtures("account")
def test_a_download_that_broke_off_goes_on_where_it_stopped_and_replaces_nothing(tmp_path: Path) -> None:
    content = {**files(), "large.bin": os.urandom(3 << 20)}
    server = Kaggle(archive(content), cut=2 << 20)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "more").mkdir()
    (tmp_path / "data" / "more" / "readme.txt").write_text("mine")
    with serving(server):
        with pytest.raises(InputError, match="no connection to Kaggle; run the command again"):
            kaggle.download(CONTEST, tmp_path / "data")
        assert [path.name for path in (tmp_path / "data").iterdir()] == ["more"]
        # What a broken download leaves; against this server the client reads an answer whole before it writes.
        partial = tmp_path / ".data.download" / "competitions" / f"{CONTEST}.archive"
        partial.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(server.archive[: 2 << 20])
        kaggle.download(CONTEST, tmp_path / "data")
    assert server.ranges == [f"bytes={2 << 20}-"], "the second time asked for the rest alone"
    assert (tmp_path / "data" / "large.bin").read_bytes() == content["large.bin"]
    assert (tmp_path / "data" / "more" / "readme.txt").read_text() == "mine"


@client
@pytest.mark.usefixtures("account")
@pytest.mark.parametrize(
    ("status", "said"),
    [
        (401, "Kaggle refuses the token of the account; make one at"),
        (403, f"accept the contest's rules at https://www.kaggle.com/competitions/{CONTEST}/rules"),
        (404, "Kaggle knows no such contest"),
        (500, "Kaggle answers with status 500"),
    ],
)
def test_what_kaggle_refuses_is_said_with_what_to_do(status: int, said: str, tmp_path: Path) -> None:
    with serving(Kaggle(status=status)):
        with pytest.raises(InputError, match=said) as down:
            kaggle.download(CONTEST, tmp_path / "data")
        (tmp_path / "a.csv").write_bytes(TABLE)
        with pytest.raises(InputError, match=said):
            kaggle.submit(CONTEST, tmp_path / "a.csv", "first")
    assert TOKEN not in str(down.value)
    assert not (tmp_path / "data").exists()


@client
@pytest.mark.usefixtures("account")
def test_without_network_without_token_and_with_a_full_disk_the_message_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InputError, match="no connection to Kaggle"):  # nothing serves
        kaggle.download(CONTEST, tmp_path / "data")
    if Path("/dev/full").exists():
        partial = tmp_path / ".data.download" / "competitions"
        partial.mkdir(parents=True, exist_ok=True)
        (partial / f"{CONTEST}.archive").symlink_to("/dev/full")
        with serving(Kaggle(archive(files()))), pytest.raises(InputError, match="the disk is full; make room"):
            kaggle.download(CONTEST, tmp_path / "data")
    monkeypatch.delenv("KAGGLE_KEY")
    for work in (lambda: kaggle.download(CONTEST, tmp_path / "b"), lambda: kaggle.submit(CONTEST, tmp_path, "x")):
        with pytest.raises(InputError, match=r"there is no token of a Kaggle account; make one at .*KAGGLE_API_TOKEN"):
            work()


@client
@pytest.mark.usefixtures("account")
def test_a_submission_is_sent_and_its_score_asked_for_until_it_is_there(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(TABLE)
    server, pauses = Kaggle(pending=2), []
    with serving(server):
        assert kaggle.submit(CONTEST, tmp_path / "a.csv", "one view") == 42
        assert kaggle.score(CONTEST, 42, pause=pauses.append) == {"public": 0.31, "private": None}
        server.pending = 9
        assert kaggle.score(CONTEST, 42, patience=20, pause=pauses.append) is None
    assert (server.uploaded, server.description) == (TABLE, "one view")
    assert pauses == [10, 10, 10, 10]


def test_an_archive_does_not_leave_its_folder(tmp_path: Path) -> None:
    for number, name in enumerate(("../out.txt", "a/../../out.txt", "/tmp/out.txt")):
        path = tmp_path / f"{number}" / "inner.zip"
        path.parent.mkdir()
        with zipfile.ZipFile(path, "w") as made:
            made.writestr("fine.txt", "1")
            made.writestr(name, "2")
        with pytest.raises(InputError, match=r"inner\.zip: its member '.*' lies outside of the archive's folder"):
            kaggle.unpack(path, path.parent)
        assert [one.name for one in path.parent.iterdir()] == ["inner.zip"]
    assert not (tmp_path / "out.txt").exists()


def test_an_archive_of_one_folder_of_its_name_gets_no_second_one(tmp_path: Path) -> None:
    (tmp_path / "train.zip").write_bytes(archive({"train/a.png": b"1", "train/b.png": b"2"}))
    kaggle.unpack(tmp_path / "train.zip", tmp_path)
    assert sorted(path.name for path in (tmp_path / "train").iterdir()) == ["a.png", "b.png"]


def test_without_the_client_the_command_says_how_to_install_it_and_how_to_do_without(tmp_path: Path) -> None:
    absent = tmp_path / "absent"
    absent.mkdir()
    (absent / "kagglehub.py").write_text("raise ModuleNotFoundError(\"No module named 'kagglehub'\", name='kagglehub')")
    done = subprocess.run(
        [sys.executable, "-m", "pipeline", "download", "competition=dsb2018", f"paths.data={tmp_path / 'data'}",
         f"paths.output={tmp_path / 'output'}"],
        env={**os.environ, "PYTHONPATH": f"{absent}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "Kaggle's client is not installed (kagglehub); pip install 'maskline[kaggle]'" in done.stderr
    assert (
        "stage1_train_labels.csv and stage1_sample_submission.csv of the contest dsb2018 are not there" in done.stderr
    )
    assert "paths.data=DIR" in done.stderr


def test_contests_of_kaggle_have_a_name_there() -> None:
    assert facts("dsb2018").slug == CONTEST
    assert (facts("toy").slug, facts("coco").slug) == ("", "")


@client
@pytest.mark.usefixtures("account")
def test_submit_writes_the_score_into_the_record(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from test_submission_stage import prepared  # what `postprocess` would have left

    from pipeline.instances import Instances
    from pipeline.stages.submit import submit

    competition = facts("dsb2018")
    paths, _ = prepared(tmp_path, competition, [Instances.empty("a", (2, 4))])
    settings = {"competition": competition, "paths": paths, "run": "r", "name": None, "overwrite": False}
    with serving(Kaggle(pending=0)):
        submit(**settings, upload=True, message="first")
    (record,) = paths.submissions.glob("*/record.yaml")
    assert yaml.safe_load(record.read_text())["score"] == {
        "public": 0.31, "private": None, "submission": 42, "message": "first"
    }  # fmt: skip
    assert capsys.readouterr().out == "submission 42: public 0.31, private None\n"
    assert TOKEN not in record.read_text()
