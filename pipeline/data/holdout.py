"""Training on a list of the images, and testing on another list of which the truth is known.

For splits that others have published, and for an estimate that no choice of the training has seen. Lists that come
along: stardist_train and stardist_test, the images of DSB2018 on which the StarDist paper (Schmidt et al. 2018,
arXiv:1806.03535) trains and tests.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable
from pathlib import Path

from pipeline.data import coco as views
from pipeline.data.coco import Coco
from pipeline.data.leaks import Pair
from pipeline.data.table import nearest
from pipeline.errors import ConfigError, InputError

FOLDER = Path(__file__).with_name("splits")


def locate(name: str) -> Path:
    """The file of a list that comes along, by its name, or of one given by its path (*.txt)."""
    own = sorted(path.stem for path in FOLDER.glob("*.txt"))
    if name.endswith(".txt"):
        return Path(name)
    if name not in own:
        wanted = f"{', '.join(own)}, or the path of a .txt file"
        raise ConfigError(f"training_ids or holdout_ids is {name!r}, wanted {wanted}{nearest(name, own)}")
    return FOLDER / f"{name}.txt"


def read_ids(path: Path) -> list[str]:
    """Image ids of a text file with one on each line; blank lines say nothing.

    Raises InputError for a file that cannot be read, one without ids, and for an id that comes twice, with its line.
    """
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read as a list of image ids, one on each line: {error}") from None
    ids = [line for line in lines if line]
    if not ids:
        raise InputError(f"{path} lists no image id")
    twice = [name for name, count in Counter(ids).items() if count > 1]
    if twice:
        number = len(lines) - lines[::-1].index(twice[0])
        raise InputError(f"{path} line {number}: image {twice[0]} is listed twice; remove the line")
    return ids


def divide(coco: Coco, training: Collection[str] | None, held_out: Collection[str]) -> tuple[Coco, Coco]:
    """The images to train on, and those held out, both with their truth.

    training: their names, None for all that are not held out. Raises ConfigError where an image is in both lists or
    none is left to train on, InputError for a name that no image has.
    """
    both = sorted(set(held_out) & set(training or ()))
    if both:
        raise ConfigError(f"holdout_ids: image {both[0]} (of {len(both)}) is among training_ids as well")
    held = views.subset(coco, held_out)
    rest = views.by_name(coco).keys() - set(held_out) if training is None else training
    if not rest:
        raise ConfigError("holdout_ids: all images are held out, none is left to train on")
    return views.subset(coco, rest), held


def across(pairs: Iterable[Pair], training: Collection[str]) -> tuple[list[Pair], list[Pair]]:
    """Pairs of images that are both to be trained on, and pairs of which one is and the other is held out."""
    inside, crossing = [], []
    for pair in pairs:
        count = (pair.first in training) + (pair.second in training)
        if count:
            (inside if count == 2 else crossing).append(pair)
    return inside, crossing
