"""Every contest of the registry, drawn in its own layout: what is converted equals the masks that were drawn."""

from __future__ import annotations

import dataclasses
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fixtures.contests import facts
from fixtures.dense import LAW
from fixtures.layouts import (
    KEYS,
    Truth,
    contents,
    counts_of,
    draw_contest,
    instances,
    packed,
    test_ids,
    train_ids,
)
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as tools

from pipeline.data import coco as cocos
from pipeline.data import contest
from pipeline.data.layouts.polygons import rasterised
from pipeline.errors import ConfigError, InputError
from pipeline.masks.runs import from_coco, to_dense


def converted(coco: dict[str, Any]) -> dict[str, Counter[tuple[int, str]]]:
    return {one.image_id: contents(one.labels, one.masks) for one in cocos.truth(coco)}


def drawn(name: str, truth: Truth) -> Counter[tuple[int, str]]:
    one = instances(name, truth)
    return contents(one.labels, one.masks)


def sorted_pairs(numbers: tuple[int, int, int, int]) -> tuple[int, int, int, int]:
    a, b, c, d = numbers
    return min(a, b), max(a, b), min(c, d), max(c, d)


def refused(root: Path, competition: Any, **changes: Any) -> str:
    with pytest.raises(InputError) as error:
        contest.read_train(root, dataclasses.replace(competition, **changes), "csv")
    return str(error.value)


# Laws ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("key", KEYS)
def test_every_contest_becomes_the_masks_that_were_drawn(tmp_path: Path, key: str, seed: int) -> None:
    competition, truth = draw_contest(tmp_path, key, seed)
    coco = contest.read_train(tmp_path, competition, "csv")
    assert converted(coco) == {name: drawn(name, truth) for name in train_ids(truth)}
    for annotation in coco["annotations"]:
        rle = {**annotation["segmentation"], "counts": annotation["segmentation"]["counts"].encode()}
        assert (annotation["area"], annotation["iscrowd"]) == (tools.area(rle), 0)
        assert annotation["bbox"] == tools.toBbox(rle).tolist()


@pytest.mark.parametrize("key", KEYS)
def test_the_test_images_of_every_contest_are_those_of_its_sample_submission(tmp_path: Path, key: str) -> None:
    competition, truth = draw_contest(tmp_path, key)
    coco = contest.read_test(tmp_path, competition)
    assert cocos.sizes(coco) == {name: truth[name][0].shape[1:] for name in test_ids(truth)}
    assert (coco["annotations"], cocos.categories(coco)) == ([], competition.categories)
    assert all((tmp_path / image["file_name"]).is_file() for image in coco["images"])


@pytest.mark.parametrize("key", KEYS)
def test_truth_in_the_layout_of_the_annotations_is_read_onto_images_of_a_coco_dict(tmp_path: Path, key: str) -> None:
    competition, _ = draw_contest(tmp_path, key)
    train = contest.read_train(tmp_path, competition, "csv")
    if key == "openimages2019":  # whose masks are looked for beside the file
        competition = dataclasses.replace(competition, train_masks="train_masks/{mask}")
    bare = {**train, "annotations": []}
    truth = contest.read_truth(tmp_path / competition.train_annotations, competition, bare)
    assert converted(truth) == converted(train)
    assert [image["id"] for image in truth["images"]] == [image["id"] for image in train["images"]]
    test = contest.read_test(tmp_path, competition)
    with pytest.raises(InputError, match=rf"the image is none of the {len(test['images'])} that are scored"):
        contest.read_truth(tmp_path / competition.train_annotations, competition, test)


@pytest.mark.parametrize("key", KEYS)
def test_the_pictures_of_a_contest_are_all_that_a_reader_opens(
    tmp_path: Path, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    competition, _ = draw_contest(tmp_path, key)
    opened, truly = set(), Image.open
    monkeypatch.setattr(Image, "open", lambda path, **options: opened.add(Path(path)) or truly(path, **options))
    contest.read_train(tmp_path, competition, "csv")
    contest.read_test(tmp_path, competition)
    assert opened <= set(contest.list_pictures(tmp_path, competition, "csv"))


def test_the_other_form_of_the_truth_of_dsb2018_is_the_same(tmp_path: Path) -> None:
    competition, _ = draw_contest(tmp_path, "dsb2018")
    assert contest.read_train(tmp_path, competition, "masks") == contest.read_train(tmp_path, competition, "csv")


# A row per instance -------------------------------------------------------------------------------------------------


def test_blank_rows_beside_masks_are_ignored_with_one_warning_where_the_contest_has_them(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    competition, truth = draw_contest(tmp_path, "airbus")
    path = tmp_path / competition.train_annotations
    path.write_text(path.read_text() + "a1.jpg,\na1.jpg, \na2.jpg,\na3.jpg,\n")
    with caplog.at_level("INFO"):
        coco = contest.read_train(tmp_path, competition, "csv")
    assert converted(coco)["a1.jpg"] == drawn("a1.jpg", truth)
    assert caplog.messages == [
        "train_ship_segmentations_v2.csv: blank rows of images that have masks, which are ignored: 3",
        "train_ship_segmentations_v2.csv: blank rows, each an image without instances: 2",
    ]
    assert "the annotation is blank, which says that the image has no instance" in refused(
        tmp_path, competition, stray_blanks="refuse"
    )


def test_attributes_behind_a_category_are_dropped_and_a_wrong_category_is_still_refused(tmp_path: Path) -> None:
    competition, _ = draw_contest(tmp_path, "imaterialist2019")
    path = tmp_path / competition.train_annotations
    row = "a3.jpg,1 1,24,24,{}\n"
    path.write_text(path.read_text() + row.format("6_115_136"))
    coco = contest.read_train(tmp_path, competition, "csv")
    assert list(converted(coco)["a3.jpg"]) == [(7, counts_of(np.eye(24, 24)[:1].repeat(24, 0) * np.eye(24)))]
    path.write_text(path.read_text() + row.format("46_6"))
    assert "category '46_6' is unknown; wanted 0, 1, 2" in refused(tmp_path, competition)


# A row per image and class ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["severstal", "clouds"])
def test_image_and_class_may_stand_in_one_column_or_in_two_whatever_the_facts_state(tmp_path: Path, key: str) -> None:
    competition, _ = draw_contest(tmp_path, key)
    want = contest.read_train(tmp_path, competition, "csv")
    path = tmp_path / competition.train_annotations
    header, *rows = path.read_text().splitlines()
    if key == "severstal":
        lines = ["ImageId_ClassId,EncodedPixels", *(row.replace(",", "_", 1) for row in rows)]
    else:
        lines = ["Label,EncodedPixels,Image"]
        lines += [
            f"{name.rpartition('_')[2]},{mask},{name.rpartition('_')[0]}" for name, mask in (r.split(",") for r in rows)
        ]
    path.write_text("\n".join(lines))
    assert contest.read_train(tmp_path, competition, "csv") == want
    path.write_text("Id,Mask\na1.jpg,1 1\n")
    assert f"there is no column {header.split(',')[0]!r}" in refused(tmp_path, competition)


def test_parts_of_a_row_are_instances_whose_union_is_the_row_again(tmp_path: Path) -> None:
    competition, _ = draw_contest(tmp_path, "severstal")
    # Down the columns of 32: pixels 1 and 2; 34 touches 1 and 2 at an edge or a corner; 100 stands alone.
    (tmp_path / "train.csv").write_text("ImageId,ClassId,EncodedPixels\na1.jpg,3,100 1 1 2 34 1\na2.jpg,1,\n")
    coco = contest.read_train(tmp_path, competition, "csv")
    assert [(a["image_id"], a["category_id"], a["area"], a["bbox"]) for a in coco["annotations"]] == [
        (1, 3, 3, [0, 0, 2, 2]),
        (1, 3, 1, [3, 3, 1, 1]),
    ]
    masks = to_dense(from_coco([a["segmentation"]["counts"] for a in coco["annotations"]], (32, 100)))
    assert (np.flatnonzero(masks.any(0).ravel(order="F")) + 1).tolist() == [1, 2, 34, 100]


def test_two_rows_of_one_image_and_class_and_unknown_classes_are_refused(tmp_path: Path) -> None:
    competition, _ = draw_contest(tmp_path, "severstal")
    path = tmp_path / "train.csv"
    head = "ImageId_ClassId,EncodedPixels\na1.jpg_1,\n"
    path.write_text(head + "a2.jpg_1,\na1.jpg_1,1 1\n")
    assert refused(tmp_path, competition) == (
        f"train.csv row 4, image a1.jpg: repeats the id and category of row 2. Remove the row in {path}."
    )
    path.write_text(head + "a1.jpg_5,\n")
    assert refused(tmp_path, competition).startswith(
        "train.csv row 3, image a1.jpg: category '5' is unknown; wanted 1, 2, 3, 4."
    )
    path.write_text(head + "a1.jpg,\n")
    assert refused(tmp_path, competition).startswith("train.csv row 3, image (blank): category 'a1.jpg' is unknown")
    path.write_text(head + "a2.jpg_1,3199 3\n")
    assert refused(tmp_path, competition).startswith(
        "train.csv row 3, image a2.jpg: run 1 ends at pixel 3201, the image has 3200."
    )


# Prediction strings -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "rule"),
    [
        (
            "a1,41,24,",
            "the row says height 24 and width 41, train/a1_green.png has height 24 and width 40. Correct the row",
        ),
        (
            "a1,40,24,0 1",
            "the string has 2 words; wanted three for each instance: label confidence code. Correct the row",
        ),
        ("a1,40,24,19 1 eNo=", "category '19' is unknown; wanted 0, 1, 2"),
        ("a1,40,24,0 1 e_o=", '"e_o=" is no base64. Correct the row'),
        ("a1,40,24,0 1 {small}", "its RLE covers 6 pixels, the image has 960 (24 × 40). Correct the row"),
        ("a1,40,24,\na1,40,24,", "repeats the id of row 2. Remove the row"),
        ("b1,40,24,", "there is no file train/b1_green.png"),
    ],
)
def test_bad_prediction_strings_are_refused_with_row_and_rule(tmp_path: Path, row: str, rule: str) -> None:
    competition, _ = draw_contest(tmp_path, "hpa2021")
    filled = row.format(small=packed(np.ones((2, 3), bool)))
    (tmp_path / "train_cells.csv").write_text(f"ID,ImageWidth,ImageHeight,PredictionString\n{filled}\n")
    number, name = filled.count("\n") + 2, filled[:2]
    assert refused(tmp_path, competition).startswith(f"train_cells.csv row {number}, image {name}: {rule}")


# Mask files ---------------------------------------------------------------------------------------------------------


def test_other_classes_of_a_file_of_masks_are_left_out_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    competition, _ = draw_contest(tmp_path, "openimages2019")
    want = contest.read_train(tmp_path, competition, "csv")
    number = Counter(annotation["category_id"] for annotation in want["annotations"])
    caplog.clear()
    one = dataclasses.replace(competition, categories=("/m/0cmf2", "/m/absent"))
    coco = contest.read_train(tmp_path, one, "csv")
    name = competition.train_annotations
    assert caplog.messages[-2:] == [
        f"{name}: rows of 1 other categories, such as /m/01g317, that are left out: {number[1]}",
        f"{name}: categories without any row: /m/absent",
    ]
    assert len(coco["annotations"]) == number[2]
    assert coco["images"] == want["images"]


def test_masks_that_lead_elsewhere_are_missing_or_become_empty(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    competition, _ = draw_contest(tmp_path, "openimages2019")
    path = tmp_path / competition.train_annotations
    path.write_text("MaskPath,ImageID,LabelName\n../secret.png,a1,/m/0cmf2\n")
    assert refused(tmp_path, competition).startswith(
        f"{path.name} row 2, image a1: the mask file '../secret.png' is no plain name; wanted letters"
    )
    path.write_text("MaskPath,ImageID,LabelName\nnone.png,a1,/m/0cmf2\n")
    assert refused(tmp_path, competition).startswith(
        f"{path.name} row 2, image a1: there is no file train_masks/none.png in {tmp_path}. Unpack the contest's masks"
    )
    Image.fromarray(np.zeros((7, 5), np.uint8)).save(tmp_path / "train_masks/none.png")
    caplog.clear()
    assert contest.read_train(tmp_path, competition, "csv")["annotations"] == []
    assert f"{path.name}: masks without a pixel, that are left out: 1" in caplog.messages
    with pytest.raises(ConfigError, match="has no folders of masks; wanted annotations=csv"):
        contest.read_train(tmp_path, competition, "masks")


# Polygons -----------------------------------------------------------------------------------------------------------


def test_a_polygon_covers_the_pixels_that_the_coco_tools_say_and_rings_are_united(tmp_path: Path) -> None:
    competition, _ = draw_contest(tmp_path, "hubmap2023")
    rings = [[[2, 1], [6, 1], [6, 4], [2, 4]], [[5, 3], [8, 3], [8, 5], [5, 5]]]
    line = {"id": "a1", "annotations": [{"type": "unsure", "coordinates": rings}]}
    (tmp_path / "polygons.jsonl").write_text(json.dumps(line) + "\n\n")
    coco = contest.read_train(tmp_path, competition, "csv")
    want = np.zeros((24, 40), bool)
    want[1:4, 2:6] = want[3:5, 5:8] = True
    assert converted(coco) == {"a1": Counter({(3, counts_of(want)): 1})}


@LAW
@given(
    st.lists(
        st.tuples(*[st.integers(-7, 14)] * 2, *[st.integers(-9, 18)] * 2).map(sorted_pairs), min_size=1, max_size=3
    )
)
def test_rectangles_cover_what_of_them_lies_on_the_canvas(corners: list[tuple[int, int, int, int]]) -> None:
    want = np.zeros((7, 9), bool)
    for y0, y1, x0, x1 in corners:
        want[max(y0, 0) : max(y1, 0), max(x0, 0) : max(x1, 0)] = True
    rings = [[[x0, y0], [x1, y0], [x1, y1], [x0, y1]] for y0, y1, x0, x1 in corners]
    assert rasterised(rings, (7, 9)) == counts_of(want)


@LAW
@given(
    st.lists(st.lists(st.tuples(st.floats(-5, 10), st.floats(-4, 8)), min_size=3, max_size=8), min_size=1, max_size=3)
)
def test_any_polygon_becomes_a_mask_that_covers_the_canvas_once(rings: list[list[tuple[float, float]]]) -> None:
    flat = [[value for point in ring for value in point] for ring in rings]
    counts = rasterised(rings, (4, 5))
    assert counts == rasterised(flat, (4, 5)) == tools.merge(tools.frPyObjects(flat, 4, 5))["counts"].decode()
    assert from_coco([counts], (4, 5)).count == 1  # refuses counts that do not add up


@pytest.mark.parametrize(
    ("annotations", "rule"),
    [
        ([[[0, 0], [1, 1]]], "a ring is [[0, 0], [1, 1]], wanted three points or more, of x and y each"),
        ([[[0, 0, 0], [1, 1, 1]]], "a ring is [[0, 0, 0], [1, 1, 1]], wanted three points or more"),
        ([[[0, 0], [1, 1], [2]]], "a ring is [[0, 0], [1, 1], [2]], wanted numbers, x and y in turn"),
        ([[[0, 0], [1, "b"], [2, 2]]], "a ring is [[0, 0], [1, 'b'], [2, 2]], wanted numbers, x and y in turn"),
        ([], "it has no ring of points"),
        ({"x": 1}, "coordinates are {'x': 1}, wanted a list of rings"),
        ([[[0, 0], [1e12, 0], [0, 5]]], "the point x 1e+12, y 0 lies far outside the image (24 × 40)"),
        ([[[0, 0], [float("nan"), 0], [0, 5]]], "the point x nan, y 0 lies far outside the image (24 × 40)"),
        ([[[0, 0], [39, 0]] * 100], "its outline is 7800 pixels long, wanted 2304 at most"),
    ],
)
def test_bad_polygons_are_refused_with_line_and_rule(tmp_path: Path, annotations: Any, rule: str) -> None:
    competition, _ = draw_contest(tmp_path, "hubmap2023")
    good = {"id": "a2", "annotations": []}
    bad = {"id": "a1", "annotations": [{"type": "unsure", "coordinates": annotations}]}
    (tmp_path / "polygons.jsonl").write_text(json.dumps(good) + "\n" + json.dumps(bad))
    assert refused(tmp_path, competition).startswith(f"polygons.jsonl line 2, image a1: {rule}")


@pytest.mark.parametrize(
    ("line", "rule"),
    [
        ("{", "is no such JSON (Expecting property name"),
        ("[" * 100_000, "is no such JSON ("),
        ("[1]", "is no such JSON ("),
        ('{"id": "a1"}', "lacks 'annotations'; wanted {"),
        ('{"id": 1, "annotations": []}', "wanted {"),
        ('{"id": "a1", "annotations": [{"type": "unsure"}]}', "wanted {"),
    ],
)
def test_lines_that_are_no_image_are_refused(tmp_path: Path, line: str, rule: str) -> None:
    competition, _ = draw_contest(tmp_path, "hubmap2023")
    (tmp_path / "polygons.jsonl").write_text("\n" + line)
    assert refused(tmp_path, competition).startswith(f"polygons.jsonl line 2: {rule}")


# COCO ---------------------------------------------------------------------------------------------------------------


def rewritten(root: Path, competition: Any, change: Any) -> None:
    path = root / competition.train_annotations
    content = json.loads(path.read_text())
    path.write_text(json.dumps(change(content) or content))


def test_the_ids_of_a_coco_file_are_kept_beside_our_own(tmp_path: Path) -> None:
    competition, _ = draw_contest(tmp_path, "coco")
    train = contest.read_train(tmp_path, competition, "csv")
    assert [(i["id"], i["name"], i["source_id"]) for i in train["images"]] == [
        (1, "a1.tif", 1000), (2, "a2.tif", 999), (3, "a3.tif", 998),
    ]  # fmt: skip
    test = contest.read_test(tmp_path, competition)
    assert [(i["id"], i["source_id"]) for i in test["images"]] == [(1, 77), (2, 76), (3, 75)]
    # Truth of two of the three test images, under ids of its own: the images stay as they were.
    path = tmp_path / "truth.json"
    path.write_text((tmp_path / competition.train_annotations).read_text().replace("a1.", "t1.").replace("a2.", "t2."))
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "images": content["images"][:2]}))
    truth = contest.read_truth(path, competition, test)
    assert truth["images"] == test["images"]
    assert len(truth["annotations"]) == len(train["annotations"])


def test_a_coco_file_whose_values_are_all_text_and_whose_lists_are_objects_is_the_same(tmp_path: Path) -> None:
    competition, _ = draw_contest(tmp_path, "coco")
    want = contest.read_train(tmp_path, competition, "csv")

    def as_text(content: Any) -> None:
        for image in content["images"]:
            image |= {key: str(image[key]) for key in ("id", "height", "width")}
        for one in content["annotations"]:
            one |= {key: str(one[key]) for key in ("id", "image_id", "category_id", "iscrowd")}
            one["segmentation"] = json.dumps(one["segmentation"])
        for category in content["categories"]:
            category["id"] = str(category["id"])
        content["annotations"] = {one["id"]: one for one in content["annotations"]}

    rewritten(tmp_path, competition, as_text)
    got = contest.read_train(tmp_path, competition, "csv")
    assert got["annotations"] == want["annotations"]
    assert [image["source_id"] for image in got["images"]] == ["1000", "999", "998"]


@pytest.mark.parametrize("codes", [None, {"cell": "20", "vessel": "10"}])
def test_categories_that_results_would_write_by_other_ids_are_refused_with_the_right_ones(
    tmp_path: Path, codes: dict[str, str] | None
) -> None:
    competition, _ = draw_contest(tmp_path, "coco")
    written = "1" if codes is None else "20"
    rule = f"category 'cell' has the id 10 there, results would be written with {written}. Give the file's own ids: "
    with pytest.raises(InputError, match=re.escape(rule + "\"competition.codes={cell: '10',vessel: '20'}\".")):
        contest.read_train(tmp_path, dataclasses.replace(competition, codes=codes), "csv")


def test_crowds_and_other_categories_are_left_out_and_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    competition, _ = draw_contest(tmp_path, "coco")
    before = contest.read_train(tmp_path, competition, "csv")["annotations"]

    def more(content: Any) -> None:
        content["annotations"].append({**content["annotations"][0], "iscrowd": 1})

    rewritten(tmp_path, competition, more)
    with caplog.at_level("INFO"):
        assert contest.read_train(tmp_path, competition, "csv")["annotations"] == before
        assert caplog.messages == ["train.json: annotations of crowds, that are left out: 1"]
        caplog.clear()
        vessels = dataclasses.replace(competition, categories=("vessel",), codes={"vessel": "20"})
        some = contest.read_train(tmp_path, vessels, "csv")["annotations"]
    assert len(some) == sum(annotation["category_id"] == 2 for annotation in before)
    assert caplog.messages == [
        "train.json: annotations of crowds, that are left out: 1",
        f"train.json: annotations of 1 other categories, such as cell, that are left out: {len(before) - len(some)}",
    ]


def test_of_two_entries_of_one_picture_the_first_stands_with_its_annotations(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    competition, _ = draw_contest(tmp_path, "coco")
    want = contest.read_train(tmp_path, competition, "csv")
    tests = contest.read_test(tmp_path, competition)

    def twice(content: Any) -> None:
        content["images"].append({**content["images"][0], "id": 5})
        content["annotations"] = [{**one, "image_id": 5} for one in content["annotations"][:1]] + content["annotations"]

    rewritten(tmp_path, competition, twice)
    assert contest.read_train(tmp_path, competition, "csv") == want
    assert caplog.messages == ["train.json: entries of a picture that has one already, left out: 1"]
    sample = tmp_path / competition.sample_submission
    content = json.loads(sample.read_text())
    content["images"].append({**content["images"][0], "id": 5})
    sample.write_text(json.dumps(content))
    assert contest.read_test(tmp_path, competition) == tests


def test_a_polygon_too_thin_for_a_pixel_is_left_out_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    competition, _ = draw_contest(tmp_path, "coco")
    before = contest.read_train(tmp_path, competition, "csv")["annotations"]

    def thin(content: Any) -> None:
        content["annotations"].append({**content["annotations"][0], "segmentation": [[1, 1, 1.1, 1, 1.1, 1.1]]})

    rewritten(tmp_path, competition, thin)
    assert contest.read_train(tmp_path, competition, "csv")["annotations"] == before
    assert caplog.messages == ["train.json: masks without a pixel, that are left out: 1"]


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        (lambda c: [1], "{path}: is [1], wanted a COCO JSON: an object with images, categories, annotations."),
        (
            lambda c: c.pop("images") and None,
            "train.json: wanted a list 'images', it is missing. Put a whole COCO JSON",
        ),
        (lambda c: c["images"].clear(), "{path}: lists no image."),
        (lambda c: c["images"][0].pop("file_name") and None, "train.json: entry 1 of 'images' lacks 'file_name'."),
        (
            lambda c: c["images"][1].update(file_name="../a2.tif"),
            "train.json listed image 2, image ../a2.tif: the image id is no plain name; wanted letters",
        ),
        (
            lambda c: c["images"][1].update(file_name="a\0\n.tif"),
            "train.json listed image 2, image 'a\\x00\\n.tif': the image id is no plain name; wanted letters",
        ),
        (
            lambda c: [image.update(file_name=f"z{i}.tif") for i, image in enumerate(c["images"])] and None,
            "train.json listed image 1, image z0.tif: there is no file images/z0.tif in {root} (2 more listed images "
            "like this). Unpack the contest's images there, or remove the listed image in {path}.",
        ),
        (
            lambda c: c["images"][1].update(height=28),
            "train.json listed image 2, image a2.tif: the listed image says height 28 and width 19, images/a2.tif has "
            "height 27 and width 19.",
        ),
        (
            lambda c: c["images"][1].update(id=1000),
            "train.json listed image 2, image a2.tif: repeats the id of listed image 1.",
        ),
        (
            lambda c: c["categories"][0].update(name="cells"),
            "train.json: has no category 'vessel'; its categories are 'cells', 'cell'. Set competition.categories",
        ),
        (
            lambda c: c["annotations"][0].update(image_id=5),
            "train.json annotation 1, image (blank): no entry of the file has its image_id 5.",
        ),
        (
            lambda c: c["annotations"][0].update(category_id=5),
            "train.json annotation 1, image a1.tif: no entry of the file has its category_id 5.",
        ),
        (
            lambda c: c["annotations"][0].update(segmentation="none"),
            "train.json annotation 1, image a1.tif: the segmentation is the text 'none', which is no JSON.",
        ),
        (
            lambda c: c["annotations"][0].update(segmentation=None),
            "train.json annotation 1, image a1.tif: the segmentation is None, wanted polygons or {{size, counts}}.",
        ),
        (
            lambda c: c["annotations"][0].update(segmentation={"size": [40, 24], "counts": [960]}),
            "train.json annotation 1, image a1.tif: its size is [40, 24], the image has height 24 and width 40.",
        ),
        (
            lambda c: c["annotations"][0].update(segmentation={"size": [24, 40], "counts": [10**12]}),
            "train.json annotation 1, image a1.tif: its counts are [1000000000000], wanted numbers of pixels from 0 to "
            "960.",
        ),
        (
            lambda c: c["annotations"][0].update(segmentation={"size": [24, 40], "counts": [10, 20]}),
            "train.json annotation 1, image a1.tif: its RLE covers 30 pixels, the image has 960 (24 × 40).",
        ),
        (
            lambda c: c["annotations"][0].update(segmentation={"size": [24, 40], "counts": "PPPPPPPPPPPP1"}),
            "train.json annotation 1, image a1.tif: a count of its RLE is larger than any canvas.",
        ),
        (
            lambda c: c["annotations"][0].update(segmentation=[[0, 0, 5, 5]]),
            "train.json annotation 1, image a1.tif: a ring is [0, 0, 5, 5], wanted three points or more",
        ),
    ],
)
def test_a_wrong_coco_file_is_refused_with_the_entry_and_the_rule(tmp_path: Path, change: Any, rule: str) -> None:
    competition, _ = draw_contest(tmp_path, "coco")

    def changed(content: Any) -> Any:
        result = change(content)
        return result if isinstance(result, list) and result == [1] else None

    rewritten(tmp_path, competition, changed)
    path = tmp_path / "train.json"
    assert refused(tmp_path, competition).startswith(rule.format(path=path, root=tmp_path))


def test_uncompressed_counts_may_hold_zeros_anywhere(tmp_path: Path) -> None:
    competition, _ = draw_contest(tmp_path, "coco")
    mask = np.zeros(960, bool)
    mask[5:12] = mask[20:960] = True
    counts = [5, 3, 0, 4, 8, 0, 0, 900, 0, 40]

    def change(content: Any) -> None:
        content["annotations"] = [
            {**content["annotations"][0], "segmentation": {"size": [24, 40], "counts": counts}},
        ]

    rewritten(tmp_path, competition, change)
    coco = contest.read_train(tmp_path, competition, "csv")
    assert [a["segmentation"]["counts"] for a in coco["annotations"]] == [counts_of(mask.reshape(40, 24).T)]


@pytest.mark.parametrize("content", ["", "{", "\xff", "[" * 100_000, '{"images": 1' + "0" * 5000 + "}"])
def test_what_is_no_json_is_refused(tmp_path: Path, content: str) -> None:
    competition, _ = draw_contest(tmp_path, "coco")
    (tmp_path / "train.json").write_bytes(content.encode("latin-1"))
    assert refused(tmp_path, competition).startswith(f"{tmp_path / 'train.json'}: is no JSON (")


# Real contests ------------------------------------------------------------------------------------------------------


def test_airbus_with_its_blank_rows(real_data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    competition = facts("airbus")
    (tmp_path / "train_v2").symlink_to(real_data / "airbus/train_v2")
    text = (real_data / "airbus" / competition.train_annotations).read_text()
    (tmp_path / competition.train_annotations).write_text(text)
    with pytest.raises(InputError, match="leads out of the contest's folder"):
        contest.read_train(tmp_path, competition, "csv")
    with caplog.at_level("INFO"):
        coco = contest.read_train(real_data / "airbus", competition, "csv")
    assert (len(coco["images"]), len(coco["annotations"])) == (80, 45)
    assert caplog.messages == ["train_ship_segmentations_v2.csv: blank rows, each an image without instances: 59"]
    want: dict[str, Counter[tuple[int, str]]] = {image["name"]: Counter() for image in coco["images"]}
    for line in text.splitlines()[1:]:
        name, _, words = line.partition(",")
        if words:
            flat, numbers = np.zeros(768 * 768, bool), np.array(words.split(), int)
            for start, length in zip(numbers[::2], numbers[1::2], strict=True):
                flat[start - 1 : start - 1 + length] = True
            want[name][1, counts_of(flat.reshape(768, 768).T)] += 1
    assert converted(coco) == want
    assert sum(not masks for masks in want.values()) == 59


def test_livecell_as_coco(real_data: Path) -> None:
    folder = real_data / "livecell"
    competition = facts(
        "coco",
        categories=("cell",),
        train_annotations="livecell_coco_val.json",
        train_image="images/livecell_train_val_images/{id}",
        sample_submission="livecell_coco_test.json",
        test_image="images/livecell_test_images/{id}",
    )
    coco = contest.read_train(folder, competition, "csv")
    test = contest.read_test(folder, competition)
    # 32 of the 37 pictures of the folder belong to the training split, whose annotations are not here: the file does
    # not name them, so that they are no images without cells.
    assert (len(coco["images"]), len(coco["annotations"]), len(test["images"])) == (5, 1_243, 15)
    content = json.loads((folder / "livecell_coco_val.json").read_text())
    names = {image["id"]: image["file_name"] for image in content["images"]}
    want: dict[str, Counter[tuple[int, str]]] = {name: Counter() for name in names.values()}
    for one in content["annotations"]:
        rle = tools.merge(tools.frPyObjects(one["segmentation"], 520, 704))
        want[names[one["image_id"]]][1, rle["counts"].decode()] += 1
    assert converted(coco) == want
    assert {image["name"]: image["source_id"] for image in coco["images"]} == {name: i for i, name in names.items()}
    truth = contest.read_truth(folder / "livecell_coco_test.json", competition, test)
    assert len(truth["annotations"]) == 3_285
