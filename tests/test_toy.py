"""The toy contest: its layout, its truth, and what makes it worth solving.

The run-length reader and the metric here share nothing with the pipeline's.
"""

from __future__ import annotations

import csv
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline import toy
from pipeline.errors import InputError

Rows = dict[str, list[dict[str, str]]]
THRESHOLDS = range(50, 100, 5)


@pytest.fixture(scope="module")
def contest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The contest at its default size."""
    root = tmp_path_factory.mktemp("toy") / "not" / "yet" / "there"
    toy.draw(root)
    return root


@pytest.fixture(scope="module")
def truth(contest: Path) -> dict[str, Rows]:
    """The rows of each image, for both splits; an image without rows has an empty list."""
    return {"train": _rows(contest, "train", "train.csv"), "test": _rows(contest, "test", "test_truth.csv")}


def _rows(root: Path, folder: str, table: str) -> Rows:
    rows: Rows = {path.stem: [] for path in sorted((root / folder).iterdir())}
    with (root / table).open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            rows[row["id"]].append(row)
    return rows


def _mask(row: dict[str, str]) -> np.ndarray:
    """Row-major runs from pixel 1, painted one by one: bool (H, W)."""
    flat = np.zeros(int(row["height"]) * int(row["width"]), dtype=bool)
    values = [int(value) for value in row["annotation"].split(" ")]
    for start, length in zip(values[::2], values[1::2], strict=True):
        assert min(start, length) >= 1
        assert start - 1 + length <= flat.size
        assert not flat[start - 1 : start - 1 + length].any()
        flat[start - 1 : start - 1 + length] = True
    return flat.reshape(int(row["height"]), int(row["width"]))


def _files(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def test_the_same_seed_draws_the_same_bytes_and_another_seed_draws_others(tmp_path: Path) -> None:
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        toy.draw(tmp_path / name, seed=seed, n_train=4, n_test=3)
    a, b, c = (_files(tmp_path / name) for name in "abc")
    assert a == b
    assert not set(a.values()) & set(c.values())


def test_one_split_does_not_depend_on_the_length_of_the_other(tmp_path: Path) -> None:
    toy.draw(tmp_path / "a", n_train=3, n_test=1)
    toy.draw(tmp_path / "b", n_train=3, n_test=2)
    assert _files(tmp_path / "a" / "train") == _files(tmp_path / "b" / "train")
    assert (tmp_path / "a" / "train.csv").read_bytes() == (tmp_path / "b" / "train.csv").read_bytes()


def test_the_layout_is_that_of_an_unpacked_contest(contest: Path, truth: dict[str, Rows]) -> None:
    assert sorted(path.name for path in contest.iterdir()) == [
        "sample_submission.csv",
        "test",
        "test_truth.csv",
        "train",
        "train.csv",
    ]
    assert (len(truth["train"]), len(truth["test"])) == (48, 12)
    assert not set(truth["train"]) & set(truth["test"])
    sample = (contest / "sample_submission.csv").read_text(encoding="utf-8")
    assert sample == "id,predicted\n" + "".join(f"{image},\n" for image in truth["test"])
    for table in ("train.csv", "test_truth.csv"):
        assert (contest / table).read_text(encoding="utf-8").startswith("id,annotation,width,height,cell_type\n")


def test_nothing_is_left_beside_the_contest(contest: Path) -> None:
    assert [path.name for path in contest.parent.iterdir()] == [contest.name]


def test_images_are_grey_8_bit_of_several_sizes_and_the_size_columns_are_theirs(
    contest: Path, truth: dict[str, Rows]
) -> None:
    for split, rows in truth.items():
        sizes = set()
        for image, cells in rows.items():
            with Image.open(contest / split / f"{image}.png") as picture:
                assert picture.mode == "L"
                sizes.add(picture.size)
                assert all((int(cell["width"]), int(cell["height"])) == picture.size for cell in cells)
        assert len(sizes) >= 3


def test_images_are_neither_flat_nor_saturated(contest: Path) -> None:
    for path in sorted(contest.glob("*/*.png")):
        pixels = np.asarray(Image.open(path))
        assert pixels.std() > 3
        assert ((pixels == 0) | (pixels == 255)).mean() < 0.01


def test_every_annotation_lies_inside_its_image_and_is_one_cell_of_a_learnable_size(truth: dict[str, Rows]) -> None:
    sides = []
    for cell in (cell for rows in truth.values() for cells in rows.values() for cell in cells):
        mask = _mask(cell)
        assert mask.sum() >= 20
        rows, columns = np.nonzero(mask)
        sides.append(max(np.ptp(rows), np.ptp(columns)) + 1)
    assert np.mean((np.array(sides) >= 10) & (np.array(sides) <= 45)) > 0.9


@pytest.mark.parametrize("split", ["train", "test"])
def test_counts_reach_from_an_empty_image_to_some_two_hundred_cells(truth: dict[str, Rows], split: str) -> None:
    counts = [len(cells) for cells in truth[split].values()]
    assert min(counts) == 0
    assert 150 < max(counts) < 260
    assert 15 <= np.median(counts) <= 35
    assert np.mean(counts) > 1.2 * np.median(counts)


@pytest.mark.parametrize("split", ["train", "test"])
def test_most_images_hold_one_type_and_some_hold_both(truth: dict[str, Rows], split: str) -> None:
    types = [frozenset(cell["cell_type"] for cell in cells) for cells in truth[split].values() if cells]
    assert set(types) == {frozenset({"round"}), frozenset({"spindle"}), frozenset({"round", "spindle"})}
    assert 2 <= sum(len(kinds) == 2 for kinds in types) < len(types) / 2


def test_the_truth_overlaps_itself_a_little(truth: dict[str, Rows]) -> None:
    covered = shared = 0
    for cells in truth["train"].values():
        depth = sum((_mask(cell).astype(int) for cell in cells), start=np.zeros((1, 1), dtype=int))
        covered, shared = covered + int((depth > 0).sum()), shared + int((depth > 1).sum())
    assert 0 < shared < 0.03 * covered


def test_a_perfect_prediction_without_overlaps_scores_above_093(truth: dict[str, Rows]) -> None:
    scores = []
    for cells in truth["test"].values():
        masks = [_mask(cell) for cell in cells]
        taken = np.zeros_like(masks[0]) if masks else np.zeros((1, 1), dtype=bool)
        overlaps = []
        for mask in masks:  # the worst simple rule: the lower index wins, whoever lies on top
            overlaps.append((mask & ~taken).sum() / mask.sum())  # the rest lies inside the truth: IoU is a share of it
            taken = taken | mask
        hits = [sum(100 * overlap > t for overlap in overlaps) for t in THRESHOLDS]
        scores.append(np.mean([hit / (2 * len(masks) - hit) for hit in hits]) if masks else 1.0)
    assert 0.93 < np.mean(scores) < 1


def test_cells_differ_in_contrast(contest: Path, truth: dict[str, Rows]) -> None:
    spread = defaultdict(list)
    for image, cells in truth["train"].items():
        pixels = np.asarray(Image.open(contest / "train" / f"{image}.png")).astype(float)
        for cell in cells:
            spread[cell["cell_type"]].append(pixels[_mask(cell)].std())
    for kind in toy.KINDS:
        faint, strong = np.percentile(spread[kind], [10, 90])
        assert strong > 1.5 * faint


@pytest.mark.parametrize("n", [1, 2])
def test_a_split_may_be_tiny(tmp_path: Path, n: int) -> None:
    toy.draw(tmp_path / "toy", n_train=n, n_test=n)
    assert len(list((tmp_path / "toy" / "test").iterdir())) == n


def test_an_empty_folder_is_filled(tmp_path: Path) -> None:
    toy.draw(tmp_path, n_train=1, n_test=1)
    assert (tmp_path / "train.csv").is_file()


def test_a_folder_with_files_is_refused_and_left_alone(tmp_path: Path) -> None:
    root = tmp_path / "data"
    root.mkdir()
    (root / "mine.txt").write_text("keep")
    with pytest.raises(InputError, match="data exists and is not an empty folder; give another one or empty it"):
        toy.draw(root, n_train=1, n_test=1)
    assert _files(tmp_path) == {str(Path("data") / "mine.txt"): b"keep"}


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("keep")
    with pytest.raises(InputError, match="data exists and is not an empty folder"):
        toy.draw(tmp_path / "data")


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ({"seed": -1}, "seed is -1, wanted 0 or more"),
        ({"n_train": 0}, "n_train is 0, wanted 1 or more"),
        ({"n_test": -2}, "n_test is -2, wanted 1 or more"),
    ],
)
def test_a_number_below_its_least_is_refused(tmp_path: Path, numbers: dict[str, int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        toy.draw(tmp_path / "data", **numbers)
    assert not list(tmp_path.iterdir())


def test_a_failure_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full_disk(*_: object, **__: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(Image.Image, "save", full_disk)
    with pytest.raises(OSError, match="no space left"):
        toy.draw(tmp_path / "data", n_train=1, n_test=1)
    assert not list(tmp_path.iterdir())
