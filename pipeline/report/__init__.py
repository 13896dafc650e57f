"""The report of an evaluation: one file with everything in it, to be opened in any browser, with or without scripts."""

from __future__ import annotations

from pipeline.report.findings import Extras, Findings, extras, findings
from pipeline.report.page import page

__all__ = ["Extras", "Findings", "extras", "findings", "page"]
