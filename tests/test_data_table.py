"""A contest's CSV as columns: the quick reader against the thorough one."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.data import table
from pipeline.data.table import read_table
from pipeline.errors import InputError

FIELDS = st.text("ab1 .-\u00e9", max_size=4)


@st.composite
def grids(draw: st.DrawFn) -> list[list[str]]:
    width, height = draw(st.integers(1, 4)), draw(st.integers(1, 6))
    return draw(st.lists(st.lists(FIELDS, min_size=width, max_size=width), min_size=height, max_size=height))


def both(content: bytes) -> tuple[object, object]:
    """What the quick and the thorough reader find; None where the quick one leaves it to the other."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.csv"
        path.write_bytes(content)
        quick = table._split(path)
        try:
            slow = table._parse(path, table._text(path))
        except InputError:
            return quick, None
        return quick, slow


def plain(found: object) -> object:
    columns, lines = found  # type: ignore[misc]
    return columns, lines.tolist()


@given(grids(), st.sampled_from(["\n", "\r\n"]), st.booleans(), st.booleans())
@settings(deadline=None)
def test_a_plain_grid_is_read_as_by_the_thorough_reader(
    rows: list[list[str]], end: str, last: bool, mark: bool
) -> None:
    rows = [[f"x{row[0]}", *row[1:]] for row in rows]  # no row is blank, which would be left to the thorough reader
    text = end.join(",".join(row) for row in rows) + end * last
    quick, slow = both(text.encode("utf-8-sig" if mark else "utf-8"))
    assert quick is not None
    assert plain(quick) == plain(slow) == ([list(column) for column in zip(*rows, strict=True)],
                                           list(range(2, len(rows) + 1)))  # fmt: skip


@given(st.text('ab,,\n\n\r"', max_size=24))
@settings(deadline=None, max_examples=300)
def test_what_the_quick_reader_reads_of_any_text_is_what_the_thorough_one_reads(text: str) -> None:
    if text.strip():
        quick, slow = both(text.encode())
        assert quick is None or plain(quick) == plain(slow)


@pytest.mark.parametrize("content", [b"", b"a,b\n1\n2,3,4\n", b"a,b\n1,2,3\n4\n", b"a,b\n1,2\n,\n", b"a\n\xff\n"])
def test_what_is_no_plain_grid_is_left_to_the_thorough_reader(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.csv").write_bytes(content)
    assert table._split(tmp_path / "x.csv") is None


def test_a_file_of_many_pieces_is_read_as_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x.csv").write_text("id,b,c\n" + "".join(f"{row},{'y' * (row % 7)},z\n" for row in range(500)))
    wanted = read_table(tmp_path / "x.csv", {"image": "id", "text": "b"})
    monkeypatch.setattr(table, "_PIECE", 50)
    found = read_table(tmp_path / "x.csv", {"image": "id", "text": "b"})
    assert found.columns == wanted.columns
    assert found.lines.tolist() == wanted.lines.tolist() == list(range(2, 502))
    assert (found["image"][499], found["text"][499]) == ("499", "yy")
