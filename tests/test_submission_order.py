"""The detector of masks numbered in the other order of pixels: found where they are, silent where they are not."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from fixtures.contests import facts
from fixtures.dense import disks
from PIL import Image

from pipeline.competition import Competition
from pipeline.instances import Instances
from pipeline.masks import runs
from pipeline.submission import order
from pipeline.submission.case import Case
from pipeline.submission.finding import Finding
from pipeline.submission.lint import check, lint
from pipeline.submission.rows import read, write

OTHER = {"row": "column", "column": "row"}


def codes(made: list[Instances], competition: Competition, folder: Path) -> list[Finding]:
    """The findings on the order when the masks are written in the contest's order, then when in the other."""
    sizes = {one.image_id: one.size for one in made}
    found = []
    for written in (competition.order, OTHER[str(competition.order)]):
        path = folder / f"{written}.csv"
        write(made, dataclasses.replace(competition, order=written), path)
        found += [[one for one in lint(path, competition, sizes) if one.code == "order"]]
    assert found[0] == []
    return found[1]


def drawn(masks: np.ndarray, name: str = "a") -> Instances:
    masks = masks[masks.any(axis=(1, 2))]
    count = len(masks)
    return Instances.of_runs(name, runs.from_dense(masks), np.ones(count, np.float32), np.ones(count, np.int64))


@pytest.mark.parametrize("key", ["sartorius", "dsb2018", "airbus", "imaterialist2019", "severstal", "clouds"])
def test_masks_in_the_other_order_are_found_in_every_contest_that_has_one(key: str, tmp_path: Path) -> None:
    competition = facts(key, overlap="allowed")
    size = (350, 525) if key == "clouds" else (90, 160)
    (found,) = codes([drawn(disks(12, size, seed=1, radius=9))], competition, tmp_path)
    assert (found.code, found.level, found.row) == ("order", "error", None)


def test_the_finding_says_how_the_masks_seem_to_be_numbered_and_why(tmp_path: Path) -> None:
    # Ten rectangles of 5 columns and 4 rows: down the columns 5 runs each, of which the last alone has none behind it.
    masks = np.zeros((10, 40, 90), bool)
    for k in range(10):
        masks[k, 3:7, 9 * k : 9 * k + 5] = True
    (found,) = codes([drawn(masks)], facts("dsb2018"), tmp_path)
    assert found.message == (
        "the masks seem to be numbered along the rows, the contest numbers pixels down the columns: read so, 40 of 40 "
        "runs touch no run of their mask in the next line, read along the rows only 10"
    )
    (found,) = codes([drawn(masks)], facts("sartorius"), tmp_path)
    assert found.message.startswith("the masks seem to be numbered down the columns, the contest numbers pixels along")


def test_few_runs_prove_nothing(tmp_path: Path) -> None:
    masks = np.zeros((2, 40, 90), bool)
    masks[0, 3:12, 3:9] = masks[1, 20:29, 30:40] = True
    assert codes([drawn(masks)], facts("dsb2018"), tmp_path) == []


def test_single_pixels_prove_nothing(tmp_path: Path) -> None:
    masks = np.zeros((500, 40, 90), bool)
    masks[np.arange(500), np.arange(500) % 40, np.arange(500) * 7 % 90] = True
    assert codes([drawn(np.unique(masks, axis=0))], facts("dsb2018", overlap="allowed"), tmp_path) == []


def test_square_images_prove_nothing(tmp_path: Path) -> None:
    assert codes([drawn(disks(30, (80, 80), seed=2, radius=9))], facts("airbus", overlap="allowed"), tmp_path) == []


def test_scattered_pixels_prove_nothing(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for share in (0.02, 0.2, 0.5, 0.9):
        made = [drawn(rng.random((3, 40, 90)) < share)]
        assert codes(made, facts("dsb2018", overlap="allowed"), tmp_path) == []


def test_stripes_and_whole_images_are_not_taken_for_another_order(tmp_path: Path) -> None:
    y, x = np.mgrid[:60, :100]
    masks = np.array([y % 4 == 0, x % 4 == 0, (x + y) % 5 == 0, y >= 0, (y % 2 == 0) & (x % 2 == 0)])
    for key in ("dsb2018", "sartorius"):
        for mask in masks:
            competition, path = facts(key), tmp_path / "x.csv"
            write([drawn(mask[None])], competition, path)
            assert lint(path, competition, {"a": (60, 100)}) == []


def test_a_few_runs_apart_among_many_images_are_counted_together(tmp_path: Path) -> None:
    """Images of several sizes, a square one among them: what one image cannot prove many can."""
    made = [drawn(disks(2, (50 + 4 * k, 90), seed=k, radius=7), f"im{k}") for k in range(20)]
    assert len(codes(made, facts("dsb2018", overlap="allowed"), tmp_path)) == 1


def test_the_count_is_that_of_dense_masks() -> None:
    """A run is apart where no pixel of its mask lies in the next column beside it, its corners included."""
    rng = np.random.default_rng(5)
    for _ in range(50):
        masks = rng.random((3, 7, 9)) < rng.uniform(0.1, 0.7)
        masks[:, [0, -1]] = False  # no run goes over a column's end, and none touches the next column's beginning
        text = runs.from_dense(masks)
        wanted = 0
        for start, stop, own in zip(text.start, text.stop, text.instance, strict=True):
            x, top, bottom = start // 7, start % 7, (stop - 1) % 7 + 1
            wanted += x == 8 or not masks[own, max(top - 1, 0) : bottom + 1, x + 1].any()
        case = Case.of(facts("dsb2018"), {})
        position = np.zeros(len(text.start), np.int64)
        found = order._apart(
            order.RowRuns(text.instance, position, text.start + case.competition.base, text.stop - text.start),
            np.full(len(text.start), 7),
        )
        assert found == wanted


def test_a_row_major_file_of_dsb2018_is_recognised_and_the_right_one_is_not(real_data: Path, tmp_path: Path) -> None:
    sizes = {}
    for path in sorted(real_data.glob("dsb2018/stage1_test/*/images/*.png")):
        with Image.open(path) as image:
            sizes[path.stem] = (image.height, image.width)
    competition = facts("dsb2018")
    right = real_data / "example_submissions" / "dsb2018_jessecambon_sub-dsbowl2018-2.csv"
    made = read(right, competition, sizes)  # which refuses a file with errors
    path = tmp_path / "rows.csv"
    write(made, dataclasses.replace(competition, order="row"), path)
    (found,) = lint(path, competition, sizes)
    assert (found.code, found.level) == ("order", "error")
    assert lint(path, dataclasses.replace(competition, order="row"), sizes) == []
    # One image of these that is not square would do.
    name = next(one.image_id for one in made if one.size[0] != one.size[1] and len(one) > 5)
    one = [image for image in made if image.image_id == name]
    write(one, dataclasses.replace(competition, order="row"), path)
    assert [f.code for f in check(path, competition, {name: sizes[name]})[1]] == ["order"]


@pytest.mark.parametrize("name", ["sartorius_BEPb_submission-lb0.28.csv", "sartorius_MDECellMask_submission.csv"])
def test_a_file_as_the_page_of_sartorius_asks_for_is_recognised(real_data: Path, tmp_path: Path, name: str) -> None:
    """Its evaluation page says that pixels are numbered down the columns; files that did so scored nothing."""
    sizes = {path.stem: (520, 704) for path in real_data.glob("sartorius/test/*.png")}
    made = read(real_data / "example_submissions" / name, facts("sartorius"), sizes)
    path = tmp_path / "columns.csv"
    write(made, facts("sartorius", order="column"), path)
    assert [finding.code for finding in lint(path, facts("sartorius"), sizes)] == ["order"]
