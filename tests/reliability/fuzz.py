"""The fuzzer of every reader: `python tests/reliability/fuzz.py [TARGET …] [--minutes M] [--folder DIR] [--json F]`.

Each target (see `tests/fixtures/targets.py`) is fed with what atheris, a coverage-guided fuzzer (pip install atheris),
makes of its seeds, for so many minutes in a process of its own. What a target must not do is a crash: it is told once
for each place in the program, and the input that led there is kept as DIR/<target>/crash-*. An input that takes longer
than a minute or more than 2 GB ends the target's process, and counts as one. Inputs that led to new code are kept in
DIR/<target>/corpus and are where the next time starts. Ends with status 1 if there was a crash.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import subprocess
import sys
import tempfile
import time
import traceback
from dataclasses import asdict, dataclass, field
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
_SECONDS, _MEGABYTES = 60, 2048


@dataclass
class Report:
    """What came of one target; crashes: the error and place of each, by the file that leads to it."""

    target: str
    executions: int = 0
    minutes: float = 0.0
    crashes: dict[str, str] = field(default_factory=dict)

    def line(self) -> str:
        found = "".join(f"\n  {name}: {said}" for name, said in self.crashes.items())
        told = f"{self.executions:>10} executions {self.minutes:>6.1f} min  crashes: {len(self.crashes)}"
        return f"{self.target:<28} {told}{found}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("targets", nargs="*", help="all unless given; `list` prints their names")
    parser.add_argument("--minutes", type=float, default=60, help="of each target")
    parser.add_argument("--folder", type=Path, help="for crashes and inputs; a temporary one unless given")
    parser.add_argument("--json", type=Path, help="also write the results to this file")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    sys.path[:0] = [str(ROOT / "tests"), str(ROOT)]
    folder = (options.folder or Path(tempfile.mkdtemp(prefix="fuzzed"))).resolve()
    if options.child:
        return fuzz(options.targets[0], folder, options.minutes)
    from fixtures.targets import TARGETS

    if options.targets == ["list"]:
        return print("\n".join(TARGETS))
    if wrong := sorted(set(options.targets) - set(TARGETS)):
        sys.exit(f"targets: wanted some of {', '.join(TARGETS)}, got {', '.join(wrong)}")
    reports = []
    for name in options.targets or TARGETS:
        reports.append(started(name, folder, options.minutes))
        print(reports[-1].line(), flush=True)
    print(f"crashes and inputs: {folder}")
    if options.json:
        options.json.write_text(json.dumps([asdict(one) for one in reports], indent=1), encoding="utf-8")
    sys.exit(any(one.crashes for one in reports))


def started(name: str, folder: Path, minutes: float) -> Report:
    """Fuzz one target in a process of its own, which may be ended by what it is fed with."""
    own = folder / name
    own.mkdir(parents=True, exist_ok=True)
    (own / "report.json").unlink(missing_ok=True)
    words = [sys.executable, __file__, name, "--child", f"--minutes={minutes}", f"--folder={folder}"]
    with open(own / "log.txt", "wb") as log:
        status = subprocess.run(words, stdout=log, stderr=log, check=False).returncode
    if not (own / "report.json").is_file():
        sys.exit(f"{name} did not start:\n{(own / 'log.txt').read_text(errors='replace')[-2000:]}")
    report = Report(**json.loads((own / "report.json").read_text()))
    if status:
        lines = (own / "log.txt").read_text(errors="replace").splitlines()
        said = next((line for line in lines if "ERROR: libFuzzer" in line), f"ended with status {status}")
        report.crashes["log.txt"] = said
    return report


def fuzz(name: str, folder: Path, minutes: float) -> None:
    """Fuzz one target in this process, and write report.json as it goes. Does not return."""
    try:
        import atheris
    except ImportError:
        sys.exit("the fuzzer is not installed: pip install atheris (Linux and macOS)")
    with atheris.instrument_imports(include=["pipeline", "yaml"]):
        from fixtures.targets import TARGETS
    logging.disable(logging.CRITICAL)
    own = folder / name
    (own / "seeds").mkdir(exist_ok=True)
    (own / "corpus").mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as work:
        target = TARGETS[name](Path(work))
        for seed in target.seeds:
            (own / "seeds" / hashlib.sha256(seed).hexdigest()[:12]).write_bytes(seed)
        report, begun = Report(name), time.monotonic()

        def write() -> None:
            report.minutes = round((time.monotonic() - begun) / 60, 2)
            (own / "report.json").write_text(json.dumps(asdict(report)))

        places: set[str] = set()

        def once(given: bytes) -> None:
            report.executions += 1
            try:
                target.check(given)
            except Exception as error:
                place = _place(error)
                if place not in places:
                    places.add(place)
                    kept = own / f"crash-{hashlib.sha256(given).hexdigest()[:12]}"
                    kept.write_bytes(given)
                    report.crashes[kept.name] = f"{place}: {type(error).__name__}: {' '.join(str(error).split())[:200]}"
                    write()
            if time.monotonic() - begun > 60 * report.minutes + 5:
                write()

        write()
        limits = [f"-timeout={_SECONDS}", f"-rss_limit_mb={_MEGABYTES}", f"-artifact_prefix={own}/"]
        words = [sys.argv[0], f"-max_total_time={minutes * 60:.0f}", "-max_len=20000", *limits]
        atheris.Setup([*words, str(own / "corpus"), str(own / "seeds")], once)
        atheris.Fuzz()


def _place(error: Exception) -> str:
    """Where in the program an error came from: the kind of error, and the last line of ours that it passed."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if Path(frame.filename).is_relative_to(ROOT)]
    last = ours[-1]
    return f"{type(error).__name__} at {Path(last.filename).relative_to(ROOT)}:{last.lineno}"


if __name__ == "__main__":
    main()
