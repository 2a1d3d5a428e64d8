"""Checkpoints that a kill, a full disk or a flipped bit cannot turn into a wrong resume.

One checkpoint is one file, ``checkpoint-SEQUENCE-DIGEST.safetensors``: arrays and one JSON text in
safetensors' format (nothing in it can run code), its name carrying the SHA-256 of its bytes. It is
written beside its name, flushed and renamed; the newest two stay. ``newest.json`` remembers which
was the last, so that a lost file is noticed.
"""

from __future__ import annotations

import hashlib
import json
import logging
import struct
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from petrflow.errors import PetrflowError
from petrflow.files import atomic_path, human_bytes, read_json, remove, sha256_file, write_json

log = logging.getLogger("petrflow.training")

KEEP = 2
"""Checkpoints that stay: the newest, and the one before in case the newest is damaged."""
DIGEST_DIGITS = 32
MAX_HEADER_BYTES = 1 << 30
_CODES = {
    "float64": "F64",
    "float32": "F32",
    "float16": "F16",
    "int64": "I64",
    "int32": "I32",
    "int16": "I16",
    "int8": "I8",
    "uint64": "U64",
    "uint32": "U32",
    "uint16": "U16",
    "uint8": "U8",
    "bool": "BOOL",
}
_DTYPES = {code: np.dtype(name) for name, code in _CODES.items()}


class Unusable(Exception):
    """A checkpoint file that cannot be used; the message says why."""


@dataclass
class Snapshot:
    """What one checkpoint holds: named arrays, and the rest of the state as JSON-able values."""

    arrays: dict[str, np.ndarray]
    meta: dict[str, Any]

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays."""
        return sum(array.nbytes for array in self.arrays.values())


def _chunks(snapshot: Snapshot) -> Iterator[bytes | memoryview]:
    """Yield a safetensors file piece by piece: the same content gives the same bytes, and no second
    copy is made.
    """
    header: dict[str, Any] = {"__metadata__": {"state": json.dumps(snapshot.meta)}}
    arrays = [(name, np.asarray(snapshot.arrays[name], order="C")) for name in sorted(snapshot.arrays)]
    offset = 0
    for name, array in arrays:
        end = offset + array.nbytes
        header[name] = {"dtype": _CODES[array.dtype.name], "shape": list(array.shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the format aligns the data to 8 bytes
    yield struct.pack("<Q", len(text)) + text
    for _, array in arrays:
        yield array.reshape(-1).view(np.uint8).data


def parse(path: Path) -> Snapshot:
    """Read a checkpoint without checking its digest; anything that is not one raises
    :class:`Unusable`.
    """
    try:
        with path.open("rb") as handle:
            (length,) = struct.unpack("<Q", handle.read(8))
            if length > MAX_HEADER_BYTES:
                raise Unusable(f"its header claims {length} bytes")
            header = json.loads(handle.read(length))
            meta = json.loads(header.pop("__metadata__")["state"])
            arrays = {}
            for name, entry in header.items():  # in the order of the file
                start, end = entry["data_offsets"]
                data = bytearray(end - start)
                if handle.readinto(data) != end - start:
                    raise Unusable(f"it ends inside {name}")
                arrays[name] = np.frombuffer(data, dtype=_DTYPES[entry["dtype"]]).reshape(entry["shape"])
            return Snapshot(arrays, meta)
    except Unusable:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError, struct.error, MemoryError) as error:
        raise Unusable(f"it cannot be read ({error})") from error


def _available_memory() -> int:
    """Return the bytes that can be allocated without swapping; 0 where the system does not say."""
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    return 0


@dataclass
class WriteCosts:
    """What checkpoints cost: seconds in which training waited (copying included), seconds of
    writing beside it, and bytes.
    """

    count: int = 0
    blocked_seconds: float = 0.0
    background_seconds: float = 0.0
    nbytes: int = 0

    def summary(self, training_seconds: float) -> dict[str, float]:
        """Return the figures for ``provenance.json``; the share is of the seconds that training has
        taken so far.
        """
        return {
            "count": self.count,
            "bytes_each": self.nbytes,
            "seconds_training_waited": round(self.blocked_seconds, 3),
            "seconds_written_beside_training": round(self.background_seconds, 3),
            "share_of_training_time": round(self.blocked_seconds / max(training_seconds, 1e-9), 5),
        }


@dataclass
class CheckpointFolder:
    """The checkpoints of one training, written by :meth:`save` and read by :meth:`load`.

    Attributes
    ----------
    folder : Path
    costs : WriteCosts
    require_ours : callable
        Called directly before every rename; raises when another machine has taken the training over.
    """

    folder: Path
    costs: WriteCosts = field(default_factory=WriteCosts)
    require_ours: Callable[[], None] = lambda: None
    _trusted: list[str] = field(default_factory=list)
    _sequence: int = 0
    _writer: threading.Thread | None = None
    _error: BaseException | None = None

    def __post_init__(self) -> None:
        """Find the number of the last checkpoint."""
        self._sequence = max([self._recorded_sequence(), *(self._number(path) for path in self._paths())], default=0)

    @staticmethod
    def _number(path: Path) -> int:
        return int(path.name.split("-")[1])

    def _paths(self) -> list[Path]:
        """Return the files that look like checkpoints, the newest first."""
        found = [
            path
            for path in self.folder.glob("checkpoint-*-*.safetensors")
            if path.name.split("-")[1].isdigit() and path.is_file()
        ]
        return sorted(found, key=lambda path: (self._number(path), path.name), reverse=True)

    def _recorded(self) -> dict[str, Any]:
        path = self.folder / "newest.json"
        if not path.exists():
            return {}
        try:
            record = read_json(path)
            return record if isinstance(record.get("sequence"), int) else {}
        except (PetrflowError, AttributeError):
            return {}  # only a hint: the checkpoints speak for themselves

    def _recorded_sequence(self) -> int:
        return int(self._recorded().get("sequence", 0))

    # ------------------------------------------------------------------------------------------------------------ reading

    def load(self) -> Snapshot | None:
        """Return the newest checkpoint that is whole; None when none was ever written.

        Raises
        ------
        PetrflowError
            When checkpoints were written and none can be used: training never starts from zero
            behind anyone's back.
        """
        paths = self._paths()
        reasons = []
        recorded = self._recorded()
        if recorded and recorded.get("name") not in [path.name for path in paths]:
            reasons.append(f"{recorded.get('name')}: it is missing")
            log.warning("The newest checkpoint %s is missing from %s", recorded.get("name"), self.folder)
        for path in paths:
            try:
                snapshot = self._verified(path)
            except Unusable as reason:
                reasons.append(f"{path.name}: {reason}")
                log.warning(
                    "The checkpoint %s is damaged: %s. It is left aside; looking for the one before", path, reason
                )
                continue
            if reasons:
                log.warning("Going on from the checkpoint before: %s", path.name)
            self._trusted = [path.name]
            return snapshot
        if reasons or (self.folder / "newest.json").exists():
            listed = "; ".join(reasons) or "the files are gone, only newest.json is left"
            raise PetrflowError(
                f"{self.folder} holds no usable checkpoint ({listed}). Put a copy of a checkpoint back, or remove this folder to "
                "start the training from its beginning."
            )
        return None

    def _verified(self, path: Path) -> Snapshot:
        digest = path.stem.split("-")[2]
        try:
            found = sha256_file(path)[:DIGEST_DIGITS]
        except (OSError, PetrflowError) as error:
            raise Unusable(f"it cannot be read ({error})") from error
        if found != digest:
            raise Unusable(
                f"its checksum is {found[:8]}…, not {digest[:8]}…; it was cut short or changed ({path.stat().st_size} bytes)"
            )
        return parse(path)

    # ------------------------------------------------------------------------------------------------------------ writing

    def save(self, take: Callable[[], Snapshot], wait: bool = False) -> None:
        """Take a snapshot and write it, in the background unless told to wait. Of several processes
        only the first may call this.

        Where memory is short for the copy that the background needs while training goes on, the
        write is waited for.
        """
        start = time.monotonic()
        self.finish()
        snapshot = take()
        self._sequence += 1
        self._writer = threading.Thread(target=self._write, args=(snapshot, self._sequence), name="checkpoint")
        self._writer.start()
        if wait or _available_memory() < snapshot.nbytes:
            self.finish()
        self.costs.blocked_seconds += time.monotonic() - start

    def finish(self) -> None:
        """Wait for the write under way; raise its error if it failed."""
        if self._writer is not None:
            self._writer.join()
            self._writer = None
        self.check()

    def check(self) -> None:
        """Raise the error of a background write that has failed."""
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def _write(self, snapshot: Snapshot, sequence: int) -> None:
        start = time.monotonic()
        try:
            digest = hashlib.sha256()
            size = 0
            for chunk in _chunks(snapshot):
                digest.update(chunk)
                size += len(chunk)
            path = self.folder / f"checkpoint-{sequence:08d}-{digest.hexdigest()[:DIGEST_DIGITS]}.safetensors"
            with atomic_path(path, needed=size) as temporary, temporary.open("wb") as handle:
                for chunk in _chunks(snapshot):
                    handle.write(chunk)
                handle.flush()
                self.require_ours()
            self.require_ours()
            write_json(self.folder / "newest.json", {"name": path.name, "sequence": sequence})
            self._trusted = [*self._trusted, path.name][-KEEP:]
            for old in self._paths():
                if old.name not in self._trusted:
                    remove(old)
            self.costs.count += 1
            self.costs.nbytes = size
            log.debug("checkpoint %s: %s", path.name, human_bytes(size))
        except BaseException as error:
            self._error = error
        finally:
            self.costs.background_seconds += time.monotonic() - start
