"""The classifier: what is there follows from a sample's instances, each category being a question of its own."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fixtures.classifiers import LITE0, classifier, describe
from fixtures.detectors import RESNET50, ellipses, noise, target
from torch.nn import functional
from torchvision.ops import FrozenBatchNorm2d

from pipeline.errors import InputError
from pipeline.model.backbone import Backbone
from pipeline.model.classifier import Classifier, Head, ImageClassifier, everywhere
from pipeline.model.families import FAMILIES, Description, described
from pipeline.model.initial import initial_weights
from pipeline.model.ready import ready
from pipeline.model.weights import load_detector, save_weights

INFO = {"competition": "toy", "categories": ["round", "spindle"]}
NONE = target(np.zeros((0, 40, 56), bool))


def labelled(*labels: int) -> dict[str, Any]:
    """The target of an image of 40 × 56 pixels that shows instances of these categories."""
    return target(ellipses((40, 56), len(labels)), list(labels)) if labels else NONE


def logit(probable: torch.Tensor) -> torch.Tensor:
    return probable.double().logit()


# Labels and the loss -------------------------------------------------------------------------------------------------


def test_the_loss_is_the_cross_entropy_of_what_the_instances_say() -> None:
    module, images = classifier(3).train(), [noise(40, 56), noise(40, 56, 1), noise(40, 56, 2)]
    targets = [labelled(1, 3, 3), labelled(), labelled(2)]
    found = module(images, targets)
    assert list(found) == ["loss_presence"]
    logits = module._logits(images)  # with the statistics of the same batch
    wanted = torch.tensor([[1.0, 0, 1], [0, 0, 0], [0, 1, 0]])
    torch.testing.assert_close(found["loss_presence"], functional.binary_cross_entropy(logits.sigmoid(), wanted))


def test_how_many_there_are_and_where_makes_no_difference() -> None:
    module, images = classifier(2).train(), [noise(40, 56), noise(40, 56, 1)]
    one, other = (module(images, [labelled(*labels), labelled(1)]) for labels in ((2,), (2, 2, 2)))
    torch.testing.assert_close(one, other)


def test_what_has_not_learnt_says_one_half_of_everything() -> None:
    torch.manual_seed(0)
    module = describe().build(2)
    loss = module.train()([noise(40, 56)] * 2, [labelled(1), NONE])["loss_presence"]
    assert loss.item() == pytest.approx(math.log(2))
    assert module.eval()([noise(40, 56)]).tolist() == [[0.5, 0.5]]


def test_it_learns_what_is_in_its_images() -> None:
    """Bright spots and dark ones, each in half of the images."""
    torch.manual_seed(0)
    module, rng = describe(weights="imagenet").build(2).train(), np.random.default_rng(0)
    optimizer, losses = torch.optim.AdamW(module.parameters(), 1e-3), []
    batch = [drawn(rng) for _ in range(6)]
    for _ in range(12):
        loss = module([image for image, _ in batch], [truth for _, truth in batch])["loss_presence"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.3 < 0.69 < losses[0]


def drawn(rng: np.random.Generator) -> tuple[torch.Tensor, dict[str, Any]]:
    picture, labels = rng.integers(110, 140, (64, 64)).astype(np.uint8), []
    for label, level in ((1, 250), (2, 5)):
        if rng.random() < 0.5:
            y, x = rng.integers(4, 52, 2)
            picture[y : y + 8, x : x + 8] = level
            labels.append(label)
    return torch.from_numpy(picture).expand(3, -1, -1), {"labels": torch.tensor(labels, dtype=torch.int64)}


# Images --------------------------------------------------------------------------------------------------------------


def test_images_of_one_size_are_judged_one_by_one() -> None:
    module, images = classifier(2).eval(), [noise(64, 96, seed) for seed in range(3)]
    together = module(images)
    alone = torch.cat([module([image]) for image in images])
    assert together.std() > 0.01
    torch.testing.assert_close(logit(together), logit(alone), atol=1e-3, rtol=1e-3)


def test_the_padding_of_a_small_image_beside_a_large_one_is_not_pooled() -> None:
    head = Head([torch.nn.Identity()] * 2, 5, 1)
    torch.nn.init.ones_(head.linear.weight)
    planes = [torch.ones(2, 2, 8, 8), torch.ones(2, 3, 4, 4)]
    planes[0][0, :, 5:], planes[0][0, :, :, 7:] = 9, 9  # beyond the cells that show some of 65 × 100 pixels of 128
    planes[1][0, :, 3:] = 9
    assert head(planes, [(65, 100), (128, 128)], (128, 128)).tolist() == [[10.0], [10.0]]
    assert head(planes, [(65, 128), (97, 100)], (128, 128))[0] > 10


def test_a_picture_enlarged_is_what_half_the_scale_makes_of_it() -> None:
    image = noise(64, 96)
    twice = functional.interpolate(image[None].float(), scale_factor=2, mode="nearest")[0]
    plain, half = classifier(2).eval(), classifier(2, scale=0.5).eval()
    torch.testing.assert_close(plain([image.float()]), half([twice]), atol=0.02, rtol=0)


def test_detections_are_the_whole_image_once_of_each_category() -> None:
    module, image = classifier(3).eval(), noise(40, 90)
    found = module.detect(image, "a")
    assert (found.image_id, found.size, found.labels.tolist()) == ("a", (40, 90), [1, 2, 3])
    assert found.boxes.tolist() == [[0, 0, 90, 40]] * 3
    assert found.masks.shape == (3, 1, 1)
    np.testing.assert_array_equal(found.scores, module.probabilities(image).numpy())
    assert len(everywhere(np.zeros(0, np.float32), "a", (4, 5))) == 0


# Backbones, weights --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("backbone", "left"),
    [(LITE0, 4), (Backbone("resnet18", "torchvision", 256, RESNET50.mean, RESNET50.std, 5), 0)],
    ids=["lite0", "resnet18"],
)
def test_made_ready_it_says_the_same_with_its_norms_folded(backbone: Backbone, left: int) -> None:
    module = classifier(2, backbone=backbone).train()
    module([noise(64, 64), noise(64, 64, 1)], [labelled(1)] * 2)  # moves the statistics
    module.eval()
    fast, image = ready(module), noise(64, 80)
    norms = [part for part in fast.modules() if isinstance(part, torch.nn.BatchNorm2d | FrozenBatchNorm2d)]
    assert len(norms) == left  # those before the pooling follow no convolution of the last planes alone
    torch.testing.assert_close(
        logit(fast.probabilities(image)), logit(module.probabilities(image)), atol=1e-3, rtol=1e-3
    )


def test_the_stages_of_its_backbone_freeze_as_a_detectors_do() -> None:
    module = describe(weights="imagenet", backbone=dataclasses.replace(LITE0, trainable_stages=2)).build(2, False)
    moving = {name for name, one in module.named_parameters() if one.requires_grad}
    assert {"head.linear.weight"} <= moving
    stages = {module.backbone.stages[name.removeprefix("backbone.body.")] for name in moving if "body" in name}
    assert stages == {3, 4}
    assert not any("fpn" in name for name in module.state_dict())


def test_a_weights_file_is_read_by_what_reads_those_of_any_family(tmp_path: Path) -> None:
    assert FAMILIES["classifier"] is Classifier
    module = classifier(2).eval()
    save_weights(tmp_path / "best.pt", module, INFO)
    loaded, info = load_detector(tmp_path / "best.pt")
    assert isinstance(loaded, ImageClassifier)
    assert (loaded.spec, info["categories"]) == (module.spec, INFO["categories"])
    torch.testing.assert_close(loaded([noise(40, 40)]), module([noise(40, 40)]), atol=0, rtol=0)


def test_a_description_travels_as_json() -> None:
    plain = json.loads(json.dumps({"family": "classifier", **dataclasses.asdict(describe(scale=0.5))}))
    assert described(plain) == describe(scale=0.5)
    assert isinstance(describe(), Description)


def test_a_training_starts_from_another_ones_weights_whatever_its_categories(tmp_path: Path) -> None:
    save_weights(tmp_path / "best.pt", classifier(3, seed=1), INFO)
    module = describe(weights=str(tmp_path / "best.pt")).build(2)
    initial_weights(module)
    wanted = classifier(3, seed=1).state_dict()
    assert all(torch.equal(t, wanted[n]) for n, t in module.state_dict().items() if not n.startswith("head.linear."))
    other = describe(
        weights=str(tmp_path / "best.pt"), backbone=dataclasses.replace(LITE0, name="tf_efficientnet_lite1")
    )
    with pytest.raises(InputError, match="do not fit the model"):
        initial_weights(other.build(2))


def test_a_scale_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="scale: wanted a factor above 0, got 0"):
        describe(scale=0.0)
