"""Locks between processes that the kernel drops with their process."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from petrflow.errors import Locked
from petrflow.files.disk import disk_errors
from petrflow.files.owners import owner_is_gone, owner_tag

try:  # not on Windows; only `lock` needs it
    import fcntl
except ImportError:  # pragma: no cover
    fcntl = None  # type: ignore[assignment]

_held_locks: set[int] = set()


def _close_locks_after_fork() -> None:
    # A data loader worker that outlives its killed parent must not keep the parent's lock; closing
    # its copy does not release ours.
    for descriptor in _held_locks:
        with contextlib.suppress(OSError):
            os.close(descriptor)
    _held_locks.clear()


@contextlib.contextmanager
def lock(path: Path, timeout: float = 0.0, public: bool = False) -> Iterator[int]:
    """Hold an exclusive lock that the kernel drops with its process, so that a kill never leaves it
    behind.

    A lock file of another user that cannot be written is locked all the same; it then does not say
    who holds it.

    Parameters
    ----------
    path : Path
        The lock file. It stays on disk, which means nothing.
    timeout : float
        Seconds to wait for another process before giving up.
    public : bool
        Make the file readable and writable for all users of this machine, whatever the umask.

    Yields
    ------
    int
        The descriptor. A process that inherits it keeps the lock too, until the last of them ends.

    Raises
    ------
    Locked
        Another live process holds it; the message says which.
    CannotWrite
        The file cannot be made or opened.
    """
    path = Path(path)
    descriptor, writable = _open(path, public)
    owner = os.getpid()
    try:
        deadline = time.monotonic() + timeout
        while not _try_lock(descriptor):
            if time.monotonic() >= deadline:
                raise Locked(
                    f"{path} is held by {_holder(descriptor)}: wait for it to end, or stop it, then run the same command again."
                )
            time.sleep(0.1)
        _held_locks.add(descriptor)
        if writable:
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()} #{owner_tag()}\n".encode(), 0)
        try:
            yield descriptor
        finally:
            if os.getpid() == owner:
                _held_locks.discard(descriptor)
                with contextlib.suppress(OSError):
                    os.ftruncate(descriptor, 0)
    finally:
        if os.getpid() == owner:  # a forked child has closed its copy, and the number may name another file by now
            os.close(descriptor)


def _open(path: Path, public: bool) -> tuple[int, bool]:
    """Return a descriptor of a lock file, made where it is missing, and whether it can be
    written.
    """
    flags = getattr(os, "O_CLOEXEC", 0) | (getattr(os, "O_NOFOLLOW", 0) if public else 0)
    with disk_errors(path, permissions=True):
        path.parent.mkdir(parents=True, exist_ok=True)
        for _ in range(3):
            # In /tmp the kernel refuses O_CREAT for another user's file (fs.protected_regular), so
            # we first open without it.
            with contextlib.suppress(FileNotFoundError):
                try:
                    return os.open(path, os.O_RDWR | flags), True
                except PermissionError:
                    return os.open(path, os.O_RDONLY | flags), False
            with contextlib.suppress(FileExistsError):  # another process has just made it
                descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | flags, 0o666)
                if public:
                    os.fchmod(descriptor, 0o666)
                return descriptor, True
        return os.open(path, os.O_RDWR | os.O_CREAT | flags, 0o666), True


def _holder(descriptor: int) -> str:
    """Return the name of the process that holds a lock, if its file still says the truth."""
    name, _, tag = os.pread(descriptor, 400, 0).decode(errors="replace").strip().partition(" #")
    age = time.time() - os.fstat(descriptor).st_mtime
    return name if name and not (tag and owner_is_gone(tag, age)) else "another process"


@contextlib.contextmanager
def patient_lock(path: Path, timeout: float = 24 * 3600.0) -> Iterator[None]:
    """Hold a lock; while another process has it, say so and wait. For work whose result the other
    process leaves for us, too.
    """
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(lock(path))
        except Locked as error:
            print(f"Waiting: {error}", file=sys.stderr, flush=True)
            stack.enter_context(lock(path, timeout))
        yield


def _try_lock(descriptor: int) -> bool:
    if fcntl is not None:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except OSError as error:
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                return False
            if error.errno not in (
                errno.ENOTSUP,
                errno.ENOSYS,
                errno.ENOLCK,
                errno.EINVAL,
            ):
                raise
    # A mount without locks (some buckets, NFSv3 without lockd): the owner's name in the file has to
    # do.
    content = os.pread(descriptor, 400, 0).decode(errors="replace").strip()
    tag = content.rpartition("#")[2]
    return not content or owner_is_gone(tag, time.time() - os.fstat(descriptor).st_mtime)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_locks_after_fork)
