"""Reads a contest's folder, as Kaggle unpacks it, into COCO dicts.

Everything is checked before anything is returned: columns, ids, files, sizes, categories and every mask. No dense mask
is made from text, and no image is decoded for its size.
"""

from __future__ import annotations

import glob
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Literal, NamedTuple

from pipeline.competition import Competition, is_safe_id
from pipeline.data.coco import Coco, Images, build, by_name
from pipeline.data.columns import Masks, joined
from pipeline.data.layouts import coco_files, mask_files, polygons, rows, strings
from pipeline.data.layouts.checks import (
    PLAIN,
    check_ids,
    check_repeats,
    check_sizes,
    columns_of,
    with_groups,
    with_source_ids,
)
from pipeline.data.pictures import read_size
from pipeline.data.table import Listing, Table, read_table
from pipeline.errors import ConfigError, InputError

Source = Literal["csv", "masks"]


class Layout(NamedTuple):
    """How annotations are written. listed: the images and instances of a file. masks: the instances' masks, from the
    contest's folder and the table of instances. whole: whether the images are all of the folder, those that the file
    does not name being without instances; else they are those that the file names.
    """

    listed: Callable[[Path, Competition], Listing]
    masks: Callable[[Path, Table, Competition, Images], Masks]
    whole: bool


_LAYOUTS = {
    "rows": Layout(rows.listed, rows.masks, whole=True),
    "class_rows": Layout(rows.listed_by_class, rows.masks_by_class, whole=True),
    "strings": Layout(strings.listed, strings.masks, whole=False),
    "mask_files": Layout(mask_files.listed, mask_files.masks, whole=False),
    "polygons": Layout(polygons.listed, polygons.masks, whole=False),
    "coco": Layout(coco_files.listed, coco_files.masks, whole=False),
}


def read_train(root: Path, competition: Competition, source: Source) -> Coco:
    """The training images and their instances, from the contest's annotations or from its folders of one PNG per
    instance.

    Images are those that the pattern finds in the folder where the annotations have a row per instance or per image and
    class: one that they do not name has no instances. Otherwise images are those that the annotations name. Each image
    that they name must be there. Raises InputError naming file, row, image and rule.
    """
    if source not in ("csv", "masks"):
        raise ConfigError(f"annotations is {source!r}, wanted csv or masks")
    if source == "masks":
        images = _open(root, competition.train_image, _find_ids(root, competition.train_image))
        return build(competition, images, mask_files.masks_of_folders(root, competition, images))
    layout = _LAYOUTS[competition.annotation_layout]
    listing = layout.listed(root / competition.train_annotations, competition)
    check_ids(listing.images)
    _check_files(root, competition.train_image, listing.images)
    names = _find_ids(root, competition.train_image) if layout.whole else set(listing.images["image"])
    images = with_source_ids(listing.images, _open(root, competition.train_image, names))
    return _built(root, competition, listing, images)


def read_test(root: Path, competition: Competition) -> Coco:
    """The images that the sample submission lists, without annotations; none where there is no sample submission.

    Raises InputError as `read_train` does.
    """
    if competition.sample_submission is None:
        return build(competition, {}, joined([]))
    table = _read_sample(root / competition.sample_submission, competition)
    check_ids(table)
    _check_files(root, competition.test_image, table)
    images = _open(root, competition.test_image, set(table["image"]))
    check_sizes(table, images)
    return build(competition, with_source_ids(table, images), joined([]))


def read_truth(path: Path, competition: Competition, coco: Coco) -> Coco:
    """The images of `coco` with the instances of a file in the layout of the training annotations.

    Serves the truth of test images, where a contest has it; mask pictures are looked for in the file's own folder.
    Raises InputError as `read_train` does, and for a row whose image is not in `coco`.
    """
    listing = _LAYOUTS[competition.annotation_layout].listed(path, competition)
    table, images = listing.images, by_name(coco)
    check_ids(table)
    strange = table.among("image", set(table["image"]) - images.keys())
    rule = f"the image is none of the {len(images)} that are scored"
    table.refuse(strange, lambda row: rule, f"Remove the {table.unit}")
    return _built(path.parent, competition, listing, images)


def list_pictures(root: Path, competition: Competition, source: Source) -> list[Path]:
    """The image files, and the mask files where they are the source, that the contest's patterns find: what a reader
    opens, and what lies beside it.
    """
    patterns = [competition.train_image, competition.test_image]
    if competition.train_masks is not None and (source == "masks" or competition.annotation_layout == "mask_files"):
        patterns.append(competition.train_masks.replace("{mask}", "*"))
    found = [root / name for pattern in patterns for name in sorted(glob.glob(_named(pattern, "*"), root_dir=root))]
    return [path for path in found if path.is_file()]


def _built(root: Path, competition: Competition, listing: Listing, images: Images) -> Coco:
    check_sizes(listing.images, images)
    images = with_groups(listing.images, images)
    masks = _LAYOUTS[competition.annotation_layout].masks(root, listing.instances, competition, images)
    return build(competition, images, masks)


def _read_sample(path: Path, competition: Competition) -> Table:
    """The images of a sample submission, in whatever layout submissions of the contest have."""
    if competition.submission_layout == "coco":
        return coco_files.read_images(path)
    if competition.submission_layout == "class_rows":
        return rows.read_by_class(path, competition.submission_columns, competition)
    columns = columns_of(
        competition.submission_columns,
        image="image", text="mask", category="class", predictions="predictions", height="height", width="width",
    )  # fmt: skip
    table = read_table(path, columns)
    check_repeats(table)
    return table


def _check_files(root: Path, pattern: str, table: Table) -> None:
    missing = {name for name in set(table["image"]) if not (root / _named(pattern, name)).is_file()}
    table.refuse(
        table.among("image", missing),
        lambda row: f"there is no file {_named(pattern, table['image'][row])} in {root}",
        f"Unpack the contest's images there, or remove the {table.unit}",
    )


def _find_ids(root: Path, pattern: str) -> list[str]:
    """Ids of the files that a pattern finds, at least one; hidden files are not looked at."""
    pieces = pattern.split("{id}")
    found = glob.glob(_named(pattern, "*"), root_dir=root)
    first, *rest = (re.escape(piece) for piece in pieces)
    shape = re.compile(f"{first}(?P<id>[^/]+){'(?P=id)'.join(rest)}")  # where the id comes again it must be the same
    names = [match["id"] for path in sorted(found) if (match := shape.fullmatch(Path(path).as_posix()))]
    if not names:
        raise InputError(
            f"no training images: nothing in {root} is named {pattern}. Give the contest's folder, as Kaggle unpacks "
            f"it: paths.data=DIR"
        )
    for name in names:
        if not is_safe_id(name):
            raise InputError(
                f"{_named(pattern, name)}: the image id is no plain name; wanted {PLAIN}. Rename it in {root}."
            )
    return names


def _open(root: Path, pattern: str, names: Iterable[str]) -> Images:
    """COCO image entries by id, sorted by id, with the sizes of the files; each image is a group of its own."""
    images: Images = {}
    for number, name in enumerate(sorted(names), 1):
        file_name = _named(pattern, name)
        height, width = read_size(root, file_name)
        images[name] = {
            "id": number,
            "name": name,
            "file_name": file_name,
            "height": height,
            "width": width,
            "group": name,
        }
    return images


def _named(pattern: str, name: str) -> str:
    return pattern.replace("{id}", name)
