"""The linter on files that people made: two submissions of Sartorius, two of DSB2018 (one broken), and real truth."""

from __future__ import annotations

import csv
import dataclasses
import json
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest
from fixtures.contests import facts
from PIL import Image

from pipeline.data import coco as views
from pipeline.data.coco import truth
from pipeline.data.contest import read_train
from pipeline.errors import InputError
from pipeline.metrics.mean_precision import mean_precision
from pipeline.submission.case import source_ids
from pipeline.submission.lint import lint
from pipeline.submission.rows import read, write

Sizes = dict[str, tuple[int, int]]
IMAGES = {"sartorius": "sartorius/test/*.png", "dsb2018": "dsb2018/stage1_test/*/images/*.png"}
VALID = [
    ("sartorius", "sartorius_BEPb_submission-lb0.28.csv", 170),
    ("sartorius", "sartorius_MDECellMask_submission.csv", 215),
    ("dsb2018", "dsb2018_jessecambon_sub-dsbowl2018-2.csv", 2069),
]
BROKEN = "dsb2018_jessecambon_BROKEN_merge_conflict.csv"


def sizes(real_data: Path, pattern: str) -> Sizes:
    """(height, width) of each image from its file's header."""
    found = {}
    for path in sorted(real_data.glob(pattern)):
        with Image.open(path) as image:
            found[path.stem] = (image.height, image.width)
    return found


def claims(path: Path, sizes: Sizes) -> dict[str, np.ndarray]:
    """How many rows claim each pixel of each image, flat in the contest's order, counted pixel by pixel."""
    count = {name: np.zeros(height * width, int) for name, (height, width) in sizes.items()}
    with path.open(newline="", encoding="utf-8") as file:
        for image, text in list(csv.reader(file))[1:]:
            values = list(map(int, text.split()))
            for start, length in zip(values[::2], values[1::2], strict=True):
                count[image][start - 1 : start - 1 + length] += 1
    return count


@pytest.mark.parametrize(("key", "name", "rows"), VALID)
def test_a_valid_submission_has_no_finding_and_no_pixel_twice(
    real_data: Path, tmp_path: Path, key: str, name: str, rows: int
) -> None:
    path, wanted = real_data / "example_submissions" / name, sizes(real_data, IMAGES[key])
    assert lint(path, facts(key), wanted) == []
    assert all(count.max() <= 1 for count in claims(path, wanted).values())
    instances = read(path, facts(key), wanted)
    assert sum(len(image) or 1 for image in instances) == rows
    assert mean_precision(instances, instances).total == 1

    write(instances, facts(key), tmp_path / "again.csv")
    again = read(tmp_path / "again.csv", facts(key), wanted)
    assert [image.masks for image in again] == [image.masks for image in instances]


def test_the_file_with_conflict_markers_is_refused_with_the_rows_named(real_data: Path) -> None:
    path, wanted = real_data / "example_submissions" / BROKEN, sizes(real_data, IMAGES["dsb2018"])
    findings = lint(path, facts("dsb2018"), wanted)
    markers = [(f.row, (f.image or "")[:7]) for f in findings if f.code == "id-unknown"]
    assert markers == [(2, "<<<<<<<"), (1312, "======="), (3327, ">>>>>>>")]
    assert [f.row for f in findings if f.code == "columns"] == [2, 1312, 3327]
    # Between the markers stand two submissions one after the other, so that each image is segmented twice.
    assert Counter(f.code for f in findings) == {"columns": 3, "id-unknown": 3, "overlap": 65}
    with pytest.raises(InputError, match=r"(?s)merge_conflict\.csv: .*row 2, image <<<<<<< HEAD"):
        read(path, facts("dsb2018"), wanted)


def test_the_truth_of_dsb2018_is_a_valid_submission(real_data: Path) -> None:
    path = real_data / "dsb2018" / "stage1_train_labels.csv"
    assert lint(path, facts("dsb2018"), sizes(real_data, "dsb2018/stage1_train/*/images/*.png")) == []


def test_the_truth_of_airbus_with_its_empty_images_is_a_valid_submission(real_data: Path, tmp_path: Path) -> None:
    path = next((real_data / "airbus").glob("train_ship_segmentations*.csv"))
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    wanted = {row["ImageId"]: (768, 768) for row in rows}
    assert lint(path, facts("airbus"), wanted) == []
    found = read(path, facts("airbus"), wanted)
    assert sum(not len(image) for image in found) == sum(not row["EncodedPixels"] for row in rows) == 59
    write(found, facts("airbus"), tmp_path / "again.csv")
    again = read(tmp_path / "again.csv", facts("airbus"), wanted)
    assert [image.masks for image in again] == [image.masks for image in found]


def test_the_truth_of_livecell_goes_through_coco_results_and_back(real_data: Path, tmp_path: Path) -> None:
    changes = {
        "categories": ("cell",),
        "train_annotations": "livecell_coco_val.json",
        "train_image": "images/livecell_train_val_images/{id}",
    }
    competition = dataclasses.replace(facts("coco"), **changes)
    coco = read_train(real_data / "livecell", competition, "csv")
    wanted, ids = truth(coco), source_ids(coco)
    path = tmp_path / "submission.json"
    write(wanted, competition, path, ids)
    assert {row["image_id"] for row in json.loads(path.read_text())} == set(ids.values())
    assert [str(finding) for finding in lint(path, competition, views.sizes(coco), ids)] == []
    found = read(path, competition, views.sizes(coco), ids)
    assert sum(map(len, found)) == 1243
    assert [sorted(image.masks) for image in found] == [sorted(image.masks) for image in wanted]


def test_the_truth_of_sartorius_overlaps_where_counting_pixels_says_so(real_data: Path, tmp_path: Path) -> None:
    with (real_data / "sartorius" / "train.csv").open(newline="", encoding="utf-8") as file:
        table = [(row["id"], row["annotation"]) for row in csv.DictReader(file)]
    path = tmp_path / "truth.csv"
    path.write_text("id,predicted\n" + "".join(f"{a},{b}\n" for a, b in table), encoding="utf-8")
    wanted = {name: (520, 704) for name, _ in table}
    found = defaultdict(list)
    for finding in lint(path, facts("sartorius"), wanted):
        found[finding.code].append(finding)
    assert len(found["duplicate-row"]) == len(table) - len(set(table))
    single = tmp_path / "single.csv"
    single.write_text("id,predicted\n" + "".join(f"{a},{b}\n" for a, b in dict.fromkeys(table)), encoding="utf-8")
    firsts = {name: int((n > 1).argmax()) + 1 for name, n in claims(single, wanted).items() if (n > 1).any()}
    assert set(found) <= {"duplicate-row", "overlap"}
    assert {f.image for f in found["overlap"]} == set(firsts)
    assert all(f"share pixel {firsts[f.image or '']}" in f.message for f in found["overlap"])
