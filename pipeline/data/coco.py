"""The COCO dict: built from masks, and seen as instances, images by name, sizes, subsets.

A COCO dict here is what `annotations.json` and `test.json` hold: the keys `info`, `images`, `categories` and
`annotations`; ids from 1; boxes x, y, width, height in pixels; masks as compressed run lengths of the whole image.
Nothing in this module changes its argument.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from pipeline.competition import Competition
from pipeline.data.columns import Columns, Masks, values
from pipeline.data.table import nearest
from pipeline.errors import InputError
from pipeline.instances import Instances

Coco = dict[str, Any]
Images = dict[str, dict[str, Any]]  # COCO image entries by the contest's id


def build(competition: Competition, images: Images, masks: Masks) -> Coco:
    """The COCO dict; annotations sorted by image, box x, box y, counts, category: their source does not matter."""
    entries = list(images.values())
    rank = np.empty(len(entries), np.int64)
    rank[sorted(range(len(entries)), key=list(images).__getitem__)] = np.arange(len(entries))
    ordered = masks.select(masks.order(rank))
    ids = np.array([image["id"] for image in entries], np.int64)
    sizes = np.array([(image["height"], image["width"]) for image in entries], np.int64).reshape(-1, 2)
    return {
        "info": {"format": "maskline-coco", "version": 1, "competition": competition.key},
        "images": [dict(image) for image in entries],
        "categories": [{"id": number, "name": name} for number, name in enumerate(competition.categories, 1)],
        "annotations": Columns(
            np.arange(1, len(ordered) + 1),
            ids[ordered.image],
            ordered.category,
            sizes[ordered.image],
            ordered.counts,
            ordered.area,
            ordered.box,
        ),
    }


def by_name(coco: Coco) -> dict[str, dict[str, Any]]:
    """Image entries by the contest's id, in the order of the dict."""
    return {image["name"]: image for image in coco["images"]}


def sizes(coco: Coco) -> dict[str, tuple[int, int]]:
    """(height, width) in pixels by the contest's id, in the order of the dict."""
    return {image["name"]: (image["height"], image["width"]) for image in coco["images"]}


def categories(coco: Coco) -> tuple[str, ...]:
    """Category names; category id = label = position + 1."""
    return tuple(category["name"] for category in coco["categories"])


def grouped(coco: Coco) -> dict[int, list[dict[str, Any]]]:
    """Annotations by image id, in the order of the dict; an image without annotations has an empty list."""
    groups: dict[int, list[dict[str, Any]]] = {image["id"]: [] for image in coco["images"]}
    for annotation in coco["annotations"]:
        groups[annotation["image_id"]].append(annotation)
    return groups


def truth(coco: Coco) -> list[Instances]:
    """The annotations as hard instances: one per image in the order of the images, scores 1, label = category id."""
    annotations = grouped(coco)
    return [_instances(image, annotations[image["id"]]) for image in coco["images"]]


def subset(coco: Coco, names: Iterable[str]) -> Coco:
    """The dict restricted to the images with these names, in the dict's order; ids stay as they are.

    Raises InputError for a name that no image has.
    """
    wanted = set(names)
    _known(coco, wanted)
    images = [image for image in coco["images"] if image["name"] in wanted]
    ids = {image["id"] for image in images}
    annotations = [annotation for annotation in coco["annotations"] if annotation["image_id"] in ids]
    return {**coco, "images": images, "annotations": annotations}


def counts(coco: Coco) -> np.ndarray:
    """Instances of each category in each image: int64 (images, categories), rows in the order of the images."""
    rows = {image["id"]: row for row, image in enumerate(coco["images"])}
    columns = {category["id"]: column for column, category in enumerate(coco["categories"])}
    table = np.zeros((len(rows), len(columns)), np.int64)
    row = [rows[number] for number in values(coco["annotations"], "image_id").tolist()]
    column = [columns[number] for number in values(coco["annotations"], "category_id").tolist()]
    np.add.at(table, (np.asarray(row, np.intp), np.asarray(column, np.intp)), 1)
    return table


def _instances(image: Mapping[str, Any], annotations: list[dict[str, Any]]) -> Instances:
    return Instances(
        image_id=image["name"],
        size=(image["height"], image["width"]),
        scores=np.ones(len(annotations), np.float32),
        labels=np.array([annotation["category_id"] for annotation in annotations], np.int64),
        masks=tuple(annotation["segmentation"]["counts"] for annotation in annotations),
    )


def _known(coco: Coco, wanted: set[str]) -> None:
    names = [image["name"] for image in coco["images"]]
    unknown = sorted(wanted.difference(names))
    if unknown:
        more = f" (and {len(unknown) - 1} more)" if len(unknown) > 1 else ""
        raise InputError(f"image {unknown[0]!r}{more} is not among the {len(names)} images{nearest(unknown[0], names)}")
