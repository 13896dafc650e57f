"""Submission files of every contest: written, linted, read again; golden files; what each layout is made of."""

from __future__ import annotations

import base64
import dataclasses
import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fixtures.contests import facts
from fixtures.layouts import KEYS, draw_contest, instances, test_ids
from pycocotools import mask as tools
from pycocotools.coco import COCO

from pipeline.competition import Competition
from pipeline.errors import InputError
from pipeline.instances import Instances
from pipeline.masks import runs
from pipeline.masks.resize import resized
from pipeline.submission import lint as linter
from pipeline.submission.lint import lint
from pipeline.submission.rows import read, to_results, to_rows, write
from pipeline.submission.sweep import union

IDS = {"a": 7, "b": 5, "c": 9}


def wanted(image: Instances, competition: Competition) -> list[tuple[int, float, str]]:
    """What a file can say of an image: label, score and counts of each instance, worked out on dense masks."""
    layout, size = competition.submission_layout, competition.submitted(image.size)
    dense = runs.to_dense(resized(image.runs, size))
    found = [
        (label, round(score, 6), mask)
        for label, score, mask in zip(image.labels.tolist(), image.scores.tolist(), dense, strict=True)
        if competition.code(label) is not None and mask.any()
    ]
    if layout == "class_rows":
        labels = sorted({label for label, _, _ in found})
        found = [(label, 1.0, np.any([m for other, _, m in found if other == label], axis=0)) for label in labels]
    if layout == "strings":
        found.sort(key=lambda one: -one[1])
    if layout == "rows":
        has_class = competition.submission("class") is not None
        found = [(label if has_class else 1, 1.0, mask) for label, _, mask in found]
    return [(label, score, runs.to_coco(runs.from_dense(mask[None]))[0]) for label, score, mask in found]


def said(image: Instances) -> list[tuple[int, float, str]]:
    scores = [round(score, 6) for score in image.scores.tolist()]
    return list(zip(image.labels.tolist(), scores, image.masks, strict=True))


def check_round_trip(made: list[Instances], competition: Competition, folder: Path) -> None:
    path = folder / competition.submission_file
    sizes = {image.image_id: image.size for image in made}
    ids = {name: 100 - k for k, name in enumerate(sizes)}
    write(made, competition, path, ids)
    first = path.read_bytes()
    assert lint(path, competition, sizes, ids) == []
    back = read(path, competition, sizes, ids)
    assert [image.image_id for image in back] == list(sizes)
    assert [tuple(image.size) for image in back] == [competition.submitted(size) for size in sizes.values()]
    assert [said(image) for image in back] == [wanted(image, competition) for image in made]
    assert all(image.scores.dtype == np.float32 and image.labels.dtype == np.int64 for image in back)
    # What was read says all that the file says.
    if competition.submitted_size is None:
        write(back, competition, path, ids)
        assert path.read_bytes() == first


@pytest.mark.parametrize("key", KEYS)
def test_what_every_contest_submits_is_clean_and_reads_back_as_it_was(key: str, tmp_path: Path) -> None:
    competition, truth = draw_contest(tmp_path / "contest", key, seed=3)
    rng = np.random.default_rng(3)
    made = [instances(name, truth) for name in test_ids(truth)]
    made = [dataclasses.replace(one, scores=rng.permutation(len(one)).astype(np.float32) / 8) for one in made]
    check_round_trip(made, competition, tmp_path)


def random_images(rng: np.random.Generator, competition: Competition) -> list[Instances]:
    """Images of several sizes and kinds of masks, disjoint unless the contest allows overlap; one image is empty."""
    made = []
    for k in range(int(rng.integers(1, 4))):
        size = tuple(rng.integers(1, 30, 2).tolist())
        if isinstance(competition.submitted_size, tuple):
            size = competition.submitted_size if k else (700, 1050)
        count = 0 if k == 2 else int(rng.integers(1, 5))
        labels = rng.integers(1, len(competition.categories) + 1, count)
        masks = np.array([_mask(rng, size) for _ in range(count)], bool).reshape(count, *size)
        # A single pixel in the corner is what some contests write for an image without instances.
        masks[:, 0, 0] = False
        if competition.overlap != "allowed":
            masks &= np.cumsum(masks, axis=0) == 1
        # The same mask of the same class twice is a finding.
        distinct = {(label, mask.tobytes()): k for k, (label, mask) in enumerate(zip(labels, masks, strict=True))}
        kept = [k for k in sorted(distinct.values()) if masks[k].any()]
        scores = rng.random(len(kept)).astype(np.float32)
        made.append(Instances.of_runs(f"im_{k}", runs.from_dense(masks[kept]), scores, labels[kept].astype(np.int64)))
    return made


def _mask(rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    """bool (H, W): a disk, scattered pixels, one pixel, or all of the image."""
    y, x = np.mgrid[: size[0], : size[1]]
    middle = rng.integers(0, size)
    kind = int(rng.integers(0, 4))
    if kind == 0:
        return np.asarray((y - middle[0]) ** 2 + (x - middle[1]) ** 2 <= rng.uniform(1, 60))
    if kind == 1:
        return np.asarray(rng.random(size) < rng.uniform(0.05, 0.6)) if size[0] < 100 else (y % 50 == 0) & (x % 30 < 9)
    return np.asarray((y == middle[0]) & (x == middle[1])) if kind == 2 else np.ones(size, bool)


@pytest.mark.parametrize("key", KEYS)
def test_no_finding_on_random_valid_files_and_all_read_back(key: str, tmp_path: Path) -> None:
    """20 files for each of ten contests."""
    rng = np.random.default_rng(KEYS.index(key))
    for _ in range(20):
        check_round_trip(random_images(rng, facts(key)), facts(key), tmp_path)


def image(name: str, rows: list[str], labels: list[int] = [], scores: list[float] = []) -> Instances:  # noqa: B006
    """Masks drawn as text: each digit is the mask that holds the pixel."""
    grid = np.array([list(row) for row in rows])
    dense = np.array([grid == str(k + 1) for k in range(len(labels))], bool).reshape(-1, *grid.shape)
    given = np.array(scores or [1.0] * len(labels), np.float32)
    return Instances.of_runs(name, runs.from_dense(dense), given, np.array(labels, np.int64))


PICTURE = ["110", "022"]  # column-major: 1 at pixels 1 and 3; 2 at pixels 4 and 6


def test_a_row_for_each_instance_with_its_class_and_a_dummy_row_where_there_is_none() -> None:
    competition = facts("imaterialist2019")
    made = to_rows([image("a", PICTURE, [3, 1]), image("b", ["00"])], competition)
    assert made.columns.tolist() == ["ImageId", "EncodedPixels", "ClassId"]
    assert made.to_numpy().tolist() == [["a", "1 1 3 1", "2"], ["a", "4 1 6 1", "0"], ["b", "1 1", "0"]]


def test_where_the_contest_wants_no_row_for_an_empty_image_there_is_none(tmp_path: Path) -> None:
    competition = facts("dsb2018", empty_image=None)
    write([image("b", ["00"]), image("a", PICTURE, [1, 1])], competition, tmp_path / "x.csv")
    assert (tmp_path / "x.csv").read_text() == "ImageId,EncodedPixels\na,1 1 3 1\na,4 1 6 1\n"
    sizes = {"b": (1, 2), "a": (2, 3)}
    assert lint(tmp_path / "x.csv", competition, sizes) == []
    assert [len(one) for one in read(tmp_path / "x.csv", competition, sizes)] == [0, 2]


def test_a_row_for_each_image_and_class_in_which_all_masks_of_the_class_are_one() -> None:
    made = to_rows([image("a", PICTURE, [2, 2]), image("b", PICTURE, [4, 1])], facts("severstal"))
    assert made.to_numpy().tolist() == [
        ["a_1", ""], ["a_2", "1 1 3 2 6 1"], ["a_3", ""], ["a_4", ""],
        ["b_1", "4 1 6 1"], ["b_2", ""], ["b_3", ""], ["b_4", "1 1 3 1"],
    ]  # fmt: skip


def test_image_and_class_may_have_columns_of_their_own_and_heights_and_widths_beside_them() -> None:
    columns = {"I": "image", "W": "width", "H": "height", "C": "class", "E": "mask"}
    competition = facts("clouds", submission_columns=columns, submitted_size=(1, 3), categories=("x", "y"))
    made = to_rows([image("a", ["000", "110"], [2])], competition)
    assert made.columns.tolist() == ["I", "W", "H", "C", "E"]
    # The centre of the one row that is left lies in the second of two rows.
    assert made.to_numpy().tolist() == [["a", "3", "1", "x", ""], ["a", "3", "1", "y", "1 2"]]


def test_a_row_for_each_image_with_its_predictions_by_falling_confidence() -> None:
    first, second = runs.to_coco(image("a", PICTURE, [1, 1]).runs)

    def code(counts: str) -> str:
        return base64.b64encode(zlib.compress(counts.encode(), 9)).decode()

    made = [image("a", PICTURE, [2, 1], [0.25, 0.5]), image("b", ["00"])]
    frame = to_rows(made, facts("openimages2019"))
    assert frame.columns.tolist() == ["ImageID", "ImageWidth", "ImageHeight", "PredictionString"]
    assert frame.to_numpy().tolist() == [
        ["a", "3", "2", f"cell 0.500000 {code(second)} vessel 0.250000 {code(first)}"],
        ["b", "2", "1", ""],
    ]
    only = to_rows(made, facts("hubmap2023"))  # which takes the first of its three classes alone, as 0
    assert only["prediction_string"].tolist() == [f"0 0.500000 {code(second)}", ""]


def test_coco_results_have_the_ids_of_the_contests_own_file() -> None:
    made = [image("b", ["00"]), image("a", PICTURE, [2, 1], [0.25, 0.5])]
    first, second = runs.to_coco(made[1].runs)
    results: list[dict[str, Any]] = to_results(made, facts("coco"), IDS)
    assert results == [
        {"image_id": 7, "category_id": 2, "bbox": [0, 0, 2, 1], "score": 0.25,
         "segmentation": {"size": [2, 3], "counts": first}},
        {"image_id": 7, "category_id": 1, "bbox": [1, 1, 2, 1], "score": 0.5,
         "segmentation": {"size": [2, 3], "counts": second}},
    ]  # fmt: skip
    coded = to_results(made, facts("coco", codes={"cell": "18"}), IDS)
    assert [(one["category_id"], one["score"]) for one in coded] == [(18, 0.5)]
    assert [one["image_id"] for one in to_results(made, facts("coco"), None)] == ["a", "a"]


def test_pycocotools_takes_the_results(tmp_path: Path) -> None:
    competition, truth = draw_contest(tmp_path / "contest", "coco")
    coco = COCO()
    coco.dataset = json.loads((tmp_path / "contest" / competition.sample_submission).read_text())
    coco.createIndex()
    ids = {one["file_name"]: one["id"] for one in coco.dataset["images"]}
    write([instances(name, truth) for name in test_ids(truth)], competition, tmp_path / "r.json", ids)
    coco.dataset["categories"] = [{"id": 1}, {"id": 2}]
    results = coco.loadRes(str(tmp_path / "r.json"))
    dense = [mask for name in test_ids(truth) for mask in truth[name][0]]
    areas = [int(tools.area(results.annToRLE(one))) for one in results.dataset["annotations"]]
    assert areas == [mask.sum() for mask in dense]


def test_an_image_whose_only_row_is_the_dummy_is_empty_and_otherwise_the_row_is_a_mask(tmp_path: Path) -> None:
    path, competition = tmp_path / "x.csv", facts("imaterialist2019")
    path.write_text("ImageId,EncodedPixels,ClassId\na,1 1,0\nb,1 1,5\nc,1 1,0\nc,2 1,0\n")
    found = read(path, competition, dict.fromkeys("abc", (2, 3)))
    assert [one.labels.tolist() for one in found] == [[], [6], [1, 1]]


def test_a_category_that_the_contest_does_not_take_and_a_mask_that_vanishes_have_no_row(tmp_path: Path) -> None:
    competition = facts("clouds", submitted_size=(1, 2), codes={"Fish": "F", "Sugar": "S"})
    made = image("a", ["1100", "0033", "0044"], [1, 2, 4, 4])  # of the rows only the second is left
    frame = to_rows([made], competition)
    assert frame.to_numpy().tolist() == [["a_F", ""], ["a_S", "2 1"]]


def test_columns_in_another_order_or_of_a_class_with_its_attributes_are_read(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    columns = {"ClassId": "class", "ImageId": "image", "EncodedPixels": "mask"}
    competition = facts("imaterialist2019", submission_columns=columns)
    path.write_text("ClassId,ImageId,EncodedPixels\n4,a,2 3\n")
    (found,) = read(path, competition, {"a": (2, 3)})
    assert found.labels.tolist() == [5]


@pytest.mark.parametrize("key", ["severstal", "openimages2019", "coco", "imaterialist2019"])
def test_an_image_that_occurs_twice_is_refused_in_every_layout(key: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="image a occurs twice"):
        write([image("a", ["00"])] * 2, facts(key), tmp_path / "x")


def test_every_layout_has_its_checks() -> None:
    assert set(linter.LAYOUTS) == {"rows", "class_rows", "strings", "coco"}


def test_union_is_what_painting_says() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        group, start = rng.integers(0, 3, 8), rng.integers(0, 20, 8)
        stop = start + rng.integers(1, 5, 8)
        painted = np.zeros((3, 30), bool)
        for g, a, b in zip(group, start, stop, strict=True):
            painted[g, a:b] = True
        got = np.zeros_like(painted)
        first, last, owner = union(group, start, stop)
        for g, a, b in zip(owner, first, last, strict=True):
            assert not got[g, max(a - 1, 0) : b + 1].any()  # neither overlap nor touch
            got[g, a:b] = True
        assert (got == painted).all()
        assert (np.diff(owner) >= 0).all()
