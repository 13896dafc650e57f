"""What tests of every room share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from fixtures.records import Made, make

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real contest files, one folder per contest; tests that need it are skipped where it is absent.

    Where MASKLINE_DATA promises it, its absence is a failure.
    """
    named = os.environ.get("MASKLINE_DATA")
    folder = Path(named) if named else REPOSITORY.parent / "shared" / "data"
    if named and not folder.is_dir():
        pytest.fail(f"MASKLINE_DATA={named} is no folder: where the real files are promised, no test may be skipped")
    if not folder.is_dir():
        pytest.skip(f"no real contest files: {folder} is no folder; name theirs in the variable MASKLINE_DATA")
    return folder


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that all processes of this run of the tests have in common; see `fixtures.line.once`."""
    own = tmp_path_factory.getbasetemp()
    return (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "shared"


@pytest.fixture(scope="session")
def made(shared: Path) -> Made:
    """A toy contest, run to its end once for all tests of the line and of records; they copy what they change."""
    return make(shared / "made")
