"""Files made to do harm: each costs bounded memory and ends in one clear sentence."""

from __future__ import annotations

import base64
import dataclasses
import io
import json
import resource
import struct
import sys
import tracemalloc
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from fixtures.contests import facts
from fixtures.layouts import draw_contest, write_image
from PIL import Image

from pipeline.competition import Competition
from pipeline.data import contest
from pipeline.data.pictures import read_image, read_mask, read_resized_mask, read_size
from pipeline.errors import InputError

HEADERS = {
    "airbus": "ImageId,EncodedPixels\n{}\n",
    "clouds": "Image_Label,EncodedPixels\n{}_Fish\n",
    "hpa2021": "ID,ImageWidth,ImageHeight,PredictionString\n{},,\n",
    "openimages2019": "MaskPath,ImageID,LabelName\nm.png,{}\n",
}
MEGABYTE = 1 << 20


@contextmanager
def memory(most: int) -> Iterator[None]:
    """Neither what Python allocates nor the process as a whole grows by more than `most` bytes."""
    unit = 1 if sys.platform == "darwin" else 1024
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < most
        assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * unit < most
    finally:
        tracemalloc.stop()


def refused(root: Path, competition: Competition) -> str:
    with pytest.raises(InputError) as error:
        contest.read_train(root, competition, "csv")
    return str(error.value)


@pytest.mark.parametrize(
    "name", ["../../etc/passwd", "..", "/etc/passwd", "a\0b", '"a\nb"', "=cmd|' /C calc'!A0", "a b"]
)
@pytest.mark.parametrize("key", HEADERS)
def test_ids_that_lead_out_of_the_folder_or_hold_anything_strange_are_refused(
    tmp_path: Path, key: str, name: str
) -> None:
    competition, _ = draw_contest(tmp_path / "x", key)
    fields = {"airbus": ",1 1", "clouds": ",1 1", "hpa2021": "", "openimages2019": ",/m/0cmf2"}[key]
    path = tmp_path / "x" / competition.train_annotations
    path.write_text(HEADERS[key].format(name).rstrip("\n") + fields + "\n")
    message = refused(tmp_path / "x", competition)
    assert message.startswith(f"{path.name} row 2, image ")
    assert ": the image id is no plain name; wanted letters, digits, '.', '_' and '-' only" in message
    assert message.isprintable()
    sample = tmp_path / "x" / competition.sample_submission
    header, row = sample.read_text().splitlines()[:2]
    first = "t1.jpg" if key in ("airbus", "clouds") else "t1"
    sample.write_text(f"{header}\n{row.replace(first, name, 1)}\n")
    with pytest.raises(InputError, match=f"{sample.name} row 2, image .*: the image id is no plain name") as error:
        contest.read_test(tmp_path / "x", competition)
    assert str(error.value).isprintable()


@pytest.mark.parametrize("name", ["../x", "a\0b", "a\nb"])
def test_ids_of_json_lines_are_refused_alike(tmp_path: Path, name: str) -> None:
    competition, _ = draw_contest(tmp_path, "hubmap2023")
    (tmp_path / "polygons.jsonl").write_text(json.dumps({"id": name, "annotations": []}))
    shown = name if name.isprintable() else repr(name)
    assert refused(tmp_path, competition).startswith(f"polygons.jsonl line 1, image {shown}: the image id is no plain")


def test_a_bomb_in_a_prediction_string_costs_no_memory(tmp_path: Path) -> None:
    competition, _ = draw_contest(tmp_path, "hpa2021")
    bomb = base64.b64encode(zlib.compress(b"0" * (256 * MEGABYTE), 9)).decode()
    path = tmp_path / "train_cells.csv"
    path.write_text(f"ID,ImageWidth,ImageHeight,PredictionString\na1,40,24,0 1 {bomb}\n")
    del bomb
    with memory(16 * MEGABYTE):
        assert refused(tmp_path, competition) == (
            "train_cells.csv row 2, image a1: it inflates to more than 1936 bytes, which no mask of this size needs. "
            f"Correct the row in {path}."
        )


def test_a_bomb_of_two_layers_is_not_unpacked_twice(tmp_path: Path) -> None:
    competition, _ = draw_contest(tmp_path, "hpa2021")
    inner = base64.b64encode(zlib.compress(zlib.compress(b"0" * MEGABYTE))).decode()
    path = tmp_path / "train_cells.csv"
    path.write_text(f"ID,ImageWidth,ImageHeight,PredictionString\na1,40,24,0 1 {inner}\n")
    assert "its counts are no compressed COCO RLE: they hold bytes that are no ASCII" in refused(tmp_path, competition)


@pytest.mark.parametrize("key", ["airbus", "severstal"])
@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("5 1000000000000", "run 1 ends at pixel 1000000000004, the image has "),
        ("1000000000000 1", "run 1 ends at pixel 1000000000000, the image has "),
        ("1 9223372036854775807", '"9223372036854775807" is no whole number of a pixel or a length'),
        (f"1 1{'0' * 5000}", f'"1{"0" * 39}" is no whole number of a pixel or a length'),
        ("1 -1", '"-1" is no whole number of a pixel or a length'),
        ("=1+1 1", '"=1+1" is no whole number of a pixel or a length'),
    ],
)
def test_absurd_run_lengths_are_refused(tmp_path: Path, key: str, text: str, rule: str) -> None:
    competition, _ = draw_contest(tmp_path, key)
    lines = {"airbus": "ImageId,EncodedPixels\na1.jpg,", "severstal": "ImageId,ClassId,EncodedPixels\na1.jpg,2,"}
    path = tmp_path / competition.train_annotations
    path.write_text(f"{lines[key]}{text}\n")
    with memory(16 * MEGABYTE):
        assert refused(tmp_path, competition).startswith(f"{path.name} row 2, image a1.jpg: {rule}")


def test_a_polygon_that_winds_without_end_costs_no_memory(tmp_path: Path) -> None:
    competition, _ = draw_contest(tmp_path, "hubmap2023")
    ring = [[0, 0], [39, 23]] * 100_000  # the COCO tools would hold two gigabytes of its points
    line = {"id": "a1", "annotations": [{"type": "unsure", "coordinates": [ring]}]}
    (tmp_path / "polygons.jsonl").write_text(json.dumps(line))
    with memory(64 * MEGABYTE):
        assert refused(tmp_path, competition).startswith(
            "polygons.jsonl line 1, image a1: its outline is 7800000 pixels long, wanted 2304 at most."
        )


# Pictures that claim to be huge -------------------------------------------------------------------------------------


def png(height: int, width: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def tiff(height: int, width: int) -> bytes:
    """32-bit pixels, of which there are none."""
    entries = [(256, width), (257, height), (258, 32), (259, 1), (262, 1), (273, 200), (277, 1), (278, height)]
    entries += [(279, height * width * 4 % 2**32), (339, 3)]
    tags = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in entries)
    return b"II*\0" + struct.pack("<IH", 8, len(entries)) + tags + bytes(204)


def jpeg(height: int, width: int) -> bytes:
    """Progressive: to decode it, its coefficients are held all at once."""
    content = io.BytesIO()
    Image.new("RGB", (64, 64)).save(content, "JPEG", progressive=True)
    data = bytearray(content.getvalue())
    place = data.index(b"\xff\xc2")
    data[place + 5 : place + 9] = struct.pack(">HH", height, width)
    return bytes(data)


@pytest.mark.parametrize("kind", [png, tiff, jpeg])
def test_a_header_of_two_gigabytes_is_refused_before_anything_is_decoded(tmp_path: Path, kind: object) -> None:
    (tmp_path / "x.png").write_bytes(kind(46_341, 46_341))  # type: ignore[operator]
    for read in (read_size, lambda *a: read_mask(*a, (5, 5)), lambda *a: read_resized_mask(*a, (5, 5))):
        with memory(16 * MEGABYTE), pytest.raises(InputError) as error:
            read(tmp_path, "x.png")
        assert str(error.value) == f"x.png: claims more than 178956970 pixels. Check the file in {tmp_path}."


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("kind", [png, tiff, jpeg])
def test_the_size_of_the_largest_picture_that_is_let_in_is_read_from_its_header(tmp_path: Path, kind: object) -> None:
    (tmp_path / "x.png").write_bytes(kind(13_000, 13_001))  # type: ignore[operator]
    with memory(32 * MEGABYTE):
        assert read_size(tmp_path, "x.png") == (13_000, 13_001)
        with pytest.raises(InputError, match="the mask has height 13000 and width 13001, its image has height 5"):
            read_mask(tmp_path, "x.png", (5, 5))
        with pytest.raises(InputError) as error:
            read_resized_mask(tmp_path, "x.png", (5, 5))
    assert str(error.value) == (
        "x.png: the mask has height 13000 and width 13001, its image has height 5 and width 5; wanted 16777216 pixels "
        f"at most. Correct or remove the mask in {tmp_path}."
    )


def test_an_image_with_a_header_of_two_gigabytes_stops_the_conversion_of_any_contest(tmp_path: Path) -> None:
    for key in ("sartorius", "hubmap2023", "coco"):
        competition, _ = draw_contest(tmp_path / key, key)
        name = competition.train_image.replace("{id}", "a1.tif" if key == "coco" else "a1")
        (tmp_path / key / name).write_bytes(tiff(46_341, 46_341))
        with memory(16 * MEGABYTE):
            assert refused(tmp_path / key, competition).startswith(f"{name}: claims more than 178956970 pixels.")


def test_a_link_that_leads_out_of_the_folder_is_not_followed(tmp_path: Path) -> None:
    competition, _ = draw_contest(tmp_path / "x", "openimages2019")
    Image.fromarray(np.ones((5, 5), bool)).save(tmp_path / "secret.png")
    (tmp_path / "x/train_masks/link.png").symlink_to(tmp_path / "secret.png")
    path = tmp_path / "x" / competition.train_annotations
    path.write_text("MaskPath,ImageID,LabelName\nlink.png,a1,/m/0cmf2\n")
    assert refused(tmp_path / "x", competition).startswith("train_masks/link.png: leads out of the contest's folder")


def test_a_picture_that_is_a_program_is_no_picture(tmp_path: Path) -> None:
    """PostScript, which Pillow would give to Ghostscript to run, whatever the file is called."""
    program = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 5 5\n%%EndComments\n(victim) (w) file closefile\n%%EOF\n"
    (tmp_path / "x.png").write_bytes(program)
    with pytest.raises(InputError, match="is no image of a known format"):
        read_size(tmp_path, "x.png")
    with pytest.raises(InputError, match="is no readable image"):
        read_image(tmp_path / "x.png")


@pytest.mark.parametrize("kind", [png, tiff, jpeg])
def test_a_bomb_is_not_decoded_for_a_network_either(tmp_path: Path, kind: object) -> None:
    (tmp_path / "x.png").write_bytes(kind(46_341, 46_341))  # type: ignore[operator]
    with memory(16 * MEGABYTE), pytest.raises(InputError, match="is no readable image"):
        read_image(tmp_path / "x.png")


def test_a_huge_table_of_nothing_is_no_fault(tmp_path: Path) -> None:
    competition = dataclasses.replace(facts("airbus"), stray_blanks="ignore")
    write_image(tmp_path / "train_v2/a.jpg", (8, 8))
    (tmp_path / competition.train_annotations).write_text("ImageId,EncodedPixels\n" + "a.jpg,\n" * 10_000)
    assert contest.read_train(tmp_path, competition, "csv")["annotations"] == []
