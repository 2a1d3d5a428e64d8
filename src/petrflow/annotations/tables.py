"""nuScenes tables as columns: a table of any size is parsed block by block and never becomes Python objects.

``sample_data.json`` of trainval is over 1 GB of text. A block of it is cut at a record's end, laid out one record a line, and read by
pyarrow's JSON reader, which parses on all cores, skips the fields that nobody asked for, and fills columns at once. benchmarks/README.md
compares it with the other readers.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json as pj

from petrflow.files import PetrflowError

BLOCK_BYTES = 16 << 20
# Where one record ends and the next begins. It may also occur inside a string or a nested list: a cut there fails to parse, and an
# earlier one is tried.
_BOUNDARY = re.compile(rb"\}\s*,\s*\{")
_WINDOW_BYTES = 64 << 10

Columns = dict[str, Any]
"""Column name to pyarrow.StringArray or numpy array, all of one length."""

TEXT, INT, BOOL = "text", "int", "bool"
LIST = "list"
"""First entry of a list of strings, '' when the list is empty."""
MATRIX = "matrix"
"""Three rows of three numbers; NaN when the list is empty."""
_ARROW_TYPES = {
    TEXT: pa.string(),
    INT: pa.int64(),
    BOOL: pa.bool_(),
    LIST: pa.list_(pa.string()),
    MATRIX: pa.list_(pa.list_(pa.float64())),
}


def vector(size: int) -> int:
    """Return the kind of a column that holds ``size`` numbers a row."""
    return size


def read_columns(
    path: Path,
    kinds: dict[str, str | int],
    *,
    keep: Callable[[pa.Table], pa.Array] | None = None,
    on_bytes: Callable[[int], None] | None = None,
) -> Columns:
    """Read some columns of a nuScenes table.

    Parameters
    ----------
    path : Path
        A JSON array of records.
    kinds : dict
        Column name to ``TEXT``, ``INT``, ``BOOL``, ``LIST``, ``MATRIX`` or ``vector(size)``.
    keep : callable, optional
        Takes the rows of a block and says for each, as a boolean array, whether it is wanted.
    on_bytes : callable, optional
        Called with the number of bytes of every block read.

    Returns
    -------
    Columns
        ``TEXT`` and ``LIST``: pyarrow.StringArray; ``INT``: (n,) int64; ``BOOL``: (n,) bool; ``MATRIX``: (n, 9) float64;
        ``vector``: (n, size) float64.

    Raises
    ------
    PetrflowError
        The file is missing, cut off, not a JSON array, or a record lacks a field; the message names the file.
    """
    schema = pa.schema(
        [
            (name, _ARROW_TYPES[kind] if isinstance(kind, str) else pa.list_(pa.float64()))
            for name, kind in kinds.items()
        ]
    )
    pieces: dict[str, list[Any]] = {name: [] for name in kinds}
    first_row = 0
    for rows in _read_blocks(path, schema, on_bytes):
        count = rows.num_rows
        _require_complete(path, rows, first_row)
        wanted = rows.filter(keep(rows)) if keep is not None else rows
        for name, kind in kinds.items():
            column = wanted.column(name).combine_chunks()
            if isinstance(column, pa.ChunkedArray):
                column = pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)
            pieces[name].append(_convert(path, column, name, kind))
        first_row += count
    return {name: _join(parts) for name, parts in pieces.items()}


def _require_complete(path: Path, rows: pa.Table, first_row: int) -> None:
    for name in rows.column_names:
        if rows.column(name).null_count:
            row = first_row + pc.index(pc.is_null(rows.column(name)), True).as_py()
            raise PetrflowError(
                f"{path}: record {row} has no '{name}'. The table is not nuScenes' own or was damaged: copy or extract it again."
            )


def _convert(path: Path, column: pa.Array, name: str, kind: str | int) -> Any:
    if kind == TEXT:
        return column
    if kind in (INT, BOOL):
        return column.to_numpy(zero_copy_only=False)
    if kind == LIST:
        lengths = np.diff(column.offsets.to_numpy())
        first = pa.array(column.offsets.to_numpy()[:-1], mask=lengths == 0)
        return pc.fill_null(pc.take(column.values, first), "")
    if kind == MATRIX:
        return np.array(
            [np.ravel(rows or [[np.nan] * 3] * 3) for rows in column.to_pylist()], dtype=np.float64
        ).reshape(-1, 9)
    size = int(kind)
    lengths = np.diff(column.offsets.to_numpy())
    if (lengths != size).any():
        raise PetrflowError(
            f"{path}: '{name}' holds {int(lengths[lengths != size][0])} numbers in some record, not {size}. Copy or extract the table again."
        )
    return column.flatten().to_numpy(zero_copy_only=False).reshape(-1, size)


def _join(parts: list[Any]) -> Any:
    if isinstance(parts[0], np.ndarray):
        return np.concatenate(parts)
    if sum(part.nbytes for part in parts) >= 2**31 - 1:  # offsets of 32 bits end here
        parts = [part.cast(pa.large_string()) for part in parts]
    return pa.concat_arrays(parts)


# ------------------------------------------------------------------------------------------------------------------ blocks


def _read_blocks(path: Path, schema: pa.Schema, on_bytes: Callable[[int], None] | None) -> Iterator[pa.Table]:
    """Yield the records block by block, at least one (possibly empty) block."""
    if not path.exists():
        raise PetrflowError(
            f"{path} is missing: a nuScenes root holds all of its tables in one folder. Copy or extract the data set again."
        )
    with path.open("rb") as handle:
        pending = b""
        started = False
        while block := handle.read(BLOCK_BYTES):
            if on_bytes is not None:
                on_bytes(len(block))
            pending += block
            if not started and (pending := pending.lstrip()):
                if not pending.startswith(b"["):
                    raise PetrflowError(f"{path} is not a JSON array of records. Copy or extract the data set again.")
                pending = pending[1:]
                started = True
            for end, resume in _boundaries(pending):
                rows = _parse(pending[:end], schema)
                if rows is not None:
                    pending = pending[resume:]
                    yield rows
                    break
        yield _parse_end(path, pending.strip(), started, schema)


def _boundaries(text: bytes) -> Iterator[tuple[int, int]]:
    """Yield places to cut, last first: (end of one record, start of the next)."""
    stop = len(text)
    while stop > 0:
        start = max(0, stop - _WINDOW_BYTES)
        for match in reversed(list(_BOUNDARY.finditer(text, start, min(stop + _WINDOW_BYTES, len(text))))):
            if match.start() < stop:
                yield match.start() + 1, match.end() - 1
        stop = start


def _parse(text: bytes, schema: pa.Schema) -> pa.Table | None:
    """Parse records separated by commas; None if they are not whole."""
    # A newline cannot stand inside a JSON string, so all of them may go; a replaced separator that did stand inside a string leaves two
    # lines with an odd number of quotes, which no parser takes.
    text = text.translate(None, b"\n\r")
    separator = _BOUNDARY.search(text)
    lines = text.replace(separator.group(), b"}\n{") if separator else text
    try:
        return pj.read_json(
            pa.BufferReader(lines),
            parse_options=pj.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore"),
        )
    except pa.ArrowException:
        return _parse_slowly(text, schema)


def _parse_slowly(text: bytes, schema: pa.Schema) -> pa.Table | None:
    """Parse what pyarrow's reader cannot take by lines: uneven separators, or separators inside strings."""
    try:
        return pa.Table.from_pylist(orjson.loads(b"[" + text + b"]"), schema=schema)
    except (ValueError, AttributeError, TypeError, pa.ArrowException):
        return None


def _parse_end(path: Path, text: bytes, started: bool, schema: pa.Schema) -> pa.Table:
    """Parse the last records, up to the closing bracket."""
    if started and text == b"]":
        return schema.empty_table()
    rows = _parse(text[:-1], schema) if started and text.endswith(b"]") else None
    if rows is None:
        reason = "a field holds something else than nuScenes puts there"
        try:
            orjson.loads(b"[" + text)
        except ValueError as error:
            reason = str(error)
        raise PetrflowError(
            f"{path} is cut off or damaged ({reason}). Copy or extract the data set again, and check that the disk was not full."
        )
    return rows
