"""HTML from Python: whatever is not markup already is escaped, so that no name of a class or an image can break out."""

from __future__ import annotations

import html
import io
import re
from collections.abc import Sequence

import matplotlib
from matplotlib.figure import Figure

from pipeline.plots import BLUE, INK


class Markup(str):
    """Text that is HTML and stays as it is."""

    __slots__ = ()


Part = str | int | None


def tag(name: str, /, *children: Part, **attributes: str | int | bool | None) -> Markup:
    """An element. Children that are no Markup are escaped, None is left out; so are attributes that are None or False.

    A trailing underscore of an attribute's name is dropped and others become hyphens: class_, data_class.
    """
    inside = "".join(escaped(child) for child in children if child is not None)
    words = [
        f" {key.rstrip('_').replace('_', '-')}" + ("" if value is True else f'="{html.escape(str(value))}"')
        for key, value in attributes.items()
        if value is not None and value is not False
    ]
    closing = "" if name in ("meta", "input", "br") else f"</{name}>"
    return Markup(f"<{name}{''.join(words)}>{inside if closing else ''}{closing}")


def escaped(part: Part) -> str:
    """A part as HTML."""
    return part if isinstance(part, Markup) else html.escape(str(part))


def joined(parts: Sequence[Part]) -> Markup:
    """Parts one behind the other."""
    return Markup("".join(escaped(part) for part in parts if part is not None))


def table(head: Sequence[str], rows: Sequence[Sequence[Part]], words: int = 1, class_: str | None = None) -> Markup:
    """A table that may be scrolled sideways; the first `words` columns are text, the others figures."""
    kinds = ["word" if place < words else "figure" for place in range(len(head))]
    top = tag("tr", *(tag("th", name, scope="col", class_=kind) for name, kind in zip(head, kinds, strict=True)))
    body = [tag("tr", *(tag("td", cell, class_=kind) for cell, kind in zip(row, kinds, strict=True))) for row in rows]
    inner = tag("table", tag("thead", top), tag("tbody", *body), class_=class_)
    return tag("div", inner, class_="scroll", tabindex=0, role="region", aria_label=", ".join(head))


def bar(value: float, most: float, kind: str = "") -> Markup:
    """A bar as long as value / most of its cell."""
    width = f"width:{100 * min(max(value / most, 0), 1) if most > 0 else 0:.1f}%"
    return tag("span", tag("i", style=width, class_=kind or None), class_="bar", aria_hidden="true")


def chart(figure: Figure, said: str) -> Markup:
    """A figure as SVG inside the page, whose ink takes the page's own colour; `said` tells what it shows."""
    stream = io.StringIO()
    settings = {"svg.fonttype": "none", "svg.hashsalt": said, "font.family": "sans-serif"}
    with matplotlib.rc_context(settings):
        figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    drawing = stream.getvalue()
    drawing = drawing[drawing.index("<svg") :].replace(INK, "currentColor").replace(BLUE, "var(--bar)")
    drawing = re.sub(r"<metadata>.*?</metadata>", "", drawing, flags=re.DOTALL)
    label = html.escape(said)
    drawing = drawing.replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1)
    kind = "chart wide" if figure.get_figwidth() > 7 else "chart"
    return tag("div", Markup(drawing), class_=kind, tabindex=0, role="region", aria_label=said)
