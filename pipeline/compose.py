"""From a command line to the checked settings of a stage. Whatever is wrong is refused here, before any work starts.

Hydra composes; this module asks it beforehand, in the same way, and says what is wrong in the words of the command
line: the key or option as it was typed, why it is refused, and the nearest right name.

A sweep (`--multirun`) is refused as a whole where one of its jobs would be, or where two would write to one place.
Jobs of `train`, `run`, `tune` and `postprocess` that differ in more than where they write get a run of their own each:
`seed=0,1` makes runs `baseline_seed-0` and `baseline_seed-1`. (Those of `run` share `<paths.output>/submission.csv`:
the last job's remains.) Those of the last two stages work on the detections of `baseline`. A search is refused in the
same way, by the ends of what it chooses from, and where the stage returns no score to search by.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import hydra
from hydra._internal.hydra import Hydra  # as hydra.main makes it: the public way knows no second folder
from hydra._internal.utils import create_config_search_path
from hydra.core.config_loader import ConfigLoader
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from pipeline import stages, sweep
from pipeline.build import build, nearest, resolve, signature, slice_for
from pipeline.errors import ConfigError
from pipeline.sweep import run_of_job, top

HERE = Path(__file__).resolve().parent
CONF = HERE / "conf" if (HERE / "conf").is_dir() else HERE.parent / "conf"
"""The configuration's folder: inside the package where it was installed from a wheel, beside it in a checkout."""

ALWAYS = ("hydra", "experiment", "debug", "competition")
"""Top-level names that every stage accepts: they may hold values for other stages too, and the contest names paths."""

NOT_RECORDED = ("hydra", "paths", "submission", "truth", "format", "overwrite", "quiet")
"""Top-level keys that no record holds: places of this machine, and what changes no result."""

FAILURES = (HydraException, OmegaConfBaseException, YAMLError)
"""What composing raises where a configuration is wrong."""


@dataclass(frozen=True)
class Command:
    """A command line: the stage, its overrides, whether it is a sweep, and where the configuration lies."""

    stage: str
    overrides: tuple[str, ...]
    multirun: bool = False
    conf: Path = CONF
    extra: Path | None = None

    def parsed(self) -> list[Override]:
        return parse(self.overrides)

    def fixed(self) -> set[str]:
        """The keys whose values are the same in every job of a sweep."""
        return {override.key_or_group for override in self.parsed() if not override.is_sweep_override()}


def parse(overrides: Sequence[str]) -> list[Override]:
    """Parse overrides in Hydra's grammar; ConfigError naming the first that cannot be read."""
    parser, parsed = OverridesParser.create(), []
    for text in overrides:
        try:
            parsed += parser.parse_overrides([text])
        except HydraException as error:
            why = (str(error.__cause__ or error).splitlines() or [""])[0]
            raise ConfigError(f"{text}: cannot be read as key=value ({why})") from error
    return parsed


def readable(text: str) -> str:
    """An override as it was typed, its value in quotes where Hydra's grammar has no other room for it.

    Of letters it knows the Latin ones without marks: a folder's name with others, or with parentheses, is plain text.
    """
    key, sign, value = text.partition("=")
    quoted = re.sub(r'(\\*)("|$)', lambda found: found[1] * 2 + (found[2] and r"\""), value)
    for tried in (text, f'{key}="{quoted}"' if sign and value[:1] not in ("", "'", '"', "[", "{") else text):
        try:
            parse([tried])
        except ConfigError:
            continue
        return tried
    return text


def refuse_foreign(command: Command) -> None:
    """Raise ConfigError for an override whose top-level key is none of the stage's, naming the stages that take it."""
    own = {*stages.parameters(command.stage), *ALWAYS}
    for override in command.parsed():
        key = top(override)
        takers = [name for name in stages.STAGES if key in stages.parameters(name)]
        if key not in own and takers:
            raise ConfigError(f"{override.input_line}: {command.stage} does not take {key}; {', '.join(takers)} do")
        if key not in own:
            with composer(command):
                raise ConfigError(_no_such_key(override, _known()))


def check(command: Command) -> None:
    """Compose and build what the command would run, each job of a sweep, and throw it away; ConfigError if wrong."""
    refuse_foreign(command)
    function = stages.load(command.stage)
    places: dict[tuple[str, ...], int] = {}
    with composer(command):
        for number, overrides in enumerate(_jobs(command)):
            config = compose(overrides)
            settings = settings_of(command, config, overrides)
            build(function, slice_for(function, settings))
            first = places.setdefault(sweep.place(command.stage, settings), number)
            if first != number and (stages.scores(command.stage) or "overwrite" in stages.parameters(command.stage)):
                raise ConfigError(
                    f"jobs {first} and {number} of the sweep would write the same files below "
                    f"{settings['paths']['output']}; sweep over competition, paths.output, run or fold instead"
                )


def settings_of(command: Command, config: DictConfig, overrides: Sequence[str]) -> dict[str, Any]:
    """Return the resolved top-level settings of one job; in a sweep, with a run of its own where it needs one."""
    if command.multirun and command.stage in sweep.APART:
        run = run_of_job(str(config.run), parse(overrides), command.fixed())
        OmegaConf.update(config, "run", run)
    return slice_for(stages.load(command.stage), config)


def as_recorded(command: Command, settings: Mapping[str, Any], overrides: Sequence[str]) -> list[dict[str, Any]]:
    """What one job runs, without places of this machine: stage, overrides, resolved settings; `run` as its stages."""
    own = [*overrides, *([f"run={settings['run']}"] if command.multirun and "run" in settings else [])]
    found = []
    for stage in stages.LINE if command.stage == "run" else {command.stage}.intersection(stages.LINE):
        takes = {*stages.parameters(stage), *ALWAYS} - {*NOT_RECORDED}
        kept = [text for text, one in zip(own, parse(own), strict=True) if top(one) in takes]
        resolved = {key: settings[key] for key in stages.parameters(stage) if key in settings and key in takes}
        found.append({"stage": stage, "overrides": kept, "settings": resolved})
    return found


def about_record(command: Command) -> Command:
    """A command about a record (record=DIR) is of the contest of that record, unless it names one."""
    parsed = {override.key_or_group: override.value() for override in command.parsed()}
    file = Path(str(parsed.get("record"))) / "record.yaml"
    if "competition" in parsed or "record" not in parsed or not file.is_file():
        return command
    found = re.search(r"^competition: ([\w.-]+)$", file.read_text(encoding="utf-8", errors="replace"), re.MULTILINE)
    contest = f"competition={found[1]}" if found else ""
    known = [folder / f"{contest.replace('=', '/')}.yaml" for folder in (command.conf, command.extra or command.conf)]
    return replace(command, overrides=(contest,) * any(map(Path.is_file, known)) + command.overrides)


def _jobs(command: Command) -> list[tuple[str, ...]]:
    """Return the overrides of each job; of a sweeper that searches, of enough of them to tell what is wrong."""
    if not command.multirun:
        return [command.overrides]
    parsed = command.parsed()
    plain = compose([override.input_line or "" for override in parsed if not override.is_sweep_override()])
    sweeper = plain.hydra.sweeper
    searches = sweep.searches(sweeper)
    if searches and not stages.scores(command.stage):
        those = ", ".join(name for name in stages.STAGES if stages.scores(name))
        raise ConfigError(f"{sweeper._target_} searches by a score, and {command.stage} returns none; {those} do")
    if searches and plain.fold == "all" and "trainer" in stages.parameters(command.stage):
        raise ConfigError("fold=all: nothing is left to validate on, and so there is no score to search by")
    params = parse([f"{key}={value}" for key, value in (sweeper.get("params") or {}).items()])
    return sweep.jobs([*params, *parsed], searches)


# ------------------------------------------------------------------------------------------------- Hydra's part


@contextmanager
def composer(command: Command) -> Iterator[ConfigLoader]:
    """Open the configuration's folder (and the one of --config-dir) for `compose`, and yield Hydra's loader."""
    for folder in (command.conf, command.extra or command.conf):
        if not folder.is_dir():
            raise ConfigError(f"{folder}: no such folder of configurations")
    path = create_config_search_path(str(command.conf))
    if command.extra:
        path.prepend("command-line", f"file://{command.extra}", SearchPathQuery(provider="schema"))
    hydra.version.setbase("1.3")
    GlobalHydra.instance().clear()
    try:
        yield Hydra.create_main_hydra2(command.stage, path).config_loader
    finally:
        GlobalHydra.instance().clear()


def compose(overrides: Sequence[str]) -> DictConfig:
    """Compose within `composer`, as the command will; ConfigError with the place and the nearest right name."""
    try:
        config = hydra.compose("config", list(overrides), return_hydra_config=True)
    except (*FAILURES, ValueError) as error:
        raise ConfigError(explain(error, parse(overrides))) from error
    HydraConfig.instance().set_config(config)
    return config


def groups(loader: ConfigLoader, parent: str = "") -> dict[str, list[str]]:
    """Return each configuration group with its options, those within groups as `outer/inner`."""
    found = {}
    for name in loader.list_groups(parent):
        path = f"{parent}/{name}" if parent else name
        found[path] = loader.get_group_options(path, ObjectType.CONFIG)
        found.update(groups(loader, path))
    return found


def explain(error: Exception, overrides: Sequence[Override]) -> str:
    """Say which override is at fault and what is near; Hydra's own words where none is."""
    options = groups(GlobalHydra.instance().config_loader())
    for override in overrides:
        group, value = override.key_or_group, override.value()
        if group in options and value is None and not override.is_delete():
            return f"{override.input_line}: to choose no option of a group, write ~{group}"
        if group in options and not isinstance(value, list) and value not in (*options[group], None):
            if group == "hydra/sweeper" and value in sweep.EXTRAS:
                return f'{override.input_line} needs the extra {value}: pip install "maskline[{value}]"'
            near = nearest(str(value), options[group])
            return f"{override.input_line}: no such {group}{near}; there are: {_list(options[group])}"
    known = _known([override.input_line or "" for override in overrides if override.key_or_group.startswith("hydra/")])
    for override in overrides:
        if not override.is_add() and not override.is_force_add() and not known.get(override.key_or_group):
            return _no_such_key(override, known)
    lines = [line.strip() for part in (error, error.__cause__) if part for line in str(part).splitlines()]
    return "; ".join(dict.fromkeys(line for line in lines if line)) or repr(error)


def _known(chosen: Sequence[str] = ()) -> dict[str, bool]:
    """Return every group and every dotted key of the configuration as it is with `chosen`, and whether it stands.

    A key that a target takes and the configuration leaves out stands not: it is given with a plus sign.
    """
    known = dict.fromkeys(groups(GlobalHydra.instance().config_loader()), True)
    try:
        config = hydra.compose("config", list(chosen), return_hydra_config=True)
    except FAILURES:
        return known
    return dict(_flat(OmegaConf.to_container(config, resolve=False))) | known


def _flat(tree: Any, prefix: str = "") -> Iterator[tuple[str, bool]]:
    if isinstance(tree, dict) and not prefix.startswith("hydra.") and "_target_" in tree:
        yield from ((f"{prefix}{name}", False) for name in _parameters(tree["_target_"]))
    for key, value in tree.items() if isinstance(tree, dict) else ():
        yield f"{prefix}{key}", True
        yield from _flat(value, f"{prefix}{key}.")


def _parameters(target: Any) -> list[str]:
    try:
        return list(signature(resolve(target, "")).parameters)
    except ConfigError:
        return []


def _no_such_key(override: Override, known: Mapping[str, bool]) -> str:
    """Prefer a key with the same last name, then one that looks alike as a whole, then one whose last name does."""
    key = override.key_or_group
    if not known.get(key, True):
        return f"{override.input_line}: the configuration leaves {key} at its default; to set it, write +{key}=VALUE"
    own = [name for name in known if not name.startswith("hydra") or key.startswith("hydra")]
    by_leaf: dict[str, list[str]] = {}
    for name in own:
        by_leaf.setdefault(name.rpartition(".")[2], []).append(name)
    leaf = key.rpartition(".")[2]
    close = by_leaf.get(leaf) or difflib.get_close_matches(key, own, n=1)
    close = close or [name for near in difflib.get_close_matches(leaf, list(by_leaf), n=1) for name in by_leaf[near]]
    return f"{key}: no such key{f'; nearest: {_list(close)}' if close else ''}"


def _list(names: Sequence[str]) -> str:
    return ", ".join(names) or "none"
