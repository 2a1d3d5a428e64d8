"""Which GPUs a stage takes: the first free ones of those visible, by UUID, kept by locks that end
with their process.

A choice is made before Paddle is imported, and given to CUDA as ``CUDA_VISIBLE_DEVICES``: CUDA
reads it once, and a part of a partitioned GPU (MIG) can be named in no other way.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from time import sleep
from typing import Any

from petrflow.errors import Locked, MachineError
from petrflow.files import lock

TAKEN = "PETRFLOW_GPUS"
"""Environment variable with the GPUs that this process or the one that started it has locked."""
_GPU_LINE = re.compile(r"^GPU (\d+): .*\(UUID: (GPU-[^)\s]+)\)")
_PART_LINE = re.compile(r"^\s+MIG .*\(UUID: (MIG-[^)\s]+)\)")


@dataclass(frozen=True)
class Listed:
    """A GPU that ``nvidia-smi -L`` lists: its number, its UUID, and those of its parts under
    MIG.
    """

    index: int
    uuid: str
    parts: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """What a process can take of it: its parts where it has any, otherwise the whole."""
        return self.parts or (self.uuid,)


@dataclass(frozen=True)
class Taken:
    """GPUs that this process has locked, and the descriptors of the locks."""

    names: tuple[str, ...] = ()
    descriptors: tuple[int, ...] = ()


def parse_list(text: str) -> list[Listed]:
    """Read what ``nvidia-smi -L`` prints; lines that are something else are passed over."""
    found: list[Listed] = []
    for line in text.splitlines():
        if match := _GPU_LINE.match(line):
            found.append(Listed(int(match[1]), match[2]))
        elif found and (match := _PART_LINE.match(line)):
            last = found[-1]
            found[-1] = Listed(last.index, last.uuid, (*last.parts, match[1]))
    return found


def ask_list(timeout: float = 20.0) -> list[Listed]:
    """Ask ``nvidia-smi -L``; no answer is an empty list."""
    try:
        said = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=timeout, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return parse_list(said.stdout)


def visible(asked: str | None, listed: Sequence[Listed], nodes: int = 0) -> list[str]:
    """Return the names of the GPUs that a process may use, in the order in which it was given them.

    As CUDA does, the list ends at the first entry that names nothing. A number is nvidia-smi's.

    Parameters
    ----------
    asked : str or None
        ``CUDA_VISIBLE_DEVICES``; None where it is not set, which means all.
    listed : sequence of Listed
        What nvidia-smi lists. Inside a container or a job with a device cgroup it lists only what
        is open to it, numbered from 0.
    nodes : int
        Device files ``/dev/nvidiaN``, which count where nvidia-smi says nothing.
    """
    if asked is None:
        return [name for gpu in listed for name in gpu.names] or [str(number) for number in range(nodes)]
    names: list[str] = []
    for entry in (part.strip() for part in asked.split(",")):
        if listed:
            matched = _matched(entry, listed)
        else:
            matched = (entry,) if entry.isdigit() or entry.startswith(("GPU-", "MIG-")) else ()
        if not matched:
            break
        names += [name for name in matched if name not in names]
    return names


def _matched(entry: str, listed: Sequence[Listed]) -> tuple[str, ...]:
    if entry.isdigit():
        return next((gpu.names for gpu in listed if gpu.index == int(entry)), ())
    if entry.startswith("GPU-"):  # CUDA takes the beginning of a UUID, too
        gpus = [gpu.names for gpu in listed if gpu.uuid.startswith(entry)]
        return gpus[0] if len(gpus) == 1 else ()
    if entry.startswith("MIG-"):
        parts = [part for gpu in listed for part in gpu.parts if part.startswith(entry)]
        # nvidia-smi lists no parts to a user without the right; CUDA may know this one.
        return (entry,) if not parts else (parts[0],) if len(parts) == 1 else ()
    return ()


def visible_here() -> list[str]:
    """Return the names of the GPUs that this process may use."""
    nodes = sum(path.name[6:].isdigit() for path in Path("/dev").glob("nvidia[0-9]*"))
    return visible(os.environ.get("CUDA_VISIBLE_DEVICES"), ask_list(), nodes)


def lock_name(name: str) -> str:
    """Return the name of a GPU's lock file, the same for all who can see the GPU."""
    safe = name.replace("/", "_")
    return f"petrflow-{safe if name.startswith('GPU-') else f'gpu-{safe}'}.lock"


def lock_folder() -> Path:
    """Return a folder that all users of this machine share, whatever their ``TMPDIR``."""
    return Path("/tmp") if Path("/tmp").is_dir() else Path(tempfile.gettempdir())


def paddle_has_cuda() -> bool:
    """Return whether Paddle's GPU build is installed, without importing it."""
    with contextlib.suppress(metadata.PackageNotFoundError):
        return bool(metadata.version("paddlepaddle-gpu"))
    return False


@contextlib.contextmanager
def own_gpus(schedule: Mapping[str, Any], count: int = 1) -> Iterator[Taken]:
    """Keep the first free GPUs of those visible to this process, waiting while there are too few.

    Nothing is taken for ``device: cpu``, with ``share_gpu``, with Paddle's CPU build, or where no
    GPU is visible: what follows says what is missing.

    Parameters
    ----------
    schedule : mapping
        Of the run: ``device`` and ``share_gpu``.
    count : int
        GPUs to take. All are locked, or none: two runs that each hold a part of what the other
        needs would wait for ever.

    Raises
    ------
    MachineError
        Fewer GPUs are visible than asked for.
    CannotWrite
        A lock file cannot be opened, so that nobody knows whether the GPU is free.
    """
    unused = schedule.get("device") == "cpu" or schedule.get("share_gpu") or not paddle_has_cuda()
    names = [] if unused else visible_here()
    if not names:
        yield Taken()
        return
    if len(names) < count:
        raise MachineError(
            f"schedule.devices asks for {count} GPUs, and {len(names)} can be used here "
            f"(CUDA_VISIBLE_DEVICES={os.environ.get('CUDA_VISIBLE_DEVICES', 'not set')}): lower schedule.devices, or let this run see more."
        )
    with contextlib.ExitStack() as held:
        taken = _wait_for(names, count, held)
        variables = {
            "CUDA_VISIBLE_DEVICES": ",".join(taken.names),
            "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
            TAKEN: ",".join(taken.names),
        }
        before = {name: os.environ.get(name) for name in variables}
        os.environ.update(variables)
        try:
            print(f"Using {' and '.join(taken.names)}", file=sys.stderr, flush=True)
            yield taken
        finally:
            for name, value in before.items():
                if value is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = value


def _wait_for(names: Sequence[str], count: int, held: contextlib.ExitStack) -> Taken:
    waiting = False
    while True:
        with contextlib.ExitStack() as attempt:
            taken: dict[str, int] = {}
            reasons = []
            for name in names:
                try:
                    taken[name] = attempt.enter_context(lock(lock_folder() / lock_name(name), public=True))
                except Locked as error:
                    reasons.append(str(error))
                if len(taken) == count:
                    held.push(attempt.pop_all())
                    return Taken(tuple(taken), tuple(taken.values()))
        if not waiting:
            wanted = "a GPU" if count == 1 else f"{count} GPUs"
            print(
                f"Waiting for {wanted} of {len(names)}; share_gpu: true would not wait. {reasons[0]}",
                file=sys.stderr,
                flush=True,
            )
            waiting = True
        sleep(1.0)
