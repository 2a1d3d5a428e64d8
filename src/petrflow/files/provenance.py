"""``provenance.json``: what a stage was made from and what it cost, written when the stage has
succeeded.
"""

from __future__ import annotations

import contextlib
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from petrflow.errors import PetrflowError
from petrflow.files.atomic import NOBODYS, TEMPORARY_MARK, read_json, write_json
from petrflow.files.fingerprints import fingerprint, sha256_file
from petrflow.files.receipts import Order

PACKAGES = (
    "petrflow",
    "paddlepaddle",
    "paddlepaddle-gpu",
    "paddle3d",
    "nuscenes-devkit",
    "numpy",
    "pyarrow",
    "opencv-python-headless",
    "snakemake",
)


@dataclass
class Provenance:
    """What a stage adds to its record while it runs."""

    device: str = "cpu"
    extra: dict[str, Any] = field(default_factory=dict)
    earlier_seconds: float = 0.0
    earlier_cpu_seconds: float = 0.0

    def record(self, **values: Any) -> None:
        """Add JSON-able values under their names."""
        self.extra.update(values)

    def add_earlier(self, seconds: float, cpu_seconds: float) -> None:
        """Add what earlier starts of this stage took, where it was interrupted and has gone on."""
        self.earlier_seconds += seconds
        self.earlier_cpu_seconds += cpu_seconds


def input_fingerprint(value: str | Path) -> str:
    """Return the fingerprint of one input: text as it is, a file by its bytes, a folder by its
    ``.complete.json`` or its names and sizes.
    """
    if isinstance(value, str):
        return value
    if value.is_file():
        return sha256_file(value)
    if (value / ".complete.json").is_file():
        complete = read_json(value / ".complete.json")
        return str(complete.get("fingerprint") or fingerprint(complete))
    if value.is_dir():
        return fingerprint(
            sorted([p.relative_to(value).as_posix(), p.stat().st_size] for p in value.rglob("*") if p.is_file())
        )
    raise PetrflowError(f"The input {value} does not exist: run the step that writes it again.")


def require_own_folder(folder: Path) -> None:
    """Raise a ``PetrflowError`` where a stage would replace a folder of results that petrflow did not
    make.

    A folder that a stage has written holds a ``provenance.json``. An empty folder belongs to nobody.
    """
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        found = "is a link" if folder.is_symlink() else "is a file"
    elif folder.is_dir() and not any(folder.glob("*provenance.json")) and any(p.is_file() for p in folder.rglob("*")):
        found = "holds files"
    else:
        if others := _others(folder):
            listed = ", ".join(others[:3]) + (f" and {len(others) - 3} more" if len(others) > 3 else "")
            raise PetrflowError(
                f"{folder} was made by petrflow and is about to be replaced, but {listed} in it was not, and would be lost. "
                "Move it out of there, and run the same command again."
            )
        return
    raise PetrflowError(
        f"{folder} {found} that petrflow did not make, and results would go there. "
        "Move it elsewhere, or give the run or data set another name in the config."
    )


def note_files(folder: Path) -> None:
    """Write the names of a finished folder's files into its ``provenance.json``: any other that is
    found there later is the user's.
    """
    record = folder / "provenance.json"
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    write_json(record, {**read_json(record), "files": names})


def _others(folder: Path) -> list[str]:
    """Files in a folder of results that its stage did not write; none where that is not known."""
    record = folder / "provenance.json"
    noted = read_json(record).get("files") if record.is_file() else None
    if noted is None:
        return []
    found = [path.relative_to(folder) for path in folder.rglob("*") if path.is_symlink() or path.is_file()]
    return sorted(str(path) for path in found if path.as_posix() not in noted and not _is_nobodys(path))


def _is_nobodys(path: Path) -> bool:
    """Whether a file is one that systems, Python or another stage of petrflow leave."""
    if {"__pycache__", ".ipynb_checkpoints"} & set(path.parts) or path.name in NOBODYS or TEMPORARY_MARK in path.name:
        return True
    return path.name.endswith("provenance.json") or path.match("petr_nuscenes_annotation_*.pkl")


def package_versions() -> dict[str, str]:
    """Return the installed versions of the packages that shape results, without importing any of
    them.
    """
    versions = {}
    for name in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return versions


def revision() -> str | None:
    """Return the git revision of the checkout that this code runs from, with ``+`` where it was
    edited since; None outside of a checkout or without git.
    """
    folder = Path(__file__).resolve().parents[3]
    if not (folder / ".git").exists():
        return None
    # The first three options keep a checkout's own settings from starting programs.
    git = ["git", "-c", "core.fsmonitor=false", "-c", "core.hooksPath=/dev/null", "-C", str(folder)]
    try:
        head = subprocess.run(
            [*git, "rev-parse", "--short=12", "HEAD"], check=False, capture_output=True, text=True, timeout=10
        )
        changed = subprocess.run(
            [*git, "diff", "--no-ext-diff", "--quiet", "HEAD"], check=False, capture_output=True, timeout=10
        )
    except (OSError, subprocess.SubprocessError):
        return None
    if head.returncode:
        return None
    return head.stdout.strip() + ("+" if changed.returncode else "")


def peak_memory_bytes() -> int:
    """Return the largest resident set of this process or of one of its finished children, in
    bytes.
    """
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))


@contextlib.contextmanager
def provenance(
    path: Path, inputs: dict[str, str | Path], settings: dict[str, Any] | None = None, order: Order | None = None
) -> Iterator[Provenance]:
    """Record a stage; nothing is written if the body fails.

    Parameters
    ----------
    path : where ``provenance.json`` goes
    inputs : name -> fingerprint (text) or file or folder to take one of; taken before the body runs
    settings : JSON-able settings that shaped the stage
    order : what the workflow wanted, where a workflow asked: it goes in as ``made_from``, and the seconds are those of all starts
    """
    fingerprints = {name: input_fingerprint(value) for name, value in sorted(inputs.items())}
    entry = Provenance()
    start = time.monotonic()
    cpu_start = time.process_time()
    yield entry
    write_json(
        path,
        {
            "inputs": fingerprints,
            "settings": settings or {},
            "settings_fingerprint": fingerprint(settings or {}),
            "versions": package_versions(),
            "revision": revision(),
            "python": platform.python_version(),
            "platform": platform.platform(),
            "device": entry.device,
            "seconds": round(order.seconds if order else entry.earlier_seconds + time.monotonic() - start, 3),
            "cpu_seconds": round(entry.earlier_cpu_seconds + time.process_time() - cpu_start, 3),
            "peak_memory_bytes": peak_memory_bytes(),
            **({"extra": entry.extra} if entry.extra else {}),
            **({"made_from": order.made_from} if order else {}),
        },
    )


def stamp(path: Path, order: Order | None) -> None:
    """Say in a ``provenance.json`` that another process has written what the workflow wanted."""
    if order is not None:
        write_json(path, {**read_json(path), "made_from": order.made_from})
