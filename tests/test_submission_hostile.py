"""Files that mean harm: what they cost stays bounded, and what is wrong is said in one printable line."""

from __future__ import annotations

import base64
import json
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from fixtures.contests import facts
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.competition import Competition
from pipeline.errors import InputError
from pipeline.submission.finding import Finding
from pipeline.submission.lint import lint
from pipeline.submission.rows import read

BUSY = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
SIZES = {"a": (512, 512), "b": (20, 30)}
MEGABYTE = 1 << 20


def checked(content: bytes, competition: Competition, folder: Path) -> tuple[list[Finding], float]:
    """The findings, and the memory that they cost at most, in megabytes beside the file itself."""
    path = folder / competition.submission_file
    path.write_bytes(content)
    lint(path, competition, SIZES)  # what is imported at first use counts for nobody
    tracemalloc.start()
    findings = lint(path, competition, SIZES)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert all(str(finding).isprintable() and len(str(finding)) < 600 for finding in findings)
    return findings, peak / MEGABYTE - len(content) / MEGABYTE


def bomb(megabytes: int) -> str:
    stream = zlib.compressobj(9)
    packed = b"".join(stream.compress(b"0" * MEGABYTE) for _ in range(megabytes)) + stream.flush()
    return base64.b64encode(packed).decode()


def test_a_zlib_bomb_in_a_prediction_costs_no_memory_and_is_named(tmp_path: Path) -> None:
    text = f"id,height,width,prediction_string\na,512,512,0 0.5 {bomb(100)} 0 0.4 {bomb(1)}\nb,20,30,\n"
    findings, cost = checked(text.encode(), facts("hubmap2023"), tmp_path)
    assert [(f.code, f.row, f.image) for f in findings] == [("mask-code", 2, "a")] * 2
    assert findings[0].message.startswith("prediction 1: it inflates to more than")
    assert cost < 20  # of 100
    with pytest.raises(InputError, match="inflates to more than"):
        read(tmp_path / "submission.csv", facts("hubmap2023"), SIZES)


@pytest.mark.parametrize("run", ["1 1000000000000", "1000000000000 1", "1 " + "9" * 18, "1 " + "9" * 4000])
def test_a_run_of_any_length_costs_no_memory_and_is_named(run: str, tmp_path: Path) -> None:
    findings, cost = checked(f"ImageId,EncodedPixels\na,{run}\nb,\n".encode(), facts("dsb2018"), tmp_path)
    assert [(f.code, f.row, f.image) for f in findings] == [("rle-end", 2, "a")]
    assert cost < 1


@pytest.mark.parametrize("counts", ["o" * 12 + "0", "PPPPPPPPPPPP7", "`" * 9 + "1", "0" * 500_000, "1" * 500_000])
def test_counts_of_any_sum_cost_no_memory_and_are_named(counts: str, tmp_path: Path) -> None:
    result = {"image_id": "a", "category_id": 1, "score": 1, "segmentation": {"size": [512, 512], "counts": counts}}
    findings, cost = checked(json.dumps([result]).encode(), facts("coco"), tmp_path)
    assert [(f.code, f.row, f.image) for f in findings] == [("mask-code", 1, "a")]
    assert cost < 64


IDS = {
    "a path": "../../etc/passwd",
    "two dots": "..",
    "a NUL": "a\0",
    "a line break": '"a\nerror overlap: row 2, image a: not true"',
    "a carriage return": '"a\rno findings"',
    "a formula": "=HYPERLINK(1)",
    "a plus": "+1",
    "a minus": "-1+cmd|' /C calc'!A0",
    "an at sign": "@SUM(1)",
    "a tab": "\ta",
    "an escape": "\x1b]0;title\x07",
    "text from right to left": "\u202ea",
    "a million letters": "a" * 10**6,
    "letters of no width": "a\u200b",
}


@pytest.mark.parametrize("what", IDS)
@pytest.mark.parametrize("key", ["dsb2018", "severstal", "hubmap2023", "imaterialist2019"])
def test_an_id_of_any_kind_is_an_unknown_image_in_one_printable_line(key: str, what: str, tmp_path: Path) -> None:
    competition = facts(key)
    rows: dict[str, Callable[[str], list[str]]] = {
        "dsb2018": lambda i: [f"{i},1 1"],
        "severstal": lambda i: [f"{i}_{c}," if i[-1] != '"' else f'{i[:-1]}_{c}",' for c in (1, 2, 3, 4)],
        "hubmap2023": lambda i: [f"{i},{','.join(map(str, SIZES.get(i, (0, 0))))},"],
        "imaterialist2019": lambda i: [f"{i},1 1,0"],
    }
    lines = [",".join(competition.submission_columns)]
    for image in ("a", "b"):
        lines += rows[key](image)
    line = rows[key](IDS[what])[0]
    findings, cost = checked("\n".join([*lines, line, ""]).encode(), competition, tmp_path)
    assert [(f.code, f.level, f.row) for f in findings] == [("id-unknown", "error", len(lines) + 1)]
    assert "is none of the contest's 2 images; an id looks like 'a'" in findings[0].message
    assert cost < 16


def test_a_class_of_any_kind_is_said_in_one_printable_line(tmp_path: Path) -> None:
    for text in ("=1", '"0\n1"', "0\0", "9" * 10**5, "\u202e0"):
        content = f"ImageId,EncodedPixels,ClassId\na,1 1,{text}\nb,1 1,0\n".encode()
        findings, _ = checked(content, facts("imaterialist2019"), tmp_path)
        assert [(f.code, f.row) for f in findings] == [("class-unknown", 2)]


CONTESTS = [*map(facts, ("imaterialist2019", "severstal", "clouds", "hpa2021", "hubmap2023", "coco"))]


@given(st.binary(max_size=80) | st.text(max_size=80).map(lambda text: text.encode("utf-8", "replace")))
@settings(max_examples=60, deadline=None, suppress_health_check=BUSY)
def test_no_content_raises_in_any_layout(tmp_path: Path, content: bytes) -> None:
    for competition in CONTESTS:
        header = ",".join(competition.submission_columns).encode() + b"\n"
        path = tmp_path / competition.submission_file
        for whole in (content, header + content, header + b"a," * (header.count(b",")) + content):
            path.write_bytes(whole)
            assert all(str(finding).isprintable() for finding in lint(path, competition, SIZES))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["image_id", "category_id", "segmentation", "score", "bbox", "size", "counts"]), inner
        )
    ),
)
RESULT = st.fixed_dictionaries(
    {
        "image_id": JSON | st.just("a"),
        "category_id": JSON | st.just(1),
        "score": JSON,
        "segmentation": JSON | st.fixed_dictionaries({"size": JSON | st.just([512, 512]), "counts": JSON}),
        "bbox": JSON,
    }
)


@given(st.lists(RESULT | JSON, max_size=3))
@settings(max_examples=100, deadline=None, suppress_health_check=BUSY)
def test_no_results_raise(tmp_path: Path, results: list[object]) -> None:
    path = tmp_path / "submission.json"
    path.write_text(json.dumps(results))
    assert all(str(finding).isprintable() for finding in lint(path, CONTESTS[-1], SIZES))
