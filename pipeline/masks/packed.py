"""Masks as the contests of prediction strings want them: base64 of zlib of COCO's compressed counts.

The form is that of Open Images (https://storage.googleapis.com/openimages/web/challenge2019.html), whose own steps are
base64.b64encode(zlib.compress(counts, zlib.Z_BEST_COMPRESSION)). Text from elsewhere may be hostile: what it inflates
to is bounded before memory is spent, and counts are added up without a pixel being written.
"""

from __future__ import annotations

import base64
import binascii
import zlib
from collections.abc import Sequence

from pipeline.masks import counts as rle


class PackedError(ValueError):
    """A text that holds no mask of the canvas. `rule`: a sentence with wanted and got."""

    def __init__(self, rule: str):
        super().__init__(rule)
        self.rule = rule


def pack(counts: Sequence[str]) -> list[str]:
    """The packed text of each mask's compressed COCO counts. Inverse of `unpack`."""
    best = zlib.Z_BEST_COMPRESSION
    return [base64.b64encode(zlib.compress(one.encode("ascii"), best)).decode("ascii") for one in counts]


def unpack(text: str, size: tuple[int, int]) -> str:
    """The compressed COCO counts in a packed text, of a mask on a canvas of `size` (H, W) in pixels.

    Raises PackedError where `inflate` or `check` does.
    """
    counts = inflate(text, size)
    check(counts, size)
    return counts


def inflate(text: str, size: tuple[int, int]) -> str:
    """What `unpack` gives, with the counts not yet checked: many masks are checked faster together, by `from_coco`.

    Raises PackedError for what is no base64 or no zlib stream, for rubbish behind the stream, and for more inflated
    bytes than a mask of this size can need.
    """
    try:
        stream = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise PackedError(f'"{text:.20}" is no base64') from error
    content = _inflated(stream, limit(size))
    if not content.isascii():
        raise PackedError("its counts are no compressed COCO RLE: they hold bytes that are no ASCII")
    return content.decode("ascii")


def limit(size: tuple[int, int]) -> int:
    """More characters than the counts of any mask on a canvas of `size` (H, W) have, however scattered it is; 16 MiB at
    most, which are some ten million runs.

    A mask of H·W pixels has at most H·W + 1 counts, of one character each and another for every 16 at most by which a
    count differs from that two before it; these differences add up to 3·H·W at most.
    """
    return min(2 * size[0] * size[1] + 16, 1 << 24)


def check(counts: str, size: tuple[int, int]) -> None:
    """Raises PackedError for what is no compressed COCO RLE, a count that is negative or larger than the canvas of
    `size` (H, W), and counts that do not sum to H·W.
    """
    total = size[0] * size[1]
    try:
        values, _ = rle.read([counts])
    except ValueError as error:
        raise PackedError(str(error).removeprefix("mask 0: ")) from error
    # First each count by itself: sums of absurd counts could wrap around to the right total.
    low, high = int(values.min(initial=0)), int(values.max(initial=0))
    if low < 0 or high > total:
        raise PackedError(f"a count of its RLE is {low if low < 0 else high}, the image has {total} pixels")
    covered = int(values.sum())
    if covered != total:
        raise PackedError(f"its RLE covers {covered} pixels, the image has {total} ({size[0]} × {size[1]})")


def _inflated(stream: bytes, most: int) -> bytes:
    inflate = zlib.decompressobj()
    try:
        content = inflate.decompress(stream, most + 1)
    except zlib.error as error:
        raise PackedError(f"what base64 holds is no zlib stream ({error})") from error
    if len(content) > most:
        raise PackedError(f"it inflates to more than {most} bytes, which no mask of this size needs")
    if not inflate.eof:
        raise PackedError("its zlib stream is cut off")
    if inflate.unused_data:
        raise PackedError(f"{len(inflate.unused_data)} bytes follow the end of its zlib stream")
    return content
