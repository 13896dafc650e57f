from __future__ import annotations

import dataclasses
import json
import random
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from fixtures.contests import DSB_CSV, SARTORIUS_CSV, csv_rows, draw, facts, random_masks, write_images, write_masks
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as tools

from pipeline.data import contest
from pipeline.errors import ConfigError, InputError
from pipeline.masks.runs import from_coco
from pipeline.masks.text import to_text


def written(coco: dict[str, Any]) -> str:
    return json.dumps(coco, default=list)


# Laws ---------------------------------------------------------------------------------------------------------------


@given(
    seed=st.integers(0, 10_000),
    size=st.tuples(st.integers(1, 12), st.integers(1, 12)),
    count=st.integers(1, 5),
    order=st.sampled_from(["row", "column"]),
)
@settings(max_examples=40, deadline=None)
def test_annotations_are_what_the_coco_tools_make_of_the_same_masks(
    seed: int, size: tuple[int, int], count: int, order: str
) -> None:
    masks = random_masks(seed, size, count)
    competition = facts("dsb2018", order=order)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_images(root, competition.train_image, {"x": size})
        lines = ["ImageId,EncodedPixels", *csv_rows("x", masks, order)]
        (root / competition.train_annotations).write_text("\n".join(lines))
        coco = contest.read_train(root, competition, "csv")
    rles = [tools.encode(np.asfortranarray(mask.astype(np.uint8))) for mask in masks]
    want = Counter(
        (r["counts"].decode(), int(tools.area(r)), tuple(tools.toBbox(r).astype(int).tolist())) for r in rles
    )
    got = Counter((a["segmentation"]["counts"], a["area"], tuple(a["bbox"])) for a in coco["annotations"])
    assert got == want


@given(seed=st.integers(0, 10_000), size=st.tuples(st.integers(1, 9), st.integers(1, 9)), count=st.integers(1, 4))
@settings(max_examples=20, deadline=None)
def test_a_csv_and_folders_of_masks_give_the_same_bytes(seed: int, size: tuple[int, int], count: int) -> None:
    masks = random_masks(seed, size, count)
    competition = facts("dsb2018")
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_images(root, competition.train_image, {"x": size, "y": size})
        write_masks(root, "x", masks)
        lines = ["ImageId,EncodedPixels", *csv_rows("x", masks[::-1], "column")]
        (root / competition.train_annotations).write_text("\n".join(lines))
        assert written(contest.read_train(root, competition, "csv")) == written(
            contest.read_train(root, competition, "masks")
        )


def test_the_order_of_rows_does_not_matter(tmp_path: Path) -> None:
    header, *rows = SARTORIUS_CSV.splitlines()
    want = contest.read_train(draw(tmp_path / "a", "sartorius"), facts("sartorius"), "csv")
    for seed in range(4):
        random.Random(seed).shuffle(rows)
        root = draw(tmp_path / str(seed), "sartorius", train_csv="\n".join([header, *rows]))
        assert contest.read_train(root, facts("sartorius"), "csv") == want


def test_the_way_of_writing_a_csv_does_not_matter(tmp_path: Path) -> None:
    want = contest.read_train(draw(tmp_path / "plain", "dsb2018"), facts("dsb2018"), "csv")
    forms = {
        "windows": DSB_CSV.replace("\n", "\r\n"),
        "mark": "\ufeff" + DSB_CSV,
        "blank-lines": DSB_CSV.replace("\n", "\n\n") + "\n\n",
        "quoted": DSB_CSV.replace("1 2 7 2", '"1 2 7 2"'),
        "unsorted": DSB_CSV.replace("1 2 7 2", "7 2 1 2"),
        "touching": DSB_CSV.replace("40 3", "40 1 41 2"),
        "other-columns": "\n".join("7," + line for line in DSB_CSV.splitlines()),
    }
    for name, csv in forms.items():
        assert contest.read_train(draw(tmp_path / name, "dsb2018", csv), facts("dsb2018"), "csv") == want, name


# Golden values ------------------------------------------------------------------------------------------------------


def test_a_contest_along_the_rows_becomes_the_coco_dict_worked_out_by_hand(tmp_path: Path) -> None:
    coco = contest.read_train(draw(tmp_path, "sartorius"), facts("sartorius"), "csv")
    assert coco["info"] == {"format": "maskline-coco", "version": 1, "competition": "sartorius"}
    assert coco["categories"] == [{"id": 1, "name": "astro"}, {"id": 2, "name": "cort"}, {"id": 3, "name": "shsy5y"}]
    assert coco["images"] == [
        {"id": 1, "name": "a1", "file_name": "train/a1.png", "height": 6, "width": 8, "group": "a1"},
        {"id": 2, "name": "b2", "file_name": "train/b2.png", "height": 5, "width": 7, "group": "b2"},
        {"id": 3, "name": "c3", "file_name": "train/c3.png", "height": 4, "width": 4, "group": "c3"},
    ]
    # Run lengths down the columns: a block of 3 columns by 2 rows; pixels 4 and 5 of row 3; the last pixel.
    lengths = [[0, 2, 4, 2, 4, 2, 34], [20, 1, 5, 1, 21], [34, 1]]
    sizes = [[6, 8], [6, 8], [5, 7]]
    counts = [
        tools.frPyObjects({"size": size, "counts": runs}, *size)["counts"].decode()
        for size, runs in zip(sizes, lengths, strict=True)
    ]
    places = [(1, 2, 6, [0, 0, 3, 2]), (1, 1, 2, [3, 2, 2, 1]), (2, 3, 1, [6, 4, 1, 1])]
    assert coco["annotations"] == [
        {
            "id": number,
            "image_id": image,
            "category_id": category,
            "segmentation": {"size": size, "counts": count},
            "area": area,
            "bbox": box,
            "iscrowd": 0,
        }
        for number, (image, category, area, box), size, count in zip((1, 2, 3), places, sizes, counts, strict=True)
    ]


def test_test_images_are_those_of_the_sample_submission_with_the_sizes_of_their_files(tmp_path: Path) -> None:
    coco = contest.read_test(draw(tmp_path, "dsb2018"), facts("dsb2018"))
    assert [(i["name"], i["height"], i["width"]) for i in coco["images"]] == [("t1", 6, 8), ("t2", 5, 5)]
    assert coco["images"][0]["file_name"] == "stage1_test/t1/images/t1.png"
    assert coco["annotations"] == []
    assert coco["categories"] == [{"id": 1, "name": "nucleus"}]


def test_truth_of_test_images_is_read_onto_them_and_leaves_them_as_they_were(tmp_path: Path) -> None:
    root = draw(tmp_path, "sartorius")
    competition = facts("sartorius")
    test = contest.read_test(root, competition)
    before = written(test)
    (root / "truth.csv").write_text(SARTORIUS_CSV.replace("a1,", "t1,").replace("b2,35 1,7,5", "t2,25 1,5,5"))
    truth = contest.read_truth(root / "truth.csv", competition, test)
    assert written(test) == before
    assert truth["images"] == test["images"]
    assert [(a["image_id"], a["category_id"], a["area"]) for a in truth["annotations"]] == [
        (1, 2, 6),
        (1, 1, 2),
        (2, 3, 1),
    ]
    with pytest.raises(InputError) as error:
        contest.read_truth(root / "train.csv", competition, test)
    assert str(error.value) == (
        f"train.csv row 2, image a1: the image is none of the 2 that are scored (2 more rows like this). "
        f"Remove the row in {root}/train.csv."
    )


def test_a_blank_row_is_an_image_without_instances(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = draw(tmp_path, "sartorius", SARTORIUS_CSV + "c3,,4,4,,,,,\n")
    with caplog.at_level("INFO"):
        coco = contest.read_train(root, facts("sartorius"), "csv")
    assert coco == contest.read_train(draw(tmp_path / "other", "sartorius"), facts("sartorius"), "csv")
    assert caplog.messages == ["train.csv: blank rows, each an image without instances: 1"]


def test_a_contest_whose_rows_are_all_blank_is_legal(tmp_path: Path) -> None:
    root = draw(tmp_path, "dsb2018", "ImageId,EncodedPixels\na1,\nb2, \n")
    coco = contest.read_train(root, facts("dsb2018"), "csv")
    assert (len(coco["images"]), coco["annotations"]) == (3, [])


def test_ids_and_categories_that_look_like_numbers_or_nothing_stay_text(tmp_path: Path) -> None:
    competition = facts("sartorius", categories=("NA", "1e3"))
    write_images(tmp_path, competition.train_image, {"007": (3, 3), "NA": (3, 3)})
    header = SARTORIUS_CSV.splitlines()[0]
    (tmp_path / "train.csv").write_text(f"{header}\n007,1 1,3,3,NA,,,,\nNA,2 1,3,3,1e3,,,,\n")
    coco = contest.read_train(tmp_path, competition, "csv")
    assert [image["name"] for image in coco["images"]] == ["007", "NA"]
    assert [a["category_id"] for a in coco["annotations"]] == [1, 2]


def test_repeated_rows_are_kept_and_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    coco = contest.read_train(draw(tmp_path, "dsb2018", DSB_CSV + "b2,35 1\n"), facts("dsb2018"), "csv")
    assert len(coco["annotations"]) == 4
    assert caplog.messages == ["stage1_train_labels.csv: rows that repeat an earlier row exactly, and are kept: 1"]


def test_group_columns_name_the_group_and_blank_ones_leave_each_image_alone(tmp_path: Path) -> None:
    competition = facts("sartorius")
    columns = {**competition.annotation_columns, "sample_date": "group", "sample_id": "group"}
    competition = dataclasses.replace(competition, annotation_columns=dict(sorted(columns.items())))
    csv = SARTORIUS_CSV.replace("astro,,,,", "astro,,d1,s1,").replace("cort,,,,", "cort,,d1,s1,")
    coco = contest.read_train(draw(tmp_path, "sartorius", csv), competition, "csv")
    assert [image["group"] for image in coco["images"]] == ["d1|s1", "b2", "c3"]


@pytest.mark.parametrize("mode", ["1", "L", "RGB", "RGBA", "LA", "P", "I;16"])
def test_masks_are_read_in_every_mode_and_transparency_is_not_foreground(tmp_path: Path, mode: str) -> None:
    root = draw(tmp_path, "dsb2018")
    mask = random_masks(3, (6, 8), 1)
    grey = Image.fromarray(mask[0].astype(np.uint8) * 255)
    path = root / "stage1_train/a1/masks/one.png"
    path.parent.mkdir()
    (Image.fromarray(mask[0].astype(np.uint16) * 256) if mode == "I;16" else grey.convert(mode)).save(path)
    coco = contest.read_train(root, facts("dsb2018"), "masks")
    want = tools.encode(np.asfortranarray(mask[0].astype(np.uint8)))["counts"].decode()
    assert [a["segmentation"]["counts"] for a in coco["annotations"]] == [want]


def test_hidden_files_and_files_of_another_name_are_not_images(tmp_path: Path) -> None:
    root = draw(tmp_path, "dsb2018")
    (root / "stage1_train/a1/images/._a1.png").write_text("no image")
    (root / "stage1_train/a1/images/b2.png").write_text("no image")
    (root / "stage1_train/.cache").mkdir()
    assert len(contest.read_train(root, facts("dsb2018"), "csv")["images"]) == 3


# Wrong input (what the stage refuses as a whole is in test_stage_convert.py) -----------------------------------------


def test_a_row_is_named_by_its_line_in_the_file_also_after_line_breaks_in_a_field(tmp_path: Path) -> None:
    csv = "ImageId,EncodedPixels\na1,1 2 7 2\n\n" + 'a1,"40\n3"\nb2,x\n'
    with pytest.raises(InputError, match=r"^stage1_train_labels.csv row 6, image b2: \"x\" is no whole number"):
        contest.read_train(draw(tmp_path, "dsb2018", csv), facts("dsb2018"), "csv")


def test_bad_rows_are_counted_over_all_sizes_and_the_first_in_the_file_is_named(tmp_path: Path) -> None:
    rows = ["a1,1 2"] * 20 + ["b2,36 1"] + ["a1,1 2", "a1,49 1"] * 5 + ["b2,0 1"]
    root = draw(tmp_path, "dsb2018", "\n".join(["ImageId,EncodedPixels", *rows]))
    with pytest.raises(InputError) as error:
        contest.read_train(root, facts("dsb2018"), "csv")
    assert str(error.value) == (
        "stage1_train_labels.csv row 22, image b2: run 1 ends at pixel 36, the image has 35 (6 more rows like this). "
        f"Correct the row in {root}/stage1_train_labels.csv."
    )


def test_folders_of_masks_are_refused_where_a_mask_is_of_another_size_or_blank_or_no_image(tmp_path: Path) -> None:
    root = draw(tmp_path, "dsb2018")
    write_masks(root, "a1", np.ones((1, 6, 7), bool))
    name = "stage1_train/a1/masks/000.png"
    size = "the mask has height 6 and width 7, its image has height 6 and width 8"
    for rule, spoil in (
        (
            f"{name}: {size}. Correct or remove the mask in {root}.",
            lambda: write_masks(root, "a1", np.zeros((1, 6, 8), bool)),
        ),
        (
            f"{name}: the mask has no foreground, every pixel is 0. Remove the file from {root}.",
            lambda: (root / name).write_text("x"),
        ),
        (f"{name}: is no image of a known format. Unpack it again into {root}.", (root / name).unlink),
        (
            f"no masks: nothing in {root} is named stage1_train/{{id}}/masks/*.png. Read the contest's CSV instead: "
            "annotations=csv",
            lambda: None,
        ),
    ):
        with pytest.raises(InputError) as error:
            contest.read_train(root, facts("dsb2018"), "masks")
        assert str(error.value) == rule
        spoil()


def test_sources_that_a_contest_does_not_have_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as error:
        contest.read_train(draw(tmp_path, "sartorius"), facts("sartorius"), "masks")
    assert str(error.value) == "competition sartorius has no folders of masks; wanted annotations=csv"
    with pytest.raises(ConfigError, match="annotations is 'png', wanted csv or masks"):
        contest.read_train(tmp_path, facts("sartorius"), "png")


# Real contests ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "folder", "images", "rows"),
    [
        ("sartorius", "sartorius", 40, 3_571),
        ("dsb2018", "dsb2018", 670, 29_461),
        ("dsb2018", "dsb2018_mini", 37, 2_482),
    ],
)
def test_every_text_of_a_real_contest_comes_back_byte_for_byte(
    real_data: Path, key: str, folder: str, images: int, rows: int
) -> None:
    competition = facts(key)
    coco = contest.read_train(real_data / folder, competition, "csv")
    assert (len(coco["images"]), len(coco["annotations"])) == (images, rows)
    table = pd.read_csv(real_data / folder / competition.train_annotations, dtype=str, keep_default_na=False)
    want = Counter(zip(table[competition.annotation("image")], table[competition.annotation("mask")], strict=True))
    assert Counter(_texts(coco, competition)) == want


def _texts(coco: dict[str, Any], competition: Any) -> list[tuple[str, str]]:
    by_image: dict[int, list[str]] = {}
    for annotation in coco["annotations"]:
        by_image.setdefault(annotation["image_id"], []).append(annotation["segmentation"]["counts"])
    pairs = []
    for image in coco["images"]:
        runs = from_coco(by_image.get(image["id"], []), (image["height"], image["width"]))
        pairs += [(image["name"], one) for one in to_text(runs, competition.order, competition.base)]
    return pairs


def test_areas_and_boxes_of_a_real_contest_are_those_of_the_coco_tools(real_data: Path) -> None:
    annotations = contest.read_train(real_data / "sartorius", facts("sartorius"), "csv")["annotations"]
    rles = [annotation["segmentation"] for annotation in annotations]
    assert [annotation["area"] for annotation in annotations] == [int(tools.area(rle)) for rle in rles]
    assert [annotation["bbox"] for annotation in annotations] == np.stack([tools.toBbox(r) for r in rles]).tolist()


def test_dsb2018_gives_the_same_bytes_from_its_csv_and_from_its_masks(real_data: Path) -> None:
    root, competition = real_data / "dsb2018_mini", facts("dsb2018")
    assert written(contest.read_train(root, competition, "csv")) == written(
        contest.read_train(root, competition, "masks")
    )
    assert len(contest.read_test(root, competition)["images"]) == 11
