"""The README's pictures, from a finished run on real data: `python tests/pictures.py RUN_FOLDER [FOLDER]`.

RUN_FOLDER is paths.output/runs/<run> after `evaluate`; the pictures go to FOLDER, by default submissions/pictures:
evaluation.png as it is, and report.png, the head of report.html in Chromium. Only of data that
may be shown: DSB2018 is CC0.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

from fixtures.browser import Browser


def pictures(run: Path, folder: Path) -> None:
    """Write both pictures."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(run / "evaluation.png", folder / "evaluation.png")
    with tempfile.TemporaryDirectory() as profile, Browser(Path(profile), 1100, 1320) as browser:
        browser.open(run / "report.html")
        browser.picture(folder / "report.png")


if __name__ == "__main__":
    default = Path(__file__).resolve().parent.parent / "submissions" / "pictures"
    pictures(Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) > 2 else default)
