"""One writer for a folder on a file system whose locks another machine cannot see.

``flock`` holds between the processes of one machine. On Lustre, BeeGFS and some NFS mounts it holds
nowhere else. A folder that several machines can reach therefore has an owner file with a heartbeat
besides its lock: who writes here, and that he still does.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from petrflow.errors import CannotWrite, Locked, PetrflowError
from petrflow.files.atomic import read_json, remove, write_json
from petrflow.files.beats import BEAT_SECONDS, beating
from petrflow.files.owners import machine_tag, owner_is_gone, owner_tag

OWNER_FILE = "owner.json"
SILENT_BEATS = 4
"""So many beats must fail to come before another machine's owner is taken for dead."""


class Claim:
    """The ownership of a folder, held by :func:`claim`.

    Parameters
    ----------
    path : Path
        The owner file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._beat = 0
        self._tag = f"{owner_tag()}-{os.urandom(4).hex()}"  # a process may claim twice

    def content(self) -> dict[str, Any]:
        """Return what the owner file says of this process; everything but ``owner`` and ``beat`` is
        for people.
        """
        return {
            "owner": self._tag,
            "beat": self._beat,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "job": os.environ.get("SLURM_JOB_ID"),
        }

    def write(self) -> None:
        """Write the owner file with the next beat."""
        self._beat += 1
        write_json(self.path, self.content())

    def require(self) -> None:
        """Do nothing while this process owns the folder. Called directly before every rename.

        Raises
        ------
        Locked
            Another machine took the folder over, because this one stood still for too long.
        """
        found = _read(self.path)
        if found is not None and found.get("owner") != self._tag:
            raise Locked(
                f"{self.path.parent} was taken over by {_name(found)} while this process stood still. "
                "This process ends and writes nothing more there."
            )

    def beat(self) -> None:
        """Beat once, unless another one owns the folder: the next rename says so then."""
        with contextlib.suppress(Locked, CannotWrite, OSError):  # of a full disk the checkpoints tell
            self.require()
            self.write()

    def release(self) -> None:
        """Take the owner file away, if it is this process's."""
        with contextlib.suppress(OSError, PetrflowError):
            self.require()
            remove(self.path)


@contextlib.contextmanager
def claim(folder: Path, seconds: float = BEAT_SECONDS) -> Iterator[Claim]:
    """Own a folder until the body is over.

    An owner on this machine that has ended is replaced at once. An owner elsewhere is watched for
    ``SILENT_BEATS`` beats: when its file changes meanwhile, it lives. No two machines' clocks are
    compared. Two machines that find a silent owner at the same moment both write their names and
    look again after a beat; the name that stands wins.

    A window remains: a process that is suspended between :meth:`Claim.require` and the rename after
    it, for longer than the silence, renames once after it wakes. Checkpoints have names of their
    own and are checked by content, so that this damages none.

    Parameters
    ----------
    folder : Path
        The folder; it exists.
    seconds : float
        Seconds between two beats.

    Raises
    ------
    Locked
        A live process owns the folder.
    CannotWrite
        The owner file cannot be written.
    """
    mine = Claim(Path(folder) / OWNER_FILE)
    contested = _wait_for_silence(mine.path, seconds)
    mine.write()
    if contested:
        time.sleep(seconds)
        mine.require()
    try:
        with beating(mine.beat, "petrflow-owner", seconds):
            yield mine
    finally:
        mine.release()


def _wait_for_silence(path: Path, seconds: float) -> bool:
    """Return once nobody owns a folder any more, and whether its owner was on another machine."""
    found = _read(path)
    if found is None:
        return False
    tag = str(found.get("owner", ""))
    if tag.partition("-")[0] == machine_tag(os.getpid()):
        if owner_is_gone(tag, 0.0):
            return False
        raise Locked(f"{path.parent} is held by {_name(found)}: wait for it to end, or stop it.")
    deadline = time.monotonic() + SILENT_BEATS * seconds
    while time.monotonic() < deadline:
        time.sleep(seconds / 4)
        now = _read(path)
        if now is None:
            return True
        if now != found:
            raise Locked(
                f"{path.parent} is held by {_name(now)}, which is alive: wait for it to end, or stop it there, then run "
                "the same command again."
            )
    return True


def _read(path: Path) -> dict[str, Any] | None:
    try:
        found = read_json(path)
    except (PetrflowError, OSError):
        return None
    return found if isinstance(found, dict) else None


def _name(found: dict[str, Any]) -> str:
    job = f" (Slurm job {found['job']})" if found.get("job") else ""
    return f"process {found.get('pid', '?')} on {found.get('host', '?')}{job}"
