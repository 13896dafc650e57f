"""A contest's CSV as columns: the quick reader against the thorough one."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
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


def test_a_file_may_have_one_of_several_sets_of_columns_and_the_first_is_named_where_it_has_none(
    tmp_path: Path,
) -> None:
    path = tmp_path / "x.csv"
    both, split = {"both": "A_B"}, {"image": "A", "category": "B"}
    path.write_text("B,A\n1,2\n")
    assert read_table(path, both, split).columns == {"image": ["2"], "category": ["1"]}
    path.write_text("A_B,B,A\n2_1,1,2\n")
    assert read_table(path, both, split).columns == {"both": ["2_1"]}
    assert read_table(path, split, both).columns == {"image": ["2"], "category": ["1"]}
    path.write_text("B,C\n1,2\n")
    with pytest.raises(InputError, match=r"x.csv row 1: there is no column 'A_B'; the columns are 'B', 'C'"):
        read_table(path, both, split)


def test_chosen_rows_keep_their_lines_and_what_no_terminal_should_print_is_escaped(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text('A\nfirst\n"sec\x1b[2Jond"\nthird\n')
    whole = read_table(path, {"image": "A"})
    chosen = whole.select(np.array([2, 1]))
    assert (chosen["image"], chosen.lines.tolist()) == (["third", "sec\x1b[2Jond"], [4, 3])
    with pytest.raises(InputError) as error:
        chosen.refuse(np.array([False, True]), lambda row: "is bad")
    assert str(error.value) == f"x.csv row 3, image 'sec\\x1b[2Jond': is bad. Correct the row in {path}."
