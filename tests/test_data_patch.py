from __future__ import annotations

import copy
import csv
import dataclasses
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fixtures.contests import facts
from fixtures.dense import LAW, stacks
from hypothesis import given
from hypothesis import strategies as st

from pipeline.data import contest, patch
from pipeline.data.coco import Coco, build, subset
from pipeline.data.columns import joined, masks_of_runs
from pipeline.data.patch import Fix, Patch, apply, contents, difference, fingerprint, locate, read_patch
from pipeline.errors import ConfigError, InputError
from pipeline.masks.runs import from_dense, to_coco

FACTS = facts("sartorius")  # three categories
SIZES = {"a": (5, 6), "b": (4, 4), "c": (3, 7)}


def make(content: dict[str, list[tuple[str, np.ndarray]]]) -> Coco:
    """The COCO dict of images, each a list of (category, mask), in the sizes above."""
    images = {
        name: {"id": i, "name": name, "file_name": f"{name}.png", "height": h, "width": w, "group": name}
        for i, (name, (h, w)) in enumerate(SIZES.items(), 1)
        if name in content
    }
    images = {name: {**image, "id": i} for i, (name, image) in enumerate(images.items(), 1)}
    masks = [
        masks_of_runs(place, FACTS.categories.index(category) + 1, from_dense(mask[None]))
        for place, name in enumerate(images)
        for category, mask in content[name]
    ]
    return build(FACTS, images, joined(masks))


def box(name: str, y0: int, x0: int, y1: int, x1: int) -> np.ndarray:
    mask = np.zeros(SIZES[name], bool)
    mask[y0:y1, x0:x1] = True
    return mask


def counts(mask: np.ndarray) -> str:
    return to_coco(from_dense(mask[None]))[0]


def patched(old: Coco, *fixes: Fix) -> Coco:
    return apply(old, Patch("sartorius", "", fixes), FACTS)


@st.composite
def content(draw: st.DrawFn, names: tuple[str, ...] = tuple(SIZES)) -> dict[str, list[tuple[str, np.ndarray]]]:
    """Masks of every image, from a small supply, so that some are in several sets, and some twice in one."""
    category = st.sampled_from(FACTS.categories[:2])
    result = {}
    for name in names:
        masks = [mask for mask in draw(stacks(SIZES[name])) if mask.any()]
        supply = [*masks, box(name, 0, 0, 3, 3) ^ box(name, 1, 1, 2, 2), box(name, 0, 0, 3, 3), box(name, 1, 1, 2, 2)]
        result[name] = draw(st.lists(st.tuples(category, st.sampled_from(supply)), max_size=6))
    return result


# Laws ---------------------------------------------------------------------------------------------------------------


@LAW
@given(old=content(), data=st.data())
def test_the_difference_of_two_truths_makes_the_one_of_the_other(old: Any, data: Any) -> None:
    kept = data.draw(st.lists(st.sampled_from("abc"), unique=True, min_size=1).map(sorted))
    one, other = make(old), make(data.draw(content(tuple(kept))))
    before = copy.deepcopy(one)
    assert patched(one, *difference(one, other)) == other
    assert one == before


@LAW
@given(content())
def test_a_truth_does_not_differ_from_itself(masks: Any) -> None:
    assert difference(make(masks), make({name: own[::-1] for name, own in masks.items()})) == ()


@LAW
@given(old=content(), new=content())
def test_what_was_written_is_read_again(old: Any, new: Any, tmp_path_factory: pytest.TempPathFactory) -> None:
    file = tmp_path_factory.mktemp("patch") / "fixes.json"
    written = Patch("sartorius", 'by "hand"', difference(make(old), make(new)))
    file.write_text(written.to_text())
    assert read_patch(file, FACTS) == written


# Worked by hand -----------------------------------------------------------------------------------------------------

RING = box("a", 0, 0, 3, 3) ^ box("a", 1, 1, 2, 2)
OLD = make({"a": [("astro", RING), ("cort", box("a", 3, 4, 5, 6))], "b": [("cort", box("b", 0, 0, 1, 1))], "c": []})
NAME = fingerprint("astro", counts(RING))


@pytest.mark.parametrize(
    ("fix", "wanted"),
    [
        (Fix("drop", "a", NAME), [("cort", box("a", 3, 4, 5, 6))]),
        (Fix("fill", "a", NAME), [("astro", box("a", 0, 0, 3, 3)), ("cort", box("a", 3, 4, 5, 6))]),
        (
            Fix("replace", "a", NAME, None, counts(box("a", 0, 0, 2, 2))),
            [("astro", box("a", 0, 0, 2, 2)), ("cort", box("a", 3, 4, 5, 6))],
        ),
        (Fix("replace", "a", NAME, "shsy5y", counts(RING)), [("shsy5y", RING), ("cort", box("a", 3, 4, 5, 6))]),
        (
            Fix("add", "a", None, "cort", counts(RING)),
            [("astro", RING), ("cort", RING), ("cort", box("a", 3, 4, 5, 6))],
        ),
    ],
    ids=lambda value: value.action if isinstance(value, Fix) else "",
)
def test_each_action_changes_the_one_annotation_it_names(fix: Fix, wanted: list[tuple[str, np.ndarray]]) -> None:
    assert patched(OLD, fix) == make({"a": wanted, "b": [("cort", box("b", 0, 0, 1, 1))], "c": []})


def test_a_dropped_image_goes_with_its_annotations_and_the_others_are_numbered_anew() -> None:
    got = patched(OLD, Fix("drop_image", "a"))
    assert got == make({"b": [("cort", box("b", 0, 0, 1, 1))], "c": []})
    assert [image["id"] for image in got["images"]] == [1, 2]
    assert [(one["id"], one["image_id"]) for one in got["annotations"]] == [(1, 1)]


def test_of_annotations_that_are_the_same_one_is_dropped() -> None:
    twice = make({"a": [("astro", RING)] * 3})
    assert patched(twice, Fix("drop", "a", NAME)) == make({"a": [("astro", RING)] * 2})


def test_fixes_are_made_one_after_the_other() -> None:
    square = fingerprint("astro", counts(box("a", 0, 0, 3, 3)))
    got = patched(OLD, Fix("fill", "a", NAME), Fix("drop", "a", square))
    assert got == patched(OLD, Fix("drop", "a", NAME))


def test_a_name_depends_on_category_and_mask_alone() -> None:
    # printf "astro 5123" | sha256sum
    assert fingerprint("astro", "5123") == "fd6914cc6361"
    assert fingerprint("astro", "512") != fingerprint("astro", "5123") != fingerprint("cort", "5123")


def test_a_difference_prefers_to_fill_and_pairs_what_overlaps_most() -> None:
    new = make({"a": [("astro", box("a", 0, 0, 3, 3)), ("cort", box("a", 3, 4, 5, 5))], "b": [], "c": []})
    assert difference(OLD, new) == (
        Fix("fill", "a", NAME),
        Fix("replace", "a", fingerprint("cort", counts(box("a", 3, 4, 5, 6))), None, counts(box("a", 3, 4, 5, 5))),
        Fix("drop", "b", fingerprint("cort", counts(box("b", 0, 0, 1, 1)))),
    )


def test_images_of_the_contest_that_are_not_there_are_left_out_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        got = patched(OLD, Fix("drop", "a", NAME), Fix("drop_image", "z"), Fix("drop", "y", "0" * 12))
    assert got == patched(OLD, Fix("drop", "a", NAME))
    assert caplog.messages[:2] == [
        "patch: fixes made: drop 1",
        "patch: left out 2 fixes of images that are not there, the first: drop_image of image z",
    ]


# Wrong input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fixes", "message"),
    [
        (
            [Fix("drop", "a", "012345678901")],
            "drop of annotation 012345678901 in image a finds no such annotation among 2. Was it made for other files?",
        ),
        ([Fix("drop", "a", NAME)] * 2, f"drop of annotation {NAME} in image a finds no such annotation among 1."),
        (
            [Fix("drop_image", "a"), Fix("drop", "a", NAME)],
            f"drop of annotation {NAME} in image a finds no such image, an earlier fix drops it. Correct the patch.",
        ),
        ([Fix("drop_image", "z")], "drop_image of image z and the others find none of their images."),
        (
            [Fix("fill", "a", fingerprint("cort", counts(box("a", 3, 4, 5, 6))))],
            "in image a changes nothing. Remove it from the patch.",
        ),
        ([Fix("replace", "a", NAME, None, counts(RING))], "changes nothing."),
        (
            [Fix("add", "a", None, "cart", "54")],
            "add of image a names the category 'cart', wanted astro, cort, shsy5y.",
        ),
        ([Fix("add", "a", None, "cort", "54")], "add of image a: mask 0: its RLE covers 9 pixels, the canvas (5, 6)"),
        ([Fix("add", "a", None, "cort", "n0")], "add of image a: counts of no pixel, or not as COCO writes them."),
    ],
)
def test_a_fix_that_finds_nothing_to_fix_or_makes_no_mask_is_refused(fixes: list[Fix], message: str) -> None:
    with pytest.raises(InputError) as error:
        patched(OLD, *fixes)
    assert str(error.value).startswith("patch: ")
    assert message in str(error.value)


HEAD = {"format": "maskline-patch", "version": 1, "competition": "sartorius", "source": "", "fixes": []}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "{file}: is no JSON (Expecting property name"),
        ("[]", "{file}: wanted maskline-patch of version 1 with a list of fixes, got None None."),
        ({"version": 2}, "{file}: wanted maskline-patch of version 1 with a list of fixes, got maskline-patch 2."),
        ({"fixes": {}}, "{file}: wanted maskline-patch of version 1 with a list"),
        ({"competition": "dsb2018"}, "{file}: is a patch of the contest dsb2018, not of sartorius."),
        ({"fixes": [{}]}, "{file} fix 1: the action is None, wanted one of drop_image, drop, fill, replace, add."),
        ({"fixes": ["drop"]}, "{file} fix 1: the action is None"),
        (
            {"fixes": [{"action": "drop_image", "image": "a"}, {"action": "drop", "image": "a"}]},
            "{file} fix 2: drop wants texts for action, image, annotation, got {{'action': 'drop', 'image': 'a'}}.",
        ),
        (
            {"fixes": [{"action": "drop_image", "image": "a", "annotation": "b"}]},
            "{file} fix 1: drop_image wants texts for action, image, got",
        ),
        ({"fixes": [{"action": "drop_image", "image": 7}]}, "{file} fix 1: drop_image wants texts for action, image"),
    ],
)
def test_a_file_that_is_no_patch_is_refused(tmp_path: Path, content: Any, message: str) -> None:
    file = tmp_path / "fixes.json"
    file.write_text(content if isinstance(content, str) else json.dumps(HEAD | content))
    with pytest.raises(InputError) as error:
        read_patch(file, FACTS)
    assert str(error.value).startswith(message.format(file=file))


def test_a_patch_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no\.json: there is no such file\. Give the path of a patch"):
        read_patch(locate(str(tmp_path / "no.json")), FACTS)
    with pytest.raises(ConfigError) as error:
        locate("dsb2017")
    assert str(error.value) == (
        "patch is 'dsb2017', wanted dsb2018, sartorius, or the path of a .json file; nearest is 'dsb2018'"
    )


def test_a_difference_knows_no_new_images_and_no_other_sizes() -> None:
    with pytest.raises(ValueError, match="image a: is new"):
        difference(make({"b": []}), make({"a": [], "b": []}))
    other = {**OLD, "images": [{**image, "width": 1} for image in OLD["images"]]}
    with pytest.raises(ValueError, match="image a: is new, or has another size"):
        difference(OLD, other)


# Those that come along ----------------------------------------------------------------------------------------------


def test_the_patch_of_dsb2018_is_the_difference_of_its_two_tables(real_data: Path) -> None:
    root, competition = real_data / "dsb2018", facts("dsb2018")
    fixed = dataclasses.replace(competition, train_annotations="stage1_train_labels_fixed.csv")
    with open(root / fixed.train_annotations, newline="") as file:
        names = {row["ImageId"] for row in csv.DictReader(file)}
    old, new = contest.read_train(root, competition, "csv"), contest.read_train(root, fixed, "csv")
    own = read_patch(locate("dsb2018"), competition)
    assert dataclasses.replace(own, fixes=difference(old, subset(new, names))).to_text() == locate("dsb2018").read_text(
        encoding="utf-8"
    )
    assert Counter(fix.action for fix in own.fixes)["drop_image"] == 6
    assert len({fix.image for fix in own.fixes if fix.action != "drop_image"}) == 109
    got = apply(old, own, competition)
    assert (len(got["images"]), len(got["annotations"])) == (664, 28_986)
    assert {k: sorted(v) for k, v in contents(got).items()} == {
        name: sorted(masks) for name, masks in contents(new).items() if name in names
    }


def test_the_patch_of_sartorius_drops_the_rows_that_repeat_another(real_data: Path) -> None:
    file, own = real_data / "sartorius" / "train_all_annotations.csv", read_patch(locate("sartorius"), FACTS)
    with open(file, newline="") as source:
        names = sorted({row["id"] for row in csv.DictReader(source)})
    sizes: dict[str, Any] = {"height": 520, "width": 704}
    images = [{"id": i, "name": n, "file_name": n, "group": n, **sizes} for i, n in enumerate(names, 1)]
    old = contest.read_truth(file, FACTS, {"images": images})
    new = apply(old, own, FACTS)
    assert [len(own.fixes), len({fix.image for fix in own.fixes})] == [19, 7]
    assert {fix.action for fix in own.fixes} == {"drop"}
    assert len(new["annotations"]) == len(old["annotations"]) - 19
    assert all(len(masks) == len(set(masks)) for masks in contents(new).values())


def test_the_patches_that_come_along_are_small_lawful_and_named_after_their_contest() -> None:
    for file in patch.FOLDER.iterdir():
        assert file.stat().st_size < 1_000_000
        assert read_patch(file, facts(file.stem)).to_text() == file.read_text(encoding="utf-8")
