"""The report: one file that needs nothing else, whatever the names in it, and says what was measured."""

from __future__ import annotations

import html
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fixtures.browser import Browser, installed
from fixtures.contests import facts
from fixtures.dense import LAW, disks, stacks
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure

from pipeline.errors import InputError
from pipeline.files import Paths, write_json
from pipeline.instances import Instances
from pipeline.masks.runs import from_dense, to_coco
from pipeline.metrics.errors import KINDS
from pipeline.metrics.scoring import score
from pipeline.plots import outlines
from pipeline.report import Extras, Findings, extras, findings, page, sections
from pipeline.report.markup import Markup, chart, joined, table, tag
from pipeline.report.shots import strokes

HOSTILE = """<script>alert("x")</script>&'$\\frac{1}{0}$"""
VOID = {"meta", "input", "br", "path", "use", "image", "rect", "line", "stop"}
SARTORIUS = facts("sartorius")


class Reader(HTMLParser):
    """Elements in order, and whether each is closed by its own end."""

    def __init__(self, text: str):
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in {"meta", "input", "br"}:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def images(count: int = 5, categories: int = 3) -> tuple[list[Instances], list[Instances]]:
    """Truth of round cells and a prediction of most of them, moved by a pixel, among which some are false."""
    sides: tuple[list[Instances], list[Instances]] = ([], [])
    for seed in range(count):
        masks = disks(6, (40, 50), seed)
        moved = np.concatenate([np.roll(masks[1:], 1, axis=2), disks(2, (40, 50), seed + 99)])
        moved = moved[moved.any(axis=(1, 2))]
        for side, own, shift in ((sides[0], masks, 0), (sides[1], moved, seed % 2)):
            labels = (np.arange(len(own)) + shift) % categories + 1
            scores = np.linspace(1, 0.5, len(own), dtype=np.float32)
            side.append(Instances(f"image{seed}", (40, 50), scores, labels, tuple(to_coco(from_dense(own)))))
    return sides


def grey(image: Instances) -> np.ndarray:
    return np.full((*image.size, 3), 90, np.uint8)


def measured(
    competition: Any = SARTORIUS, others: Extras | None = None, pixels: Any = grey, **changes: Any
) -> Findings:
    truth, found = images(categories=len(competition.categories))
    truth, found = ([replace(one, **changes) for one in side] for side in (truth, found))
    if changes:  # of one name for all, only one may stay
        truth, found = truth[:1], found[:1]
    result = score(truth, found, competition, by_class=True)
    ranks = np.linspace(0, 1, len(truth)) if competition.ranked else result.per_image
    groups = [one.image_id for one in truth]
    return findings(
        "validation of a run", competition, result, truth, found, ranks, groups, pixels, True, others or Extras()
    )


def interval(mean: float) -> dict[str, float]:
    return {"mean": mean, "low": mean - 0.01, "high": mean + 0.01}


RULES = {"score": 0.6, "min_area": 10, "mask": 0.5, "nms": None}
OTHERS = Extras(
    tuning={
        "rules": RULES,
        "default": interval(0.5),
        "tuned": interval(0.52),
        "nested": interval(0.51),
        "gain": interval(-0.001),
        "parts": {"0": RULES, "1": {**RULES, "score": 0.7}},
        "surface": {"score": [0.5, 0.6, 0.7], "min_area": [0, 10], "values": [[0.4, 0.5, 0.4], [0.45, 0.51, 0.4]]},
    },
    history={"fold0": {"step": [1, 2], "loss": [3.0, 2.0], "validation_score": [0.1, 0.2]}},
    compared=[{"a": "one", "b": "two", "difference": {"all": interval(0.01)}, "images": [{"difference": 0.01}]}],
    ceiling=[{"factor": "mask head", "choice": "28×28", "score": 0.97}],
)


# Markup -------------------------------------------------------------------------------------------------------------


@LAW
@given(st.text(), st.text())
def test_no_text_and_no_attribute_can_break_out_of_its_element(text: str, value: str) -> None:
    read = Reader(tag("p", text, title=value, hidden=False, lang=None))
    assert [name for name, _ in read.elements] == ["p"]
    clean = str.maketrans({"\r": "\n", "\x00": "\ufffd"})
    assert "".join(read.words).translate(clean).replace("\n\n", "\n") == text.translate(clean).replace("\n\n", "\n")
    assert read.elements[0][1].keys() == {"title"}


def test_markup_stays_as_it_is_and_everything_else_does_not() -> None:
    assert tag("b", Markup("<i>x</i>"), "<", 3, None) == "<b><i>x</i>&lt;3</b>"
    assert joined([tag("br"), "&", None]) == "<br>&amp;"
    assert 'data-class="2"' in tag("path", data_class=2)
    assert "&lt;b&gt;" in table(("<b>",), [["x"]])


def test_a_chart_takes_the_pages_ink_and_says_what_it_shows() -> None:
    figure = Figure()
    figure.subplots().set_title(HOSTILE, parse_math=False)
    drawn = chart(figure, "score by <class>")
    Reader(drawn)
    assert 'aria-label="score by &lt;class&gt;"' in drawn
    assert "<script" not in drawn
    assert "<?xml" not in drawn


# Outlines -----------------------------------------------------------------------------------------------------------


@LAW
@given(stacks())
def test_strokes_are_the_outlines_each_pixels_side_once_or_more(masks: np.ndarray) -> None:
    runs = from_dense(masks)
    wanted = {side for segment in outlines(runs).reshape(-1, 4).tolist() for side in sides(*segment)}
    found = set()
    for x, y, letter, length in re.findall(r"M(-?[\d.]+) (-?[\d.]+)([hv])([\d.]+)", strokes(runs)):
        x0, y0, far = float(x), float(y), float(length)
        found |= set(sides(x0, y0, x0 + far, y0) if letter == "h" else sides(x0, y0, x0, y0 + far))
    assert found == wanted


def sides(x0: float, y0: float, x1: float, y1: float) -> list[tuple[float, float, bool]]:
    """A line cut at every pixel: where each piece begins, and whether it is level."""
    level = y0 == y1
    count = round(abs(x1 - x0) + abs(y1 - y0))
    return [(x0 + i * level, y0 + i * (not level), level) for i in range(count)]


# The page -----------------------------------------------------------------------------------------------------------


def test_the_page_has_every_section_and_loads_nothing() -> None:
    text = page(measured(others=OTHERS))
    read = Reader(text)
    ids = [attributes["id"] for name, attributes in read.elements if name == "section"]
    assert ids == ["errors", "images", "parts", "confidence", "thresholds", "training", "compared", "ceiling"]
    links = {attributes["href"] for name, attributes in read.elements if name == "a"}
    every = {f"#{attributes['id']}" for _, attributes in read.elements if attributes.get("id")}
    assert links <= every, "every link leads to a place of this page"
    for name, attributes in read.elements:
        for key in ("src", "href", "xlink:href"):
            inside = ("#", "data:image/jpeg;base64,", "data:image/png;base64,")
            assert (attributes.get(key) or "#").startswith(inside), name
    assert "url(http" not in text
    assert "@import" not in text


def test_the_page_says_what_was_measured() -> None:
    found = measured(others=OTHERS)
    words = " ".join(Reader(page(found)).words)
    assert found.interval is not None
    assert f"{found.result.total:.3f}" in words
    assert f"{found.interval.low:.3f} to {found.interval.high:.3f}" in words
    for cost in found.costs:
        assert f"{cost.score:.3f}" in words
        assert KINDS[cost.kind] in words
    worst = max(found.costs, key=lambda cost: cost.gain)
    assert f"would become {worst.score:.3f}" in words
    assert "0.5100 [0.5000, 0.5200]" in words
    assert "−0.0010 [−0.0110, +0.0090]" in words
    for name in SARTORIUS.categories:
        assert name in words


def test_without_other_stages_files_and_images_their_sections_are_left_out() -> None:
    def missing(image: Instances) -> np.ndarray:
        raise InputError(f"{image.image_id} is not there")

    text = page(measured(pixels=missing))
    assert "The image files are not at hand" in text
    assert 'class="shot"' not in text
    for key in ("thresholds", "training", "compared", "ceiling"):
        assert f'id="{key}"' not in text


@pytest.mark.parametrize("key", ["airbus", "severstal", "hpa2021", "coco", "imaterialist2019", "dsb2018"])
def test_every_contests_metric_has_a_page(key: str) -> None:
    found = measured(facts(key))
    assert (found.interval is None) == facts(key).ranked
    Reader(page(found))


def test_of_no_instance_at_all_there_is_a_page() -> None:
    empty = [Instances.empty("a", (4, 5))]
    result = score(empty, empty, SARTORIUS, by_class=True)
    found = findings("x", SARTORIUS, result, empty, empty, result.per_image, ["a"], grey, True, Extras())
    assert "No kind of error costs anything." in page(found)


def test_hostile_names_of_images_classes_and_runs_are_shown_as_they_are() -> None:
    competition = replace(SARTORIUS, categories=(HOSTILE, "b", "c"), title=HOSTILE)
    compared = [{**OTHERS.compared[0], "a": HOSTILE}]
    others = replace(OTHERS, compared=compared, history={HOSTILE: OTHERS.history["fold0"]})
    found = measured(competition, others, image_id=HOSTILE)
    text = page(replace(found, title=HOSTILE))
    read = Reader(text)
    assert sum(name == "script" for name, _ in read.elements) == 1
    assert text.count("alert(") == text.count(html.escape("alert("))
    assert "<script>alert" not in text
    assert sum(HOSTILE in word for word in read.words) >= 5


def test_a_page_of_crowded_images_stays_below_ten_megabytes(monkeypatch: pytest.MonkeyPatch) -> None:
    size = (208, 282)
    masks = disks(150, size, 1, radius=9)
    masks = masks[masks.any(axis=(1, 2))]
    crowd = Instances("0", size, np.ones(len(masks), np.float32), np.ones(len(masks), np.int64),
                      tuple(to_coco(from_dense(masks))))  # fmt: skip
    truth = [replace(crowd, image_id=str(number)) for number in range(3)]
    none = [Instances.empty(one.image_id, one.size) for one in truth]
    result = score(truth, none, SARTORIUS, by_class=False)
    found = findings("x", SARTORIUS, result, truth, none, result.per_image, range(3), grey, False, Extras())
    whole = page(found)
    assert whole.count('class="shot crowded"') == 3
    assert len(whole.encode()) / 3 * 12 < 10e6, "as many such images as are ever shown"
    monkeypatch.setattr(sections, "_ROOM", 50_000)
    less = page(found)
    assert less.count('class="shot crowded"') == 1
    assert "2 more images" in less
    assert len(less) < len(whole) / 2


# What other stages left ---------------------------------------------------------------------------------------------


def test_files_of_other_stages_are_read_and_strange_ones_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    paths = Paths(tmp_path, tmp_path / "out", tmp_path / "subs")
    assert extras(paths, "r") == Extras(compared=[], ceiling=[])
    folder = paths.run("r")
    (folder / "fold0").mkdir(parents=True)
    (folder / "fold1").mkdir()
    (folder / "fold0" / "history.csv").write_text("epoch,step,loss\n0,10,2.5\n")
    (folder / "fold1" / "history.csv").write_text("")
    write_json(folder / "tuning.json", dict(OTHERS.tuning))
    write_json(folder / "compared_with_one.json", dict(OTHERS.compared[0]))
    write_json(folder / "compared_with_two.json", [1, 2])
    (folder / "compared_with_three.json").write_text("{")
    write_json(paths.output / "ceiling.json", [*OTHERS.ceiling, {"other": 1}])
    found = extras(paths, "r")
    assert found.history == {"fold0": {"step": [10], "loss": [2.5]}}
    assert found.tuning == json.loads(json.dumps(OTHERS.tuning))
    assert [one["a"] for one in found.compared] == ["one"]
    assert found.ceiling == OTHERS.ceiling
    assert sum(message.startswith("left out of the report: ") for message in caplog.messages) == 3


# In a browser -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("report") / "report.html"
    path.write_text(page(measured(others=OTHERS)), encoding="utf-8")
    return path


needs_browser = pytest.mark.skipif(installed() is None, reason="no Chromium is installed")


@needs_browser
def test_in_a_browser_classes_are_filtered_images_opened_and_no_script_fails(report: Path, tmp_path: Path) -> None:
    with Browser(tmp_path) as browser:
        browser.open(report)
        seen = "[...document.querySelectorAll('.shot')].filter(one => one.offsetParent !== null).length"
        drawn = "[...document.querySelectorAll('.shot path')].filter(one => one.getClientRects().length > 0).length"
        assert browser.evaluate(seen) == 5
        every = browser.evaluate(drawn)
        browser.evaluate("const box = document.getElementById('class'); box.value = '2'; "
                         "box.dispatchEvent(new Event('change')); undefined")  # fmt: skip
        labels = (
            "[...new Set([...document.querySelectorAll('.shot path')].filter(one => one.getClientRects().length > 0)"
        )
        assert browser.evaluate(f"{labels}.map(one => one.dataset.class))]") == ["2"]
        assert 0 < browser.evaluate(drawn) < every
        browser.evaluate("document.getElementById('show-miss').click()")
        assert browser.evaluate(f"{labels}.map(one => one.parentElement.getAttribute('class')))].sort()") == [
            "false",
            "hit",
        ]

        # An image is opened, the next shown and closed again from the keyboard alone.
        browser.evaluate("document.querySelector('.shot a').focus()")
        browser.press("Enter")
        large = "document.querySelector('.shot:target')?.getBoundingClientRect().width ?? 0"
        assert browser.evaluate(large) > 1000
        first = browser.evaluate("location.hash")
        browser.press("ArrowRight")
        assert browser.evaluate("location.hash") != first
        browser.press("Escape")
        assert browser.evaluate(large) == 0
        assert browser.errors == []
        assert {address.partition(":")[0] for address in browser.requests} <= {"file", "data"}


@needs_browser
def test_in_a_browser_it_works_without_scripts_on_a_small_screen_and_in_the_dark(report: Path, tmp_path: Path) -> None:
    with Browser(tmp_path, 360, 740, dark=True, scripts=False) as browser:
        browser.open(Path(f"{report}"))
        assert browser.evaluate("document.documentElement.scrollWidth") <= 360, "nothing sticks out sideways"
        back = browser.evaluate("getComputedStyle(document.body).backgroundColor")
        ink = browser.evaluate("getComputedStyle(document.querySelector('.chart svg')).color")
        brightness = [sum(map(int, re.findall(r"\d+", colour)[:3])) for colour in (back, ink)]
        assert brightness[0] < 150 < 500 < brightness[1]
        assert browser.evaluate("getComputedStyle(document.querySelector('.needs-script')).display") == "none"
        browser.evaluate("document.querySelector('.shot a').focus()")
        browser.press("Enter")
        assert browser.evaluate("document.querySelector('.shot:target').getBoundingClientRect().width") == 360
        assert browser.errors == []
