"""Patches: fixes of a contest's truth, kept as a small file that names what it changes by its content.

The file is JSON: format "maskline-patch", version 1, competition (its key), source (where the fixes come from, one
sentence) and fixes, each with an action and an image (the contest's id):

    drop_image                           the image, with all its annotations
    drop      annotation                 one annotation
    fill      annotation                 the holes of one annotation
    replace   annotation counts          its mask, and where a category is given its category
    add       category counts            a new annotation

annotation: what `fingerprint` gives for its category and mask, so that no change of ids or of the order of rows can
make it mean another one; of annotations that are the same the last is meant. counts: compressed COCO counts.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.competition import Competition
from pipeline.data.coco import Coco, build, by_name, grouped, subset
from pipeline.data.columns import Masks, joined, masks_of, values
from pipeline.data.table import nearest
from pipeline.errors import ConfigError, InputError
from pipeline.masks.geometry import iou
from pipeline.masks.runs import area, boxes, from_coco, to_coco
from pipeline.masks.shape import fill_holes
from pipeline.masks.text import CocoColumns

log = logging.getLogger(__name__)
FOLDER = Path(__file__).parent / "patches"  # those that come along, each named after its contest
# What a fix of each action must have besides an image, and what it may have.
ACTIONS = {
    "drop_image": ((), ()),
    "drop": (("annotation",), ()),
    "fill": (("annotation",), ()),
    "replace": (("annotation", "counts"), ("category",)),
    "add": (("category", "counts"), ()),
}
Mask = tuple[str, str]  # category and compressed COCO counts


@dataclass(frozen=True)
class Fix:
    """One change; see the module for what each action wants."""

    action: str
    image: str
    annotation: str | None = None
    category: str | None = None
    counts: str | None = None

    def __str__(self) -> str:
        return f"{self.action} of {f'annotation {self.annotation} in ' if self.annotation else ''}image {self.image}"


@dataclass(frozen=True)
class Patch:
    """The content of a patch file."""

    competition: str
    source: str
    fixes: tuple[Fix, ...]

    def to_text(self) -> str:
        """The file: JSON with one fix to a line. Inverse of `read_patch`."""
        head = {"format": "maskline-patch", "version": 1, "competition": self.competition, "source": self.source}
        lines = [
            json.dumps({key: value for key, value in vars(fix).items() if value is not None}) for fix in self.fixes
        ]
        return json.dumps(head)[:-1] + ',\n"fixes": [\n' + ",\n".join(lines) + "\n]}\n"


def fingerprint(category: str, counts: str) -> str:
    """What a patch calls an annotation: 12 hexadecimal digits of the SHA-256 of its category's name and its counts."""
    return hashlib.sha256(f"{category} {counts}".encode()).hexdigest()[:12]


def locate(name: str) -> Path:
    """The file of a patch that comes along, by its name, or of one given by its path (*.json)."""
    if name.endswith(".json"):
        return Path(name)
    own = sorted(path.stem for path in FOLDER.glob("*.json"))
    if name not in own:
        wanted = f"{', '.join(own)}, or the path of a .json file"
        raise ConfigError(f"patch is {name!r}, wanted {wanted}{nearest(name, own)}")
    return FOLDER / f"{name}.json"


def read_patch(path: Path, competition: Competition) -> Patch:
    """Raises InputError for a file that is absent, no patch, of another contest, or has a fix that is not lawful."""
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise InputError(f"{path}: there is no such file. Give the path of a patch: patch=FILE.json") from None
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: is no JSON ({error}). Give the path of a patch: patch=FILE.json") from None
    content = content if isinstance(content, dict) else {}
    found = (content.get("format"), content.get("version"))
    if found != ("maskline-patch", 1) or not isinstance(content.get("fixes"), list):
        raise InputError(
            f"{path}: wanted maskline-patch of version 1 with a list of fixes, got {found[0]!s:.40} {found[1]!s:.40}. "
            "A newer version of this program may read it."
        )
    if content.get("competition") != competition.key:
        got = f"is a patch of the contest {content.get('competition')!s:.60}, not of {competition.key}"
        raise InputError(f"{path}: {got}. Give another one, or patch=null.")
    fixes = tuple(_read_fix(f"{path} fix {i}", fix) for i, fix in enumerate(content["fixes"], 1))
    return Patch(competition.key, str(content.get("source", "")), fixes)


def _read_fix(place: str, fix: Any) -> Fix:
    keys = fix if isinstance(fix, Mapping) else {}
    if not isinstance(keys.get("action"), str) or keys["action"] not in ACTIONS:
        got = f"the action is {keys.get('action')!r:.60}"
        raise InputError(f"{place}: {got}, wanted one of {', '.join(ACTIONS)}. Correct the file.")
    required, optional = ACTIONS[keys["action"]]
    needed = {"action", "image", *required}
    if not needed <= keys.keys() <= needed | set(optional) or not all(isinstance(v, str) for v in keys.values()):
        wanted = ", ".join(["action", "image", *required])
        raise InputError(
            f"{place}: {keys['action']} wants texts for {wanted}, got {dict(keys)!r:.200}. Correct the file."
        )
    return Fix(**keys)


def apply(coco: Coco, patch: Patch, competition: Competition) -> Coco:
    """The dict with all fixes made, one after the other; images and annotations are numbered anew.

    Fixes of images that are not there (a part of the contest's images) are left out and counted in the log. Raises
    InputError naming the first fix that finds nothing to fix, and where no image of the patch is there.
    """
    images = by_name(coco)
    made = [fix for fix in patch.fixes if fix.image in images]
    absent = [fix for fix in patch.fixes if fix.image not in images]
    if absent and not made:
        raise InputError(f"patch: {absent[0]} and the others find none of their images. Give another one, patch=null.")
    content = contents(subset(coco, {fix.image for fix in made}))
    untouched = images.keys() - content.keys()
    for fix in made:
        _fix(fix, images[fix.image], content, competition)
    done = ", ".join(f"{action} {count}" for action, count in Counter(fix.action for fix in made).items())
    log.info("patch: fixes made: %s", done or "none")
    if absent:
        log.warning("patch: left out %d fixes of images that are not there, the first: %s", len(absent), absent[0])
    kept = [image for name, image in images.items() if name in untouched or name in content]
    entries = {image["name"]: {**image, "id": number} for number, image in enumerate(kept, 1)}
    place = {name: i for i, name in enumerate(entries)}
    old = _masks(coco, {images[name]["id"]: place[name] for name in untouched})
    new = [_masks_of(place[name], entries[name], masks, competition) for name, masks in content.items()]
    return build(competition, entries, joined([old, *new]))


def contents(coco: Coco) -> dict[str, list[Mask]]:
    """Category and counts of every annotation, by image."""
    names = {category["id"]: category["name"] for category in coco["categories"]}
    rows = grouped(coco)
    return {
        image["name"]: [(names[row["category_id"]], row["segmentation"]["counts"]) for row in rows[image["id"]]]
        for image in coco["images"]
    }


def _fix(fix: Fix, image: Any, content: dict[str, list[Mask]], competition: Competition) -> None:
    """Makes one fix in `content`."""
    if fix.image not in content:
        raise InputError(f"patch: {fix} finds no such image, an earlier fix drops it. Correct the patch.")
    if fix.action == "drop_image":
        del content[fix.image]
        return
    masks, size = content[fix.image], (image["height"], image["width"])
    place = len(masks)
    if fix.annotation is not None:
        names = [fingerprint(*mask) for mask in masks]
        if fix.annotation not in names:
            raise InputError(f"patch: {fix} finds no such annotation among {len(masks)}. Was it made for other files?")
        place = len(names) - 1 - names[::-1].index(fix.annotation)
    if fix.action == "drop":
        del masks[place]
    else:
        old = masks[place] if place < len(masks) else ("", "")
        new = (fix.category or old[0], _filled(old[1], size) if fix.action == "fill" else str(fix.counts))
        _check(fix, old, new, size, competition)
        masks[place : place + 1] = [new]


def _check(fix: Fix, old: Mask, new: Mask, size: tuple[int, int], competition: Competition) -> None:
    if new[0] not in competition.categories:
        wanted = ", ".join(competition.categories)
        raise InputError(f"patch: {fix} names the category {new[0]!r}, wanted {wanted}. Correct the patch.")
    if new == old:
        raise InputError(f"patch: {fix} changes nothing. Remove it from the patch.")
    try:
        runs = from_coco([new[1]], size)
    except ValueError as error:
        raise InputError(f"patch: {fix}: {error}. Correct the patch.") from error
    if not runs.start.size or to_coco(runs) != [new[1]]:
        raise InputError(f"patch: {fix}: counts of no pixel, or not as COCO writes them. Correct the patch.")


def _filled(counts: str, size: tuple[int, int]) -> str:
    return to_coco(fill_holes(from_coco([counts], size)))[0]


def _masks(coco: Coco, place: Mapping[int, int]) -> Masks:
    """The annotations of images with these ids, at the places that these get."""
    rows = coco["annotations"]
    columns = (values(rows, name) for name in ("image_id", "category_id", "area", "bbox"))
    image_id, category, size, box = columns
    kept = np.flatnonzero(np.isin(image_id, list(place)))
    image = np.array([place[number] for number in image_id[kept].tolist()], np.int64)
    counts = [row["segmentation"]["counts"] for row in rows]
    return Masks(image, category[kept], [counts[i] for i in kept.tolist()], size[kept], box[kept])


def _masks_of(place: int, image: Mapping[str, Any], masks: Sequence[Mask], competition: Competition) -> Masks:
    counts = [text for _, text in masks]
    runs = from_coco(counts, (image["height"], image["width"]))
    category = np.array([competition.categories.index(name) + 1 for name, _ in masks], np.int64)
    return masks_of(np.full(len(masks), place), category, CocoColumns(counts, area(runs), boxes(runs)))


def difference(old: Coco, new: Coco) -> tuple[Fix, ...]:
    """The fixes that make `new` of `old`: `apply` with them gives it. Images are compared by name and size alone.

    Raises ValueError where `new` has an image that `old` lacks, or has it in another size.
    """
    images, before, after = by_name(old), contents(old), contents(new)
    for name, image in by_name(new).items():
        if name not in images or any(image[side] != images[name][side] for side in ("height", "width")):
            raise ValueError(f"image {name}: is new, or has another size, which no fix can say")
    fixes = []
    for name, image in images.items():
        if name not in after:
            fixes.append(Fix("drop_image", name))
        elif before[name] != after[name]:
            fixes += _changes(name, before[name], after[name], (image["height"], image["width"]))
    return tuple(fixes)


def _changes(image: str, old: Sequence[Mask], new: Sequence[Mask], size: tuple[int, int]) -> Iterator[Fix]:
    """Fixes within one image: what goes becomes what overlaps it most, then the rest goes and comes."""
    gone, come = (list((Counter(one) - Counter(other)).elements()) for one, other in ((old, new), (new, old)))
    first, second = (from_coco([counts for _, counts in masks], size) for masks in (gone, come))
    alike = iou(first, second)
    for i, mask in enumerate(gone):
        named = Fix("drop", image, fingerprint(*mask))
        best = int(alike[i].argmax()) if len(come) else 0
        if not len(come) or not alike[i, best]:
            yield named
            continue
        category, counts = come[best]
        alike[:, best] = 0
        come[best] = ("", "")
        if category == mask[0] and counts == _filled(mask[1], size):
            yield dataclasses.replace(named, action="fill")
        else:
            other = None if category == mask[0] else category
            yield dataclasses.replace(named, action="replace", category=other, counts=counts)
    for category, counts in come:
        if counts:
            yield Fix("add", image, None, category, counts)
