"""Archives unpacked without trust and without loss: nothing leaves the folder, and a kill costs minutes, not the whole archive.

An archive is read once, front to back. Every file is written beside its name and renamed; every few hundred megabytes what was written is
flushed and noted in a journal, so that the next call skips what is surely there. What an archive held is summed up in
`.petrflow-archives/NAME.json` of the target folder: `petrflow.sources.nuscenes` reads there which archive a missing file should have come from.
"""

from __future__ import annotations

import bz2
import contextlib
import gzip
import io
import lzma
import os
import stat
import sys
import tarfile
import time
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, Any

from tqdm import tqdm

from petrflow.errors import PetrflowError
from petrflow.files import (
    disk_errors,
    fingerprint,
    fsync_all,
    human_bytes,
    patient_lock,
    read_json,
    remove,
    require_space,
    sweep_stale,
    temporary_path,
    write_json,
)

RECORDS = ".petrflow-archives"
FLUSH_BYTES = 256 << 20
FLUSH_SECONDS = 20.0
LARGEST_RATIO = 30.0  # an archive that unfolds to more is damaged or a bomb; archives of images and lidar stay below 3
SMALLEST_LIMIT = 1 << 30
COPY_BYTES = 1 << 20
STREAM_BYTES = (
    32 << 10
)  # tarfile copies what is left of its buffer at every read: a larger one costs more than it saves
TAR_ENDINGS = (".tgz", ".tar", ".tar.gz", ".tar.bz2", ".tar.xz", ".tbz2", ".txz")
_BROKEN = (tarfile.TarError, zipfile.BadZipFile, gzip.BadGzipFile, EOFError, zlib.error, lzma.LZMAError, OSError)


@dataclass
class Record:
    """What an archive held: number of files and bytes, and files by folder and by the part of the name before `__` (nuScenes' log)."""

    archive: str
    files: int = 0
    bytes: int = 0
    folders: Counter[str] = field(default_factory=Counter)
    logs: Counter[str] = field(default_factory=Counter)

    def add(self, name: str, size: int) -> None:
        """Count one file."""
        self.files += 1
        self.bytes += size
        folder, _, base = name.rpartition("/")
        self.folders[folder] += 1
        if "__" in base:
            self.logs[base.partition("__")[0]] += 1

    def as_json(self) -> dict[str, Any]:
        """Plain values for the record's file."""
        return {
            "archive": self.archive,
            "files": self.files,
            "bytes": self.bytes,
            "folders": dict(self.folders),
            "logs": dict(self.logs),
        }


@dataclass
class _Member:
    name: str
    size: int
    modified: float
    is_folder: bool
    open: Callable[[], IO[bytes]]


def is_archive(path: Path) -> bool:
    """Whether a name ends as an archive's does that `extract` reads."""
    return path.name.lower().endswith((*TAR_ENDINGS, ".zip"))


def extract(
    archive: Path, destination: Path, *, limit: int | None = None, remove_archive: bool = False, progress: bool = True
) -> Record:
    """Unpack an archive (tar, gzip, bzip2, xz, zip) into a folder; a call after a kill goes on where the last one stopped.

    Parameters
    ----------
    archive : the file; never changed
    destination : folder to unpack into; several archives may share it
    limit : most bytes that may come out; by default 30 times the archive's size, and at least 1 GB
    remove_archive : delete the archive once all of it is unpacked and flushed

    Raises
    ------
    PetrflowError
        a member would leave the folder or is a link or device, the archive is cut short or damaged, the disk is too small, the
        limit is passed; the message names the member and the remedy
    """
    archive, destination = Path(archive), Path(destination)
    if not archive.is_file():
        raise PetrflowError(f"The archive {archive} does not exist: check the path in the config.")
    status = archive.stat()
    identity = fingerprint([archive.name, status.st_size, status.st_mtime_ns])
    records = destination / RECORDS
    done = records / f"{archive.name}.json"
    with disk_errors(destination, permissions=True):
        records.mkdir(parents=True, exist_ok=True)
    with patient_lock(records / f".{archive.name}.lock"):
        finished = finished_record(destination, archive.name)
        if finished is not None and read_json(done).get("identity") == identity:
            return finished
        limit = limit if limit is not None else max(int(status.st_size * LARGEST_RATIO), SMALLEST_LIMIT)
        record = _Extraction(archive, destination, identity, limit).run(progress)
        write_json(done, {**record.as_json(), "identity": identity})
        remove(_journal(destination, archive))
    if remove_archive:
        remove(archive)
    return record


def finished_record(destination: Path, archive_name: str) -> Record | None:
    """What an archive held, if all of it was unpacked into `destination`; None otherwise."""
    path = destination / RECORDS / f"{archive_name}.json"
    if not path.is_file():
        return None
    entry = read_json(path)
    return Record(entry["archive"], entry["files"], entry["bytes"], Counter(entry["folders"]), Counter(entry["logs"]))


def read_records(destination: Path) -> list[Record]:
    """Records of all archives that were unpacked into a folder, by name."""
    names = sorted(
        path.name[: -len(".json")] for path in (destination / RECORDS).glob("*.json") if not path.name.startswith(".")
    )
    return [
        record for name in names if not name.endswith(".journal") and (record := finished_record(destination, name))
    ]


def _journal(destination: Path, archive: Path) -> Path:
    return destination / RECORDS / f"{archive.name}.journal.json"


# ------------------------------------------------------------------------------------------------------------------ one archive


class _Extraction:
    def __init__(self, archive: Path, destination: Path, identity: str, limit: int):
        self.archive = archive
        self.destination = destination
        self.identity = identity
        self.limit = limit
        self.record = Record(archive.name)
        self.folders: set[Path] = set()
        self.pending: list[Path] = []
        self.pending_bytes = 0
        self.flushed_at = time.monotonic()
        self.members_seen = 0

    def run(self, progress: bool) -> Record:
        # A lower bound is all that a stream lets us know; the rest is watched while it comes out.
        require_space(
            self.destination, self.archive.stat().st_size - self._bytes_done(), f"Unpacking {self.archive.name}"
        )
        surely_there = self._members_done()
        bar = tqdm(
            total=self.archive.stat().st_size, unit="B", unit_scale=True, unit_divisor=1024, desc=f"unpacking {self.archive.name}",
            file=sys.stderr, disable=not progress, mininterval=1.0,
        )  # fmt: skip
        try:
            with bar, self.archive.open("rb") as handle:
                for member in self._members(handle, bar):
                    self._take(member, surely_there)
        except PetrflowError:
            raise
        except _BROKEN as error:
            if (
                isinstance(error, OSError)
                and not isinstance(error, (tarfile.TarError, zipfile.BadZipFile))
                and error.errno is not None
            ):
                raise
            raise PetrflowError(
                f"{self.archive} is damaged or was cut short after {self.members_seen} members ({type(error).__name__}: {error}): delete it and "
                "fetch it again."
            ) from error
        if not self.members_seen:
            raise PetrflowError(
                f"{self.archive} holds no files: it is empty or not the archive that was meant; fetch it again."
            )
        self._flush()
        return self.record

    def _members_done(self) -> int:
        path = _journal(self.destination, self.archive)
        journal = read_json(path) if path.is_file() else {}
        return int(journal.get("members", 0)) if journal.get("identity") == self.identity else 0

    def _bytes_done(self) -> int:
        path = _journal(self.destination, self.archive)
        journal = read_json(path) if path.is_file() else {}
        return (
            min(int(journal.get("bytes", 0)), self.archive.stat().st_size)
            if journal.get("identity") == self.identity
            else 0
        )

    def _members(self, handle: IO[bytes], bar: Any) -> Iterator[_Member]:
        magic = handle.read(4)
        handle.seek(0)
        if magic in (b"PK\3\4", b"PK\5\6"):
            return _zip_members(handle, self.archive, bar)
        return _tar_members(handle, self.archive, bar)

    def _take(self, member: _Member, surely_there: int) -> None:
        target = self._target(member)
        self.members_seen += 1
        if member.is_folder:
            self._make_folder(target)
            return
        self.record.add(target.relative_to(self.destination).as_posix(), member.size)
        if self.record.bytes > self.limit:
            raise PetrflowError(
                f"{self.archive} unfolds to more than {human_bytes(self.limit)} ({human_bytes(self.archive.stat().st_size)} packed): it is damaged or "
                "made to fill disks; fetch it again from its publisher, or give `extract` a larger limit if that is its true size."
            )
        if self.members_seen <= surely_there and target.is_file() and target.stat().st_size == member.size:
            return
        self._make_folder(target.parent)
        self._write(member, target)
        if self.pending_bytes >= FLUSH_BYTES or time.monotonic() - self.flushed_at > FLUSH_SECONDS:
            self._flush()

    def _target(self, member: _Member) -> Path:
        """Where a member goes. Anything that is not plainly below the folder is refused, never bent to fit."""
        path = PurePosixPath(member.name)
        if (
            not member.name
            or "\0" in member.name
            or path.is_absolute()
            or ".." in path.parts
            or path.parts[:1] == (RECORDS,)
        ):
            raise PetrflowError(
                f"{self.archive}: the member {member.name!r} would leave {self.destination}: the archive is not to be trusted; delete it."
            )
        return self.destination.joinpath(*path.parts)

    def _make_folder(self, folder: Path) -> None:
        if folder in self.folders:
            return
        with disk_errors(folder, permissions=True):
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except (FileExistsError, NotADirectoryError) as error:
                raise PetrflowError(
                    f"{self.archive}: {folder} is a file and a folder at once: remove it and run the same command again."
                ) from error
        # A link that stood in the target folder before us could lead elsewhere.
        if not folder.resolve().is_relative_to(self.destination.resolve()):
            raise PetrflowError(
                f"{folder} leads out of {self.destination} through a link: remove that link and run the same command again."
            )
        sweep_stale(folder)
        self.folders.add(folder)

    def _write(self, member: _Member, target: Path) -> None:
        temporary = temporary_path(target)
        written = 0
        try:
            with (
                disk_errors(target, member.size, permissions=True),
                temporary.open("xb") as out,
                member.open() as source,
            ):
                while block := source.read(min(COPY_BYTES, member.size - written + 1)):
                    written += len(block)
                    if written > member.size:
                        raise PetrflowError(
                            f"{self.archive}: {member.name} is longer than its {member.size:,} bytes: delete the archive, fetch it again."
                        )
                    out.write(block)
            if written < member.size:
                raise EOFError(f"{member.name} ends at {written:,} of {member.size:,} bytes")
            with contextlib.suppress(OSError):  # mounted buckets keep no times of ours
                os.utime(temporary, (member.modified, member.modified))
            if target.is_dir():
                raise PetrflowError(
                    f"{self.archive}: {target} is a file and a folder at once: remove it and run the same command again."
                )
            with disk_errors(target, member.size, permissions=True):
                temporary.replace(target)
        finally:
            remove(temporary)
        self.pending.append(target)
        self.pending_bytes += member.size

    def _flush(self) -> None:
        """Make sure that what was written survives a power cut, then say so in the journal."""
        fsync_all([*self.pending, *sorted({path.parent for path in self.pending})])
        self.pending, self.pending_bytes, self.flushed_at = [], 0, time.monotonic()
        write_json(
            _journal(self.destination, self.archive),
            {"identity": self.identity, "members": self.members_seen, "bytes": self.record.bytes},
        )


# ------------------------------------------------------------------------------------------------------------------ formats


class _Counted(io.RawIOBase):
    """A file that reports to the progress bar how much of it was read."""

    def __init__(self, handle: IO[bytes], bar: Any):
        self._handle = handle
        self._bar = bar

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        count = self._handle.readinto(buffer)  # type: ignore[attr-defined]
        self._bar.update(count)
        return int(count)


class _StrictInfo(tarfile.TarInfo):
    """A header whose damage is an error: past the first member, tarfile takes a broken or missing header for the end of the archive."""

    @classmethod
    def fromtarfile(cls, tar: tarfile.TarFile) -> _StrictInfo:
        try:
            return super().fromtarfile(tar)  # type: ignore[return-value]
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]  # the zero blocks that end an archive
            raise
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(
                f"no valid header at byte {tar.offset:,} of the unpacked stream: {error}"
            ) from error


def _tar_members(handle: IO[bytes], archive: Path, bar: Any) -> Iterator[_Member]:
    stream = _decompressed(_Counted(handle, bar), handle)
    with tarfile.open(fileobj=stream, mode="r|", bufsize=STREAM_BYTES, tarinfo=_StrictInfo) as tar:
        for info in tar:
            if not (info.isreg() or info.isdir()):
                kind = "a link" if info.issym() or info.islnk() else "a device or something else that is not a file"
                raise PetrflowError(
                    f"{archive}: the member {info.name!r} is {kind}: such archives are not unpacked; delete it, fetch it from its publisher."
                )
            if info.issparse():
                raise PetrflowError(
                    f"{archive}: the member {info.name!r} is a sparse file, which data sets do not hold; fetch the archive again."
                )
            yield _Member(info.name, info.size, float(info.mtime), info.isdir(), partial(_opened, tar, info))
            tar.members.clear()  # type: ignore[attr-defined]  # half a million members of a trainval part need not be remembered
    while stream.read(COPY_BYTES):  # the checksum of a compressed stream comes after its last byte
        pass


def _decompressed(counted: _Counted, handle: IO[bytes]) -> IO[bytes]:
    """Undo the compression. tarfile's own streams do not look at checksums; these do."""
    magic = handle.read(6)
    handle.seek(0)
    buffered: Any = io.BufferedReader(counted, COPY_BYTES)
    if magic[:2] == b"\x1f\x8b":
        return gzip.GzipFile(fileobj=buffered, mode="rb")  # type: ignore[return-value]
    if magic[:3] == b"BZh":
        return bz2.BZ2File(buffered)
    if magic == b"\xfd7zXZ\0":
        return lzma.LZMAFile(buffered)
    return buffered


def _opened(tar: tarfile.TarFile, info: tarfile.TarInfo) -> IO[bytes]:
    handle = tar.extractfile(info)
    if handle is None:
        raise EOFError(f"{info.name} has no content")
    return handle


def _zip_members(handle: IO[bytes], archive: Path, bar: Any) -> Iterator[_Member]:
    with zipfile.ZipFile(handle) as packed:
        for info in packed.infolist():
            kind = stat.S_IFMT(info.external_attr >> 16)
            if kind and not (stat.S_ISREG(kind) or stat.S_ISDIR(kind)):
                raise PetrflowError(
                    f"{archive}: the member {info.filename!r} is a link or device: such archives are not unpacked; delete it."
                )
            if info.flag_bits & 1:
                raise PetrflowError(f"{archive} is encrypted: unpack it by hand and name the folder in the config.")
            modified = time.mktime((*info.date_time, 0, 0, -1)) if info.date_time[0] >= 1980 else 0.0
            yield _Member(info.filename, info.file_size, modified, info.is_dir(), partial(packed.open, info))
            bar.update(info.compress_size)
