from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from fixtures.dense import LAW
from fixtures.detectors import build, describe, ellipses, noise
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from pipeline.inference import views
from pipeline.inference.views import View, Views, detect, detect_together
from pipeline.instances import Detections
from pipeline.masks.runs import from_dense
from pipeline.masks.windows import windows
from pipeline.model.detector import Detector
from pipeline.model.steps import Seen
from pipeline.model.targets import mask_targets

CONF = Path(__file__).resolve().parent.parent / "conf" / "views"
SYMMETRIES = tuple(range(8))
SIZE = (64, 128)


def offered() -> list[View]:
    """Every view of every file in conf/views."""
    found: dict[View, None] = {}
    for path in sorted(CONF.glob("*.yaml")):
        settings: dict[str, Any] = {}
        for name in _chain(path):
            settings |= yaml.safe_load((CONF / f"{name}.yaml").read_text())
        fields = {key: tuple(settings[key]) for key in ("symmetries", "scales", "gammas", "inverts")}
        found |= dict.fromkeys(Views(**fields).all())
    return list(found)


def _chain(path: Path) -> list[str]:
    below = yaml.safe_load(path.read_text()).get("defaults", [])
    return [*itertools.chain.from_iterable(_chain(CONF / f"{name}.yaml") for name in below), path.stem]


def turned(planes: np.ndarray, number: int) -> np.ndarray:
    """Written apart: the last two axes mirrored across, down, and exchanged, by the bits of the number."""
    planes = planes[..., ::-1] if number & 1 else planes
    planes = planes[..., ::-1, :] if number & 2 else planes
    return np.ascontiguousarray(planes.swapaxes(-1, -2) if number & 4 else planes)


# A view and the way back --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("view", offered(), ids=str)
def test_undoing_a_view_that_is_offered_gives_boxes_and_masks_back(view: View) -> None:
    random = torch.Generator().manual_seed(0)
    for size in ((75, 101), (64, 64), (33, 200)):
        boxes = torch.rand(20, 4, generator=random) * 60
        seen = view.boxes(boxes, size)
        torch.testing.assert_close(view.undo_boxes(seen, size), boxes, atol=1e-4, rtol=0)
        height, width = view.image(noise(*size)).shape[-2:]
        whole = view.boxes(torch.tensor([[0.0, 0, size[1], size[0]]]), size)
        torch.testing.assert_close(whole, torch.tensor([[0.0, 0, width, height]]), atol=1e-4, rtol=0)
    masks = torch.rand(5, 28, 28, generator=random)
    assert torch.equal(view.undo_masks(view.masks(masks)), masks)


@LAW
@given(st.integers(0, 7), st.integers(0, 10_000))
def test_boxes_and_masks_of_a_turned_picture_are_the_turned_boxes_and_masks(number: int, seed: int) -> None:
    """What the windows and targets of turned dense masks are, the view makes of those of the masks."""
    masks, view = ellipses((40, 52), 4, seed), View(symmetry=number)
    plain, seen = windows(from_dense(masks)), windows(from_dense(turned(masks, number)))
    boxes = torch.from_numpy(plain.boxes).float()
    assert torch.equal(view.boxes(boxes, (40, 52)), torch.from_numpy(seen.boxes).float())
    one, other = (mask_targets(cut, torch.arange(4), torch.from_numpy(cut.boxes).float(), 14) for cut in (plain, seen))
    torch.testing.assert_close(view.masks(one), other, atol=1e-4, rtol=0)
    image = noise(40, 52, seed)
    np.testing.assert_array_equal(view.image(image).numpy(), turned(image.numpy().astype(np.float32), number))


def test_light_and_scale_by_hand() -> None:
    image = torch.tensor([[[0, 255], [51, 102]]], dtype=torch.uint8).repeat(3, 1, 1)
    assert View(invert=True).image(image)[0].tolist() == [[255, 0], [204, 153]]
    torch.testing.assert_close(View(gamma=2.0).image(image)[0, 1], torch.tensor([10.2, 40.8]))
    view = View(scale=1.5, symmetry=4)
    assert view.image(torch.zeros(3, 11, 20)).shape == (3, 30, 16)  # 16.5 is rounded to the even side
    torch.testing.assert_close(
        view.boxes(torch.tensor([[10.0, 5.5, 20, 11]]), (11, 20)), torch.tensor([[8.0, 15, 16, 30]])
    )


def test_views_are_every_combination_once() -> None:
    found = Views((0, 1), (1.0, 2.0), (1.0,), (False, True)).all()
    assert len(found) == len(set(found)) == 8
    assert Views().all() == (View(),)
    assert Views(scales=(1.0, 1.0)).all() == (View(),)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"symmetries": (8,)}, r"symmetries: wanted whole numbers from 0 to 7, at least one, got \[8\]"),
        ({"scales": ()}, r"scales: wanted factors above 0, at least one, got \[\]"),
        ({"gammas": (1.0, 0.0)}, r"gammas: wanted exponents above 0, at least one, got \[1.0, 0.0\]"),
        ({"mask_views": 0}, "mask_views: wanted at least 1, or null for all, got 0"),
    ],
)
def test_views_that_cannot_be_are_refused_by_name(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        Views(**fields)


# Detection in views -------------------------------------------------------------------------------------------------


class Pooled(nn.Module):
    """A backbone that knows no direction: means of squares of pixels, mixed by matrices."""

    def __init__(self, channels: int):
        super().__init__()
        self.mix = nn.Conv2d(3, channels, 1)

    def forward(self, batch: Tensor) -> dict[str, Tensor]:
        plane = self.mix(functional.avg_pool2d(batch, 4)).relu()
        return {str(level): functional.avg_pool2d(plane, 2**level) for level in range(5)}


def symmetric(kernel: Tensor) -> Tensor:
    """The mean over the symmetries of the last two axes."""
    both = torch.stack([kernel, kernel.transpose(-1, -2)])
    return torch.stack([both, both.flip(-1), both.flip(-2), both.flip(-1, -2)]).mean((0, 1))


@torch.no_grad()
def equivariant() -> Detector:
    """A detector whose answers turn with the picture, by construction: no weight distinguishes a direction."""
    torch.manual_seed(3)
    detector = Detector(describe(detections=12, proposals=40, candidates=80), Pooled(16), 2).eval()
    heads = detector.roi_heads
    for part in detector.modules():
        if isinstance(part, nn.Conv2d | nn.ConvTranspose2d):
            part.weight.copy_(symmetric(part.weight))
    # Boxes stay where the anchors are; tall and wide anchors are equally likely.
    for part in (detector.rpn.head.bbox_pred, heads.box_predictor.bbox_pred):
        part.weight.zero_()
        part.bias.zero_()
    anchors = detector.rpn.anchor_generator  # torchvision's lie round the upper left corner of a cell
    anchors.cell_anchors = [own + 2.0 * 2**level for level, own in enumerate(anchors.cell_anchors)]
    head = detector.rpn.head.cls_logits
    head.weight[2], head.bias[2] = head.weight[0], head.bias[0]
    weight = heads.box_head.fc6.weight
    weight.copy_(symmetric(weight.view(len(weight), -1, 7, 7)).flatten(1))
    heads.box_predictor.cls_score.weight *= 30
    return detector


def in_order(found: Detections) -> Detections:
    """By score to six digits, then place: detections of equal score may come in any order."""
    return found.select(np.lexsort((*found.boxes.round(3).T, -found.scores.round(6))))


def assert_same(one: Detections, other: Detections, atol: float = 1e-4) -> None:
    one, other = in_order(one), in_order(other)
    assert one.labels.tolist() == other.labels.tolist()
    for name in ("boxes", "scores", "masks"):
        np.testing.assert_allclose(getattr(one, name), getattr(other, name), atol=atol)


WAYS: tuple[dict[str, Any], ...] = ({}, {"mask_views": 2}, {"proposals": "averaged"})


def picture() -> Tensor:
    """No two places of it have the same surroundings, so that few scores tie."""
    return noise(*SIZE, seed=5)


@pytest.mark.parametrize("size", [(75, 101), (64, 64)])
@pytest.mark.parametrize("scale", [1.0, 0.75])
def test_a_single_view_is_what_the_detector_says_in_one_step(size: tuple[int, int], scale: float) -> None:
    detector = build(categories=3, scale=scale).eval()
    image = noise(*size)
    whole = detector.detect(image, "a")
    assert len(whole) > 5
    for way in WAYS:
        assert_same(whole, detect(detector, image, "a", [View()], **way))


def test_a_view_seen_twice_changes_nothing() -> None:
    detector, image = build(categories=3).eval(), noise(75, 101)
    plain = detect(detector, image, "a", [View()])
    for way in WAYS:
        assert_same(plain, detect(detector, image, "a", [View()] * 3, **way))


def test_a_detector_that_knows_no_direction_gives_the_same_in_all_symmetries() -> None:
    detector, image = equivariant(), picture()
    plain = detect(detector, image, "a", [View()])
    assert len(plain) == 12
    assert len(np.unique(plain.scores.round(6))) > 6
    for number in SYMMETRIES:
        assert_same(plain, detect(detector, image, "a", [View(symmetry=number)]))
    for way in (*WAYS, {"mask_views": 1}):
        assert_same(plain, detect(detector, image, "a", Views(SYMMETRIES).all(), **way))


@pytest.mark.parametrize("way", [{}, {"mask_views": 1}], ids=str)
def test_a_picture_that_is_turned_has_its_detections_turned(way: dict[str, Any]) -> None:
    """Whatever the weights: all eight views of a picture are all eight of the turned one."""
    detector, image = build(categories=2, seed=4).eval(), noise(64, 64)
    plain = detect(detector, image, "a", Views(SYMMETRIES).all(), **way)
    for number in (1, 6):
        view = View(symmetry=number)
        found = detect(detector, view.image(image).to(torch.uint8), "a", Views(SYMMETRIES).all(), **way)
        boxes = view.undo_boxes(torch.from_numpy(found.boxes), (64, 64)).numpy()
        masks = view.undo_masks(torch.from_numpy(found.masks)).numpy()
        back = Detections("a", (64, 64), boxes, found.scores, found.labels, np.ascontiguousarray(masks))
        assert_same(plain, back, atol=1e-3)


def test_the_order_of_views_and_the_memory_for_features_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    detector, image = build(categories=2).eval(), noise(75, 101)
    chosen = Views((0, 3, 5), (1.0, 1.5)).all()
    made: list[Seen] = []
    monkeypatch.setattr(views, "Seen", lambda *a: made.append(Seen(*a)) or made[-1])
    plain = detect(detector, image, "a", chosen)
    assert len(made) == 6
    assert_same(plain, detect(detector, image, "a", chosen[::-1]))
    made.clear()
    assert_same(plain, detect(detector, image, "a", chosen, memory=0), atol=1e-6)
    assert len(made) > 12


def test_nothing_found_in_any_view_is_legal() -> None:
    found = detect(build(score_floor=1.0).eval(), noise(64, 64), "a", Views(SYMMETRIES).all())
    assert (len(found), found.masks.shape) == (0, (0, 28, 28))


def test_scores_are_the_mean_over_the_views() -> None:
    """With two views of which one sees nothing anywhere: half the scores."""
    detector, image = equivariant(), picture()
    plain = detect(detector, image, "a", [View()])
    answers = [
        Seen(detector, view.image(image)).classes(view.boxes(torch.from_numpy(plain.boxes), SIZE))[1]
        for view in (View(), View(invert=True))
    ]
    both = sum(answers) / 2
    found = detect(detector, image, "a", [View(), View(invert=True)])
    common = [
        (i, j) for i, a in enumerate(plain.boxes) for j, b in enumerate(found.boxes) if np.abs(a - b).max() < 1e-3
    ]
    assert common
    for i, j in common:
        assert found.scores[j] == pytest.approx(both[i, found.labels[j] - 1].item(), abs=1e-5)


def test_masks_are_the_mean_over_the_views_that_are_surest_of_them() -> None:
    detector, image = build(categories=2, seed=4).eval(), noise(64, 64)
    views = Views((0, 1, 2)).all()
    found = detect(detector, image, "a", views, mask_views=2)
    every = detect(detector, image, "a", views)
    assert_same(found, every, atol=1.0)  # the same detections; masks are 0 to 1
    np.testing.assert_allclose(found.boxes, every.boxes)
    boxes, labels = torch.from_numpy(found.boxes), torch.from_numpy(found.labels)
    own = [
        view.undo_masks(Seen(detector, view.image(image)).masks(view.boxes(boxes, (64, 64)), labels)) for view in views
    ]
    pairs = torch.stack([(own[i] + own[j]) / 2 for i, j in ((0, 1), (0, 2), (1, 2))])
    away = (pairs - torch.from_numpy(found.masks)).abs().amax((2, 3))
    assert away.amin(0).max() < 1e-4
    assert len(set(away.argmin(0).tolist())) > 1  # not the same two for all


def test_anchors_of_a_turned_picture_are_the_turned_anchors() -> None:
    detector, image = equivariant(), picture()
    plain = Seen(detector, image.float()).anchors()
    for number in SYMMETRIES:
        view = View(symmetry=number)
        for (boxes, logits), (box, logit) in zip(plain, Seen(detector, view.image(image)).anchors(), strict=True):
            torch.testing.assert_close(view.undo_grid(view.undo_boxes(box, SIZE)), boxes, atol=1e-3, rtol=0)
            torch.testing.assert_close(view.undo_grid(logit), logits, atol=1e-4, rtol=0)


def test_proposals_are_averaged_at_each_anchor_and_known_by_the_surest_view() -> None:
    detector, image = build(categories=2, seed=4).eval(), noise(64, 64)
    with torch.inference_mode():
        looks = [views._Look(detector, view, image) for view in Views((0, 1)).all()]
        for look in looks:
            look.see(Seen(detector, look.view.image(image)), True)
        boxes, source = views._proposals(looks, "averaged")
        cells = [look.anchors() for look in looks]
        mean = torch.cat([(one[0] + two[0]).view(-1, 4) / 2 for one, two in zip(*cells, strict=True)])
        logits = [torch.cat([logit.flatten() for _, logit in own]) for own in cells]
    for box, view in zip(boxes, source.tolist(), strict=True):
        place = (mean.clamp(0, 64) - box).abs().amax(1) < 1e-4
        assert any(logits[view][k] >= logits[1 - view][k] for k in torch.where(place)[0])
    assert set(source.tolist()) == {0, 1}


def test_views_whose_cells_do_not_coincide_are_merged() -> None:
    """Neither side of the picture is a multiple of 32 pixels: mirrored, the padding lies elsewhere."""
    detector, image = build(categories=2).eval(), noise(75, 101)
    chosen = Views((0, 1, 2, 3)).all()
    assert_same(detect(detector, image, "a", chosen), detect(detector, image, "a", chosen, proposals="averaged"))


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_views_and_images_at_once_give_what_they_give_one_by_one(way: dict[str, Any]) -> None:
    detector = build(categories=2).eval()
    images = [noise(64, 96), noise(75, 101, 1), noise(64, 96, 2)]
    chosen = Views((0, 1, 4), (1.0, 1.5)).all()
    wanted = [detect(detector, image, name, chosen, **way) for image, name in zip(images, "abc", strict=True)]
    assert min(map(len, wanted)) > 5
    for memory in (1 << 30, 1 << 20):
        found = detect_together(detector, images, "abc", chosen, **way, memory=memory, batch=5)
        assert [one.image_id for one in found] == ["a", "b", "c"]
        for one, other in zip(wanted, found, strict=True):
            assert_same(one, other)
