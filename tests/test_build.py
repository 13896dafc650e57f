"""From configuration to objects: what fits is built, what does not is refused by name."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from inspect import Parameter, Signature
from pathlib import Path
from typing import Any, Literal, Protocol

import pytest
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from pipeline.build import ALLOWED, build, call, check, slice_for
from pipeline.competition import Competition
from pipeline.errors import ConfigError
from pipeline.files import Paths

PATHS = {"_target_": "pipeline.files.Paths", "data": "in", "output": "out", "submissions": "kept"}
ADAM = {"_target_": "torch.optim.AdamW", "_partial_": True, "lr": 1}

text, number = st.text("abc.$ ", max_size=8), st.integers(-9, 9)


class Walker(Protocol):
    def walk(self) -> None: ...


def takes(annotation: Any) -> Callable[..., dict[str, Any]]:
    """A function of one required key `x` with this annotation."""

    def function(**settings: Any) -> dict[str, Any]:
        return settings

    function.__signature__ = Signature([Parameter("x", Parameter.KEYWORD_ONLY, annotation=annotation)])  # type: ignore[attr-defined]
    return function


# ---------------------------------------------------------------------------------------------------------- laws


@given(a=number, b=text, c=st.floats(allow_nan=False), d=st.booleans(), e=st.none() | number, f=st.lists(number))
def test_values_of_the_annotated_types_pass_unchanged(a, b, c, d, e, f) -> None:
    def stage(*, a: int, b: str, c: float, d: bool, e: int | None, f: Sequence[int]) -> dict[str, Any]:
        return locals()

    settings = {"a": a, "b": b, "c": c, "d": d, "e": e, "f": f}
    assert call(stage, settings) == settings | {"f": tuple(f)}


@given(st.recursive(st.none() | st.booleans() | number | text, lambda x: st.lists(x) | st.dictionaries(text, x)))
def test_a_tree_without_targets_passes_an_untyped_key_unchanged(tree) -> None:
    before = copy.deepcopy(tree)
    assert build(takes(Any), {"x": tree}) == {"x": before}
    assert tree == before


@given(st.sampled_from([1, 0, True, False, 1.5, "1", "", None, [1], {"a": 1}]))
def test_each_plain_value_has_exactly_one_scalar_type_an_int_being_also_a_float(value) -> None:
    fitting = set()
    for kind in (bool, int, float, str, None):
        try:
            build(takes(kind), {"x": value})
        except ConfigError:
            continue
        fitting.add(type(None) if kind is None else kind)
    own = {type(value)} & {bool, int, float, str, type(None)}
    assert fitting == own | ({float} if type(value) is int else set())


def test_checking_constructs_nothing_and_building_leaves_the_settings_alone() -> None:
    made: list[str] = []

    def stage(*, paths: Paths) -> None:
        made.append("stage")

    settings = {"paths": dict(PATHS)}
    before = copy.deepcopy(settings)
    check(stage, settings)
    assert build(stage, settings) == build(stage, settings) == {"paths": Paths(Path("in"), Path("out"), Path("kept"))}
    assert settings == before
    assert made == []


# ------------------------------------------------------------------------------------------------------- golden


@pytest.mark.parametrize(
    ("annotation", "value", "built"),
    [
        (float, 3, 3.0),
        (float | None, 3, 3.0),
        (int | float, 3, 3),
        (Path, "a/b", Path("a/b")),
        (Path | None, "a", Path("a")),
        (str | Path, "a", "a"),
        (tuple[int, float], [1, 2], (1, 2.0)),
        (tuple[str, ...], [], ()),
        (list[Path], ["a"], [Path("a")]),
        (Sequence[float], [1, 2.5], (1.0, 2.5)),
        (Mapping[str, float], {"a": 1}, {"a": 1.0}),
        (dict[str, tuple[int, int]], {"a": [1, 2]}, {"a": (1, 2)}),
        (Literal["csv", "masks"], "csv", "csv"),
        (Literal["csv"] | None, None, None),
        (Path, Path("a"), Path("a")),
    ],
)
def test_values_become_what_the_annotation_says(annotation, value, built) -> None:
    result = build(takes(annotation), {"x": value})["x"]
    assert result == built
    assert type(result) is type(built)


def test_a_partial_target_is_finished_by_the_caller_and_nested_targets_stand_in_lists() -> None:
    optimizer = build(takes(Callable[..., Any]), {"x": ADAM})["x"]
    assert isinstance(optimizer, partial)
    assert optimizer.keywords == {"lr": 1.0}
    flips = [{"_target_": "torchvision.transforms.v2.RandomHorizontalFlip", "p": 1}]
    composed = build(takes(Any), {"x": {"_target_": "torchvision.transforms.v2.Compose", "transforms": flips}})["x"]
    assert composed.transforms[0].p == 1.0


def test_a_stage_gets_its_slice_with_interpolations_across_the_whole_configuration() -> None:
    config = OmegaConf.create({"key": "toy", "paths": PATHS | {"output": "out/${key}"}, "other": "${absent}"})

    def stage(*, paths: Paths) -> Paths:
        return paths

    assert call(stage, slice_for(stage, config)).output == Path("out/toy")


# ---------------------------------------------------------------------------------------------------- wrong input


@pytest.mark.parametrize(
    ("annotation", "value", "message"),
    [
        (int, True, "x: expected int, got True"),
        (bool, 1, "x: expected bool, got 1"),
        (int, 1.0, "x: expected int, got 1.0"),
        (float, "1e-3", "x: expected float, got '1e-3'"),
        (int, None, "x: expected int, got null"),
        (int | None, "all", "x: expected int or null, got 'all'"),
        (str, 7, "x: expected str, got 7; to give it as text: \"x='7'\""),
        (Literal["csv", "masks"], "mask", "x: expected one of csv, masks, got 'mask'; nearest: masks"),
        (Literal["a", "test"] | None, "tset", "x: expected one of a, test or null, got 'tset'; nearest: test"),
        (tuple[int, int], [1], "x: expected list of 2: int, int, got [1]"),
        (tuple[int, ...], [1, "a"], "x[1]: expected int, got 'a'"),
        (Sequence[str], "abc", "x: expected list of str, got 'abc'"),
        (Mapping[str, int], {"a": "b"}, "x.a: expected int, got 'b'"),
        (Competition, PATHS, "x: expected Competition, got pipeline.files.Paths"),
        (Competition, {"key": "toy"}, "an object is given by its group, or by a mapping with `_target_`"),
        (Paths, ADAM, "x: expected Paths, got a partial of torch.optim.adamw.AdamW"),
        (Paths, PATHS | {"ouput": "o"}, "x.ouput: pipeline.files.Paths has no such key; nearest: x.output; it has: "),
        (Paths, {**PATHS, "data": 3}, "x.data: expected Path, got 3"),
        (Paths, {"_target_": "pipeline.files.Paths"}, "x.data: not given, and pipeline.files.Paths cannot do without"),
        (Any, ADAM | {"lr": "fast"}, "x.lr: expected float or Tensor, got 'fast'"),
        (Any, ADAM | {"_partial_": "yes"}, "x._partial_: expected bool, got 'yes'"),
        (Any, [{"a": ADAM | {"learning_rate": 1}}], "x[0].a.learning_rate: torch.optim.adamw.AdamW has no such key"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_with_key_expected_and_got(annotation, value, message) -> None:
    with pytest.raises(ConfigError) as error:
        build(takes(annotation), {"x": value})
    assert message in str(error.value)


@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "subprocess.run",
        "builtins.eval",
        "torch.load",
        "torch.hub.load",
        "torch.optimal.X",
        "pipeline.build.importlib.import_module",
        "pipeline.build.importlib",
        "pipeline.build.partial",
        "pipeline.build.call",
        "pipeline.build",
        "pipeline.stages.load",
        "pipeline.stages.run.run",
        "pipeline.__main__.main",
        "pipeline.files.os",
        "pipeline.files.Path",
        "pipeline.files.write_json",
        "pipeline.records.content.write_yaml",
        "pipeline.records.wheels.fetch",
        "pipeline.kaggle.submit",
        "pipeline.model.weights.save_weights",
        "pipeline.masks.text.from_text",
        "pipeline.files.Paths.__init__",
        "pipeline.files.Paths.run",
        "pipeline.files._read",
        "pipeline..files.Paths",
        "pipeline.files.Paths ",
        "pipeline",
        "torch.optim.os.system",
        "torch.optim.adamw.torch.load",
        "torch.optim.lr_scheduler.partial",
        "torchvision.transforms.v2.functional",
        "lightning.pytorch.callbacks.model_checkpoint.warn",
        "",
        3,
        None,
        ["pipeline.files.Paths"],
    ],
)
def test_a_target_outside_the_allowed_parts_is_never_built(target) -> None:
    for extra in ({}, {"_partial_": True}):
        with pytest.raises(ConfigError, match=r"^x\._target_: "):
            build(takes(Any), {"x": {"_target_": target, **extra}})


def test_a_configuration_calls_no_function_whatever_it_is_wanted_for(tmp_path: Path) -> None:
    writes = {"path": str(tmp_path / "a.py"), "content": {}, "head": "import os"}
    for wanted in (Competition, Competition | None, Any, Callable[..., Any]):
        with pytest.raises(ConfigError, match="is no part that may be built: a class defined in pipeline"):
            build(takes(wanted), {"x": {"_target_": "pipeline.records.content.write_yaml", **writes}})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("torch.optim.AdanW", "x._target_: torch.optim has no AdanW; nearest: AdamW"),
        ("pipeline.file.Paths", "x._target_: pipeline has no module file; nearest: files"),
        ("os.system", f"os.system may not be built from a configuration; what may: {', '.join(ALLOWED)}"),
    ],
)
def test_a_misspelt_target_is_answered_with_the_nearest(target, message) -> None:
    with pytest.raises(ConfigError) as error:
        build(takes(Any), {"x": {"_target_": target}})
    assert message in str(error.value)


def test_what_a_constructor_refuses_is_reported_under_its_key() -> None:
    node = {"_target_": "torchvision.transforms.v2.RandomHorizontalFlip", "p": 7}
    with pytest.raises(ConfigError, match=r"^x: .*RandomHorizontalFlip refuses its keys: .*p.*"):
        build(takes(Any), {"x": node})


def test_keys_of_the_function_itself_are_checked_too() -> None:
    with pytest.raises(ConfigError, match=r"^y: .* has no such key; it has: x"):
        build(takes(int), {"x": 1, "y": 2})
    with pytest.raises(ConfigError, match=r"^x: not given"):
        build(takes(int), {})


def test_an_interpolation_to_nowhere_and_a_missing_value_are_refused_by_name() -> None:
    with pytest.raises(ConfigError, match=r"^x: Interpolation key 'absent' not found"):
        build(takes(Any), OmegaConf.create({"x": "${absent}"}))
    with pytest.raises(ConfigError, match=r"^x: has no default; give it on the command line"):
        build(takes(Any), OmegaConf.create({"x": "???"}))


def test_a_plain_protocol_is_taken_on_trust() -> None:
    assert isinstance(build(takes(Walker), {"x": PATHS})["x"], Paths)
