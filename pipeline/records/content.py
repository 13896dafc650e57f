"""A record of a submission as it lies on disk: what it says, written by `submit` and read by those who come later.

record.yaml (what was made from what), config.yaml (the resolved configuration), images.csv (digests by image),
scores.json and picture.png (how it did on validation images), tuned.yaml (thresholds, where they were tuned).
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

from pipeline.competition import Competition
from pipeline.data.coco import by_name
from pipeline.errors import InputError
from pipeline.files import Paths, atomic, read_coco, read_json, read_yaml
from pipeline.files.checks import told
from pipeline.metrics.uncertainty import bootstrap
from pipeline.record import environment, file_hash, now
from pipeline.records import digests, lineage
from pipeline.records.checks import check_record

FORMAT, VERSION = "maskline-record", 2
_PICTURE, _COLOURS = 1200, 128  # of the picture: its longest side in pixels, and how many colours it keeps


class _Plain(yaml.SafeDumper):
    """YAML that says a thing again where it comes twice, instead of pointing back to it."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


@dataclass(frozen=True)
class Record:
    """A record that was read. folder: where. content: of record.yaml. config: of config.yaml."""

    folder: Path
    content: Mapping[str, Any]
    config: Mapping[str, Any]

    @property
    def name(self) -> str:
        return self.folder.resolve().name

    @property
    def run(self) -> str:
        return str(self.content["run"])

    def stages(self) -> list[dict[str, Any]]:
        """The stages in order; settings: all that the stage takes and more, environment: of the time of its work."""
        return [
            {
                "environment": self.content["environment"],
                **stage,
                "settings": {**self.config, **stage.get("settings", {})},
            }
            for stage in self.content["stages"]
        ]


def read(folder: Path | None) -> Record:
    """Read a record. Raises InputError where there is none, or one that was not written by this program."""
    if folder is None:
        raise InputError("record: wanted the folder of a record, as record=submissions/<id>; got null")
    content, config = (read_yaml(folder / name, "submit") for name in ("record.yaml", "config.yaml"))
    form, version = content.get("format"), content.get("version")
    if (form, version) != (FORMAT, VERSION):
        said = f"wanted {FORMAT} of version {VERSION}, got {form!s:.40} of version {version!s:.40}"
        raise InputError(f"{folder}: {said}; read it with the version of this program that made it")
    missing = {"competition", "run", "submission", "stages", "inputs", "files"} - content.keys()
    if missing:
        raise InputError(f"{folder / 'record.yaml'}: {', '.join(sorted(missing))} missing")
    try:
        check_record(content)
    except (TypeError, ValueError) as error:
        raise InputError(f"{folder / 'record.yaml'}: {told(error)}") from None
    return Record(folder, content, config)


def write_yaml(path: Path, content: Mapping[str, Any], head: str = "") -> None:
    """YAML in the order given, under a comment."""
    with atomic(path) as partial:
        text = head + yaml.dump(dict(content), Dumper=_Plain, sort_keys=False, allow_unicode=True, width=120)
        partial.write_text(text, encoding="utf-8")


def write(folder: Path, competition: Competition, paths: Paths, run: str) -> None:
    """Write the record of the submission file that lies in `paths.output`; record.yaml comes last."""
    stages = lineage.stages(paths.output, run)
    config = lineage.shared(stages)
    chain = made_of(paths, run, competition)
    folder.mkdir(parents=True, exist_ok=True)
    write_yaml(folder / "config.yaml", config)
    digests.write(folder / "images.csv", digests.of_files(paths.output, chain, competition))
    beside = {"scores.json": "scores.json", "evaluation.png": "picture.png"}
    if any(one["stage"] == "tune" for one in stages):
        beside["tuned.yaml"] = "tuned.yaml"
    for name, kept in beside.items():
        if (paths.run(run) / name).is_file():
            _keep(paths.run(run) / name, folder / kept)
    head = f"# How to make it again: maskline reproduce record={folder.name} paths.data=DIR (see the README)\n"
    write_yaml(folder / "record.yaml", _content(competition, paths, run, stages, config, chain), head)


def _keep(source: Path, path: Path) -> None:
    """Copy what is small, and a picture at a size that a repository bears."""
    if source.suffix != ".png":
        with atomic(path) as partial:
            shutil.copyfile(source, partial)
        return
    with atomic(path) as partial, Image.open(source) as picture:
        small = picture.convert("RGB")
        small.thumbnail((_PICTURE, _PICTURE))
        small.quantize(_COLOURS).save(partial, "png", optimize=True)


def write_score(folder: Path, score: Mapping[str, Any]) -> None:
    """Write what a contest said of the submission into its record, beside what it has said before."""
    content = read_yaml(folder / "record.yaml", "submit")
    head = (folder / "record.yaml").read_text(encoding="utf-8").partition("\n")[0]
    content["score"] = {**content.get("score", {}), **score}
    write_yaml(folder / "record.yaml", content, f"{head}\n" if head.startswith("#") else "")


def made_of(paths: Paths, run: str, competition: Competition) -> list[str]:
    """What of the test images leads to the submission, in the order of the line: paths in `paths.output`, that exist.

    Detections of the folds, what a classifier's folds say, fused detections, instances, the submission file.
    """
    folds = [f"{lineage.place(name, fold)}/detections_test.npz" for name, fold in lineage.sources(paths.output, run)]
    folds += [f"{lineage.place(name, fold)}/presence_test.csv" for name, fold in lineage.classifiers(paths.output, run)]
    own = [f"runs/{run}/detections_test.npz", f"runs/{run}/instances_test.json", competition.submission_file]
    return [name for name in (*folds, *own) if (paths.output / name).is_file()]


def _content(
    competition: Competition,
    paths: Paths,
    run: str,
    stages: Sequence[Mapping[str, Any]],
    config: Mapping[str, Any],
    chain: Sequence[str],
) -> dict[str, Any]:
    trained = [*lineage.sources(paths.output, run), *lineage.classifiers(paths.output, run)]
    weights = [f"{lineage.place(name, fold)}/best.pt" for name, fold in trained]
    tables = [path.name for path in (paths.annotations, paths.test, paths.folds, paths.statistics)]
    tuned = [f"runs/{run}/tuned.yaml"] if any(one["stage"] == "tune" for one in stages) else []
    files = [name for name in (*tables, *weights, *tuned, *chain) if (paths.output / name).is_file()]
    here = environment()
    hashes = {name: file_hash(paths.output / name) for name in files}
    return {
        "format": FORMAT,
        "version": VERSION,
        "competition": competition.key,
        "run": run,
        "made": now(),
        "submission": {"file": competition.submission_file, "sha256": hashes[competition.submission_file]},
        "validation": validation(paths, run),
        "score": {"public": None, "private": None},
        "stages": [_stage(one, config, here) for one in stages],
        "inputs": inputs(competition, paths),
        "images": image_list(paths.test),
        "files": hashes,
        "constraints": _constraints(),
        "environment": here,
    }


def _stage(stage: Mapping[str, Any], config: Mapping[str, Any], environment: Mapping[str, Any]) -> dict[str, Any]:
    """A stage as the record has it: settings where another stage has others, environment where it has changed."""
    found = {name: stage[name] for name in ("stage", "overrides")}
    found |= {"settings": own} if (own := lineage.own(stage, config)) else {}
    found |= {name: stage[name] for name in ("minutes", "peak_memory_mb") if stage.get(name) is not None}
    if stage.get("environment") not in (None, environment):
        found["environment"] = stage["environment"]
    return found


def inputs(competition: Competition, paths: Paths) -> dict[str, str]:
    """Hashes of the contest's own tables, those that exist, by their path in `paths.data`."""
    names = [competition.train_annotations, *filter(None, [competition.sample_submission])]
    return {name: file_hash(paths.data / name) for name in names if (paths.data / name).is_file()}


def image_list(test: Path) -> dict[str, Any]:
    """How many test images there are, and a hash of their ids and sizes, in order."""
    images = read_coco(test)["images"]
    lines = "\n".join(f"{image['name']} {image['height']} {image['width']}" for image in images)
    return {"test": len(images), "sha256": hashlib.sha256(lines.encode()).hexdigest()}


def validation(paths: Paths, run: str) -> dict[str, Any] | None:
    """The run's own score on validation images, None where there is none; where the score is a mean over them, with
    its 95 % interval, and half of that as the tolerance within which a training from scratch should end.
    """
    file = paths.run(run) / "scores.json"
    if not file.is_file():
        return None
    scores = read_json(file, "evaluate")
    found = {"metric": scores["metric"], "score": scores["total"], "images": len(scores["images"])}
    values = [one["score"] for one in scores["images"]]
    if values and None not in values and scores["total"] is not None and paths.annotations.is_file():
        images = by_name(read_coco(paths.annotations))
        groups = [images[one["image_id"]]["group"] or one["image_id"] for one in scores["images"]]
        interval = bootstrap(np.array(values, np.float64), groups)
        if abs(interval.mean - scores["total"]) < 1e-9:
            low, high = round(interval.low, 6), round(interval.high, 6)
            found |= {"interval": [low, high], "tolerance": round((high - low) / 2, 6)}
    return found


def _constraints() -> str | None:
    """The hash of constraints.txt; None where the package was installed without its sources."""
    path = Path(__file__).resolve().parents[2] / "constraints.txt"
    return file_hash(path) if path.is_file() else None
