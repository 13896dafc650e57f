"""The stage `bundle`: all that a Kaggle notebook without network needs to submit what a record describes."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

from pipeline.atomic import atomic_folder
from pipeline.competition import Competition
from pipeline.errors import InputError
from pipeline.files import Paths, write_json
from pipeline.records import content, wheels
from pipeline.records.notebook import notebook
from pipeline.records.plan import plan

log = logging.getLogger(__name__)
RECORD = "bundle"  # the record's folder in a bundle
_KEPT = ("record.yaml", "config.yaml", "images.csv", "tuned.yaml")


def bundle(
    *, record: Path | None, competition: Competition, paths: Paths, kept: Path | None, budget: str | None
) -> None:
    """Make a folder ready to be a Kaggle dataset: wheels, weights, the record and a notebook that submits.

    Reads `record` and the weights below `kept` (null: paths.output), where they lay in paths.output. Writes
    paths.output/bundles/<record>/, anew: submit.ipynb, wheels/ (of this package and of those that Kaggle's image lacks,
    which pip fetches; never torch or numpy), runs/…/best.pt, bundle/ (the record) and dataset-metadata.json. On Kaggle
    the notebook predicts the test images that are there, within `budget` (null: 8h), and writes the checked submission.
    """
    found = content.read(record)
    if competition.sample_submission is None:
        raise InputError(f"{found.name}: the contest {competition.key} has no test images to submit for")
    needed = plan(found, kept or paths.output, "predict").files
    folder = paths.output / "bundles" / found.name
    with atomic_folder(folder) as made:
        for name, path in needed.items():
            if not name.endswith("tuned.yaml"):  # that one is part of the record
                _copy(path, made / name)
        for name in _KEPT:
            if (found.folder / name).is_file():
                _copy(found.folder / name, made / RECORD / name)
        packages = wheels.fetch(made / "wheels")
        file = str(found.content["submission"]["file"])
        cells = notebook(found.name, file, competition.sample_submission, packages, budget or "8h")
        write_json(made / "submit.ipynb", cells, indent=1)
        write_json(made / "dataset-metadata.json", _metadata(found.name), indent=1)
    megabytes = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 2**20
    log.info("%s: %d files that the record names, %.0f MB", folder, len(needed), megabytes)
    log.info("put your name into dataset-metadata.json, then: kaggle datasets create -p %s --dir-mode zip", folder)


def _copy(source: Path, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, path)


def _metadata(name: str) -> dict[str, object]:
    """What Kaggle wants to know of a dataset; its names have at most 50 characters, of letters, digits and dashes."""
    slug = "".join(letter if letter.isalnum() else "-" for letter in name.lower())[:50].strip("-")
    return {"title": slug, "id": f"INSERT_YOUR_NAME/{slug}", "licenses": [{"name": "other"}]}
