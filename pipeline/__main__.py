"""The front door: `python -m pipeline STAGE key=value …`, the same as `maskline STAGE key=value …`.

Exit status 0: done; 1: the work, a file or the machine is at fault; 2: the command line or the configuration is, and
nothing has been started; 130: interrupted (Ctrl-C); 143: told to end (SIGTERM), as a shell says of those that are ended
so. Findings and scores go to standard output, progress, logs and errors to standard error.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import io
import logging
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import hydra
from hydra._internal.utils import get_args_parser  # the parser that hydra.main uses, to read the line as it will
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from pipeline import compose, journal, machine, stages, sweep
from pipeline.build import build, call, nearest
from pipeline.compose import Command
from pipeline.errors import ConfigError, InputError

log = logging.getLogger(__name__)

RANKS = ("LOCAL_RANK", "SLURM_PROCID")
"""Variables that tell the processes of one training apart; the first of them, 0, speaks for all."""

_DEFECT = "this is a defect of the program, not of your input; please report the lines above"

USAGE = """\
usage: maskline STAGE key=value …        (the same as: python -m pipeline STAGE key=value …)

From a cell segmentation contest's files to a checked submission.csv. The stages, in the order of the line:

{stages}

  maskline STAGE --help          what a stage does, its keys and their values, the options of its groups
  maskline run experiment=toy    the whole line on the toy contest, in minutes
  maskline STAGE … --cfg job     print the configuration and do nothing
  maskline STAGE … --multirun    one job for each combination of values: seed=0,1 optimizer=adamw,sgd
  eval "$(maskline -sc install=bash)"    tab completion for this shell (also zsh and fish)
"""

STAGE_USAGE = """\
usage: maskline {stage} key=value …

{description}

Groups: choose one with group=option.

{groups}

Keys, with their values as composed from conf/ and this command line: set one with key=value, a nested one with
outer.inner=value; null is no value.

{keys}
Examples:
  maskline {stage} competition=dsb2018 paths.data=DIR paths.output=DIR
  maskline {stage} competition=dsb2018 --cfg job
  maskline {stage} competition=toy,dsb2018 --multirun
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (default: that of the process) and return the exit status."""
    words = list(sys.argv[1:] if argv is None else argv)
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises what goes wrong instead of printing it and leaving
    stage = next((word for word in words if word in stages.STAGES), "")
    try:
        with _command_line(sys.argv[0], *words), machine.ended_by_sigterm():
            _enter(stage, words)
            sys.stdout.flush()
        return 0
    except InputError as error:
        status, message = 1, str(error)
    except ConfigError as error:
        status, message = 2, str(error)
    except compose.FAILURES as error:
        status, message = 2, "; ".join(filter(None, map(str.strip, str(error).splitlines()))) or repr(error)
    except KeyboardInterrupt as error:
        status, message = machine.ending(error)
    except SystemExit as error:  # the training engine leaves in this way when it is interrupted
        if not isinstance(error.__context__, KeyboardInterrupt):
            raise
        status, message = machine.ending(error.__context__)
    except Exception as error:
        if isinstance(error, BrokenPipeError) and machine.reader_is_gone():
            return 141  # as a shell says of who is ended by it
        found = machine.fault(error)
        if found is None:
            traceback.print_exc()
        status, message = 1, found or _DEFECT
    print(f"maskline {stage}".rstrip() + f": {message}", file=sys.stderr)
    return status


def arguments(stage: str, *words: str) -> dict[str, Any]:
    """What a stage would be called with, its objects built: for notebooks, which then work on with the same ones.

    Raises ConfigError for overrides that do not fit; see `main` to run the stage.
    """
    command = compose.about_record(Command(stage, words))
    compose.refuse_foreign(command)
    with compose.composer(command):
        config = compose.compose(command.overrides)
        return build(stages.load(stage), compose.settings_of(command, config, command.overrides))


def _enter(stage: str, words: list[str]) -> None:
    if {"-sc", "--shell-completion"} & set(words):
        _complete(words, stage)
    elif not stage:
        _without_stage(words)
    else:
        words.remove(stage)
        if {"--help", "-h"} & set(words):
            print(_stage_help(_command(stage, words)[0]))
        else:
            _run(*_command(stage, words))


def _without_stage(words: Sequence[str]) -> None:
    if "--version" in words:
        try:
            print(f"maskline {importlib.metadata.version('maskline')}")
        except importlib.metadata.PackageNotFoundError:
            print("maskline, run from its sources and not installed")
        return
    typed = next((word for word in words if not word.startswith("-") and "=" not in word), None)
    if typed is None and (not words or {"--help", "-h"} & set(words)):
        lines = (f"  {name:<12} {stages.description(name).partition(chr(10))[0]}" for name in stages.STAGES)
        print(USAGE.format(stages="\n".join(lines)), end="")
        return
    what = f"{typed}: no such stage{nearest(typed, stages.STAGES)}" if typed else "name a stage first"
    raise ConfigError(f"{what}; there are: {', '.join(stages.STAGES)}")


def _command(stage: str, words: Sequence[str]) -> tuple[Command, argparse.Namespace, list[str]]:
    """Read the words behind the stage as Hydra will; the flags are returned as they were typed."""
    parser = get_args_parser()
    parser.prog = f"maskline {stage}"
    arguments = parser.parse_intermixed_args(words)
    flags = [word for word in words if word not in arguments.overrides]
    conf = Path(arguments.config_path).resolve() if arguments.config_path else compose.CONF
    extra = Path(arguments.config_dir).resolve() if arguments.config_dir else None
    multirun = arguments.multirun or "hydra.mode=MULTIRUN" in arguments.overrides
    overrides = tuple(compose.readable(text) for text in arguments.overrides)
    command = Command(stage, overrides, multirun, conf, extra)
    return compose.about_record(command), arguments, flags


def _run(command: Command, arguments: argparse.Namespace, flags: Sequence[str]) -> None:
    """Refuse what is wrong, then let Hydra run the stage (or print what it was asked to print)."""
    if arguments.cfg or arguments.info:
        compose.refuse_foreign(command)
        with compose.composer(command):
            compose.compose(command.overrides)
    elif not arguments.hydra_help:
        compose.check(command)
    failures: list[Exception] = []
    _application(command, _job(command, failures), [*command.overrides, *_hydra_overrides(command), *flags])
    if failures:
        raise failures[0]


def _job(command: Command, failures: list[Exception]) -> Callable[[DictConfig], float | None]:
    """Return what Hydra calls with each composed configuration, and what gives its sweeper the stage's score.

    A failure that has a message of its own is kept aside in a single run: Hydra would print a line about it first. In
    a sweep it is logged and raised, so that Hydra knows which job failed and the others go on. The stage sees the
    command line as it was typed: the training engine starts its other processes with it.
    """
    typed = tuple(sys.argv)

    def job(config: DictConfig) -> float | None:
        try:
            overrides, given = list(HydraConfig.get().overrides.task), str(config.run)
            settings = compose.settings_of(command, config, overrides)
            if {os.environ.get(name, "0") for name in RANKS} == {"0"}:
                journal.note(Path(settings["paths"]["output"]), compose.as_recorded(command, settings, overrides))
            if command.stage in sweep.BORROWERS and settings["run"] != given:
                stages.lend(settings["paths"], given, settings["run"])
            with _command_line(*typed):
                score: float | None = call(stages.load(command.stage), settings)
                return score
        except Exception as error:
            if not isinstance(error, InputError | ConfigError) and machine.fault(error) is None:
                raise
            if command.multirun:
                log.error("%s", machine.fault(error) or error)
                raise
            failures.append(error)
        return None

    return job


def _hydra_overrides(command: Command) -> list[str]:
    """Name Hydra's job after the stage and tell a search what scores are; a stage that makes no files leaves no log."""
    settings = [f"hydra.job.name={command.stage}"]
    if "overwrite" not in stages.parameters(command.stage):
        settings += ["hydra/job_logging=console", "hydra.output_subdir=null", "hydra.run.dir=."]
    settings += sweep.settings(command.parsed())
    typed = {override.key_or_group for override in command.parsed()}
    return [setting for setting in settings if setting.partition("=")[0] not in typed]


def _application(command: Command, job: Callable[[DictConfig], float | None], words: Sequence[str]) -> None:
    """Run the one Hydra application with `words` as its command line."""
    with _command_line(sys.argv[0], *words):
        hydra.main(version_base="1.3", config_path=str(command.conf), config_name="config")(job)()


@contextlib.contextmanager
def _command_line(*words: str) -> Iterator[None]:
    before, sys.argv = sys.argv, list(words)
    try:
        yield
    finally:
        sys.argv = before


def _stage_help(command: Command) -> str:
    """Return the page of `STAGE --help`; nothing of the stage is imported."""
    names = stages.parameters(command.stage)
    compose.refuse_foreign(command)
    with compose.composer(command) as loader:
        config = compose.compose(command.overrides)
        options = {name: found for name, found in compose.groups(loader).items() if name in (*names, *compose.ALWAYS)}
        del options["hydra"]
        chosen = config.hydra.runtime.choices
        lines = (
            f"  {name:<12} {chosen.get(name) or 'null'}  of: {', '.join(of)}" for name, of in options.items() if of
        )
        keys = OmegaConf.to_yaml(OmegaConf.masked_copy(config, [name for name in names if name in config]))
    return STAGE_USAGE.format(
        stage=command.stage, description=stages.description(command.stage), groups="\n".join(lines), keys=keys
    )


def _complete(words: list[str], stage: str) -> None:
    """Answer the shell's question for completions: a stage first, then what Hydra offers, as far as the stage takes it.

    The shell gives the line typed so far in COMP_LINE; Hydra's answer knows no stages, so the word is taken out.
    """
    line = os.environ.get("COMP_LINE", "")
    command = Command(stage, ())
    if stage:
        words.remove(stage)
    if not any(word.startswith("query=") for word in words):
        return _application(command, lambda config: None, words)
    typed = re.sub(r"^\s*(\S*python\S*\s+-m\s+\S+|\S+)", "", line)
    found = re.match(rf"\s+({'|'.join(stages.STAGES)})(?=\s)", typed)
    if found is None:
        print(" ".join(name for name in stages.STAGES if name.startswith(typed.strip())))
        return None
    os.environ["COMP_LINE"] = f"maskline{typed[found.end() :]}"
    answer = io.StringIO()
    with contextlib.redirect_stdout(answer):
        _application(command, lambda config: None, words)
    own = {*stages.parameters(found[1]), *compose.ALWAYS}
    print(" ".join(word for word in answer.getvalue().split() if re.split(r"[./@=]", word.lstrip("+~"))[0] in own))
    return None


if __name__ == "__main__":
    sys.exit(main())
