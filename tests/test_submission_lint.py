"""The linter: a valid file gives no finding, each single mutation of it its code, row and sentence."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from fixtures.contests import facts
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.competition import Competition
from pipeline.errors import InputError
from pipeline.submission import sweep
from pipeline.submission.case import Case
from pipeline.submission.finding import Finding, plain
from pipeline.submission.lint import lint
from pipeline.submission.table import read_table

# One folder may serve all examples, and the machine may be busy.
BUSY = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]

SIZES = {"a": (4, 5), "b": (4, 5), "c": (2, 3)}
VALID = "id,predicted\na,1 3 10 2\na,4 2\nb,\nc,6 1\n"  # lines 2 to 5


def check(text: str | bytes, folder: Path, competition: Competition | None = None) -> list[Finding]:
    path = folder / "submission.csv"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return lint(path, competition or facts("toy"), SIZES)


def swap(old: str, new: str) -> Callable[[str], str]:
    """The mutation that replaces one place of the valid file."""
    assert VALID.count(old) == 1
    return lambda text: text.replace(old, new)


# Each row: what is done to the valid file, and code, line and sentence of the one finding that it must give.
MUTATIONS: dict[str, tuple[Callable[[str], str | bytes], str, int | None, str]] = {
    "column renamed": (
        swap("predicted", "EncodedPixels"),
        "columns",
        1,
        "the header is 'id,EncodedPixels', wanted 'id,predicted'",
    ),
    "columns exchanged": (
        lambda t: "\n".join(",".join(line.split(",")[::-1]) for line in t.splitlines()),
        "columns",
        1,
        "the header is 'predicted,id'",
    ),
    "column more": (
        lambda t: t.replace("\n", ",0\n").replace("predicted,0", "predicted,x"),
        "columns",
        1,
        "'id,predicted,x'",
    ),
    "no header": (swap("id,predicted\n", ""), "columns", 1, "the header is 'a,1 3 10 2'"),
    "field more": (
        swap("a,4 2", "a,4 2,7"),
        "columns",
        3,
        "the row has 3 fields, the header has 2; it begins 'a,4 2,7'",
    ),
    "field less": (swap("a,4 2", "a"), "columns", 3, "the row has 1 field, the header has 2"),
    "comma for a space": (swap("a,4 2", "a,4,2"), "columns", 3, "the row has 3 fields"),
    "quotation mark left open": (swap("a,4 2", 'a,"4 2'), "columns", 3, "the text after row 2 is no CSV"),
    "empty line within": (swap("b,\n", "\nb,\n"), "columns", 4, "the line is empty"),
    "image left out": (swap("c,6 1\n", ""), "id-missing", None, "needs one with a blank mask"),
    "blank row left out": (swap("b,\n", ""), "id-missing", None, "the image has no row"),
    "conflict marker": (
        swap("b,\n", "b,\n<<<<<<< HEAD,\n"),
        "id-unknown",
        5,
        "'<<<<<<< HEAD' is none of the contest's 3 images",
    ),
    "extra image": (swap("b,\n", "b,\nd,1 1\n"), "id-unknown", 5, "an id looks like 'a'"),
    "id with a blank": (swap("b,\n", "b,\n b,\n"), "id-unknown", 5, "' b' is none of"),
    "id left out": (swap("b,\n", "b,\n,1 1\n"), "id-unknown", 5, "'' is none of"),
    "blank row beside masks": (swap("b,\n", "b,\na,\n"), "blank-beside-masks", 5, "yet row 2 has a mask of it"),
    "blank row twice": (swap("b,\n", "b,\nb, \n"), "duplicate-blank", 5, "the row is blank as row 4 is"),
    "row twice": (swap("a,4 2\n", "a,4 2\na,1 3 10 2\n"), "duplicate-row", 4, "the mask is that of row 2 again"),
    "a word": (swap("4 2", "nan"), "rle-integer", 3, "value 1 of 1 is 'nan', wanted an integer"),
    "a decimal": (swap("4 2", "4 2.0"), "rle-integer", 3, "value 2 of 2 is '2.0'"),
    "an exponent": (swap("4 2", "4 2e0"), "rle-integer", 3, "'2e0'"),
    "foreign digits": (swap("4 2", "4 ٢"), "rle-integer", 3, "value 2 of 2"),
    "a formula": (swap("4 2", "=4+2 1"), "rle-integer", 3, "'=4+2'"),
    "a byte of nothing": (swap("4 2", "4 2\0"), "rle-integer", 3, "value 2 of 2 is '2\\x00'"),
    "commas in quotes": (swap("4 2", '"4, 2"'), "rle-integer", 3, "value 1 of 2 is '4,'"),
    "a value more": (swap("4 2", "4 2 7"), "rle-odd", 3, "3 values, wanted pairs of start and length; the last is 7"),
    "a value alone": (swap("4 2", "4"), "rle-odd", 3, "1 value, wanted pairs"),
    "no length": (swap("4 2", "4 0"), "rle-run", 3, "run 1 has length 0, wanted at least 1"),
    "negative length": (swap("10 2", "10 -2"), "rle-run", 2, "run 2 has length -2"),
    "start too low": (swap("1 3", "0 3"), "rle-start", 2, "run 1 starts at pixel 0, the first pixel is 1"),
    "negative start": (swap("1 3", "-5 3"), "rle-start", 2, "run 1 starts at pixel -5"),
    "end too high": (swap("6 1", "6 2"), "rle-end", 5, "run 1 ends at pixel 7, the image has 6"),
    "start too high": (swap("10 2", "21 1"), "rle-end", 2, "run 2 ends at pixel 21, the image has 20"),
    "length of 10^12": (swap("10 2", "10 1000000000000"), "rle-end", 2, "run 2 ends at pixel 1000000000009"),
    "length of 30 digits": (swap("10 2", "10 " + "9" * 30), "rle-end", 2, "the image has 20"),
    "length of 5,000 digits": (swap("10 2", "10 " + "9" * 5000), "rle-end", 2, "the image has 20"),
    "runs that overlap": (swap("1 3 10 2", "1 3 10 2 11 1"), "rle-overlap", 2, "runs 2 and 3 share pixel 11"),
    "a run twice": (swap("1 3 10 2", "1 3 10 2 10 2"), "rle-overlap", 2, "runs 2 and 3 share pixel 10"),
    "runs in disorder": (swap("1 3 10 2", "10 2 1 3"), "rle-unsorted", 2, "run 2 starts before the run in front"),
    "runs that touch": (swap("1 3 10 2", "1 2 3 1 10 2"), "rle-touching", 2, "runs 1 and 2 touch and could be one"),
    "rows that overlap": (swap("4 2", "3 2"), "overlap", 3, "rows 2 and 3 share pixel 3; the contest"),
    "rows that overlap more": (
        swap("4 2", "2 10"),
        "overlap",
        3,
        "rows 2 and 3 share pixel 2; 4 pixels in all would have to be given up",
    ),
    "a row within another": (swap("4 2", "5 1\na,4 4"), "overlap", 4, "rows 3 and 4 share pixel 5; the contest"),
    "bytes of another encoding": (
        lambda t: t.replace("b,", "bé,").encode("latin-1"),
        "encoding",
        4,
        "byte 32 of the file (0xe9) is no UTF-8",
    ),
    "UTF-16": (lambda t: t.encode("utf-16"), "encoding", 1, "byte 1 of the file (0xff) is no UTF-8"),
    "byte order mark": (lambda t: t.encode("utf-8-sig"), "encoding", 1, "byte order mark"),
    "nothing": (lambda t: "", "empty-file", None, "wanted the header 'id,predicted' and a row for each image"),
    "only line ends": (lambda t: "\r\n\r\n", "empty-file", None, "the file is empty"),
}
WARNINGS = {"empty line within", "runs that touch", "runs in disorder", "byte order mark"}


@pytest.mark.parametrize("name", MUTATIONS)
def test_a_single_mutation_gives_one_finding_with_its_code_row_and_sentence(name: str, tmp_path: Path) -> None:
    mutate, code, row, said = MUTATIONS[name]
    findings = check(mutate(VALID), tmp_path)
    assert [(f.code, f.row) for f in findings] == [(code, row)]
    assert said in findings[0].message
    assert findings[0].level == ("warning" if name in WARNINGS else "error")
    assert str(findings[0]).isprintable()


@pytest.mark.parametrize(
    "text",
    [
        VALID,
        VALID.replace("\n", "\r\n"),
        VALID.rstrip("\n"),
        '"id","predicted"\n"a","1 3 10 2"\n"a","4 2"\n"b",""\n"c","6 1"\n',
        "id,predicted\nc,6 1\na,4 2\nb,\na,1 3 10 2\n",
        "id,predicted\na, 1 3  10 2 \na,4 2\nb, \nc,6 1\n",
    ],
    ids=["as written", "CRLF", "no end of line at the end", "quoted", "other order", "more spaces"],
)
def test_a_valid_file_gives_no_finding(text: str, tmp_path: Path) -> None:
    assert check(text, tmp_path) == []


@st.composite
def valid_files(draw: st.DrawFn) -> str:
    """Each pixel of each image belongs to one of up to four instances or to none; runs are those of the flat image."""
    lines: list[str] = []
    for name, (height, width) in SIZES.items():
        owner = draw(st.lists(st.integers(0, 4), min_size=height * width, max_size=height * width))
        texts = []
        for label in set(owner) - {0}:
            edges = np.flatnonzero(np.diff(np.array([0, *(v == label for v in owner), 0], int)))
            pairs = zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True)
            texts.append(" ".join(f"{start + 1} {stop - start}" for start, stop in pairs))
        lines += [f"{name},{text}" for text in texts or [""]]
    return "id,predicted\n" + "\n".join(draw(st.permutations(lines))) + "\n"


@given(valid_files())
@settings(max_examples=200, deadline=None, suppress_health_check=BUSY)
def test_random_valid_files_give_no_finding(tmp_path: Path, text: str) -> None:
    assert check(text, tmp_path) == []


@given(
    st.binary(max_size=60)
    | st.text(max_size=60).map(str.encode)
    | st.text("ab1 ,\n\r\"'-0x", max_size=60).map(str.encode)
)
@settings(max_examples=300, deadline=None, suppress_health_check=BUSY)
def test_no_content_raises_and_every_finding_is_one_printable_line(tmp_path: Path, content: bytes) -> None:
    for text in (content, b"id,predicted\n" + content):
        assert all(str(finding).isprintable() for finding in check(text, tmp_path))


RUNS = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 12), st.integers(1, 4)), max_size=12)


@given(RUNS)
@settings(max_examples=300, deadline=None)
def test_the_sweep_finds_what_counting_pixels_finds(runs: list[tuple[int, int, int]]) -> None:
    group, start, length = np.array(runs, np.int64).reshape(-1, 3).T
    found = sweep.overlaps(group, start, start + length)
    wanted = []
    for g in sorted(set(group.tolist())):
        claims = np.zeros(20, int)
        for s, n in zip(start[group == g], length[group == g], strict=True):
            claims[s : s + n] += 1
        if (claims > 1).any():
            wanted.append((g, int((claims > 1).argmax()), int(np.maximum(claims - 1, 0).sum())))
    assert list(zip(found.group.tolist(), found.pixel.tolist(), found.claims.tolist(), strict=True)) == wanted
    for g, a, b, pixel in zip(found.group, found.earlier, found.later, found.pixel, strict=True):
        assert a != b
        assert all(group[k] == g and start[k] <= pixel < start[k] + length[k] for k in (a, b))


def test_every_bad_row_is_reported_in_the_order_of_rows(tmp_path: Path) -> None:
    text = "id,predicted\na,1 x\na,2\nq,1 0\na,0 1\na,20 2\na,3 2 3 1\na,7 1 6 1\na,7 1\nb,\nb,\n"
    found = [(f.row, f.code, f.image) for f in check(text, tmp_path)]
    assert found == [
        (2, "rle-integer", "a"),
        (3, "rle-odd", "a"),
        (4, "rle-run", "q"),
        (4, "id-unknown", "q"),
        (5, "rle-start", "a"),
        (6, "rle-end", "a"),
        (7, "rle-overlap", "a"),
        (8, "rle-unsorted", "a"),
        (9, "overlap", "a"),
        (11, "duplicate-blank", "b"),
        (None, "id-missing", "c"),
    ]


def test_rows_of_an_unknown_image_are_not_compared_with_one_another(tmp_path: Path) -> None:
    findings = check(VALID + "q,1 1\nq,1 1\nq,\nq,\n", tmp_path)
    assert [(f.code, f.row) for f in findings] == [("id-unknown", row) for row in (6, 7, 8, 9)]


def test_rows_are_lines_of_the_file_also_after_a_quoted_line_break(tmp_path: Path) -> None:
    findings = check(VALID.replace("a,1 3 10 2", 'a,"1 3\n10\r\n2"').replace("4 2", "4 x"), tmp_path)
    assert [(f.code, f.row) for f in findings] == [("rle-integer", 5)]


def test_a_mask_longer_than_the_csv_readers_own_limit_is_read(tmp_path: Path) -> None:
    text = " ".join(f"{2 * k + 1} 1" for k in range(20_000))
    path = tmp_path / "submission.csv"
    path.write_text(f"id,predicted\na,{text}\n", encoding="utf-8")
    assert len(text) > 131_072
    assert lint(path, facts("toy"), {"a": (200, 200)}) == []


def test_where_overlap_is_allowed_it_is_no_finding_and_a_repeated_row_is_a_warning(tmp_path: Path) -> None:
    text = VALID.replace("a,4 2", "a,3 2\na,1 3 10 2")
    findings = check(text, tmp_path, facts("toy", overlap="allowed"))
    assert [(f.code, f.row, f.level) for f in findings] == [("duplicate-row", 4, "warning")]


def test_pixels_are_numbered_as_the_contest_numbers_them(tmp_path: Path) -> None:
    text = "id,predicted\na,0 3\na,2 2\nb,\nc,5 2\n"
    findings = check(text, tmp_path, facts("toy", base=0))
    assert [(f.code, f.message.split(";")[0]) for f in findings] == [
        ("overlap", "rows 2 and 3 share pixel 2"),
        ("rle-end", "run 1 ends at pixel 6, the image has 6 (0 to 5)"),
    ]


def test_the_order_of_pixels_decides_nothing_but_sizes_do(tmp_path: Path) -> None:
    for order in ("row", "column"):
        assert check(VALID, tmp_path, facts("toy", order=order)) == []


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.csv: there is no such file"):
        lint(tmp_path / "none.csv", facts("toy"), SIZES)


def test_a_finding_reads_as_one_line() -> None:
    finding = Finding("rle-end", "error", 17, "03\nb2", "run 2 ends at pixel 366081, the image has 366080")
    assert str(finding) == "error rle-end: row 17, image 03\\nb2: run 2 ends at pixel 366081, the image has 366080"
    assert plain("x" * 100, 10) == "x" * 10 + "…"


@settings(deadline=None, suppress_health_check=BUSY)
@given(field=st.text(st.sampled_from("12 \t\u00a0\u2003\x1fa"), max_size=12))
def test_blanks_of_all_kinds_come_as_single_spaces_and_none_at_the_ends(tmp_path: Path, field: str) -> None:
    path = tmp_path / "submission.csv"
    path.write_text(f"id,predicted\na,{field}\n", encoding="utf-8")
    table = read_table(path, Case.of(facts("toy"), {}))
    assert [row.text for row in table.rows] == [" ".join(field.split())]


@settings(deadline=None, suppress_health_check=BUSY)
@given(rows=st.lists(st.sampled_from(["1 3 10 2", "4 2", "9 1 20 1", "1 2 2 2", "", "5 1 1 1"]), max_size=5))
def test_a_row_that_is_no_text_of_numbers_changes_no_finding_on_the_others(tmp_path: Path, rows: list[str]) -> None:
    """Good texts are read all at once, bad ones one by one."""
    lines = "".join(f"a,{text}\n" for text in rows) + "b,\n"
    alone = check(f"id,predicted\n{lines}c,\n", tmp_path)
    for bad, code in (("x", "rle-integer"), ("1 1 1", "rle-odd"), ("-1 1", "rle-start")):
        beside = check(f"id,predicted\n{lines}c,{bad}\n", tmp_path)
        assert [finding for finding in beside if finding.image != "c"] == alone
        assert [finding.code for finding in beside if finding.image == "c"] == [code]
