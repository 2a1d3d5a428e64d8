"""Extract archives from unknown sources: no file is written outside the target folder, and an
interrupted extraction loses minutes of work, not all of it.

An archive is read once, front to back. Every file is written beside its name and renamed; every few
hundred megabytes what was written is flushed and noted in a journal, so that the next call skips
what is known to be on the disk.

An archive is known by its content and not by its name. Its SHA-256 is taken while it is read and
kept with the file's size, time and inode, and is taken again only where one of those differs. What
an archive held is summed up in ``.petrflow-archives/`` of the target folder, one record a content:
``petrflow.sources`` reads there which archive a missing file should have come from.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import lzma
import os
import sys
import tarfile
import time
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO, Any

from petrflow.errors import PetrflowError
from petrflow.fetch.archive_records import (
    RECORDS,
    Record,
    forget,
    identity_of,
    journal_file,
    read_records,
    record_file,
    unpacked_before,
)
from petrflow.fetch.members import COPY_BYTES, Counted, Member, tar_members, too_large, zip_members
from petrflow.files import (
    disk_errors,
    file_stamp,
    fsync_all,
    patient_lock,
    read_json,
    remove,
    require_space,
    sha256_file,
    sweep_stale,
    temporary_path,
    write_json,
)
from petrflow.files.status import tqdm

FLUSH_BYTES = 256 << 20
FLUSH_SECONDS = 20.0
"""Bytes and seconds after which written files are flushed and noted in the journal."""
LARGEST_RATIO = 30.0
"""Unpacked bytes over packed bytes. An archive above it is damaged, or made to fill disks; archives
of images and lidar stay below 3.
"""
SMALLEST_LIMIT = 1 << 30
TAR_ENDINGS = (".tgz", ".tar", ".tar.gz", ".tar.bz2", ".tar.xz", ".tbz2", ".txz")
# Starts of archives that people name and nothing here reads.
_FOREIGN = {b"Rar!": "RAR", b"7z\xbc\xaf\x27\x1c": "7z", b"(\xb5/\xfd": "zstd"}
_BROKEN = (tarfile.TarError, zipfile.BadZipFile, gzip.BadGzipFile, EOFError, zlib.error, lzma.LZMAError, OSError)


def is_archive(path: Path) -> bool:
    """Whether a name ends as an archive's does that ``extract`` reads."""
    return path.name.lower().endswith((*TAR_ENDINGS, ".zip"))


def extract(
    archive: Path,
    destination: Path,
    *,
    limit: int | None = None,
    remove_archive: bool = False,
    progress: bool = True,
    origin: str = "",
) -> Record:
    """Unpack an archive (tar, gzip, bzip2, xz, zip) into a folder; a call after a kill goes on
    where the last one stopped.

    An archive whose content was unpacked into this folder before is not unpacked again, whatever it
    is called by now; an archive of the same name with another content is.

    Parameters
    ----------
    archive : the file; never changed
    destination : folder to unpack into; several archives may share it
    limit : most bytes that may come out; by default 30 times the archive's size, and at least 1 GB
    remove_archive : remove the archive once all of it is unpacked and flushed
    origin : what the caller knows the archive by when its file is gone, for :func:`finished_record`; default: its path

    Raises
    ------
    PetrflowError
        a member would leave the folder or is a link or device, the archive is cut short or damaged,
        the disk is too small, the limit is passed; the message names the member and the remedy
    """
    archive, destination = Path(archive), Path(destination)
    if not archive.is_file():
        raise PetrflowError(f"The archive {archive} does not exist: check the path in the config.")
    stamp = file_stamp(archive)
    origin = origin or str(archive.resolve())
    records = destination / RECORDS
    with disk_errors(destination, permissions=True):
        records.mkdir(parents=True, exist_ok=True)
    with patient_lock(records / f".{archive.name}.lock"):
        record = unpacked_before(destination, archive, stamp)
        if record is None:
            limit = limit if limit is not None else max(int(stamp[0] * LARGEST_RATIO), SMALLEST_LIMIT)
            record = _Extraction(archive, destination, identity_of(archive, stamp), limit).run(progress)
            if file_stamp(archive) != stamp:
                raise PetrflowError(f"{archive} changed while it was unpacked: run the same command again.")
        for other in read_records(destination):  # what stood at this place before has been replaced
            if other.origin == origin and other.sha256 != record.sha256:
                forget(destination, other)
        record.origin, record.stamp = origin, stamp
        write_json(record_file(destination, record), record.as_json())
        remove(journal_file(destination, archive))
    if remove_archive:
        remove(archive)
    return record


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
        self.hash = hashlib.sha256()
        self.in_order = False

    def run(self, progress: bool) -> Record:
        # A lower bound is all that a stream lets us know; the rest is watched while it comes out.
        require_space(
            self.destination, self.archive.stat().st_size - self._bytes_done(), f"Unpacking {self.archive.name}"
        )
        known_done = self._members_done()
        bar = tqdm(
            total=self.archive.stat().st_size, unit="B", unit_scale=True, unit_divisor=1024, desc=f"unpacking {self.archive.name}",
            file=sys.stderr, disable=not progress, mininterval=1.0,
        )  # fmt: skip
        try:
            with bar, self.archive.open("rb") as handle:
                for member in self._members(handle, bar):
                    self._take(member, known_done)
                self.record.sha256 = self._checksum(handle)
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
                f"{self.archive} is damaged or was cut short after {self.members_seen} members ({type(error).__name__}: {error}): "
                "fetch it again, or pack it again where it came from."
            ) from error
        if not self.members_seen:
            raise PetrflowError(
                f"{self.archive} holds no files: it is empty or not the archive that was meant; fetch it again."
            )
        self._flush()
        return self.record

    def _members_done(self) -> int:
        path = journal_file(self.destination, self.archive)
        journal = read_json(path) if path.is_file() else {}
        return int(journal.get("members", 0)) if journal.get("identity") == self.identity else 0

    def _bytes_done(self) -> int:
        path = journal_file(self.destination, self.archive)
        journal = read_json(path) if path.is_file() else {}
        return (
            min(int(journal.get("bytes", 0)), self.archive.stat().st_size)
            if journal.get("identity") == self.identity
            else 0
        )

    def _members(self, handle: IO[bytes], bar: Any) -> Iterator[Member]:
        magic = handle.read(8)
        handle.seek(0)
        if magic[:4] in (b"PK\3\4", b"PK\5\6"):
            return zip_members(handle, self.archive, self.limit, bar)
        for start, kind in _FOREIGN.items():
            if magic.startswith(start):
                raise PetrflowError(
                    f"{self.archive} is a {kind} archive, which is not read here: unpack it yourself and name the folder in `source:`, or pack "
                    "the folder as a zip."
                )
        self.in_order = True
        return tar_members(Counted(handle, bar, self.hash), handle, self.archive)

    def _checksum(self, handle: IO[bytes]) -> str:
        """SHA-256 of the whole file: a tar's was taken while it was read, a zip is not read in
        order.
        """
        if not self.in_order:
            return sha256_file(self.archive)
        while block := handle.read(COPY_BYTES):  # what may follow the end of a compressed stream
            self.hash.update(block)
        return self.hash.hexdigest()

    def _take(self, member: Member, known_done: int) -> None:
        target = self._target(member)
        self.members_seen += 1
        if member.is_folder:
            self._make_folder(target)
            return
        self.record.add(target.relative_to(self.destination).as_posix(), member.size)
        if self.record.bytes > self.limit:
            raise too_large(self.archive, self.limit)
        if self.members_seen <= known_done and target.is_file() and target.stat().st_size == member.size:
            return
        self._make_folder(target.parent)
        self._write(member, target)
        if self.pending_bytes >= FLUSH_BYTES or time.monotonic() - self.flushed_at > FLUSH_SECONDS:
            self._flush()

    def _target(self, member: Member) -> Path:
        """Where a member goes. Anything that is not plainly below the folder is refused, never bent
        to fit.
        """
        path = PurePosixPath(member.name)
        if (
            not member.name
            or "\0" in member.name
            or path.is_absolute()
            or ".." in path.parts
            or path.parts[:1] == (RECORDS,)
        ):
            raise PetrflowError(
                f"{self.archive}: the member {member.name!r} would leave {self.destination}: the archive is not to be trusted. Fetch "
                "it again from its publisher, or unpack it yourself and name the folder in `source:`."
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
                    f"{self.archive}: {folder} would be a file and a folder at once. Pack the archive again, or unpack "
                    "it yourself and name the folder in `source:`."
                ) from error
        # A link that stood in the target folder before us could lead elsewhere.
        if not folder.resolve().is_relative_to(self.destination.resolve()):
            raise PetrflowError(
                f"{folder} leads out of {self.destination} through a link: put a plain folder there and run the same command again."
            )
        sweep_stale(folder)
        self.folders.add(folder)

    def _write(self, member: Member, target: Path) -> None:
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
                            f"{self.archive}: {member.name} is longer than its {member.size:,} bytes: fetch the archive again."
                        )
                    out.write(block)
            if written < member.size:
                raise EOFError(f"{member.name} ends at {written:,} of {member.size:,} bytes")
            with contextlib.suppress(OSError):  # mounted buckets keep no times of ours
                os.utime(temporary, (member.modified, member.modified))
            if target.is_dir():
                raise PetrflowError(
                    f"{self.archive}: {target} would be a file and a folder at once. Pack the archive again, or unpack it yourself and name "
                    "the folder in `source:`."
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
            journal_file(self.destination, self.archive),
            {"identity": self.identity, "members": self.members_seen, "bytes": self.record.bytes},
        )
