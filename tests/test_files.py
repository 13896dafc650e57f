"""Every format on disk: round trips, equal bytes for equal content, and files that are missing, broken or others."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fixtures.dense import LAW, disks, reference_coco
from hypothesis import given
from hypothesis import strategies as st

from pipeline import files
from pipeline.errors import InputError
from pipeline.files import Paths, atomic
from pipeline.instances import Detections, Instances

COCO: dict[str, Any] = {
    "info": {"format": "maskline-coco", "version": 1, "competition": "toy"},
    "images": [
        {"id": 1, "name": "a", "file_name": "train/a.png", "height": 20, "width": 30, "group": "a"},
        {"id": 2, "name": "1234e567", "file_name": "train/1234e567.png", "height": 15, "width": 10, "group": "b"},
        {"id": 3, "name": "z", "file_name": "train/z.png", "height": 8, "width": 8, "group": "b"},
    ],
    "categories": [{"id": number, "name": f"cell {number}"} for number in range(1, 10)],
    "annotations": [],
}


def detections(image_id: str, count: int, seed: int = 0, side: int = 28) -> Detections:
    generator = np.random.default_rng(seed)
    boxes, scores = generator.random((count, 4), np.float32), generator.random(count, np.float32)
    masks = generator.random((count, side, side), np.float32)
    return Detections(image_id, (20 + seed, 30), boxes, scores, generator.integers(1, 4, count), masks)


def instances(image: dict[str, Any], count: int) -> Instances:
    size = (image["height"], image["width"])
    scores, labels = np.linspace(1, 0.1, count, dtype=np.float32), np.arange(1, count + 1)
    return Instances(image["name"], size, scores, labels, tuple(reference_coco(disks(count, size, seed=count))))


# --- paths


def test_paths_lie_in_the_folders_they_are_given(tmp_path: Path) -> None:
    paths = Paths(tmp_path / "data", tmp_path / "out", tmp_path / "submissions")
    assert paths.fold("baseline", 2) == tmp_path / "out" / "runs" / "baseline" / "fold2"
    made = (paths.annotations, paths.test, paths.folds, paths.statistics, paths.submission)
    names = ["annotations.json", "test.json", "folds.csv", "statistics.json", "submission.csv"]
    assert [path.relative_to(tmp_path / "out").name for path in made] == names


# --- atomic


def test_a_file_has_its_name_only_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "a.txt"
    with atomic(path) as partial:
        partial.write_text("whole")
        assert partial.parent == path.parent  # so that the renaming stays on one disk
        assert not path.exists()
    assert path.read_text() == "whole"
    assert os.listdir(path.parent) == ["a.txt"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_a_block_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")

    def write() -> None:
        with atomic(path) as partial:
            partial.write_text("ha")
            raise error

    with pytest.raises(error):
        write()
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_what_a_killed_process_left_is_cleared_away_and_what_another_writes_is_not(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        pass
    with atomic(tmp_path / "elsewhere" / "a.txt") as partial:
        partial.write_text("whole")
        name = partial.name
    assert str(os.getpid()) in name
    here = f".{{}}.{name.split('.')[-2].partition('-')[0]}-{{}}.partial".format
    ours = [here("a.txt", os.getppid()), ".a.txt.mine.partial", f".a.txt.{ended.pid}.partial", "a.txt.partial"]
    others = [f".a.txt.0123abcd-{ended.pid}.partial", f".b.txt.0123abcd-{ended.pid}.partial"]
    for name in [here("a.txt", ended.pid), here("b.txt", ended.pid), *ours, *others]:
        (tmp_path / name).touch()
    (tmp_path / here("c", ended.pid)).mkdir()
    (tmp_path / here("c", ended.pid) / "d.txt").touch()
    old = time.time() - 2 * 86_400
    os.utime(tmp_path / others[1], (old, old))  # another machine's: only its age tells
    with atomic(tmp_path / "a.txt") as partial:
        partial.write_text("whole")
    assert sorted(os.listdir(tmp_path)) == sorted(["a.txt", "elsewhere", *ours, others[0]])


def test_a_block_that_writes_nothing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), atomic(tmp_path / "a.txt"):
        pass
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    "write",
    [
        lambda path: files.write_json(path, {"a": float("nan")}),
        lambda path: files.write_json(path, {"a": object()}),
        lambda path: files.write_detections(path, [detections("a", 1), detections("b", 1, side=14)]),
        lambda path: files.write_instances(
            path, [Instances.empty("a", (1, 1)), instances({**COCO["images"][0], "name": "?"}, 1)], COCO
        ),
    ],
)
def test_what_cannot_be_written_leaves_the_old_file(tmp_path: Path, write: Callable[[Path], None]) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises((ValueError, TypeError, KeyError, InputError)):
        write(path)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["file"]


# --- JSON and COCO


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
)


@LAW
@given(JSON, st.sampled_from([None, 1]))
def test_json_is_read_as_it_was_written(
    tmp_path_factory: pytest.TempPathFactory, value: Any, indent: int | None
) -> None:
    path = tmp_path_factory.getbasetemp() / "value.json"
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:  # half of a surrogate pair is no text
        return
    files.write_json(path, value, indent)
    assert files.read_json(path, "convert") == value


def test_json_is_compact_utf_8_that_ends_with_a_newline(tmp_path: Path) -> None:
    files.write_json(tmp_path / "a.json", {"b": [1, 2.5, None], "a": "\u00b5m"})
    assert (tmp_path / "a.json").read_bytes() == '{"b":[1,2.5,null],"a":"\u00b5m"}\n'.encode()


def test_a_coco_file_is_read_as_it_was_written(tmp_path: Path) -> None:
    files.write_coco(tmp_path / "a.json", COCO)
    assert files.read_coco(tmp_path / "a.json") == COCO


@pytest.mark.parametrize(
    ("info", "got"),
    [
        ({"format": "maskline-coco", "version": 2}, "got maskline-coco of version 2"),
        ({"format": "maskline-stamp", "version": 1}, "got maskline-stamp of version 1"),
        ({"description": "COCO 2017"}, "got None of version None"),
        (None, "got None of version None"),
        ([], "got None of version None"),
    ],
)
def test_another_coco_file_is_refused_naming_what_makes_it(tmp_path: Path, info: Any, got: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps({**COCO, "info": info}))
    with pytest.raises(InputError) as caught:
        files.read_coco(path)
    assert str(caught.value) == f"{path}: wanted maskline-coco of version 1, {got}; run `convert` again"
    path.write_text("[1, 2]")
    with pytest.raises(InputError, match="wanted maskline-coco of version 1"):
        files.read_coco(path)


# --- missing and broken files, all formats


def read_instances(path: Path) -> list[Instances]:
    return files.read_instances(path, COCO)


READERS = [
    (files.read_coco, "convert", "is no JSON"),
    (files.read_folds, "convert", "is no table of image_id and fold"),
    (files.read_detections, "predict", "is no detections file"),
    (read_instances, "postprocess", "is no JSON"),
]


@pytest.mark.parametrize(("read", "stage", "why"), READERS)
def test_a_missing_file_is_told_with_the_stage_that_makes_it(
    tmp_path: Path, read: Callable[[Path], Any], stage: str, why: str
) -> None:
    path = tmp_path / "file"
    with pytest.raises(InputError) as caught:
        read(path)
    assert str(caught.value) == f"{path} does not exist; the stage `{stage}` makes it"


@pytest.mark.parametrize(
    "content", [b"", b"{", b"PK\x03\x04 cut off", b"\x93NUMPY\x01\x00", b"\xff\xfe\x00", b"a,b\n1,2\n"]
)
@pytest.mark.parametrize(("read", "stage", "why"), READERS)
def test_a_broken_file_is_told_with_the_stage_to_run_again(
    tmp_path: Path, read: Callable[[Path], Any], stage: str, why: str, content: bytes
) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        read(path)
    assert str(caught.value).startswith(f"{path} {why} (")
    assert str(caught.value).endswith(f"run `{stage}` again")


# --- folds


def test_folds_keep_order_and_ids_that_look_like_numbers(tmp_path: Path) -> None:
    folds = {"1234e567": 1, "007": 0, "NA": 2, "1.0": 0, "nan": 1, "true": 3, "b": 0}
    files.write_folds(tmp_path / "folds.csv", folds)
    assert list(files.read_folds(tmp_path / "folds.csv").items()) == list(folds.items())
    assert (tmp_path / "folds.csv").read_bytes().startswith(b"image_id,fold\n1234e567,1\n007,0\nNA,2\n")


def test_no_folds_can_be_written_and_read(tmp_path: Path) -> None:
    files.write_folds(tmp_path / "folds.csv", {})
    assert files.read_folds(tmp_path / "folds.csv") == {}


@pytest.mark.parametrize(
    "content", ["image_id,fold\na,x\n", "image_id,fold\na,\n", "image_id,part\na,1\n", "a,1,2\nb\n"]
)
def test_another_table_is_no_folds_file(tmp_path: Path, content: str) -> None:
    (tmp_path / "folds.csv").write_text(content)
    with pytest.raises(InputError, match=r"is no table of image_id and fold .*; run `convert` again$"):
        files.read_folds(tmp_path / "folds.csv")


# --- detections


def assert_close(got: Detections, wanted: Detections) -> None:
    assert (got.image_id, got.size) == (wanted.image_id, wanted.size)
    for name in ("boxes", "scores", "labels"):
        assert getattr(got, name).dtype == getattr(wanted, name).dtype
        np.testing.assert_array_equal(getattr(got, name), getattr(wanted, name))
    np.testing.assert_allclose(got.masks, wanted.masks, rtol=0, atol=1 / 510 + 1e-6)
    assert got.masks.dtype == np.float32


@pytest.mark.parametrize("counts", [[], [0], [3], [0, 0], [2, 0, 5], [0, 4, 0]])
def test_detections_are_read_as_they_were_written_up_to_the_rounding(tmp_path: Path, counts: list[int]) -> None:
    given_ones = [detections(f"{i}e5", count, seed=i) for i, count in enumerate(counts)]
    files.write_detections(tmp_path / "a.npz", given_ones)
    found = files.read_detections(tmp_path / "a.npz")
    assert len(found) == len(counts)
    for got, wanted in zip(found, given_ones, strict=True):
        assert_close(got, wanted)
    files.write_detections(tmp_path / "b.npz", found)
    for got, wanted in zip(files.read_detections(tmp_path / "b.npz"), found, strict=True):
        np.testing.assert_array_equal(got.masks, wanted.masks)  # rounding twice is rounding once
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


def test_the_alignment_is_kept_and_one_file_has_one(tmp_path: Path) -> None:
    path, theirs = tmp_path / "a.npz", replace(detections("a", 2), alignment="torchvision")
    files.write_detections(path, [theirs])
    assert [found.alignment for found in files.read_detections(path)] == ["torchvision"]
    with pytest.raises(ValueError, match="several alignments"):
        files.write_detections(path, [theirs, detections("b", 1)])


@pytest.mark.parametrize("cuts", [[], [2], [1, 3, 4]])
def test_parts_are_joined_to_the_bytes_of_the_whole(tmp_path: Path, cuts: list[int]) -> None:
    whole = [detections(f"image{i}", count, seed=i) for i, count in enumerate([3, 0, 2, 7, 1])]
    bounds = [0, *cuts, len(whole)]
    parts = [tmp_path / f"{i}.npz" for i in range(len(bounds) - 1)]
    for path, first, last in zip(parts, bounds, bounds[1:], strict=False):
        files.write_detections(path, whole[first:last])
    files.join_detections(tmp_path / "joined.npz", parts)
    files.write_detections(tmp_path / "whole.npz", whole)
    assert (tmp_path / "joined.npz").read_bytes() == (tmp_path / "whole.npz").read_bytes()


def test_parts_of_several_mask_sizes_or_alignments_are_not_joined(tmp_path: Path) -> None:
    one, small = detections("a", 3), detections("b", 3, side=14)
    for i, other in enumerate((small, replace(one, alignment="torchvision"))):
        paths = [tmp_path / f"{i}a.npz", tmp_path / f"{i}b.npz"]
        for path, content in zip(paths, (one, other), strict=True):
            files.write_detections(path, [content])
        with pytest.raises(InputError, match=r"joined.npz: its parts have several alignments or mask sizes \["):
            files.join_detections(tmp_path / "joined.npz", paths)


def test_a_part_that_is_broken_or_missing_is_named(tmp_path: Path) -> None:
    files.write_detections(tmp_path / "a.npz", [detections("a", 3)])
    (tmp_path / "b.npz").write_bytes(b"no archive")
    for name in ("b.npz", "c.npz"):
        with pytest.raises(InputError, match=rf"{name} .*`predict`"):
            files.join_detections(tmp_path / "joined.npz", [tmp_path / "a.npz", tmp_path / name])
    assert not (tmp_path / "joined.npz").exists()


def test_the_bytes_of_detections_do_not_depend_on_the_hour(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files.write_detections(tmp_path / "a.npz", [detections("a", 3)])
    later = time.time() + 1e6
    monkeypatch.setattr(time, "time", lambda: later)
    files.write_detections(tmp_path / "b.npz", [detections("a", 3)])
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    with zipfile.ZipFile(tmp_path / "a.npz") as archive:
        assert {entry.date_time for entry in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
        names = {"version", "alignment", "image_id", "size", "offset", "boxes", "scores", "labels", "masks"}
        assert {entry.filename for entry in archive.infolist()} == {f"{name}.npy" for name in names}


def rewrite(path: Path, **changes: Any) -> None:
    """A detections file with some columns replaced, or left out where the new one is None."""
    files.write_detections(path, [detections("a", 2), detections("b", 1)])
    with np.load(path) as archive:
        columns = {**archive, **changes}
    np.savez(path, **{name: value for name, value in columns.items() if value is not None})


@pytest.mark.parametrize(
    "changes",
    [
        {"masks": None},
        {"version": None},
        {"image_id": np.array(["a", {"b": 1}], object)},
        {"version": np.array([1, 1])},
        {"alignment": None},
        {"alignment": np.array("shifted")},
        {"version": np.array("one")},
        {"offset": np.array([0, 2])},
        {"scores": np.zeros(3)},
        {"boxes": np.zeros((3, 5), np.float32)},
        {"size": np.zeros((2, 0), np.int64)},
    ],
    ids=str,
)
def test_a_file_with_other_columns_is_no_detections_file(tmp_path: Path, changes: dict[str, Any]) -> None:
    path = tmp_path / "a.npz"
    rewrite(path, **changes)
    with pytest.raises(InputError, match=r"is no detections file .*; run `ensemble` again$"):
        files.read_detections(path, "ensemble")


def test_detections_of_another_version_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    rewrite(path, version=np.array(1), masks=None)
    with pytest.raises(InputError) as caught:
        files.read_detections(path)
    wanted = "wanted a detections file of version 2, got version 1; run `predict` again"
    assert str(caught.value) == f"{path}: {wanted}"


def test_an_object_is_never_unpickled(tmp_path: Path) -> None:
    path, trace = tmp_path / "a.npz", tmp_path / "trace"

    class Harmful:
        def __reduce__(self) -> Any:
            return Path.touch, (trace,)

    rewrite(path, scores=np.array([Harmful()], object))
    with pytest.raises(InputError, match="is no detections file"):
        files.read_detections(path)
    assert not trace.exists()


def test_one_bare_array_and_a_pickle_are_no_detections_files(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    for content in (np.zeros(3), np.array([{}], object)):
        with open(path, "wb") as file:
            np.save(file, content)
        with pytest.raises(InputError, match="is no detections file"):
            files.read_detections(path)


def test_a_detections_file_cut_or_changed_anywhere_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    files.write_detections(path, [detections("a", 2, side=4)])
    whole = path.read_bytes()
    for place in range(0, len(whole), 97):
        path.write_bytes(whole[:place])
        with pytest.raises(InputError, match="is no detections file"):
            files.read_detections(path)


# --- instances


def test_instances_are_read_as_they_were_written(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    wanted = [instances(image, count) for image, count in zip(COCO["images"], (3, 0, 2), strict=True)]
    files.write_instances(path, wanted, COCO)
    for got, one in zip(files.read_instances(path, COCO), wanted, strict=True):
        assert (got.image_id, got.size, got.masks) == (one.image_id, one.size, one.masks)
        assert got.labels.tolist() == one.labels.tolist()
        assert got.labels.dtype == np.int64
        np.testing.assert_allclose(got.scores, one.scores, rtol=0, atol=1e-6)
    some = files.read_instances(path, COCO, ["z", "a"])
    assert [(one.image_id, len(one)) for one in some] == [("z", 2), ("a", 3)]


def test_instances_are_coco_results(tmp_path: Path) -> None:
    one = Instances("z", (8, 8), np.float32([0.9]), np.array([1]), ("P2",))
    files.write_instances(tmp_path / "a.json", [one], COCO)
    assert json.loads((tmp_path / "a.json").read_text()) == [
        {"image_id": 3, "category_id": 1, "score": 0.9, "segmentation": {"size": [8, 8], "counts": "P2"}}
    ]


def test_no_instances_are_an_empty_list(tmp_path: Path) -> None:
    files.write_instances(tmp_path / "a.json", [], COCO)
    assert (tmp_path / "a.json").read_text() == "[]\n"
    assert [len(one) for one in files.read_instances(tmp_path / "a.json", COCO)] == [0, 0, 0]


@pytest.mark.parametrize(
    "content",
    ['{"images": []}', "3", '[{"image_id": 1}]', "[1]", '[{"image_id": 1, "score": "high", "category_id": 1}]', "[[]]"],
)
def test_other_json_is_no_coco_results(tmp_path: Path, content: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(content)
    with pytest.raises(InputError) as caught:
        files.read_instances(path, COCO)
    assert str(caught.value).startswith(f"{path} holds no COCO results (")
    assert str(caught.value).endswith("; run `postprocess` again")
