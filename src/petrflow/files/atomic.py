"""Files that appear whole or not at all: atomic writes of files and folders.

Everything here holds on local disks, on NFS and on mounted buckets: a temporary lives in the folder
of its target, is flushed, and is renamed there; there are no hard links and no writes through mmap.
A process that is killed leaves temporaries behind; their names say who wrote them, and the next
process that writes into the folder removes them.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import hashlib
import itertools
import json
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from petrflow.errors import PetrflowError
from petrflow.files.disk import disk_errors
from petrflow.files.fingerprints import plain
from petrflow.files.owners import owner_is_gone, owner_tag

TEMPORARY_MARK = ".petrflow-"
NOBODYS = {".DS_Store", "Thumbs.db", "desktop.ini", ".snakemake_timestamp"}
"""Files that operating systems and Snakemake add to folders, and that nobody misses."""
_counter = itertools.count()
_swept_folders: set[tuple[int, str]] = set()


def temporary_path(path: Path, suffix: str = ".tmp") -> Path:
    """Return a hidden name beside ``path`` that no other live process uses and that
    :func:`sweep_stale` recognises.
    """
    name = path.name
    if len(name.encode()) > 150:  # the file system allows 255 bytes
        name = name.encode()[:100].decode(errors="ignore") + hashlib.sha256(name.encode()).hexdigest()[:16]
    return path.parent / f".{name}{TEMPORARY_MARK}{owner_tag()}-{next(_counter)}{suffix}"


def sweep_stale(folder: Path) -> list[Path]:
    """Remove what killed processes left in a folder. A folder that was being replaced when its
    writer died is put back.

    Temporary files of live processes are not touched.

    Returns
    -------
    list of Path
        What was removed or put back.
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
            if not owner_is_gone(tag, time.time() - stale.lstat().st_mtime):
                continue
            target = folder / stem[1:]
            if kind == "old" and not target.exists():
                stale.rename(target)
            else:
                remove(stale)
            swept.append(stale)
    return swept


def _prepare_folder(path: Path) -> None:
    """Make the folder of ``path``, and sweep it once per process: a folder of 30,000 images must
    not be listed for each image.
    """
    with disk_errors(path, permissions=True):
        path.parent.mkdir(parents=True, exist_ok=True)
    key = (os.getpid(), str(path.parent))
    if key not in _swept_folders:
        with disk_errors(path, permissions=True):
            _require_writable(path.parent)
        _swept_folders.add(key)
        sweep_stale(path.parent)


def _require_writable(folder: Path) -> None:
    """Raise before work begins whose result could not be written."""
    if not os.access(folder, os.W_OK | os.X_OK):
        code = errno.EROFS if os.statvfs(folder).f_flag & os.ST_RDONLY else errno.EACCES
        raise OSError(code, os.strerror(code), str(folder))


def remove(path: Path) -> None:
    """Remove a file, a link or a whole folder, if there is one."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def fsync_path(path: Path) -> None:
    """Flush a file or a folder to the disk. Mounted buckets cannot flush folders: that is not an
    error.
    """
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
    """Flush many files and folders of one file system, with one call where the system has one for
    that.
    """
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


@contextlib.contextmanager
def atomic_path(path: Path, needed: int | None = None) -> Iterator[Path]:
    """Yield a temporary path beside ``path``. What the body wrote there becomes ``path`` at the
    end, or is removed if the body fails.

    Parameters
    ----------
    path : Path
        The temporary path has the same suffix, because some writers choose their format by it.
    needed : int, optional
        Bytes, for the message about a full disk.
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
    """Write bytes or text (UTF-8) so that ``path`` holds either all of it or its earlier
    content.
    """
    payload = data.encode() if isinstance(data, str) else data
    with (
        atomic_path(path, len(payload)) as temporary,
        disk_errors(Path(path), len(payload), permissions=True),
    ):
        temporary.write_bytes(payload)


@contextlib.contextmanager
def atomic_dir(path: Path) -> Iterator[Path]:
    """Yield a temporary folder beside ``path`` that replaces ``path`` at the end. If the body
    fails, ``path`` stays as it was.
    """
    path = Path(path)
    _prepare_folder(path)
    temporary = temporary_path(path)
    retired = temporary_path(path, suffix=".old")
    try:
        with disk_errors(path, permissions=True):
            temporary.mkdir()
        with disk_errors(path):
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


def write_json(path: Path, obj: Any) -> None:
    """Write JSON with sorted keys and an indent of 1: the same object gives the same bytes. NaN
    stays NaN, as Python reads it back.
    """
    write_atomic(path, json.dumps(obj, sort_keys=True, indent=1, default=plain) + "\n")


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
            f"{path} is not valid JSON ({error}): correct it, or move it away and run the step that writes it again."
        ) from error
