"""What this machine is: nvidia-smi's answer, memory, disks, clock. Whether it is enough is decided
elsewhere.
"""

from __future__ import annotations

import csv
import io
import os
import platform
import re
import shutil
import subprocess
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from petrflow.files import free_bytes

QUERY = ("index", "name", "memory.total", "memory.free", "driver_version", "compute_cap")


@dataclass(frozen=True)
class Gpu:
    """One GPU as nvidia-smi describes it; None where it says nothing."""

    index: int
    name: str
    memory_total: int | None  # bytes
    memory_free: int | None  # bytes
    driver: str
    capability: tuple[int, int] | None


@dataclass(frozen=True)
class SmiAnswer:
    """What nvidia-smi says: GPUs, or why there are none."""

    gpus: tuple[Gpu, ...] = ()
    problem: str = ""


@dataclass(frozen=True)
class Machine:
    """Answers of the machine itself; bytes everywhere."""

    python: str
    cores: int
    memory_total: int
    memory_limit: int | None  # of the container
    shared_memory: int | None  # /dev/shm
    now: float
    newest_file: float  # modification time of petrflow's own sources: no clock can be right that is before it
    free: dict[str, int] = field(default_factory=dict)  # folder -> bytes


# ------------------------------------------------------------------------------------------------------------------ nvidia-smi


def ask_nvidia_smi(timeout: float = 20.0) -> SmiAnswer:
    """Ask nvidia-smi. That it is missing, hangs or fails is an answer, too, and never an
    exception.
    """
    if shutil.which("nvidia-smi") is None:
        return SmiAnswer(
            problem="nvidia-smi is not installed: this machine (or container) has no NVIDIA driver; start a container with `--gpus all`"
        )
    command = ["nvidia-smi", f"--query-gpu={','.join(QUERY)}", "--format=csv,noheader,nounits"]
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)
        if (
            result.returncode != 0 and "not a valid field" in result.stdout + result.stderr
        ):  # drivers before 510 know no compute_cap
            command[1] = f"--query-gpu={','.join(QUERY[:-1])}"
            result = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)
    except subprocess.TimeoutExpired:
        return SmiAnswer(
            problem=f"nvidia-smi did not answer within {timeout:.0f} s: the driver hangs; reboot the machine"
        )
    except OSError as error:
        return SmiAnswer(problem=f"nvidia-smi cannot be started ({error.strerror}): install the NVIDIA driver again")
    return parse_nvidia_smi(result.stdout, result.stderr, result.returncode)


def parse_nvidia_smi(stdout: str, stderr: str = "", returncode: int = 0) -> SmiAnswer:
    """Read nvidia-smi's CSV (no header, no units), or its error message."""
    gpus = []
    complaints = [line.strip() for line in stderr.splitlines() if line.strip()]
    for cells in csv.reader(io.StringIO(stdout), skipinitialspace=True):
        row = [cell.strip() for cell in cells]
        if len(row) < len(QUERY) - 1 or not row[0].isdigit():
            complaints += [", ".join(row)] if any(row) else []
            continue
        gpus.append(
            Gpu(
                int(row[0]),
                row[1],
                _mebibytes(row[2]),
                _mebibytes(row[3]),
                row[4],
                _capability(row[5]) if len(row) > len(QUERY) - 1 else None,
            )
        )
    if gpus:
        return SmiAnswer(tuple(gpus), _explain(" ".join(complaints)) if complaints else "")
    text = " ".join(complaints) or f"it ended with code {returncode} and no words"
    return SmiAnswer(problem=_explain(text))


def gpu_uuids(timeout: float = 20.0) -> dict[int, str]:
    """Return the UUIDs of the GPUs by their numbers, as far as nvidia-smi says them."""
    command = ["nvidia-smi", "--query-gpu=index,uuid", "--format=csv,noheader"]
    try:
        said = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False).stdout
    except (OSError, subprocess.TimeoutExpired):
        return {}
    rows = [[cell.strip() for cell in line.split(",")] for line in said.splitlines()]
    return {int(row[0]): row[1] for row in rows if len(row) == 2 and row[0].isdigit() and row[1].startswith("GPU-")}


def _mebibytes(cell: str) -> int | None:
    match = re.fullmatch(r"(\d+)(?: MiB)?", cell)
    return int(match[1]) << 20 if match else None


def _capability(cell: str) -> tuple[int, int] | None:
    match = re.fullmatch(r"(\d+)\.(\d+)", cell)
    return (int(match[1]), int(match[2])) if match else None


def _explain(text: str) -> str:
    """Return nvidia-smi's error message with what to do about it."""
    remedies = (
        (
            "No devices were found",
            "the driver runs but sees no GPU; was one attached to this instance, and the container started with `--gpus all`?",
        ),
        (
            "couldn't communicate with the NVIDIA driver",
            "the driver is not loaded; `sudo modprobe nvidia`, or install it again after a kernel update",
        ),
        (
            "Driver/library version mismatch",
            "the driver was updated while running; reboot, or reload its kernel modules",
        ),
        ("GPU is lost", "the GPU fell off the bus; reboot, and change the instance if it happens again"),
        (
            "Unable to determine the device handle",
            "the GPU does not answer; reboot, and change the instance if it happens again",
        ),
        ("Insufficient Permissions", "this user may not use the GPU; ask for access, or join the `video` group"),
        (
            "NVML",
            "the driver's library is missing or broken; install the driver again, or start the container with `--gpus all`",
        ),
    )
    remedy = next((remedy for sign, remedy in remedies if sign in text), "see the driver's documentation")
    return f"nvidia-smi says: {text[:200].rstrip('.')}: {remedy}"


# ------------------------------------------------------------------------------------------------------------------ the machine


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def child_environment() -> dict[str, str]:
    """Return this process's environment for a Python child that must find this petrflow, and no
    stand-in for other modules.
    """
    package = str(Path(__file__).resolve().parents[2])
    search_path = os.pathsep.join([package, *filter(None, [os.environ.get("PYTHONPATH")])])
    # PYTHONSAFEPATH: a script's own folder must not stand in for installed modules of the same
    # names.
    return {**os.environ, "PYTHONPATH": search_path, "PYTHONSAFEPATH": "1"}


def ask_machine(folders: Iterable[Path]) -> Machine:
    """Return what this machine is, with the space under some folders."""
    return Machine(
        python=platform.python_version(),
        cores=cores(),
        memory_total=os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        memory_limit=_container_memory(),
        shared_memory=shutil.disk_usage("/dev/shm").total if Path("/dev/shm").is_dir() else None,
        now=time.time(),
        newest_file=max(path.stat().st_mtime for path in Path(__file__).parents[1].rglob("*.py")),
        free={str(folder): free_bytes(folder) for folder in folders},
    )


def _container_memory() -> int | None:
    for path in (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes")):
        try:
            text = path.read_text().strip()
        except OSError:
            continue
        if text.isdigit() and int(text) < 1 << 60:
            return int(text)
    return None
