"""Lists of images to train on and to hold out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from fixtures.contests import draw, facts
from fixtures.dense import LAW
from fixtures.line import maskline
from hypothesis import given
from hypothesis import strategies as st

from pipeline.data import coco, contest
from pipeline.data.coco import Coco
from pipeline.data.holdout import across, divide, locate, read_ids
from pipeline.data.leaks import Pair
from pipeline.errors import ConfigError, InputError
from pipeline.files import Paths, read_coco
from pipeline.stages.convert import convert

NAMES = [f"image{number}" for number in range(6)]


def dataset() -> Coco:
    """Six images, the k-th with k annotations."""
    images = [{"id": i + 1, "name": name, "group": name} for i, name in enumerate(NAMES)]
    annotations = [{"id": 10 * i + j, "image_id": i + 1} for i in range(6) for j in range(i)]
    return {"info": {}, "categories": [], "images": images, "annotations": annotations}


def names(part: Coco) -> set[str]:
    return set(coco.by_name(part))


@LAW
@given(st.lists(st.sampled_from(["train", "held", "neither"]), min_size=6, max_size=6).filter(lambda x: "train" in x))
def test_every_image_goes_with_its_truth_where_its_list_says(kinds: list[str]) -> None:
    wanted = {kind: {n for n, own in zip(NAMES, kinds, strict=True) if own == kind} for kind in ("train", "held")}
    train, held = divide(dataset(), wanted["train"], wanted["held"])
    assert (names(train), names(held)) == (wanted["train"], wanted["held"])
    for part in (train, held):
        assert len(part["annotations"]) == sum(int(name[-1]) for name in names(part))


def test_without_a_list_to_train_on_all_are_that_are_not_held_out() -> None:
    train, held = divide(dataset(), None, ["image4"])
    assert (names(train), names(held)) == ({*NAMES} - {"image4"}, {"image4"})


def test_a_pair_is_inside_the_training_or_across_its_border() -> None:
    pairs = [Pair("right", a, b, 1.0) for a, b in (("a", "b"), ("a", "x"), ("y", "b"), ("x", "y"))]
    assert across(pairs, {"a", "b"}) == (pairs[:1], pairs[1:3])


def test_ids_are_read_line_by_line_and_blank_lines_say_nothing(tmp_path: Path) -> None:
    file = tmp_path / "ids.txt"
    file.write_text("b\n\n a \r\nc")
    assert read_ids(file) == ["b", "a", "c"]


@pytest.mark.parametrize(
    ("text", "message"),
    [("\n\n", "lists no image id"), ("a\nb\n\na\n", "line 4: image a is listed twice"), (None, "cannot be read")],
)
def test_a_list_that_cannot_be_used_is_refused(tmp_path: Path, text: str | None, message: str) -> None:
    file = tmp_path / "ids.txt"
    if text is not None:
        file.write_text(text)
    with pytest.raises(InputError, match=f"{file}.*{message}"):
        read_ids(file)


@pytest.mark.parametrize(
    ("training", "held_out", "error", "message"),
    [
        (["image1", "image2"], ["image2"], ConfigError, "image image2 .* is among training_ids as well"),
        (None, NAMES, ConfigError, "all images are held out"),
        (["image1"], ["imago2"], InputError, "'imago2' is not among the 6 images; nearest is 'image2'"),
        (["imago1"], ["image2"], InputError, "'imago1' is not among the 6 images"),
    ],
)
def test_lists_that_do_not_fit_are_refused(
    training: list[str] | None, held_out: list[str], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        divide(dataset(), training, held_out)


def test_convert_tests_on_the_images_held_out_and_keeps_their_truth(tmp_path: Path) -> None:
    draw(tmp_path / "data", "sartorius")
    whole = contest.read_train(tmp_path / "data", facts("sartorius"), "csv")
    every = sorted(coco.by_name(whole))
    (tmp_path / "held.txt").write_text("\n".join(every[:1]))
    paths = Paths(tmp_path / "data", tmp_path / "out", tmp_path / "submissions")
    settings = {"competition": facts("sartorius"), "paths": paths, "n_folds": 2, "seed": 0}
    convert(**settings, holdout_ids=str(tmp_path / "held.txt"))
    assert set(coco.by_name(read_coco(paths.annotations))) == {*every[1:]}
    assert read_coco(paths.test)["annotations"] == []
    truth = {one.image_id: one.masks for one in coco.truth(whole)}
    assert {one.image_id: one.masks for one in coco.truth(read_coco(paths.holdout))} == {every[0]: truth[every[0]]}
    assert list(coco.by_name(read_coco(paths.test))) == every[:1]
    convert(**settings)  # the contest's own test images again
    assert not paths.holdout.exists()
    assert set(coco.by_name(read_coco(paths.annotations))) == {*every}


def test_the_paper_s_split_at_the_command_line(tmp_path: Path, real_data: Path) -> None:
    """The StarDist paper's test images are tiles of the frames that it trains on: 40 of 50, as found by their seams."""
    data = real_data / "dsb2018"
    done = maskline("convert", "experiment=dsb2018_stardist", f"paths.data={data}", f"paths.output={tmp_path}")
    assert done.returncode == 0, done.stderr
    assert "40 of 50 images held out continue or repeat one to train on" in done.stderr
    found = {name: read_coco(tmp_path / f"{name}.json") for name in ("annotations", "holdout", "test")}
    assert {name: len(part["images"]) for name, part in found.items()} == {
        "annotations": 447,
        "holdout": 50,
        "test": 50,
    }
    shipped = {one: sorted(read_ids(locate(f"stardist_{one}"))) for one in ("train", "test")}
    assert shipped == {one: sorted(read_ids(data / "splits" / f"stardist_{one}_ids.txt")) for one in shipped}
    assert sorted(coco.by_name(found["annotations"])) == shipped["train"]
    assert len(json.loads((tmp_path / "leaks.json").read_text())["holdout"]) >= 40
    refused = maskline("convert", "competition=dsb2018", f"paths.data={data}", f"paths.output={tmp_path}",
                       f"holdout_ids={tmp_path / 'none.txt'}")  # fmt: skip
    assert refused.returncode == 1
    assert "none.txt cannot be read as a list of image ids" in refused.stderr
    refused = maskline("convert", "competition=dsb2018", f"paths.data={data}", f"paths.output={tmp_path}",
                       "holdout_ids=stardist_tests")  # fmt: skip
    assert refused.returncode == 2
    assert "nearest is 'stardist_test'" in refused.stderr
