from __future__ import annotations

import numpy as np
import pytest
import torch
from fixtures.dense import LAW, disks
from fixtures.detectors import ellipses
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import ArrayLike, NDArray
from torchvision.models.detection.roi_heads import paste_masks_in_image, project_masks_on_boxes
from torchvision.ops import roi_align

from pipeline.masks.runs import from_dense, to_dense
from pipeline.masks.windows import paste, windows
from pipeline.model import targets
from pipeline.model.targets import mask_targets

SIZE = (40, 52)


def by_sampling(
    masks: NDArray[np.bool_], owner: list[int], boxes: torch.Tensor, bins: int, samples: int
) -> torch.Tensor:
    """The mean of the picture that is linear between pixel centres, over each bin, from samples² points in each.

    Independent of the product: dense masks, border pixels repeated outwards, one box at a time.
    """
    height, width = masks.shape[1:]
    result = torch.zeros(len(owner), bins, bins)
    share = (np.arange(bins * samples) + 0.5) / (bins * samples)
    for i, (mask, box) in enumerate(zip(owner, boxes.double().numpy(), strict=True)):
        x, y = box[0] + share * (box[2] - box[0]) - 0.5, box[1] + share * (box[3] - box[1]) - 0.5
        x0, y0 = np.floor(x).astype(int), np.floor(y).astype(int)
        dense = masks[mask].astype(float)

        def at(rows: NDArray[np.int64], columns: NDArray[np.int64], dense: NDArray[np.float64] = dense) -> object:
            return dense[np.ix_(rows.clip(0, height - 1), columns.clip(0, width - 1))]

        fy, fx = (y - y0)[:, None], (x - x0)[None]
        picture = (at(y0, x0) * (1 - fx) + at(y0, x0 + 1) * fx) * (1 - fy)
        picture = picture + (at(y0 + 1, x0) * (1 - fx) + at(y0 + 1, x0 + 1) * fx) * fy
        result[i] = torch.from_numpy(picture.reshape(bins, samples, bins, samples).mean((1, 3)))
    return result


def random_boxes(count: int, seed: int, size: tuple[int, int] = SIZE) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    low = rng.uniform(0, (size[1] - 3, size[0] - 3), (count, 2))
    high = np.minimum(low + rng.uniform(1.5, 30, (count, 2)), (size[1], size[0]))
    return torch.from_numpy(np.concatenate([low, high], 1)).float()


# Laws ---------------------------------------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), bins=st.sampled_from([4, 7, 14, 28]))
def test_targets_equal_a_dense_numerical_integration(seed: int, bins: int) -> None:
    masks = ellipses(SIZE, 4, seed)
    owner = np.random.default_rng(seed).integers(0, 4, 6)
    boxes = random_boxes(6, seed)
    found = mask_targets(windows(from_dense(masks)), torch.from_numpy(owner), boxes, bins)
    # The midpoint rule on a piecewise smooth picture is off by O(step²).
    assert (found - by_sampling(masks, owner.tolist(), boxes, bins, 24)).abs().max() < 4e-3


@pytest.mark.parametrize("seed", range(3))
def test_targets_equal_roi_align_of_the_dense_mask(seed: int) -> None:
    masks = ellipses(SIZE, 5, seed)
    owner = torch.arange(5).repeat(3)
    boxes = random_boxes(15, seed)
    rois = torch.cat([owner[:, None].float(), boxes], 1)
    dense = torch.from_numpy(masks).float()[:, None]
    wanted = roi_align(dense, rois, 14, 1.0, sampling_ratio=24, aligned=True)[:, 0]
    found = mask_targets(windows(from_dense(masks)), owner, boxes, 14)
    assert (found - wanted).abs().max() < 4e-3


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), number=st.integers(1, 7))
def test_targets_of_a_turned_or_mirrored_picture_are_turned_or_mirrored(seed: int, number: int) -> None:
    """The bits of the number: mirror x, mirror y, transpose. Boxes lie on eighths of a pixel, so mirroring is exact."""
    masks, owner = ellipses(SIZE, 4, seed), torch.from_numpy(np.random.default_rng(seed).integers(0, 4, 6))
    boxes = (random_boxes(6, seed) * 8).round() / 8
    wanted = mask_targets(windows(from_dense(masks)), owner, boxes, 14)
    if number & 1:
        masks, wanted = masks[:, :, ::-1], wanted.flip(2)
        boxes = torch.stack([SIZE[1] - boxes[:, 2], boxes[:, 1], SIZE[1] - boxes[:, 0], boxes[:, 3]], 1)
    if number & 2:
        masks, wanted = masks[:, ::-1], wanted.flip(1)
        boxes = torch.stack([boxes[:, 0], SIZE[0] - boxes[:, 3], boxes[:, 2], SIZE[0] - boxes[:, 1]], 1)
    if number & 4:
        masks, wanted, boxes = masks.transpose(0, 2, 1), wanted.transpose(1, 2), boxes[:, [1, 0, 3, 2]]
    found = mask_targets(windows(from_dense(np.ascontiguousarray(masks))), owner, boxes, 14)
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=0)


def test_a_mask_at_the_border_goes_on_beyond_it() -> None:
    masks = np.zeros((2, 10, 12), bool)
    masks[0, :4, :5] = True  # in a corner
    masks[1] = True  # the whole canvas
    boxes = torch.tensor([[0.0, 0.0, 4.0, 3.0], [0.0, 0.0, 12.0, 10.0]])
    found = mask_targets(windows(from_dense(masks)), torch.tensor([0, 1]), boxes, 8)
    torch.testing.assert_close(found, torch.ones(2, 8, 8))


def test_a_mask_inside_fades_over_one_pixel_and_nothing_goes_on() -> None:
    masks = np.zeros((1, 10, 12), bool)
    masks[0, 2:6, 3:8] = True
    found = mask_targets(windows(from_dense(masks)), torch.tensor([0]), torch.tensor([[2.0, 3.0, 4.0, 5.0]]), 4)
    # Half-pixel bins from 2 to 4; the picture rises from 0 at x = 2.5 to 1 at x = 3.5.
    wanted = torch.tensor([0.0, 0.25, 0.75, 1.0]).expand(4, 4)
    torch.testing.assert_close(found[0], wanted)


@pytest.mark.parametrize("budget", [1, 2_000, 1 << 30])
def test_chunks_change_nothing(budget: int, monkeypatch: pytest.MonkeyPatch) -> None:
    masks = ellipses(SIZE, 12, 1)
    cut, owner, boxes = windows(from_dense(masks)), torch.arange(12).repeat(4), random_boxes(48, 1)
    wanted = torch.cat([mask_targets(cut, owner[i : i + 1], boxes[i : i + 1], 14) for i in range(48)])
    monkeypatch.setattr(targets, "_BUDGET", budget)
    torch.testing.assert_close(mask_targets(cut, owner, boxes, 14), wanted, atol=1e-6, rtol=0)


@settings(max_examples=20, deadline=None)
@given(dx=st.integers(-6, 6), dy=st.integers(-6, 6), seed=st.integers(0, 1000))
def test_mask_and_box_shifted_together_give_the_same_target(dx: int, dy: int, seed: int) -> None:
    masks = np.zeros((1, 40, 40), bool)
    masks[0, 10:30, 10:30] = ellipses((20, 20), 1, seed)[0]
    moved = np.roll(masks, (dy, dx), (1, 2))
    box = random_boxes(1, seed, (20, 20)) + 10
    before = mask_targets(windows(from_dense(masks)), torch.tensor([0]), box, 14)
    after = mask_targets(windows(from_dense(moved)), torch.tensor([0]), box + torch.tensor([dx, dy, dx, dy]), 14)
    torch.testing.assert_close(after, before, atol=2e-5, rtol=0)


@pytest.mark.parametrize("shift", [0.1, 0.25, 0.5, 0.9])
def test_a_box_shifted_by_part_of_a_pixel_shifts_the_target_by_as_much(shift: float) -> None:
    masks = np.zeros((1, 40, 40), bool)
    masks[0, 8:30, 12:33] = True
    box = torch.tensor([[6.0, 6.0, 38.0, 38.0]])
    cut, owner = windows(from_dense(masks)), torch.tensor([0])
    axis = torch.arange(32) + 0.5
    centres = []
    for offset in (0.0, shift):
        picture = mask_targets(cut, owner, box + offset, 32)[0]
        centres.append(((picture.sum(0) * axis).sum() / picture.sum(), (picture.sum(1) * axis).sum() / picture.sum()))
    torch.testing.assert_close(torch.tensor(centres[0]) - torch.tensor(centres[1]), torch.tensor([shift, shift]))


def test_the_target_keeps_the_area() -> None:
    masks = np.zeros((3, 60, 60), bool)
    masks[:, 16:44, 16:44] = ellipses((28, 28), 3, 5)
    box = torch.tensor([[10.3, 11.7, 50.1, 49.2]]).expand(3, 4)
    found = mask_targets(windows(from_dense(masks)), torch.arange(3), box, 28)
    pixel = (50.1 - 10.3) * (49.2 - 11.7) / 28**2
    torch.testing.assert_close(
        found.sum((1, 2)) * pixel, torch.from_numpy(masks.sum((1, 2))).float(), rtol=1e-4, atol=0
    )


# torchvision's own ---------------------------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), bins=st.sampled_from([7, 14, 28, 56]), count=st.integers(1, 12))
def test_targets_in_torchvisions_alignment_are_its_own(seed: int, bins: int, count: int) -> None:
    masks = ellipses(SIZE, 4, seed)
    owner = torch.from_numpy(np.random.default_rng(seed).integers(0, 4, count))
    boxes = random_boxes(count, seed)
    boxes[0] = torch.tensor([0.0, 0.0, SIZE[1], SIZE[0]])  # reaches all borders
    theirs = project_masks_on_boxes(torch.from_numpy(masks).to(torch.uint8), boxes, owner, bins)
    found = mask_targets(windows(from_dense(masks)), owner, boxes, bins, "torchvision")
    torch.testing.assert_close(found, theirs, atol=3e-5, rtol=0)


def test_targets_in_torchvisions_alignment_of_masks_on_every_border() -> None:
    masks = np.zeros((5, *SIZE), bool)
    masks[0, :6, :9], masks[1, -6:, -9:], masks[2, :4, -1:], masks[3, -1:, :4], masks[4] = True, True, True, True, True
    cut = windows(from_dense(masks))
    boxes = torch.from_numpy(cut.boxes).float() + torch.tensor([0.0, 0.0, 0.0, 0.0])
    boxes = torch.cat([boxes, torch.tensor([[0.3, 0.2, 12.7, 9.1], [40.5, 30.1, 52.0, 40.0]])])
    owner = torch.tensor([0, 1, 2, 3, 4, 0, 1])
    theirs = project_masks_on_boxes(torch.from_numpy(masks).to(torch.uint8), boxes, owner, 28)
    torch.testing.assert_close(mask_targets(cut, owner, boxes, 28, "torchvision"), theirs, atol=3e-5, rtol=0)


def test_an_unknown_alignment_is_refused() -> None:
    cut = windows(from_dense(ellipses(SIZE, 1)))
    with pytest.raises(KeyError, match="nearly"):
        mask_targets(cut, torch.tensor([0]), random_boxes(1, 0), 28, "nearly")  # type: ignore[arg-type]


# The way back -------------------------------------------------------------------------------------------------------


def way_back(masks: NDArray[np.bool_], bins: int, shift: ArrayLike = 0) -> NDArray[np.float64]:
    """IoU of each mask with what its own target, pasted, gives back; shift: of the boxes' sides, in pixels."""
    cut = windows(from_dense(masks))
    boxes = torch.from_numpy(cut.boxes + np.asarray(shift, np.float32))
    soft = mask_targets(cut, torch.arange(len(masks)), boxes, bins).numpy()
    back = to_dense(paste(soft, boxes.numpy(), masks.shape[1:]))
    return (masks & back).sum((1, 2)) / (masks | back).sum((1, 2))


def blobs() -> NDArray[np.bool_]:
    """Ellipses and bars of 16 to 60 pixels, bool (N, 96, 96); the first three touch the border."""
    y, x = np.mgrid[:96, :96]
    rng = np.random.default_rng(4)
    masks = [y + x < 40, (x < 30) & (y > 60), (y - 95) ** 2 + (x - 50) ** 2 < 900]
    for _ in range(12):
        a, b, angle = *rng.uniform(8, 28, 2), rng.uniform(0, np.pi)
        cy, cx = rng.uniform(32, 64, 2)
        u, v = (x - cx) * np.cos(angle) + (y - cy) * np.sin(angle), (y - cy) * np.cos(angle) - (x - cx) * np.sin(angle)
        masks.append((u / a) ** 2 + (v / b) ** 2 <= 1)
    return np.stack(masks)


def test_pasting_the_target_gives_the_mask_back() -> None:
    assert way_back(blobs(), 28).min() > 0.95


@LAW
@given(st.integers(0, 2**32 - 1))
def test_a_box_off_by_less_than_half_a_pixel_gives_every_small_mask_back_exactly(seed: int) -> None:
    """28 bins over at most 16 pixels: a mask that ends at its box stays out of pixels that the box just touches."""
    rng = np.random.default_rng(seed)
    masks = np.concatenate([disks(8, (40, 44), seed, radius=8), bars(rng, 8)])
    masks = masks[masks.any((1, 2))]
    assert (way_back(masks, 28, rng.uniform(-0.45, 0.45, (len(masks), 4)).astype(np.float32)) == 1).all()


def bars(rng: np.random.Generator, count: int) -> NDArray[np.bool_]:
    """Upright rectangles of 2 to 16 pixels a side, bool (N, 40, 44), away from the border."""
    y, x = np.mgrid[:40, :44]
    low, side = rng.integers(3, 20, (count, 2, 1, 1)), rng.integers(2, 17, (count, 2, 1, 1))
    return (y >= low[:, 0]) & (y < low[:, 0] + side[:, 0]) & (x >= low[:, 1]) & (x < low[:, 1] + side[:, 1])


def test_pasting_gives_the_mask_back_from_boxes_that_are_off_as_well() -> None:
    assert way_back(blobs()[3:], 28, (-1.3, -0.8, 0.6, 2.1)).min() > 0.95


def test_more_bins_give_the_mask_back_better() -> None:
    means = [way_back(blobs(), bins).mean() for bins in (7, 14, 28, 56)]
    assert means == sorted(means)
    assert means[-1] > 0.99


def test_torchvisions_own_target_is_coarser() -> None:
    """Why this module exists: torchvision rounds boxes to pixels on the way there and back."""
    masks = blobs()
    dense, count = torch.from_numpy(masks), len(masks)
    boxes = torch.from_numpy(windows(from_dense(masks)).boxes).float()
    soft = project_masks_on_boxes(dense, boxes, torch.arange(count), 28)
    back = paste_masks_in_image(soft[:, None], boxes, masks.shape[1:])[:, 0].numpy() > 0.5
    theirs = (masks & back).sum((1, 2)) / (masks | back).sum((1, 2))
    assert way_back(blobs(), 28).mean() > theirs.mean() + 0.01


# Empty and odd ------------------------------------------------------------------------------------------------------


def test_no_boxes_give_no_targets() -> None:
    cut = windows(from_dense(ellipses(SIZE, 2)))
    found = mask_targets(cut, torch.zeros(0, dtype=torch.int64), torch.zeros(0, 4), 28)
    assert found.shape == (0, 28, 28)
    assert found.dtype == torch.float32
    none = windows(from_dense(np.zeros((0, 8, 8), bool)))
    assert mask_targets(none, torch.zeros(0, dtype=torch.int64), torch.zeros(0, 4), 28).shape == (0, 28, 28)


def test_an_empty_mask_has_an_empty_target() -> None:
    masks = np.zeros((2, 8, 8), bool)
    masks[1, 2:5, 2:5] = True
    boxes = torch.tensor([[0.0, 0.0, 4.0, 4.0]])
    assert mask_targets(windows(from_dense(masks)), torch.tensor([0]), boxes, 4).abs().sum() == 0
    assert mask_targets(windows(from_dense(masks[:1])), torch.tensor([0]), boxes, 4).abs().sum() == 0


def test_a_box_beside_its_mask_and_one_without_area_are_no_trouble() -> None:
    masks = np.zeros((1, 20, 20), bool)
    masks[0, 2:6, 2:6] = True
    boxes = torch.tensor([[12.0, 12.0, 18.0, 18.0], [4.0, 4.0, 4.0, 4.0]])
    found = mask_targets(windows(from_dense(masks)), torch.zeros(2, dtype=torch.int64), boxes, 6)
    assert found[0].abs().sum() == 0
    assert torch.isfinite(found).all()
    assert found.min() >= 0
    assert found.max() <= 1


def test_the_windows_are_not_modified() -> None:
    cut = windows(from_dense(ellipses(SIZE, 3)))
    before = cut.data.copy()
    mask_targets(cut, torch.arange(3), random_boxes(3, 0), 14)
    np.testing.assert_array_equal(cut.data, before)
