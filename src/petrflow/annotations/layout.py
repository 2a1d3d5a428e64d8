"""Layout of an annotation store on disk: one Arrow IPC file, one record batch of one row, a whole
column in every cell.

docs/annotation-store.md describes it for people. Tables of different lengths share the file because
every column is a list; any Arrow library reads it, and numpy sees the values in place without a
copy.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from petrflow.errors import PetrflowError
from petrflow.files import atomic_path
from petrflow.nuscenes.arrays import arrow, view

FORMAT = "petrflow-annotations"
FORMAT_VERSION = 2
_METADATA_KEY = b"petrflow"


def write(path: Path, columns: dict[str, Any], metadata: dict[str, Any]) -> None:
    """Write columns (pyarrow.StringArray, or numpy of one or more axes) and metadata; the same
    input gives the same bytes.
    """
    with atomic_path(path, needed=sum(column.nbytes for column in columns.values())) as temporary:
        _write(temporary, columns, metadata)


def _write(path: Path, columns: dict[str, Any], metadata: dict[str, Any]) -> None:
    names = sorted(columns)
    cells = [_cell(columns[name]) for name in names]
    header = {"format": FORMAT, "format_version": FORMAT_VERSION, **metadata}
    schema = pa.schema(
        [pa.field(name, cell.type, nullable=False) for name, cell in zip(names, cells, strict=True)],
        metadata={_METADATA_KEY: json.dumps(header, sort_keys=True).encode()},
    )
    batch = pa.record_batch(cells, schema=schema)
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
        writer.write_batch(batch)


def write_joined(path: Path, pieces: Callable[[], Iterable[dict[str, Any]]], metadata: dict[str, Any]) -> None:
    """Write columns that come in pieces, without holding more than one piece in memory.

    Parameters
    ----------
    path : Path
    pieces : callable
        Gives the pieces one after another, as :func:`read` returns columns; called twice.
    metadata : dict
    """
    sizes: dict[str, _Size] = {}
    for piece in pieces():
        for name, column in piece.items():
            sizes.setdefault(name, _Size.like(column)).add(column)
    total = sum(size.bytes() for size in sizes.values())
    with atomic_path(path, needed=total) as temporary:
        # A store of the right size, of zeros that the kernel does not keep in memory; then the
        # pieces go to their places.
        _write(temporary, {name: size.placeholder() for name, size in sizes.items()}, metadata)
        places = _places(temporary)
        descriptor = os.open(temporary, os.O_WRONLY)
        try:
            for piece in pieces():
                for name, column in piece.items():
                    places[name] = _put(descriptor, places[name], column)
        finally:
            os.close(descriptor)


@dataclass
class _Size:
    """How large a column is: its rows, what a row is, and for texts their bytes."""

    row: tuple[np.dtype[Any], tuple[int, ...]] | None
    rows: int = 0
    text_bytes: int = 0

    @classmethod
    def like(cls, column: Any) -> _Size:
        return cls(None if isinstance(column, Texts) else (column.dtype, column.shape[1:]))

    def add(self, column: Any) -> None:
        self.rows += len(column)
        if isinstance(column, Texts):
            self.text_bytes += len(column.raw()[1])

    def bytes(self) -> int:
        if self.row is None:
            return 4 * (self.rows + 1) + self.text_bytes
        return self.rows * int(np.prod(self.row[1], dtype=np.int64)) * self.row[0].itemsize

    def placeholder(self) -> Any:
        if self.row is not None:
            return np.zeros((self.rows, *self.row[1]), dtype=self.row[0])
        offsets = np.zeros(self.rows + 1, dtype=np.int32)
        offsets[-1] = self.text_bytes
        text = np.zeros(self.text_bytes, dtype=np.uint8)
        return pa.Array.from_buffers(pa.string(), self.rows, [None, pa.py_buffer(offsets), pa.py_buffer(text)])


def _places(path: Path) -> dict[str, list[int]]:
    """Return where in the file a column's next row goes; for texts, its end, its bytes, and how
    many bytes there are so far.
    """
    places = {}
    with pa.memory_map(str(path), "r") as source:
        base = source.read_buffer(1).address
        batch = pa.ipc.open_file(source).get_batch(0)
        for k, name in enumerate(batch.schema.names):
            values = batch.column(k).values
            while pa.types.is_fixed_size_list(values.type):
                values = values.values
            buffers = [buffer.address - base if buffer is not None else 0 for buffer in values.buffers()[1:]]
            places[name] = [buffers[0] + 4, buffers[1], 0] if len(buffers) == 2 else buffers
        del batch, values
    return places


def _put(descriptor: int, place: list[int], column: Any) -> list[int]:
    """Write a piece of a column to its place; return the place of the next one."""
    if not isinstance(column, Texts):
        return [_write_at(descriptor, place[0], np.ascontiguousarray(column))]
    offsets, text = column.raw()
    ends = (offsets[1:].astype(np.int64) - offsets[:1] + place[2]).astype(np.int32)
    return [_write_at(descriptor, place[0], ends), _write_at(descriptor, place[1], text), place[2] + len(text)]


def _write_at(descriptor: int, position: int, values: np.ndarray) -> int:
    remaining = memoryview(values.reshape(-1).view(np.uint8).data) if values.size else memoryview(b"")
    while len(remaining):
        written = os.pwrite(descriptor, remaining, position)
        position, remaining = position + written, remaining[written:]
    return position


def _cell(column: Any) -> pa.Array:
    if isinstance(column, np.ndarray):
        values = arrow(column)
        for size in reversed(column.shape[1:]):
            values = pa.FixedSizeListArray.from_arrays(values, size)
    else:
        values = column
    return pa.LargeListArray.from_arrays(arrow(np.array([0, len(values)], dtype=np.int64)), values)


_NOTHING = np.zeros(0, dtype=np.uint8)


class Texts:
    """A column of strings, decoded one by one on access."""

    def __init__(self, array: pa.Array) -> None:
        wide = pa.types.is_large_string(array.type)
        _, offsets, data = array.buffers()
        self._offsets = np.frombuffer(offsets, dtype=np.int64 if wide else np.int32)[array.offset :]
        self._data = memoryview(data) if data is not None else memoryview(b"")
        self._length = len(array)

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> str:
        if not 0 <= index < self._length:
            raise IndexError(index)
        return str(self._data[self._offsets[index] : self._offsets[index + 1]], "utf-8")

    def raw(self) -> tuple[np.ndarray, np.ndarray]:
        """Return where the strings begin and end, (n + 1,), and their bytes from the first one's
        on, (bytes,) uint8.
        """
        offsets = self._offsets[: self._length + 1]
        return offsets, np.frombuffer(self._data, dtype=np.uint8)[offsets[0] : offsets[-1]] if len(
            self._data
        ) else _NOTHING

    def take(self, indices: Any) -> list[str]:
        """Return the strings at ``indices`` (any sequence of int)."""
        offsets, data = self._offsets, self._data
        return [str(data[offsets[i] : offsets[i + 1]], "utf-8") for i in indices]


def texts(column: pa.Array | Texts) -> Texts:
    """Access strings one by one, whether they are about to be written or were read."""
    return column if isinstance(column, Texts) else Texts(column)


def read(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Map a store into memory: (columns as numpy arrays or :class:`Texts`, metadata). Nothing is
    copied.

    Raises
    ------
    PetrflowError
        Missing, damaged, something else, or of another format version.
    """
    path = Path(path)
    remedy = "Move it away and run the annotate step again."
    try:
        source = pa.memory_map(str(path), "r")
    except FileNotFoundError:
        raise PetrflowError(f"{path} does not exist. Run the annotate step (snakemake annotate_all) first.") from None
    try:
        reader = pa.ipc.open_file(source)
        header = (reader.schema.metadata or {}).get(_METADATA_KEY)
    except pa.ArrowException as error:
        raise PetrflowError(f"{path} is damaged or no annotation store ({error}). {remedy}") from None
    metadata = json.loads(header) if header else {}
    if metadata.get("format") != FORMAT:
        raise PetrflowError(f"{path} is an Arrow file but no annotation store. {remedy}")
    found = metadata["format_version"]
    if found != FORMAT_VERSION:
        age = "an older" if found < FORMAT_VERSION else "a newer"
        raise PetrflowError(
            f"{path} was written by {age} petrflow (store format {found}; this one reads {FORMAT_VERSION}). "
            + (
                remedy
                if found < FORMAT_VERSION
                else "Update petrflow, or move the file away and run the annotate step again."
            )
        )
    batch = reader.get_batch(0)
    return {name: _uncell(batch.column(k)) for k, name in enumerate(batch.schema.names)}, metadata


def _uncell(cell: pa.Array) -> Any:
    values = cell.values
    if pa.types.is_string(values.type) or pa.types.is_large_string(values.type):
        return Texts(values)
    shape = [len(values)]
    while pa.types.is_fixed_size_list(values.type):
        shape.append(values.type.list_size)
        values = values.values
    return view(values).reshape(shape)
