"""The members of tar and zip archives, one after the other, and nothing that is not a plain file or
folder.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import stat
import tarfile
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any, cast

from petrflow.errors import PetrflowError
from petrflow.files import human_bytes

COPY_BYTES = 1 << 20
STREAM_BYTES = (
    32 << 10
)  # tarfile copies what is left of its buffer at every read: a larger one costs more than it saves


@dataclass
class Member:
    """A file or folder of an archive: its name there, size in bytes, time of the last change in s,
    and how to read it.
    """

    name: str
    size: int
    modified: float
    is_folder: bool
    open: Callable[[], IO[bytes]]


class Counted(io.RawIOBase):
    """A file that reports to the progress bar how much of it was read, and hashes it on the way."""

    def __init__(self, handle: IO[bytes], bar: Any, hash_: Any):
        self._handle = handle
        self._bar = bar
        self._hash = hash_

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        count = self._handle.readinto(buffer)  # type: ignore[attr-defined]
        self._bar.update(count)
        self._hash.update(memoryview(buffer)[:count])
        return int(count)


class _StrictInfo(tarfile.TarInfo):
    """A header whose damage is an error: past the first member, tarfile takes a broken or missing
    header for the end of the archive.
    """

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


def tar_members(counted: Counted, handle: IO[bytes], archive: Path) -> Iterator[Member]:
    stream = _decompressed(counted, handle)
    with tarfile.open(fileobj=stream, mode="r|", bufsize=STREAM_BYTES, tarinfo=_StrictInfo) as tar:
        for info in tar:
            if not (info.isreg() or info.isdir()):
                kind = "a link" if info.issym() or info.islnk() else "a device or something else that is not a file"
                raise PetrflowError(
                    f"{archive}: the member {info.name!r} is {kind}: such archives are not unpacked. Fetch it from its publisher, or pack it "
                    "again without links."
                )
            if info.issparse():
                raise PetrflowError(
                    f"{archive}: the member {info.name!r} is a sparse file, which data sets do not hold; fetch the archive again."
                )
            yield Member(info.name, info.size, float(info.mtime), info.isdir(), partial(_opened, tar, info))
            tar.members.clear()  # type: ignore[attr-defined]  # half a million members of a trainval part need not be remembered
    while stream.read(COPY_BYTES):  # the checksum of a compressed stream comes after its last byte
        pass


def _decompressed(counted: Counted, handle: IO[bytes]) -> IO[bytes]:
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
    return cast(IO[bytes], buffered)


def _opened(tar: tarfile.TarFile, info: tarfile.TarInfo) -> IO[bytes]:
    handle = tar.extractfile(info)
    if handle is None:
        raise EOFError(f"{info.name} has no content")
    return handle


def zip_members(handle: IO[bytes], archive: Path, limit: int, bar: Any) -> Iterator[Member]:
    with zipfile.ZipFile(handle) as packed:
        infos = packed.infolist()
        if sum(info.file_size for info in infos) > limit:  # a zip says so beforehand
            raise too_large(archive, limit)
        for info, name in zip(infos, _zip_names(infos), strict=True):
            kind = stat.S_IFMT(info.external_attr >> 16)
            if kind and not (stat.S_ISREG(kind) or stat.S_ISDIR(kind)):
                raise PetrflowError(
                    f"{archive}: the member {name!r} is a link or device: such archives are not unpacked. Pack it again without links, or unpack "
                    "it yourself and name the folder in `source:`."
                )
            if info.flag_bits & 1:
                raise PetrflowError(f"{archive} is encrypted: unpack it by hand and name the folder in the config.")
            modified = time.mktime((*info.date_time, 0, 0, -1)) if info.date_time[0] >= 1980 else 0.0
            yield Member(name, info.file_size, modified, name.endswith("/"), partial(packed.open, info))
            bar.update(info.compress_size)


def _zip_names(infos: Sequence[zipfile.ZipInfo]) -> list[str]:
    """Names of a zip's members. Packers on Chinese Windows write GBK and say nothing; some of
    theirs write backslashes, too.
    """
    unsaid = [info.flag_bits & 0x800 == 0 for info in infos]
    names = [info.filename for info in infos]
    raw = [name.encode("cp437", errors="replace") for name, plain in zip(names, unsaid, strict=True) if plain]
    for encoding in ("utf-8", "gb18030"):
        try:
            decoded = iter([name.decode(encoding) for name in raw])
        except UnicodeDecodeError:
            continue
        names = [next(decoded) if plain else name for name, plain in zip(names, unsaid, strict=True)]
        break
    if any("\\" in name for name in names) and not any("/" in name for name in names):
        names = [name.replace("\\", "/") for name in names]
    return names


def too_large(archive: Path, limit: int) -> PetrflowError:
    return PetrflowError(
        f"{archive} unfolds to more than {human_bytes(limit)} ({human_bytes(archive.stat().st_size)} packed): it is damaged or made to fill "
        "disks. Fetch it again from its publisher; if that is its true size, unpack it yourself and name the folder in `source:`."
    )
