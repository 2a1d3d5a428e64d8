"""Who wrote a temporary file, and whether that process still lives."""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
from functools import lru_cache
from pathlib import Path

FOREIGN_STALE_SECONDS = 24 * 3600.0
"""Seconds after which another machine's temporary file is removed: we cannot check whether its
writer still runs.
"""


@lru_cache(maxsize=4)
def machine_tag(_pid: int) -> str:
    """Return eight hex digits for this machine since its last boot and for the pid namespace that
    our pids belong to.
    """
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
    with contextlib.suppress(OSError):
        parts.append(str(Path("/proc/self/ns/pid").readlink()))
    return hashlib.sha256("|".join(parts).encode()).hexdigest()[:8]


def start_ticks(pid: int) -> str:
    """Return when a process started, in clock ticks since boot, which tells a reused pid from the
    old one; '' where unknown.
    """
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""


def owner_tag() -> str:
    """Return ``machine-pid-start`` of this process: it stands in the names of temporary files and
    inside lock files.
    """
    return _tag_of(os.getpid())


@lru_cache(maxsize=4)
def _tag_of(pid: int) -> str:
    return f"{machine_tag(pid)}-{pid}-{start_ticks(pid) or 0}"


def owner_is_gone(tag: str, age_seconds: float) -> bool:
    """Return whether the process of an owner tag has ended; for another machine's process, whether
    the file is older than a day.
    """
    try:
        machine, pid_text, start = tag.split("-")[:3]
        pid = int(pid_text)
    except ValueError:
        return age_seconds > FOREIGN_STALE_SECONDS
    if machine != machine_tag(os.getpid()):
        return age_seconds > FOREIGN_STALE_SECONDS
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except OSError:
        pass
    now = start_ticks(pid)
    return bool(now) and start not in ("0", now)
