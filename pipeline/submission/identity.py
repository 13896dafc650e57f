"""Which rows a file has: its images, its classes, blank rows beside others, and what a row states of its image."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence

from pipeline.submission.case import Case
from pipeline.submission.content import Content
from pipeline.submission.finding import Finding, Level, quoted
from pipeline.submission.table import Row


def check_images(content: Content, case: Case) -> list[Finding]:
    """id-unknown: rows of images that the contest does not have."""
    if case.competition.submission_layout == "coco":
        ids: list[str] = [str(one) for one in case.names]
    else:
        ids = list(case.sizes)
    example = f"; an id looks like {quoted(ids[0])}" if ids else ""
    rule = f"is none of the contest's {len(case.sizes)} images{example}"
    unknown = [row for row in content.rows if row.image not in case.sizes]
    return [Finding("id-unknown", "error", row.line, row.image, f"{quoted(row.image)} {rule}") for row in unknown]


def check_missing(content: Content, case: Case) -> list[Finding]:
    """id-missing: images without a row, where the contest wants one also of an image without instances."""
    blank = case.competition.empty_image
    if blank is None:
        return []
    wanted = {
        "class_rows": f"wanted one for each of its {len(case.labels)} classes",
        "strings": "an image without instances needs one with a blank prediction",
    }.get(case.competition.submission_layout, "an image without instances needs one with a blank mask")
    wanted = wanted if not blank else f"an image without instances needs one with {quoted(blank)}"
    seen = {row.image for row in content.rows}
    missing = [name for name in case.sizes if name not in seen]
    return [Finding("id-missing", "error", None, name, f"the image has no row; {wanted}") for name in missing]


def check_once(content: Content, case: Case) -> list[Finding]:
    """id-repeated: a second row of an image, where one row holds all of it."""
    said = "the image has row {} already, and one row holds all of its predictions"
    again = _again([row for row in content.rows if row.image in case.sizes], lambda row: row.image)
    return [Finding("id-repeated", "error", row.line, row.image, said.format(line)) for row, line in again]


def check_classes(content: Content, case: Case) -> list[Finding]:
    """class-unknown: masks of a class that the contest does not have, or does not want."""
    wanted = list(case.labels)
    shown = ", ".join(wanted[:8]) + (f" … ({len(wanted)} in all)" if len(wanted) > 8 else "")
    findings = []
    for row in content.masks:
        if row.category is None or row.category in case.labels or not row.whole or row.image not in case.sizes:
            continue
        said = f"the class is {quoted(row.category)}, wanted one of {shown}"
        findings.append(Finding("class-unknown", "error", row.line, row.image, said))
    return findings


def check_pairs(content: Content, case: Case) -> list[Finding]:
    """class-repeated: a second row of an image and class, where one row holds all of both."""
    rows = [row for row in content.rows if row.whole and row.image in case.sizes and row.category in case.labels]
    said = "the image's row of this class is row {} already; one row holds all of a class"
    again = _again(rows, lambda row: (row.image, row.category))
    return [Finding("class-repeated", "error", row.line, row.image, said.format(line)) for row, line in again]


def check_missing_pairs(content: Content, case: Case) -> list[Finding]:
    """class-missing: an image that has rows, but none of one of the classes."""
    pairs = {(row.image, row.category) for row in content.rows}
    seen = dict.fromkeys(row.image for row in content.rows if row.image in case.sizes)
    missing = [(name, category) for name in seen for category in case.labels if (name, category) not in pairs]
    said = "the image has no row of class {}; it needs one, if only a blank one"
    return [Finding("class-missing", "error", None, name, said.format(quoted(one))) for name, one in missing]


def check_blanks(content: Content, case: Case) -> list[Finding]:
    """Blank rows beside masks of the same image, beside another blank row, or where the contest wants no blank row."""
    masks: dict[str, int] = {}
    for row in content.rows:
        if row.whole and row.text:
            masks.setdefault(row.image, row.line)
    blank = [row for row in content.rows if row.whole and not row.text and row.image in case.sizes]
    beside = [row for row in blank if row.image in masks]
    level: Level = "warning" if case.competition.stray_blanks == "ignore" else "error"
    said = "the row is blank, which says that the image is empty, yet row {} has a mask of it"
    findings = [
        Finding("blank-beside-masks", level, row.line, row.image, said.format(masks[row.image])) for row in beside
    ]
    alone = [row for row in blank if row.image not in masks]
    said = "the row is blank as row {} is; an empty image has one"
    again = _again(alone, lambda row: row.image)
    findings += [Finding("duplicate-blank", "error", row.line, row.image, said.format(line)) for row, line in again]
    wanted = case.competition.empty_image
    if wanted != "":
        rule = "has no row" if wanted is None else f"wants one with {quoted(wanted)}"
        said = f"the row is blank; an image without instances {rule}"
        findings += [Finding("blank", "error", row.line, row.image, said) for row in alone]
    return findings


def check_stated(content: Content, case: Case) -> list[Finding]:
    """size: a row states another height or width than that at which the image's masks are submitted."""
    findings = []
    for row in content.rows:
        if not row.whole or row.image not in case.sizes:
            continue
        size = zip(("height", "width"), (row.height, row.width), case.sizes[row.image], strict=True)
        wrong = [(name, got, side) for name, got, side in size if got is not None and got.strip() != str(side)]
        if wrong:
            said = ", ".join(f"{name} {quoted(got, 40)}, wanted {side}" for name, got, side in wrong)
            findings.append(Finding("size", "error", row.line, row.image, f"the row states {said}"))
    return findings


def _again(rows: Sequence[Row], key: Callable[[Row], Hashable]) -> Iterator[tuple[Row, int]]:
    """Each row whose key a row above it has, and the line of the first such row."""
    first: dict[Hashable, int] = {}
    for row in rows:
        line = first.setdefault(key(row), row.line)
        if line != row.line:
            yield row, line
