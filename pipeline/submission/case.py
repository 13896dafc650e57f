"""What a submission file is held against: the contest, its images, and what the file may call both and the classes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.competition import Competition

Sizes = Mapping[str, tuple[int, int]]


@dataclass(frozen=True)
class Case:
    """One contest's wishes.

    sizes: (height, width) in pixels at which masks are submitted, by image id, of all images that the contest wants.
    labels: category id by what the file writes for it. names: image id by what COCO results write for it.
    """

    competition: Competition
    sizes: Sizes
    labels: Mapping[str, int]
    names: Mapping[Any, str]

    @classmethod
    def of(cls, competition: Competition, sizes: Sizes, source_ids: Mapping[str, Any] | None = None) -> Case:
        """sizes: of the original images. source_ids: what COCO results write for an image id; None: the id itself."""
        submitted = {name: competition.submitted(size) for name, size in sizes.items()}
        names = {source_id(name, source_ids): name for name in sizes}
        return cls(competition, submitted, {code(competition, n): n for n in competition.labels().values()}, names)


def code(competition: Competition, label: int) -> str:
    """What the file writes for a category that is submitted; COCO results write a number (see `category_number`)."""
    if competition.submission_layout == "coco":
        return str(category_number(competition, label))
    return competition.code(label) or ""


def category_number(competition: Competition, label: int) -> int:
    """The category_id of COCO results: the number in the contest's codes; where it has none, the category id here.

    Raises ValueError where the code is no number.
    """
    return label if competition.codes is None else int(competition.code(label) or "")


def source_id(name: str, source_ids: Mapping[str, Any] | None) -> Any:
    """What COCO results write for an image id."""
    return name if source_ids is None else source_ids.get(name, name)


def source_ids(coco: Mapping[str, Any]) -> dict[str, Any]:
    """By image id of a COCO dict, the id in the file that the image comes from; of those images that had one."""
    return {image["name"]: image["source_id"] for image in coco["images"] if "source_id" in image}
