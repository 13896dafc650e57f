"""The report's sections, each a heading, a sentence on how to read it, and what was measured. None: nothing to show."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence

from pipeline import plots
from pipeline.metrics.breakdown import Group, miscalibration
from pipeline.metrics.errors import KINDS
from pipeline.report.findings import SIZES, Findings
from pipeline.report.markup import Markup, bar, chart, joined, table, tag
from pipeline.report.others import ceiling, compared, thresholds, training
from pipeline.report.parts import folded, section, share, signed
from pipeline.report.shots import WORDS, Shot, figure

_ROWS = 300
_ROOM = 8_000_000  # characters of all images
_METRICS = {
    "mean_precision": "Of each image TP / (TP + FP + FN), the share of right answers, mean over IoU thresholds and "
    "images.",
    "mean_precision_by_class": "Of each image TP / (TP + FP + FN), hits being of the right class, mean over IoU "
    "thresholds and images.",
    "f2": "Of each image an F-measure to which a miss matters more than a false alarm, mean over IoU thresholds and "
    "images.",
    "dice": "Twice the pixels that truth and prediction share by the pixels of both, mean over images and classes.",
    "average_precision": "The area under precision by recall of all predictions by falling score, mean over classes.",
    "coco": "The area under precision by recall of all predictions by falling score, mean over IoU and classes.",
}


def head(found: Findings) -> Markup:
    """The score and what matters most, in a few words."""
    result = found.result
    total = "no value" if math.isnan(result.total) else f"{result.total:.3f}"
    name = re.sub(r" [\d.]+ over ", " over ", result.lines()[0])
    sure = found.interval
    spread = f"95 % interval {sure.low:.3f} to {sure.high:.3f}, from a bootstrap over images" if sure else None
    return tag(
        "header",
        tag("p", found.contest, class_="contest"),
        tag("h1", found.title[:1].upper() + found.title[1:]),
        tag("p", tag("strong", total, class_="total"), " ", tag("span", name), class_="score"),
        tag("p", _METRICS.get(result.metric, ""), class_="spread"),
        tag("p", spread, class_="spread") if spread else None,
        tag("p", _verdict(found), class_="verdict"),
    )


def _verdict(found: Findings) -> str:
    worst = max(found.costs, key=lambda cost: cost.gain, default=None)
    if worst is None or worst.gain <= 0:
        return "No kind of error costs anything."
    was, name = worst.score - worst.gain, word(worst.kind)
    return f"Most is lost to “{name}”: if that alone were mended, {was:.3f} would become {worst.score:.3f}."


def errors(found: Findings) -> Markup:
    """What each kind of error costs."""
    most = max([1e-9, *(cost.gain for cost in found.costs)])
    rows = [
        (
            joined([tag("b", word(cost.kind)), tag("small", KINDS[cost.kind])]),
            joined([signed(cost.gain, ".3f"), bar(cost.gain, most)]),
            f"{cost.score:.3f}",
            f"{cost.count:,}",
        )
        for cost in sorted(found.costs, key=lambda cost: -cost.gain)
    ]
    return section(
        "errors",
        "What costs most",
        "What the score would be if one kind of error alone were mended: misses added, false alarms taken away, masks "
        "and classes put right. The gains of several kinds do not add up; all together give 1. A prediction answers "
        f"for an object if they overlap with an IoU above {_lowest(found):.2f}.",
        table(("kind of error", "gain", "score if mended", "how many"), rows, class_="bars wordy"),
    )


def parts(found: Findings) -> Markup:
    """The score by threshold, class, size and density."""
    pieces: list[Markup | None] = [_thresholds(found), _classes(found)]
    if found.sizes:
        rows = [(_range(one, "px"), f"{one.count:,}", *(share(value) for value in one.values)) for one in found.sizes]
        top = ("area of the object", "objects", *(f"found at IoU {value / 100:.2f}" for value in SIZES))
        pieces += [tag("h3", "By size of the object"), table(top, rows, class_="bars")]
    if found.crowds:
        rows = [(_range(one, ""), f"{one.count:,}", share(one.values[0])) for one in found.crowds]
        top = ("objects in the image", "images", "mean score of an image")
        pieces += [tag("h3", "By crowding"), table(top, rows, class_="bars")]
    said = "Where the score comes from. Sizes and crowds are parted so that about as many fall into each row."
    return section("parts", "Parts of the score", said, *pieces)


def _thresholds(found: Findings) -> Markup | None:
    values = getattr(found.result, "per_threshold", None)
    thresholds = getattr(found.result, "thresholds", ())
    if values is None or len(thresholds) < 2:
        return None
    x = [threshold / 100 for threshold in thresholds]
    rows = {"mean over images": values.tolist()}
    pooled = getattr(found.result, "pooled", None)
    if pooled is not None:
        rows["all images pooled"] = pooled.tolist()
    drawn = chart(plots.lines(x, rows, "IoU that counts as a hit", "score"), "score by IoU threshold")
    numbers = [(name, *(f"{value:.2f}" for value in row)) for name, row in rows.items()]
    top = ("IoU", *(f"{value:.2f}" for value in x))
    return joined([tag("h3", "By threshold"), drawn, folded("the figures", table(top, numbers))])


def _classes(found: Findings) -> Markup | None:
    known = {name: value for name, value in found.result.per_class.items() if not math.isnan(value)}
    if len(found.categories) < 2 or not known:
        return None
    rows = [(name, share(value)) for name, value in known.items()]
    return joined([tag("h3", "By class"), table(("class", "score"), rows, class_="bars")])


def images(found: Findings) -> Markup | None:
    """The worst and the median images, and the list of all."""
    drawn = {i: figure(shot, i, found.categories) for i, shot in enumerate(found.shots)}
    shots = {i: drawn[i] for i in _fitting(found.shots, drawn)}
    if shots:
        said = "Outlines of the prediction where it is right or a false alarm, of the truth where it was missed. Dark "
        said += "images are shown brighter than they are. Choose an image to see it large, and click there to come "
        said += "nearer; point at an outline to read what is wrong with it."
        parts = [_tools(found), tag("div", *shots.values(), class_="shots")]
        if left := len(drawn) - len(shots):
            parts.append(tag("p", f"{left} more images would make this file too large.", class_="said"))
    else:
        said, parts = "The image files are not at hand, so that none is shown.", []
    shown = {found.shots[i].truth.image_id: i for i in shots}
    return section("images", "Images", said, *parts, _listed(found, shown))


def _listed(found: Findings, shown: Mapping[str, int]) -> Markup:
    """All images as a table, those that are shown linked."""
    rows = []
    for row in found.rows[:_ROWS]:
        number = shown.get(row.image_id)
        name = row.image_id if number is None else tag("a", row.image_id, href=f"#image-{number}")
        rows.append((name, f"{row.score:.3f}", *map(str, row.counts)))
    top = ("image", "score", "objects", "found", "missed", "false alarms")
    many = len(found.rows)
    summary = f"all {many} images" if many <= _ROWS else f"the worst {_ROWS} of {many} images"
    return folded(summary, table(top, rows, class_="images"))


def _tools(found: Findings) -> Markup:
    """Which outlines to show, and of which class."""
    layers = (("hit", "hits"), ("miss", "missed (truth)"), ("false", "false alarms"))
    boxes = [
        tag("label", tag("input", type="checkbox", id=f"show-{key}", checked=True), " ", tag("span", name, class_=key))
        for key, name in layers
    ]
    return tag("div", *boxes, _chooser(found) if len(found.categories) > 1 else None, class_="tools")


def _fitting(shots: Sequence[Shot], drawn: Mapping[int, Markup]) -> list[int]:
    """The numbers of as many images as there is room for, of each kind in turn, one at least."""
    turn = {i: sum(one.place == shots[i].place for one in shots[:i]) for i in drawn}
    kept, length = [], 0
    for i in sorted(drawn, key=lambda i: (turn[i], i)):
        length += len(drawn[i])
        if kept and length > _ROOM:
            break
        kept.append(i)
    return sorted(kept)


def _chooser(found: Findings) -> Markup:
    options = [tag("option", name, value=label) for label, name in enumerate(found.categories, 1)]
    every = tag("option", "every class", value="")
    return tag("label", "class ", tag("select", every, *options, id="class"), class_="needs-script")


def confidence(found: Findings) -> Markup | None:
    """Whether scores are as high as they are right."""
    if not found.sure:
        return None
    scores, shares = zip(*(one.values for one in found.sure), strict=True)
    counts = [one.count for one in found.sure]
    off = miscalibration(found.sure)
    excess = sum(one.count * (one.values[0] - one.values[1]) for one in found.sure)
    side = "surer than they are right" if excess > 0 else "right more often than they are sure"
    said = f"Predictions with a score of .8 should be hits in 80 of 100 cases. Here they are on the whole {side}; "
    said += f"score and share of hits are {off:.3f} apart on average (expected calibration error)."
    rows = [(f"{one.low:.1f} to {one.high:.1f}", f"{one.count:,}", f"{one.values[0]:.2f}", share(one.values[1]))
            for one in found.sure]  # fmt: skip
    drawn = chart(plots.calibration(scores, shares, counts), "share of hits by score")
    figures = folded("the figures", table(("score", "predictions", "mean score", "hits"), rows, class_="bars"))
    return section("confidence", "Are the scores honest?", said, drawn, figures)


def word(kind: str) -> str:
    """A kind of error as people call it."""
    return WORDS.get(kind, kind)


def _range(one: Group, unit: str) -> str:
    low, high = f"{one.low:,.0f}", f"{one.high:,.0f}"
    return f"{low if low == high else f'{low} to {high}'} {unit}".strip()


def _lowest(found: Findings) -> float:
    return float(min(getattr(found.result, "thresholds", (50,))) / 100)


def sections(found: Findings) -> Sequence[Markup | None]:
    """All of them, the most telling first."""
    every = (errors, images, parts, confidence, thresholds, training, compared, ceiling)
    return [one(found) for one in every]
