"""Layout of an annotation store on disk: one Arrow IPC file, one record batch of one row, a whole column in every cell.

docs/annotation-store.md describes it for people. Tables of different lengths share the file because every column is a list; any Arrow
library reads it, and numpy sees the values in place without a copy.
"""

from __future__ import annotations

import json
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
    """Write columns (pyarrow.StringArray, or numpy of one or more axes) and metadata; the same input gives the same bytes."""
    names = sorted(columns)
    cells = [_cell(columns[name]) for name in names]
    header = {"format": FORMAT, "format_version": FORMAT_VERSION, **metadata}
    schema = pa.schema(
        [pa.field(name, cell.type, nullable=False) for name, cell in zip(names, cells, strict=True)],
        metadata={_METADATA_KEY: json.dumps(header, sort_keys=True).encode()},
    )
    batch = pa.record_batch(cells, schema=schema)
    with (
        atomic_path(path, needed=batch.nbytes) as temporary,
        pa.OSFile(str(temporary), "wb") as sink,
        pa.ipc.new_file(sink, schema) as writer,
    ):
        writer.write_batch(batch)


def _cell(column: Any) -> pa.Array:
    if isinstance(column, np.ndarray):
        values = arrow(column)
        for size in reversed(column.shape[1:]):
            values = pa.FixedSizeListArray.from_arrays(values, size)
    else:
        values = column
    return pa.LargeListArray.from_arrays(arrow(np.array([0, len(values)], dtype=np.int64)), values)


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

    def take(self, indices: Any) -> list[str]:
        """Return the strings at ``indices`` (any sequence of int)."""
        offsets, data = self._offsets, self._data
        return [str(data[offsets[i] : offsets[i + 1]], "utf-8") for i in indices]


def texts(column: pa.Array | Texts) -> Texts:
    """Access strings one by one, whether they are about to be written or were read."""
    return column if isinstance(column, Texts) else Texts(column)


def read(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Map a store into memory: (columns as numpy arrays or :class:`Texts`, metadata). Nothing is copied.

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
