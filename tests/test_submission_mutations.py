"""From a valid file of each family many single mutations, each found under its code, in its row, and nothing else."""

from __future__ import annotations

import base64
import dataclasses
import json
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from fixtures.contests import facts

from pipeline.competition import Competition
from pipeline.submission.lint import lint

SIZES = {"a": (4, 5), "b": (4, 5), "c": (2, 3)}
IDS = {"a": 11, "b": 12, "c": 13}


def packed(counts: str | bytes) -> str:
    data = counts if isinstance(counts, bytes) else counts.encode()
    return base64.b64encode(zlib.compress(data, 9)).decode()


# Compressed COCO counts worked by hand: a number below 16 is the character of its code from 48 on.
A1, A2, C1 = "13`0", "72;", "114"  # 1 3 16, 7 2 11, 1 1 4


class Mutation(NamedTuple):
    """What is done to the file, code and line of the finding; also: codes that the same fault must bring along."""

    change: Callable[[str], str | bytes]
    code: str
    line: int | None
    also: tuple[str, ...] = ()


def swap(old: str, new: str) -> Callable[[str], str]:
    """The mutation that replaces one place of the file."""

    def change(text: str) -> str:
        assert text.count(old) == 1, (old, text.count(old))
        return text.replace(old, new)

    return change


def line(number: int, new: str | None = None) -> Callable[[str], str]:
    """The mutation that replaces one line, the header being 1, by another or by none."""

    def change(text: str) -> str:
        lines = text.splitlines()
        lines[number - 1 : number] = [] if new is None else [new]
        return "\n".join(lines) + "\n"

    return change


def add(row: str) -> Callable[[str], str]:
    return lambda text: text + row + "\n"


def columns(pick: Callable[[list[str]], list[str]]) -> Callable[[str], str]:
    return lambda text: "".join(",".join(pick(row.split(","))) + "\n" for row in text.splitlines())


def table(text: str, row: Callable[[str], str], end: int) -> dict[str, Mutation]:
    """Of every CSV. row: a row of an image, as the contest has it; end: lines of the file."""
    first = text.splitlines()[0]
    width = first.count(",") + 1
    lost = ("id-missing", "class-missing")
    unknown = {
        "of another contest": "d",
        "with a blank": " a",
        "of another case": "A",
        "with a path": "../a",
        "of two dots": "..",
        "that is absolute": "/etc/passwd",
        "with a NUL": "a\0",
        "with a line break": '"a\n\nb"',
        "that is a formula": "=1+1",
        "that is another formula": "@SUM(A1)",
        "that clears the screen": "\x1b[2Ja",
        "that turns the text about": "\u202ea",
        "that is none": "",
    }
    return {
        "a column renamed": Mutation(swap(first, first[:-1] + "x"), "columns", 1),
        "columns exchanged": Mutation(columns(lambda fields: fields[::-1]), "columns", 1),
        "a column more": Mutation(columns(lambda fields: [*fields, "x"]), "columns", 1),
        "a column twice": Mutation(columns(lambda fields: [*fields, fields[-1]]), "columns", 1),
        "a column less": Mutation(columns(lambda fields: fields[:-1]), "columns", 1),
        "no header": Mutation(line(1), "columns", 1),
        "a field more": Mutation(line(2, text.splitlines()[1] + ",7"), "columns", 2, lost),
        "a field less": Mutation(line(2, text.splitlines()[1].rpartition(",")[0]), "columns", 2, lost),
        "an open quotation mark": Mutation(line(3, '"' + text.splitlines()[2]), "columns", 3),
        "an empty line": Mutation(swap(first, first + "\n"), "columns", 2),
        "a conflict marker": Mutation(add("<<<<<<< HEAD" + "," * (width - 1)), "id-unknown", end + 1),
        "a bare conflict marker": Mutation(add("======="), "columns", end + 1, ("id-unknown",)),
        "Latin 1": Mutation(lambda t: add(row("é"))(t).encode("latin-1"), "encoding", end + 1),
        "UTF-16": Mutation(lambda t: t.encode("utf-16"), "encoding", 1),
        "a byte order mark": Mutation(lambda t: t.encode("utf-8-sig"), "encoding", 1),
        "nothing": Mutation(lambda t: "", "empty-file", None),
        "blanks alone": Mutation(lambda t: " \n\n", "empty-file", None),
        "the header alone": Mutation(lambda t: first + "\n", "id-missing", None),
        **{f"an id {what}": Mutation(add(row(name)), "id-unknown", end + 1) for what, name in unknown.items()},
    }


def rle(number: int, text: str) -> dict[str, Mutation]:
    """Of start and length: line `number` holds "1 3 10 2", an image of 20 pixels."""

    def to(new: str, code: str, *also: str) -> Mutation:
        return Mutation(swap("1 3 10 2", new), code, number, also)

    return {
        "a word": to("1 3 ten 2", "rle-integer"),
        "a decimal": to("1 3 10.0 2", "rle-integer"),
        "an exponent": to("1 3 1e1 2", "rle-integer"),
        "foreign digits": to("1 3 ١٠ 2", "rle-integer"),
        "a list": to("[1 3 10 2]", "rle-integer"),
        "semicolons": to("1;3;10;2", "rle-integer"),
        "nan": to("nan", "rle-integer"),
        "commas within quotes": to('"1, 3"', "rle-integer"),
        "a formula": to("=1 3 10 2", "rle-integer"),
        "a value less": to("1 3 10", "rle-odd"),
        "a value more": to("1 3 10 2 15", "rle-odd"),
        "no length": to("1 3 10 0", "rle-run"),
        "a negative length": to("1 3 10 -2", "rle-run"),
        "a start of 0": to("0 3 10 2", "rle-start"),
        "a negative start": to("-1 3 10 2", "rle-start"),
        "an end that is too far": to("1 3 10 12", "rle-end"),
        "a start that is too far": to("1 3 21 1", "rle-end"),
        "a length of 10^12": to("1 3 10 1000000000000", "rle-end"),
        "a length of 10^30": to("1 3 10 1" + "0" * 30, "rle-end"),
        "runs that overlap": to("1 3 10 2 11 1", "rle-overlap"),
        "runs in disorder": to("10 2 1 3", "rle-unsorted"),
        "runs that touch": to("1 3 10 1 11 1", "rle-touching"),
    }


ROWS = "ImageId,EncodedPixels\na,1 3 10 2\na,5 2\nb,\nc,6 1\n"
ROWS_CLASS = "ImageId,EncodedPixels,ClassId\na,1 3 10 2,4\na,5 2,4\na,1 2,0\nb,1 1,0\nc,6 1,45\n"
JOINED = "ImageId_ClassId,EncodedPixels\na_1,1 3 10 2\na_2,2 2\nb_1,\nb_2,\nc_1,\nc_2,6 1\n"
SEPARATE = "ImageId,ClassId,EncodedPixels\na,1,1 3 10 2\na,2,2 2\nb,1,\nb,2,\nc,1,\nc,2,6 1\n"
STRINGS = (
    "ImageID,ImageWidth,ImageHeight,PredictionString\n"
    f"a,5,4,cell 0.75 {packed(A1)} vessel 0.5 {packed(A2)}\nb,5,4,\nc,3,2,cell 1 {packed(C1)}\n"
)
RESULTS = [
    {"image_id": 11, "category_id": 1, "segmentation": {"size": [4, 5], "counts": A1}, "score": 0.75},
    {"image_id": 11, "category_id": 2, "segmentation": {"size": [4, 5], "counts": A2}, "score": 1},
    {"image_id": 13, "category_id": 1, "segmentation": {"size": [2, 3], "counts": C1}, "score": 0.5,
     "bbox": [0, 1, 1, 1]},
]  # fmt: skip


def of_rows() -> dict[str, Mutation]:
    return {
        "an image left out": Mutation(swap("c,6 1\n", ""), "id-missing", None),
        "the blank row left out": Mutation(swap("b,\n", ""), "id-missing", None),
        "a blank row beside masks": Mutation(add("a,"), "blank-beside-masks", 6),
        "a blank row twice": Mutation(add("b,"), "duplicate-blank", 6),
        "a row twice": Mutation(add("a,5 2"), "duplicate-row", 6),
        "rows that overlap": Mutation(swap("5 2", "3 4"), "overlap", 3),
        "a row within another": Mutation(add("a,11 1"), "overlap", 6),
    }


def of_class() -> dict[str, Mutation]:
    return {
        "an image left out": Mutation(swap("c,6 1,45\n", ""), "id-missing", None),
        "a blank row": Mutation(swap("b,1 1,0", "b,,0"), "blank", 5),
        "a blank row beside masks": Mutation(add("a,,0"), "blank-beside-masks", 7),
        "a row twice": Mutation(add("a,5 2,4"), "duplicate-row", 7),
        "rows of a class that overlap": Mutation(swap("5 2", "3 4"), "overlap", 3),
        "a class that is none": Mutation(swap("6 1,45", "6 1,46"), "class-unknown", 6),
        "a class left out": Mutation(swap("6 1,45", "6 1,"), "class-unknown", 6),
        "a class with a point": Mutation(swap("6 1,45", "6 1,45.0"), "class-unknown", 6),
        "a class with attributes": Mutation(swap("6 1,45", "6 1,45_115"), "class-unknown", 6),
        "a class that is a formula": Mutation(swap("6 1,45", "6 1,=45"), "class-unknown", 6),
    }


def of_pairs(joint: str) -> dict[str, Mutation]:
    a_2, b_1, c_2 = (f"{pair.replace('_', joint)}," for pair in ("a_2", "b_1", "c_2"))
    return {
        "a pair left out": Mutation(swap(f"{c_2}6 1\n", ""), "class-missing", None),
        "a blank pair left out": Mutation(swap(f"{b_1}\n", ""), "class-missing", None),
        "an image left out": Mutation(lambda text: "".join(text.splitlines(True)[:5]), "id-missing", None),
        "a pair twice": Mutation(add(f"{a_2}2 2"), "class-repeated", 8),
        "a pair split into two rows": Mutation(add(f"{a_2}12 2"), "class-repeated", 8),
        "a blank pair twice": Mutation(add(b_1), "class-repeated", 8),
        "a class that is none": Mutation(add(f"a{joint}3,2 2"), "class-unknown", 8),
        "a class left out": Mutation(add(f"a{joint},2 2"), "class-unknown", 8),
        "a class from 0": Mutation(swap(b_1, f"b{joint}0,"), "class-unknown", 4, ("class-missing",)),
        "a class that is a formula": Mutation(add(f"a{joint}=1,2 2"), "class-unknown", 8),
    }


def of_strings() -> dict[str, Mutation]:
    half = f"vessel 0.5 {packed(A2)}"

    def mask(new: str) -> Mutation:
        return Mutation(swap(half, f"vessel 0.5 {new}"), "mask-code", 2)

    def confidence(new: str) -> Mutation:
        return Mutation(swap("0.75", new), "confidence", 2)

    whole = zlib.compress(A2.encode(), 9)
    return {
        "an image left out": Mutation(line(4), "id-missing", None),
        "the blank row left out": Mutation(line(3), "id-missing", None),
        "an image twice": Mutation(add("b,5,4,"), "id-repeated", 5),
        "a class left out": Mutation(swap("vessel ", ""), "triples", 2),
        "a confidence left out": Mutation(swap(" 0.5 ", " "), "triples", 2),
        "a code left out": Mutation(swap(half, "vessel 0.5"), "triples", 2),
        "a code cut in two": Mutation(swap(half, half[:-4] + " " + half[-4:]), "triples", 2),
        "a class that is none": Mutation(swap("vessel", "nucleus"), "class-unknown", 2),
        "a class by its number": Mutation(swap("vessel", "1"), "class-unknown", 2),
        "class and confidence exchanged": Mutation(
            swap("vessel 0.5", "0.5 vessel"), "confidence", 2, ("class-unknown",)
        ),
        "a confidence of nan": confidence("nan"),
        "a confidence of inf": confidence("inf"),
        "a confidence above 1": confidence("1.01"),
        "a confidence in per cent": confidence("75"),
        "a confidence below 0": confidence("-0.1"),
        "a confidence with a comma": Mutation(swap("0.75", "0;75"), "confidence", 2),
        "a confidence with an underscore": confidence("0_1"),
        "no base64": mask("?" + packed(A2)[1:]),
        "base64 without its end": mask(packed(A2)[:-1]),
        "base64 of no zlib": mask(base64.b64encode(A2.encode()).decode()),
        "bytes printed": mask(f"b'{packed(A2)}'"),
        "zlib cut off": mask(base64.b64encode(whole[:-4]).decode()),
        "zlib with another check sum": mask(base64.b64encode(whole[:-1] + b"\0").decode()),
        "rubbish behind the stream": mask(base64.b64encode(whole + b"x").decode()),
        "counts in plain text": mask(A2),
        "counts of a larger image": mask(packed("72" + "`1")),
        "counts of a smaller image": mask(packed("7")),
        "counts that are negative": mask(packed("7O")),
        "counts that end within a number": mask(packed("72`")),
        "start and length instead of counts": mask(packed("8 2")),
        "counts with another character": mask(packed(b"\xff\xfe")),
        "a bomb": mask(packed(b"0" * 10**6)),
        "a mask without a pixel": Mutation(swap(half, f"vessel 0.5 {packed('d0')}"), "mask-empty", 2),
        "a mask twice": Mutation(swap(half, f"{half} {half}"), "duplicate-row", 2),
        "width and height exchanged": Mutation(swap("c,3,2", "c,2,3"), "size", 4),
        "another width": Mutation(swap("c,3,2", "c,4,2"), "size", 4),
        "another height": Mutation(swap("c,3,2", "c,3,1"), "size", 4),
        "a width left out": Mutation(swap("c,3,2", "c,,2"), "size", 4),
        "a width with a point": Mutation(swap("c,3,2", "c,3.0,2"), "size", 4),
        "a blank row of another size": Mutation(swap("b,5,4", "b,4,5"), "size", 3),
    }


def change(place: int, **values: Any) -> Callable[[str], str]:
    """The mutation that sets keys of one result, or drops those that are set to None."""

    def changed(text: str) -> str:
        results = json.loads(text)
        results[place - 1] |= values
        results[place - 1] = {key: value for key, value in results[place - 1].items() if value is not None}
        return json.dumps(results)

    return changed


def of_coco() -> dict[str, Mutation]:
    def score(value: Any) -> Mutation:
        return Mutation(change(1, score=value), "confidence", 1)

    def mask(value: Any, code: str = "mask-code") -> Mutation:
        return Mutation(change(2, segmentation=value), code, 2)

    def counts(value: Any) -> Mutation:
        return mask({"size": [4, 5], "counts": value})

    def image(value: Any) -> Mutation:
        return Mutation(change(3, image_id=value), "id-unknown", 3)

    def category(value: Any) -> Mutation:
        return Mutation(change(1, category_id=value), "class-unknown", 1)

    def box(value: Any) -> Mutation:
        return Mutation(change(3, bbox=value), "box", 3)

    unlisted = json.dumps({"annotations": RESULTS})
    return {
        "nothing": Mutation(lambda t: "", "empty-file", None),
        "cut off": Mutation(lambda t: t[:-20], "json", None),
        "a comma more": Mutation(lambda t: t[:-1] + ",]", "json", None),
        "an object of annotations": Mutation(lambda t: unlisted, "json", None),
        "a number": Mutation(lambda t: "3", "json", None),
        "a CSV": Mutation(lambda t: ROWS, "json", None),
        "deep nesting": Mutation(lambda t: "[" * 100_000, "json", None),
        "a number of 5,000 digits": Mutation(lambda t: f"[{'9' * 5000}]", "json", None),
        "bytes of another encoding": Mutation(lambda t: b"\xff" + t.encode(), "json", None),
        "UTF-16": Mutation(lambda t: t.encode("utf-16"), "json", None),
        "a byte order mark": Mutation(lambda t: t.encode("utf-8-sig"), "json", None),
        "a result that is none": Mutation(lambda t: t[:-1] + ", 7]", "result", 4),
        "a result that is nothing": Mutation(lambda t: t[:-1] + ", null]", "result", 4),
        "no image": Mutation(change(1, image_id=None), "result", 1),
        "no category": Mutation(change(1, category_id=None), "result", 1),
        "no score": Mutation(change(1, score=None), "result", 1),
        "no segmentation": Mutation(change(1, segmentation=None), "result", 1),
        "another image": image(14),
        "an image by its name": image("c"),
        "an image by a list": image([13]),
        "an image that is a truth value": image(True),
        "an image with line breaks": image("../\n\0=1"),
        "an image of half a character": image("\ud800"),
        "another category": category(3),
        "category 0": category(0),
        "a category by its name": category("cell"),
        "a category in quotes": category("1"),
        "a category with a point": category(1.0),
        "an image in quotes": image("13"),
        "a score above 1": score(1.5),
        "a score below 0": score(-1e-9),
        "a score of nan": score(float("nan")),
        "a score of inf": score(float("inf")),
        "a score past all numbers": score(10**400),
        "a score in quotes": score("0.75"),
        "a score that is a truth value": score(True),
        "a polygon": mask([[0, 0, 1, 0, 1, 1]]),
        "counts alone": mask(A2),
        "uncompressed counts": counts([7, 2, 11]),
        "no counts": counts(""),
        "counts of a larger image": counts("72`1"),
        "counts of a smaller image": counts("7"),
        "counts of another kind": counts("7 2 11"),
        "counts that end within a number": counts("72`"),
        "counts of half a character": counts("\ud800"),
        "width before height": mask({"size": [5, 4], "counts": A2}, "size"),
        "no size": mask({"counts": A2}, "size"),
        "a size in quotes": mask({"size": ["4", "5"], "counts": A2}, "size"),
        "a mask without a pixel": mask({"size": [4, 5], "counts": "d0"}, "mask-empty"),
        "a result twice": Mutation(lambda t: json.dumps([*RESULTS, RESULTS[1]]), "duplicate-row", 4),
        "a box of three": box([0, 0, 1]),
        "a box with a word": box([0, 0, 1, "1"]),
        "a box of negative width": box([0, 0, -1, 1]),
        "a box of nan": box([0, 0, 1, float("nan")]),
    }


TWO = {"categories": ("1", "2")}
SEPARATED = {**TWO, "submission_columns": {"ImageId": "image", "ClassId": "class", "EncodedPixels": "mask"}}
FAMILIES: dict[str, tuple[Competition, str, dict[str, Mutation]]] = {
    "rows": (facts("dsb2018"), ROWS, table(ROWS, lambda i: f"{i},1 1", 5) | rle(2, ROWS) | of_rows()),
    "rows with a class": (
        facts("imaterialist2019"),
        ROWS_CLASS,
        table(ROWS_CLASS, lambda i: f"{i},1 1,0", 6) | rle(2, ROWS_CLASS) | of_class(),
    ),
    "image and class in one column": (
        facts("severstal", **TWO),
        JOINED,
        table(JOINED, lambda i: f'"{i.strip(chr(34))}_1",1 1', 7) | rle(2, JOINED) | of_pairs("_"),
    ),
    "image and class in two columns": (
        facts("severstal", **SEPARATED),
        SEPARATE,
        table(SEPARATE, lambda i: f"{i},1,1 1", 7) | rle(2, SEPARATE) | of_pairs(","),
    ),
    "strings": (facts("openimages2019"), STRINGS, table(STRINGS, lambda i: f"{i},5,4,", 4) | of_strings()),
    "COCO results": (facts("coco"), json.dumps(RESULTS), of_coco()),
}
CASES = [(family, name) for family, (_, _, mutations) in FAMILIES.items() for name in mutations]


def check(content: str | bytes, competition: Competition, folder: Path) -> list[Any]:
    path = folder / competition.submission_file
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return lint(path, competition, SIZES, IDS)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_file_that_is_mutated_has_no_finding(family: str, tmp_path: Path) -> None:
    competition, text, mutations = FAMILIES[family]
    assert check(text, competition, tmp_path) == []
    assert len(mutations) >= 30


@pytest.mark.parametrize(("family", "name"), CASES, ids=[f"{family}: {name}" for family, name in CASES])
def test_a_single_mutation_is_found_with_its_code_and_row_and_nothing_else(
    family: str, name: str, tmp_path: Path
) -> None:
    competition, text, mutations = FAMILIES[family]
    mutation = mutations[name]
    findings = check(mutation.change(text), competition, tmp_path)
    assert (mutation.code, mutation.line) in [(f.code, f.row) for f in findings]
    assert {f.code for f in findings} <= {mutation.code, *mutation.also}
    assert all(str(finding).isprintable() and len(str(finding)) < 600 for finding in findings)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_file_that_is_too_large_or_of_another_kind_by_its_name_is_found(family: str, tmp_path: Path) -> None:
    competition, text, _ = FAMILIES[family]
    small = dataclasses.replace(competition, submission_megabytes=0.00003)
    (found,) = check(text, small, tmp_path)
    assert (found.code, found.level, found.row) == ("file-size", "error", None)
    assert "the contest takes 3e-05 MB at most" in found.message
    path = tmp_path / "submission.txt"
    path.write_text(text)
    (found,) = lint(path, competition, SIZES, IDS)
    assert (found.code, found.level) == ("file-name", "warning")
    assert found.message == f"the file is called 'submission.txt', the contest wants {competition.submission_file}"
    assert lint(path, competition, SIZES, IDS, name=competition.submission_file) == []


def test_the_mutations_reach_every_code() -> None:
    reached = Counter(one.code for _, _, mutations in FAMILIES.values() for one in mutations.values())
    documented = set(lint.__doc__.replace(",", " ").replace(":", " ").replace(".", " ").split())  # type: ignore[union-attr]
    assert set(reached) <= documented
    assert len(reached) >= 30


def test_a_blank_row_beside_masks_is_a_warning_where_the_contest_ignores_it(tmp_path: Path) -> None:
    (found,) = check(ROWS + "a,\n", facts("airbus"), tmp_path)
    assert (found.code, found.level, found.row) == ("blank-beside-masks", "warning", 6)


def test_a_blank_row_where_the_contest_wants_no_row_of_an_empty_image(tmp_path: Path) -> None:
    (found,) = check(ROWS, facts("dsb2018", empty_image=None), tmp_path)
    assert (found.code, found.row) == ("blank", 4)
    assert found.message == "the row is blank; an image without instances has no row"


def test_overlap_between_predictions_is_found_where_it_is_forbidden(tmp_path: Path) -> None:
    over = STRINGS.replace(packed(A2), packed("33>"))  # pixels 4 to 6 beside 2 to 4, counted from 1
    (found,) = check(over, facts("openimages2019", overlap="forbidden"), tmp_path)
    assert found.code == "overlap"
    assert found.message == "prediction 1 and prediction 2 share pixel 4; the contest forbids overlap"
    assert check(over, facts("openimages2019", overlap="within_class"), tmp_path) == []
    assert check(over, facts("openimages2019"), tmp_path) == []


def test_overlap_between_results_names_both(tmp_path: Path) -> None:
    results = [RESULTS[0], RESULTS[2], {**RESULTS[1], "segmentation": {"size": [4, 5], "counts": "33>"}}]
    (found,) = check(json.dumps(results), facts("coco", overlap="forbidden"), tmp_path)
    assert (found.row, found.image) == (3, "a")
    assert found.message == "rows 1 and 3 share pixel 4; the contest forbids overlap"


def test_messages_name_the_prediction_the_class_and_the_rule(tmp_path: Path) -> None:
    competition = facts("openimages2019")
    (code,) = check(STRINGS.replace(packed(A2), packed("7")), competition, tmp_path)
    assert str(code).startswith("error mask-code: row 2, image a: prediction 2: its RLE covers 7 pixels")
    (unknown,) = check(STRINGS.replace("vessel", "=cmd"), competition, tmp_path)
    assert unknown.message == "the class is '=cmd', wanted one of cell, vessel"
    (missing,) = check(JOINED.replace("b_1,\n", ""), facts("severstal", **TWO), tmp_path)
    assert (
        str(missing)
        == "error class-missing: image b: the image has no row of class '1'; it needs one, if only a blank one"
    )
    (twice,) = check(ROWS_CLASS + "a,5 2,4\n", facts("imaterialist2019"), tmp_path)
    assert twice.message == "the mask is that of row 3 again"
    (overlap,) = check(ROWS_CLASS.replace("5 2", "3 4"), facts("imaterialist2019"), tmp_path)
    assert overlap.message == "rows 2 and 3 share pixel 3; the contest forbids overlap within a class (4)"
