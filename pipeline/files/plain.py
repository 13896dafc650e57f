"""Plain data from files that anyone may have written: JSON and YAML in bounded time and memory, and their versions."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

import yaml

from pipeline.errors import InputError

_YAML = 1 << 24  # bytes: records and thresholds have some ten thousand, and a megabyte takes a second
_VALUES = 1_000_000  # of a YAML file, each counted as often as aliases repeat it


def read_json(path: Path, made_by: str) -> Any:
    """The content of a JSON file. Raises InputError, naming the stage (`made_by`) that makes it, for a missing or
    broken file, and for an object of a version that is not known.
    """
    try:
        content = json.loads(path.read_bytes(), parse_constant=_no_number)
    except FileNotFoundError:
        raise InputError(f"{path} does not exist; the stage `{made_by}` makes it") from None
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} is no JSON ({error}); delete it and run `{made_by}` again") from None
    if isinstance(content, dict):
        check_version(path, content, 1, made_by)
    return content


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON")


def read_yaml(path: Path, made_by: str) -> dict[str, Any]:
    """The mapping in a YAML file. No tag of it makes an object, and no alias makes little text much.

    Raises InputError, naming the stage (`made_by`) that makes it, for a missing, broken or other file.
    """
    try:
        if path.stat().st_size > _YAML:
            raise InputError(f"{path} is no file of `{made_by}`: it has more than {_YAML} bytes")
        found = yaml.safe_load(path.read_bytes().decode("utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path} does not exist; the stage `{made_by}` makes it") from None
    except InputError:
        raise
    except Exception as error:  # of broken dates, numbers and tags the reader raises whatever its parts do
        said = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"{path} is no YAML: {said:.300}") from None
    if not isinstance(found, dict):
        raise InputError(f"{path}: wanted a mapping, got {type(found).__name__}")
    if not all(isinstance(key, str) for key in found):
        raise InputError(f"{path}: wanted a mapping of names, got {list(found)!r:.80}")
    if _values(found, {}) > _VALUES:
        raise InputError(f"{path}: its aliases repeat more than {_VALUES} values, or one another without end")
    return found


def _values(value: Any, known: dict[int, float]) -> float:
    """How many values there are, one that is repeated counted each time; infinite where it holds itself."""
    if not isinstance(value, dict | list | tuple | set):
        return 1
    if id(value) not in known:
        known[id(value)] = float("inf")  # until it is known: who finds it meanwhile is inside it
        inner = [*value, *value.values()] if isinstance(value, dict) else list(value)
        known[id(value)] = 1 + sum(_values(one, known) for one in inner)
    return known[id(value)]


def check_version(path: Path, content: Mapping[str, Any], known: int, made_by: str) -> None:
    """Raises InputError where a file's content is of another version; one that states none is of the first.

    known: the version that this program reads and writes.
    """
    got = content.get("version", 1)
    if got != known or isinstance(got, bool):
        said = f"wanted version {known}, got version {got!r:.40}"
        raise InputError(f"{path}: {said}; use the version of maskline that made it, or run `{made_by}` again")
