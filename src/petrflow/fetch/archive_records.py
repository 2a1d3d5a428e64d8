"""Records of the archives that a folder was extracted from, and journals of unfinished ones."""

from __future__ import annotations

import contextlib
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from petrflow.errors import PetrflowError
from petrflow.files import (
    fingerprint,
    read_json,
    remove,
    sha256_file,
)

RECORDS = ".petrflow-archives"


@dataclass
class Record:
    """What an archive held: number of files and bytes, and files by folder and by the part of the
    name before ``__`` (nuScenes' log).

    ``origin`` is what the caller knows the archive by, such as its address; ``sha256`` and
    ``stamp`` say which file it was.
    """

    archive: str
    files: int = 0
    bytes: int = 0
    folders: Counter[str] = field(default_factory=Counter)
    logs: Counter[str] = field(default_factory=Counter)
    origin: str = ""
    sha256: str = ""
    stamp: list[int] = field(default_factory=list)  # size in bytes, time of the last change in ns, inode

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
            "origin": self.origin,
            "sha256": self.sha256,
            "stamp": self.stamp,
        }


def finished_record(destination: Path, archive_name: str, origin: str = "") -> Record | None:
    """What an archive held, if all of it was unpacked into ``destination``; None otherwise.
    ``origin`` tells archives of one name apart.
    """
    for record in read_records(destination):
        if record.archive == archive_name and (not origin or record.origin in ("", origin)):
            return record
    return None


def read_records(destination: Path) -> list[Record]:
    """Records of all archives that were unpacked into a folder, by name."""
    found = []
    for path in sorted((destination / RECORDS).glob("*.json")):
        if path.name.startswith(".") or path.name.endswith(".journal.json"):
            continue
        entry = read_json(path)
        record = Record(
            entry["archive"], entry["files"], entry["bytes"], Counter(entry["folders"]), Counter(entry["logs"])
        )
        record.origin, record.sha256 = entry.get("origin", ""), entry.get("sha256", "")
        record.stamp = list(entry.get("stamp", []))
        found.append(record)
    return found


def forget(destination: Path, record: Record) -> None:
    """Remove an archive's record, so that the next call unpacks it anew."""
    remove(record_file(destination, record))


def record_file(destination: Path, record: Record) -> Path:
    # Records of earlier versions know no checksum and are named by the archive alone.
    return destination / RECORDS / f"{record.archive}{'.' if record.sha256 else ''}{record.sha256[:12]}.json"


def unpacked_before(destination: Path, archive: Path, stamp: list[int]) -> Record | None:
    """Return the record of an archive's content in a folder. The archive is read only where its
    size is that of another content's file.
    """
    records = read_records(destination)
    for record in records:
        if record.archive == archive.name and record.stamp == stamp:
            return record
    if any(record.sha256 and record.stamp[:1] == stamp[:1] for record in records):
        found = sha256_file(archive)
        return next((record for record in records if record.sha256 == found), None)
    return None


def identity_of(archive: Path, stamp: list[int]) -> str:
    return fingerprint([archive.name, *stamp])


def bytes_unpacked(destination: Path) -> int:
    """Bytes that have been unpacked into a folder, by its records and by the journals of archives
    that are half done.
    """
    done = sum(record.bytes for record in read_records(destination))
    for path in (destination / RECORDS).glob("*.journal.json"):
        with contextlib.suppress(PetrflowError):
            done += int(read_json(path).get("bytes", 0))
    return done


def journal_file(destination: Path, archive: Path) -> Path:
    return destination / RECORDS / f"{archive.name}.journal.json"
