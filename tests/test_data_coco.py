from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
from fixtures.contests import draw, facts

from pipeline.data import coco as views
from pipeline.data import contest
from pipeline.data.coco import Coco
from pipeline.errors import InputError


@pytest.fixture
def coco(tmp_path: Path) -> Coco:
    """a1 (6, 8) with a cort and an astro, b2 (5, 7) with a shsy5y, c3 (4, 4) with nothing."""
    return contest.read_train(draw(tmp_path, "sartorius"), facts("sartorius"), "csv")


def test_truth_holds_every_annotation_once_and_empty_images_too(coco: Coco) -> None:
    truth = views.truth(coco)
    assert [(one.image_id, one.size, len(one)) for one in truth] == [
        ("a1", (6, 8), 2),
        ("b2", (5, 7), 1),
        ("c3", (4, 4), 0),
    ]
    assert [mask for one in truth for mask in one.masks] == [a["segmentation"]["counts"] for a in coco["annotations"]]
    assert truth[0].labels.tolist() == [2, 1]
    assert truth[0].scores.tolist() == [1, 1]


def test_truth_does_not_depend_on_the_order_of_annotations(coco: Coco) -> None:
    mixed = {**coco, "annotations": [coco["annotations"][i] for i in (2, 0, 1)]}
    for one, other in zip(views.truth(coco), views.truth(mixed), strict=True):
        assert (one.image_id, one.masks, one.labels.tolist()) == (other.image_id, other.masks, other.labels.tolist())


def test_images_and_sizes_are_found_by_the_contests_id(coco: Coco) -> None:
    assert views.sizes(coco) == {"a1": (6, 8), "b2": (5, 7), "c3": (4, 4)}
    assert views.by_name(coco)["b2"]["file_name"] == "train/b2.png"
    assert views.categories(coco) == ("astro", "cort", "shsy5y")


def test_counts_are_instances_by_image_and_category(coco: Coco) -> None:
    assert views.counts(coco).tolist() == [[1, 1, 0], [0, 0, 1], [0, 0, 0]]
    assert views.counts(views.subset(coco, [])).shape == (0, 3)
    assert views.counts(coco).dtype == np.int64


def test_a_subset_and_the_rest_make_the_whole_and_ids_stay(coco: Coco) -> None:
    before = copy.deepcopy(coco)
    part, rest = views.subset(coco, ["c3", "a1"]), views.subset(coco, {"b2"})
    assert [image["name"] for image in part["images"]] == ["a1", "c3"]
    for key in ("images", "annotations"):
        assert sorted(part[key] + rest[key], key=lambda entry: entry["id"]) == coco[key]
    assert part["categories"] == coco["categories"]
    assert coco == before


def test_a_subset_of_all_images_is_the_whole(coco: Coco) -> None:
    assert views.subset(coco, views.by_name(coco)) == coco


def test_a_subset_with_an_unknown_image_is_refused(coco: Coco) -> None:
    with pytest.raises(InputError) as error:
        views.subset(coco, ["b21", "zz", "a1"])
    assert str(error.value) == "image 'b21' (and 1 more) is not among the 3 images; nearest is 'b2'"
