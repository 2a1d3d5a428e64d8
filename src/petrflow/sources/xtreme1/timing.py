"""When frames were taken and where the vehicle was: from file names, a CSV of timestamps, a CSV or
JSON of poses.
"""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np

from petrflow.errors import PetrflowError
from petrflow.geometry import transform
from petrflow.sources.clock import in_microseconds, read_number, since_1970, unit_of
from petrflow.sources.xtreme1.frames import FrameFiles, camera_of_folder, load_json, read_text

# Without time, keyframes are written this far apart, µs: nuScenes' own rate, so that the previous
# frame stays within its usual range.
ASSUMED_STEP = 500_000
# `1532402927_612345678` is how ROS tools write seconds and nanoseconds.
_EPOCH_NAME = re.compile(
    r"(?<!\d)(\d{19}|\d{16}(?:\.\d+)?|\d{13}(?:\.\d+)?|\d{10}\.\d{1,9}|\d{10}_(?:\d{9}|\d{6})|\d{10})(?![\d])"
)
_POSE_COLUMNS = ("tx", "ty", "tz", "qw", "qx", "qy", "qz")


def timestamps_of_names(frames: Sequence[FrameFiles], others: Sequence[FrameFiles] = ()) -> dict[str, int] | None:
    """Timestamps in µs by frame label where every name holds one (10, 13, 16 or 19 digits since
    1970), else None.

    `others` may be without.
    """
    found: dict[str, int] = {}
    needed = {frame.label for frame in frames}
    for frame in (*frames, *others):
        numbers = _EPOCH_NAME.findall(frame.name)
        number = read_number(numbers[-1].replace("_", ".")) if numbers else None
        value = since_1970(number) if number is not None else None
        if value is not None:
            found[frame.label] = value
        elif frame.label in needed:
            return None
    return found


def read_timestamps(
    path: Path, frames: Sequence[FrameFiles], others: Sequence[FrameFiles] = ()
) -> tuple[dict[str, int], dict[str, dict[str, int]]]:
    """Read the `timestamps` CSV.

    Columns ``name`` (or ``scene`` and ``name``, or ``scene/name`` in one) and ``timestamp``; a
    column named like an image folder (``camera_image_0``) gives that camera its own time. One unit
    holds for the whole file (:mod:`petrflow.sources.clock`). Every one of `frames` must be there,
    `others` may be.

    Returns
    -------
    Timestamps in µs by frame label, and by frame label those of cameras.
    """
    rows = _rows_by_frame(path, "timestamps")
    numbers: dict[str, dict[str, Decimal]] = {}
    runs: dict[str, list[Decimal]] = {}
    frames = [*frames, *(frame for frame in others if _find_row(rows, frame) is not None)]
    for frame in frames:
        row = _row_of(rows, frame, path, "timestamps")
        numbers[frame.label] = {
            column: _number(path, frame, column, value)
            for column, value in row.items()
            if column == "timestamp" or (value and camera_of_folder(column) is not None)
        }
        if "timestamp" not in row:
            raise PetrflowError(f"`timestamps` {path} has no column `timestamp` in its first line.")
        runs.setdefault(frame.scene, []).append(numbers[frame.label]["timestamp"])
    unit = unit_of(list(runs.values()))
    times: dict[str, int] = {}
    camera_times: dict[str, dict[str, int]] = {}
    for frame in frames:
        found = {column: _time(path, frame, column, value, unit) for column, value in numbers[frame.label].items()}
        times[frame.label] = found.pop("timestamp")
        camera_times[frame.label] = {str(camera_of_folder(column)): value for column, value in found.items()}
    return times, camera_times


def read_poses(path: Path, frames: Sequence[FrameFiles], others: Sequence[FrameFiles] = ()) -> dict[str, np.ndarray]:
    """Read the `poses` file: where the point cloud's frame stood in a world whose z is up.

    A CSV with columns ``name`` (and ``scene``), ``tx, ty, tz`` in m and ``qw, qx, qy, qz``; or a
    JSON object ``{name: {"translation": [x, y, z], "rotation": [w, x, y, z]}}``, names also as
    ``scene/name``.

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
    frames = [*frames, *(frame for frame in others if _find_row(rows, frame) is not None)]
    return {frame.label: _pose(path, frame, _row_of(rows, frame, path, "poses")) for frame in frames}


def _listed(value: Any, parts: str) -> list[Any]:
    """A list as it is, `{x, y, z}` in order."""
    return [value[part] for part in parts] if isinstance(value, Mapping) else list(value)


def _pose(path: Path, frame: FrameFiles, row: Mapping[str, Any]) -> np.ndarray:
    try:
        if "translation" in row:
            values = [
                float(value) for value in (*_listed(row["translation"], "xyz"), *_listed(row["rotation"], "wxyz"))
            ]
        else:
            values = [float(str(row[column]).replace(",", ".")) for column in _POSE_COLUMNS]
    except (KeyError, TypeError, ValueError):
        values = []
    if len(values) != 7 or not all(map(math.isfinite, values)) or abs(math.hypot(*values[3:]) - 1) > 0.01:
        raise PetrflowError(
            f"`poses` {path}: frame {frame.label} needs a finite translation (x, y, z) and a unit quaternion (w, x, y, z)."
        )
    return transform(values[:3], values[3:])


def _number(path: Path, frame: FrameFiles, column: str, text: str | None) -> Decimal:
    value = read_number(text) if text else None
    if value is None:
        raise PetrflowError(
            f"`timestamps` {path}: column {column} of frame {frame.label} is {text!r}, not a time in s, ms, µs or ns."
        )
    return value


def _time(path: Path, frame: FrameFiles, column: str, value: Decimal, unit: Decimal | None) -> int:
    found = in_microseconds(value, unit)
    if found is None:
        raise PetrflowError(
            f"`timestamps` {path}: column {column} of frame {frame.label} is {value}, which is no time since 1970 as the others are."
        )
    return found


def _rows_by_frame(path: Path, key: str) -> dict[str, dict[str, str]]:
    """Read a CSV as programs save it: with commas, semicolons or tabs, in UTF-8, UTF-16 or GBK."""
    try:
        lines = read_text(path).lstrip("\ufeff").splitlines()
    except (OSError, ValueError) as error:
        raise PetrflowError(f"`{key}` {path} is no text file ({error}). Save it as CSV in UTF-8.") from error
    head = lines[0] if lines else ""
    delimiter = max(",;\t", key=head.count)
    reader = csv.reader(lines, delimiter=delimiter, skipinitialspace=True)
    columns = [column.strip().lower() for column in next(reader, [])]
    if "name" not in columns:
        raise PetrflowError(f"`{key}` {path} has no column `name` in its first line.")
    rows: dict[str, dict[str, str]] = {}
    for values in reader:
        row = dict(zip(columns, (value.strip() for value in values), strict=False))
        if not row.get("name"):
            continue
        label = f"{row['scene']}/{row['name']}" if row.get("scene") else row["name"]
        if label in rows:
            raise PetrflowError(f"`{key}` {path} names frame {label} twice. Add a column `scene`, or remove one line.")
        rows[label] = row
    return rows


def _find_row(rows: Mapping[str, Any], frame: FrameFiles) -> Any:
    names = [frame.label, frame.name]
    if frame.name.isdecimal():  # programs for tables drop leading zeros
        plain = str(int(frame.name))
        names += [f"{frame.scene}/{plain}" if frame.scene else plain, plain]
    return next((rows[name] for name in names if name in rows), None)


def _row_of(rows: Mapping[str, Any], frame: FrameFiles, path: Path, key: str) -> Mapping[str, Any]:
    row = _find_row(rows, frame)
    if not isinstance(row, Mapping):
        raise PetrflowError(
            f"`{key}` {path} does not name frame {frame.label}. Add a line for it, or leave `{key}` out."
        )
    return row
