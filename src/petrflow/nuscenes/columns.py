"""nuScenes tables as columns: streamed from JSON by DuckDB, never as Python objects.

``sample_data.json`` of trainval is over 1 GB of text. DuckDB's reader parses it on all cores, skips
the fields that nobody asked for and hands over Arrow batches, of which only the wanted rows are
kept. benchmarks/README.md compares it with the other readers.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from petrflow.errors import PetrflowError
from petrflow.machine.hardware import cores
from petrflow.nuscenes.arrays import arrow, list_lengths, take, valid, view

_BATCH_ROWS = 65_536
_SAMPLE_BYTES = 256 << 10

Columns = dict[str, Any]
"""Column name to pyarrow.StringArray or numpy array, all of one length."""

TEXT, INT, BOOL = "text", "int", "bool"
LIST = "list"
"""First entry of a list of strings, '' when the list is empty; and the list's length, as column
``{name}_count``.
"""
MATRIX = "matrix"
"""Three rows of three numbers; NaN when the list is empty."""
_SQL_TYPES = {TEXT: "VARCHAR", INT: "BIGINT", BOOL: "BOOLEAN", LIST: "VARCHAR[]", MATRIX: "DOUBLE[][]"}
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
    optional: Collection[str] = (),
    keep: Callable[[pa.RecordBatch], np.ndarray] | None = None,
    on_bytes: Callable[[float], object] | None = None,
    threads: int | None = None,
) -> Columns:
    """Read some columns of a nuScenes table.

    Parameters
    ----------
    path : Path
        A JSON array of records.
    kinds : dict
        Column name to ``TEXT``, ``INT``, ``BOOL``, ``LIST``, ``MATRIX`` or ``vector(size)``.
    optional : collection of str
        Columns that a record need not have: text and lists are empty there, integers 0.
    keep : callable, optional
        Takes some rows and says of each, as a (n,) bool array, whether it is wanted.
    on_bytes : callable, optional
        Called now and then with the bytes read since the last call.
    threads : int, optional
        Default: one per core. The result does not depend on it.

    Returns
    -------
    Columns
        In the file's order. ``TEXT`` and ``LIST``: pyarrow.StringArray; ``INT``: (n,) int64;
        ``BOOL``: (n,) bool; ``MATRIX``: (n, 9) float64; ``vector``: (n, size) float64.

    Raises
    ------
    PetrflowError
        The file is missing, cut off, not a JSON array, or a record lacks a field; the message names
        the file.
    """
    pieces: dict[str, list[Any]] = {}
    for rows in read_batches(path, kinds, optional=optional, keep=keep, on_bytes=on_bytes, threads=threads):
        add_converted(pieces, path, rows, kinds)
    return join(pieces)


def read_batches(
    path: Path,
    kinds: Kinds,
    *,
    optional: Collection[str] = (),
    keep: Callable[[pa.RecordBatch], np.ndarray] | None = None,
    on_bytes: Callable[[float], object] | None = None,
    threads: int | None = None,
    hashed: str | None = None,
    batch_rows: int = _BATCH_ROWS,
) -> Iterator[pa.RecordBatch]:
    """Read a table as :func:`read_columns` does, a batch of the wanted rows at a time, at least one
    batch.

    ``hashed`` names a column of text whose 64-bit hashes are wanted, too, as column
    ``{hashed}_hash``.
    """
    # A root's tables may be links: messages name the file that a person would correct.
    path = Path(path).resolve() if Path(path).is_symlink() else Path(path)
    length = _require_array(path)
    bytes_a_row = _bytes_a_row(path) if on_bytes is not None else 0.0
    reported = 0.0
    fields = [(name, _ARROW_TYPES[k] if isinstance(k, str) else pa.list_(pa.float64())) for name, k in kinds.items()]
    schema = pa.schema([*fields, *([(f"{hashed}_hash", pa.uint64())] if hashed else [])])
    for read in _batches(path, kinds, schema, threads, hashed, batch_rows):
        batch = _filled(read, kinds, optional)
        _require_complete(path, batch)
        yield batch.filter(arrow(keep(batch))) if keep is not None else batch
        if on_bytes is not None:
            step = min(bytes_a_row * len(batch), length - reported)
            on_bytes(step)
            reported += step
    if on_bytes is not None:
        on_bytes(length - reported)


def add_converted(pieces: dict[str, list[Any]], path: Path, rows: pa.RecordBatch, kinds: Kinds) -> None:
    """Add the columns of a batch to the pieces of whole columns."""
    for k, (name, kind) in enumerate(kinds.items()):
        pieces.setdefault(name, []).append(_convert(path, rows.column(k), name, kind, rows))
        if kind == LIST:
            pieces.setdefault(f"{name}_count", []).append(list_lengths(rows.column(k)))


def join(pieces: dict[str, list[Any]]) -> Columns:
    """Join the pieces of columns."""
    return {name: _join(parts) for name, parts in pieces.items()}


def empty_columns(kinds: Kinds) -> Columns:
    """Return columns of no rows, for a table that a data set need not have."""
    types = [_ARROW_TYPES[kind] if isinstance(kind, str) else pa.list_(pa.float64()) for kind in kinds.values()]
    return {
        name: _convert(Path(name), pa.array([], type=arrow_type), name, kind)
        for (name, kind), arrow_type in zip(kinds.items(), types, strict=True)
    }


def _require_array(path: Path) -> int:
    """Check the two ends of a table, which the parser is lenient about, and return its length in
    bytes.
    """
    if not path.exists():
        raise PetrflowError(
            f"{path} is missing: a nuScenes root holds all of its tables in one folder. Copy or extract the data set again."
        )
    length = path.stat().st_size
    with path.open("rb") as handle:
        head = handle.read(4096).lstrip()
        handle.seek(max(0, length - 4096))
        tail = handle.read().rstrip()
    if head.startswith(b"\xef\xbb\xbf"):
        raise PetrflowError(
            f"{path} begins with a byte order mark, which JSON does not have: save it as UTF-8 without one."
        )
    if head.startswith(b"version https://git-lfs"):
        raise PetrflowError(f"{path} is a Git LFS pointer and not the table: run `git lfs pull` where it comes from.")
    if head and not head.startswith(b"["):
        raise PetrflowError(f"{path} is not a JSON array of records. Copy or extract the data set again.")
    if not tail.endswith(b"]"):
        raise _damaged(path, "it ends in the middle" if tail else "it is empty")
    return length


def _damaged(path: Path, reason: str) -> PetrflowError:
    return PetrflowError(
        f"{path} is cut off or damaged ({reason}). Copy or extract the data set again, and check that the disk was not full."
    )


def _bytes_a_row(path: Path) -> float:
    """Estimate the length of a record from the first ones, for progress."""
    with path.open("rb") as handle:
        text = handle.read(_SAMPLE_BYTES)
    return len(text) / max(1, len(re.findall(rb'"token"\s*:', text)))


def _batches(
    path: Path, kinds: Kinds, schema: pa.Schema, threads: int | None, hashed: str | None, batch_rows: int
) -> Iterator[pa.RecordBatch]:
    """Yield the table batch by batch, at least one (possibly empty) batch."""
    import duckdb  # only who builds a store needs it: loader workers stay light

    types = {name: _SQL_TYPES[kind] if isinstance(kind, str) else "DOUBLE[]" for name, kind in kinds.items()}
    described = ", ".join(f"'{name}': '{kind}'" for name, kind in types.items())
    pattern = re.sub(r"([\[*?])", r"[\1]", str(path)).replace("'", "''")  # DuckDB takes the path for a pattern
    chosen = ", ".join([*(f'"{name}"' for name in kinds), *([f'hash("{hashed}")'] if hashed else [])])
    query = f"SELECT {chosen} FROM read_json('{pattern}', format = 'array', columns = {{{described}}})"
    config: dict[str, Any] = {"threads": threads or cores(), "preserve_insertion_order": True}
    yielded = False
    try:
        with duckdb.connect(":memory:", config=config) as connection:
            for batch in connection.sql(query).to_arrow_reader(batch_rows):
                named = batch.rename_columns(schema.names)
                yield named.cast(schema) if named.schema != schema else named
                yielded = True
    except (duckdb.Error, OSError) as error:
        reason = str(error).splitlines()[0].replace(f' in file "{path}"', "")
        if "transform error" in reason or "Conversion Error" in reason:
            raise PetrflowError(f"{path}: a record is not as nuScenes has it ({reason}). Correct the table.") from None
        raise _damaged(path, reason) from None
    if not yielded:
        yield pa.RecordBatch.from_arrays([pa.nulls(0, kind) for kind in schema.types], schema=schema)


_FILLERS: dict[str, Any] = {TEXT: "", INT: 0, BOOL: False, LIST: []}


def _filled(batch: pa.RecordBatch, kinds: Kinds, optional: Collection[str]) -> pa.RecordBatch:
    """Replace what records lack of the optional columns by what is empty."""
    for place, name in enumerate(batch.schema.names):
        column = batch.column(place)
        if name in optional and column.null_count:
            filler = pa.scalar(_FILLERS[str(kinds[name])], type=column.type)
            batch = batch.set_column(place, name, pc.if_else(column.is_valid(), column, filler))
    return batch


def _require_complete(path: Path, rows: pa.RecordBatch) -> None:
    for name, column in zip(rows.schema.names, rows.columns, strict=True):
        if column.null_count:
            row = int(np.flatnonzero(~valid(column))[0])
            known = [(other, value) for other, value in rows.slice(row, 1).to_pylist()[0].items() if value is not None]
            raise PetrflowError(
                f"{path}: a record has no '{name}' (the one with {', '.join(f'{key} {value}' for key, value in known[:2])}). The table is "
                "not nuScenes' own or was damaged: copy or extract it again."
            )


def _convert(path: Path, column: pa.Array, name: str, kind: str | int, rows: pa.RecordBatch | None = None) -> Any:
    if kind == TEXT:
        return column
    if kind in (INT, BOOL):
        return view(column)
    if kind == MATRIX:
        matrices = [matrix or [[np.nan] * 3] * 3 for matrix in column.to_pylist()]
        for row, matrix in enumerate(matrices):
            if [len(line or ()) for line in matrix] != [3, 3, 3]:
                raise PetrflowError(
                    f"{path}: '{name}' of {_record(rows, row)} is no 3x3 matrix (three rows of three numbers). Correct the table."
                )
        return np.array(matrices, dtype=np.float64).reshape(-1, 9)
    lengths, values = list_lengths(column), column.flatten()
    if kind == LIST:
        ends = np.cumsum(lengths)
        texts = pa.concat_arrays([values, _EMPTY_TEXT])
        return take(texts, np.where(lengths > 0, ends - lengths, len(texts) - 1))
    size = int(kind)
    wrong = np.flatnonzero(lengths != size)
    if len(wrong) or values.null_count:
        found = str(lengths[wrong[0]]) if len(wrong) else "null among its"
        record = _record(rows, int(wrong[0]) if len(wrong) else None)
        raise PetrflowError(f"{path}: '{name}' of {record} holds {found} numbers, not {size}. Correct the table.")
    return view(values).reshape(-1, size)


def _record(rows: pa.RecordBatch | None, row: int | None) -> str:
    """Name a record by its token where the columns that were read hold it."""
    if rows is None or row is None or "token" not in rows.schema.names:
        return "a record"
    return f"record {rows.column('token')[row].as_py()}"


_EMPTY_TEXT = pa.Array.from_buffers(pa.string(), 1, [None, pa.py_buffer(np.zeros(2, np.int32)), pa.py_buffer(b"")])


def _join(parts: list[Any]) -> Any:
    return np.concatenate(parts) if isinstance(parts[0], np.ndarray) else pa.concat_arrays(parts)
