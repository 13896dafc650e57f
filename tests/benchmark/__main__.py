"""The benchmark: `python tests/benchmark [GROUP …] [--threads N] [--json FILE]`.

Every row does one piece of the pipeline's work in our way and in a peer's, on the same input, asserts that the results
are equal, and prints the ratio of the median times. Rows of real data need it under MASKLINE_DATA or ../shared/data.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import os
from pathlib import Path

import torch
from harness import line, measure, table, write

GROUPS = ("text", "paste", "geometry", "metric", "samples", "targets", "detector")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("groups", nargs="*", choices=[*GROUPS, []], help=f"of {', '.join(GROUPS)}; all unless given")
    # One unless told otherwise: threads that wait for a busy core change small works more than large ones.
    parser.add_argument("--threads", type=int, default=1, help="of torch, for both sides; one unless given")
    parser.add_argument("--json", type=Path, help="also write the results to this file")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    logging.getLogger("pipeline").setLevel(logging.ERROR)
    named = os.environ.get("MASKLINE_DATA")
    data = Path(named) if named else Path(__file__).resolve().parents[3] / "shared" / "data"
    results = []
    print(table([]), flush=True)
    for group in options.groups or GROUPS:
        for row in importlib.import_module(f"bench_{group}").rows(data):
            results.append(measure(row))
            print(line(results[-1]), flush=True)
    if options.json:
        write(results, options.json)


if __name__ == "__main__":
    main()
