"""Reads Point Cloud Data (PCD) files: the ascii, binary and binary_compressed forms."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from petrflow.errors import PetrflowError

_TYPES = {
    ("F", 4): "<f4", ("F", 8): "<f8",
    ("I", 1): "<i1", ("I", 2): "<i2", ("I", 4): "<i4", ("I", 8): "<i8",
    ("U", 1): "<u1", ("U", 2): "<u2", ("U", 4): "<u4", ("U", 8): "<u8",
}  # fmt: skip
_HEADER_KEYS = {
    "VERSION",
    "FIELDS",
    "COLUMNS",
    "SIZE",
    "TYPE",
    "COUNT",
    "WIDTH",
    "HEIGHT",
    "VIEWPOINT",
    "POINTS",
    "DATA",
}
# A header is a few hundred bytes; a file without a DATA line in its first 64 KiB is something else.
_HEADER_LIMIT = 65536


def read_pcd(path: Path, fields: Sequence[str] = ("x", "y", "z", "intensity")) -> np.ndarray:
    """Read columns of a PCD file; a column the file lacks is filled with zeros (``x``, ``y`` and
    ``z`` must be there).

    Parameters
    ----------
    path
        A PCD 0.7 file (0.5 and 0.6 differ in nothing that matters here), DATA ascii, binary or
        binary_compressed.
    fields
        Names of the columns wanted. ``intensity`` also answers to ``i`` and ``reflectivity``.

    Returns
    -------
    (N, len(fields)) float32, in the file's own frame and unit. Points with a non-finite x, y or z
    are left out, as PCD marks invalid returns so.
    """
    raw = path.read_bytes()
    header, start = _read_header(path, raw)
    dtype = _row_type(path, header)
    count = _point_count(path, header)
    encoding = header["DATA"][0].lower()
    if encoding == "ascii":
        columns = _ascii_columns(path, raw[start:], dtype, count)
    elif encoding == "binary":
        if len(raw) - start < count * dtype.itemsize:
            raise _broken(
                path, f"holds {len(raw) - start} bytes of points where its header promises {count * dtype.itemsize}"
            )
        columns = np.frombuffer(raw, dtype=dtype, count=count, offset=start)
    elif encoding == "binary_compressed":
        columns = _compressed_columns(path, raw[start:], dtype, count)
    else:
        raise _broken(path, f"has DATA {encoding}, which is none of ascii, binary and binary_compressed")
    points = _pick(path, columns, dtype, fields, count)
    return points[np.isfinite(points[:, :3]).all(axis=1)] if tuple(fields[:3]) == ("x", "y", "z") else points


def check_cloud(path: Path | None) -> None:
    """Raise for a PCD file whose header is broken or promises more bytes than the file has; None,
    for no cloud, is fine.
    """
    if path is None:
        return
    try:
        with path.open("rb") as handle:
            raw = handle.read(_HEADER_LIMIT)
    except OSError as error:
        raise _broken(path, f"cannot be read ({error.strerror})") from error
    header, start = _read_header(path, raw)
    dtype, count = _row_type(path, header), _point_count(path, header)
    size = path.stat().st_size - start
    if header["DATA"][0].lower() == "binary" and size < count * dtype.itemsize:
        raise _broken(path, f"holds {size} bytes of points where its header promises {count * dtype.itemsize}")


def _read_header(path: Path, raw: bytes) -> tuple[dict[str, list[str]], int]:
    """Header lines as lists of words, and the offset of the first byte after the DATA line."""
    header: dict[str, list[str]] = {}
    position = 0
    while position < min(len(raw), _HEADER_LIMIT):
        end = raw.find(b"\n", position)
        end = len(raw) if end < 0 else end
        line = raw[position:end].decode("ascii", errors="replace").strip()
        position = end + 1
        if not line or line.startswith("#"):
            continue
        key, *words = line.split()
        if key.upper() not in _HEADER_KEYS:
            break
        header[key.upper()] = words
        if key.upper() == "DATA":
            return header, position
    raise _broken(path, "has no PCD header that ends in a DATA line")


def _row_type(path: Path, header: dict[str, list[str]]) -> np.dtype:
    names = header.get("FIELDS") or header.get("COLUMNS") or []
    try:
        sizes = [int(word) for word in header["SIZE"]]
        kinds = [word.upper() for word in header["TYPE"]]
        counts = [int(word) for word in header.get("COUNT", ["1"] * len(names))]
        if not len(names) == len(sizes) == len(kinds) == len(counts) or not names:
            raise ValueError
        # Padding columns may all be called "_": give each its own name.
        unique = [f"{name}@{i}" if name == "_" or names.index(name) != i else name for i, name in enumerate(names)]
        return np.dtype(
            [
                (name, _TYPES[kind, size], (count,))
                for name, kind, size, count in zip(unique, kinds, sizes, counts, strict=True)
            ]
        )
    except (KeyError, ValueError):
        raise _broken(path, "has FIELDS, SIZE, TYPE and COUNT lines that do not fit each other") from None


def _point_count(path: Path, header: dict[str, list[str]]) -> int:
    try:
        count = (
            int(header["POINTS"][0])
            if header.get("POINTS")
            else int(header["WIDTH"][0]) * int(header.get("HEIGHT", ["1"])[0])
        )
    except (KeyError, ValueError, IndexError):
        count = -1
    if count < 0:
        raise _broken(path, "does not say how many points it holds (POINTS, or WIDTH and HEIGHT)")
    return count


def _ascii_columns(path: Path, body: bytes, dtype: np.dtype, count: int) -> np.ndarray:
    width = sum(dtype[name].shape[0] for name in dtype.names or ())
    try:
        values = np.array(body.split()[: count * width], dtype=np.float64)
    except ValueError:
        raise _broken(path, "has a point that is not made of numbers") from None
    if len(values) != count * width:
        raise _broken(path, f"holds {len(values) // max(width, 1)} points where its header promises {count}")
    table = values.reshape(count, width)
    columns = np.zeros(count, dtype=dtype)
    first = 0
    for name in dtype.names or ():
        size = dtype[name].shape[0]
        with np.errstate(invalid="ignore"):
            columns[name] = table[:, first : first + size]
        first += size
    return columns


def _compressed_columns(path: Path, body: bytes, dtype: np.dtype, count: int) -> np.ndarray:
    if len(body) < 8:
        raise _broken(path, "ends before its compressed block")
    packed_size, plain_size = (int(value) for value in np.frombuffer(body, dtype="<u4", count=2))
    if plain_size != count * dtype.itemsize or len(body) - 8 < packed_size:
        raise _broken(path, "has a compressed block whose sizes do not fit its header")
    plain = _lzf_decompress(path, body[8 : 8 + packed_size], plain_size)
    columns = np.zeros(count, dtype=dtype)
    offset = 0
    # The compressed form stores one whole column after the other.
    for name in dtype.names or ():
        base, shape = dtype[name].subdtype or (dtype[name], (1,))
        columns[name] = np.frombuffer(plain, dtype=base, count=count * shape[0], offset=offset).reshape(count, shape[0])
        offset += count * shape[0] * base.itemsize
    return columns


def _lzf_decompress(path: Path, packed: bytes, plain_size: int) -> bytes:
    """LibLZF: a control byte below 32 opens a literal run, any other a copy of bytes already
    written.
    """
    plain = bytearray()
    position = 0
    try:
        while position < len(packed):
            control = packed[position]
            position += 1
            if control < 32:
                plain += packed[position : position + control + 1]
                position += control + 1
                continue
            length = control >> 5
            if length == 7:
                length += packed[position]
                position += 1
            start = len(plain) - ((control & 31) << 8) - packed[position] - 1
            position += 1
            length += 2
            if start < 0:
                raise IndexError
            distance = len(plain) - start
            if distance >= length:
                plain += plain[start : start + length]
            else:  # the copy overlaps what it writes: a repeated pattern
                pattern = bytes(plain[start:])
                plain += (pattern * (length // distance + 1))[:length]
    except IndexError:
        raise _broken(path, "has a damaged compressed block") from None
    if len(plain) != plain_size:
        raise _broken(path, f"decompresses to {len(plain)} bytes where its header promises {plain_size}")
    return bytes(plain)


def _pick(path: Path, columns: np.ndarray, dtype: np.dtype, fields: Sequence[str], count: int) -> np.ndarray:
    names = {name.lower(): name for name in dtype.names or ()}
    for other in ("i", "reflectivity"):
        if other in names:
            names.setdefault("intensity", names[other])
    points = np.zeros((count, len(fields)), dtype=np.float32)
    for column, field in enumerate(fields):
        if field in names:
            points[:, column] = columns[names[field]][:, 0]
        elif field in ("x", "y", "z"):
            raise _broken(path, f"has no column '{field}'")
    return points


def _broken(path: Path, what: str) -> PetrflowError:
    return PetrflowError(
        f"{path} {what}. Export the point cloud again, or leave the file out: without a cloud, boxes keep their pointN."
    )
