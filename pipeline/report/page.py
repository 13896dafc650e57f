"""The page: head, sections, style and script in one file that needs nothing else."""

from __future__ import annotations

import re
from pathlib import Path

from pipeline.report.findings import Findings
from pipeline.report.markup import Markup, tag
from pipeline.report.sections import head, sections

_HERE = Path(__file__).parent


def page(found: Findings) -> str:
    """The report as HTML. It loads nothing: style, script, pictures and charts are in it; the browser is told so."""
    shown = [section for section in sections(found) if section is not None]
    links = [tag("a", title, href=f"#{key}") for key, title in map(_title, shown)]
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
    top = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("meta", http_equiv="Content-Security-Policy", content=policy),
        tag("title", f"{found.title}: report"),
        tag("style", Markup((_HERE / "style.css").read_text(encoding="utf-8"))),
    )
    body = tag(
        "body",
        tag("a", "to the findings", href="#errors", class_="skip"),
        head(found),
        tag("nav", *links, aria_label="sections"),
        tag("main", *shown),
        tag("footer", tag("p", "Made by maskline evaluate. Kinds of error after TIDE (Bolya et al., 2020).")),
        tag("script", Markup((_HERE / "script.js").read_text(encoding="utf-8"))),
    )
    return f"<!doctype html>\n{tag('html', top, body, lang='en')}\n"


def _title(section: Markup) -> tuple[str, Markup]:
    """The id and the heading of a section."""
    found = re.match(r'<section id="([^"]*)"><h2>(.*?)</h2>', section)
    assert found is not None
    return found[1], Markup(found[2])
