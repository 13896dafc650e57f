from __future__ import annotations

import os
import pickle
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from pipeline.data import pixels as module
from pipeline.data.dataset import read_image
from pipeline.data.pixels import open_pixels
from pipeline.errors import InputError

SIZES = {"grey.png": (20, 30), "colour.png": (17, 13), "deep.tif": (9, 11), "clear.png": (8, 5)}


def noise(*shape: int) -> NDArray[np.uint8]:
    return np.random.default_rng(shape).integers(0, 256, shape, dtype=np.uint8)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Pictures of one and three channels, of 16 bits, and with transparency."""
    folder = tmp_path / "data"
    folder.mkdir()
    Image.fromarray(noise(20, 30)).save(folder / "grey.png")
    Image.fromarray(noise(17, 13, 3)).save(folder / "colour.png")
    Image.fromarray(noise(9, 11).astype(np.uint16) * 7 + 900).save(folder / "deep.tif")
    Image.fromarray(noise(8, 5, 4)).save(folder / "clear.png")
    return folder


def images(**changes: tuple[int, int]) -> list[dict[str, Any]]:
    """Image entries of a COCO dict."""
    return [{"file_name": name, "height": h, "width": w} for name, (h, w) in (SIZES | changes).items()]


def files(folder: Path) -> list[Path]:
    return sorted(folder.iterdir())


def test_every_image_is_what_reading_its_file_gives(root: Path, tmp_path: Path) -> None:
    found = open_pixels(root, images(), tmp_path / "pixels")
    assert found is not None
    for name in reversed(SIZES):
        wanted, got = read_image(root / name), found(name)
        channels = 1 if name in ("grey.png", "deep.tif") else 3
        assert (got.dtype, got.shape) == (np.uint8, (*SIZES[name], channels))
        np.testing.assert_array_equal(np.broadcast_to(got, wanted.shape), wanted)
        assert not got.flags.writeable
    (file,) = files(tmp_path / "pixels")
    assert file.stat().st_size == 20 * 30 + 17 * 13 * 3 + 9 * 11 + 8 * 5 * 3 + 4


def test_images_are_decoded_once(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    open_pixels(root, images(), tmp_path / "pixels")
    monkeypatch.setattr(module, "read_image", lambda path: pytest.fail(f"{path} was read again"))
    again = open_pixels(root, images(), tmp_path / "pixels")
    assert again is not None
    np.testing.assert_array_equal(again("grey.png")[:, :, 0], noise(20, 30))


@pytest.mark.parametrize("what", ["pixels", "time"])
def test_images_that_changed_are_decoded_again_and_the_old_ones_go(root: Path, tmp_path: Path, what: str) -> None:
    open_pixels(root, images(), tmp_path / "pixels")
    (old,) = files(tmp_path / "pixels")
    if what == "pixels":
        Image.fromarray(255 - noise(20, 30)).save(root / "grey.png", compress_level=1)
    state = (root / "grey.png").stat()
    os.utime(root / "grey.png", ns=(state.st_atime_ns, state.st_mtime_ns + 10**9))
    found = open_pixels(root, images(), tmp_path / "pixels")
    assert found is not None
    np.testing.assert_array_equal(found("grey.png")[:, :, 0], np.asarray(Image.open(root / "grey.png")))
    (new,) = files(tmp_path / "pixels")
    assert new != old


def test_other_processes_map_the_file_themselves(root: Path, tmp_path: Path) -> None:
    found = open_pixels(root, images(), tmp_path / "pixels")
    assert found is not None
    found("colour.png")
    sent = pickle.dumps(found)
    assert len(sent) < 2000
    np.testing.assert_array_equal(pickle.loads(sent)("colour.png"), noise(17, 13, 3))


def test_no_image_at_all_is_legal(root: Path, tmp_path: Path) -> None:
    assert open_pixels(root, [], tmp_path / "pixels") is not None


def test_where_the_disk_is_too_full_nothing_is_written(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    most = 3 * sum(height * width for height, width in SIZES.values())
    for free, wanted in ((2 * most - 1, False), (2 * most, True)):
        monkeypatch.setattr(module.shutil, "disk_usage", lambda _, free=free: SimpleNamespace(free=free))
        assert (open_pixels(root, images(), tmp_path / "pixels") is not None) == wanted
        assert bool(files(tmp_path / "pixels")) == wanted


@pytest.mark.parametrize("fault", ["damaged", "missing", "size"])
def test_an_image_that_cannot_be_used_is_named_and_nothing_is_left(root: Path, tmp_path: Path, fault: str) -> None:
    if fault == "damaged":
        (root / "colour.png").write_bytes((root / "colour.png").read_bytes()[:200])
    elif fault == "missing":
        (root / "colour.png").unlink()
    entries = images(**({"colour.png": (13, 17)} if fault == "size" else {}))
    message = r"colour\.png has height and width \(17, 13\); when it was converted it had \(13, 17\). Run `convert`"
    with pytest.raises(InputError, match=message if fault == "size" else r"colour\.png is no readable image: "):
        open_pixels(root, entries, tmp_path / "pixels")
    assert not list((tmp_path / "pixels").glob("*"))
    assert not list((tmp_path / "pixels").glob(".*"))
