"""The stage `run`: the whole line, each stage with the keys that it names."""

from __future__ import annotations

import inspect
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from inspect import Parameter
from typing import Any

from pipeline.model.classifier import Classifier
from pipeline.model.ranks import is_first
from pipeline.stages.convert import convert
from pipeline.stages.download import download
from pipeline.stages.ensemble import ensemble
from pipeline.stages.evaluate import evaluate
from pipeline.stages.postprocess import postprocess
from pipeline.stages.predict import predict
from pipeline.stages.submit import submit
from pipeline.stages.train import train
from pipeline.stages.tune import tune

log = logging.getLogger(__name__)

STEPS = (download, convert, train, predict, ensemble, tune, postprocess, evaluate, submit)


def run(**settings: Any) -> float | None:
    """Run the whole line: from the contest's files to a checked submission.csv.

    Takes the keys of all its stages and hands to each those that it names. Every stage reads the files that the one
    before it left and skips what is complete, so a broken run goes on where it stopped. tuned=true chooses thresholds
    on the validation images before they are applied; fold=all has none of them. Without test images there is nothing
    to submit. Where the contest has the truth of its test images (the toy has), the submission is scored against it at
    the end. The run of a classifier ends with its predictions. Returns the score that `evaluate` gives, null where
    nothing was left to score.
    """
    competition, paths = settings["competition"], settings["paths"]
    validates = settings["fold"] != "all"  # a training on all images has none left to choose thresholds or to score
    settings = settings if validates else {**settings, "split": "test"}
    wanted: dict[Callable[..., float | None], Callable[[], bool]] = {
        tune: lambda: settings["tuned"] and validates,
        evaluate: lambda: settings["split"] != "test" or paths.holdout.is_file(),
        submit: lambda: competition.sample_submission is not None or paths.holdout.is_file(),
    }
    score = None
    for step in STEPS:
        if not is_first() and step not in (train, predict):
            return None  # the others' share ends here
        if step is ensemble and isinstance(settings["model"], Classifier):
            log.info(
                "a classifier finds no instances; other runs ask it by postprocess=gate presence.run=%s",
                settings["run"],
            )
            return None
        if step not in wanted or wanted[step]():
            returned = _timed(step, settings)
            score = returned if step is evaluate else score
    truth = competition.test_truth and paths.data / competition.test_truth
    if truth and truth.is_file():
        _timed(evaluate, {**settings, "submission": paths.output / competition.submission_file, "truth": truth})
    return score


def _timed(step: Callable[..., float | None], settings: Mapping[str, Any]) -> float | None:
    """Run one stage with its share of the settings, log how long it took, and return what it returned."""
    begin = time.perf_counter()
    log.info("%s …", step.__name__)
    score = step(**{key: settings[key] for key in inspect.signature(step).parameters if key in settings})
    log.info("%s: done in %.1f s", step.__name__, time.perf_counter() - begin)
    return score


def union(steps: Sequence[Callable[..., float | None]]) -> inspect.Signature:
    """Return the signature with every parameter of the stages, each once, all by keyword."""
    parameters: dict[str, Parameter] = {}
    for step in steps:
        for name, parameter in inspect.signature(step, eval_str=True).parameters.items():
            parameters.setdefault(name, parameter.replace(kind=Parameter.KEYWORD_ONLY))
    return inspect.Signature(list(parameters.values()))


run.__signature__ = union(STEPS)  # type: ignore[attr-defined]  # what `build` reads, as of any other stage
