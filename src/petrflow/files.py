"""Files that appear whole or not at all: atomic writes, fingerprints and locks.

Everything here holds on local disks, on NFS and on mounted buckets: a temporary lives in the folder of its target, is flushed, and is
renamed there; there are no hard links and no writes through mmap. A process that is killed leaves temporaries behind; their names say
who wrote them, and the next process that writes into the folder removes them.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import hashlib
import itertools
import json
import math
import os
import shutil
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from petrflow.errors import PetrflowError

try:  # not on Windows; only `lock` needs it
    import fcntl
except ImportError:  # pragma: no cover
    fcntl = None  # type: ignore[assignment]

TEMPORARY_MARK = ".petrflow-"
# A temporary of another machine (a rented instance that vanished) cannot be asked whether its writer lives: it goes by age.
FOREIGN_STALE_SECONDS = 24 * 3600.0
_counter = itertools.count()
_swept_folders: set[tuple[int, str]] = set()
_held_locks: set[int] = set()


# ------------------------------------------------------------------------------------------------------------------ who is writing


@lru_cache(maxsize=4)
def _machine_tag(_pid: int) -> str:
    """Eight hex digits naming this machine since its last boot, and the pid namespace in which our pids mean something."""
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
    with contextlib.suppress(OSError):
        parts.append(str(Path("/proc/self/ns/pid").readlink()))
    return hashlib.sha256("|".join(parts).encode()).hexdigest()[:8]


def _start_ticks(pid: int) -> str:
    """When a process started, in clock ticks since boot: tells a reused pid from the old one. '' where the system does not say."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""


def _owner_tag() -> str:
    """`machine-pid-start` of this process, as it stands in the names of temporaries and inside lock files."""
    return _tag_of(os.getpid())


@lru_cache(maxsize=4)
def _tag_of(pid: int) -> str:
    return f"{_machine_tag(pid)}-{pid}-{_start_ticks(pid) or 0}"


def _owner_is_gone(tag: str, age_seconds: float) -> bool:
    """Whether the process behind an owner tag has ended; for another machine, whether the file is older than a day."""
    try:
        machine, pid_text, start = tag.split("-")[:3]
        pid = int(pid_text)
    except ValueError:
        return age_seconds > FOREIGN_STALE_SECONDS
    if machine != _machine_tag(os.getpid()):
        return age_seconds > FOREIGN_STALE_SECONDS
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except OSError:
        pass
    now = _start_ticks(pid)
    return bool(now) and start not in ("0", now)


# ------------------------------------------------------------------------------------------------------------------ temporaries


def temporary_path(path: Path, suffix: str = ".tmp") -> Path:
    """A name beside `path`, hidden, that no other live process uses and that `sweep_stale` recognises."""
    name = path.name
    if len(name.encode()) > 150:  # the file system allows 255 bytes
        name = name.encode()[:100].decode(errors="ignore") + hashlib.sha256(name.encode()).hexdigest()[:16]
    return path.parent / f".{name}{TEMPORARY_MARK}{_owner_tag()}-{next(_counter)}{suffix}"


def sweep_stale(folder: Path) -> list[Path]:
    """Remove what killed processes left in a folder; a folder that was being replaced when its writer died is put back.

    Returns the paths removed or restored. Never touches the temporaries of a live process.
    """
    swept = []
    try:
        entries = sorted(entry.name for entry in os.scandir(folder) if TEMPORARY_MARK in entry.name)
    except OSError:
        return []
    for name in entries:
        stem, _, rest = name.rpartition(TEMPORARY_MARK)
        tag, dot, kind = rest.partition(".")
        if not stem.startswith(".") or not dot or kind.split(".")[0] not in ("tmp", "old"):
            continue
        stale = folder / name
        with contextlib.suppress(OSError):
            if not _owner_is_gone(tag, time.time() - stale.lstat().st_mtime):
                continue
            target = folder / stem[1:]
            if kind == "old" and not target.exists():
                stale.rename(target)
            else:
                remove(stale)
            swept.append(stale)
    return swept


def _prepare_folder(path: Path) -> None:
    """Make the folder of `path` and sweep it once a process: a folder of 30,000 images must not be listed for each of them."""
    with disk_errors(path, permissions=True):
        path.parent.mkdir(parents=True, exist_ok=True)
    key = (os.getpid(), str(path.parent))
    if key not in _swept_folders:
        _swept_folders.add(key)
        sweep_stale(path.parent)


def remove(path: Path) -> None:
    """Remove a file, a link or a whole folder; nothing there is fine."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def fsync_path(path: Path) -> None:
    """Flush a file or a folder to the disk. Mounted buckets cannot flush folders: that is not an error."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (
            errno.EINVAL,
            errno.ENOTSUP,
            errno.ENOSYS,
            errno.EBADF,
            errno.EACCES,
            errno.EPERM,
            errno.EROFS,
        ):
            raise
    finally:
        os.close(descriptor)


def fsync_all(paths: Sequence[Path]) -> None:
    """Flush many files and folders of one file system; thousands of them with one call where the system offers it."""
    if len(paths) > 64:
        with contextlib.suppress(OSError, AttributeError):
            descriptor = os.open(paths[-1], os.O_RDONLY)
            try:
                if ctypes.CDLL(None, use_errno=True).syncfs(descriptor) == 0:
                    return
            finally:
                os.close(descriptor)
    for path in paths:
        if not path.is_symlink():
            fsync_path(path)


# ------------------------------------------------------------------------------------------------------------------ full disks


def human_bytes(count: float) -> str:
    """`1536` as `1.5 KB` (powers of 1024), as people read sizes."""
    for unit in ("B", "KB", "MB", "GB", "TB"):
        if abs(count) < 1024 or unit == "TB":
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    raise AssertionError("unreachable")


def free_bytes(path: Path) -> int:
    """Bytes that this user may still write on the disk that holds (or will hold) `path`."""
    probe = path.absolute()
    while not probe.exists() and probe != probe.parent:
        probe = probe.parent
    return shutil.disk_usage(probe).free


def require_space(path: Path, needed: int, what: str) -> None:
    """Raise before a long write when the disk under `path` has less than `needed` bytes free (plus 64 MB for everything else)."""
    free = free_bytes(path)
    if free < needed + (64 << 20):
        raise PetrflowError(
            f"{what} needs {human_bytes(needed)} under {path}, which has {human_bytes(free)} free ({needed:,} and {free:,} bytes): "
            f"free at least {human_bytes(needed + (64 << 20) - free)} there or move it to a larger disk, then run the same command again."
        )


@contextlib.contextmanager
def disk_errors(path: Path, needed: int | None = None, permissions: bool = False) -> Iterator[None]:
    """Turn a full disk or quota (and forbidden folders, if asked) into a PetrflowError that names path, need and what is free."""
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
            raise PetrflowError(
                f"Could not write {path}: {kind}; it {need} and {free:,} bytes ({human_bytes(free)}) are free. "
                "Nothing half-written was left; free space there and run the same command again."
            ) from error
        if permissions and error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
            raise PetrflowError(
                f"Could not write {path}: {error.strerror}. Make the folder writable for this user, or choose another."
            ) from error
        raise


# ------------------------------------------------------------------------------------------------------------------ atomic writes


@contextlib.contextmanager
def atomic_path(path: Path, needed: int | None = None) -> Iterator[Path]:
    """Yield a temporary path beside `path`; what the body wrote there becomes `path` at the end, or goes if the body fails.

    `needed` is the size in bytes, where it is known, for the message about a full disk. The temporary keeps the ending of `path`,
    because some writers choose their format by it.
    """
    path = Path(path)
    _prepare_folder(path)
    temporary = temporary_path(path, ".tmp" + path.suffix)
    try:
        with disk_errors(path, needed):
            yield temporary
        with disk_errors(path, needed, permissions=True):
            fsync_path(temporary)
            temporary.replace(path)
    finally:
        remove(temporary)
    fsync_path(path.parent)


def write_atomic(path: Path, data: bytes | str) -> None:
    """Write bytes or text (UTF-8) so that `path` holds either all of it or what it held before."""
    payload = data.encode() if isinstance(data, str) else data
    with (
        atomic_path(path, len(payload)) as temporary,
        disk_errors(Path(path), len(payload), permissions=True),
    ):
        temporary.write_bytes(payload)


@contextlib.contextmanager
def atomic_dir(path: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `path`; it becomes `path` whole at the end (the old one goes), or goes if the body fails."""
    path = Path(path)
    _prepare_folder(path)
    temporary = temporary_path(path)
    retired = temporary_path(path, suffix=".old")
    try:
        with disk_errors(path):
            temporary.mkdir()
            yield temporary
        with disk_errors(path, permissions=True):
            fsync_all([*temporary.rglob("*"), temporary])
            if path.is_symlink() or path.is_file():
                path.unlink()
            elif path.exists():
                path.rename(retired)
            temporary.rename(path)
    finally:
        remove(temporary)
        if retired.exists():
            if path.exists():
                remove(retired)
            else:
                retired.rename(path)
    fsync_path(path.parent)


# ------------------------------------------------------------------------------------------------------------------ JSON, fingerprints


def _plain(value: Any) -> Any:
    """What `json` cannot write by itself: paths, numpy scalars and arrays, sets (sorted), bytes (hex)."""
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, (set, frozenset)):
        return sorted(value)
    if isinstance(value, bytes):
        return value.hex()
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} cannot be written as JSON")


def write_json(path: Path, obj: Any) -> None:
    """Write JSON with sorted keys and an indent of 1: the same object gives the same bytes. NaN stays NaN, as Python reads it back."""
    write_atomic(path, json.dumps(obj, sort_keys=True, indent=1, default=_plain) + "\n")


def read_json(path: Path) -> Any:
    """Read JSON; a missing or broken file is a PetrflowError that names it."""
    try:
        return json.loads(Path(path).read_bytes())
    except FileNotFoundError as error:
        raise PetrflowError(
            f"{path} does not exist: the step that writes it has not finished; run it again."
        ) from error
    except (ValueError, UnicodeDecodeError) as error:
        raise PetrflowError(
            f"{path} is not valid JSON ({error}): delete it and run the step that writes it again."
        ) from error


def sha256_file(path: Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    try:
        with Path(path).open("rb") as handle:
            return hashlib.file_digest(handle, "sha256").hexdigest()
    except FileNotFoundError as error:
        raise PetrflowError(f"{path} does not exist.") from error


def fingerprint(obj: Any) -> str:
    """Hex SHA-256 of an object's canonical JSON: equal settings give equal fingerprints whatever their order."""

    def canonical(value: Any) -> Any:
        # 1.0 and 1 are the same setting to a person who edits YAML.
        if isinstance(value, float) and math.isfinite(value) and value == int(value) and abs(value) < 2**53:
            return int(value)
        if isinstance(value, dict):
            return {str(key): canonical(entry) for key, entry in value.items()}
        if isinstance(value, (list, tuple)):
            return [canonical(entry) for entry in value]
        if isinstance(value, (str, int, float, bool, type(None))):
            return value
        return canonical(_plain(value))

    return hashlib.sha256(json.dumps(canonical(obj), sort_keys=True, separators=(",", ":")).encode()).hexdigest()


# ------------------------------------------------------------------------------------------------------------------ locks


def _close_locks_after_fork() -> None:
    # A data loader worker that outlives its killed parent must not keep the parent's lock; closing its copy does not release ours.
    for descriptor in _held_locks:
        with contextlib.suppress(OSError):
            os.close(descriptor)
    _held_locks.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_locks_after_fork)


@contextlib.contextmanager
def lock(path: Path, timeout: float = 0.0) -> Iterator[None]:
    """Hold an exclusive lock that the kernel drops with its process, so that a kill never leaves it behind.

    Parameters
    ----------
    path : the lock file; it stays on disk, which means nothing
    timeout : seconds to wait for another process before giving up

    Raises
    ------
    PetrflowError
        another live process holds it; the message says which
    """
    path = Path(path)
    with disk_errors(path, permissions=True):
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o666)
    owner = os.getpid()
    try:
        deadline = time.monotonic() + timeout
        while not _try_lock(descriptor):
            if time.monotonic() >= deadline:
                holder = os.pread(descriptor, 400, 0).decode(errors="replace").strip() or "another process"
                raise PetrflowError(
                    f"{path} is held by {holder.split(' #')[0]}: wait for it to end, or stop it, then run the same command again."
                )
            time.sleep(0.1)
        _held_locks.add(descriptor)
        os.ftruncate(descriptor, 0)
        os.pwrite(
            descriptor,
            f"process {os.getpid()} on {socket.gethostname()} #{_owner_tag()}\n".encode(),
            0,
        )
        try:
            yield
        finally:
            if os.getpid() == owner:
                _held_locks.discard(descriptor)
                with contextlib.suppress(OSError):
                    os.ftruncate(descriptor, 0)
    finally:
        if os.getpid() == owner:  # a forked child has closed its copy, and the number may name another file by now
            os.close(descriptor)


@contextlib.contextmanager
def patient_lock(path: Path, timeout: float = 24 * 3600.0) -> Iterator[None]:
    """Hold a lock, waiting for whoever has it and saying so: for work that another process is doing for us too."""
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(lock(path))
        except PetrflowError as error:
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
    # A mount without locks (some buckets, NFSv3 without lockd): the owner's name in the file has to do.
    content = os.pread(descriptor, 400, 0).decode(errors="replace").strip()
    tag = content.rpartition("#")[2]
    return not content or _owner_is_gone(tag, time.time() - os.fstat(descriptor).st_mtime)
