"""Decoded images of a contest in one file on disk: reading a crop costs less than decoding the picture it is cut from.

The file is mapped into memory, so that all worker processes and all trainings share its pages.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.atomic import atomic
from pipeline.data.pictures import read_image
from pipeline.errors import InputError
from pipeline.progress import track

log = logging.getLogger(__name__)
_VERSION = 1  # another one wherever `read_image` gives other pixels


class Pixels:
    """Images by their file names: `pixels(name)` is uint8 (H, W, 3), read-only; (H, W, 1) where its channels are equal.

    file: the pixels of all images, row by row, one image after the other; then one byte for each image, its channels.
    sizes: (H, W) of the images by file name, in that order.
    """

    def __init__(self, file: Path, sizes: Mapping[str, tuple[int, int]]):
        self.file, self.number = file, {name: i for i, name in enumerate(sizes)}
        self.channels = _channels(file, len(sizes))
        self.sizes = np.array(list(sizes.values()), np.int64).reshape(-1, 2)
        self.bounds = np.concatenate([[0], np.cumsum(self.sizes.prod(1) * self.channels)])
        self.data: NDArray[np.uint8] | None = None

    def __call__(self, name: str) -> NDArray[np.uint8]:
        if self.data is None:
            self.data = np.memmap(self.file, np.uint8, "r").view(np.ndarray)
        i = self.number[name]
        height, width = self.sizes[i].tolist()
        return self.data[self.bounds[i] : self.bounds[i + 1]].reshape(height, width, int(self.channels[i]))

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "data": None}  # a process that is started anew maps the file itself


def open_pixels(root: Path, images: Sequence[Mapping[str, Any]], folder: Path, quiet: bool = False) -> Pixels | None:
    """The pixels of a COCO dict's images, decoded into `folder` if they are not there yet.

    They are made again when the size or the time of an image file has changed, and the old ones are deleted. None
    where they could take more than half of the free disk. Raises InputError naming an image that cannot be read or has
    another size than in the dict.
    """
    sizes = {image["file_name"]: (int(image["height"]), int(image["width"])) for image in images}
    file = folder / f"{_key(root, sizes)}.bin"
    if not file.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        most, free = 3 * sum(height * width for height, width in sizes.values()), shutil.disk_usage(folder).free
        if 2 * most > free:
            log.info("decoded images may take %.1f of %.1f GB free: files are read each time", most / 1e9, free / 1e9)
            return None
        _write(file, root, sizes, quiet)
        for old in set(folder.glob("*.bin")) - {file}:
            old.unlink(missing_ok=True)
    return Pixels(file, sizes)


def _key(root: Path, sizes: Mapping[str, tuple[int, int]]) -> str:
    """Another one for other images or changed files."""
    found = []
    for name, size in sizes.items():
        try:
            state = (root / name).stat()
        except OSError as error:
            raise InputError(f"{root / name} is no readable image: {error}") from error
        found.append((name, size, state.st_size, state.st_mtime_ns))
    return hashlib.sha256(json.dumps([_VERSION, found]).encode()).hexdigest()[:20]


def _write(file: Path, root: Path, sizes: Mapping[str, tuple[int, int]], quiet: bool) -> None:
    """Decode all images; the file has its name only when it is whole."""
    channels = bytearray()
    with atomic(file) as partial, open(partial, "wb") as out:
        for name, size in track(sizes.items(), len(sizes), "decoding images", "image", quiet):
            pixels = _narrow(read_image(root / name))
            if pixels.shape[:2] != size:
                got = f"{root / name} has height and width {pixels.shape[:2]}"
                raise InputError(f"{got}; when it was converted it had {size}. Run `convert` again")
            out.write(np.ascontiguousarray(pixels))
            channels.append(pixels.shape[2])
        out.write(channels)


def _narrow(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """One channel (H, W, 1) where all three are the same."""
    return pixels[:, :, :1] if (pixels == pixels[:, :, :1]).all() else pixels


def _channels(file: Path, count: int) -> NDArray[np.int64]:
    with open(file, "rb") as source:
        source.seek(-count, os.SEEK_END)
        return np.frombuffer(source.read(count), np.uint8).astype(np.int64)
