"""Kills and faults: `python tests/reliability [STAGE …] [--kills N] [--seed S] [--signal kill|term|int] [--json FILE]`,
and `python tests/reliability faults [FAULT …]`, which brings about each of the faults in faults.py.

Each stage of the line, as a user starts it, is run once undisturbed. Then it is started again from the same files and
sent a signal at a random moment of its time, often enough that the wanted number of kills is reached, and in the end
left to finish. What it leaves must be what the undisturbed run left: byte for byte; of a training every tensor bit for
bit, and of one of two processes to 1e-5. After every kill no file under a final name may be broken, and after the last
start nothing unfinished may lie about.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
import tempfile
from pathlib import Path

from faults import FAULTS, Finding
from killing import STAGES, Place, Report, prepare, torture


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stages", nargs="*", help=f"of {', '.join(STAGES)}, or faults, of {', '.join(FAULTS)}; all")
    parser.add_argument("--kills", type=int, default=5, help="of each stage")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--signal", choices=("kill", "term", "int"), default="kill")
    parser.add_argument("--experiment", help="of conf/experiment, such as dsb2018_mini; the toy contest unless given")
    parser.add_argument("--data", type=Path, help="the contest's folder, where an experiment is given")
    parser.add_argument("--folder", type=Path, help="to work in; a temporary one unless given")
    parser.add_argument("--json", type=Path, help="also write the results to this file")
    options = parser.parse_args()
    faults, chosen = options.stages[:1] == ["faults"], options.stages
    known, chosen = (FAULTS, chosen[1:]) if faults else (STAGES, chosen)
    if wrong := sorted(set(chosen) - set(known)):
        sys.exit(f"wanted some of {', '.join(known)}, got {', '.join(wrong)}")
    if (options.experiment is None) != (options.data is None):
        sys.exit("--experiment and --data go together")
    folder = options.folder or Path(tempfile.mkdtemp(prefix="killed"))
    reports: list[Report | Finding] = []
    try:
        place = Place(folder, options.experiment, options.data)
        prepare(place)
        for name in chosen or known:
            random_ = random.Random(f"{options.seed} {name} {options.signal}")
            torn = None if faults else torture(name, place, options.kills, options.signal, random_)
            reports.append(torn or FAULTS[name](place))
            print(reports[-1].line(), flush=True)
    finally:
        if not options.folder:
            shutil.rmtree(folder, ignore_errors=True)
    if options.json:
        options.json.write_text(json.dumps([report.__dict__ for report in reports], indent=1), encoding="utf-8")
    sys.exit(any(report.wrong for report in reports))


if __name__ == "__main__":
    main()
