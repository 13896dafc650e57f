"""Records that strangers send: they are data, which leads nowhere, runs nothing and says nothing to the terminal."""

from __future__ import annotations

import copy
import shlex
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml
from fixtures.targets import HASH, RECORD

from pipeline.__main__ import main
from pipeline.build import build
from pipeline.competition import Competition, is_inside
from pipeline.errors import ConfigError, InputError, printable
from pipeline.files import Paths, read_yaml
from pipeline.records import content, ledger, plan
from pipeline.stages.reproduce import _competition

OUTSIDE = [
    "../x", "/etc/x", "a/../../x", "..", "a\\..\\x", "C:/x", "~/x\0", "a/./b", "", "a//b", "con/x", "a/nul.txt", "a\nb",
]  # fmt: skip
# Eight times the line before on each line: some hundred characters that would be repeated sixteen million times.
LAUGHS = "a: &a [1,1,1,1,1,1,1,1]\n" + "".join(
    f"{name}: &{name} [{','.join([f'*{before}'] * 8)}]\n" for before, name in pairwise("abcdefgh")
)


def sent(folder: Path, change: Callable[[Any], None], config: str = "{}") -> Path:
    """A record as a stranger may have changed it."""
    record = copy.deepcopy(RECORD)
    change(record)
    folder.mkdir(exist_ok=True)
    (folder / "record.yaml").write_text(yaml.safe_dump(record))
    (folder / "config.yaml").write_text(config)
    return folder


def refused(folder: Path) -> str:
    with pytest.raises(InputError) as error:
        content.read(folder)
    assert printable(str(error.value)) == str(error.value)
    return str(error.value)


@pytest.mark.parametrize("path", OUTSIDE)
def test_no_name_in_a_record_leads_out_of_its_folder(path: str, tmp_path: Path) -> None:
    assert not is_inside(path)
    assert "files: wanted" in refused(sent(tmp_path / "r", lambda r: r["files"].update({path: HASH})))
    assert "run: wanted" in refused(sent(tmp_path / "r", lambda r: r.update(run=path)))
    assert "submission" in refused(sent(tmp_path / "r", lambda r: r["submission"].update(file=path)))
    assert "competition: wanted" in refused(sent(tmp_path / "r", lambda r: r.update(competition=path)))
    with pytest.raises(ConfigError, match="run: wanted a name, or a path inside"):
        Paths(tmp_path, tmp_path, tmp_path).run(path)


@pytest.mark.parametrize("path", ["a", "a b/c.png", "runs/x/fold0/best.pt", "...", "images/\u00e9.tif", "a..b/c"])
def test_a_path_inside_a_folder_is_one(path: str) -> None:
    assert is_inside(path) == (path != "...")


def test_what_a_contest_writes_has_a_plain_name(tmp_path: Path) -> None:
    facts = {"key": "../../x", "submission_file": "../../.profile"}
    for key, value in facts.items():
        node = {"_target_": "pipeline.competition.Competition", **_facts(), key: value}
        with pytest.raises(ConfigError, match=f"{key}: wanted letters, digits"):
            build(_competition, {"competition": node})


def _facts() -> dict[str, Any]:
    path = Path(__file__).parent.parent / "conf" / "competition" / "dsb2018.yaml"
    return {name: value for name, value in yaml.safe_load(path.read_text()).items() if name != "_target_"}


@pytest.mark.parametrize("name", ["=1+1", "+1", "@SUM(1)", "a\nb", "\x1b[2J", "\ta"])
def test_a_category_that_a_spreadsheet_would_run_is_none(name: str) -> None:
    """Categories and what stands for them are heads and cells of CSV files; ids are letters and digits."""
    plain = {key: tuple(value) if isinstance(value, list) else value for key, value in _facts().items()}
    for changes in ({"categories": (name,)}, {"codes": {plain["categories"][0]: name}}):
        with pytest.raises(ValueError, match="categories and codes: wanted printable text that is no formula"):
            Competition(**{**plain, **changes})


def test_the_commands_that_are_shown_are_one_word_each_for_a_shell(tmp_path: Path) -> None:
    words = ["a=$(touch x)", "b=`touch x`", "c='", 'd="$HOME"', "e=a b;f", "g=!1", "h=~", "i=#", "j=\\"]
    found = content.read(sent(tmp_path / "r", lambda r: r["stages"][0].update(overrides=words)))
    what = plan.plan(found, tmp_path, "convert")
    shown = next(line for line in plan.lines(found, what, {}) if "maskline convert" in line)
    assert shlex.split(shown) == ["maskline", "convert", "competition=toy", *words]


@pytest.mark.parametrize("words", [["a\nrm -rf x"], ["\x1b]0;x\x07"], ["a\u202eb"], "a", [1], {"a": 1}])
def test_a_command_that_is_none_is_refused(words: Any, tmp_path: Path) -> None:
    assert "overrides: wanted the words of a command" in refused(
        sent(tmp_path / "r", lambda r: r["stages"][0].update(overrides=words))
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("!!python/object/apply:os.system [touch victim]", "is no YAML"),
        ("a: !!python/name:os.system", "is no YAML"),
        ("a: !!timestamp x", "is no YAML"),
        ("a: 2001-99-99", "is no YAML"),
        ("a: " + "9" * 5000, "is no YAML"),
        ("a: " + "[" * 5000, "is no YAML"),
        ("a: &a [*a]", "its aliases repeat more than"),
        (LAUGHS, "its aliases repeat more than"),
        ("1: 2", "wanted a mapping of names"),
        ("- 1", "wanted a mapping, got list"),
        ("a: \0", "is no YAML"),
    ],
)  # fmt: skip
def test_yaml_makes_no_objects_and_little_text_does_not_become_much(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(InputError, match=said):
        read_yaml(tmp_path / "a.yaml", "submit")
    assert [path.name for path in tmp_path.iterdir()] == ["a.yaml"]


def test_a_huge_yaml_file_is_not_read(tmp_path: Path) -> None:
    with open(tmp_path / "a.yaml", "wb") as file:
        file.truncate(1 << 30)
    with pytest.raises(InputError, match="it has more than 16777216 bytes"):
        read_yaml(tmp_path / "a.yaml", "submit")


def test_the_settings_of_a_record_build_parts_and_call_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`reproduce` of a stranger's record, whose contest is a function that writes a file."""
    victim = tmp_path / "victim.py"
    node = {"_target_": "pipeline.records.content.write_yaml", "path": str(victim), "content": {}, "head": "import os"}
    folder = sent(tmp_path / "r", lambda r: None, yaml.safe_dump({"competition": node}))
    words = [f"record={folder}", "start=convert", f"paths.data={tmp_path}", f"paths.output={tmp_path / 'out'}"]
    assert main(["reproduce", *words]) == 1
    assert "is no part that may be built" in capsys.readouterr().err
    assert not victim.exists()


def test_a_row_of_the_ledger_is_one_row(tmp_path: Path) -> None:
    for key, value in (("commit", "|<b>"), ("commit", "a\n| x")):
        changed = sent(tmp_path / "r", lambda r, key=key, value=value: r["environment"].update({key: value}))
        assert "environment.commit" in refused(changed)
    assert "score.public" in refused(sent(tmp_path / "r", lambda r: r["score"].update(public="0.5 | <script>")))
    assert ledger.table([content.read(sent(tmp_path / "r", lambda r: None))]).count("|") == 3 * 9


def test_a_message_cannot_command_the_terminal() -> None:
    for kind in (InputError, ConfigError):
        assert str(kind("image \x1b]0;x\x07\u202e\r and\na second line")) == (
            "image \\x1b]0;x\\x07\\u202e\\r and\na second line"
        )
        assert str(kind("Zelle \u00d7 \u4e2d")) == "Zelle \u00d7 \u4e2d"
