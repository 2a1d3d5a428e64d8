"""When frames were taken and where the vehicle was: from file names, a CSV of timestamps, a CSV or JSON of poses."""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Iterable, Mapping
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

import numpy as np

from petrflow.errors import PetrflowError
from petrflow.geometry import transform
from petrflow.sources.xtreme1.frames import FrameFiles, image_folder_index, load_json

# Without time, keyframes are written this far apart, µs: nuScenes' own rate, so that the previous frame stays within its usual range.
ASSUMED_STEP = 500_000
_EPOCH_NAME = re.compile(r"(?<!\d)(\d{19}|\d{16}|\d{13}|\d{10}\.\d{1,9}|\d{10})(?![\d])")
_YEAR_2000, _YEAR_2100 = 946_684_800, 4_102_444_800
_POSE_COLUMNS = ("tx", "ty", "tz", "qw", "qx", "qy", "qz")


def to_microseconds(text: str) -> int | None:
    """Read a timestamp whose unit its size tells: seconds (also small ones that count from a start), ms, µs or ns since 1970."""
    try:
        value = Decimal(text)
    except InvalidOperation:
        return None
    if not value.is_finite() or value < 0:
        return None
    for scale, limit in ((1_000_000, Decimal(10) ** 11), (1_000, Decimal(10) ** 14), (1, Decimal(10) ** 17)):
        if value < limit:
            return int(value * scale)
    return int(value / 1000)


def timestamps_of_names(frames: Iterable[FrameFiles]) -> dict[str, int] | None:
    """Timestamps in µs by frame label where every name holds one (10, 13, 16 or 19 digits since 1970), else None."""
    found: dict[str, int] = {}
    for frame in frames:
        numbers = _EPOCH_NAME.findall(frame.name)
        value = to_microseconds(numbers[-1]) if numbers else None
        if value is None or not _YEAR_2000 <= value // 1_000_000 < _YEAR_2100:
            return None
        found[frame.label] = value
    return found


def read_timestamps(path: Path, frames: Iterable[FrameFiles]) -> tuple[dict[str, int], dict[str, dict[int, int]]]:
    """Read the `timestamps` CSV.

    Columns ``name`` (or ``scene`` and ``name``, or ``scene/name`` in one) and ``timestamp``; a column named like an image folder
    (``camera_image_0``) gives that camera its own time.

    Returns
    -------
    Timestamps in µs by frame label, and by frame label those of cameras by folder number.
    """
    rows = _rows_by_frame(path, "timestamps")
    times: dict[str, int] = {}
    camera_times: dict[str, dict[int, int]] = {}
    for frame in frames:
        row = _row_of(rows, frame, path, "timestamps")
        times[frame.label] = _time(path, frame, "timestamp", row.get("timestamp"))
        camera_times[frame.label] = {
            index: _time(path, frame, column, value)
            for column, value in row.items()
            if column and value and (index := image_folder_index(column)) is not None
        }
    return times, camera_times


def read_poses(path: Path, frames: Iterable[FrameFiles]) -> dict[str, np.ndarray]:
    """Read the `poses` file: where the point cloud's frame stood in a world whose z is up.

    A CSV with columns ``name`` (and ``scene``), ``tx, ty, tz`` in m and ``qw, qx, qy, qz``; or a JSON object
    ``{name: {"translation": [x, y, z], "rotation": [w, x, y, z]}}``, names also as ``scene/name``.

    Returns
    -------
    ``world_from_cloud`` (4, 4) by frame label.
    """
    if path.suffix.lower() == ".json":
        table = load_json(path)
        if isinstance(table, list):
            table = {str(row.get("name")): row for row in table if isinstance(row, dict)}
        if not isinstance(table, dict):
            raise PetrflowError(
                f"`poses` {path} is not an object of frames. It should read {{name: {{translation: [...], rotation: [...]}}}}."
            )
        rows: Mapping[str, Any] = table
    else:
        rows = _rows_by_frame(path, "poses")
    return {frame.label: _pose(path, frame, _row_of(rows, frame, path, "poses")) for frame in frames}


def _pose(path: Path, frame: FrameFiles, row: Mapping[str, Any]) -> np.ndarray:
    try:
        if "translation" in row:
            values = [float(value) for value in (*row["translation"], *row["rotation"])]
        else:
            values = [float(row[column]) for column in _POSE_COLUMNS]
    except (KeyError, TypeError, ValueError):
        values = []
    if len(values) != 7 or not all(map(math.isfinite, values)) or abs(math.hypot(*values[3:]) - 1) > 0.01:
        raise PetrflowError(
            f"`poses` {path}: frame {frame.label} needs a finite translation (x, y, z) and a unit quaternion (w, x, y, z)."
        )
    return transform(values[:3], values[3:])


def _time(path: Path, frame: FrameFiles, column: str, text: str | None) -> int:
    value = to_microseconds(text) if text else None
    if value is None:
        raise PetrflowError(
            f"`timestamps` {path}: column {column} of frame {frame.label} is {text!r}, not a time in s, ms, µs or ns."
        )
    return value


def _rows_by_frame(path: Path, key: str) -> dict[str, dict[str, str]]:
    with path.open(newline="", encoding="utf-8-sig") as handle:
        reader = csv.DictReader(handle, skipinitialspace=True)
        if "name" not in (reader.fieldnames or []):
            raise PetrflowError(f"`{key}` {path} has no column `name` in its first line.")
        rows: dict[str, dict[str, str]] = {}
        for row in reader:
            label = f"{row['scene']}/{row['name']}" if row.get("scene") else row["name"]
            if label in rows:
                raise PetrflowError(
                    f"`{key}` {path} names frame {label} twice. Add a column `scene`, or remove one line."
                )
            rows[label] = row
    return rows


def _row_of(rows: Mapping[str, Any], frame: FrameFiles, path: Path, key: str) -> Mapping[str, Any]:
    row = rows.get(frame.label, rows.get(frame.name))
    if not isinstance(row, Mapping):
        raise PetrflowError(
            f"`{key}` {path} does not name frame {frame.label}. Add a line for it, or leave `{key}` out."
        )
    return row
