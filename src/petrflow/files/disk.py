"""Disk space, and errors of a full or forbidden disk as sentences."""

from __future__ import annotations

import contextlib
import errno
import shutil
from collections.abc import Iterator
from pathlib import Path

from petrflow.errors import CannotWrite

GIGABYTE = 10**9


def human_bytes(count: float) -> str:
    """Return a size as people read it: 1536 as ``1.5 KB`` (powers of 1024)."""
    for unit in ("B", "KB", "MB", "GB", "TB"):
        if abs(count) < 1024 or unit == "TB":
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    raise AssertionError("unreachable")


def free_bytes(path: Path) -> int:
    """Return the bytes that this user may still write on the disk that holds (or will hold)
    ``path``.
    """
    probe = path.absolute()
    while not probe.exists() and probe != probe.parent:
        probe = probe.parent
    return shutil.disk_usage(probe).free


def require_space(path: Path, needed: int, what: str) -> None:
    """Raise before a long write when the disk under ``path`` has less than ``needed`` bytes free
    (plus 64 MB for everything else).
    """
    free = free_bytes(path)
    if free < needed + (64 << 20):
        raise CannotWrite(
            f"{what} needs {human_bytes(needed)} under {path}, which has {human_bytes(free)} free ({needed:,} and {free:,} bytes): "
            f"free at least {human_bytes(needed + (64 << 20) - free)} there or move it to a larger disk, then run the same command again."
        )


@contextlib.contextmanager
def disk_errors(path: Path, needed: int | None = None, permissions: bool = False) -> Iterator[None]:
    """Turn a full disk or quota (and forbidden folders, if asked) into a CannotWrite that names
    path, need and what is free.
    """
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            try:
                free = free_bytes(path)
            except OSError:
                free = 0
            need = f"needs {needed:,} bytes" if needed is not None else "needs more space"
            kind = "the disk is full" if error.errno == errno.ENOSPC else "the quota is used up"
            raise CannotWrite(
                f"Could not write {path}: {kind}; it {need} and {free:,} bytes ({human_bytes(free)}) are free. "
                "Nothing half-written was left; free space there and run the same command again."
            ) from error
        if permissions and error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
            raise CannotWrite(
                f"Could not write {path}: {error.strerror}. Make the folder writable for this user, or choose another."
            ) from error
        raise
