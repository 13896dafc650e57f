"""Rows of a submission: round trips, blank rows, bytes, and what `read` refuses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from fixtures.contests import facts
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from pipeline.errors import InputError
from pipeline.instances import Instances
from pipeline.masks import runs
from pipeline.submission.lint import lint
from pipeline.submission.rows import read, to_rows, write

# One folder may serve all examples, and the machine may be busy.
BUSY = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]


def instances(image_id: str, masks: NDArray[np.bool_]) -> Instances:
    """Dense masks (N, H, W) as the carrier."""
    ones = np.ones(len(masks))
    coco = tuple(runs.to_coco(runs.from_dense(masks)))
    return Instances(image_id, masks.shape[1:], ones.astype(np.float32), ones.astype(np.int64), coco)


@st.composite
def images(draw: st.DrawFn) -> list[Instances]:
    """Up to three images of several sizes, each pixel with at most one of up to three instances, none of them empty."""
    made = []
    for k in range(draw(st.integers(1, 3))):
        owner = draw(arrays(np.int8, draw(st.tuples(st.integers(1, 5), st.integers(1, 5))), elements=st.integers(0, 3)))
        labels = sorted(set(owner.ravel().tolist()) - {0})
        made.append(instances(f"image {k}", np.array([owner == v for v in labels], bool).reshape(-1, *owner.shape)))
    return made


@given(images(), st.sampled_from(["row", "column"]), st.sampled_from([0, 1]))
@settings(deadline=None, suppress_health_check=BUSY)
def test_to_rows_write_and_read_return_the_same_masks_and_a_clean_file(
    tmp_path: Path, made: list[Instances], order: str, base: int
) -> None:
    competition, path = facts("toy", order=order, base=base), tmp_path / "submission.csv"
    sizes = {image.image_id: image.size for image in made}
    write(made, competition, path)
    assert lint(path, competition, sizes) == []
    back = read(path, competition, sizes)
    assert [(b.image_id, tuple(b.size), b.masks) for b in back] == [(m.image_id, tuple(m.size), m.masks) for m in made]
    assert all((b.scores == 1).all() and (b.labels == 1).all() for b in back)


def test_the_official_example_of_the_text_is_written() -> None:
    # "1 3 10 5" implies pixels 1,2,3,10,11,12,13,14 are to be included in the mask (both contests' evaluation pages).
    flat = np.zeros(15, bool)
    flat[[0, 1, 2, 9, 10, 11, 12, 13]] = True
    along_rows, down_columns = flat.reshape(1, 3, 5), flat.reshape(1, 5, 3).transpose(0, 2, 1)
    assert to_rows([instances("a", along_rows)], facts("toy", order="row"))["predicted"].tolist() == ["1 3 10 5"]
    assert to_rows([instances("a", down_columns)], facts("toy", order="column"))["predicted"].tolist() == ["1 3 10 5"]
    other = to_rows([instances("a", along_rows)], facts("toy", order="column"))["predicted"].tolist()
    assert other == ["1 1 3 2 6 2 9 1 12 1 14 1"]


def test_a_file_has_lf_ends_one_blank_row_for_an_empty_image_and_keeps_the_order(tmp_path: Path) -> None:
    two = np.zeros((2, 2, 3), bool)
    two[0, 0], two[1, 1] = True, True
    path = tmp_path / "submission.csv"
    write([instances("b", two), Instances.empty("a", (2, 3))], facts("toy"), path)
    assert path.read_bytes() == b"id,predicted\nb,1 3\nb,4 3\na,\n"


def test_an_instance_without_a_pixel_has_no_row() -> None:
    masks = np.zeros((2, 2, 3), bool)
    masks[1, 0, 0] = True
    assert to_rows([instances("a", masks)], facts("toy"))["predicted"].tolist() == ["1 1"]
    assert to_rows([instances("a", masks[:1])], facts("toy"))["predicted"].tolist() == [""]


def test_no_images_give_a_header_only(tmp_path: Path) -> None:
    write([], facts("toy"), tmp_path / "submission.csv")
    assert (tmp_path / "submission.csv").read_bytes() == b"id,predicted\n"


def test_an_image_that_occurs_twice_is_refused() -> None:
    with pytest.raises(InputError, match="image a occurs twice"):
        to_rows([Instances.empty("a", (2, 3))] * 2, facts("toy"))


def test_read_takes_rows_in_any_order_and_gives_the_images_in_the_order_wanted(tmp_path: Path) -> None:
    path = tmp_path / "submission.csv"
    path.write_text("id,predicted\nb,4 1 1 2\na,\nb,6 1\n", encoding="utf-8")
    found = read(path, facts("toy"), {"a": (2, 3), "b": (2, 3)})
    assert [(image.image_id, len(image)) for image in found] == [("a", 0), ("b", 2)]
    assert runs.to_dense(found[1].runs).astype(int).tolist() == [[[1, 1, 0], [1, 0, 0]], [[0, 0, 0], [0, 0, 1]]]


def test_an_image_called_na_or_null_is_an_image(tmp_path: Path) -> None:
    path = tmp_path / "submission.csv"
    names = ["NA", "null", "1e5", "007"]
    write([Instances.empty(name, (2, 3)) for name in names], facts("toy"), path)
    assert [image.image_id for image in read(path, facts("toy"), dict.fromkeys(names, (2, 3)))] == names


def test_read_refuses_with_file_row_image_and_rule(tmp_path: Path) -> None:
    path = tmp_path / "submission.csv"
    path.write_text("id,predicted\na,1 1\na,5 3\n" + "x,\n" * 7, encoding="utf-8")
    with pytest.raises(InputError) as refused:
        read(path, facts("toy"), {"a": (2, 3)})
    said = str(refused.value)
    assert said.startswith(f"{path}: the file breaks the rules of toy:\n")
    assert "row 3, image a: run 1 ends at pixel 7, the image has 6" in said
    assert said.endswith("and 3 more")


def test_warnings_do_not_stop_read(tmp_path: Path) -> None:
    path = tmp_path / "submission.csv"
    path.write_text("id,predicted\na,5 1 1 2\n", encoding="utf-8")
    found = read(path, facts("toy"), {"a": (2, 3)})
    assert runs.area(found[0].runs).tolist() == [3]
