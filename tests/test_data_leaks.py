from __future__ import annotations

import copy
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fixtures.contests import facts
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.ndimage import gaussian_filter

from pipeline import toy
from pipeline.data import contest, folds
from pipeline.data.leaks import Pair, find, join, report, summary
from pipeline.data.looks import SIDE, look, read_looks
from pipeline.data.pictures import read_grey
from pipeline.errors import InputError

FIXED = settings(max_examples=20, deadline=None, derandomize=True)  # chance borders are part of the matter


def scene(seed: int, size: tuple[int, int], grain: float = 4) -> np.ndarray:
    """uint8 (H, W): soft blobs under grain, as a microscope shows them."""
    rng = np.random.default_rng(seed)
    blobs = gaussian_filter(rng.standard_normal(size), 10)
    return np.clip(128 + blobs / blobs.std() * 40 + rng.standard_normal(size) * grain, 0, 255).astype(np.uint8)


def tiles(frame: np.ndarray, side: int, mark: str) -> dict[str, np.ndarray]:
    """The frame cut into squares, by name: mark, row, column."""
    rows, columns = (length // side for length in frame.shape[:2])
    return {
        f"{mark}{r}{c}": frame[r * side : (r + 1) * side, c * side : (c + 1) * side]
        for r in range(rows)
        for c in range(columns)
    }


def found(images: dict[str, np.ndarray]) -> list[Pair]:
    return find(list(images), [look(image) for image in images.values()])


def seams(rows: int, columns: int, mark: str) -> set[tuple[str, str, str]]:
    right = {("right", f"{mark}{r}{c}", f"{mark}{r}{c + 1}") for r in range(rows) for c in range(columns - 1)}
    return right | {("below", f"{mark}{r}{c}", f"{mark}{r + 1}{c}") for r in range(rows - 1) for c in range(columns)}


def named(pairs: list[Pair]) -> set[tuple[str, str, str]]:
    return {(pair.kind, pair.first, pair.second) for pair in pairs}


# Laws: neighbouring tiles -------------------------------------------------------------------------------------------


@FIXED
@given(seed=st.integers(0, 10**6), rows=st.integers(1, 3), columns=st.integers(1, 3))
def test_a_frame_cut_into_tiles_gives_back_its_seams_and_nothing_else(seed: int, rows: int, columns: int) -> None:
    frame, other = scene(seed, (rows * 96, columns * 96), grain=0), scene(seed + 1, (96, 192), grain=0)
    cut = tiles(frame, 96, "a") | tiles(other, 96, "b")
    assert named(found(cut)) == seams(rows, columns, "a") | seams(1, 2, "b")


def test_under_grain_a_seam_may_look_like_a_step_by_chance_but_no_step_like_a_seam() -> None:
    missed = 0
    for seed in range(30):
        got = named(found(tiles(scene(seed, (256, 384)), 128, "a")))
        assert got <= seams(2, 3, "a")
        missed += 7 - len(got)
    assert missed <= 10  # of 210


@FIXED
@given(seed=st.integers(0, 10**6), gain=st.floats(0.5, 200), offset=st.floats(-50, 1000))
def test_brightness_and_contrast_of_the_whole_set_do_not_matter(seed: int, gain: float, offset: float) -> None:
    cut = tiles(scene(seed, (192, 192)), 96, "a")
    assert named(found({name: tile * gain + offset for name, tile in cut.items()})) == named(found(cut))


@FIXED
@given(seed=st.integers(0, 10**6), luck=st.randoms())
def test_the_order_of_the_images_does_not_matter(seed: int, luck: Any) -> None:
    cut = tiles(scene(seed, (192, 288)), 96, "a") | {"copy": scene(seed, (192, 288))[:96, :96]}
    mixed = dict(luck.sample(list(cut.items()), len(cut)))
    assert found(mixed) == found(cut)


@FIXED
@given(st.integers(0, 10**6))
def test_tiles_of_unequal_sides_meet_where_their_sides_are_equal(seed: int) -> None:
    frame = scene(seed, (160, 400), grain=0)
    assert named(found({"l": frame[:, :150], "r": frame[:, 150:]})) == {("right", "l", "r")}
    assert found({"l": frame[:, :150], "r": frame[8:, 150:]}) == []  # shifted: no side continues another


@FIXED
@given(st.integers(0, 10**6), st.integers(2, 40))
def test_images_of_their_own_make_no_pairs(seed: int, count: int) -> None:
    assert found({str(i): scene(seed + i, (64, 64)) for i in range(count)}) == []


# Laws: near duplicates ----------------------------------------------------------------------------------------------


@FIXED
@given(
    seed=st.integers(0, 10**6),
    gain=st.floats(0.5, 1.0),
    offset=st.floats(0, 40),
    noise=st.floats(0, 12),
    size=st.sampled_from([(96, 128), (120, 160), (48, 64)]),
)
def test_a_brighter_noisier_or_smaller_copy_is_a_near_duplicate(
    seed: int, gain: float, offset: float, noise: float, size: tuple[int, int]
) -> None:
    image, grain = scene(seed, (96, 128)), np.random.default_rng(seed).standard_normal(size) * noise
    resized = np.asarray(Image.fromarray(image).resize(size[::-1], Image.Resampling.BILINEAR), float)
    copied = np.clip(resized * gain + offset + grain, 0, 255).astype(np.uint8)
    got = found({"a": image, "b": copied, "c": scene(seed + 1, (96, 128))})
    assert named(got) == {("duplicate", "a", "b")}


@FIXED
@given(st.integers(0, 10**6))
def test_a_tile_there_twice_still_finds_its_neighbour(seed: int) -> None:
    left, right = tiles(scene(seed, (160, 320), grain=0), 160, "").values()
    copied = np.clip(left.astype(int) + 3, 0, 255).astype(np.uint8)
    got = named(found({"a": left, "b": copied, "c": right}))
    assert got == {("duplicate", "a", "b"), ("right", "a", "c")}


# What says nothing --------------------------------------------------------------------------------------------------


def _uniform(i: int) -> np.ndarray:
    return np.full((64, 64), 7 * i, np.uint8)


def _in_a_black_frame(i: int) -> np.ndarray:
    return np.pad(scene(i, (56, 56)), 4)


def _with_a_stamp(i: int) -> np.ndarray:
    """Black borders with the same bright mark on each."""
    image = _in_a_black_frame(i)
    image[20:30, :4] = image[20:30, -4:] = 255
    return image


def _under_a_lamp(i: int) -> np.ndarray:
    """The same vignette on every image."""
    y, x = np.mgrid[:64, :64] / 31.5 - 1
    return np.clip(scene(i, (64, 64)) * (1 - 0.2 * (x**2 + y**2)), 0, 255).astype(np.uint8)


def _a_pixel_wide(i: int) -> np.ndarray:
    return scene(i, (64, 1))


def _small(i: int) -> np.ndarray:
    return scene(i, (3, 4))


@pytest.mark.parametrize("draw", [_uniform, _in_a_black_frame, _with_a_stamp, _under_a_lamp, _a_pixel_wide, _small])
@pytest.mark.parametrize("count", [1, 2, 30])
def test_borders_and_images_that_say_nothing_join_nothing(draw: Any, count: int) -> None:
    assert found({f"{i:02d}": draw(i) for i in range(count)}) == []


def test_no_image_makes_no_pair() -> None:
    assert found({}) == []


# Files of every kind ------------------------------------------------------------------------------------------------


def _coloured(tile: np.ndarray) -> Image.Image:
    return Image.fromarray(np.dstack([tile, tile // 2, 255 - tile // 3]))


KINDS = {
    "grey.png": Image.fromarray,
    "16 bits.png": lambda tile: Image.fromarray(tile.astype(np.uint16) * 100),
    "rgba.png": lambda tile: Image.fromarray(np.dstack([tile] * 3 + [np.full_like(tile, 128)])),
    "colour.png": _coloured,
    "palette.png": lambda tile: Image.fromarray(tile).convert("P"),
    "float.tif": lambda tile: Image.fromarray(tile.astype(np.float32) / 255),
    "good.jpg": Image.fromarray,
}


@pytest.mark.parametrize("kind", KINDS)
def test_tiles_are_found_in_files_of_every_kind(tmp_path: Path, kind: str) -> None:
    cut = tiles(scene(3, (256, 384), grain=1), 128, "a")
    for name, tile in cut.items():
        KINDS[kind](tile).save(tmp_path / f"{name}{Path(kind).suffix}", **{"quality": 95} if "jpg" in kind else {})
    images = [{"file_name": f"{name}{Path(kind).suffix}"} for name in cut]
    assert named(find(list(cut), read_looks(tmp_path, images))) == seams(2, 3, "a")


def test_a_look_is_an_average_and_the_lines_at_the_borders() -> None:
    image = np.arange(6).reshape(2, 3)
    seen = look(image)
    assert seen.thumb.shape == (SIDE, SIDE)
    assert seen.brightness == pytest.approx(2.5)
    assert seen.left.tolist() == [[0, 3], [1, 4]]
    assert seen.right.tolist() == [[2, 5], [1, 4]]
    assert seen.top.tolist() == [[0, 1, 2], [3, 4, 5]]
    assert seen.bottom.tolist() == [[3, 4, 5], [0, 1, 2]]
    assert look(image[:1]).bottom.tolist() == [[0, 1, 2], [0, 1, 2]]


def test_deep_pictures_keep_their_depth_in_the_range_of_8_bits(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 257, 65535]], np.uint16)).save(tmp_path / "a.png")
    assert read_grey(tmp_path, "a.png").tolist() == [[0, 1, 255]]


def test_a_file_that_cannot_be_decoded_is_named(tmp_path: Path) -> None:
    Image.fromarray(scene(0, (64, 64))).save(tmp_path / "a.png")
    (tmp_path / "a.png").write_bytes((tmp_path / "a.png").read_bytes()[:200])
    with pytest.raises(InputError, match=r"a\.png: is no image that can be read"):
        read_looks(tmp_path, [{"file_name": "a.png"}])


# Groups -------------------------------------------------------------------------------------------------------------

NAMES = [f"i{i:02d}" for i in range(12)]


def plain(groups: dict[str, str] | None = None) -> dict[str, Any]:
    """A COCO dict of twelve images without instances, each a group of its own unless `groups` names another."""
    images = [{"id": i, "name": n, "height": 8, "width": 8} for i, n in enumerate(NAMES, 1)]
    return {
        "images": [{**image, "group": (groups or {}).get(image["name"], image["name"])} for image in images],
        "categories": [{"id": 1, "name": "cell"}],
        "annotations": [],
    }


links = st.lists(st.tuples(st.sampled_from(NAMES), st.sampled_from(NAMES)), max_size=12)


@given(links=links, groups=st.dictionaries(st.sampled_from(NAMES), st.sampled_from("xyz")), n_folds=st.integers(2, 3))
@settings(deadline=None)
def test_joined_groups_hold_every_pair_and_every_group_of_the_contest_and_no_more(
    links: list[tuple[str, str]], groups: dict[str, str], n_folds: int
) -> None:
    coco = plain(groups)
    before = copy.deepcopy(coco)
    joined = join(coco, [Pair("right", a, b, 1.0) for a, b in links])
    assert coco == before
    own = {image["name"]: image["group"] for image in joined["images"]}
    of = {image["name"]: image["group"] for image in coco["images"]}
    # Reached by hand: from each image along links and groups.
    near = {a: {b for b in NAMES if of[a] == of[b] or (a, b) in links or (b, a) in links} for a in NAMES}
    for start in NAMES:
        reached, todo = {start}, [start]
        while todo:
            todo += [b for b in near[todo.pop()] if b not in reached and not reached.add(b)]  # type: ignore[func-returns-value]
        assert {name for name in NAMES if own[name] == own[start]} == reached
        assert own[start] == min(of[name] for name in reached)
    if len(set(own.values())) >= n_folds:
        fold = dict(zip(NAMES, folds.assign(joined, n_folds, 0).tolist(), strict=True))
        assert all(fold[a] == fold[b] for a, b in links)


def test_without_pairs_nothing_changes() -> None:
    coco = plain({"i01": "x", "i02": "x"})
    assert join(coco, []) == coco


def test_a_group_larger_than_a_fold_is_kept_whole() -> None:
    joined = join(plain(), [Pair("right", a, b, 1.0) for a, b in pairwise(NAMES[:10])])
    fold = folds.assign(joined, 3, 0)
    assert sorted(np.bincount(fold).tolist()) == [1, 1, 10]
    assert len(set(fold[:10].tolist())) == 1


def test_more_folds_than_groups_are_refused_and_the_message_says_where_groups_come_from() -> None:
    joined = join(plain(), [Pair("right", a, b, 1.0) for a, b in pairwise(NAMES)])
    with pytest.raises(InputError, match=r"in 1 groups that must stay together.*leaks=false"):
        folds.assign(joined, 2, 0)


def test_the_report_counts_the_pairs_that_plain_folds_split() -> None:
    pairs = [Pair("duplicate", "i00", "i01", 0.99), Pair("right", "i01", "i02", 0.95), Pair("below", "i08", "i09", 0.9)]
    joined = join(plain({"i10": "x", "i11": "x"}), pairs)
    told = report(joined, pairs, np.array([0, 0, 1, 2, 0, 1, 2, 0, 1, 1, 2, 2]), 3)
    assert told["counts"] == {"duplicate": 1, "right": 1, "below": 1}
    assert (told["images"], told["images_in_pairs"]) == (12, 5)
    # A partner is in another fold with 8 of the 11 other places: 3 * 8 / 11.
    assert told["leaked"] == {"n_folds": 3, "expected": 2.2, "plain_split": 1}
    assert told["groups"] == [["i00", "i01", "i02"], ["i08", "i09"], ["i10", "i11"]]
    assert told["pairs"][0] == {"kind": "duplicate", "first": "i00", "second": "i01", "measure": 0.99}
    assert summary(told) == (
        "near duplicates: 1 pairs, neighbouring tiles: 2, images in them: 5. With the contest's own groups there are "
        "3 groups of up to 3 images, each in one fold. A plain split into 3 folds would leak 1 pairs, a random one 2.2"
    )


# Real pictures ------------------------------------------------------------------------------------------------------


def test_the_tiles_of_dsb2018_go_back_to_their_frames(real_data: Path) -> None:
    coco = contest.read_train(real_data / "dsb2018", facts("dsb2018"), "csv")
    seen = read_looks(real_data / "dsb2018", coco["images"])
    pairs = find([image["name"] for image in coco["images"]], seen)
    assert Counter(pair.kind for pair in pairs) == {"duplicate": 1, "right": 234, "below": 246}
    told = report(join(coco, pairs), pairs, folds.assign(coco, 5, 0), 5)
    assert told["images_in_pairs"] == 525
    # A frame puts each of its tiles at one place, and no two at the same: no seam contradicts another.
    offset = {"right": (0, 1), "below": (1, 0), "duplicate": (0, 0)}
    place: dict[str, tuple[int, int]] = {}
    for group in told["groups"]:
        place[group[0]] = (0, 0)
        for _ in group:
            for pair in pairs:
                (y, x) = offset[pair.kind]
                if pair.first in place:
                    down, right = place[pair.first]
                    assert place.setdefault(pair.second, (down + y, right + x)) == (down + y, right + x)
                elif pair.second in place:
                    down, right = place[pair.second]
                    place[pair.first] = (down - y, right - x)
        if len(group) > 2:
            assert len({place[name] for name in group}) == len(group)
    # Tiles of 256 x 256 were cut four from a frame.
    size = {image["name"]: (image["height"], image["width"]) for image in coco["images"]}
    assert max(len(group) for group in told["groups"] if size[group[0]] == (256, 256)) == 4
    assert max(map(len, told["groups"])) == 12
    fold = dict(zip(size, folds.assign(join(coco, pairs), 5, 0).tolist(), strict=True))
    assert all(fold[pair.first] == fold[pair.second] for pair in pairs)


@pytest.mark.parametrize(
    ("folder", "pattern"),
    [("sartorius", "train/*.png"), ("airbus", "train_v2/*.jpg"), ("livecell", "images/**/*.tif")],
)
def test_images_of_their_own_frames_are_not_joined(real_data: Path, folder: str, pattern: str) -> None:
    root = real_data / folder
    names = sorted(str(path.relative_to(root)) for path in root.glob(pattern))
    assert len(names) >= 5
    assert find(names, read_looks(root, [{"file_name": name} for name in names])) == []


def test_the_toy_has_no_leaks(tmp_path: Path) -> None:
    toy.draw(tmp_path / "toy", n_train=24, n_test=1)
    names = sorted(path.name for path in (tmp_path / "toy/train").iterdir())
    assert find(names, read_looks(tmp_path / "toy/train", [{"file_name": name} for name in names])) == []
