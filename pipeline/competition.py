"""Competition: the frozen facts of one contest, as its files under conf/competition state them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from pipeline.masks.text import Order

AnnotationLayout = Literal["rows", "class_rows", "strings", "mask_files", "polygons", "coco"]
SubmissionLayout = Literal["rows", "class_rows", "strings", "coco"]
Role = Literal["image", "mask", "class", "image_class", "height", "width", "group", "mask_file", "predictions"]
Metric = Literal["mean_precision", "mean_precision_by_class", "f2", "dice", "average_precision", "coco"]
Overlap = Literal["forbidden", "within_class", "allowed"]

# Which roles a layout cannot do without; one set of several that it may have.
_ROLES: Mapping[str, tuple[frozenset[str], ...]] = {
    "rows": (frozenset({"image", "mask"}),),
    "class_rows": (frozenset({"image", "class", "mask"}), frozenset({"image_class", "mask"})),
    "strings": (frozenset({"image", "predictions"}),),
    "mask_files": (frozenset({"image", "mask_file", "class"}),),
    "polygons": (frozenset(),),
    "coco": (frozenset(),),
}
_ID = re.compile(r"[A-Za-z0-9._-]+")
_DEVICE = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?", re.IGNORECASE)  # files that Windows has everywhere
_FORMULA = ("=", "+", "@")  # a cell that begins with it is run by a spreadsheet


@dataclass(frozen=True)
class Competition:
    """Facts of a contest; nothing here is a choice.

    key: the name of its configuration file. title, url: of the contest's page ("" where it has none).
    categories: names, as the annotations spell them; a category id is the position in this list, from 1.
    train_image, test_image: pattern of an image's path inside the contest's folder, with {id}.

    train_annotations: the file of the training truth. annotation_layout: how it is written.
    rows: CSV, a row per instance. class_rows: CSV, a row per image and class, all of the class in one mask.
    strings: CSV, a row per image, "label confidence code …". mask_files: CSV, a row per mask picture.
    polygons: JSON lines, an image each. coco: COCO JSON. With rows and class_rows an image on disk that the file does
    not name has no instances; with the others the images are those that the file names.
    annotation_columns: what each column of a CSV holds, by its name in the file: image, mask (RLE text), class,
    image_class (both, joined by "_"), height, width, group (images of one group share a fold), mask_file (the {mask} of
    train_masks), predictions (a string).
    order, base: pixel order of the contest's RLE text, null where it has none, and the number of its first pixel.
    class_suffix: what parts the class of a row from attributes behind it, which are dropped; null where there are none.
    stray_blanks: whether a blank row beside rows with masks is refused, or ignored with a warning.
    train_masks: pattern of mask pictures, with {id} and * (another form of the same truth, one picture per instance:
    annotations=masks) or, where the layout is mask_files, with {mask}; null where there are none.

    sample_submission: the file that lists the test images: a CSV with the columns of a submission; where the
    submission is coco, a COCO JSON; null: there are none. submission_layout, submission_columns: as for the
    annotations, in the file's order.
    submission_file: its name. submission_megabytes: its largest size, null where there is no limit.
    codes: what a submission writes for a category; a category that is not named is not submitted; null: their names.
    submitted_size: masks are submitted at this (height, width), or with the longer side reduced to this many pixels;
    null: at the image's own size. empty_image: the mask text in the row of an image without instances; null: no row.

    overlap: whether two masks of one image may share pixels in a submission; within_class: only those of one class
    may not. metric, iou_thresholds (hundredths): the contest's own.
    test_truth: a file like train_annotations with the truth of the test images, where one exists.
    unverified: statements above that no source at hand confirms, one sentence each; `convert` repeats them.
    """

    key: str
    title: str
    url: str
    categories: tuple[str, ...]
    train_image: str
    test_image: str
    train_annotations: str
    annotation_columns: Mapping[str, Role]
    sample_submission: str | None
    submission_columns: Mapping[str, Role]
    metric: Metric
    overlap: Overlap
    order: Order | None = None
    base: int = 1
    annotation_layout: AnnotationLayout = "rows"
    submission_layout: SubmissionLayout = "rows"
    stray_blanks: Literal["refuse", "ignore"] = "refuse"
    train_masks: str | None = None
    submission_file: str = "submission.csv"
    submission_megabytes: float | None = None
    codes: Mapping[str, str] | None = None
    submitted_size: int | tuple[int, int] | None = None
    empty_image: str | None = ""
    class_suffix: str | None = None
    iou_thresholds: tuple[int, ...] = tuple(range(50, 100, 5))
    test_truth: str | None = None
    unverified: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("key", "submission_file"):  # of folders and files that are written
            if not is_safe_id(getattr(self, name)):
                raise ValueError(f"{name}: wanted letters, digits, '.', '_' and '-' only, got {getattr(self, name)!r}")
        for name in (*self.categories, *(self.codes or {}).values()):
            if not name.isprintable() or name.startswith(_FORMULA):  # they become cells of CSV files
                raise ValueError(f"categories and codes: wanted printable text that is no formula, got {name!r}")
        if not self.categories or len(set(self.categories)) != len(self.categories):
            raise ValueError(f"categories: wanted different names, at least one, got {self.categories}")
        _check_pattern("train_image", self.train_image, "{id}")
        _check_pattern("test_image", self.test_image, "{id}")
        if self.train_masks is not None:
            _check_pattern("train_masks", self.train_masks, "{mask}" if self._by_file else "{id}")
        _check_roles("annotation_columns", self.annotation_columns, self.annotation_layout)
        _check_roles("submission_columns", self.submission_columns, self.submission_layout)
        if self.annotation_layout == "rows" and len(self.categories) > 1 and self.annotation("class") is None:
            got = dict(self.annotation_columns)
            raise ValueError(f"annotation_columns: wanted one for the class of {self.categories}, got {got}")
        if self.order is None and {"rows", "class_rows"} & {self.annotation_layout, self.submission_layout}:
            raise ValueError("order: wanted row or column, since masks are written as start-length text; got null")
        strange = set(self.codes or ()) - set(self.categories)
        if strange:
            raise ValueError(f"codes: {sorted(strange)} are none of the categories {self.categories}")
        if self.codes is not None and len(set(self.codes.values())) != len(self.codes):
            raise ValueError(f"codes: wanted a different one for each category, got {dict(self.codes)}")

    @property
    def _by_file(self) -> bool:
        return self.annotation_layout == "mask_files"

    def annotation(self, role: Role) -> str | None:
        """The name of the annotations' first column with this role, null where there is none."""
        return _column(self.annotation_columns, role)

    def submission(self, role: Role) -> str | None:
        """The name of the submission's column with this role, null where there is none."""
        return _column(self.submission_columns, role)

    def code(self, label: int) -> str | None:
        """What a submission writes for a category id; null where the category is not submitted."""
        name = self.categories[label - 1]
        return name if self.codes is None else self.codes.get(name)

    def labels(self) -> dict[str, int]:
        """The category id of what a submission writes, of the categories that are submitted."""
        ids = range(1, len(self.categories) + 1)
        return {code: label for label in ids if (code := self.code(label)) is not None}

    def submitted(self, size: tuple[int, int]) -> tuple[int, int]:
        """The (height, width) at which masks of an image of `size` are submitted and scored."""
        if self.submitted_size is None:
            return size
        if not isinstance(self.submitted_size, int):
            return self.submitted_size
        longest = max(size)
        if longest <= self.submitted_size:
            return size
        height, width = (max(round(side * self.submitted_size / longest), 1) for side in size)
        return height, width

    @property
    def slug(self) -> str:
        """What Kaggle calls the contest: the last part of its address; "" where it is none of Kaggle's."""
        _, found, slug = self.url.rstrip("/").partition("kaggle.com/competitions/")
        return slug if found else ""

    @property
    def ranked(self) -> bool:
        """Whether the metric ranks instances by confidence: low scores are then worth keeping, not to be cut off."""
        return self.metric in ("average_precision", "coco")


def is_safe_id(image_id: str) -> bool:
    """Whether an image id can stand in a path: letters, digits, '.', '_' and '-' only, not '.' or '..', and no name of
    a device, which Windows finds in every folder.
    """
    return _ID.fullmatch(image_id) is not None and image_id not in (".", "..") and not _DEVICE.fullmatch(image_id)


def is_inside(path: str) -> bool:
    """Whether a path written with '/' stays inside the folder that it is joined to, on any system."""
    parts = path.split("/")
    plain = path.isprintable() and not set(path) & set('\\:*?"<>|')
    return plain and all(part.strip(". ") and not _DEVICE.fullmatch(part) for part in parts)


def _column(columns: Mapping[str, Role], role: Role) -> str | None:
    return next((name for name, own in columns.items() if own == role), None)


def _check_pattern(name: str, pattern: str, wanted: str) -> None:
    if wanted not in pattern:
        raise ValueError(f'{name}: wanted a path with {wanted}, such as "train/{wanted}.png", got "{pattern}"')


def _check_roles(name: str, columns: Mapping[str, Role], layout: str) -> None:
    roles = set(columns.values())
    if not any(wanted <= roles for wanted in _ROLES[layout]):
        wanted = " or ".join(", ".join(sorted(option)) for option in _ROLES[layout])
        raise ValueError(f"{name}: the layout {layout} wants columns for {wanted}; got {dict(columns)}")
