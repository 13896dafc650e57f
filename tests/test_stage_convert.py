from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from fixtures.contests import DSB_CSV, SARTORIUS_CSV, TRAIN, draw, facts, write_images, write_picture
from PIL import Image

from pipeline.data import audit, contest, folds, statistics
from pipeline.data.leaks import report
from pipeline.data.looks import read_looks
from pipeline.data.patch import Fix, Patch, apply, contents, fingerprint, read_patch
from pipeline.errors import ConfigError, InputError
from pipeline.files import Paths, read_coco, read_folds, read_json
from pipeline.stages.convert import convert
from pipeline.stages.download import download

OUTPUTS = (
    "annotations.json",
    "test.json",
    "folds.csv",
    "statistics.json",
    "audit.json",
    "audit.png",
    "leaks.json",
)
REPOSITORY = Path(__file__).parents[1]


def places(root: Path) -> Paths:
    return Paths(root / "data", root / "out", root / "submissions")


def run(root: Path, key: str = "sartorius", **changes: Any) -> Paths:
    """The stage on the contest in `root`/data."""
    settings = {"n_folds": 2, "seed": 0, "annotations": "csv", "overwrite": False} | changes
    convert(competition=facts(key), paths=places(root), **settings)
    return places(root)


def state(paths: Paths) -> dict[str, tuple[bytes, int]]:
    return {name: ((paths.output / name).read_bytes(), (paths.output / name).stat().st_mtime_ns) for name in OUTPUTS}


# What it writes -----------------------------------------------------------------------------------------------------


def test_the_files_hold_what_the_rooms_make_of_the_contest(tmp_path: Path) -> None:
    root = draw(tmp_path / "data", "sartorius")
    paths = run(tmp_path)
    train = contest.read_train(root, facts("sartorius"), "csv")
    assert read_coco(paths.annotations) == train
    assert read_coco(paths.test) == contest.read_test(root, facts("sartorius"))
    assert read_json(paths.statistics, "convert") == statistics.measure(train)
    assert read_json(paths.audit, "convert") == audit.measure(train, read_looks(root, train["images"]))
    assert read_json(paths.leaks, "convert") == {"searched": True, **report(train, [], folds.assign(train, 2, 0), 2)}
    with Image.open(paths.audit_picture) as page:
        assert page.width > 600
    assert read_folds(paths.folds) == dict(zip(TRAIN, folds.assign(train, 2, 0).tolist(), strict=True))
    assert paths.folds.read_text().splitlines()[0] == "image_id,fold"
    assert sorted(path.name for path in paths.output.iterdir()) == sorted([".convert.json", *OUTPUTS])


def test_the_same_contest_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        draw(tmp_path / name / "data", "dsb2018")
        run(tmp_path / name, "dsb2018")
    for name in OUTPUTS:
        one, two = (tmp_path / folder / "out" / name for folder in ("one", "two"))
        assert one.read_bytes() == two.read_bytes()


def test_the_summary_says_what_was_found(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    draw(tmp_path / "data", "sartorius")
    with caplog.at_level("INFO"):
        run(tmp_path)
    assert caplog.messages == [
        "3 training images, 3 instances: astro 1, cort 1, shsy5y 1",
        "sizes: 4x4 (1), 5x7 (1), 6x8 (1)",
        "instances per image: min 0, median 1, max 2",
        "2 test images",
        "audit: nowhere thicker than one pixel: 2 in 2 images",
        "audit: boxes on the image's border: 2 in 2 images",
        f"audit: the most striking ones are in {tmp_path}/out/audit.json and {tmp_path}/out/audit.png",
    ]


# Patches ------------------------------------------------------------------------------------------------------------


def write_patch(root: Path, *fixes: Fix, competition: str = "sartorius") -> Path:
    file = root / "fixes.json"
    file.write_text(Patch(competition, "drawn", fixes).to_text())
    return file


def drop_one(root: Path) -> Fix:
    """The fix that drops the first annotation of the training CSV."""
    train = contest.read_train(root / "data", facts("sartorius"), "csv")
    (category, counts) = next(mask for mask in contents(train)["a1"] if mask[0] == "astro")
    return Fix("drop", "a1", fingerprint(category, counts))


def test_a_patch_mends_the_truth_as_it_is_read(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = draw(tmp_path / "data", "sartorius")
    file = write_patch(tmp_path, drop_one(tmp_path), Fix("drop_image", "c3"))
    with caplog.at_level("INFO"):
        paths = run(tmp_path, patch=str(file))
    train = contest.read_train(root, facts("sartorius"), "csv")
    wanted = apply(train, read_patch(file, facts("sartorius")), facts("sartorius"))
    assert read_coco(paths.annotations) == wanted
    assert [len(wanted["images"]), len(wanted["annotations"])] == [2, 2]
    assert list(read_folds(paths.folds)) == ["a1", "b2"]
    assert "patch: fixes made: drop 1, drop_image 1" in caplog.messages


def test_another_patch_or_none_makes_it_work_again(tmp_path: Path) -> None:
    draw(tmp_path / "data", "sartorius")
    file = write_patch(tmp_path, drop_one(tmp_path))
    states = [state(run(tmp_path, patch=str(file)))]
    assert state(run(tmp_path, patch=str(file))) == states[0]
    write_patch(tmp_path, Fix("drop_image", "a1"))
    states += [state(run(tmp_path, patch=str(file))), state(run(tmp_path))]
    for before, after in pairwise(states):
        assert all(after[name][1] > before[name][1] for name in OUTPUTS)


def test_a_patch_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    draw(tmp_path / "data", "sartorius")
    file = write_patch(tmp_path, Fix("drop", "a1", "0123456789ab"))
    assert refused(tmp_path, patch=str(file)) == (
        "patch: drop of annotation 0123456789ab in image a1 finds no such annotation among 2. "
        "Was it made for other files?"
    )
    file = write_patch(tmp_path, competition="dsb2018")
    assert refused(tmp_path, patch=str(file)).startswith(f"{file}: is a patch of the contest dsb2018, not of sartorius")
    file.unlink()
    assert refused(tmp_path, patch=str(file)).startswith(f"{file}: there is no such file")
    with pytest.raises(ConfigError, match="patch is 'sartoriu', wanted dsb2018, sartorius, or the path"):
        run(tmp_path, patch="sartoriu")


# Leaks --------------------------------------------------------------------------------------------------------------


def draw_tiles(root: Path) -> None:
    """The contest with images a1, b2 cut from one frame, and four of their own."""
    rng = np.random.default_rng(0)
    frame = rng.integers(0, 255, (5, 64, 8)).repeat(16, 2).astype(np.uint8)
    csv = SARTORIUS_CSV.splitlines()[0] + "\na1,20 2,64,64,astro,,,,\n"
    draw(root / "data", "sartorius", train_csv=csv)
    left, right = frame[0, :, :64], frame[0, :, 64:].copy()
    right[:, :16] = left[:, -16:]
    for name, tile in zip(("a1", "b2", "c3", "d4", "e5", "f6"), (left, right, *frame[1:, :, :64]), strict=True):
        write_picture(root / f"data/train/{name}.png", tile)


def test_neighbouring_tiles_share_a_group_and_a_fold(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    draw_tiles(tmp_path)
    with caplog.at_level("INFO"):
        paths = run(tmp_path, n_folds=3)
    groups = {image["name"]: image["group"] for image in read_coco(paths.annotations)["images"]}
    assert groups == {"a1": "a1", "b2": "a1", "c3": "c3", "d4": "d4", "e5": "e5", "f6": "f6"}
    fold = read_folds(paths.folds)
    assert fold["a1"] == fold["b2"]
    told = read_json(paths.leaks, "convert")
    assert (told["counts"], told["groups"]) == ({"duplicate": 0, "right": 1, "below": 0}, [["a1", "b2"]])
    assert caplog.messages[-1].startswith("leaks: near duplicates: 0 pairs, neighbouring tiles: 1, images in them: 2")


def test_without_the_search_for_leaks_the_folds_are_those_of_the_contest(tmp_path: Path) -> None:
    draw_tiles(tmp_path)
    paths = run(tmp_path, n_folds=3, leaks=False)
    train = contest.read_train(tmp_path / "data", facts("sartorius"), "csv")
    assert read_coco(paths.annotations) == train
    assert list(read_folds(paths.folds).values()) == folds.assign(train, 3, 0).tolist()
    told = read_json(paths.leaks, "convert")
    assert (told["searched"], told["pairs"], told["groups"]) == (False, [], [])


def test_more_folds_than_the_leaks_leave_groups_are_refused(tmp_path: Path) -> None:
    draw_tiles(tmp_path)
    assert refused(tmp_path, n_folds=6) == (
        "6 folds were asked for, but there are only 6 images in 5 groups that must stay together. "
        "Set n_folds=5 or fewer (leaks=false leaves the groups out that were found from the pixels)."
    )


def test_what_is_not_verified_about_a_contest_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    draw(tmp_path / "data", "sartorius")
    competition = facts("sartorius", unverified=("Nobody knows.",))
    convert(competition=competition, paths=places(tmp_path), n_folds=2, seed=0)
    assert "sartorius: not verified: Nobody knows." in caplog.messages


# When it works and when not -----------------------------------------------------------------------------------------


def test_a_second_run_does_nothing_and_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    draw(tmp_path / "data", "sartorius")
    before = state(run(tmp_path))
    caplog.clear()
    with caplog.at_level("INFO"):
        assert state(run(tmp_path)) == before
    assert caplog.messages == [
        f"convert: {tmp_path}/out/annotations.json was made from these files and settings; overwrite=true remakes it"
    ]


def _rewrite_csv(root: Path) -> None:
    (root / "data/train.csv").write_text(SARTORIUS_CSV.replace("35 1", "34 1"))


def _touch_picture(root: Path) -> None:
    os.utime(root / "data/train/c3.png", ns=(1, 1))


def _add_picture(root: Path) -> None:
    write_images(root / "data", "train/{id}.png", {"d4": (4, 4)})


@pytest.mark.parametrize(
    "change",
    [
        _rewrite_csv,
        _touch_picture,
        _add_picture,
        lambda root: (root / "data/sample_submission.csv").write_text("id,predicted\nt1,\n"),
        lambda root: (root / "out/test.json").unlink(),
        lambda root: (root / "out/folds.csv").write_text("image_id,fold\n"),
    ],
)
def test_another_input_or_a_lost_output_makes_it_work_again(tmp_path: Path, change: Callable[[Path], object]) -> None:
    draw(tmp_path / "data", "sartorius")
    before = state(run(tmp_path))
    change(tmp_path)
    after = state(run(tmp_path))
    assert all(after[name][1] > before[name][1] for name in OUTPUTS)
    assert after == state(run(tmp_path))


@pytest.mark.parametrize("changes", [{"overwrite": True}, {"seed": 1}, {"n_folds": 3}, {"leaks": False}])
def test_another_setting_makes_it_work_again(tmp_path: Path, changes: dict[str, Any]) -> None:
    draw(tmp_path / "data", "sartorius")
    before = state(run(tmp_path))
    after = state(run(tmp_path, **changes))
    assert all(after[name][1] > before[name][1] for name in OUTPUTS)


def test_bad_input_leaves_the_outputs_of_an_earlier_run_whole(tmp_path: Path) -> None:
    draw(tmp_path / "data", "sartorius")
    before = state(run(tmp_path))
    (tmp_path / "data/train.csv").write_text("id\n")
    with pytest.raises(InputError):
        run(tmp_path)
    assert state(places(tmp_path)) == before


# Bad input ----------------------------------------------------------------------------------------------------------

PLAIN = "wanted letters, digits, '.', '_' and '-' only, so that no id leads out of the contest's folder"
CSV = {
    "a missing column": (
        ("annotation,width", "anotation,width"),
        "train.csv row 1: there is no column 'annotation'; the columns are 'id', 'anotation', 'width', 'height', "
        "'cell_type', 'plate_time', 'sample_date', 'sample_id', 'elapsed_timedelta'; nearest is 'anotation'. "
        "Rename the column in {root}/train.csv, or name it in the configuration of the competition.",
    ),
    "a column twice": (
        ("id,annotation", "id,id"),
        "train.csv row 1: has 2 columns 'id', wanted one. Correct {root}/train.csv.",
    ),
    "a value that is no integer": (
        ("1 3 9 3", "1 3 9.5 3"),
        'train.csv row 3, image a1: "9.5" is no whole number of a pixel or a length. '
        "Correct the row in {root}/train.csv.",
    ),
    "an odd number of values": (
        ("1 3 9 3", "1 3 9"),
        "train.csv row 3, image a1: an odd number of values (3); wanted start length pairs. "
        "Correct the row in {root}/train.csv.",
    ),
    "a run past the end": (
        ("35 1", "1 2 35 2"),
        "train.csv row 4, image b2: run 2 ends at pixel 36, the image has 35. Correct the row in {root}/train.csv.",
    ),
    "a run before the start": (
        ("20 2", "0 2"),
        "train.csv row 2, image a1: run 1 starts at pixel 0, the first pixel is 1. "
        "Correct the row in {root}/train.csv.",
    ),
    "an empty run": (
        ("20 2", "20 0"),
        "train.csv row 2, image a1: run 1 has length 0, wanted at least 1. Correct the row in {root}/train.csv.",
    ),
    "runs that overlap": (
        ("1 3 9 3", "1 3 3 3"),
        'train.csv row 3, image a1: runs overlap: "1 3" and "3 3". Correct the row in {root}/train.csv.',
    ),
    "many bad rows": (
        (" ", " x "),
        'train.csv row 2, image a1: "x" is no whole number of a pixel or a length (2 more rows like this). '
        "Correct the row in {root}/train.csv.",
    ),
    "an image without a file": (
        ("b2,", "b3,"),
        "train.csv row 4, image b3: there is no file train/b3.png in {root}. "
        "Unpack the contest's images there, or remove the row in {root}/train.csv.",
    ),
    "another width": (
        ("35 1,7,5", "35 1,8,5"),
        "train.csv row 4, image b2: the row says height 5 and width 8, train/b2.png has height 5 and width 7. "
        "Correct the row in {root}/train.csv.",
    ),
    "height and width exchanged": (
        ("35 1,7,5", "35 1,5,7"),
        "train.csv row 4, image b2: the row says height 7 and width 5, train/b2.png has height 5 and width 7. "
        "Correct the row in {root}/train.csv.",
    ),
    "no size": (
        ("35 1,7,5", "35 1,,5"),
        "train.csv row 4, image b2: the row says height 5 and width (blank), train/b2.png has height 5 and width 7. "
        "Correct the row in {root}/train.csv.",
    ),
    "an unknown category": (
        ("cort", "corts"),
        "train.csv row 3, image a1: category 'corts' is unknown; wanted astro, cort, shsy5y; nearest is 'cort'. "
        "Correct the row in {root}/train.csv.",
    ),
    "an id that leaves the folder": (
        ("b2,", "../b2,"),
        f"train.csv row 4, image ../b2: the image id is no plain name; {PLAIN}. Correct the row in {{root}}/train.csv.",
    ),
    "no id": (
        ("b2,", ","),
        f"train.csv row 4, image (blank): the image id is no plain name; {PLAIN}. "
        "Correct the row in {root}/train.csv.",
    ),
    "a blank row beside others": (
        ("20 2", " "),
        "train.csv row 2, image a1: the annotation is blank, which says that the image has no instance, but it has "
        "2 rows. Remove the blank row in {root}/train.csv.",
    ),
    "a group that an image is in and not in": (
        ("cort,,,,", "cort,,,s1,"),
        "train.csv row 3, image a1: the group is 's1', in the image's first row it is ''. "
        "Make the rows of the image agree in {root}/train.csv.",
    ),
    "a row that is too long": (
        ("shsy5y,,,,", "shsy5y,,,,,,"),
        "train.csv: is no table of comma-separated values: Expected 9 fields in line 4, saw 11. "
        "Correct {root}/train.csv.",
    ),
    "an open quote": (
        ("b2,35", 'b2,"35'),
        "train.csv: is no table of comma-separated values: the quote that opens in row 4 is not closed. "
        "Correct {root}/train.csv.",
    ),
    "bytes that are no text": (
        ("cort", "c\udcffrt"),
        "train.csv row 3: byte 0xff is no UTF-8. Save {root}/train.csv as UTF-8.",
    ),
    "an empty file": (
        (SARTORIUS_CSV, ""),
        "{root}/train.csv: is empty. Put the contest's own file there.",
    ),
    "a header alone": (
        (SARTORIUS_CSV, SARTORIUS_CSV.splitlines()[0] + "\n\n"),
        "{root}/train.csv: has a header but no rows. Put the contest's own file there.",
    ),
}


def refused(root: Path, key: str = "sartorius", **changes: Any) -> str:
    """The message with which the stage ends; nothing may lie in the output folder then."""
    with pytest.raises(InputError) as error:
        run(root, key, **changes)
    assert not (root / "out").exists()
    return str(error.value)


@pytest.mark.parametrize(("change", "message"), CSV.values(), ids=CSV)
def test_a_bad_training_csv_is_refused_naming_file_row_image_and_rule(
    tmp_path: Path, change: tuple[str, str], message: str
) -> None:
    root = draw(tmp_path / "data", "sartorius")
    (root / "train.csv").write_bytes(SARTORIUS_CSV.replace(*change).encode(errors="surrogateescape"))
    assert refused(tmp_path) == message.format(root=root)


SAMPLE = {
    "an id twice": (
        "t2,\nt1,\nt2,\n",
        "sample_submission.csv row 4, image t2: repeats the id of row 2. "
        "Remove the row in {root}/sample_submission.csv.",
    ),
    "an image without a file": (
        "t2,\nt3,\n",
        "sample_submission.csv row 3, image t3: there is no file test/t3.png in {root}. "
        "Unpack the contest's images there, or remove the row in {root}/sample_submission.csv.",
    ),
    "an id that leaves the folder": (
        "..,\nt2,\n",
        f"sample_submission.csv row 2, image ..: the image id is no plain name; {PLAIN}. "
        "Correct the row in {root}/sample_submission.csv.",
    ),
    "a header alone": ("", "{root}/sample_submission.csv: has a header but no rows. Put the contest's own file there."),
}


@pytest.mark.parametrize(("rows", "message"), SAMPLE.values(), ids=SAMPLE)
def test_a_bad_sample_submission_is_refused(tmp_path: Path, rows: str, message: str) -> None:
    root = draw(tmp_path / "data", "sartorius", sample="id,predicted\n" + rows)
    assert refused(tmp_path) == message.format(root=root)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    root = draw(tmp_path / "data", "sartorius")
    (root / "sample_submission.csv").unlink()
    hint = "there is no such file. Put the contest's file there, or give its folder: paths.data=DIR"
    assert refused(tmp_path) == f"{root}/sample_submission.csv: {hint}"
    (root / "train.csv").unlink()
    assert refused(tmp_path) == f"{root}/train.csv: {hint}"


def test_a_contest_without_training_images_is_refused(tmp_path: Path) -> None:
    root = draw(tmp_path / "data", "dsb2018")
    for image in root.glob("stage1_train/*/images/*.png"):
        image.unlink()
    assert refused(tmp_path, "dsb2018", annotations="masks") == (
        f"no training images: nothing in {root} is named stage1_train/{{id}}/images/{{id}}.png. Give the contest's "
        "folder, as Kaggle unpacks it: paths.data=DIR"
    )


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-15] ^= 255
    path.write_bytes(bytes(content))


@pytest.mark.parametrize(
    ("spoil", "rule"),
    [
        (lambda path: path.write_text("no image"), "is no image of a known format"),
        (lambda path: path.write_bytes(b""), "is no image of a known format"),
        (_truncate, "is no image that can be read (Truncated File Read)"),
        (_flip, "is no image that can be read (broken PNG file (bad header checksum in b'IDAT'))"),
    ],
)
@pytest.mark.parametrize("name", ["train/c3.png", "test/t1.png"])
def test_a_file_that_is_no_image_is_refused(
    tmp_path: Path, name: str, spoil: Callable[[Path], None], rule: str
) -> None:
    root = draw(tmp_path / "data", "sartorius")
    spoil(root / name)
    assert refused(tmp_path) == f"{name}: {rule}. Unpack it again into {root}."


def test_a_truncated_file_of_another_format_is_refused(tmp_path: Path) -> None:
    root = draw(tmp_path / "data", "sartorius")
    Image.effect_noise((64, 64), 50).save(root / "train/c3.png", format="JPEG")
    content = (root / "train/c3.png").read_bytes()
    (root / "train/c3.png").write_bytes(content[: len(content) // 2])
    assert refused(tmp_path).startswith("train/c3.png: is no image that can be read (image file is truncated")


def test_a_header_that_claims_too_many_pixels_is_refused(tmp_path: Path) -> None:
    root = draw(tmp_path / "data", "sartorius")
    (root / "train/c3.png").write_bytes(b"P5 40000 40000 255\n" + bytes(100))
    assert refused(tmp_path) == f"train/c3.png: claims more than 178956970 pixels. Check the file in {root}."


def test_a_link_that_leads_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    root = draw(tmp_path / "data", "sartorius")
    (root / "train/c3.png").rename(tmp_path / "c3.png")
    (root / "train/c3.png").symlink_to(tmp_path / "c3.png")
    assert refused(tmp_path) == (
        f"train/c3.png: leads out of the contest's folder {root}, to {tmp_path}/c3.png. Copy the file there."
    )


def test_a_link_to_nothing_is_refused(tmp_path: Path) -> None:
    root = draw(tmp_path / "data", "sartorius")
    (root / "train/d4.png").symlink_to(root / "train/gone.png")
    assert refused(tmp_path).startswith("train/d4.png: is no image that can be read ([Errno 2] No such file")


def test_a_file_whose_name_is_no_plain_id_is_refused(tmp_path: Path) -> None:
    root = draw(tmp_path / "data", "sartorius")
    (root / "train/c3.png").rename(root / "train/c 3.png")
    assert refused(tmp_path) == f"train/c 3.png: the image id is no plain name; {PLAIN}. Rename it in {root}."


def test_fewer_images_than_folds_are_refused(tmp_path: Path) -> None:
    draw(tmp_path / "data", "sartorius")
    assert refused(tmp_path, n_folds=4) == (
        "4 folds were asked for, but there are only 3 images. Set n_folds=3 or fewer."
    )


# As a user types it -------------------------------------------------------------------------------------------------


def type_in(root: Path, key: str, *more: str) -> subprocess.CompletedProcess[str]:
    words = [f"competition={key}", f"paths.data={root / 'data'}", f"paths.output={root / 'out'}", "n_folds=2", *more]
    command = [sys.executable, "-m", "pipeline", "convert", *words]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.parametrize(
    ("key", "old", "new", "message"),
    [
        ("sartorius", "35 1", "35 2", "train.csv row 4, image b2: run 1 ends at pixel 36, the image has 35"),
        (
            "dsb2018",
            "b2,",
            "../b2,",
            f"stage1_train_labels.csv row 4, image ../b2: the image id is no plain name; {PLAIN}",
        ),
    ],
)
def test_the_command_ends_with_one_line_status_1_and_no_output(
    tmp_path: Path, key: str, old: str, new: str, message: str
) -> None:
    csv = SARTORIUS_CSV if key == "sartorius" else DSB_CSV
    root = draw(tmp_path / "data", key, train_csv=csv.replace(old, new))
    done = type_in(tmp_path, key)
    assert done.returncode == 1, done.stderr
    table = root / facts(key).train_annotations
    assert done.stderr.splitlines()[-1] == f"maskline convert: {message}. Correct the row in {table}."
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert not [path for path in (tmp_path / "out").glob("*") if path.name != "logs"]


def test_the_command_converts_and_is_skipped_the_second_time(tmp_path: Path) -> None:
    draw(tmp_path / "data", "sartorius")
    first, second = type_in(tmp_path, "sartorius"), type_in(tmp_path, "sartorius")
    assert (first.returncode, second.returncode) == (0, 0), first.stderr + second.stderr
    assert "3 training images, 3 instances: astro 1, cort 1, shsy5y 1" in first.stderr
    assert "overwrite=true remakes it" in second.stderr
    assert set(OUTPUTS) <= {path.name for path in (tmp_path / "out").iterdir()}


# Download -----------------------------------------------------------------------------------------------------------


def test_download_leaves_a_contest_that_is_there_alone(tmp_path: Path) -> None:
    root = draw(tmp_path / "data", "sartorius")
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    for overwrite in (False, True):
        download(competition=facts("sartorius"), paths=places(tmp_path), overwrite=overwrite)
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before


def test_download_says_how_to_get_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("KAGGLE")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))  # no account, so nothing is fetched
    root = draw(tmp_path / "data", "sartorius")
    (root / "train.csv").unlink()
    with pytest.raises(InputError) as error:
        download(competition=facts("sartorius"), paths=places(tmp_path), overwrite=False)
    assert str(error.value).endswith(
        f"{root}: train.csv of the contest sartorius is not there. By hand: accept the contest's rules at "
        "https://www.kaggle.com/competitions/sartorius-cell-instance-segmentation, download its files there, unpack "
        f"them into {root}, or point to the folder where they are: paths.data=DIR"
    )
    with pytest.raises(InputError, match=r"stage1_train_labels.csv and stage1_sample_submission.csv of .* are not"):
        download(competition=facts("dsb2018"), paths=places(tmp_path), overwrite=False)
    coco = facts("coco", train_annotations="livecell.json", sample_submission="test.json")
    with pytest.raises(InputError, match=r"livecell.json and .* are not there, and coco is no contest of Kaggle's"):
        download(competition=coco, paths=places(tmp_path), overwrite=False)


def test_download_draws_the_toy_contest_which_convert_then_reads(tmp_path: Path) -> None:
    paths = places(tmp_path)
    download(competition=facts("toy"), paths=paths, overwrite=False)
    run(tmp_path, "toy")
    train, test = read_coco(paths.annotations), read_coco(paths.test)
    truth = contest.read_truth(paths.data / "test_truth.csv", facts("toy"), test)
    assert len(read_folds(paths.folds)) == len(train["images"]) == len(list((paths.data / "train").iterdir()))
    assert len(train["annotations"]) == len(pd.read_csv(paths.data / "train.csv"))
    assert len(truth["annotations"]) == len(pd.read_csv(paths.data / "test_truth.csv")) > 0
    assert json.loads(paths.statistics.read_text())["per_image"]["min"] == 0
