from __future__ import annotations

import copy
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fixtures.contests import facts
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.data import contest, folds
from pipeline.data.coco import Coco, counts
from pipeline.errors import ConfigError, InputError

SIZES = ((256, 256), (520, 704), (256, 320))


def make(images: list[tuple[int, list[int]]], groups: list[str] | None = None) -> Coco:
    """A COCO dict of images (size, categories of the instances); folds look at nothing else."""
    entries: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for i, (size, labels) in enumerate(images):
        name = f"image{i:03d}"
        height, width = SIZES[size]
        group = groups[i] if groups else name
        entries.append({"id": i + 1, "name": name, "height": height, "width": width, "group": group})
        annotations += [
            {"id": len(annotations) + k, "image_id": i + 1, "category_id": c} for k, c in enumerate(labels, 1)
        ]
    categories = [{"id": 1, "name": "round"}, {"id": 2, "name": "spindle"}]
    return {"images": entries, "annotations": annotations, "categories": categories}


image = st.tuples(st.integers(0, 2), st.lists(st.integers(1, 2), max_size=30))
datasets = st.lists(image, min_size=6, max_size=40)


def by_name(coco: Coco, assigned: np.ndarray) -> dict[str, int]:
    return {entry["name"]: int(fold) for entry, fold in zip(coco["images"], assigned, strict=True)}


@given(images=datasets, n_folds=st.integers(2, 6), seed=st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_every_image_is_in_one_fold_and_folds_have_equal_sizes(images: Any, n_folds: int, seed: int) -> None:
    assigned = folds.assign(make(images), n_folds, seed)
    assert assigned.dtype == np.int64
    assert assigned.shape == (len(images),)
    sizes = np.bincount(assigned, minlength=n_folds)
    assert len(sizes) == n_folds
    assert sizes.max() - sizes.min() <= 1


@given(images=datasets, n_folds=st.integers(2, 6), seed=st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_instances_of_two_folds_differ_by_at_most_the_most_crowded_image(images: Any, n_folds: int, seed: int) -> None:
    coco = make(images)
    per_image = counts(coco).sum(1)
    per_fold = np.bincount(folds.assign(coco, n_folds, seed), per_image, n_folds)
    assert per_fold.max() - per_fold.min() <= per_image.max()


@given(images=datasets, n_folds=st.integers(2, 6), seed=st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_images_with_the_same_categories_are_spread_evenly(images: Any, n_folds: int, seed: int) -> None:
    coco = make([(size, labels[:1]) for size, labels in images])
    assigned = folds.assign(coco, n_folds, seed)
    table = counts(coco)
    for column in range(2):
        spread = np.bincount(assigned, table[:, column], n_folds)
        assert spread.max() - spread.min() <= 2


@given(images=datasets, seed=st.integers(0, 99), data=st.data())
@settings(max_examples=60, deadline=None)
def test_groups_are_never_split_and_sizes_differ_by_at_most_the_largest(images: Any, seed: int, data: Any) -> None:
    groups = data.draw(st.lists(st.sampled_from("abcdefgh"), min_size=len(images), max_size=len(images)))
    n_folds = min(3, len(set(groups)))
    if n_folds < 2:
        return
    assigned = folds.assign(make(images, groups), n_folds, seed)
    assert len(set(zip(groups, assigned.tolist(), strict=True))) == len(set(groups))
    sizes = np.bincount(assigned, minlength=n_folds)
    assert sizes.min() > 0
    assert sizes.max() - sizes.min() <= max(Counter(groups).values())


@given(images=datasets, seed=st.integers(0, 99), data=st.data())
@settings(max_examples=30, deadline=None)
def test_the_fold_of_an_image_does_not_depend_on_the_order_of_the_images(images: Any, seed: int, data: Any) -> None:
    groups = data.draw(st.lists(st.sampled_from("abcdefghijkl"), min_size=len(images), max_size=len(images)))
    coco = make(images, groups)
    mixed = {**coco, "images": data.draw(st.permutations(coco["images"])), "annotations": coco["annotations"][::-1]}
    n_folds = 2
    if len(set(groups)) < n_folds:
        return
    first, again = folds.assign(coco, n_folds, seed), folds.assign(mixed, n_folds, seed)
    assert by_name(coco, first) == by_name(mixed, again)


def test_the_seed_alone_decides_and_the_argument_stays_as_it_was() -> None:
    coco = make([(i % 3, [1] * (i % 7) + [2] * (i % 4)) for i in range(40)])
    before = copy.deepcopy(coco)
    first, same, other = (folds.assign(coco, 4, seed).tolist() for seed in (0, 0, 1))
    assert first == same
    assert first != other
    assert coco == before


def test_two_folds_of_four_images_worked_out_by_hand() -> None:
    # Two strata of two images each: each stratum gives one image to each fold; 9 + 1 against 5 + 4 would be
    # 10 against 9, 9 + 4 against 5 + 1 would be 13 against 6: the rich image of the second stratum goes to the poor.
    coco = make([(0, [1] * 9), (0, [1] * 5), (1, [2] * 4), (1, [2] * 1)])
    for seed in range(5):
        assigned = folds.assign(coco, 2, seed)
        assert assigned[0] == assigned[3] != assigned[1] == assigned[2]


@pytest.mark.parametrize(
    ("images", "groups", "message"),
    [
        (3, None, "4 folds were asked for, but there are only 3 images. Set n_folds=3 or fewer."),
        (1, None, "4 folds were asked for, but there are only 1 image. Add training images."),
        (
            6,
            ["a", "a", "a", "b", "b", "b"],
            "4 folds were asked for, but there are only 6 images in 2 groups that must stay together. "
            "Set n_folds=2 or fewer (leaks=false leaves the groups out that were found from the pixels).",
        ),
    ],
)
def test_fewer_images_or_groups_than_folds_are_refused(images: int, groups: list[str] | None, message: str) -> None:
    with pytest.raises(InputError) as error:
        folds.assign(make([(0, [1])] * images, groups), 4, 0)
    assert str(error.value) == message


@pytest.mark.parametrize("n_folds", [1, 0, -2])
def test_fewer_than_two_folds_are_refused(n_folds: int) -> None:
    with pytest.raises(ConfigError, match=f"^n_folds is {n_folds}, wanted 2 or more$"):
        folds.assign(make([(0, [1])] * 4), n_folds, 0)


def test_the_folds_of_a_real_contest_look_alike(real_data: Path) -> None:
    coco = contest.read_train(real_data / "dsb2018", facts("dsb2018"), "csv")
    per_image = counts(coco).sum(1)
    sizes = np.array([image["height"] for image in coco["images"]])
    assigned = folds.assign(coco, 5, 0)
    assert np.bincount(assigned).tolist() == [134] * 5
    per_fold = np.bincount(assigned, per_image)
    assert per_fold.max() / per_fold.min() < 1.02
    for height in (256, 520, 360, 1024):
        spread = np.bincount(assigned, sizes == height, 5)
        assert spread.max() - spread.min() <= 4
