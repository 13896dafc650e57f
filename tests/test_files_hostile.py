"""Files of the line that were made to do harm: they run nothing, cost bounded memory and end in one sentence."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fixtures import formats
from fixtures.contests import facts
from test_data_hostile import memory
from test_model_weights import Bomb

from pipeline import files, kaggle
from pipeline.competition import is_safe_id
from pipeline.data import holdout
from pipeline.data.patch import read_patch
from pipeline.errors import InputError

MEGABYTE = 1 << 20
GOLDEN = formats.FOLDER / "detections_v2.npz"


def with_column(path: Path, name: str, content: bytes, packed: int = zipfile.ZIP_DEFLATED) -> Path:
    """The golden detections with another file in the place of one of the columns."""
    with zipfile.ZipFile(GOLDEN) as old, zipfile.ZipFile(path, "w", packed) as new:
        for own in old.namelist():
            new.writestr(own, content if own == f"{name}.npy" else old.read(own))
    return path


def header(shape: tuple[int, ...], kind: str) -> bytes:
    """A column's header that states a shape and a type, with nothing behind it."""
    text = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()


def refused(path: Path) -> str:
    with pytest.raises(InputError) as error:
        files.read_detections(path)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_detections_hold_no_objects(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    bombs = np.array([Bomb(victim)], dtype=object)
    with np.load(GOLDEN) as archive:
        np.savez(tmp_path / "a.npz", **{**archive, "image_id": bombs})
    assert "is no detections file" in refused(tmp_path / "a.npz")
    np.save(tmp_path / "b.npy", bombs, allow_pickle=True)
    (tmp_path / "b.npy").rename(tmp_path / "b.npz")
    assert "is no detections file" in refused(tmp_path / "b.npz")
    assert not victim.exists()


@pytest.mark.parametrize("kind", ["|u1", "<f8", "<U1000000", "|V1000000000"])
def test_a_column_that_claims_to_be_huge_costs_no_memory(kind: str, tmp_path: Path) -> None:
    path = with_column(tmp_path / "a.npz", "masks", header((1 << 40, 28, 28), kind))
    with memory(64 * MEGABYTE):
        assert "masks.npy states" in refused(path)


def test_a_bomb_among_the_columns_is_not_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("masks.npy", "w") as file:
        file.write(header((300, MEGABYTE), "|u1"))
        for _ in range(300):
            file.write(bytes(MEGABYTE))
    with memory(64 * MEGABYTE):
        assert "it would unpack to 3145729" in refused(path)


@pytest.mark.parametrize(
    ("name", "values", "said"),
    [
        ("offset", np.array([0, 5, 2]), "offset: wanted rising numbers from 0 to 2"),
        ("offset", np.array([0, -1, 2]), "offset: wanted rising numbers from 0 to 2"),
        ("offset", np.array([0, 2]), "offset: wanted one more than there are images"),
        ("size", np.array([[4, 5], [0, 3]]), "height and width: wanted positive numbers"),
        ("size", np.array([[4, 5], [1 << 20, 1 << 20]]), "height and width: wanted positive numbers, 268435456 pixels"),
        ("scores", np.array([np.nan, 0.5], np.float32), "scores: wanted numbers from 0 to 1"),
        ("boxes", np.full((2, 4), np.inf, np.float32), "boxes: wanted finite numbers"),
        ("labels", np.array([0, 1]), "labels: wanted category ids from 1, got 0"),
        ("masks", np.zeros((2, 3, 4), np.uint8), "masks: wanted (2, 4, 4), got (2, 3, 4)"),
        ("image_id", np.array([1, 2]), "image_id: wanted texts"),
        ("version", np.array(np.inf), "cannot convert float infinity to integer"),
        ("alignment", np.array("other"), "alignment: wanted one of"),
    ],
)
def test_columns_that_do_not_fit_are_refused(name: str, values: Any, said: str, tmp_path: Path) -> None:
    with np.load(GOLDEN) as archive:
        np.savez(tmp_path / "a.npz", **{**archive, name: values})
    assert said in refused(tmp_path / "a.npz")


def test_a_patch_that_nests_without_end_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("[" * 100_000)
    with pytest.raises(InputError, match="is no JSON"):
        read_patch(tmp_path / "a.json", facts("toy"))


def test_json_that_nests_without_end_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    for text in ("[" * 100_000, '{"a":' * 100_000, '{"a": NaN}', '{"a": ' + "9" * 5000 + "}", '"\\ud800'):
        path.write_text(text)
        for read in (files.read_coco, lambda path: files.read_json(path, "x")):
            with pytest.raises(InputError, match="is no JSON"):
                read(path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda c: c["images"][0].update(name="../x"), "name: wanted a plain name"),
        (lambda c: c["images"][0].update(file_name="../../etc/passwd"), "file_name: wanted a path inside"),
        (lambda c: c["images"][0].update(file_name="/etc/passwd"), "file_name: wanted a path inside"),
        (lambda c: c["images"][0].update(height=1 << 40), "height and width: wanted positive numbers"),
        (lambda c: c["images"][0].update(id=2), "image id: wanted a number of its own"),
        (lambda c: c["images"][0].update(name="007"), "images: wanted one of each"),
        (lambda c: c["categories"][0].update(id=7), "category ids: wanted 1, 2"),
        (lambda c: c["annotations"][0].update(image_id=9), "is broken (lacks 9)"),
        (lambda c: c["annotations"][0].update(category_id=3), "wanted a known category"),
        (lambda c: c["annotations"][0].update(area=10**30), "wanted bbox and area in pixels"),
        (lambda c: c["annotations"][0].update(bbox=[1, 2]), "is broken"),
        (lambda c: c["annotations"][0]["segmentation"].update(counts=[1, 2]), "wanted counts as text"),
        (lambda c: c["annotations"][0]["segmentation"].update(size=[5, 5]), "masks of the image's size"),
        (lambda c: c.pop("annotations"), "is broken (lacks 'annotations')"),
    ],
)
def test_truth_that_does_not_hang_together_is_refused(change: Any, said: str, tmp_path: Path) -> None:
    coco = json.loads(json.dumps(formats.COCO))
    change(coco)
    (tmp_path / "a.json").write_text(json.dumps(coco))
    with pytest.raises(InputError) as error:
        files.read_coco(tmp_path / "a.json")
    assert said in str(error.value)


@pytest.mark.parametrize(
    "row",
    [
        {"image_id": 1, "category_id": 3, "score": 0.5, "segmentation": {"counts": "52207"}},
        {"image_id": 1, "category_id": True, "score": 0.5, "segmentation": {"counts": "52207"}},
        {"image_id": 1, "category_id": 10**30, "score": 0.5, "segmentation": {"counts": "52207"}},
        {"image_id": 1, "category_id": 1, "score": 1.5, "segmentation": {"counts": "52207"}},
        {"image_id": 1, "category_id": 1, "score": 0.5, "segmentation": {"counts": [5]}},
        {"image_id": [1], "category_id": 1, "score": 0.5, "segmentation": {"counts": "52207"}},
        7,
    ],
)
def test_instances_that_are_none_are_refused(row: Any, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps([row]))
    with pytest.raises(InputError, match="holds no COCO results"):
        files.read_instances(tmp_path / "a.json", formats.COCO)


def test_a_mask_that_is_no_mask_is_refused_with_its_image(tmp_path: Path) -> None:
    row = {"image_id": 1, "category_id": 1, "score": 0.5, "segmentation": {"counts": "~"}}
    (tmp_path / "a.json").write_text(json.dumps([row]))
    found = files.read_instances(tmp_path / "a.json", formats.COCO)[0]
    with pytest.raises(InputError, match=r"^image a1: mask 0: its counts are no compressed COCO RLE"):
        _ = found.runs


@pytest.mark.parametrize("rows", ["a,-1", "a,0\na,1", "a,1.5", "a,x", "a,", "a," + "9" * 400, "a," + "9" * 5000])
def test_folds_of_no_image_are_refused(rows: str, tmp_path: Path) -> None:
    (tmp_path / "folds.csv").write_text(f"image_id,fold\n{rows}\n")
    with pytest.raises(InputError, match="is no table of image_id and fold"):
        files.read_folds(tmp_path / "folds.csv")


def test_a_list_of_ids_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    (tmp_path / "ids.txt").write_bytes(b"\xef\xbb\xbfa1\r\na2\r\n")
    assert holdout.read_ids(tmp_path / "ids.txt") == ["a1", "a2"]


@pytest.mark.parametrize("name", ["con", "NUL", "aux.png", "Com1", "lpt9.tar.gz", "PRN."])
def test_no_id_is_a_device_of_windows(name: str) -> None:
    assert not is_safe_id(name)
    assert is_safe_id(f"x{name}")


# Archives -------------------------------------------------------------------------------------------------------------


def test_a_link_in_an_archive_becomes_a_file_and_nothing_is_written_through_it(tmp_path: Path) -> None:
    (tmp_path / "secret").mkdir()
    path = tmp_path / "data" / "inner.zip"
    path.parent.mkdir()
    with zipfile.ZipFile(path, "w") as made:
        link = zipfile.ZipInfo("link")
        link.external_attr = 0o120777 << 16  # a symbolic link, as Unix packs it
        made.writestr(link, str(tmp_path / "secret"))
        made.writestr("link/stolen.txt", "1")
    with pytest.raises(InputError, match="is no archive that can be unpacked"):
        kaggle.unpack(path, path.parent)
    assert list((tmp_path / "secret").iterdir()) == []
    assert (path.parent / "inner" / "link").is_file()
    assert not (path.parent / "inner" / "link").is_symlink()


def test_an_archive_that_claims_more_than_the_disk_holds_is_not_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "inner.zip"
    with zipfile.ZipFile(path, "w") as made:
        for number in range(3000):
            made.writestr(str(number), b"")
    content, at = bytearray(path.read_bytes()), -1
    while (at := content.find(b"PK\x01\x02", at + 1)) >= 0:  # the directory: four gigabytes each, less two bytes
        content[at + 24 : at + 28] = (2**32 - 2).to_bytes(4, "little")
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"unpacks to 12884901882000 bytes, and the disk has room for"):
        kaggle.unpack(path, tmp_path)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"no archive"])
def test_a_broken_archive_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "inner.zip").write_bytes(content)
    with pytest.raises(InputError, match="is no archive that can be unpacked"):
        kaggle.unpack(tmp_path / "inner.zip", tmp_path)
