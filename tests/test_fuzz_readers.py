"""Every reader of bytes from outside, fed with what valid files become when they are bent: it reads, or it refuses.

The same targets are fuzzed for hours by `python tests/reliability/fuzz.py`; what led to a crash there or here is kept
in fixtures/crashes/<target>/ and tried first.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from fixtures.targets import FAULTS, TARGETS, Target
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

CRASHES = Path(__file__).parent / "fixtures" / "crashes"
WORDS = (
    b"\0", b"\r", b"\n", b'"', b",", b":", b"-", b"'", b"\xff", b"\xef\xbb\xbf", b"\x1b[2J", b"-1", b"0", b"1e999",
    b"9" * 20, b"9" * 5000, b"null", b"true", b"[]", b"{}", b'""', b"[" * 3000, b'{"a":' * 3000, b"../", b"/etc/passwd",
    b"&a [*a]", b"!!python/object/apply:os.system [id]", b"!!timestamp x", b"2001-99-99", b"!!int ", b"? ", b"\xc2\x85",
    b"\xe2\x80\xae", b"PK\x03\x04", b"1:99", b"con", b"NaN",
)  # fmt: skip


@st.composite
def bent(draw: st.DrawFn, seeds: Sequence[bytes]) -> bytes:
    """A valid file with a few pieces of it cut out, and others put in."""
    content = draw(st.sampled_from(seeds))
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(content)))
        new = draw(st.sampled_from(WORDS) | st.binary(max_size=4) | st.just(content[at : at + 40]))
        content = content[:at] + new + content[at + draw(st.sampled_from((0, 0, 1, 2, 8, 10**6))) :]
    return content


@pytest.mark.parametrize("name", TARGETS)
def test_a_reader_reads_or_refuses_whatever_it_is_given(name: str, tmp_path: Path) -> None:
    target = TARGETS[name](tmp_path)
    assert any(_reads(target, seed) for seed in target.seeds), "no seed is valid"
    for kept in sorted((CRASHES / name).glob("*")):
        target.check(kept.read_bytes())

    @given(bent(target.seeds))
    @settings(
        max_examples=25, derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck)
    )  # fmt: skip
    def law(content: bytes) -> None:
        target.check(content)

    law()


def _reads(target: Target, seed: bytes) -> bool:
    try:
        target.read(seed)
    except FAULTS:
        return False
    return True


def test_every_crash_that_is_kept_is_of_a_target() -> None:
    assert {path.name for path in CRASHES.iterdir() if path.is_dir()} <= TARGETS.keys()
