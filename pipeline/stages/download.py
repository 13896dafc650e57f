"""The stage `download`: the contest's files where the line looks for them."""

from __future__ import annotations

import logging

from pipeline import kaggle, toy
from pipeline.competition import Competition
from pipeline.errors import InputError
from pipeline.files import Paths

log = logging.getLogger(__name__)


def download(*, competition: Competition, paths: Paths, overwrite: bool = False) -> None:
    """Put the contest's files in place: draw the toy contest, or fetch another one's from Kaggle.

    Looks for the training CSV and the sample submission in `paths.data`; where both exist there is nothing to do. What
    lies in `paths.data` is somebody's and is never replaced, not even with `overwrite`. Kaggle wants the rules of the
    contest accepted and a token of the account; a download that broke off goes on where it stopped.
    Raises InputError naming the missing files, why they could not be fetched, and what to do.
    """
    missing = _missing(competition, paths)
    if not missing:
        kept = "; overwrite=true does not touch a contest's own files" if overwrite else ""
        log.info("%s: the files of %s are in place%s", paths.data, competition.key, kept)
        return
    if competition.key == "toy":
        log.info("%s: drawing the toy contest", paths.data)
        toy.draw(paths.data, seed=0)
        return
    if not competition.slug:
        raise InputError(f"{paths.data}: {_named(missing)} not there, and {competition.key} is no contest of Kaggle's")
    try:
        hashes = kaggle.download(competition.slug, paths.data)
    except InputError as error:
        raise InputError(f"{error}\n{_by_hand(competition, paths, missing)}") from None
    for name, digest in hashes.items():
        log.info("%s: sha256 %s", paths.data / name, digest)
    missing = _missing(competition, paths)
    if missing:
        raise InputError(f"{paths.data}: {_named(missing)} not among the files of {competition.url}")


def _missing(competition: Competition, paths: Paths) -> list[str]:
    wanted = [competition.train_annotations, *filter(None, [competition.sample_submission])]
    return [name for name in wanted if not (paths.data / name).is_file()]


def _named(missing: list[str]) -> str:
    return f"{' and '.join(missing)} {_be(missing)}"


def _be(missing: list[str]) -> str:
    return "is" if len(missing) == 1 else "are"


def _by_hand(competition: Competition, paths: Paths, missing: list[str]) -> str:
    return (
        f"{paths.data}: {' and '.join(missing)} of the contest {competition.key} {_be(missing)} not there. By hand: "
        f"accept the contest's rules at {competition.url}, download its files there, unpack them into {paths.data}, "
        "or point to the folder where they are: paths.data=DIR"
    )
