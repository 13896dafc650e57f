"""What makes a result reproducible: fingerprints of settings and files, and the stamp of a finished step.

Standard library only. A step's stamp lies beside its outputs and says from which inputs and settings they were made,
so that the same step is not done twice and a changed one is never mistaken for done.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from pipeline.atomic import atomic

STAMP_VERSION = 1


def file_hash(path: Path) -> str:
    """SHA-256 of a file's bytes, hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def folder_state(paths: Iterable[Path]) -> str:
    """A hash of names, sizes and modification times: notices a changed picture without reading all of them."""
    lines = []
    for path in sorted(paths):
        state = path.stat()
        lines.append(f"{path.name} {state.st_size} {state.st_mtime_ns}")
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def describe(value: Any) -> Any:
    """Settings as plain data for JSON or YAML: dataclasses and partial objects become mappings with their name.

    The same settings give the same description in every process. Raises TypeError for an object that has no
    description which would stay the same.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: describe(getattr(value, field.name)) for field in dataclasses.fields(value)}
        return {"_target_": _name(type(value)), **fields}
    if isinstance(value, functools.partial):
        fixed = {"_args_": describe(value.args)} if value.args else {}
        return {"_target_": _name(value.func), "_partial_": True, **fixed, **describe(value.keywords)}
    if isinstance(value, Mapping):
        return {str(key): describe(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [describe(item) for item in value]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"settings hold a {type(value).__name__}, which has no lasting description: {value!r:.80}")


def _name(target: Any) -> str:
    return f"{target.__module__}.{target.__qualname__}"


def version() -> str:
    """The version of this package, "unknown" where it runs uninstalled."""
    return installed_version("maskline") or "unknown"


def installed_version(package: str) -> str | None:
    """The version of an installed package, or None."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


@dataclasses.dataclass(frozen=True)
class Step:
    """One finished or unfinished step of the line: its stamp, inputs, outputs and settings.

    stamp: the file that says how the outputs were made. outputs: files the step leaves. settings: anything that
    `describe` takes and that changes the outputs. inputs: name → hash or state of what the step reads.
    begun: when the work began, `time.monotonic` seconds. The stamp also says when it was finished, how long it took, in
    how much memory, by which versions and on what machine; a step that differs in these alone is the same step.
    """

    stamp: Path
    outputs: tuple[Path, ...]
    settings: Mapping[str, Any]
    inputs: Mapping[str, str]
    begun: float = dataclasses.field(default_factory=time.monotonic, compare=False)

    @property
    def folder(self) -> Path:
        """Where the stamp lies."""
        return self.stamp.parent

    @property
    def lock(self) -> Path:
        """The file that is held while the step is worked at, see `pipeline.alone`."""
        return self.stamp.with_suffix(".lock")

    def is_done(self) -> bool:
        """Whether all outputs exist, unchanged in size, made from these inputs and settings by this version."""
        return self._found() == self._content() and all(path.is_file() for path in self.outputs)

    def what_changed(self) -> list[str]:
        """Names of the settings and inputs that differ from the stamp's, for the log; empty without a stamp."""
        found, wanted, changed = self._found(), self._content(), []
        if not found:
            return []
        for part in ("settings", "inputs"):
            old, new = found.get(part, {}), wanted[part]
            changed += [f"{part}.{key}" for key in sorted(old.keys() | new.keys()) if old.get(key) != new.get(key)]
        return changed

    def finish(self) -> None:
        """Write the stamp. Call it last: an unfinished step has none."""
        for path in self.outputs:
            if not path.is_file():
                raise FileNotFoundError(f"the step ended without its output {path}")
        made = {"at": now(), "minutes": round((time.monotonic() - self.begun) / 60, 3), "peak_memory_mb": peak_memory()}
        content = {**self._content(), "made": {**made, "environment": environment()}}
        with atomic(self.stamp) as partial:
            partial.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")

    def _found(self) -> dict[str, Any]:
        """What the stamp says of settings, inputs and outputs; empty where there is none that can be read."""
        return {key: value for key, value in read_stamp(self.stamp).items() if key != "made"}

    def _content(self) -> dict[str, Any]:
        sizes = {path.name: path.stat().st_size for path in self.outputs if path.is_file()}
        settings = json.loads(json.dumps(describe(self.settings)))
        return {
            "format": "maskline-stamp",
            "version": STAMP_VERSION,
            "maskline": version(),
            "settings": settings,
            "inputs": dict(self.inputs),
            "outputs": sizes,
        }


def read_stamp(path: Path) -> dict[str, Any]:
    """The content of a stamp; empty where there is none that can be read."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    whole = isinstance(found, dict) and all(isinstance(found.get(part, {}), dict) for part in ("settings", "inputs"))
    return found if whole else {}


def now() -> str:
    """The time as stamps and records have it: ISO 8601, UTC, with microseconds, so that they sort as text."""
    return datetime.now(UTC).isoformat(timespec="microseconds")


def peak_memory() -> int | None:
    """The most memory that this process has had, in MB; None where the system does not tell."""
    try:
        import resource  # not on Windows
    except ImportError:
        return None
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(most / (2**20 if sys.platform == "darwin" else 2**10))


def environment() -> dict[str, Any]:
    """What matters of the machine and the installation: interpreter, processor, GPU, package versions, commit."""
    packages = (
        "maskline",
        "torch",
        "torchvision",
        "lightning",
        "numpy",
        "pandas",
        "pycocotools",
        "scikit-image",
        "timm",
    )
    versions = {name: found for name in packages if (found := installed_version(name))}
    return {
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "processors": os.cpu_count(),
        "gpu": _gpu(),
        "packages": versions,
        **commit(Path(__file__).resolve().parent),
    }


def _processor() -> str:
    """The processor's own name where the system tells it (Linux), else its architecture."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return next(iter(names), platform.processor() or platform.machine())


def _gpu() -> str | None:
    """The GPU's name where this process computes on one. Not imported here: who has not loaded torch uses none."""
    cuda = getattr(sys.modules.get("torch"), "cuda", None)
    return cuda.get_device_name() if cuda is not None and cuda.is_initialized() else None


def commit(folder: Path) -> dict[str, Any]:
    """The commit of the checkout that holds `folder` and whether its tree was clean; nulls outside a checkout."""

    def git(*words: str) -> str | None:
        try:
            done = subprocess.run(["git", "-C", str(folder), *words], capture_output=True, text=True, timeout=30)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    found = git("rev-parse", "HEAD")
    return {"commit": found, "clean": None if found is None else git("status", "--porcelain") == ""}
