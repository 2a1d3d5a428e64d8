"""Fingerprints of files and of settings."""

from __future__ import annotations

import hashlib
import json
import math
import os
from pathlib import Path
from typing import Any

from petrflow.errors import PetrflowError


def plain(value: Any) -> Any:
    """Return what ``json`` can write in place of a path, a numpy scalar or array, a set (sorted) or
    bytes (hex).
    """
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, (set, frozenset)):
        return sorted(value)
    if isinstance(value, bytes):
        return value.hex()
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} cannot be written as JSON")


def sha256_file(path: Path) -> str:
    """Return the hex SHA-256 of a file's bytes."""
    try:
        with Path(path).open("rb") as handle:
            return hashlib.file_digest(handle, "sha256").hexdigest()
    except FileNotFoundError as error:
        raise PetrflowError(f"{path} does not exist.") from error


def file_stamp(path: Path) -> list[int]:
    """Size in bytes, time of the last change in ns, and inode: while they stay the same, a file's
    checksum is not taken again.
    """
    status = path.stat()
    return [status.st_size, status.st_mtime_ns, status.st_ino]


def fingerprint(obj: Any) -> str:
    """Return the hex SHA-256 of an object's canonical JSON: equal settings give equal fingerprints
    whatever their order.
    """

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
        return canonical(plain(value))

    return hashlib.sha256(json.dumps(canonical(obj), sort_keys=True, separators=(",", ":")).encode()).hexdigest()
