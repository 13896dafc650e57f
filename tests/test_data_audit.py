from __future__ import annotations

import copy
import json
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fixtures.contests import facts
from fixtures.dense import LAW, stacks
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from pipeline.data import audit, contest, oddities
from pipeline.data.audit import KINDS, LISTED, lines, measure, robust_z, show
from pipeline.data.coco import Coco, build
from pipeline.data.columns import joined, masks_of_runs
from pipeline.data.looks import Look, look, read_looks
from pipeline.data.patch import fingerprint
from pipeline.masks.runs import from_dense, to_coco

FACTS = facts("sartorius")
SIZES = ((7, 6), (5, 9), (7, 6), (40, 40))
MASK_KINDS = [kind for kind in KINDS if kind not in ("many_or_few", "bright_or_dark")]


def make(images: list[np.ndarray]) -> Coco:
    """The COCO dict of images "0", "1", …, each a stack of masks."""
    entries = {
        str(i): {"id": i + 1, "name": str(i), "file_name": f"{i}.png", "height": h, "width": w, "group": str(i)}
        for i, (_, h, w) in enumerate(stack.shape for stack in images)
    }
    return build(FACTS, entries, joined([masks_of_runs(i, 1, from_dense(stack)) for i, stack in enumerate(images)]))


def grey(*values: float) -> list[Look]:
    return [look(np.full((4, 4), value)) for value in values]


def audited(images: list[np.ndarray]) -> dict[str, Any]:
    return measure(make(images), grey(*[0] * len(images)))


def square(size: tuple[int, int], y0: int, x0: int, y1: int, x1: int) -> np.ndarray:
    mask = np.zeros(size, bool)
    mask[y0:y1, x0:x1] = True
    return mask


def dense_counts(masks: np.ndarray) -> dict[str, int]:
    """How many findings of each kind about masks one image has, from its pixels, a mask or a pair at a time."""
    filled = [ndimage.binary_fill_holes(mask) for mask in masks]
    parts = [ndimage.label(mask, np.ones((3, 3)))[1] for mask in masks]
    block = [(m[1:, 1:] & m[:-1, 1:] & m[1:, :-1] & m[:-1, :-1]).any() for m in masks]
    rim = [m[0].any() or m[-1].any() or m[:, 0].any() or m[:, -1].any() for m in masks]
    couples = [(one & other, one | other) for one, other in combinations(masks, 2)]
    alike = [both.sum() / either.sum() for both, either in couples]
    return {
        "holes": sum((f.sum() - m.sum()) / f.sum() > oddities.HOLES for f, m in zip(filled, masks, strict=True)),
        "parts": sum(number > 1 for number in parts),
        "thin": sum(not thick for thick in block),
        "duplicates": len(masks) - len({mask.tobytes() for mask in masks}),
        "near_duplicates": sum(oddities.ALIKE < value < 1 for value in alike),
        "overlaps": sum(both.any() for both, _ in couples),
        "on_border": sum(map(bool, rim)),
    }


@st.composite
def truths(draw: st.DrawFn) -> list[np.ndarray]:
    """Stacks of masks, none of them empty, some twice, of three images in two sizes, and one image without any."""
    images = []
    for size in SIZES[:3]:
        masks = draw(stacks(size, max_count=5))
        masks = masks[masks.any((1, 2))]
        again = draw(st.lists(st.integers(0, len(masks) - 1), max_size=3)) if len(masks) else []
        images.append(np.concatenate([masks, masks[again]]))
    return [*images, np.zeros((0, *SIZES[3]), bool)]


@pytest.mark.parametrize("at_a_time", [1, 4096])
@LAW
@given(images=truths())
def test_the_counts_are_those_of_the_pixels(at_a_time: int, images: list[np.ndarray]) -> None:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(oddities, "_MASKS", at_a_time)
        got = audited(images)["kinds"]
    dense = [dense_counts(masks) for masks in images]
    for kind in MASK_KINDS:
        assert got[kind]["count"] == sum(counts[kind] for counts in dense), kind
        assert got[kind]["images"] == sum(counts[kind] > 0 for counts in dense), kind


@LAW
@given(images=truths())
def test_the_report_is_plain_json_and_leaves_its_argument_alone(images: list[np.ndarray]) -> None:
    coco = make(images)
    before = copy.deepcopy(coco)
    got = measure(coco, grey(1, 2, 3, 4))
    assert coco == before
    assert json.loads(json.dumps(got, allow_nan=False)) == got
    plain = {**coco, "annotations": list(coco["annotations"])}
    assert measure(plain, grey(1, 2, 3, 4)) == got
    assert len(show(coco, got)) <= audit.SHOWN * len(KINDS)


# Worked by hand -----------------------------------------------------------------------------------------------------

SIZE = (40, 40)
RING = square(SIZE, 2, 2, 8, 8) ^ square(SIZE, 4, 4, 6, 6)  # 32 of 36 pixels
TWO = square(SIZE, 10, 2, 12, 4) | square(SIZE, 10, 6, 12, 8)
CORNERS = square(SIZE, 14, 2, 16, 4) | square(SIZE, 16, 4, 18, 6)  # touch at a corner: one part
LINE = square(SIZE, 20, 2, 21, 9)
LARGE, LARGER = square(SIZE, 25, 2, 35, 12), square(SIZE, 25, 2, 35, 13)  # IoU 100 / 110
RIM = square(SIZE, 30, 0, 32, 40)


def only(got: dict[str, Any], kind: str) -> dict[str, Any]:
    (finding,) = got["kinds"][kind]["worst"]
    assert (got["kinds"][kind]["count"], got["kinds"][kind]["images"]) == (1, 1)
    return finding


def test_each_kind_is_found_measured_and_named() -> None:
    got = audited([np.array([RING, TWO, CORNERS, LINE]), np.array([LARGE, LARGER]), np.array([LINE, LINE])])
    name = fingerprint("astro", to_coco(from_dense(RING[None]))[0])
    assert only(got, "holes") == {"image": "0", "annotation": 1, "fingerprint": name, "measure": 0.1111}
    assert (only(got, "parts")["annotation"], only(got, "parts")["measure"]) == (2, 2)
    assert only(got, "near_duplicates")["measure"] == round(100 / 110, 4)
    assert [only(got, "duplicates")[key] for key in ("image", "annotation", "other", "measure")] == ["2", 8, 7, 1]
    assert [f["annotation"] for f in got["kinds"]["thin"]["worst"]] == [4, 7, 8]
    assert [f["measure"] for f in got["kinds"]["thin"]["worst"]] == [round(1 / 7, 4)] * 3
    assert [(f["image"], f["measure"]) for f in got["kinds"]["overlaps"]["worst"]] == [("1", 1), ("2", 1)]
    assert got["kinds"]["on_border"]["count"] == 0


def test_a_box_is_told_with_the_number_of_borders_it_touches() -> None:
    got = audited([np.array([RIM, square(SIZE, 0, 0, 40, 40), RING])])["kinds"]["on_border"]
    assert [(f["annotation"], f["measure"]) for f in got["worst"]] == [(1, 4), (2, 2)]


def test_an_overlap_is_told_as_a_share_of_the_smaller_mask() -> None:
    got = audited([np.array([square(SIZE, 0, 0, 10, 10), square(SIZE, 5, 0, 25, 10)])])
    assert only(got, "overlaps")["measure"] == 0.5


def test_masks_of_two_images_never_meet() -> None:
    got = audited([RIM[None]] * 3)["kinds"]
    assert [got[kind]["count"] for kind in ("duplicates", "near_duplicates", "overlaps")] == [0, 0, 0]


def test_a_mask_that_repeats_another_counts_once_however_many_there_are() -> None:
    got = audited([np.array([RING] * 4)])["kinds"]
    assert (got["duplicates"]["count"], got["overlaps"]["count"]) == (3, 6)
    assert [(f["annotation"], f["other"]) for f in got["duplicates"]["worst"]] == [(2, 1), (3, 1), (4, 1)]


def test_a_long_list_is_cut_to_the_most_striking() -> None:
    size = (300, 300)
    many = np.array([square(size, 2 * i, 0, 2 * i + 1, 1 + i) for i in range(120)])
    got = audited([many])["kinds"]["thin"]
    assert (got["count"], len(got["worst"])) == (120, LISTED)
    assert got["worst"][0]["measure"] == 1


def test_caps_tell_what_they_would_lose() -> None:
    dots = np.array([square(SIZE, y, x, y + 1, x + 1) for y in range(0, 40, 2) for x in range(0, 40, 2)])
    got = audited([dots[:350], dots[:120], dots[:30]])
    assert got["caps"] == {
        "100": {"images": 2, "lost": 270, "share": 0.54},
        "300": {"images": 1, "lost": 50, "share": 0.1},
    }


def test_robust_scores_worked_out_by_hand() -> None:
    # Median 3, distances 2 1 0 1 97, their median 1.
    assert robust_z(np.array([1.0, 2, 3, 4, 100])) == pytest.approx(np.array([-2, -1, 0, 1, 97]) / 1.4826)
    # Most are equal: the average distance, 10 / 4, serves.
    assert robust_z(np.array([0.0, 0, 0, 10])) == pytest.approx(np.array([0, 0, 0, 10 / (1.2533 * 2.5)]))
    assert robust_z(np.array([5.0, 5])).tolist() == [0, 0]
    assert robust_z(np.zeros(0)).tolist() == []


def test_images_that_are_unlike_the_others_are_outliers() -> None:
    images = [np.array([RING] * count).reshape(-1, *SIZE) for count in (1, 2, 1, 2, 1, 2, 1, 30)]
    got = measure(make(images), grey(100, 101, 99, 100, 102, 98, 250, 100))["kinds"]
    assert [found["image"] for found in got["many_or_few"]["worst"]] == ["7"]
    assert [found["image"] for found in got["bright_or_dark"]["worst"]] == ["6"]
    assert got["bright_or_dark"]["worst"][0]["measure"] == pytest.approx((250 - 100) / 1.4826, abs=1e-3)


def test_the_lines_name_what_was_found_and_nothing_else() -> None:
    got = measure(make([np.array([RING, LINE]), LINE[None]]), grey(1, 1))
    assert lines(got) == [
        "holes of more than 1% of the area: 1 in 1 image",
        "nowhere thicker than one pixel: 2 in 2 images",
    ]
    assert lines(audited([])) == lines(audited([np.zeros((0, 4, 4), bool)])) == []


def test_a_cap_has_a_line() -> None:
    dots = np.array([square(SIZE, y, x, y + 2, x + 2) for y in range(1, 38, 3) for x in range(1, 38, 3)])
    got = audited([dots[:125]])
    assert lines(got) == ["a cap of 100 detections would lose 25 instances (20.0%) in 1 image"]


# Pictures -----------------------------------------------------------------------------------------------------------


def test_a_view_shows_the_finding_among_its_neighbours() -> None:
    size = (200, 300)
    ring = square(size, 100, 100, 130, 130) ^ square(size, 105, 105, 125, 125)
    beside, far = square(size, 100, 140, 110, 150), square(size, 0, 280, 10, 290)
    coco = make([np.array([ring, beside, far])])
    (view,) = [view for view in show(coco, measure(coco, grey(0))) if view.title.startswith("holes")]
    assert (view.file_name, view.box) == ("0.png", (70, 70, 160, 160))
    assert (len(view.marked), len(view.others)) == (1, 2)
    assert view.title == "holes of more than 1% of the area\n0 1: 0.4444"
    inside = np.array([ring, beside])[:, 70:160, 70:160]
    wanted = from_dense(inside)
    assert view.marked.start.tolist() == wanted.select([0]).start.tolist()
    assert view.others.start.tolist() == wanted.select([1]).start.tolist()


def test_views_of_a_kind_come_from_different_images_and_borders_have_none() -> None:
    coco = make([np.array([LINE, RIM]), np.array([LINE, LINE]), LINE[None]])
    views = show(coco, measure(coco, grey(0, 0, 0)))
    assert [view.title.splitlines()[0] for view in views].count(KINDS["thin"]) == audit.SHOWN
    thin = [view.file_name for view in views if view.title.startswith(KINDS["thin"])]
    assert len(set(thin)) == audit.SHOWN
    assert not [view for view in views if view.title.startswith(KINDS["on_border"])]


def test_an_image_that_is_an_outlier_is_shown_whole() -> None:
    images = [RING[None]] * 8
    coco = make(images)
    (view,) = [v for v in show(coco, measure(coco, grey(*range(7), 250))) if "brightness" in v.title]
    assert (view.box, len(view.marked), len(view.others)) == ((0, 0, 40, 40), 0, 1)


# Real data ----------------------------------------------------------------------------------------------------------


def found_in(root: Path, key: str) -> dict[str, Any]:
    coco = contest.read_train(root / key, facts(key), "csv")
    return measure(coco, read_looks(root / key, coco["images"]))


def test_the_audit_of_dsb2018_is_what_is_known_of_it(real_data: Path) -> None:
    got = found_in(real_data, "dsb2018")
    assert {kind: (part["count"], part["images"]) for kind, part in got["kinds"].items()} == {
        "holes": (51, 28),
        "parts": (11, 11),
        "thin": (23, 20),
        "duplicates": (0, 0),
        "near_duplicates": (0, 0),
        "overlaps": (0, 0),
        "on_border": (5405, 638),
        "many_or_few": (0, 0),
        "bright_or_dark": (127, 127),
    }
    assert got["caps"]["100"] == {"images": 68, "lost": 3957, "share": 0.1343}
    assert len(json.dumps(got)) < 100_000


def test_the_audit_of_sartorius_is_what_is_known_of_it(real_data: Path) -> None:
    got = found_in(real_data, "sartorius")
    counts = {kind: (part["count"], part["images"]) for kind, part in got["kinds"].items()}
    assert counts["duplicates"] == (9, 1)
    assert counts["holes"] == (182, 17)
    assert counts["overlaps"] == (1925, 36)
    assert got["caps"]["100"] == {"images": 9, "lost": 1311, "share": 0.3671}
