"""The facts of a contest: those that come with the program, and what is refused."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from fixtures.contests import CONF, facts
from hypothesis import given
from hypothesis import strategies as st

from pipeline.competition import is_safe_id


@pytest.mark.parametrize("path", sorted(CONF.glob("*.yaml")), ids=lambda path: path.stem)
def test_the_contests_that_come_along_carry_the_name_of_their_file(path: Any) -> None:
    assert facts(path.stem).key == path.stem


def test_the_two_contests_number_their_pixels_in_two_orders() -> None:
    assert (facts("dsb2018").order, facts("dsb2018").base) == ("column", 1)
    assert (facts("sartorius").order, facts("sartorius").base) == ("row", 1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"categories": ()}, r"categories: wanted different names, at least one, got \(\)"),
        ({"categories": ("cell", "cell")}, r"categories: wanted different names, at least one, got \('cell', 'cell'\)"),
        ({"annotation_columns": {"id": "image", "t": "mask"}}, "annotation_columns: wanted one for the class of .*"),
        (
            {"annotation_columns": {"id": "image"}},
            "annotation_columns: the layout rows wants .* image, mask; .*",
        ),
        ({"submission_layout": "strings"}, "submission_columns: the layout strings wants .* image, predictions; .*"),
        ({"order": None}, "order: wanted row or column, .* got null"),
        ({"codes": {"astro": "0", "cort": "0"}}, "codes: wanted a different one for each category, got .*"),
        ({"codes": {"neuron": "0"}}, r"codes: \['neuron'\] are none of the categories .*"),
        ({"train_image": "train/*.png"}, r'train_image: wanted a path with {id}, .* got "train/\*\.png"'),
        ({"test_image": "test.png"}, 'test_image: wanted a path with {id}, .* got "test.png"'),
        ({"train_masks": "masks/*.png"}, r'train_masks: wanted a path with {id}, .* got "masks/\*\.png"'),
    ],
)
def test_a_fact_that_cannot_be_is_refused_by_its_name(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        facts("sartorius", **changes)


def test_the_facts_of_a_contest_cannot_be_changed_later() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        facts("dsb2018").base = 0  # type: ignore[misc]


@pytest.mark.parametrize("name", ["0030fd0e6378", "a", "A.b_c-9", "...", "0114f484a16c152baa2d82fdd43740880a762c93"])
def test_plain_ids_can_stand_in_a_path(name: str) -> None:
    assert is_safe_id(name)


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../a", "a/b", "a\\b", "a b", "a\n", "\u00e9", "a\0", "~", "a*", "{id}"]
)
def test_ids_that_could_lead_elsewhere_cannot(name: str) -> None:
    assert not is_safe_id(name)


@given(st.text(max_size=8))
def test_a_safe_id_names_a_file_within_its_folder(name: str) -> None:
    if is_safe_id(name):
        assert name not in (".", "..")
        assert name.isascii()
        assert all(symbol.isalnum() or symbol in "._-" for symbol in name)
