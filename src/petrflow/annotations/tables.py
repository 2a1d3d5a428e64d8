"""What a nuScenes root holds, and its tables as columns."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from petrflow.errors import PetrflowError
from petrflow.files.status import tqdm
from petrflow.nuscenes.arrays import arrow, take, text_lengths, valid, view
from petrflow.nuscenes.columns import BOOL, INT, LIST, MATRIX, TEXT, Columns, Kinds, empty_columns, read_columns, vector
from petrflow.nuscenes.names import LIDAR, NEEDED_TABLES, in_camera_order
from petrflow.nuscenes.root import Root

_POSE: Kinds = {"token": TEXT, "translation": vector(3), "rotation": vector(4)}
_TABLES: dict[str, Kinds] = {
    "scene": {"token": TEXT, "name": TEXT, "description": TEXT},
    "sensor": {"token": TEXT, "channel": TEXT, "modality": TEXT},
    "calibrated_sensor": {**_POSE, "sensor_token": TEXT, "camera_intrinsic": MATRIX},
    "category": {"token": TEXT, "name": TEXT},
    "attribute": {"token": TEXT, "name": TEXT},
    "visibility": {"token": TEXT, "level": TEXT},
    "instance": {"token": TEXT, "category_token": TEXT},
    "sample": {"token": TEXT, "timestamp": INT, "prev": TEXT, "scene_token": TEXT},
    "sample_data": {
        "token": TEXT,
        "sample_token": TEXT,
        "ego_pose_token": TEXT,
        "calibrated_sensor_token": TEXT,
        "timestamp": INT,
        "is_key_frame": BOOL,
        "width": INT,
        "height": INT,
        "filename": TEXT,
        "prev": TEXT,
    },
    "ego_pose": _POSE,
    "sample_annotation": {
        "token": TEXT,
        "sample_token": TEXT,
        "instance_token": TEXT,
        "visibility_token": TEXT,
        "attribute_tokens": LIST,
        "translation": vector(3),
        "size": vector(3),
        "rotation": vector(4),
        "prev": TEXT,
        "next": TEXT,
        "num_lidar_pts": INT,
        "num_radar_pts": INT,
    },
}
# What nothing needs: a record, or the whole table of visibilities, may lack it.
_OPTIONAL = {
    "scene": ("description",),
    "sample_annotation": ("visibility_token", "attribute_tokens", "num_radar_pts"),
}


# ------------------------------------------------------------------------------------------------------------------ tables


def read_tables(root: Root, progress: bool = True, threads: int | None = None) -> dict[str, Columns]:
    """Read what the stores need of all tables, with every token that refers to a row turned into
    that row's number.

    Returns
    -------
    dict
        Table name to columns. A column ``x_row`` holds int32 rows of table ``x``, -1 for none;
        ``sample_data`` holds only rows of the root's cameras and lidar keyframes, with the column
        ``camera``: its place in :func:`camera_names`, -1 for the lidar.
    """
    with table_progress(root, progress) as advance:
        tables = read_small_tables(root, advance, threads)
        for name in LARGE_TABLES:
            keep = wanted_frames(root, tables) if name == "sample_data" else None
            tables[name] = read_columns(
                table_path(root, name),
                _TABLES[name],
                optional=_OPTIONAL.get(name, ()),
                keep=keep,
                on_bytes=advance,
                threads=threads,
            )
            resolve(root, tables, name)
    return tables


LARGE_TABLES = ("sample_data", "ego_pose", "sample_annotation")
"""Tables that grow with every frame of a sensor, in the order in which they are read, after all
others.
"""


def read_small_tables(root: Root, advance: Callable[[float], object], threads: int | None = None) -> dict[str, Columns]:
    """Read all tables but the large ones."""
    tables: dict[str, Columns] = {}
    for name, kinds in _TABLES.items():
        if name in LARGE_TABLES:
            continue
        path = table_path(root, name)
        if name not in NEEDED_TABLES and not path.exists():
            tables[name] = empty_columns(kinds)
        else:
            optional = _OPTIONAL.get(name, ())
            tables[name] = read_columns(path, kinds, optional=optional, on_bytes=advance, threads=threads)
        resolve(root, tables, name)
    return tables


def table_path(root: Root, name: str) -> Path:
    """Return where a table is."""
    return root.folder / root.version / f"{name}.json"


def large_table(name: str) -> tuple[Kinds, tuple[str, ...]]:
    """Return the columns that are read of a large table, and those of them that records may
    lack.
    """
    return _TABLES[name], _OPTIONAL.get(name, ())


@contextlib.contextmanager
def table_progress(root: Root, shown: bool) -> Iterator[Callable[[float], object]]:
    """Show a bar of scenes; yield what moves it on by some bytes of tables.

    Tables are parsed whole, so a scene is done when its share of the bytes is.
    """
    total = sum(table_path(root, name).stat().st_size for name in _TABLES if table_path(root, name).exists())
    path = table_path(root, "scene")
    count = len(read_columns(path, _TABLES["scene"], optional=_OPTIONAL["scene"])["token"])
    style = "{l_bar}{bar}| {n:.0f}/{total} scenes [{elapsed}<{remaining}]"
    with tqdm(total=count, desc="annotate", unit="scene", disable=not shown, bar_format=style) as bar:

        def advance(size: float) -> None:
            bar.update(size * count / max(total, 1))

        yield advance


# Table to its columns of tokens: column, table it refers to, whether it may be empty, name of the
# column of rows.
_REFERENCES = {
    "calibrated_sensor": [("sensor_token", "sensor", False)],
    "instance": [("category_token", "category", False)],
    "sample": [("scene_token", "scene", False), ("prev", "sample", True)],
    "sample_data": [
        ("sample_token", "sample", False),
        ("calibrated_sensor_token", "calibrated_sensor", False),
    ],
    "sample_annotation": [
        ("sample_token", "sample", False),
        ("instance_token", "instance", False),
        ("visibility_token", "visibility", True),
        ("attribute_tokens", "attribute", True),
        ("prev", "sample_annotation", True),
        ("next", "sample_annotation", True),
    ],
}


def resolve(root: Root, tables: dict[str, Columns], name: str) -> None:
    """Replace the columns of tokens of a table that was just read by columns of rows."""
    table = tables[name]
    for column, target, optional in _REFERENCES.get(name, []):
        keys, known = table.pop(column), tables[target]["token"]
        rows: np.ndarray
        if target == "visibility" and not len(known):
            rows = np.full(len(keys), -1, dtype=np.int32)
        else:
            rows = lookup(keys, known, name, target, optional, table["token"])
        table[f"{column if column in ('prev', 'next') else target}_row"] = rows
    if name == "ego_pose":
        # A pose is stored with the frame it belongs to; the table itself is the largest thing here,
        # and goes.
        data = tables["sample_data"]
        rows = lookup(data.pop("ego_pose_token"), table["token"], "sample_data", "ego_pose", False, data["token"])
        data["ego_pose"] = np.concatenate([table["translation"][rows], table["rotation"][rows]], axis=1)
        del tables["ego_pose"]
    elif name == "sample_data":
        places = {channel: place for place, channel in enumerate(camera_names(root, tables))}
        camera = np.array([places.get(channel, -1) for channel in _channels(tables)], dtype=np.int32)
        table["camera"] = camera[table["calibrated_sensor_row"]]
        # A lidar keyframe follows sweeps, which were not read.
        rows = np.flatnonzero(table["camera"] >= 0)
        table["prev_row"] = np.full(len(table["camera"]), -1, dtype=np.int32)
        if not root.use_sweeps:
            del table["prev"]
            table["prev_row"][rows] = _frames_of_earlier_keyframes(table, tables["sample"], rows)
            return
        table["prev_row"][rows] = lookup(
            take(table.pop("prev"), rows), table["token"], name, name, True, take(table["token"], rows)
        )


def _frames_of_earlier_keyframes(data: Columns, sample: Columns, rows: np.ndarray) -> np.ndarray:
    """Return the row of the same camera's frame at the keyframe before: (n,) int32, -1 at the
    start.
    """
    place = np.full((len(sample["timestamp"]), int(data["camera"].max(initial=-1)) + 1), -1, dtype=np.int32)
    place[data["sample_row"][rows], data["camera"][rows]] = rows
    before = sample["prev_row"][data["sample_row"][rows]]
    return np.where(before >= 0, place[before, data["camera"][rows]], -1).astype(np.int32)


def lookup(
    keys: pa.Array, values: pa.Array, table: str, target: str, optional: bool, owners: pa.Array | None = None
) -> np.ndarray:
    """Return the row of every key in ``values``: (n,) int32. An empty key is -1 if ``optional``; a
    dangling one is an error, which names the record by its token in ``owners``.
    """
    found = pc.index_in(keys, value_set=values)
    known = valid(found)
    dangling = ~known & (text_lengths(keys) > 0) if optional else ~known
    if dangling.any():
        first = int(np.flatnonzero(dangling)[0])
        token, record = keys[first].as_py(), "" if owners is None else f" in record {owners[first].as_py()}"
        raise PetrflowError(
            f"{table}.json refers to {target} '{token}'{record}, which {target}.json does not hold ({int(dangling.sum())} such references). The "
            "tables are incomplete or of different versions: copy or extract the data set again."
        )
    return np.where(known, view(found), -1).astype(np.int32)


def _channels(tables: dict[str, Columns]) -> list[str]:
    """Channel of every calibrated sensor."""
    names = tables["sensor"]["channel"].to_pylist()
    return [names[row] for row in tables["calibrated_sensor"]["sensor_row"]]


def wanted_frames(root: Root, tables: dict[str, Columns]) -> Callable[[pa.RecordBatch], np.ndarray]:
    """Return what says of some rows of sample_data.json which are wanted: all of the cameras, and
    the lidar's keyframes.
    """
    tokens = tables["calibrated_sensor"]["token"]
    cameras = set(camera_names(root, tables))
    channels = _channels(tables)
    camera_tokens = tokens.filter(arrow(np.array([channel in cameras for channel in channels], dtype=bool)))
    lidar_tokens = tokens.filter(arrow(np.array([channel == LIDAR for channel in channels], dtype=bool)))

    def keep(rows: pa.RecordBatch) -> np.ndarray:
        token = rows.column("calibrated_sensor_token")
        lookup(token, tokens, "sample_data", "calibrated_sensor", False)
        camera, lidar = (view(pc.is_in(token, value_set=wanted)) for wanted in (camera_tokens, lidar_tokens))
        own = view(rows.column("is_key_frame"))
        wanted: np.ndarray = (camera if root.use_sweeps else camera & own) | (lidar & own)
        return wanted

    return keep


def camera_names(root: Root, tables: dict[str, Columns]) -> tuple[str, ...]:
    """Channels of the cameras in the store's order: nuScenes' own in stock order, then others as
    the root names them.
    """
    sensor = tables["sensor"]
    pairs = zip(sensor["channel"].to_pylist(), sensor["modality"].to_pylist(), strict=True)
    present = sorted({channel for channel, modality in pairs if modality == "camera"})
    names = list(root.cameras) if root.cameras is not None else present
    if unknown := sorted(set(names) - set(present)):
        raise PetrflowError(
            f"{root.folder / root.version / 'sensor.json'} has no camera {', '.join(unknown)}, which .complete.json names. "
            "Run the data step again."
        )
    if not names:
        raise PetrflowError(f"{root.folder / root.version / 'sensor.json'} names no camera: PETRv2 needs at least one.")
    return in_camera_order(names)
