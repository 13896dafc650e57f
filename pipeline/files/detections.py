"""Files of soft detections, of a few images or of any number: they are written and joined column by column."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast, get_args

import numpy as np
from numpy.typing import NDArray

from pipeline.atomic import atomic
from pipeline.errors import InputError
from pipeline.files.checks import FAULTS, check_detections, told
from pipeline.instances import Alignment, Detections

DETECTIONS_VERSION = 2
_FLAT = ("boxes", "scores", "labels", "masks")  # columns with a row for each detection
Array = NDArray[Any]


def write_detections(path: Path, detections: Sequence[Detections]) -> None:
    """npz of flat columns over all images and offsets (n + 1,) per image; mask probabilities as uint8 of 255.

    All detections share one mask size M and one alignment. The bytes depend on the content alone.
    """
    sides = {d.masks.shape[-1] for d in detections}
    if len(sides) > 1:
        raise ValueError(f"detections of several mask sizes in one file: {sorted(sides)}")
    kinds = {d.alignment for d in detections}
    if len(kinds) > 1:
        raise ValueError(f"detections of several alignments in one file: {sorted(kinds)}")
    side = sides.pop() if sides else 0
    masks = [np.rint(d.masks * 255).astype(np.uint8) for d in detections]
    heads = {
        "version": np.array(DETECTIONS_VERSION),
        "alignment": np.array(kinds.pop() if kinds else "aligned"),
        "image_id": np.array([d.image_id for d in detections], dtype=np.str_),
        "size": np.array([d.size for d in detections], dtype=np.int64).reshape(-1, 2),
        "offset": np.cumsum([0] + [len(d) for d in detections]).astype(np.int64),
    }
    flat = {
        "boxes": np.concatenate([d.boxes for d in detections] or [np.zeros((0, 4), np.float32)]),
        "scores": np.concatenate([d.scores for d in detections] or [np.zeros(0, np.float32)]),
        "labels": np.concatenate([d.labels for d in detections] or [np.zeros(0, np.int64)]),
        "masks": np.concatenate(masks or [np.zeros((0, side, side), np.uint8)]),
    }
    _write(path, heads, lambda name: [flat[name]])


def join_detections(path: Path, parts: Sequence[Path]) -> None:
    """One file of what several hold, in turn: the bytes that `write_detections` makes of all of it, up to rounding.

    Memory holds one column of one part at a time, and what is small. Raises InputError as `read_detections` does, and
    for parts of several mask sizes or alignments.
    """
    heads = [_columns(part, "predict", set(_FLAT)) for part in parts]
    kinds = {(str(head["alignment"]), *_shape(part, "masks")[1:]) for head, part in zip(heads, parts, strict=True)}
    if len(kinds) > 1:
        said = f"its parts have several alignments or mask sizes {sorted(kinds)}"
        raise InputError(f"{path}: {said}; run `predict` again")
    counts = np.concatenate([np.zeros(0, np.int64), *(np.diff(head["offset"]) for head in heads)])
    joined = {
        "version": np.array(DETECTIONS_VERSION),
        "alignment": heads[0]["alignment"],
        "image_id": np.concatenate([head["image_id"] for head in heads]),
        "size": np.concatenate([head["size"] for head in heads]),
        "offset": np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
    }
    _write(path, joined, lambda name: (_column(part, name) for part in parts))


def read_detections(path: Path, made_by: str = "predict") -> list[Detections]:
    """Inverse of `write_detections`, up to the rounding of mask probabilities to 1/255.

    Raises InputError, naming the stage (`made_by`) that makes it, for a missing, broken or other file.
    """
    columns = _columns(path, made_by)
    try:
        check_detections(columns)
        return [_detections_of(columns, i) for i in range(len(columns["image_id"]))]
    except FAULTS as error:
        raise _broken(path, error, made_by) from None


def _write(path: Path, heads: Mapping[str, Array], chunks: Callable[[str], Iterable[Array]]) -> None:
    """An npz whose large columns are given in pieces: a date of its own would make equal files differ."""
    count = int(heads["offset"][-1])
    with atomic(path) as partial, zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, column in heads.items():
            _write_column(archive, name, column.shape, [column])
        for name in _FLAT:
            pieces = iter(chunks(name))
            first = next(pieces)
            _write_column(archive, name, (count, *first.shape[1:]), _chained(first, pieces))


def _chained(first: Array, others: Iterable[Array]) -> Iterable[Array]:
    yield first
    yield from others


def _write_column(archive: zipfile.ZipFile, name: str, shape: tuple[int, ...], pieces: Iterable[Array]) -> None:
    entry = zipfile.ZipInfo(f"{name}.npy")  # dated 1980
    entry.compress_type = zipfile.ZIP_DEFLATED
    with archive.open(entry, "w", force_zip64=True) as out:
        header = False
        for piece in pieces:
            if not header:
                about = {"descr": np.lib.format.dtype_to_descr(piece.dtype), "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(out, about)
                header = True
            out.write(np.ascontiguousarray(piece).tobytes())


def _columns(path: Path, made_by: str, without: set[str] = frozenset()) -> dict[str, Array]:  # type: ignore[assignment]
    """The columns of a file of the present version, but for some."""
    try:
        with _archive(path) as archive:
            columns = {name: archive[name] for name in archive.files if name not in without}
        version = int(columns["version"])
    except FileNotFoundError:
        raise InputError(f"{path} does not exist; the stage `{made_by}` makes it") from None
    except Exception as error:  # whatever a broken or hostile file makes the readers raise
        raise _broken(path, error, made_by) from None
    if version != DETECTIONS_VERSION:
        wanted = f"wanted a detections file of version {DETECTIONS_VERSION}, got version {version}"
        raise InputError(f"{path}: {wanted}; run `{made_by}` again")
    return columns


@contextmanager
def _archive(path: Path) -> Iterator[Any]:
    """The npz, once its directory is known to promise no more than it holds. Nothing in it can run."""
    with open(path, "rb") as file:
        with zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
            whole, most = sum(entry.file_size for entry in entries), max(_SMALL, _RATIO * path.stat().st_size)
            if whole > most:
                raise ValueError(f"it would unpack to {whole} bytes, wanted {most} at most")
            for entry in entries:
                _check_entry(archive, entry)
        file.seek(0)
        with np.load(file, allow_pickle=False) as columns:
            yield columns


def _check_entry(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> None:
    """NumPy makes room for the shape that a column's header states, whatever follows it."""
    with archive.open(entry) as file:
        shape, kind = _header(file)
        claimed = math.prod(shape) * kind.itemsize + file.tell()
    if kind.hasobject or claimed != entry.file_size:
        raise ValueError(f"{entry.filename} states {claimed} bytes of {kind}, and holds {entry.file_size}")


def _header(file: Any) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Shape and type of a column whose file is at its beginning."""
    form = np.lib.format
    read = form.read_array_header_1_0 if form.read_magic(file) == (1, 0) else form.read_array_header_2_0
    shape, _, kind = read(file)
    return shape, kind


_SMALL, _RATIO = 1 << 28, 100  # a file may unpack to so many bytes, or so many times its size if that is more


def _column(path: Path, name: str) -> Array:
    try:
        with _archive(path) as archive:
            return np.asarray(archive[name])
    except Exception as error:  # see `_columns`
        raise _broken(path, error, "predict") from None


def _shape(path: Path, name: str) -> tuple[int, ...]:
    """Of a column, without reading it."""
    try:
        with zipfile.ZipFile(path) as archive, archive.open(f"{name}.npy") as file:
            return _header(file)[0]
    except Exception as error:  # see `_columns`
        raise _broken(path, error, "predict") from None


def _broken(path: Path, error: Exception, made_by: str) -> InputError:
    return InputError(f"{path} is no detections file ({told(error)}); run `{made_by}` again")


def _detections_of(columns: Mapping[str, Any], i: int) -> Detections:
    part = slice(int(columns["offset"][i]), int(columns["offset"][i + 1]))
    masks = columns["masks"][part].astype(np.float32) / np.float32(255)
    size = (int(columns["size"][i][0]), int(columns["size"][i][1]))
    flat = (columns["boxes"][part], columns["scores"][part], columns["labels"][part])
    return Detections(str(columns["image_id"][i]), size, *flat, masks, _alignment(columns["alignment"]))


def _alignment(value: Any) -> Alignment:
    name = str(value)
    if name not in get_args(Alignment):
        raise ValueError(f"alignment: wanted one of {get_args(Alignment)}, got {name!r}")
    return cast(Alignment, name)
