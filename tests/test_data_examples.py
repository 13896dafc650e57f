from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from fixtures.detectors import ellipses, noise
from numpy.typing import NDArray

from pipeline.data.annotations import gather
from pipeline.data.augment import Augment
from pipeline.data.dataset import TrainingSamples
from pipeline.data.examples import KINDS, alone, of_kinds
from pipeline.masks.runs import from_dense, to_coco
from pipeline.plots.gallery import gallery


@pytest.fixture(scope="module")
def samples() -> TrainingSamples:
    """One picture of 90×100 with eight instances."""
    counts = to_coco(from_dense(ellipses((90, 100), 8)))
    entry = {"id": 1, "name": "a", "file_name": "a.png", "height": 90, "width": 100}
    rows = [{"image_id": 1, "category_id": 1, "segmentation": {"size": [90, 100], "counts": one}} for one in counts]
    image: NDArray[np.uint8] = noise(90, 100).permute(1, 2, 0).numpy()
    truth = gather({"images": [entry], "annotations": rows}, ["a"])
    return TrainingSamples(Path("nowhere"), truth, alone("as it is", 64), 0, lambda _: image)


def test_there_is_an_example_of_every_augmentation(samples: TrainingSamples) -> None:
    shown = of_kinds(samples, 0, 64)
    assert [title for title, _, _ in shown] == list(KINDS)
    for _, image, masks in shown:
        assert (image.dtype, image.shape, masks.size) == (np.uint8, (64, 64, 3), (64, 64))
        assert len(masks)


def test_every_number_of_an_augmentation_has_its_example() -> None:
    strengths = {one.name for one in dataclasses.fields(Augment) if one.type in ("float", "bool")}
    shown = {name for changes in KINDS.values() for name in changes}
    assert strengths - shown == {"min_share", "often", "elastic_every"}


def test_an_augmentation_alone_changes_what_it_is_about(samples: TrainingSamples) -> None:
    """Light leaves the masks as a plain crop has them, a map moves both."""
    for position, kind in enumerate(KINDS):
        plain, one = (
            TrainingSamples(samples.root, samples.annotations, alone(name, 64), 0, samples.pixels)[position, 0]
            for name in ("as it is", kind)
        )
        masks = [sample.target["masks"].data.tobytes() for sample in (plain, one)]
        light = kind in ("brightness", "contrast", "gamma", "invert", "grey", "hue", "saturation", "tint", "blur")
        if light or kind in ("noise", "grain", "as it is"):
            assert masks[0] == masks[1]
        if light or kind in ("noise", "grain"):
            assert not np.array_equal(plain.image, one.image), kind
        if kind in ("rotation", "scale", "stretch", "shear", "elastic"):
            assert masks[0] != masks[1], kind


@pytest.mark.parametrize(("count", "axes"), [(0, 3), (1, 3), (7, 9)])
def test_a_gallery_has_a_place_for_every_example(samples: TrainingSamples, count: int, axes: int) -> None:
    figure = gallery(of_kinds(samples, 0, 32, list(KINDS)[:count]), columns=3)
    assert len(figure.axes) == axes
    titles = [axis.get_title() for axis in figure.axes]
    assert sum(bool(title) for title in titles) == count
    assert not count or titles[0].startswith("as it is: ")
