"""Between Arrow and numpy without a copy.

pyarrow's own conversions import pandas on first use, 60 MB and half a second that every loader
worker would pay.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc


def view(array: pa.Array) -> np.ndarray:
    """See a numeric Arrow array (n,) as numpy; what stands at nulls is undefined. Booleans are
    unpacked into a copy.
    """
    buffer = array.buffers()[1]
    if pa.types.is_boolean(array.type):
        return _bits(buffer, array)
    if len(array) == 0:
        return np.empty(0, array.type.to_pandas_dtype())
    return np.frombuffer(buffer, dtype=array.type.to_pandas_dtype())[array.offset : array.offset + len(array)]


def valid(array: pa.Array) -> np.ndarray:
    """Say of every entry whether it is not null: (n,) bool."""
    buffer = array.buffers()[0]
    return np.ones(len(array), dtype=bool) if buffer is None else _bits(buffer, array)


def _bits(buffer: pa.Buffer, array: pa.Array) -> np.ndarray:
    if len(array) == 0:
        return np.zeros(0, dtype=bool)
    bits = np.unpackbits(np.frombuffer(buffer, dtype=np.uint8), count=array.offset + len(array), bitorder="little")
    return bits[array.offset :].view(bool)


def arrow(values: np.ndarray) -> pa.Array:
    """See a numeric numpy array as Arrow, flattened; booleans are packed into a copy."""
    values = np.ascontiguousarray(values).reshape(-1)
    if values.dtype == bool:
        packed = np.packbits(values, bitorder="little")
        return pa.Array.from_buffers(pa.bool_(), len(values), [None, pa.py_buffer(packed)])
    return pa.Array.from_buffers(pa.from_numpy_dtype(values.dtype), len(values), [None, pa.py_buffer(values)])


def take(column: Any, rows: np.ndarray) -> Any:
    """Pick rows of a column, be it numpy or Arrow."""
    return column[rows] if isinstance(column, np.ndarray) else pc.take(column, arrow(rows), boundscheck=False)


def text_lengths(texts: pa.Array) -> np.ndarray:
    """Length in bytes of every string."""
    return view(pc.binary_length(texts))


def list_lengths(lists: pa.Array) -> np.ndarray:
    """Length of every list."""
    return view(pc.list_value_length(lists))
