"""The only door from configuration to objects.

A configuration is a tree of mappings, lists and scalars; a mapping with the key `_target_` describes a call. `build`
first plans: it finds every target, binds every key to its signature, holds every value against its annotation, and
constructs nothing. Then it constructs what was planned. A wrong tree is therefore refused as a whole, before anything
has happened, with the full key, what was expected, what was got and the nearest right name.

Configurations travel (the record of a submission is a file that others edit), so targets are classes, confined to
`ALLOWED`: a function may write files or run programs before anyone sees what it returns.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import pkgutil
import re
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from inspect import Parameter
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from omegaconf import OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from pipeline.errors import ConfigError

ALLOWED = (
    "pipeline.",
    "torch.optim.",
    "torchvision.transforms.v2.",
    "lightning.pytorch.callbacks.",
    "lightning.pytorch.loggers.",
)
"""A target's path starts with one of these, and the target is defined below it (not merely imported there)."""

REFUSED = ("pipeline.build.", "pipeline.compose.", "pipeline.stages.")  # doors, not parts


@dataclass(frozen=True)
class Plan:
    """A call that has been checked and not yet made: `target(**arguments)`, and the key it stands under."""

    key: str
    target: type
    arguments: dict[str, Any]
    as_partial: bool
    wanted: Any


def build(function: Callable[..., Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Turn `settings` into keyword arguments of `function`; ConfigError where they do not fit.

    Nested mappings with `_target_` become objects, with `_partial_: true` a functools.partial of their target. Lists
    become tuples, integers floats and strings paths where the annotations say so. `settings` is not modified.
    """
    return {key: _construct(value) for key, value in check(function, settings).items()}


def call(function: Callable[..., Any], settings: Mapping[str, Any]) -> Any:
    """Call `function` with the arguments built from `settings`."""
    return function(**build(function, settings))


def check(function: Callable[..., Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Plan the arguments of `function` and construct none: the first half of `build`, for refusing early."""
    return _bind(function, plain(settings), "", complete=True)


def slice_for(function: Callable[..., Any], config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the top-level keys of `config` that the signature of `function` names, as plain containers."""
    names = signature(function).parameters
    return plain(config, [key for key in config if key in names])


def plain(config: Mapping[str, Any], keys: Iterable[str] | None = None) -> dict[str, Any]:
    """Return `keys` of `config` (default: all) as plain containers, interpolations resolved; else ConfigError."""
    tree = {}
    for key in map(str, config if keys is None else keys):
        try:
            tree[key] = value = config[key]
            if OmegaConf.is_config(value):
                tree[key] = OmegaConf.to_container(value, resolve=True, throw_on_missing=True)
        except MissingMandatoryValue as error:
            raise ConfigError(f"{error.full_key or key}: has no default; give it on the command line") from error
        except OmegaConfBaseException as error:
            raise ConfigError(f"{error.full_key or key}: {str(error).splitlines()[0]}") from error
    return tree


def signature(target: Callable[..., Any]) -> inspect.Signature:
    """Return the signature with evaluated annotations; as written, where one is for type checkers alone."""
    try:
        return inspect.signature(target, eval_str=True)
    except (NameError, AttributeError):
        return inspect.signature(target)


def nearest(name: str, options: Iterable[Any]) -> str:
    """Return `; nearest: X` for the option most like `name`, or nothing where none is alike."""
    close = difflib.get_close_matches(name, [str(option) for option in options], n=1)
    return f"; nearest: {close[0]}" if close else ""


def _bind(target: Callable[..., Any], settings: Mapping[str, Any], key: str, *, complete: bool) -> dict[str, Any]:
    """Fit `settings` to the signature of `target`; `complete`: a required key that is missing is an error."""
    try:
        parameters = signature(target).parameters
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{key}: {_name(target)} has no signature that keys could be checked against") from error
    named = {name: p for name, p in parameters.items() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    if not any(p.kind is Parameter.VAR_KEYWORD for p in parameters.values()):
        for name in [name for name in settings if name not in named]:
            near = nearest(name, named).replace(": ", f": {_join(key, '')}")
            keys = ", ".join(named) or "none"
            raise ConfigError(f"{_join(key, name)}: {_name(target)} has no such key{near}; it has: {keys}")
    for name, p in named.items():
        if complete and p.default is p.empty and name not in settings:
            raise ConfigError(f"{_join(key, name)}: not given, and {_name(target)} cannot do without")
    annotations = {name: named[name].annotation if name in named else Any for name in settings}
    return {name: _fit(value, annotations[name], _join(key, name)) for name, value in settings.items()}


def _fit(value: Any, wanted: Any, key: str) -> Any:
    """Return `value` as the annotation `wanted` asks (a call as a Plan), or raise ConfigError naming `key`."""
    if isinstance(value, Mapping) and "_target_" in value:
        return _plan(value, wanted, key)
    wanted = get_args(wanted)[0] if get_origin(wanted) is Annotated else wanted
    origin = get_origin(wanted) or wanted
    if origin in (Union, types.UnionType):
        return _fit_union(value, wanted, key)
    if isinstance(value, list | tuple) and _below(origin, Sequence):
        return _fit_sequence(value, wanted, key)
    if isinstance(value, Mapping) and (_below(origin, Mapping) or not _says_something(wanted)):
        inner = (*get_args(wanted), Any, Any)[1]
        return {name: _fit(item, inner, _join(key, str(name))) for name, item in value.items()}
    if isinstance(value, list) and not _says_something(wanted):
        return [_fit(item, Any, f"{key}[{i}]") for i, item in enumerate(value)]
    if wanted is float and type(value) is int:
        return float(value)
    if wanted is Path and isinstance(value, str):
        return Path(value)
    if not _is_instance(value, wanted):
        raise _mismatch(value, wanted, key)
    return value


def _fit_union(value: Any, wanted: Any, key: str) -> Any:
    """Take the alternative of exactly the value's type, else the first that fits."""
    deeper = []
    for option in sorted(get_args(wanted), key=lambda option: type(value) is not option):
        try:
            return _fit(value, option, key)
        except ConfigError as error:
            deeper += [error] if not str(error).startswith(f"{key}: ") else []
    raise deeper[0] if deeper else _mismatch(value, wanted, key)


def _fit_sequence(value: Sequence[Any], wanted: Any, key: str) -> Any:
    origin, inner = get_origin(wanted) or wanted, get_args(wanted)
    fixed = origin is tuple and inner and inner[-1] is not Ellipsis
    annotations = list(inner) if fixed else [(*inner, Any)[0]] * len(value)
    if len(annotations) != len(value):
        raise _mismatch(value, wanted, key)
    items = [_fit(item, annotations[i], f"{key}[{i}]") for i, item in enumerate(value)]
    return items if origin is list else tuple(items)


def _plan(node: Mapping[str, Any], wanted: Any, key: str) -> Plan:
    as_partial: bool = _fit(node.get("_partial_", False), bool, _join(key, "_partial_"))
    target = resolve(node["_target_"], _join(key, "_target_"))
    made = partial if as_partial else target
    if not any(_makes(made, option) for option in _options(wanted)):
        raise ConfigError(f"{key}: expected {_type(wanted)}, got {'a partial of ' * as_partial}{_name(target)}")
    settings = {str(name): value for name, value in node.items() if name not in ("_target_", "_partial_")}
    return Plan(key, target, _bind(target, settings, key, complete=not as_partial), as_partial, wanted)


def resolve(path: Any, key: str) -> type:
    """Return the class that the dotted `path` names, if it lies within `ALLOWED`; `key` is for messages."""
    if not isinstance(path, str) or not re.fullmatch(r"[A-Za-z]\w*(\.[A-Za-z]\w*)+", path, re.ASCII):
        raise ConfigError(f"{key}: expected the dotted path of a public class, got {path!r:.80}")
    home = next((prefix for prefix in ALLOWED if path.startswith(prefix)), None)
    if home is None or path.startswith(REFUSED):
        raise ConfigError(f"{key}: {path} may not be built from a configuration; what may: {', '.join(ALLOWED)}")
    module_name, _, name = path.rpartition(".")
    module = _module(module_name, key)
    if not hasattr(module, name):
        raise ConfigError(f"{key}: {module_name} has no {name}{nearest(name, dir(module))}")
    found = getattr(module, name)
    defined = f"{getattr(found, '__module__', None)}."
    if not isinstance(found, type) or not defined.startswith(home) or defined.startswith(REFUSED):
        raise ConfigError(f"{key}: {path} is no part that may be built: a class defined in {home[:-1]}")
    return found


def _module(name: str, key: str) -> types.ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or "." not in name or not f"{name}.".startswith(f"{error.name}."):
            raise ConfigError(f"{key}: {name} needs the package {error.name}, which is not installed") from error
    parent, _, last = name.rpartition(".")
    beside = [found.name for found in pkgutil.iter_modules(getattr(_module(parent, key), "__path__", ()))]
    raise ConfigError(f"{key}: {parent} has no module {last}{nearest(last, beside)}")


def _construct(value: Any) -> Any:
    if type(value) is dict:
        return {name: _construct(item) for name, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_construct(item) for item in value)
    return _make(value) if isinstance(value, Plan) else value


def _make(plan: Plan) -> Any:
    arguments = {name: _construct(value) for name, value in plan.arguments.items()}
    if plan.as_partial:
        return partial(plan.target, **arguments)
    try:
        made = plan.target(**arguments)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{plan.key}: {_name(plan.target)} refuses its keys: {error}") from error
    if not any(_is_instance(made, option) for option in _options(plan.wanted)):
        raise ConfigError(f"{plan.key}: expected {_type(plan.wanted)}, got {type(made).__name__}")
    return made


def _options(annotation: Any) -> tuple[Any, ...]:
    """Return the alternatives of a union, or the annotation alone."""
    return get_args(annotation) if get_origin(annotation) in (Union, types.UnionType) else (annotation,)


def _below(origin: Any, base: type) -> bool:
    return isinstance(origin, type) and origin is not str and issubclass(origin, base)


def _says_something(annotation: Any) -> bool:
    """Tell whether a value can be held against `annotation`: not against Any, type variables, plain protocols."""
    cls = _class(annotation)
    protocol = getattr(cls, "_is_protocol", False) and not getattr(cls, "_is_runtime_protocol", False)
    return cls is Literal or (isinstance(cls, type) and cls not in (Any, object, Parameter.empty) and not protocol)


def _class(annotation: Any) -> Any:
    return type(None) if annotation is None else get_origin(annotation) or annotation


def _is_instance(value: Any, annotation: Any) -> bool:
    """Hold one value against one annotation; true is no int, 1 is no bool, and an int is a float."""
    if get_origin(annotation) is Literal:
        return any(type(value) is type(option) and value == option for option in get_args(annotation))
    if annotation in (bool, int, str) or (isinstance(value, str) and _below(_class(annotation), Sequence)):
        return type(value) is annotation
    return not _says_something(annotation) or isinstance(value, _class(annotation))


def _makes(cls: type, annotation: Any) -> bool:
    """Tell whether an instance of `cls` would fit the annotation."""
    wanted = _class(annotation)
    return not _says_something(annotation) or (isinstance(wanted, type) and issubclass(cls, wanted))


def _mismatch(value: Any, wanted: Any, key: str) -> ConfigError:
    literals = [name for option in _options(wanted) if get_origin(option) is Literal for name in get_args(option)]
    hint = nearest(str(value), literals)
    if type(value) in (int, float, bool) and str in _options(wanted):
        hint = f"; to give it as text: \"{key}='{value}'\""
    if isinstance(value, Mapping):
        hint = "; an object is given by its group, or by a mapping with `_target_`"
    return ConfigError(f"{key}: expected {_type(wanted)}, got {'null' if value is None else repr(value)}{hint}")


def _type(annotation: Any) -> str:
    """Name a type as a user of the command line would: null, one of a, b; list of 2: int, int."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin in (Union, types.UnionType):
        return " or ".join(_type(option) for option in inner)
    if origin is Literal:
        return f"one of {', '.join(map(str, inner))}"
    if origin is tuple and inner and inner[-1] is not Ellipsis:
        return f"list of {len(inner)}: {', '.join(map(_type, inner))}"
    if _below(origin, Sequence):
        return f"list of {_type((*inner, Any)[0])}"
    return "null" if _class(annotation) is type(None) else str(getattr(origin or annotation, "__name__", annotation))


def _name(target: Any) -> str:
    return f"{getattr(target, '__module__', '?')}.{getattr(target, '__qualname__', repr(target))}"


def _join(key: str, name: str) -> str:
    return f"{key}.{name}" if key else name
