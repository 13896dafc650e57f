"""Progress where the output goes to a file: few plain lines, none when quiet, and every item is passed on."""

from __future__ import annotations

import pytest

from pipeline import progress
from pipeline.progress import Bar, clock, track


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0.0 s"),
        (99.94, "99.9 s"),
        (100, "1 min 40 s"),
        (245.9, "4 min 05 s"),
        (5999, "99 min 59 s"),
        (7800, "2 h 10 min"),
    ],
)
def test_a_time_is_written_as_people_say_it(seconds: float, text: str) -> None:
    assert clock(seconds) == text


def test_every_item_is_passed_on_in_its_order() -> None:
    assert list(track(iter("abc"), 3, "reading", "image", quiet=True)) == ["a", "b", "c"]


def test_short_work_says_nothing_in_a_file(capsys: pytest.CaptureFixture[str]) -> None:
    list(track(range(1000), 1000, "reading", "image"))
    assert capsys.readouterr() == ("", "")


def test_long_work_says_how_far_it_is_and_how_long_it_will_take(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = iter([0.0, 10.0, 20.0, 20.0, 30.0, 40.0, 40.0, 50.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(now))
    with Bar(10, "training", "step", initial=2) as bar:
        for _ in range(4):
            bar.update(2, "loss 0.500")
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "training: 6/10 steps, 0.2/s, 20.0 s left, loss 0.500"
    assert lines[-1].startswith("training: 10/10 steps")


def test_quiet_work_says_nothing_however_long(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "_SECONDS", 0.0)
    list(track(range(5), 5, "reading", "image", quiet=True))
    assert capsys.readouterr() == ("", "")
