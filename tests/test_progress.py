"""Progress where the output goes to a file: few plain lines, none when quiet, and every item is passed on."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline import progress
from pipeline.progress import Bar, about, clock, track


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


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "5 s"), (12, "10 s"), (99, "100 s"), (229, "4 min"), (5999, "100 min"), (9000, "2.5 h")]
)
def test_an_estimate_claims_no_more_than_it_knows(seconds: float, text: str) -> None:
    assert about(seconds) == text


def said(total: int, times: list[float], monkeypatch: pytest.MonkeyPatch, **own: Any) -> None:
    """Units that are done at these seconds after the start."""
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with Bar(total, "fold 0", "image", timed=3, **own) as bar:
        for now[0] in times:
            bar.update()


def test_what_the_whole_will_cost_is_said_once_when_the_first_units_are_done(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first took 5 seconds, each of the next three 2: 65 take 130, however long the start was."""
    said(65, [5, 7, 9, 11, 12, 13], monkeypatch, besides=", besides 16 of others")
    assert capsys.readouterr().err == "fold 0: about 2 min for 65 images, besides 16 of others\n"


def test_units_that_end_together_do_not_look_as_if_they_took_no_time(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    said(1000, [1.0] * 4 + [3.0] * 4, monkeypatch)
    assert capsys.readouterr().err == "fold 0: about 8 min for 1000 images\n"


def test_what_others_did_before_is_no_part_of_the_cost(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    said(65, [5, 7, 9, 11], monkeypatch, initial=45)
    assert capsys.readouterr().err == "fold 0: about 40 s for 20 images\n"


@pytest.mark.parametrize(("total", "quiet"), [(7, False), (65, True)])
def test_of_short_or_quiet_work_no_cost_is_said(
    total: int, quiet: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    said(total, [5, 7, 9, 11], monkeypatch, quiet=quiet)
    assert capsys.readouterr().err == ""
