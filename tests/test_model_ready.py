from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pytest
import torch
from fixtures.detectors import RESNET50, build, describe, noise
from torch import nn
from torchvision.ops import FrozenBatchNorm2d

from pipeline.model.backbone import Backbone
from pipeline.model.detector import Detector
from pipeline.model.ready import fold_norms, ready

RESNET18 = Backbone("resnet18", "torchvision", 256, RESNET50.mean, RESNET50.std, 5)


def unsettled(module: nn.Module, seed: int = 1) -> nn.Module:
    """The module with batch statistics and scales as a training leaves them: none is 0 or 1."""
    generator = torch.Generator().manual_seed(seed)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d | FrozenBatchNorm2d):
            for name, least, most in (
                ("running_mean", -0.2, 0.2), ("running_var", 0.5, 2), ("weight", 0.5, 1.2), ("bias", -0.2, 0.2)
            ):  # fmt: skip
                tensor = getattr(part, name).data
                tensor.copy_(least + (most - least) * torch.rand(tensor.shape, generator=generator))
    return module.eval()


def norms(module: nn.Module) -> int:
    return sum(isinstance(part, nn.BatchNorm2d | FrozenBatchNorm2d) for part in module.modules())


@pytest.mark.parametrize(
    ("changes", "count"),
    [({}, 56), ({"backbone": RESNET18}, 20), ({"backbone": RESNET18, "weights": "coco"}, 20)],
    ids=["lite0", "resnet18", "frozen"],
)
def test_a_ready_detector_finds_the_same_with_no_batch_norm_left(changes: dict[str, Any], count: int) -> None:
    detector = unsettled(build_offline(**changes))
    assert norms(detector) == count
    before = {name: tensor.clone() for name, tensor in detector.state_dict().items()}
    fast = ready(detector)
    assert norms(fast) == 0
    one, two = detector.detect(noise(96, 130), "a"), fast.detect(noise(96, 130), "a")
    assert len(one) == len(two) > 5
    np.testing.assert_allclose(two.boxes, one.boxes, atol=0.01)
    np.testing.assert_allclose(two.scores, one.scores, atol=1e-4)
    np.testing.assert_array_equal(two.labels, one.labels)
    np.testing.assert_allclose(two.masks, one.masks, atol=1e-3)
    # The original is as it was, and shares nothing with the copy.
    assert norms(detector) == count
    assert all(torch.equal(tensor, before[name]) for name, tensor in detector.state_dict().items())
    own = {parameter.data_ptr() for parameter in detector.parameters()}
    assert not own & {parameter.data_ptr() for parameter in fast.parameters()}


def build_offline(**changes: Any) -> Detector:
    """The detector of any weights' structure, without fetching any."""
    torch.manual_seed(0)
    return describe(**changes).build(2, pretrained=False)


@pytest.mark.parametrize("name", ["resnet18", "mobilenetv3_small_100", "densenet121", "convnext_atto", "regnety_002"])
def test_backbones_of_any_kind_keep_their_features(name: str) -> None:
    detector = unsettled(build(backbone=Backbone(name, "timm", 16, (0.5,) * 3, (0.5,) * 3, 5)))
    image = torch.randn(1, 3, 96, 64, generator=torch.Generator().manual_seed(0))
    wanted, found = detector.backbone(image), ready(detector).backbone(image)
    for level, plane in wanted.items():
        assert (found[level] - plane).abs().max() <= 1e-4 * plane.abs().max()


def test_folding_by_hand() -> None:
    module = nn.Sequential(nn.Conv2d(1, 1, 1, bias=False), nn.BatchNorm2d(1, eps=0.0)).eval()
    module[0].weight.data.fill_(3.0)
    for tensor, value in zip((module[1].running_mean, module[1].running_var), (5.0, 4.0), strict=True):
        tensor.fill_(value)
    module[1].weight.data.fill_(6.0)
    module[1].bias.data.fill_(1.0)
    assert fold_norms(module, torch.zeros(1, 1, 2, 2)) == 1
    # (3 x - 5) / 2 · 6 + 1
    assert (module[0].weight.item(), module[0].bias.item()) == (9.0, -14.0)
    assert isinstance(module[1], nn.Identity)


def test_a_norm_that_follows_no_convolution_stays() -> None:
    module = nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 1), nn.ReLU(), nn.BatchNorm2d(4)).eval()
    assert fold_norms(module, torch.zeros(1, 3, 4, 4)) == 0
    assert norms(module) == 2


class Twice(nn.Module):
    """Uses what the convolution gives with and without the norm."""

    def __init__(self, backbone: nn.Module):
        super().__init__()
        self.inner, self.convolution, self.norm = backbone, nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)
        self.norm.running_mean.fill_(2.0)

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        plain = self.convolution(images)
        result: dict[str, torch.Tensor] = self.inner(plain + self.norm(plain))
        return result


def test_where_folding_would_change_the_features_it_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    detector = build().eval()
    detector.backbone = Twice(detector.backbone).eval()
    detector.arranged(torch.channels_last)  # as what is compared with it will be
    with caplog.at_level(logging.INFO):
        fast = ready(detector)
    assert norms(fast) == norms(detector)
    assert "keeps batch norm from being folded" in caplog.text
    image = torch.randn(1, 3, 64, 64)
    assert all(torch.equal(fast.backbone(image)[level], p) for level, p in detector.backbone(image).items())


# The threshold before the mask head -----------------------------------------------------------------------------------


def test_a_higher_floor_gives_the_same_detections_above_it() -> None:
    detector = build(score_floor=0.0, detections=60).eval()
    whole = ready(detector).detect(noise(96, 96), "a")
    floor = float(np.median(whole.scores))
    fewer = ready(detector, floor).detect(noise(96, 96), "a")
    assert 5 < len(fewer) < len(whole)
    kept = whole.select(whole.scores > floor)
    for column in ("boxes", "scores", "labels"):
        np.testing.assert_array_equal(getattr(fewer, column), getattr(kept, column))
    np.testing.assert_allclose(fewer.masks, kept.masks, atol=1e-6)


def test_the_mask_head_sees_none_below_the_floor() -> None:
    fast, seen = ready(build(score_floor=0.0, detections=60), 0.4), []
    fast.roi_heads.mask_head.register_forward_hook(lambda part, inputs, output: seen.append(len(output)))
    found = fast.detect(noise(96, 96), "a")
    assert sum(seen) == len(found)
    assert (found.scores > 0.4).all()
    assert len(ready(fast, 1.0).detect(noise(96, 96), "a")) == 0


def test_without_a_floor_it_is_the_description_s() -> None:
    assert ready(build(score_floor=0.3)).roi_heads.score_thresh == 0.3
