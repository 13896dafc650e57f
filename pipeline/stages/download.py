"""The stage `download`: the contest's files where the line looks for them."""

from __future__ import annotations

import logging

from pipeline import toy
from pipeline.competition import Competition
from pipeline.errors import InputError
from pipeline.files import Paths

log = logging.getLogger(__name__)


def download(*, competition: Competition, paths: Paths, overwrite: bool = False) -> None:
    """Put the contest's files in place: draw the toy contest, or say how to get another one's.

    Looks for the training CSV and the sample submission in `paths.data`; where both exist there is nothing to do.
    What lies in `paths.data` is somebody's and is never replaced, not even with `overwrite`.
    Raises InputError naming the missing files and the commands that fetch them.
    """
    missing = _missing(competition, paths)
    if not missing:
        kept = "; overwrite=true does not touch a contest's own files" if overwrite else ""
        log.info("%s: the files of %s are in place%s", paths.data, competition.key, kept)
        return
    if competition.key != "toy":
        raise InputError(_how_to_get(competition, paths, missing))
    log.info("%s: drawing the toy contest", paths.data)
    toy.draw(paths.data, seed=0)


def _missing(competition: Competition, paths: Paths) -> list[str]:
    wanted = [competition.train_annotations, *filter(None, [competition.sample_submission])]
    return [name for name in wanted if not (paths.data / name).is_file()]


def _how_to_get(competition: Competition, paths: Paths, missing: list[str]) -> str:
    slug = competition.url.rstrip("/").rsplit("/", 1)[-1]
    be = "is" if len(missing) == 1 else "are"
    return (
        f"{paths.data}: {' and '.join(missing)} of the contest {competition.key} {be} not there. "
        f"Accept the contest's rules at {competition.url}, then\n"
        f"    kaggle competitions download -c {slug} -p {paths.data}\n"
        f"    unzip -q {paths.data / slug}.zip -d {paths.data}\n"
        f"or point to the folder where the files are: paths.data=DIR"
    )
