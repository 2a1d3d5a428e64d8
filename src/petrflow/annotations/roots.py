"""What a nuScenes root holds, and its tables as columns."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from tqdm import tqdm

from petrflow.annotations.tables import BOOL, INT, LIST, MATRIX, TEXT, Columns, read_columns, vector
from petrflow.files import PetrflowError, fingerprint, read_json, sha256_file

CAMERA_ORDER = ("CAM_FRONT", "CAM_FRONT_RIGHT", "CAM_FRONT_LEFT", "CAM_BACK", "CAM_BACK_LEFT", "CAM_BACK_RIGHT")
"""Order of the cameras in Paddle3D's infos and loader."""
LIDAR = "LIDAR_TOP"

_POSE = {"token": TEXT, "translation": vector(3), "rotation": vector(4)}
_TABLES: dict[str, dict[str, str | int]] = {
    "scene": {"token": TEXT, "name": TEXT},
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


@dataclass(frozen=True)
class Root:
    """What a nuScenes root says about itself."""

    folder: Path
    version: str
    splits: dict[str, list[str]]
    fingerprint: str
    cameras: tuple[str, ...] | None


def describe_root(root: Path, version: str | None = None, splits: Mapping[str, Sequence[str]] | None = None) -> Root:
    """Read version, splits, cameras and fingerprint of a root from ``.complete.json`` and ``splits.json``, or from its tables.

    Parameters
    ----------
    root : Path
        Folder with the ``<version>/`` tables.
    version : str, optional
        Needed only where there is no ``.complete.json`` and more than one version.
    splits : mapping, optional
        ``{"train": [scene names], "val": [...]}``; by default from ``splits.json``.
    """
    root = Path(root)
    marker: dict[str, Any] = read_json(root / ".complete.json") if (root / ".complete.json").exists() else {}
    if version is None:
        version = marker.get("version")
    if version is None:
        found = sorted(path.parent.name for path in root.glob("*/sample_data.json"))
        if len(found) != 1:
            raise PetrflowError(
                f"{root} holds {len(found)} nuScenes versions ({', '.join(found) or 'no folder with sample_data.json'}): "
                "name one as the data set's version."
            )
        version = found[0]
    if splits is None:
        path = root / version / "splits.json"
        if not path.exists():
            raise PetrflowError(f"{path} is missing: run the data step, which writes it, or pass the splits.")
        named = read_json(path)
        splits = {key: named[f"petrflow_{key}"] for key in ("train", "val") if f"petrflow_{key}" in named}
    tables = root / version
    mark = marker.get("fingerprint") or fingerprint(
        {name: sha256_file(tables / f"{name}.json") for name in sorted(_TABLES)}
    )
    cameras = tuple(marker["cameras"]) if "cameras" in marker else None
    return Root(root, version, {key: list(names) for key, names in splits.items()}, mark, cameras)


def read_tables(root: Root, progress: bool = True) -> dict[str, Columns]:
    """Read what the stores need of all tables; sample_data only of cameras and of lidar keyframes."""
    folder = root.folder / root.version
    total = sum((folder / f"{name}.json").stat().st_size for name in _TABLES if (folder / f"{name}.json").exists())
    scenes = read_columns(folder / "scene.json", _TABLES["scene"])
    tables = {"scene": scenes}
    # Tables are parsed whole, so a scene is done when its share of the bytes is.
    count = len(scenes["token"])
    style = "{l_bar}{bar}| {n:.0f}/{total} scenes [{elapsed}<{remaining}]"
    with tqdm(total=count, desc="annotate", unit="scene", disable=not progress, bar_format=style) as bar:

        def advance(size: int) -> None:
            bar.update(size * count / max(total, 1))

        for name, kinds in _TABLES.items():
            if name == "scene":
                continue
            keep = _sample_data_filter(root, tables) if name == "sample_data" else None
            tables[name] = read_columns(folder / f"{name}.json", kinds, keep=keep, on_bytes=advance)
    return tables


def channels_of(tables: dict[str, Columns]) -> tuple[np.ndarray, np.ndarray]:
    """Channel and modality of every calibrated sensor, as arrays of str."""
    calibrated, sensor = tables["calibrated_sensor"], tables["sensor"]
    rows = lookup(calibrated["sensor_token"], sensor["token"], "calibrated_sensor", "sensor")
    return (
        np.array(sensor["channel"].to_pylist(), dtype=object)[rows],
        np.array(sensor["modality"].to_pylist(), dtype=object)[rows],
    )


def camera_names(root: Root, tables: dict[str, Columns]) -> tuple[str, ...]:
    """Channels of the cameras in the store's order: nuScenes' own in stock order, then others as the root names them."""
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
    return tuple(
        [name for name in CAMERA_ORDER if name in names] + [name for name in names if name not in CAMERA_ORDER]
    )


def _sample_data_filter(root: Root, tables: dict[str, Columns]) -> Callable[[pa.Table], pa.Array]:
    channels, _ = channels_of(tables)
    tokens = tables["calibrated_sensor"]["token"]
    cameras = set(camera_names(root, tables))
    camera_tokens = tokens.filter(pa.array([channel in cameras for channel in channels], pa.bool_()))
    lidar_tokens = tokens.filter(pa.array([channel == LIDAR for channel in channels], pa.bool_()))

    def keep(rows: pa.Table) -> pa.Array:
        token = rows.column("calibrated_sensor_token")
        return pc.or_(
            pc.is_in(token, value_set=camera_tokens),
            pc.and_(rows.column("is_key_frame"), pc.is_in(token, value_set=lidar_tokens)),
        )

    return keep


def lookup(keys: pa.Array, values: pa.Array, table: str, target: str, optional: bool = False) -> np.ndarray:
    """Return the row of every key in ``values``: (n,) int32. An empty key is -1 if ``optional``; a dangling one is an error."""
    rows = pc.fill_null(pc.index_in(keys, value_set=values), -1).to_numpy(zero_copy_only=False)
    missing = rows < 0
    if missing.any():
        if optional:
            missing &= pc.not_equal(keys, "").to_numpy(zero_copy_only=False)
        if missing.any():
            token = keys[int(np.flatnonzero(missing)[0])].as_py()
            raise PetrflowError(
                f"{table}.json refers to {target} '{token}', which {target}.json does not hold ({int(missing.sum())} such references). "
                "The tables are incomplete or of different versions: copy or extract the data set again."
            )
    return rows.astype(np.int32)
