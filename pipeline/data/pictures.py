"""Image files of a contest: their pixels and sizes, and masks drawn one to a file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from pipeline.errors import InputError
from pipeline.masks.resize import resized
from pipeline.masks.runs import Runs, empty, from_dense, to_coco

PIXELS = 178_956_970  # the most that Pillow opens without being told to; a larger header is a fault or an attack
# What contests and microscopes write. Pillow knows more, of which some are programs for others to run (EPS).
FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "GIF", "WEBP", "PPM", "JPEG2000")
_CHEAP = 1 << 24  # pixels that are decoded without need; a header may claim more than there is


def read_image(path: Path) -> NDArray[np.uint8]:
    """An image file as uint8 (H, W, 3); grey is repeated, transparency dropped, 16-bit grey scaled by its range.

    Raises InputError naming a file that cannot be read to its end.
    """
    try:
        with Image.open(path, formats=FORMATS) as image:
            if image.width * image.height > PIXELS:
                raise Image.DecompressionBombError(f"it claims more than {PIXELS} pixels")
            if image.mode.startswith(("I", "F")):
                return _grey(np.asarray(image))
            return np.asarray(image.convert("RGB"))
    except Exception as error:  # whatever a broken or hostile file makes one of Pillow's readers raise
        raise InputError(f"{path} is no readable image: {error}") from error


def _grey(values: NDArray[Any]) -> NDArray[np.uint8]:
    values = np.where(np.isfinite(values), values, 0)
    low, high = float(values.min()), float(values.max())
    scaled = (values.astype(np.float64) - low) * (255 / max(high - low, 1e-12))
    return np.repeat(np.rint(scaled).astype(np.uint8)[:, :, None], 3, 2)


def read_size(root: Path, name: str) -> tuple[int, int]:
    """(height, width) in pixels of the image `name` inside `root`, from the file's header.

    The rest of the file is looked at as far as is cheap: checksums of a PNG, an eighth of the resolution of a JPEG,
    all of another picture, unless it claims to be huge: a truncated file is found now and not in the middle of a
    training. Raises InputError.
    """
    with _opened(root, name) as image:
        width, height = image.size
        if image.format == "PNG":
            image.verify()
        elif width * height <= _CHEAP:
            image.draft("L", (width // 8, height // 8))
            image.load()
    return height, width


def read_mask(root: Path, name: str, size: tuple[int, int]) -> str:
    """COCO counts of the pixels that are not black; transparency is not looked at.

    size: (height, width) in pixels of the image that the mask belongs to. Raises InputError where the mask has
    another size, has no foreground or is no image.
    """
    with _opened(root, name) as image:
        got = (image.height, image.width)
        if got != size:
            raise InputError(
                f"{name}: the mask has height {got[0]} and width {got[1]}, its image has height {size[0]} and "
                f"width {size[1]}. Correct or remove the mask in {root}."
            )
        runs = _foreground(image)
    if runs is None:
        raise InputError(f"{name}: the mask has no foreground, every pixel is 0. Remove the file from {root}.")
    return to_coco(runs)[0]


def read_resized_mask(root: Path, name: str, size: tuple[int, int]) -> str:
    """COCO counts, on a canvas of `size` (height, width), of the pixels that are not black in a mask of any size.

    Raises InputError where the file is no image, and for a huge mask of a small image.
    """
    with _opened(root, name) as image:
        most = max(_CHEAP, size[0] * size[1])
        if image.width * image.height > most:
            raise InputError(
                f"{name}: the mask has height {image.height} and width {image.width}, its image has height {size[0]} "
                f"and width {size[1]}; wanted {most} pixels at most. Correct or remove the mask in {root}."
            )
        runs = _foreground(image)
        own = (image.height, image.width)
    return to_coco(resized(empty(1, own) if runs is None else runs, size))[0]


def read_grey(root: Path, name: str) -> NDArray[Any]:
    """The picture in grey (H, W): uint8, or float32 from 0 to 255 and not rounded where it has more than 8 bits.

    Raises InputError where the file is no image.
    """
    with _opened(root, name) as image:
        if image.mode.startswith("I"):  # 16 bits, whichever way a version of Pillow has them
            return np.asarray(image).astype(np.float32) / 257
        if image.mode == "F":
            return np.nan_to_num(np.asarray(image, np.float32))
        return np.asarray(image.convert("L"))


def _foreground(image: Image.Image) -> Runs | None:
    """Runs of the pixels that are not black, transparency not looked at; None where there are none."""
    plain = image if image.mode in ("1", "L", "F", "I") else image.convert("RGB")
    if image.mode.startswith("I;"):  # some versions of Pillow crop 16-bit pictures wrongly
        plain = Image.fromarray((np.asarray(image) != 0).astype(np.uint8))
    box = plain.getbbox()
    if box is None:
        return None
    left, right = box[0], box[2]
    size = (image.height, image.width)
    columns = np.asarray(plain.crop((left, 0, right, size[0])))
    return _widened(np.any(columns.reshape(size[0], right - left, -1), axis=2), left, size)


def _widened(columns: np.ndarray, left: int, size: tuple[int, int]) -> Runs:
    """Runs of one mask on the whole canvas from its columns, bool (H, w), that begin at column `left`."""
    runs = from_dense(columns[None])
    shift = left * size[0]  # whole columns before it: the pixels keep their order
    return Runs(size, 1, runs.start + shift, runs.stop + shift, runs.instance)


@contextmanager
def _opened(root: Path, name: str) -> Iterator[Image.Image]:
    """The opened image, its header read; every way in which a file can fail to be an image becomes an InputError."""
    path = root / name
    if not path.resolve().is_relative_to(root.resolve()):
        raise InputError(f"{name}: leads out of the contest's folder {root}, to {path.resolve()}. Copy the file there.")
    try:
        with Image.open(path, formats=FORMATS) as image:
            if image.width * image.height > PIXELS:
                raise Image.DecompressionBombError
            yield image
    except InputError:
        raise
    except Image.DecompressionBombError as error:
        raise InputError(f"{name}: claims more than {PIXELS} pixels. Check the file in {root}.") from error
    except UnidentifiedImageError as error:
        raise InputError(f"{name}: is no image of a known format. Unpack it again into {root}.") from error
    except Exception as error:  # whatever a broken or hostile file makes one of Pillow's readers raise
        raise InputError(f"{name}: is no image that can be read ({error}). Unpack it again into {root}.") from error
