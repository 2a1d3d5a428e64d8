"""nuScenes tables as columns: a table of any size is parsed in blocks and never held as records.

``sample_data.json`` of trainval is over 1 GB of text. Parsing it whole takes several times that; here a block of a few megabytes is
cut at a record's end, decoded with only the fields that are asked for, and turned into Arrow and numpy columns at once.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa

from petrflow.files import PetrflowError

BLOCK_BYTES = 8 << 20
# Where one record ends and the next begins. It may also occur inside a string or a nested list: a cut there fails to parse, and an
# earlier one is tried.
_BOUNDARY = re.compile(rb"\}\s*,\s*\{")

Columns = dict[str, Any]
"""Column name to pyarrow.StringArray or numpy array, all of one length."""

TEXT, INT, BOOL = "text", "int", "bool"
LIST = "list"
"""First entry of a list of strings, '' when the list is empty."""


def vector(size: int) -> int:
    """Return the kind of a column that holds ``size`` numbers a row, flat or nested."""
    return size


def read_columns(
    path: Path,
    kinds: dict[str, str | int],
    *,
    keep: Callable[[dict[str, Any]], bool] | None = None,
    on_bytes: Callable[[int], None] | None = None,
) -> Columns:
    """Read some columns of a nuScenes table.

    Parameters
    ----------
    path : Path
        A JSON array of records.
    kinds : dict
        Column name to ``TEXT``, ``INT``, ``BOOL``, ``LIST`` or ``vector(size)``.
    keep : callable, optional
        Rows for which it returns False are dropped at once.
    on_bytes : callable, optional
        Called with the number of bytes of every block read.

    Returns
    -------
    Columns
        ``TEXT`` and ``LIST``: pyarrow.StringArray; ``INT``: (n,) int64; ``BOOL``: (n,) bool; ``vector``: (n, size) float64.

    Raises
    ------
    PetrflowError
        The file is missing, cut off, not a JSON array, or a record lacks a field; the message names the file.
    """
    pieces: dict[str, list[Any]] = {name: [] for name in kinds}
    row_offset = 0
    for rows in _read_rows(path, on_bytes):
        count = len(rows)
        if keep is not None:
            rows = [row for row in rows if keep(row)]
        for name, kind in kinds.items():
            pieces[name].append(_column(path, rows, name, kind, row_offset))
        row_offset += count
    return {name: _join(parts, kinds[name]) for name, parts in pieces.items()}


def _column(path: Path, rows: Sequence[dict[str, Any]], name: str, kind: str | int, row_offset: int) -> Any:
    try:
        values = [row[name] for row in rows]
        if kind == TEXT:
            return pa.array(values, pa.string())
        if kind == LIST:
            return pa.array([value[0] if value else "" for value in values], pa.string())
        if kind == INT:
            return np.array(values, dtype=np.int64).reshape(len(values))
        if kind == BOOL:
            return np.array(values, dtype=bool).reshape(len(values))
        return _vectors(values, int(kind))
    except (KeyError, TypeError, ValueError, pa.ArrowException) as error:
        for index, row in enumerate(rows):
            if not isinstance(row, dict) or name not in row:
                raise PetrflowError(
                    f"{path}: record {row_offset + index} has no field '{name}'. The table is not nuScenes', or was damaged: "
                    "copy or extract it again."
                ) from None
        raise PetrflowError(
            f"{path}: field '{name}' does not hold what nuScenes puts there ({error}). Copy or extract the table again."
        ) from None


def _vectors(values: list[Any], size: int) -> np.ndarray:
    """Flatten rows of ``size`` numbers, given as lists or as lists of lists; an empty row becomes NaN."""
    if size == 9:  # a camera matrix is three rows of three; a lidar's is empty
        values = [list(itertools.chain.from_iterable(value)) or [np.nan] * size for value in values]
    flat = np.fromiter(itertools.chain.from_iterable(values), dtype=np.float64)
    if len(flat) != size * len(values) or any(len(value) != size for value in values):
        raise ValueError(f"expected {size} numbers a record")
    return flat.reshape(-1, size)


def _join(parts: list[Any], kind: str | int) -> Any:
    if kind in (TEXT, LIST):
        joined = pa.chunked_array(parts, pa.string())
        if joined.nbytes >= 2**31 - 1:
            return pa.concat_arrays([part.cast(pa.large_string()) for part in parts])
        return pa.concat_arrays(parts) if parts else pa.array([], pa.string())
    if not parts:
        return np.empty(
            (0, int(kind)) if isinstance(kind, int) else 0, dtype={INT: np.int64, BOOL: bool}.get(kind, float)
        )  # type: ignore[call-overload,arg-type]
    return np.concatenate(parts)


# ------------------------------------------------------------------------------------------------------------------ blocks


def _read_rows(path: Path, on_bytes: Callable[[int], None] | None) -> Iterator[list[dict[str, Any]]]:
    """Yield lists of records, block by block."""
    try:
        handle = open(path, "rb")
    except FileNotFoundError:
        raise PetrflowError(
            f"{path} is missing: a nuScenes root holds all of its tables in one folder. Copy or extract the data set again."
        ) from None
    with handle:
        pending = b""
        started = False
        while block := handle.read(BLOCK_BYTES):
            if on_bytes is not None:
                on_bytes(len(block))
            pending += block
            if not started:
                pending = pending.lstrip()
                if not pending:
                    continue
                if not pending.startswith(b"["):
                    raise PetrflowError(f"{path} is not a JSON array of records. Copy or extract the data set again.")
                pending = pending[1:]
                started = True
            for end, resume in _boundaries(pending):
                rows = _decode_list(pending[:end])
                if rows is not None:
                    pending = pending[resume:]
                    yield rows
                    break
        yield _last_rows(path, pending, started)


def _boundaries(text: bytes) -> Iterator[tuple[int, int]]:
    """Yield places to cut, last first: (end of one record, start of the next)."""
    stop = len(text)
    for _ in range(64):
        start = max(0, stop - (64 << 10))
        found = list(_BOUNDARY.finditer(text, start, stop))
        for match in reversed(found):
            yield match.start() + 1, match.end() - 1
        if start == 0:
            return
        stop = start + 1024  # a boundary may straddle the window's edge


def _decode_list(text: bytes) -> list[dict[str, Any]] | None:
    try:
        return orjson.loads(b"[" + text + b"]")
    except ValueError:
        return None


def _last_rows(path: Path, text: bytes, started: bool) -> list[dict[str, Any]]:
    text = text.rstrip()
    try:
        if not started or not text.endswith(b"]"):
            raise ValueError("it ends in the middle")
        return orjson.loads(b"[" + text)
    except ValueError as error:
        raise PetrflowError(
            f"{path} is cut off or damaged ({error}). Copy or extract the data set again, and check that the disk was not full."
        ) from None
