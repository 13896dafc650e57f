from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from fixtures.dense import LAW
from fixtures.detectors import build, ellipses, noise, target
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional
from torchvision.models.detection.roi_heads import fastrcnn_loss

from pipeline.errors import ConfigError
from pipeline.masks.runs import from_dense
from pipeline.masks.windows import windows
from pipeline.model.heads import mask_loss
from pipeline.model.losses import MASK_LOSSES, class_loss, dice, lovasz, weights_of

KINDS = sorted(MASK_LOSSES)
SEEDS = st.integers(0, 9999)


def drawn(seed: int, count: int = 3, side: int = 6, soft: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits and targets; soft ones lie anywhere between 0 and 1."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(count, side, side, generator=generator) * 3
    targets = torch.rand(count, side, side, generator=generator)
    return logits, targets if soft else targets.round()


# Laws of every mask loss --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@given(seed=SEEDS)
@LAW
def test_sure_and_right_costs_nothing_and_sure_and_wrong_a_lot(kind: str, seed: int) -> None:
    _, targets = drawn(seed)
    sure = (2 * targets - 1) * 30
    assert 0 <= float(MASK_LOSSES[kind](sure, targets)) < 1e-5
    assert float(MASK_LOSSES[kind](-sure, targets)) > 0.9


@pytest.mark.parametrize("kind", KINDS)
@given(seed=SEEDS, soft=st.booleans())
@LAW
def test_the_order_of_pixels_and_of_boxes_does_not_matter(kind: str, seed: int, soft: bool) -> None:
    logits, targets = drawn(seed, soft=soft)
    order = torch.from_numpy(np.random.default_rng(seed).permutation(36))
    shuffled = [one.flatten(1)[:, order].view_as(one).flip(0) for one in (logits, targets)]
    torch.testing.assert_close(MASK_LOSSES[kind](*shuffled), MASK_LOSSES[kind](logits, targets))


@pytest.mark.parametrize("kind", KINDS)
@given(seed=SEEDS)
@LAW
def test_a_loss_is_the_mean_over_its_boxes(kind: str, seed: int) -> None:
    logits, targets = drawn(seed, soft=True)
    alone = [MASK_LOSSES[kind](logits[i : i + 1], targets[i : i + 1]) for i in range(3)]
    torch.testing.assert_close(MASK_LOSSES[kind](logits, targets), torch.stack(alone).mean())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(3))
def test_the_gradient_is_that_of_finite_differences(kind: str, seed: int) -> None:
    logits, targets = (one.double() for one in drawn(seed, 2, 3, soft=True))
    assert torch.autograd.gradcheck(lambda given: MASK_LOSSES[kind](given, targets), logits.requires_grad_())


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_down_the_gradient_makes_every_loss_smaller(kind: str) -> None:
    logits, targets = drawn(7, soft=True)
    loss = MASK_LOSSES[kind](logits.requires_grad_(), targets)
    (slope,) = torch.autograd.grad(loss, logits)
    assert MASK_LOSSES[kind](logits - 0.1 * slope, targets) < loss


# Independent implementations ----------------------------------------------------------------------------------------


def jaccard_loss(wrong: set[int], foreground: set[int]) -> float:
    """1 - intersection / union of the prediction in which just these pixels are wrong; equation 4 of the paper."""
    return len(wrong) / len(foreground | wrong) if foreground | wrong else 0.0


def lovasz_by_sets(logits: torch.Tensor, targets: torch.Tensor) -> float:
    """Definition 1 of the paper with hinge errors, set by set."""
    total = 0.0
    for one, wanted in zip(logits.flatten(1).tolist(), (targets >= 0.5).flatten(1).tolist(), strict=True):
        foreground = {i for i, inside in enumerate(wanted) if inside}
        errors = [max(0.0, 1 - value * (1 if i in foreground else -1)) for i, value in enumerate(one)]
        order = sorted(range(len(one)), key=lambda i: -errors[i])
        for k, i in enumerate(order):
            total += errors[i] * (
                jaccard_loss(set(order[: k + 1]), foreground) - jaccard_loss(set(order[:k]), foreground)
            )
    return total / len(logits)


@given(SEEDS, st.booleans())
@LAW
def test_the_lovasz_hinge_is_the_extension_of_the_jaccard_loss(seed: int, soft: bool) -> None:
    logits, targets = drawn(seed, 2, 4, soft)
    assert float(lovasz(logits, targets)) == pytest.approx(lovasz_by_sets(logits, targets), rel=1e-5, abs=1e-6)


def test_the_lovasz_hinge_of_whole_errors_is_the_jaccard_loss() -> None:
    """It extends a function of sets: where every error is 0 or 1, it is that function. All sets of four pixels."""
    for wrong, wanted in itertools.product(itertools.product([0, 1], repeat=4), repeat=2):
        targets = torch.tensor(wanted, dtype=torch.float32)
        errors = torch.tensor(wrong, dtype=torch.float32)
        logits = (1 - errors) * (2 * targets - 1)
        sets = [{i for i in range(4) if values[i]} for values in (wrong, wanted)]
        assert float(lovasz(logits.view(1, 2, 2), targets.view(1, 2, 2))) == pytest.approx(jaccard_loss(*sets))


@given(SEEDS, st.booleans())
@LAW
def test_dice_is_the_formula_box_by_box(seed: int, soft: bool) -> None:
    logits, targets = drawn(seed, soft=soft)
    wanted = []
    for one, truth in zip(logits.double().numpy(), targets.double().numpy(), strict=True):
        p = 1 / (1 + np.exp(-one))
        wanted.append(1 - (2 * (p * truth).sum() + 1) / ((p**2).sum() + (truth**2).sum() + 1))
    assert float(dice(logits, targets)) == pytest.approx(np.mean(wanted), rel=1e-5, abs=1e-6)


@given(SEEDS)
@LAW
def test_a_soft_target_is_best_matched_by_itself(seed: int) -> None:
    _, targets = drawn(seed, soft=True)
    targets = targets.clamp(0.01, 0.99)
    own = targets.logit().requires_grad_()
    (slope,) = torch.autograd.grad(dice(own, targets), own)
    assert float(dice(own.detach(), targets)) == pytest.approx(0, abs=1e-6)
    assert slope.abs().max() < 1e-6


def test_golden_values() -> None:
    targets = torch.tensor([[[1.0, 1.0], [0.0, 0.0]]])
    unsure = torch.zeros(1, 2, 2)
    assert float(MASK_LOSSES["bce"](unsure, targets)) == pytest.approx(np.log(2))
    # p = 1/2: 1 - (2 · 1 + 1) / (1 + 2 + 1).
    assert float(dice(unsure, targets)) == pytest.approx(0.25)
    assert float(MASK_LOSSES["bce_dice"](unsure, targets)) == pytest.approx(np.log(2) + 0.25)
    # All errors are 1: the Jaccard loss of everything being wrong.
    assert float(lovasz(unsure, targets)) == pytest.approx(1)
    # One of two foreground bins missed by a margin of 1 (error 2), the rest right: 2 · (1 - 1/2).
    assert float(lovasz(torch.tensor([[[5.0, -1.0], [-5.0, -5.0]]]), targets)) == pytest.approx(1)


@pytest.mark.parametrize("kind", KINDS)
def test_a_box_without_foreground_has_a_finite_loss_and_gradient(kind: str) -> None:
    logits = torch.zeros(2, 4, 4, requires_grad=True)
    loss = MASK_LOSSES[kind](logits, torch.zeros(2, 4, 4))
    loss.backward()
    assert float(loss.detach()) > 0
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()
    assert logits.grad.min() >= 0
    assert logits.grad.max() > 0


# In the heads -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_no_boxes_cost_nothing_and_have_a_gradient(kind: str) -> None:
    logits = torch.zeros(0, 28, 28, requires_grad=True)
    cut = windows(from_dense(ellipses((20, 20), 1)))
    loss = mask_loss(logits, [cut], [torch.zeros(0, dtype=torch.int64)], [], kind=kind)
    loss.backward()
    assert loss.item() == 0


def losses(**changes: object) -> dict[str, torch.Tensor]:
    detector = build(**changes).train()
    torch.manual_seed(0)
    result: dict[str, torch.Tensor] = detector([noise(64, 64)], [target(ellipses((64, 64), 5), [1, 2, 1, 2, 2])])
    return result


def test_only_the_chosen_loss_changes() -> None:
    plain = losses()
    for kind in KINDS:
        chosen = losses(mask_loss=kind)
        assert (chosen["loss_mask"] == plain["loss_mask"]) == (kind == "bce")
        assert all(torch.equal(chosen[name], plain[name]) for name in plain if name != "loss_mask")
        sum(chosen.values()).backward()
    weighted = losses(class_weights=(1.0, 5.0, 0.1))
    assert weighted["loss_classifier"] != plain["loss_classifier"]
    assert all(torch.equal(weighted[name], plain[name]) for name in plain if name != "loss_classifier")


def test_equal_class_weights_are_torchvisions_loss() -> None:
    for weight in (1.0, 3.0):
        found = losses(class_weights=(weight,) * 3)["loss_classifier"]
        torch.testing.assert_close(found, losses()["loss_classifier"])


@given(SEEDS)
@LAW
def test_class_weights_weigh_each_box_by_its_class(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits, labels = torch.randn(9, 3, generator=generator), torch.randint(0, 3, (9,), generator=generator)
    weights = torch.rand(3, generator=generator) + 0.1
    each = functional.cross_entropy(logits, labels, reduction="none")
    wanted = (each * weights[labels]).sum() / weights[labels].sum()
    torch.testing.assert_close(class_loss(logits, labels, weights), wanted)
    even = fastrcnn_loss(logits, torch.zeros(9, 12), [labels], [torch.zeros(9, 4)])[0]
    torch.testing.assert_close(class_loss(logits, labels, torch.ones(3)), even)


def test_class_weights_are_no_part_of_the_weights_file() -> None:
    assert set(build(class_weights=(1.0, 2.0, 3.0)).state_dict()) == set(build().state_dict())


@pytest.mark.parametrize(
    ("given_", "message"),
    [
        ((1.0, 2.0), r"wanted 3, one for the background and one for each category, got 2: \[1.0, 2.0\]"),
        ((1.0, 0.0, 1.0), r"wanted numbers above 0, got \[1.0, 0.0, 1.0\]"),
        ((1.0, float("nan"), 1.0), "wanted numbers above 0"),
    ],
)
def test_class_weights_that_cannot_be_meant_are_refused(given_: tuple[float, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=f"model.class_weights: {message}"):
        weights_of(given_, 3)
