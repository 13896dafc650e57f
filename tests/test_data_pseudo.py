from __future__ import annotations

import copy

import numpy as np
import pytest
from fixtures.dense import disks

from pipeline.data import coco as annotations
from pipeline.data.annotations import gather
from pipeline.data.pseudo import Pseudo
from pipeline.errors import InputError
from pipeline.instances import Instances
from pipeline.masks.runs import area, from_dense, to_coco

SIZE = (40, 50)


def image(number: int, name: str) -> dict[str, object]:
    return {"id": number, "name": name, "file_name": f"{name}.png", "height": SIZE[0], "width": SIZE[1]}


def found(name: str, scores: list[float], seed: int = 0) -> Instances:
    counts = to_coco(from_dense(disks(len(scores), SIZE, seed)))
    return Instances(name, SIZE, np.array(scores, np.float32), np.arange(1, len(scores) + 1), tuple(counts))


COCO = {
    "info": {},
    "categories": [{"id": i, "name": str(i)} for i in (1, 2, 3)],
    "images": [image(1, "a"), image(2, "b")],
    "annotations": [
        {
            "id": 1, "image_id": 2, "category_id": 1, "iscrowd": 0, "area": 1, "bbox": [0, 0, 1, 1],
            "segmentation": {"size": list(SIZE), "counts": to_coco(from_dense(disks(1, SIZE, 5)))[0]},
        }
    ],
}  # fmt: skip
TEST = {"images": [image(1, "t"), image(2, "u"), image(3, "v")]}
FOUND = [found("t", [0.9, 0.3, 0.8]), found("u", [0.5]), found("v", [], 1)]


def test_what_is_sure_becomes_truth_and_an_image_without_it_is_left_out() -> None:
    before = copy.deepcopy((COCO, TEST))
    coco, names = Pseudo("run", 0.8).added(COCO, TEST, FOUND)
    assert names == ["t"]
    assert [one["name"] for one in coco["images"]] == ["a", "b", "t"]
    assert [one["id"] for one in coco["annotations"]] == [1, 2, 3]
    assert before == (COCO, TEST)
    (truth,) = annotations.truth(annotations.subset(coco, names))
    assert truth.labels.tolist() == [1, 3]
    assert truth.rles() == [FOUND[0].rles()[i] for i in (0, 2)]
    gathered = gather(coco, ["b", "t"])
    assert gathered.areas[gathered.of(1)].tolist() == area(truth.runs).tolist()
    assert [row["area"] for row in coco["annotations"][1:]] == area(truth.runs).tolist()


def test_a_test_image_that_is_a_training_image_is_refused() -> None:
    with pytest.raises(InputError, match="pseudo: b is a training image and a test image"):
        Pseudo("run", 0.5).added(COCO, {"images": [image(1, "b")]}, [found("b", [0.9])])


def test_a_floor_out_of_range_is_refused() -> None:
    with pytest.raises(ValueError, match="score: wanted 0 to 1, got 80"):
        Pseudo("run", 80)
