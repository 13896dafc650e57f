from __future__ import annotations

import dataclasses
import hashlib
import io
import itertools
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fixtures.detectors import ellipses
from numpy.typing import NDArray
from PIL import Image
from torch.utils.data import DataLoader

from pipeline.data.annotations import gather
from pipeline.data.augment import Augment, light, picture, place
from pipeline.data.dataset import Sample, TrainingSamples, as_tensor, read_image
from pipeline.data.sampling import Positions
from pipeline.errors import InputError
from pipeline.masks.runs import from_dense, to_coco
from pipeline.masks.windows import Windows

AUGMENT = Augment(
    crop=32, symmetries=True, brightness=0.2, contrast=0.2, gamma=0.3, invert=0.2, grey=0.2, min_area=4, min_share=0.1
)
FREE = dataclasses.replace(AUGMENT, rotation=180.0, scale=0.5, stretch=0.2, shear=5.0)
BARE = dataclasses.replace(AUGMENT, brightness=0, contrast=0, gamma=0, invert=0, grey=0)
SIZES = {"a": (60, 80), "b": (48, 40), "c": (20, 24)}
COUNTS = {"a": 12, "b": 0, "c": 3}


def code(size: tuple[int, int]) -> NDArray[np.uint8]:
    """A picture that says of each pixel where it was: red the row, green the column, blue never 0."""
    y, x = np.mgrid[: size[0], : size[1]]
    return np.stack([y, x, np.full(size, 200)], 2).astype(np.uint8)


def truth(name: str) -> NDArray[np.bool_]:
    return ellipses(SIZES[name], COUNTS[name], 5)


@pytest.fixture(scope="module")
def contest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("contest")
    for name, size in SIZES.items():
        Image.fromarray(code(size)).save(root / f"{name}.png")
    return root


def samples(contest: Path, augment: Augment = AUGMENT, seed: int = 0) -> TrainingSamples:
    return TrainingSamples(contest, gather(coco(), list(SIZES)), augment, seed)


def coco() -> dict[str, Any]:
    """The COCO dict of the pictures; categories 1, 2 and 3 in turn."""
    images, found = [], []
    for number, (name, (height, width)) in enumerate(SIZES.items(), 1):
        images.append({"id": number, "name": name, "file_name": f"{name}.png", "height": height, "width": width})
        found += [
            {"image_id": number, "category_id": 1 + i % 3, "segmentation": {"size": [height, width], "counts": counts}}
            for i, counts in enumerate(to_coco(from_dense(truth(name))))
        ]
    return {"images": images, "annotations": found}


def opened(masks: Windows) -> NDArray[np.bool_]:
    """Dense masks (N, H, W) of windows, pixel by pixel as their docstring says."""
    dense = np.zeros((len(masks), *masks.size), bool)
    for i, ((x0, y0, x1, y1), begin) in enumerate(zip(masks.boxes.tolist(), masks.offset.tolist(), strict=True)):
        part = masks.data[begin : begin + (x1 - x0) * (y1 - y0)]
        dense[i, y0:y1, x0:x1] = part.reshape(x1 - x0, y1 - y0).T
    return dense


def same(one: Sample, two: Sample) -> bool:
    pairs = [
        (one.image, two.image),
        (one.target["boxes"], two.target["boxes"]),
        (one.target["labels"], two.target["labels"]),
    ]
    masks = [
        (one.target["masks"].data, two.target["masks"].data),
        (one.target["masks"].boxes, two.target["masks"].boxes),
    ]
    return all(torch.equal(a, b) for a, b in pairs) and all(np.array_equal(a, b) for a, b in masks)


# What is drawn ------------------------------------------------------------------------------------------------------


def digest(contest: Path, augment: Augment, pixels: bool) -> str:
    data, found = samples(contest, augment), hashlib.sha256()
    for position, index in itertools.product(range(8), range(3)):
        one = data[position, index]
        masks = one.target["masks"]
        parts = [one.image.contiguous().numpy()] if pixels else []
        parts += [masks.boxes.astype("<i8"), masks.data, one.target["labels"].numpy(), one.target["boxes"].numpy()]
        for part in parts:
            found.update(part.tobytes())
    return found.hexdigest()


def test_samples_are_those_of_the_first_release(contest: Path) -> None:
    """What came later is off unless asked for: a training that is repeated sees the same crops, bit for bit."""
    assert digest(contest, BARE, True) == "0a766db4dba97d1925cd29f7ce2b798df0d79560a09cc9c6abcce50186042131"
    assert digest(contest, FREE, False) == "e1ce41f1f36caf003846340de12b8b4c079476e5b3d0ce25dc9a696e40e1ba95"


@pytest.mark.parametrize("augment", [AUGMENT, FREE])
def test_a_plain_sample_draws_a_place_and_a_light_and_nothing_else(contest: Path, augment: Augment) -> None:
    data = samples(contest, augment)
    for position in range(6):
        rng = np.random.default_rng((0, position, 2))
        matrix, size = place(SIZES["c"], augment, rng)
        wanted = light(picture(code(SIZES["c"]), matrix, size), augment, rng)
        one = data[position, 2]
        if len(one.target["labels"]):  # else it was drawn again
            np.testing.assert_array_equal(one.image.permute(1, 2, 0).numpy(), wanted)


EVERYTHING = dataclasses.replace(
    FREE, around=0.5, around_by="class", often=0.7, elastic=3.0, elastic_every=14.0, blur=1.0, noise=0.05, grain=0.05,
    hue=0.1, saturation=0.3, tint=0.1, mosaic=0.4, paste=0.7, paste_from="class", paste_blur=0.8,
)  # fmt: skip


def numbered(contest: Path, augment: Augment, coco_: dict[str, Any] | None = None) -> TrainingSamples:
    """Samples of pictures that say of each pixel where it was, and in blue, in which image: 100, 101, 102."""
    files = {f"{name}.png": i for i, name in enumerate(SIZES)}

    def pixels(file: str) -> NDArray[np.uint8]:
        image = code(SIZES[file[0]])
        image[..., 2] = 100 + files[file]
        return image

    return TrainingSamples(contest, gather(coco_ or coco(), list(SIZES)), augment, 0, pixels)


def depths(one: Sample) -> tuple[Any, Any, Any]:
    """Of each pixel that shows an image: its number, how many masks of each class hold it, and how many should."""
    image = one.image.permute(1, 2, 0).numpy().astype(int)
    inside = image[..., 2] >= 100
    row, column, number = image[inside].T
    found = np.zeros((len(row), 3), int)
    for mask, label in zip(opened(one.target["masks"]), one.target["labels"].tolist(), strict=True):
        found[:, label - 1] += mask[inside]
        assert not mask[~inside].any()
    wanted = np.zeros_like(found)
    for i, name in enumerate(SIZES):
        own = number == 100 + i
        for k, mask in enumerate(truth(name)):
            wanted[own, k % 3] += mask[row[own], column[own]]
    return number - 100, found, wanted


def test_a_mosaic_shows_each_pixel_with_the_masks_of_the_image_it_is_from(contest: Path) -> None:
    data = numbered(contest, dataclasses.replace(BARE, crop=30, min_area=0, min_share=0, mosaic=1.0))
    several = 0
    for position, index in itertools.product(range(12), range(3)):
        number, found, wanted = depths(data[position, index])
        np.testing.assert_array_equal(found, wanted)
        assert index in number
        several += len(set(number.tolist())) > 1
    assert several > 25


@pytest.mark.parametrize("source", ["any", "class", "same"])
def test_pasted_instances_bring_their_pixels_and_hide_what_was_there(contest: Path, source: Any) -> None:
    wanted_spec = dataclasses.replace(BARE, crop=30, min_area=0, min_share=0, paste=1.0, paste_from=source)
    data = numbered(contest, wanted_spec)
    brought = 0
    for position, index in itertools.product(range(12), range(3)):
        number, found, wanted = depths(data[position, index])
        guest = number != index
        if source != "same" and guest.any():
            np.testing.assert_array_equal(found[~guest], wanted[~guest])
        # A pixel of another image is there because a pasted instance holds it; not every mask of it was pasted.
        assert (found[guest] <= wanted[guest]).all()
        assert (found[guest].sum(1) > 0).all()
        brought += bool(guest.any())
    assert (brought > 5) == (source != "same")


def test_a_pasted_instance_of_the_same_image_is_one_more(contest: Path) -> None:
    plain = dataclasses.replace(BARE, crop=30, min_area=0, min_share=0, paste_from="same")
    one, two = (numbered(contest, dataclasses.replace(plain, paste=share)) for share in (0.0, 1.0))
    counts = [[len(data[position, 0].target["labels"]) for position in range(12)] for data in (one, two)]
    assert sum(counts[1]) > sum(counts[0])


def test_within_a_class_only_instances_of_shared_classes_are_pasted(contest: Path) -> None:
    """Image a holds the classes 1, 2 and 3, image c is left with class 2; b has none and stays empty."""
    left = coco()
    left["annotations"] = [r for r in left["annotations"] if r["image_id"] == 1 or r["category_id"] == 2]
    spec = dataclasses.replace(BARE, crop=30, min_area=0, min_share=0, paste=1.0, paste_from="class")
    data = numbered(contest, spec, left)
    for position in range(20):
        assert set(data[position, 2].target["labels"].tolist()) <= {2}
        assert len(data[position, 1].target["labels"]) == 0
    assert any((data[position, 2].image[2] == 100).any() for position in range(20))


def lonely() -> dict[str, Any]:
    """One image of 300×300: twenty small instances of class 1 in a corner, one of class 2 in the opposite one."""
    masks = np.zeros((21, 300, 300), bool)
    for i in range(20):
        masks[i, 10 + i, 10 : 20 + i] = True
    masks[20, 280:284, 280:284] = True
    entry = {"id": 1, "name": "wide", "file_name": "wide.png", "height": 300, "width": 300}
    counts = to_coco(from_dense(masks))
    rows = [
        {"image_id": 1, "category_id": 1 + i // 20, "segmentation": {"size": [300, 300], "counts": text}}
        for i, text in enumerate(counts)
    ]
    return {"images": [entry], "annotations": rows}


@pytest.mark.parametrize("free", [False, True])
def test_crops_around_instances_are_never_empty_and_may_prefer_rare_classes(contest: Path, free: bool) -> None:
    plain = dataclasses.replace(FREE if free else AUGMENT, min_share=0)
    seen = {}
    for around, by in ((0.0, "instance"), (1.0, "instance"), (1.0, "class")):
        augment = dataclasses.replace(plain, around=around, around_by=by)
        data = TrainingSamples(
            contest, gather(lonely(), ["wide"]), augment, 0, lambda _: np.zeros((300, 300, 1), np.uint8)
        )
        seen[around, by] = [set(data[position, 0].target["labels"].tolist()) for position in range(80)]
    assert sum(not labels for labels in seen[0.0, "instance"]) > 10
    assert all(seen[1.0, "instance"])
    assert all(seen[1.0, "class"])
    assert 1 <= sum(2 in labels for labels in seen[1.0, "instance"]) < 15
    assert 25 < sum(2 in labels for labels in seen[1.0, "class"]) < 55


# A sample -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("augment", [AUGMENT, FREE, EVERYTHING])
def test_a_sample_is_a_function_of_seed_position_and_image(contest: Path, augment: Augment) -> None:
    data, again = samples(contest, augment), samples(contest, augment)
    again[3, 0], again[9, 2]  # what was asked for before does not matter
    assert same(data[7, 0], again[7, 0])
    assert not same(data[7, 0], data[8, 0])
    assert not same(data[7, 0], samples(contest, augment, seed=1)[7, 0])
    torch.manual_seed(99)
    np.random.default_rng(99)
    assert same(data[7, 0], again[7, 0])


@pytest.mark.parametrize("augment", [AUGMENT, FREE, EVERYTHING])
def test_workers_give_the_same_samples_in_the_same_order(contest: Path, augment: Augment) -> None:
    data = samples(contest, augment)
    loaders = [
        DataLoader(data, 2, sampler=Positions(3, 6, 0, lambda: 0), num_workers=workers, collate_fn=list)
        for workers in (0, 2)
    ]
    for one, two in zip(*loaders, strict=True):
        assert [s.image_id for s in one] == [s.image_id for s in two]
        assert all(same(a, b) for a, b in zip(one, two, strict=True))


def test_a_sample_has_the_form_that_the_detector_takes(contest: Path) -> None:
    sample = samples(contest)[0, 0]
    assert (sample.image.dtype, tuple(sample.image.shape)) == (torch.uint8, (3, 32, 32))
    assert sample.image.is_contiguous()
    count = len(sample.target["labels"])
    assert count > 0
    assert (sample.target["labels"].dtype, sample.target["boxes"].dtype) == (torch.int64, torch.float32)
    assert sample.target["boxes"].shape == (count, 4)
    assert sample.target["masks"].size == (32, 32)
    assert sample.image_id == "a"
    assert sample.to(torch.device("cpu")).target.keys() == sample.target.keys()


def wanted(sample: Sample, name: str, augment: Augment) -> tuple[list[bytes], set[int]]:
    """Masks that the picture itself says belong to it, and which instances they are."""
    row, column, blue = sample.image.numpy().astype(int)
    inside = blue > 0
    dense = truth(name)
    moved = dense[:, row.clip(0, dense.shape[1] - 1), column.clip(0, dense.shape[2] - 1)] & inside
    areas, left = dense.sum((1, 2)), moved.sum((1, 2))
    keep = (left >= augment.min_area) & (left >= augment.min_share * areas)
    return sorted(mask.tobytes() for mask in moved[keep]), set(np.flatnonzero(keep).tolist())


@pytest.mark.parametrize("crop", [32, 50, None])
@pytest.mark.parametrize("name", ["a", "c"])
def test_masks_lie_where_the_pixels_of_the_picture_came_from(contest: Path, name: str, crop: int | None) -> None:
    """All crops and symmetries against the dense truth, looked up by the places that the picture carries."""
    augment = dataclasses.replace(BARE, crop=crop)
    data, index = samples(contest, augment), list(SIZES).index(name)
    views = set()
    for position in range(60):
        sample = data[position, index]
        found = opened(sample.target["masks"])
        masks, _ = wanted(sample, name, augment)
        assert sorted(mask.tobytes() for mask in found) == masks
        boxes = [[*np.argwhere(m.T).min(0), *(np.argwhere(m.T).max(0) + 1)] for m in found]
        np.testing.assert_array_equal(sample.target["boxes"], np.array(boxes, np.float32).reshape(-1, 4))
        row, column = sample.image[0].int(), sample.image[1].int()
        steps = (int(row[1, 0] - row[0, 0]), int(row[0, 1] - row[0, 0]), int(column[0, 1] - column[0, 0]))
        padded = crop is not None and crop > min(SIZES[name])
        if not padded:
            views.add((*steps, int(column[1, 0] - column[0, 0])))
    assert padded or len(views) == 8


@pytest.mark.parametrize("name", ["a", "c"])
def test_affine_samples_hold_the_dense_masks_looked_up_by_their_map(contest: Path, name: str) -> None:
    """Nearest neighbour by an index into the dense truth, with the map that the sample's own generator gives."""
    augment = dataclasses.replace(FREE, brightness=0, contrast=0, gamma=0, invert=0, grey=0)
    data, index, overlaps = samples(contest, augment), list(SIZES).index(name), 0
    for position in range(40):
        sample = data[position, index]
        matrix, size = place(SIZES[name], augment, np.random.default_rng((0, position, index)))
        y, x = np.mgrid[: size[0], : size[1]] + 0.5
        column, row = (np.floor(a * x + b * y + c).astype(int) for a, b, c in matrix)
        inside = (row >= 0) & (row < SIZES[name][0]) & (column >= 0) & (column < SIZES[name][1])
        dense = truth(name)
        moved = dense[:, row.clip(0, SIZES[name][0] - 1), column.clip(0, SIZES[name][1] - 1)] & inside
        left, expected = moved.sum((1, 2)), dense.sum((1, 2)) / abs(np.linalg.det(matrix[:, :2]))
        keep = (left >= augment.min_area) & (left >= augment.min_share * expected)
        if not keep.any():
            continue  # drawn again
        found = opened(sample.target["masks"])
        np.testing.assert_array_equal(found, moved[keep])
        assert sample.target["labels"].tolist() == [1 + i % 3 for i in np.flatnonzero(keep)]
        overlaps += int((found.sum(0) > 1).sum())
        # The picture says where its pixels came from; one of full blue has next to nothing of the black beyond it.
        clear, wanted_row = sample.image[2].numpy() == 200, matrix[1, 0] * x + matrix[1, 1] * y + matrix[1, 2]
        assert np.abs(sample.image[0].numpy() + 0.5 - wanted_row)[clear].max() <= 0.56
    assert overlaps > 0


@pytest.mark.parametrize("augment", [AUGMENT, FREE])
def test_pixels_may_come_from_anywhere_and_have_one_channel_where_all_are_equal(
    contest: Path, augment: Augment
) -> None:
    grey = {f"{name}.png": code(size)[:, :, :1] for name, size in SIZES.items()}
    truths = samples(contest).annotations
    one, three = (
        TrainingSamples(contest, truths, augment, 0, pixels)
        for pixels in (grey.__getitem__, lambda name: np.repeat(grey[name], 3, 2))
    )
    for position in range(12):
        assert same(one[position, 0], three[position, 0])


def test_labels_belong_to_their_masks(contest: Path) -> None:
    augment = dataclasses.replace(BARE, crop=None)
    sample = samples(contest, augment)[0, 0]
    row, column, _ = sample.image.numpy().astype(int)
    moved = {mask.tobytes(): 1 + i % 3 for i, mask in enumerate(truth("a")[:, row, column])}
    labels = [moved[mask.tobytes()] for mask in opened(sample.target["masks"])]
    assert len(set(labels)) == 3
    assert sample.target["labels"].tolist() == labels


def test_instances_that_overlap_keep_their_common_pixels(contest: Path) -> None:
    augment = dataclasses.replace(BARE, crop=None)
    found = opened(samples(contest, augment)[0, 0].target["masks"])
    assert (found.sum(0) > 1).sum() == (truth("a").sum(0) > 1).sum() > 0
    assert len(found) == 12


def test_an_image_without_instances_is_a_sample_without_instances(contest: Path) -> None:
    sample = samples(contest)[4, 1]
    assert sample.target["boxes"].shape == (0, 4)
    assert (len(sample.target["labels"]), len(sample.target["masks"])) == (0, 0)
    assert tuple(sample.image.shape) == (3, 32, 32)


def test_crops_without_an_instance_are_drawn_again(contest: Path) -> None:
    data = samples(contest, dataclasses.replace(BARE, crop=8))
    filled = [len(data[position, 0].target["labels"]) > 0 for position in range(40)]
    assert np.mean(filled) > 0.95


def test_a_smaller_image_is_padded_right_and_below_before_the_symmetry(contest: Path) -> None:
    sample = samples(contest, dataclasses.replace(BARE, crop=40, symmetries=False))[0, 2]
    assert tuple(sample.image.shape) == (3, 40, 40)
    np.testing.assert_array_equal(sample.image[:, :20, :24].permute(1, 2, 0), code((20, 24)))
    assert sample.image[:, 20:].sum() == sample.image[:, :, 24:].sum() == 0


def test_samples_travel_to_worker_processes(contest: Path) -> None:
    data = pickle.loads(pickle.dumps(samples(contest)))
    assert same(data[1, 0], samples(contest)[1, 0])
    assert len(data) == 3


# Reading ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P", "1", "CMYK"])
def test_images_of_every_mode_are_read_as_three_channels(tmp_path: Path, mode: str) -> None:
    image = Image.fromarray(code((12, 9))).convert(mode)
    path = tmp_path / ("image.tif" if mode == "CMYK" else "image.png")
    image.save(path)
    pixels = read_image(path)
    assert (pixels.dtype, pixels.shape) == (np.uint8, (12, 9, 3))
    if mode in ("RGB", "RGBA"):
        np.testing.assert_array_equal(pixels, code((12, 9)))
    if mode in ("L", "LA", "1"):
        assert (pixels == pixels[..., :1]).all()


@pytest.mark.parametrize(
    ("dtype", "suffix"), [(np.uint16, "png"), (np.uint16, "tif"), (np.int32, "tif"), (np.float32, "tif")]
)
def test_deep_grey_images_are_scaled_by_their_own_range(tmp_path: Path, dtype: Any, suffix: str) -> None:
    values = np.array([[1000, 2000], [3000, 5000]], dtype)
    Image.fromarray(values).save(tmp_path / f"image.{suffix}")
    pixels = read_image(tmp_path / f"image.{suffix}")
    np.testing.assert_array_equal(pixels[..., 0], [[0, 64], [128, 255]])
    assert (pixels == pixels[..., :1]).all()


def test_a_flat_deep_image_is_black(tmp_path: Path) -> None:
    Image.fromarray(np.full((3, 4), 700, np.uint16)).save(tmp_path / "image.png")
    assert read_image(tmp_path / "image.png").sum() == 0


def test_a_missing_image_and_one_that_is_none_are_named(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("id,predicted\n")
    for name in ("absent.png", "text.png"):
        with pytest.raises(InputError, match=rf"{name} is no readable image: "):
            read_image(tmp_path / name)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("suffix", ["png", "tif", "jpg"])
def test_a_damaged_image_is_named_or_read_but_nothing_else_is_raised(tmp_path: Path, suffix: str) -> None:
    buffer = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    Image.fromarray(noise).save(buffer, {"png": "PNG", "tif": "TIFF", "jpg": "JPEG"}[suffix])
    whole, path = buffer.getvalue(), tmp_path / f"cell.{suffix}"
    rng, refused = np.random.default_rng(1), []
    for _ in range(200):
        damaged = bytearray(whole[: int(rng.integers(1, len(whole)))] if rng.random() < 0.3 else whole)
        for at in rng.integers(0, min(len(damaged), 120), 3):
            damaged[at] = int(rng.integers(256))
        path.write_bytes(bytes(damaged))
        try:
            read_image(path)
        except InputError as error:
            refused.append(str(error))
    assert len(refused) > 20
    assert all(f"cell.{suffix} is no readable image: " in message for message in refused)


def test_a_png_cut_short_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "cell.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(InputError, match=r"cell\.png is no readable image: .*truncated"):
        read_image(path)


def test_a_tensor_of_an_image_owns_its_memory() -> None:
    pixels = code((5, 7))
    tensor = as_tensor(pixels)
    assert torch.equal(as_tensor(pixels[:, :, :1]), tensor[:1].repeat(3, 1, 1))
    tensor[:] = 0
    assert tuple(tensor.shape) == (3, 5, 7)
    assert pixels.sum() > 0


def test_an_image_that_changed_its_size_since_it_was_converted_is_refused(contest: Path, tmp_path: Path) -> None:
    Image.fromarray(code((10, 12))).save(tmp_path / "a.png")
    found = samples(contest)
    moved = TrainingSamples(tmp_path, found.annotations, AUGMENT, 0)
    with pytest.raises(InputError, match=r"a\.png has height and width \(10, 12\); when .* had \(60, 80\)"):
        moved[0, 0]
