"""What the sections of a report are made of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline.report.markup import Markup, bar, joined, tag


def section(key: str, title: str, said: str, *parts: Markup | None) -> Markup:
    """A section with its heading and how to read it."""
    return tag("section", tag("h2", title), tag("p", said, class_="said"), *parts, id=key)


def folded(summary: str, inside: Markup) -> Markup:
    """What is shown on demand."""
    return tag("details", tag("summary", summary), inside)


def share(value: float) -> Markup:
    """A number from 0 to 1 with its bar."""
    return joined([f"{value:.3f}", bar(value, 1)])


def is_interval(value: Any) -> bool:
    """Whether a value of a file is a mean with an interval."""
    return isinstance(value, dict) and {"mean", "low", "high"} <= value.keys()


def interval(value: Mapping[str, float], signs: bool = False) -> str:
    """A mean with its interval, as a file has them."""
    words = (signed(value[key], ".4f") if signs else f"{value[key]:.4f}" for key in ("mean", "low", "high"))
    return "{} [{}, {}]".format(*words)


def signed(value: float, form: str) -> str:
    """A difference, with its sign."""
    return format(value, f"+{form}").replace("-", "−")
