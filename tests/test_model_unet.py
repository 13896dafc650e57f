from __future__ import annotations

import dataclasses
import json
import logging
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fixtures.detectors import RESNET50, ellipses, noise, target
from fixtures.detectors import describe as describe_detector
from fixtures.segmenters import LITE0, describe, segmenter

from pipeline.errors import InputError
from pipeline.model.families import FAMILIES, Description, described
from pipeline.model.initial import initial_weights
from pipeline.model.unet import UNet, losses
from pipeline.model.weights import load_detector, read_weights, save_weights

INFO = {"competition": "toy", "categories": ["round", "spindle"]}
NAMES = ["loss_foreground", "loss_boundary", "loss_depth"]


def disks() -> tuple[torch.Tensor, dict[str, Any]]:
    """Two pairs of touching bright disks, one of each class, uint8 (3, 64, 96), and the truth."""
    y, x = np.mgrid[:64, :96]
    masks = np.array([(y - 20) ** 2 + (x - cx) ** 2 <= 100 for cx in (16, 37, 75)])
    masks = np.concatenate([masks, [(y - 48) ** 2 + (x - 50) ** 2 <= 144]])
    image = np.full((64, 96), 40, np.uint8)
    image[masks[:2].any(0)], image[masks[2:].any(0)] = 220, 150
    return torch.from_numpy(image).expand(3, -1, -1), target(masks, [1, 1, 2, 2])


# Losses --------------------------------------------------------------------------------------------------------------


def test_what_is_right_costs_nothing_and_what_is_wrong_more_and_more() -> None:
    generator = torch.Generator().manual_seed(0)
    classes = torch.randint(0, 3, (400,), generator=generator)
    inside = (classes > 0).float()
    shapes = torch.stack([inside, (torch.rand(400, generator=generator) > 0.8).float(), inside * 0.5])
    right = torch.stack([*(shapes[:2] * 60 - 30), (inside - 1) * 60, *((classes == k) * 60.0 for k in (1, 2))])
    found = losses(right, shapes, classes)
    assert list(found) == [*NAMES, "loss_class"]
    assert max(float(value) for value in found.values()) < 1e-6
    before = found
    for share in (0.95, 1.0, 1.05):  # towards the opposite; 1 is no opinion
        now = losses(right * (1 - share) + torch.tensor([0, 0, 2.0, 0, 0])[:, None] * share, shapes, classes)
        assert all(now[name] > before[name] for name in now)
        before = now


def test_losses_by_hand() -> None:
    logits, shapes = torch.zeros(3, 4), torch.tensor([[1.0, 1, 0, 0], [0, 0, 0, 0], [1.0, 0.5, 0, 0]])
    found = losses(logits, shapes, torch.tensor([1, 1, 0, 0]))
    assert list(found) == NAMES
    assert float(found["loss_foreground"]) == pytest.approx(math.log(2) + 1 - (2 * 1 + 1) / (2 + 2 + 1))
    assert float(found["loss_boundary"]) == pytest.approx(math.log(2) + 1 - (0 + 1) / (2 + 0 + 1))
    assert float(found["loss_depth"]) == pytest.approx((0.45 + 0) / 2 + 0.45)  # smooth L1 with a bend at 0.1


@pytest.mark.parametrize("categories", [1, 2])
def test_a_picture_of_nothing_trains_too(categories: int) -> None:
    module = segmenter(categories).train()
    found = module([noise(40, 40)] * 2, [target(np.zeros((0, 40, 40), bool))] * 2)
    assert list(found) == NAMES + ["loss_class"] * (categories > 1)
    total = sum(found.values())
    total.backward()
    assert torch.isfinite(total)
    assert all(torch.isfinite(p.grad).all() for p in module.parameters() if p.grad is not None)


def test_images_of_several_sizes_count_pixel_by_pixel() -> None:
    module = segmenter(2).train()
    images = [noise(40, 56), noise(64, 33, 1)]
    targets = [target(ellipses((40, 56), 4), [1, 2, 1, 2]), target(ellipses((64, 33), 3), [2, 2, 1])]
    found = module(images, targets)
    assert all(torch.isfinite(value) for value in found.values())
    swapped = segmenter(2).train()(images[::-1], targets[::-1])
    for name, value in found.items():
        torch.testing.assert_close(swapped[name], value, rtol=1e-4, atol=1e-5)


# What it finds -------------------------------------------------------------------------------------------------------


def test_it_learns_to_tell_touching_disks_and_their_classes_apart() -> None:
    image, truth = disks()
    module = segmenter(2, min_area=20).train()
    optimizer = torch.optim.AdamW(module.parameters(), 5e-3)
    for _ in range(40):
        optimizer.zero_grad()
        sum(module([image], [truth]).values()).backward()
        optimizer.step()
    found = module.eval().detect(image, "a")
    assert sorted(found.labels.tolist()) == [1, 1, 2, 2]
    wanted = truth["boxes"].numpy()
    for box, label in zip(found.boxes, found.labels, strict=True):
        nearest = np.abs(wanted - box).max(1)
        assert nearest.min() <= 2
        assert int(truth["labels"][int(nearest.argmin())]) == label
    assert found.scores.min() > 0.5


@pytest.mark.parametrize("categories", [1, 3])
@pytest.mark.parametrize("scale", [1.0, 1.5])
def test_maps_are_probabilities_of_the_images_own_pixels(categories: int, scale: float) -> None:
    module = segmenter(categories, scale=scale).eval()
    image = noise(45, 70)
    maps = module.maps(image.float())
    assert maps.shape == (3 + (categories if categories > 1 else 0), 45, 70)
    assert maps.dtype == torch.float32
    assert 0 <= float(maps.min()) <= float(maps.max()) <= 1
    if categories > 1:
        torch.testing.assert_close(maps[3:].sum(0), torch.ones(45, 70))
    torch.testing.assert_close(module([image])[0], maps)


def test_detecting_is_maps_and_then_instances() -> None:
    module = segmenter(2, foreground=0.0, marker=0.1).eval()
    image = noise(64, 80)
    before = image.clone()
    one = module.detect(image, "a")
    two = module.instances(module.maps(image.float()), "a", (64, 80))
    assert len(one) > 0
    assert one.masks.shape[1:] == (28, 28)
    for column in ("boxes", "scores", "labels", "masks"):
        np.testing.assert_array_equal(getattr(one, column), getattr(two, column))
    assert torch.equal(image, before)
    module.score_floor = float(np.median(one.scores))
    assert 0 < len(module.detect(image, "a")) < max(len(one), 2)


def test_the_order_in_memory_changes_nothing_but_rounding() -> None:
    one, two = segmenter(2).eval(), segmenter(2).eval().arranged(torch.contiguous_format)
    torch.testing.assert_close(one.maps(noise(64, 80)), two.maps(noise(64, 80)), atol=1e-4, rtol=1e-4)


# Descriptions and files ----------------------------------------------------------------------------------------------


def test_every_family_is_a_description_and_known_by_its_name() -> None:
    assert {"maskrcnn", "unet"} <= FAMILIES.keys()
    for name, kind in FAMILIES.items():
        assert kind.family == name  # type: ignore[attr-defined]
        assert issubclass(kind, Description)


def test_a_description_from_before_there_were_families_is_a_mask_r_cnns() -> None:
    spec = describe_detector()
    assert described(dataclasses.asdict(spec)) == described({"family": "maskrcnn", **dataclasses.asdict(spec)}) == spec


def test_a_description_travels_through_json() -> None:
    spec = describe(marker=0.25)
    assert UNet.from_plain(json.loads(json.dumps(dataclasses.asdict(spec)))) == spec
    assert described(json.loads(json.dumps({"family": "unet", **dataclasses.asdict(spec)}))) == spec
    assert spec.sized({}) == spec


def test_a_saved_u_net_is_loaded_with_equal_outputs(tmp_path: Path) -> None:
    module = segmenter(2).train()
    module([noise(64, 64)], [target(np.zeros((0, 64, 64), bool))])  # the batch statistics have moved
    save_weights(tmp_path / "best.pt", module, INFO)
    assert read_weights(tmp_path / "best.pt")["model"]["family"] == "unet"
    loaded, info = load_detector(tmp_path / "best.pt")
    assert (info, loaded.spec, loaded.training) == (INFO, module.spec, False)
    assert torch.equal(loaded.maps(noise(50, 60)), module.eval().maps(noise(50, 60)))


def test_a_training_starts_from_a_file_but_for_the_classes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = segmenter(2, seed=1)
    save_weights(tmp_path / "best.pt", source, INFO)
    for categories in (1, 2, 4):
        module = segmenter(categories, weights=str(tmp_path / "best.pt"))
        with caplog.at_level(logging.INFO):
            initial_weights(module)
        own = module.state_dict()
        shared = [name for name in own if not name.startswith("network.1.classes.") or categories == 2]
        assert [name for name in shared if not torch.equal(own[name], source.state_dict()[name])] == []
    assert "network.1.classes.weight" in caplog.text


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"family": "stardist"}, r"best\.pt: the model is of the family 'stardist'; those known here are .*unet"),
        ({"depth": 5}, r"best\.pt: the description of the model \(unet\) is not that of this version: .*depth"),
    ],
)
def test_a_family_or_a_field_of_another_version_is_refused(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    path = tmp_path / "best.pt"
    save_weights(path, segmenter(), INFO)
    content = read_weights(path)
    torch.save({**content, "model": content["model"] | changes}, path)
    with pytest.raises(InputError, match=message):
        load_detector(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"foreground": 1.0}, "foreground: wanted a number from 0 to less than 1, got 1.0"),
        ({"marker": -0.1}, "marker: wanted a number from 0 to less than 1, got -0.1"),
        ({"reach": 0}, "reach: wanted at least 1, got 0"),
        ({"mask_size": 0}, "mask_size: wanted at least 1, got 0"),
        ({"scale": 0.0}, "scale: wanted a factor above 0, got 0.0"),
    ],
)
def test_a_number_out_of_range_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        describe(**changes)


def test_an_encoder_that_is_none_is_refused() -> None:
    with pytest.raises(InputError, match=r"model\.backbone\.library: the encoder .* one of timm's, got torchvision"):
        describe(backbone=RESNET50).build(1, pretrained=False)
    with pytest.raises(InputError, match=r"model\.backbone\.trainable_stages: .* knows 5 alone, got 3"):
        describe(backbone=dataclasses.replace(LITE0, trainable_stages=3)).build(1, pretrained=False)
    with pytest.raises(InputError, match=r"model\.backbone\.name: .*convnext_tiny"):
        describe(backbone=dataclasses.replace(LITE0, name="convnext_tiny")).build(1, pretrained=False)
    with pytest.raises(InputError, match=r"model\.backbone\.name: timm \S+ has no model nonsense"):
        describe(backbone=dataclasses.replace(LITE0, name="nonsense")).build(1, pretrained=False)
