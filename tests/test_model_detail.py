from __future__ import annotations

from pathlib import Path

import pytest
import torch
from fixtures.detectors import build, ellipses, noise, target
from torch.nn import functional
from torchvision.models.detection.mask_rcnn import MaskRCNNPredictor

from pipeline.inference.views import View, Views, detect_together
from pipeline.model import heads
from pipeline.model.detail import CHANNELS, Detail, Refine
from pipeline.model.detector import Detector
from pipeline.model.heads import quarters
from pipeline.model.initial import initial_weights
from pipeline.model.ready import ready
from pipeline.model.weights import load_detector, save_weights


def awake(**settings: object) -> Detector:
    """A detector whose masks the detail does change, in evaluation mode."""
    torch.manual_seed(1)
    detector: Detector = build(detail=True, score_floor=0.0, **settings).eval()
    last = detector.roi_heads.refine.mix[-1]
    torch.nn.init.normal_(last.weight)
    return detector


def test_the_refinement_reads_what_torchvisions_predictor_makes_of_the_features() -> None:
    torch.manual_seed(0)
    predictor, refine = MaskRCNNPredictor(24, 16, 3), Refine(16)
    for last in (refine.mix[-1].weight, refine.mix[-1].bias):
        torch.nn.init.normal_(last)
    features, detail = torch.randn(5, 24, 7, 7), torch.randn(5, CHANNELS, 14, 14)
    upsampled = functional.relu(predictor.conv5_mask(features))
    reduced = functional.conv2d(upsampled, refine.reduce.weight[:, :, None, None], refine.reduce.bias)
    wanted = refine.mix(torch.cat([reduced, detail], 1))[:, 0]
    torch.testing.assert_close(refine(quarters(predictor, features), detail), wanted, atol=1e-5, rtol=1e-5)


def test_at_first_the_refinement_changes_nothing() -> None:
    plain, refined = build(score_floor=0.0).eval(), build(detail=True, score_floor=0.0).eval()
    refined.load_state_dict(plain.state_dict(), strict=False)
    one, other = (model.detect(noise(64, 96), "a") for model in (plain, refined))
    assert len(one)
    torch.testing.assert_close(torch.from_numpy(other.masks), torch.from_numpy(one.masks), atol=0, rtol=0)


def test_the_image_itself_moves_the_masks_and_nothing_else() -> None:
    detector, image = awake(), noise(64, 96)
    one = detector.detect(image, "a")
    for part in detector.detail:
        if isinstance(part, torch.nn.BatchNorm2d):
            part.bias.data += 1
    other = detector.detect(image, "a")
    for column in ("boxes", "scores", "labels"):
        assert (getattr(one, column) == getattr(other, column)).all()
    assert abs(one.masks - other.masks).max() > 0.01


@pytest.mark.parametrize("settings", [{}, {"scale": 1.5}, {"mask_size": 14}])
def test_one_view_is_the_detector_itself(settings: dict[str, float]) -> None:
    detector, image = awake(**settings), noise(64, 96)
    whole, (stepwise,) = detector.detect(image, "a"), Views().detect(detector, [image], ["a"])
    assert len(whole)
    torch.testing.assert_close(torch.from_numpy(stepwise.masks), torch.from_numpy(whole.masks), atol=1e-5, rtol=1e-5)


def test_views_seen_at_once_are_views_seen_in_turn() -> None:
    detector, views = awake(), [View(0), View(1)]
    images = [noise(64, 96, seed) for seed in range(2)]
    at_once, in_turn = (detect_together(detector, images, ["a", "b"], views, batch=batch) for batch in (4, 1))
    for one, other in zip(at_once, in_turn, strict=True):
        torch.testing.assert_close(torch.from_numpy(one.masks), torch.from_numpy(other.masks), atol=1e-4, rtol=1e-4)


def test_boxes_of_any_chunk_have_the_same_masks(monkeypatch: pytest.MonkeyPatch) -> None:
    detector, image = awake(), noise(64, 96)
    wanted = detector.detect(image, "a").masks
    monkeypatch.setitem(heads._MASK_CHUNK, "cpu", 3)
    torch.testing.assert_close(torch.from_numpy(detector.detect(image, "a").masks), torch.from_numpy(wanted))


def test_a_loss_reaches_the_filters_after_the_first_step() -> None:
    detector = awake().train()
    torch.manual_seed(0)
    sum(detector([noise(64, 64)], [target(ellipses((64, 64), 5))]).values()).backward()
    for part in (detector.detail, detector.roi_heads.refine):
        assert sum(float(p.grad.abs().sum()) for p in part.parameters() if p.grad is not None) > 0


def test_each_filter_sees_five_by_five_pixels() -> None:
    detail = Detail().eval()
    image = torch.randn(1, 3, 21, 21, requires_grad=True)
    detail(image)[0, :, 10, 10].sum().backward()
    seen = torch.where(image.grad[0].abs().sum(0) > 0)
    assert all(bool((places >= 8).all() and (places <= 12).all()) for places in seen)


def test_weights_travel_and_a_training_may_start_from_a_detector_without_detail(tmp_path: Path) -> None:
    detector, image = awake(), noise(64, 96)
    save_weights(tmp_path / "own.pt", detector, {"categories": ["cell", "other"]})
    loaded, _ = load_detector(tmp_path / "own.pt")
    wanted = detector.detect(image, "a").masks
    assert (loaded.detect(image, "a").masks == wanted).all()
    found = ready(detector).detect(image, "a").masks
    torch.testing.assert_close(torch.from_numpy(found), torch.from_numpy(wanted), atol=1e-3, rtol=0)

    plain = build(score_floor=0.0)
    save_weights(tmp_path / "plain.pt", plain, {"categories": ["cell", "other"]})
    continued = build(detail=True, weights=str(tmp_path / "plain.pt"))
    initial_weights(continued)
    for name, tensor in plain.state_dict().items():
        assert torch.equal(continued.state_dict()[name], tensor)
