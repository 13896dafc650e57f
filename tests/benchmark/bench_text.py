"""Contest RLE text to COCO RLE, and a contest's CSV to COCO JSON, against a decode loop over the rows."""

from __future__ import annotations

import dataclasses
import itertools
import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from harness import Row
from PIL import Image
from pycocotools import mask as coco_mask

from pipeline.competition import Competition
from pipeline.data.coco import build
from pipeline.data.columns import joined
from pipeline.data.contest import read_truth
from pipeline.files import write_coco
from pipeline.masks.text import CocoColumns, Order, from_text, text_to_coco, to_text

SIZE = (520, 704)
ROWS = 73_000  # as the training CSV of Sartorius has
FILE_ROWS = 60_500  # make a CSV of 18 MB
IMAGES = 606
CONF = Path(__file__).resolve().parents[2] / "conf" / "competition" / "sartorius.yaml"
Encoded = tuple[list[bytes], list[int], list[Any]]


def rows(data: Path) -> Iterator[Row]:
    """Sartorius: its real annotations, repeated to the size of the contest; DSB2018: all of its annotations."""
    table = _repeated(data / "sartorius" / "train_all_annotations.csv", ROWS)
    texts = table["annotation"].tolist()
    columns = to_text(from_text(texts, SIZE, "row"), "column")
    loop = "loop that decodes each row + pycocotools encode, area, toBbox"
    yield _texts(texts, "row", loop, decode_loop, 60, (9, 1), 100)
    yield _texts(columns, "column", loop, decode_loop, 55, (9, 1), 100)
    yield _texts(columns, "column", "pycocotools frPyObjects, area, toBbox for each row", object_loop, 7, (9, 3), None)
    yield _dsb2018(data / "dsb2018")
    table = table[:FILE_ROWS]
    with tempfile.TemporaryDirectory() as folder:
        yield _file(Path(folder), table, "row", 50)
        yield _file(Path(folder), table.assign(annotation=columns[:FILE_ROWS]), "column", 35)


def _repeated(path: Path, count: int) -> pd.DataFrame:
    """The first `count` rows of the table written again and again, under the names of as many images as the contest."""
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    table = pd.concat([table] * -(-count // len(table)), ignore_index=True)[:count]
    return table.assign(id=[f"{row * IMAGES // count:012x}" for row in range(count)])


# Texts --------------------------------------------------------------------------------------------------------------


def decode(text: str, size: tuple[int, int], order: Order) -> np.ndarray:
    """The mask of a text as contest notebooks decode it: uint8 (H, W)."""
    values = np.array(text.split(), dtype=int)
    starts, lengths = values[0::2] - 1, values[1::2]
    flat = np.zeros(size[0] * size[1], dtype=np.uint8)
    for low, high in zip(starts, starts + lengths, strict=True):
        flat[low:high] = 1
    return flat.reshape(size) if order == "row" else flat.reshape(size[1], size[0]).T


def decode_loop(texts: Sequence[str], size: tuple[int, int], order: Order) -> Encoded:
    """Counts, areas and boxes, row by row through a dense mask."""
    return _measured(coco_mask.encode(np.asfortranarray(decode(text, size, order))) for text in texts)


def object_loop(texts: Sequence[str], size: tuple[int, int], order: Order) -> Encoded:
    """Counts, areas and boxes, row by row from the uncompressed counts of a column-major text."""
    assert order == "column"

    def encoded(text: str) -> dict[str, Any]:
        values = np.array(text.split(), dtype=int)
        starts = values[0::2] - 1
        edges = np.stack([starts, starts + values[1::2]], axis=1).ravel()
        counts = np.diff(edges, prepend=0, append=size[0] * size[1]).tolist()
        counts = counts if counts[-1] else counts[:-1]
        return coco_mask.frPyObjects({"size": list(size), "counts": counts}, *size)  # type: ignore[no-any-return]

    return _measured(map(encoded, texts))


def _measured(rles: Iterator[dict[str, Any]]) -> Encoded:
    counts, areas, boxes = [], [], []
    for rle in rles:
        counts.append(rle["counts"])
        areas.append(int(coco_mask.area(rle)))
        boxes.append(coco_mask.toBbox(rle).tolist())
    return counts, areas, boxes


def same_masks(ours: CocoColumns, theirs: Encoded) -> None:
    """Counts byte for byte, areas, and boxes (ours x0 y0 x1 y1, theirs x y w h)."""
    assert [text.encode() for text in ours.counts] == theirs[0]
    assert ours.area.tolist() == theirs[1]
    extent = np.concatenate([ours.boxes[:, :2], ours.boxes[:, 2:] - ours.boxes[:, :2]], axis=1)
    np.testing.assert_array_equal(extent, np.array(theirs[2]).reshape(-1, 4))


def _texts(
    texts: Sequence[str],
    order: Order,
    peer: str,
    theirs: Callable[[Sequence[str], tuple[int, int], Order], Encoded],
    goal: float,
    repeats: tuple[int, int],
    memory_goal: float | None,
) -> Row:
    return Row(
        work=f"{len(texts):,} rows of {order}-major RLE text, 520×704 → COCO RLE, area, box",
        peer=peer,
        ours=lambda: text_to_coco(texts, SIZE, order),
        theirs=lambda: theirs(texts, SIZE, order),
        equal=same_masks,
        goal=goal,
        repeats=repeats,
        memory_goal=memory_goal,
    )


def _dsb2018(folder: Path) -> Row:
    """Every row of the contest, one call for each image size in ours."""
    table = pd.read_csv(folder / "stage1_train_labels.csv")
    sizes = {}
    for name in table["ImageId"].unique():
        with Image.open(folder / "stage1_train" / name / "images" / f"{name}.png") as picture:
            sizes[name] = (picture.height, picture.width)
    groups = [
        (size, own["EncodedPixels"].tolist()) for size, own in table.groupby(table["ImageId"].map(sizes), sort=True)
    ]

    def equal(ours: list[CocoColumns], theirs: list[Encoded]) -> None:
        for one, other in zip(ours, theirs, strict=True):
            same_masks(one, other)

    return Row(
        work=f"{len(table):,} rows of DSB2018, column-major, {len(groups)} image sizes → COCO RLE, area, box",
        peer="pycocotools frPyObjects, area, toBbox for each row",
        ours=lambda: [text_to_coco(texts, size, "column") for size, texts in groups],
        theirs=lambda: [object_loop(texts, size, "column") for size, texts in groups],
        equal=equal,
        goal=7,
    )


# Files --------------------------------------------------------------------------------------------------------------


def _file(folder: Path, table: pd.DataFrame, order: Order, goal: float) -> Row:
    """`train.csv` in, `annotations.json` on disk; both sides know the images and their sizes."""
    source, ours, theirs = folder / f"{order}.csv", folder / f"{order}-ours.json", folder / f"{order}-theirs.json"
    table.to_csv(source, index=False, lineterminator="\n")
    values = {key: value for key, value in yaml.safe_load(CONF.read_text()).items() if key != "_target_"}
    values = {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
    competition = dataclasses.replace(Competition(**values), order=order)
    entries = [
        {"id": i, "name": n, "file_name": f"train/{n}.png", "height": SIZE[0], "width": SIZE[1], "group": n}
        for i, n in enumerate(sorted(table["id"].unique()), 1)
    ]
    images = build(competition, {entry["name"]: entry for entry in entries}, joined([]))

    def convert() -> Path:
        write_coco(ours, read_truth(source, competition, images))
        return ours

    return Row(
        work=f"train.csv ({source.stat().st_size / 1e6:.0f} MB, {order}-major) → annotations.json",
        peer="pandas iterrows, loop that decodes each row + pycocotools encode, area, toBbox, json.dump",
        ours=convert,
        theirs=lambda: convert_loop(source, theirs, competition, entries),
        equal=same_files,
        goal=goal,
        repeats=(9, 1),
    )


def convert_loop(source: Path, target: Path, competition: Competition, images: Sequence[dict[str, Any]]) -> Path:
    """The conversion as contest notebooks write it."""
    table = pd.read_csv(source)
    numbers = {image["name"]: image["id"] for image in images}
    categories = {name: number for number, name in enumerate(competition.categories, 1)}
    annotations = []
    for number, (_, row) in enumerate(table.iterrows(), 1):
        mask = decode(row.annotation, (row.height, row.width), competition.order)
        rle = coco_mask.encode(np.asfortranarray(mask))
        entry = {
            "id": number,
            "image_id": numbers[row.id],
            "category_id": categories[row.cell_type],
            "segmentation": {"size": rle["size"], "counts": rle["counts"].decode()},
            "area": int(coco_mask.area(rle)),
            "bbox": coco_mask.toBbox(rle).tolist(),
            "iscrowd": 0,
        }
        annotations.append(entry)
    names = [{"id": number, "name": name} for name, number in categories.items()]
    with open(target, "w") as file:
        json.dump({"images": list(images), "categories": names, "annotations": annotations}, file)
    return target


def same_files(ours: Path, theirs: Path) -> None:
    """The same images, categories and annotations, apart from the numbering of annotations."""
    one, other = (json.loads(path.read_text()) for path in (ours, theirs))
    for coco in (one, other):
        for annotation in coco["annotations"]:
            del annotation["id"]
        coco["annotations"].sort(key=lambda a: (a["image_id"], a["segmentation"]["counts"], a["category_id"]))
    assert one["images"] == other["images"]
    assert one["categories"] == other["categories"]
    for a, b in itertools.zip_longest(one["annotations"], other["annotations"]):
        assert a == b, (a, b)
