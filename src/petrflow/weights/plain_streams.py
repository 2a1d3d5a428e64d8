"""Streams for a pickle from an unknown source: bounded reads, and gaps in place of large arrays."""

from __future__ import annotations

from typing import Any, BinaryIO


class Gap:
    """Bytes of a file that were passed over; all that is known of them is how many they are."""

    __slots__ = ("_count",)

    def __init__(self, count: int):
        self._count = count

    def __len__(self) -> int:
        return self._count


class Bounded:
    """A file that never promises more bytes than it has: a length field of a terabyte fails before
    memory is taken for it.
    """

    def __init__(self, handle: BinaryIO, size: int, gap_from: int | None = None):
        self._handle = handle
        self._gap_from = gap_from
        self.size = self._left = size

    def read(self, count: int) -> Any:
        """Return bytes; or a :class:`Gap` where so many are wanted that they can only be an
        array's.
        """
        if not 0 <= count <= self._left:
            raise EOFError(f"{count} bytes wanted, {self._left} left")
        self._left -= count
        if self._gap_from is not None and count >= self._gap_from:
            self._handle.seek(count, 1)
            return Gap(count)
        return self._handle.read(count)

    def readline(self) -> bytes:
        line = self._handle.readline(1 << 20)
        self._left -= len(line)
        return line


# A frame of a pickle, which is read at once, is hardly larger; arrays of this size are what takes
# time.
GAP_BYTES = 1 << 20
