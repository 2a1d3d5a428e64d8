"""nuScenes tables as columns: a table of any size is parsed block by block and never becomes Python objects.

``sample_data.json`` of trainval is over 1 GB of text. A block of it is cut at a record's end, laid out one record a line, and read by
pyarrow's JSON reader, which skips the fields that nobody asked for and fills columns at once, one block a core.
benchmarks/README.md compares it with the other readers.
"""

from __future__ import annotations

import os
import re
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.json as pj

from petrflow.annotations.arrays import arrow, list_lengths, take, valid, view
from petrflow.files import PetrflowError

BLOCK_BYTES = 16 << 20
# Where one record ends and the next begins. It may also occur inside a string or a nested list: a cut there fails to parse, and the
# block is parsed together with the next.
_BOUNDARY = re.compile(rb"\}\s*,\s*\{")
_WINDOW_BYTES = 64 << 10
_MOST_BLOCKS_JOINED = 8

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
Kinds = dict[str, str | int]


def vector(size: int) -> int:
    """Return the kind of a column that holds ``size`` numbers a row."""
    return size


def read_columns(
    path: Path,
    kinds: Kinds,
    *,
    keep: Callable[[pa.Table], np.ndarray] | None = None,
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
        Takes the rows of a block and says of each, as a (n,) bool array, whether it is wanted.
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
    path = Path(path)

    def parse(text: bytes) -> Columns | None:
        rows = _parse(text, kinds)
        if rows is None:
            return None
        _require_complete(path, rows)
        if keep is not None:
            rows = rows.filter(arrow(keep(rows)))
        return {name: _convert(path, _whole(rows.column(name)), name, kind) for name, kind in kinds.items()}

    pieces = list(_parse_blocks(path, parse, on_bytes))
    return {name: _join([piece[name] for piece in pieces]) for name in kinds}


def _whole(column: pa.ChunkedArray) -> pa.Array:
    return column.chunk(0) if column.num_chunks == 1 else pa.concat_arrays(column.chunks or [pa.nulls(0, column.type)])


def _require_complete(path: Path, rows: pa.Table) -> None:
    for name in rows.column_names:
        if rows.column(name).null_count:
            row = int(np.flatnonzero(~valid(_whole(rows.column(name))))[0])
            known = [(other, value) for other, value in rows.slice(row, 1).to_pylist()[0].items() if value is not None]
            raise PetrflowError(
                f"{path}: a record has no '{name}' (the one with {', '.join(f'{key} {value}' for key, value in known[:2])}). The table is "
                "not nuScenes' own or was damaged: copy or extract it again."
            )


def _convert(path: Path, column: pa.Array, name: str, kind: str | int) -> Any:
    if kind == TEXT:
        return column
    if kind in (INT, BOOL):
        return view(column)
    if kind == MATRIX:
        rows = [np.ravel(rows or [[np.nan] * 3] * 3) for rows in column.to_pylist()]
        return np.array(rows, dtype=np.float64).reshape(-1, 9)
    lengths = list_lengths(column)
    if kind == LIST:
        ends = np.cumsum(lengths)
        texts = pa.concat_arrays([column.flatten(), _EMPTY_TEXT])
        return take(texts, np.where(lengths > 0, ends - lengths, len(texts) - 1))
    size = int(kind)
    if (lengths != size).any():
        raise PetrflowError(
            f"{path}: '{name}' holds {int(lengths[lengths != size][0])} numbers in some record, not {size}. Copy or extract the table again."
        )
    return view(column.flatten()).reshape(-1, size)


_EMPTY_TEXT = pa.Array.from_buffers(pa.string(), 1, [None, pa.py_buffer(np.zeros(2, np.int32)), pa.py_buffer(b"")])


def _join(parts: list[Any]) -> Any:
    return np.concatenate(parts) if isinstance(parts[0], np.ndarray) else pa.concat_arrays(parts)


# ------------------------------------------------------------------------------------------------------------------ blocks


def _parse_blocks(
    path: Path, parse: Callable[[bytes], Columns | None], on_bytes: Callable[[int], None] | None
) -> Iterator[Columns]:
    """Parse all blocks, as many at a time as there are cores, and yield them in the file's order."""
    workers = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
    waiting: deque[tuple[bytes, bytes, Future[Columns | None]]] = deque()
    broken, joined = b"", 0
    with ThreadPoolExecutor(workers) as pool:
        blocks = _blocks(path, on_bytes)
        for text, separator in blocks:
            waiting.append((text, separator, pool.submit(parse, text)))
            while len(waiting) > (workers if separator else 0):
                first, behind, future = waiting.popleft()
                columns = parse(broken + first) if broken else future.result()
                if columns is not None:
                    yield columns
                    broken, joined = b"", 0
                elif behind and joined < _MOST_BLOCKS_JOINED:
                    broken += first + behind
                    joined += 1
                else:
                    raise _damaged(path, broken + first)


def _blocks(path: Path, on_bytes: Callable[[int], None] | None) -> Iterator[tuple[bytes, bytes]]:
    """Yield records in blocks: (text, what separates it from the next one, empty after the last)."""
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
            if boundary := _last_boundary(pending):
                yield pending[: boundary.start() + 1], boundary.group()[1:-1]
                pending = pending[boundary.end() - 1 :]
    pending = pending.strip()
    if not started or not pending.endswith(b"]"):
        raise _damaged(path, pending + b" ")
    yield pending[:-1], b""


def _last_boundary(text: bytes) -> re.Match[bytes] | None:
    stop = len(text)
    while stop > 0:
        start = max(0, stop - _WINDOW_BYTES)
        last = None
        for match in _BOUNDARY.finditer(text, start, min(stop + _WINDOW_BYTES, len(text))):
            last = match
        if last is not None:
            return last
        stop = start
    return None


def _parse(text: bytes, kinds: Kinds) -> pa.Table | None:
    """Parse records separated by commas; None if they are not whole or not of these kinds."""
    schema = pa.schema(
        [(name, _ARROW_TYPES[k] if isinstance(k, str) else pa.list_(pa.float64())) for name, k in kinds.items()]
    )
    if not text.strip():
        return schema.empty_table()
    # A newline cannot stand inside a JSON string, so all of them may go; a replaced separator that did stand inside a string leaves two
    # lines with an odd number of quotes, which no parser takes.
    text = text.translate(None, b"\n\r")
    separator = _BOUNDARY.search(text)
    lines = text.replace(separator.group(), b"}\n{") if separator else text
    try:
        return pj.read_json(
            pa.BufferReader(lines),
            read_options=pj.ReadOptions(use_threads=False, block_size=4 << 20),
            parse_options=pj.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore"),
        )
    except pa.ArrowException:
        pass
    try:  # uneven separators, separators inside strings, or records longer than a block
        return pa.Table.from_pylist(orjson.loads(b"[" + text + b"]"), schema=schema)
    except (ValueError, AttributeError, TypeError, pa.ArrowException):
        return None


def _damaged(path: Path, text: bytes) -> PetrflowError:
    try:
        orjson.loads(b"[" + text + (b"]" if not text.endswith(b" ") else b""))
        reason = "a field holds something else than nuScenes puts there"
    except ValueError as error:
        reason = str(error)
    return PetrflowError(
        f"{path} is cut off or damaged ({reason}). Copy or extract the data set again, and check that the disk was not full."
    )
