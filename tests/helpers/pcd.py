"""Writes Point Cloud Data (PCD) files for the tests of their reader."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np


def write_pcd(
    path: Path, points: np.ndarray, fields: Sequence[str] = ("x", "y", "z", "intensity"), encoding: str = "binary"
) -> None:
    """Write (N, F) float32 points; ``binary_compressed`` stores literal runs only, which every
    reader accepts.
    """
    points = np.ascontiguousarray(points, dtype="<f4")
    header = (
        "# .PCD v0.7 - Point Cloud Data file format\nVERSION 0.7\n"
        f"FIELDS {' '.join(fields)}\nSIZE {' '.join(['4'] * len(fields))}\nTYPE {' '.join(['F'] * len(fields))}\n"
        f"COUNT {' '.join(['1'] * len(fields))}\nWIDTH {len(points)}\nHEIGHT 1\nVIEWPOINT 0 0 0 1 0 0 0\n"
        f"POINTS {len(points)}\nDATA {encoding}\n"
    ).encode("ascii")
    if encoding == "ascii":
        body = "".join(" ".join(repr(float(value)) for value in row) + "\n" for row in points).encode("ascii")
    elif encoding == "binary":
        body = points.tobytes()
    else:
        plain = np.ascontiguousarray(points.T).tobytes()
        packed = b"".join(bytes([min(32, len(plain) - i) - 1]) + plain[i : i + 32] for i in range(0, len(plain), 32))
        body = np.array([len(packed), len(plain)], dtype="<u4").tobytes() + packed
    path.write_bytes(header + body)
