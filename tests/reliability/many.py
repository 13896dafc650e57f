"""What a folder of very many images costs, in each part of the line that goes through all of them, models apart."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

from pipeline import compose
from pipeline.competition import Competition
from pipeline.data import contest, folds, leaks, looks
from pipeline.files import join_detections, read_coco, write_coco, write_detections
from pipeline.instances import Detections
from pipeline.record import folder_state

_SHARE = 10  # every so many images one is a training image with pixels of its own, which are decoded
_PART = 16  # images to a file, as `predict` has it


def measured(root: Path, count: int) -> dict[str, float]:
    """Seconds of processor time by what was done of so many images below `root`, which is made for them."""
    competition = _contest(root, count)
    found: dict[str, float] = {}

    def timed(name: str, work: Callable[[], Any]) -> Any:
        begin = time.process_time()
        result = work()
        found[name] = time.process_time() - begin
        return result

    pictures = timed("listing", lambda: contest.list_pictures(root, competition, "csv"))
    assert len(pictures) == count + count // _SHARE
    timed("states", lambda: folder_state(pictures))
    test = timed("headers", lambda: contest.read_test(root, competition))
    train = timed("truth", lambda: contest.read_train(root, competition, "csv"))
    seen = timed("looks", lambda: looks.read_looks(root, train["images"], quiet=True))
    timed("leaks", lambda: leaks.find([image["name"] for image in train["images"]], seen))
    timed("folds", lambda: folds.assign(train, 5, 0))
    timed("writing", lambda: write_coco(root / "test.json", {**test, "annotations": []}))
    timed("reading", lambda: read_coco(root / "test.json"))
    names = [image["name"] for image in test["images"]]
    parts = timed("parts", lambda: _parts(root / "parts", names))
    timed("joining", lambda: join_detections(root / "all.npz", parts))
    return found


def _contest(root: Path, count: int) -> Competition:
    """Test images that are links to one picture, and some training images of noise without instances."""
    facts = yaml.safe_load((compose.CONF / "competition" / "toy.yaml").read_text(encoding="utf-8"))
    del facts["_target_"]
    for name in ("train", "test"):
        (root / name).mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number in range(count // _SHARE):
        Image.fromarray(rng.integers(0, 255, (16, 16), np.uint8)).save(root / f"train/a{number:06d}.png")
    first = root / "test" / "b000000.png"
    Image.new("L", (16, 16), 90).save(first)
    for number in range(1, count):
        os.link(first, root / f"test/b{number:06d}.png")
    (root / "train.csv").write_text("id,annotation,width,height,cell_type\na000000,1 2,16,16,round\n")
    rows = "".join(f"b{number:06d},\n" for number in range(count))
    (root / "sample_submission.csv").write_text(f"id,predicted\n{rows}")
    return Competition(**{name: tuple(value) if isinstance(value, list) else value for name, value in facts.items()})


def _parts(folder: Path, names: list[str]) -> list[Path]:
    """Files of no detections, as `predict` leaves them while it goes on."""
    result = []
    for start in range(0, len(names), _PART):
        result.append(folder / f"{start // _PART:06d}.npz")
        write_detections(result[-1], [Detections.empty(name, (16, 16), 28) for name in names[start : start + _PART]])
    return result
