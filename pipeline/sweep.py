"""The jobs of a sweep (`--multirun`): what is swept, where each job writes, and in which run.

A sweeper either goes through a grid, whose jobs are known beforehand, or it searches: it chooses the next job by the
scores of those before it, and only the values that it chooses from are known.
"""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Mapping, Sequence
from typing import Any

from hydra.core.override_parser.types import IntervalSweep, Override

PLACES = ("competition", "paths", "run", "fold", "split", "submission", "truth", "name")
"""Top-level keys that say where a job reads and writes, not what it does."""

BORROWERS = ("tune", "postprocess")
"""Stages whose jobs work on the detections of the run that is given, and write to runs of their own."""

APART = ("train", "run", *BORROWERS)
"""Stages whose jobs get a run of their own each."""

EXTRAS = ("optuna",)
"""Sweepers that extras of this name bring."""


def top(override: Override) -> str:
    """The top-level key or group that an override is about."""
    return re.split(r"[./@]", override.key_or_group)[0]


def run_of_job(run: str, overrides: Sequence[Override], fixed: set[str]) -> str:
    """Return `run` followed by what sets this job apart, fit for a folder's name; `run` where it is swept itself."""
    swept = [override for override in overrides if override.key_or_group not in fixed]
    what = [override for override in swept if top(override) not in PLACES]
    if any(override.key_or_group == "run" for override in swept) or not what:
        return run
    text = "_".join(f"{override.key_or_group}-{override.get_value_element_as_str()}" for override in what)
    clean = re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-")
    if len(clean) > 80 or re.search(r"[^A-Za-z0-9._/-]", text):
        clean = f"{clean[:70]}-{hashlib.sha256(text.encode()).hexdigest()[:6]}"
    return f"{run}_{clean}"


def place(stage: str, settings: Mapping[str, Any]) -> tuple[str, ...]:
    """Where a job writes: two jobs of one place would overwrite one another."""
    names = [name for name in ("fold", "split", "submission", "truth") if name in settings]
    names += ["run"] if stage != "submit" else []
    return (*map(str, settings["paths"].values()), *(str(settings.get(name)) for name in names))


def searches(sweeper: Mapping[str, Any]) -> bool:
    """Whether a sweeper, as configured, chooses its jobs by scores."""
    return not str(sweeper.get("_target_")).endswith("BasicSweeper")


def settings(overrides: Sequence[Override]) -> list[str]:
    """What a search of Optuna's must be told: that more of a score is better, and the seed of what it draws.

    Jobs are chosen one by one (its own default is by twos), each with all scores before it known.
    """
    typed = {override.key_or_group: override.value() for override in overrides}
    if typed.get("hydra/sweeper") != "optuna":
        return []
    seed = [] if typed.get("hydra/sweeper/sampler") == "grid" else ["hydra.sweeper.sampler.seed=${seed}"]
    return ["hydra.sweeper.direction=maximize", "hydra.sweeper.n_jobs=1", *seed]


def jobs(overrides: Sequence[Override], search: bool) -> list[tuple[str, ...]]:
    """Return the overrides of each job of a grid: all combinations.

    Of a search, whose jobs are not known: those of one, and of one more for each key that differs from it in this key
    alone. What is wrong with a value at the end of its range shows in them, and whether a key makes jobs write to
    places of their own. Of overrides of the same key the last counts.
    """
    choices = {override.get_key_element(): _values(override) for override in overrides}
    if not search:
        return list(itertools.product(*choices.values()))
    first = {key: values[0] for key, values in choices.items()}
    others = [first | {key: values[-1]} for key, values in choices.items() if values[-1] != values[0]]
    return [tuple(job.values()) for job in (first, *others)]


def _values(override: Override) -> list[str]:
    """What an override sets in one job or another: all of a list or range, the ends of an interval."""
    value = override.value()
    if isinstance(value, IntervalSweep):
        return [f"{override.get_key_element()}={end}" for end in (value.start, value.end)]
    if override.is_discrete_sweep():
        return [f"{override.get_key_element()}={one}" for one in override.sweep_string_iterator()]
    return [override.input_line or ""]
