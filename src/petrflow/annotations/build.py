"""From a nuScenes root to annotation stores: joins over whole tables, no record is visited one by one.

What a store holds is what Paddle3D's ``tools/create_petr_nus_infos.py`` puts into its infos (read at its develop branch, 2022 to
2026), which walks the devkit record by record and takes hours at the size of trainval.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from tqdm import tqdm

from petrflow import geometry
from petrflow.annotations import layout
from petrflow.annotations.tables import BOOL, INT, LIST, MATRIX, TEXT, Columns, read_columns, vector
from petrflow.files import PetrflowError, fingerprint, read_json, sha256_file

CAMERA_ORDER = ("CAM_FRONT", "CAM_FRONT_RIGHT", "CAM_FRONT_LEFT", "CAM_BACK", "CAM_BACK_LEFT", "CAM_BACK_RIGHT")
"""Order of the cameras in Paddle3D's infos and loader."""
_SWEEP_ORDER = ("CAM_FRONT", "CAM_FRONT_RIGHT", "CAM_BACK_RIGHT", "CAM_BACK", "CAM_BACK_LEFT", "CAM_FRONT_LEFT")
"""Order in which stock walks the cameras back in time; it matters where one camera's chain ends early."""
LIDAR = "LIDAR_TOP"

DETECTION_NAMES = {
    "human.pedestrian.adult": "pedestrian",
    "human.pedestrian.child": "pedestrian",
    "human.pedestrian.construction_worker": "pedestrian",
    "human.pedestrian.police_officer": "pedestrian",
    "movable_object.barrier": "barrier",
    "movable_object.trafficcone": "traffic_cone",
    "vehicle.bicycle": "bicycle",
    "vehicle.bus.bendy": "bus",
    "vehicle.bus.rigid": "bus",
    "vehicle.car": "car",
    "vehicle.construction": "construction_vehicle",
    "vehicle.motorcycle": "motorcycle",
    "vehicle.trailer": "trailer",
    "vehicle.truck": "truck",
}
"""nuScenes category to detection class; any other category keeps its own name, as in stock infos."""
VISIBILITY_LEVELS = {"v0-40": 1, "v40-60": 2, "v60-80": 3, "v80-100": 4}

# The devkit refuses a velocity from annotations further apart than this (s); twice as much from both neighbours.
_MAX_VELOCITY_SECONDS = 1.5

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


# ------------------------------------------------------------------------------------------------------------------ tables


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


def _channels(tables: dict[str, Columns]) -> tuple[np.ndarray, np.ndarray]:
    """Channel and modality of every calibrated sensor, as arrays of str."""
    calibrated, sensor = tables["calibrated_sensor"], tables["sensor"]
    rows = _lookup(calibrated["sensor_token"], sensor["token"], "calibrated_sensor", "sensor")
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
    channels, _ = _channels(tables)
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


def _lookup(keys: pa.Array, values: pa.Array, table: str, target: str, optional: bool = False) -> np.ndarray:
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


# ------------------------------------------------------------------------------------------------------------------ keyframes, frames


def assemble(
    root: Root, tables: dict[str, Columns], split: str, num_prev_keyframes: int, sweeps_per_keyframe: int
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Join the tables into the columns and the metadata of one split's store (see docs/annotation-store.md)."""
    cameras = camera_names(root, tables)
    keyframes, sample_rows = _keyframes(root, tables, split)
    samples = tables["sample"]["token"].take(pa.array(sample_rows))
    frames, current = _camera_frames(tables, samples, cameras)
    previous = _lookup(
        pc.take(tables["sample"]["prev"], pa.array(sample_rows)), samples, "sample", "sample", optional=True
    )
    sweeps, sweep_count = walk_back(
        current, frames.pop("prev"), previous, cameras, num_prev_keyframes, sweeps_per_keyframe
    )
    used, renumbered = _renumber(current, sweeps, len(frames["timestamp"]))
    offsets = np.concatenate([[0], np.cumsum(sweep_count)])
    filled = np.arange(sweeps.shape[1]) < sweep_count[:, None]
    lidar, lidar_pose = _lidar_frames(tables, samples)
    columns = {
        **{f"keyframe.{name}": column for name, column in {**keyframes, **lidar}.items()},
        "keyframe.camera_frame": renumbered[current],
        "keyframe.sweep_offset": offsets.astype(np.int64),
        "sweep.camera_frame": renumbered[sweeps[filled]],
        **{f"camera_frame.{name}": _take(column, used) for name, column in frames.items()},
        **_calibrations(tables),
        **{
            f"box.{name}": column
            for name, column in _boxes(tables, samples, keyframes["timestamp"], lidar_pose).items()
        },
    }
    columns["keyframe.box_offset"] = columns.pop("box.offset")
    metadata = {
        "version": root.version,
        "split": split,
        "dataset_fingerprint": root.fingerprint,
        "cameras": list(cameras),
        "num_prev_keyframes": num_prev_keyframes,
        "sweeps_per_keyframe": sweeps_per_keyframe,
        "names": columns.pop("box.names"),
        "attributes": columns.pop("box.attributes"),
    }
    return columns, metadata


def _take(column: Any, rows: np.ndarray) -> Any:
    return column[rows] if isinstance(column, np.ndarray) else pc.take(column, pa.array(rows))


def _keyframes(root: Root, tables: dict[str, Columns], split: str) -> tuple[Columns, np.ndarray]:
    """Keyframes of the split's scenes in time order, and their rows in sample.json."""
    if split not in root.splits:
        raise PetrflowError(f"{root.folder} defines no split '{split}': it has {', '.join(root.splits) or 'none'}.")
    scene, sample = tables["scene"], tables["sample"]
    names = scene["name"].to_pylist()
    wanted = set(root.splits[split])
    if unknown := sorted(wanted - set(names)):
        raise PetrflowError(
            f"{root.folder / root.version / 'scene.json'} has no scene {', '.join(unknown[:5])} ({len(unknown)} of the {split} split's "
            f"{len(wanted)} are missing): correct the split, or fetch the rest of the data set."
        )
    chosen = np.array([name in wanted for name in names], dtype=bool)
    scene_rows = _lookup(sample["scene_token"], scene["token"], "sample", "scene")
    rows = np.flatnonzero(chosen[scene_rows])
    order = pc.sort_indices(
        pa.table({"timestamp": sample["timestamp"][rows], "token": pc.take(sample["token"], pa.array(rows))}),
        sort_keys=[("timestamp", "ascending"), ("token", "ascending")],
    )
    rows = rows[order.to_numpy()]
    columns = {
        "token": pc.take(sample["token"], pa.array(rows)),
        "timestamp": sample["timestamp"][rows],
        "scene": np.unique(scene_rows[rows], return_inverse=True)[1].astype(np.int32),
    }
    used_scenes = pa.array(np.unique(scene_rows[rows]))
    columns["scene_name"] = pc.take(pc.take(scene["name"], used_scenes), pa.array(columns["scene"]))
    columns["scene_token"] = pc.take(pc.take(scene["token"], used_scenes), pa.array(columns["scene"]))
    del columns["scene"]
    return columns, rows


def _camera_frames(
    tables: dict[str, Columns], samples: pa.Array, cameras: tuple[str, ...]
) -> tuple[Columns, np.ndarray]:
    """All camera frames of the keyframes' scenes, near in the file what is near in time, and the (K, N) frames of the keyframes."""
    data = tables["sample_data"]
    channels, _ = _channels(tables)
    camera_of = {name: k for k, name in enumerate(cameras)}
    calibration = _lookup(
        data["calibrated_sensor_token"], tables["calibrated_sensor"]["token"], "sample_data", "calibrated_sensor"
    )
    camera = np.array([camera_of.get(channel, -1) for channel in channels], dtype=np.int32)[calibration]
    keyframe = pc.fill_null(pc.index_in(data["sample_token"], value_set=samples), -1).to_numpy(zero_copy_only=False)
    rows = np.flatnonzero((camera >= 0) & (keyframe >= 0))
    rows = rows[np.lexsort((camera[rows], data["timestamp"][rows], keyframe[rows]))]
    tokens = pc.take(data["token"], pa.array(rows))
    pose = _lookup(
        pc.take(data["ego_pose_token"], pa.array(rows)), tables["ego_pose"]["token"], "sample_data", "ego_pose"
    )
    frames = {
        "token": tokens,
        "keyframe": keyframe[rows].astype(np.int32),
        "camera": camera[rows],
        "timestamp": data["timestamp"][rows],
        "is_keyframe": data["is_key_frame"][rows].astype(np.uint8),
        "path": pc.take(data["filename"], pa.array(rows)),
        "size": np.stack([data["width"][rows], data["height"][rows]], axis=1).astype(np.int32),
        "calibration": calibration[rows],
        "ego_pose": np.concatenate(
            [tables["ego_pose"]["translation"][pose], tables["ego_pose"]["rotation"][pose]], axis=1
        ),
        "prev": _lookup(pc.take(data["prev"], pa.array(rows)), tokens, "sample_data", "sample_data", optional=True),
    }
    current = np.full((len(samples), len(cameras)), -1, dtype=np.int32)
    key = np.flatnonzero(frames["is_keyframe"])
    current[frames["keyframe"][key], frames["camera"][key]] = key
    if (current < 0).any():
        row, column = np.argwhere(current < 0)[0]
        raise PetrflowError(
            f"sample_data.json has no key frame of {cameras[column]} for sample {samples[int(row)].as_py()} ({int((current < 0).sum())} such "
            "gaps): every keyframe needs an image of every camera. Take the camera or the scene out of the data set, or complete it."
        )
    return frames, current


def walk_back(
    current: np.ndarray,
    frame_prev: np.ndarray,
    keyframe_prev: np.ndarray,
    cameras: Sequence[str],
    num_prev_keyframes: int,
    sweeps_per_keyframe: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Follow every keyframe's cameras back in time, as stock does, all keyframes at once.

    For each of up to ``num_prev_keyframes`` previous keyframes: ``sweeps_per_keyframe`` steps along each camera's own chain, then the
    previous keyframe itself, from which the next steps start. Where any camera's chain has ended, a step repeats the entry before it,
    while the cameras that stock walks ahead of the ended one still move on. A repeat with nothing before it, where stock fails with an
    IndexError, is left out.

    Parameters
    ----------
    current : (K, N) int32
        Camera frames of the keyframes.
    frame_prev : (F,) int32
        Previous frame of the same camera, -1 at the start.
    keyframe_prev : (K,) int32
        Previous keyframe of the same scene, -1 at the start.
    cameras : sequence of N str

    Returns
    -------
    sweeps : (K, S, N) int32
        S = num_prev_keyframes * (sweeps_per_keyframe + 1); nearest first, then filled up with -1.
    count : (K,) int64
        Entries that are filled.
    """
    number, width = current.shape
    ranks = [
        _SWEEP_ORDER.index(name) if name in _SWEEP_ORDER else len(_SWEEP_ORDER) + k for k, name in enumerate(cameras)
    ]
    order = np.argsort(ranks)
    position = current[:, order].copy()
    sweeps = np.full((number, num_prev_keyframes * (sweeps_per_keyframe + 1), width), -1, dtype=np.int32)
    count = np.zeros(number, dtype=np.int64)
    keyframe = np.arange(number)
    rows = np.flatnonzero(keyframe_prev >= 0)
    for _ in range(num_prev_keyframes):
        for _ in range(sweeps_per_keyframe):
            here = position[rows]
            before = np.where(here >= 0, frame_prev[here], -1)
            ended = np.logical_or.accumulate(before < 0, axis=1)
            position[rows] = np.where(ended, here, before)
            whole = ~ended[:, -1]
            fresh = rows[whole]
            sweeps[fresh, count[fresh]] = before[whole]
            repeated = rows[~whole]
            repeated = repeated[count[repeated] > 0]
            sweeps[repeated, count[repeated]] = sweeps[repeated, count[repeated] - 1]
            count[fresh] += 1
            count[repeated] += 1
        keyframe[rows] = keyframe_prev[keyframe[rows]]
        position[rows] = current[keyframe[rows]][:, order]
        sweeps[rows, count[rows]] = position[rows]
        count[rows] += 1
        rows = rows[keyframe_prev[keyframe[rows]] >= 0]
    inverse = np.argsort(order)
    return sweeps[:, :, inverse], count


def _renumber(current: np.ndarray, sweeps: np.ndarray, number: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the frames that any keyframe uses, and (number,) their new numbers."""
    flags = np.zeros(number + 1, dtype=bool)
    flags[current] = True
    flags[sweeps] = True  # -1 lands on the extra entry
    used = np.flatnonzero(flags[:-1])
    renumbered = np.full(number, -1, dtype=np.int32)
    renumbered[used] = np.arange(len(used), dtype=np.int32)
    return used, renumbered


def _lidar_frames(tables: dict[str, Columns], samples: pa.Array) -> tuple[Columns, np.ndarray]:
    """Lidar columns of the keyframes, and the (K,) quaternions and poses in one (K, 14) array: lidar_to_ego, ego_to_global."""
    data, calibrated = tables["sample_data"], tables["calibrated_sensor"]
    channels, _ = _channels(tables)
    calibration = _lookup(data["calibrated_sensor_token"], calibrated["token"], "sample_data", "calibrated_sensor")
    keyframe = pc.fill_null(pc.index_in(data["sample_token"], value_set=samples), -1).to_numpy(zero_copy_only=False)
    rows = np.flatnonzero((channels == LIDAR)[calibration] & (keyframe >= 0) & data["is_key_frame"])
    lidar_row = np.full(len(samples), -1, dtype=np.int64)
    lidar_row[keyframe[rows]] = rows
    if (lidar_row < 0).any():
        token = samples[int(np.flatnonzero(lidar_row < 0)[0])].as_py()
        raise PetrflowError(
            f"sample_data.json has no key frame of {LIDAR} for sample {token}: boxes are in its frame. Add the record (the file itself is "
            "not needed), or take the scene out of the data set."
        )
    pose = _lookup(
        pc.take(data["ego_pose_token"], pa.array(lidar_row)), tables["ego_pose"]["token"], "sample_data", "ego_pose"
    )
    calibration = calibration[lidar_row]
    columns = {
        "lidar_token": pc.take(data["token"], pa.array(lidar_row)),
        "lidar_path": pc.take(data["filename"], pa.array(lidar_row)),
        "lidar_to_ego": np.concatenate(
            [calibrated["translation"][calibration], calibrated["rotation"][calibration]], axis=1
        ),
        "ego_to_global": np.concatenate(
            [tables["ego_pose"]["translation"][pose], tables["ego_pose"]["rotation"][pose]], axis=1
        ),
    }
    return columns, np.concatenate([columns["lidar_to_ego"], columns["ego_to_global"]], axis=1)


def _calibrations(tables: dict[str, Columns]) -> dict[str, Any]:
    calibrated = tables["calibrated_sensor"]
    return {
        "calibration.camera_to_ego": np.concatenate([calibrated["translation"], calibrated["rotation"]], axis=1),
        "calibration.intrinsic": calibrated["camera_intrinsic"].reshape(-1, 3, 3),
    }


# ------------------------------------------------------------------------------------------------------------------ boxes


def _boxes(
    tables: dict[str, Columns], samples: pa.Array, timestamps: np.ndarray, lidar_pose: np.ndarray
) -> dict[str, Any]:
    """Annotations of the keyframes, in table order within each: boxes and velocities in the keyframe's lidar frame."""
    annotation = tables["sample_annotation"]
    keyframe = pc.fill_null(pc.index_in(annotation["sample_token"], value_set=samples), -1).to_numpy(
        zero_copy_only=False
    )
    rows = np.flatnonzero(keyframe >= 0)
    rows = rows[np.argsort(keyframe[rows], kind="stable")]
    keyframe = keyframe[rows]
    lidar_from_global = geometry.invert_rigid(
        geometry.transform(lidar_pose[:, 7:10], lidar_pose[:, 10:14])
        @ geometry.transform(lidar_pose[:, :3], lidar_pose[:, 3:7])
    )
    turn = geometry.quaternion_inverse(geometry.quaternion_multiply(lidar_pose[:, 10:14], lidar_pose[:, 3:7]))
    centre = np.einsum("nij,nj->ni", lidar_from_global[keyframe, :3, :3], annotation["translation"][rows])
    centre += lidar_from_global[keyframe, :3, 3]
    yaw = geometry.quaternion_yaw_intrinsic(geometry.quaternion_multiply(turn[keyframe], annotation["rotation"][rows]))
    velocity = np.concatenate([_velocities(tables, rows), np.zeros((len(rows), 1))], axis=1)
    velocity = np.einsum("nij,nj->ni", lidar_from_global[keyframe, :2, :3], velocity)
    names, name = _box_names(tables, rows)
    attributes, attribute = _labels(annotation["attribute_tokens"], rows, tables["attribute"], "name", "attribute")
    levels, level = _labels(annotation["visibility_token"], rows, tables["visibility"], "level", "visibility")
    ranks = np.array([VISIBILITY_LEVELS.get(text, 0) for text in levels], dtype=np.int8)
    lidar_points, radar_points = annotation["num_lidar_pts"][rows], annotation["num_radar_pts"][rows]
    return {
        "offset": np.concatenate([[0], np.cumsum(np.bincount(keyframe, minlength=len(samples)))]).astype(np.int64),
        "token": pc.take(annotation["token"], pa.array(rows)),
        "instance_token": pc.take(annotation["instance_token"], pa.array(rows)),
        "box": np.concatenate([centre, annotation["size"][rows], yaw[:, None]], axis=1),
        "velocity": velocity,
        "name": name,
        "names": names,
        "attribute": attribute,
        "attributes": attributes,
        "visibility": ranks[level],
        "num_lidar_pts": lidar_points.astype(np.int32),
        "num_radar_pts": radar_points.astype(np.int32),
        "valid": (lidar_points + radar_points > 0).astype(np.uint8),
    }


def _velocities(tables: dict[str, Columns], rows: np.ndarray) -> np.ndarray:
    """Velocities (n, 2) in the global frame as the devkit's ``box_velocity`` has them; NaN where it has none."""
    annotation, sample = tables["sample_annotation"], tables["sample"]
    own = rows.astype(np.int32)
    prev = _lookup(
        pc.take(annotation["prev"], pa.array(rows)), annotation["token"], "sample_annotation", "sample_annotation", True
    )
    following = _lookup(
        pc.take(annotation["next"], pa.array(rows)), annotation["token"], "sample_annotation", "sample_annotation", True
    )
    first, last = np.where(prev >= 0, prev, own), np.where(following >= 0, following, own)
    sample_row = _lookup(annotation["sample_token"], sample["token"], "sample_annotation", "sample")
    # The devkit turns each timestamp into seconds before it subtracts, which costs 5e-7 of precision: equal figures need equal steps.
    seconds = 1e-6 * sample["timestamp"]
    elapsed = seconds[sample_row[last]] - seconds[sample_row[first]]
    allowed = np.where((prev >= 0) & (following >= 0), 2 * _MAX_VELOCITY_SECONDS, _MAX_VELOCITY_SECONDS)
    known = ((prev >= 0) | (following >= 0)) & (elapsed <= allowed)
    with np.errstate(divide="ignore", invalid="ignore"):
        velocity = (annotation["translation"][last, :2] - annotation["translation"][first, :2]) / elapsed[:, None]
    return np.where(known[:, None], velocity, np.nan)


def _box_names(tables: dict[str, Columns], rows: np.ndarray) -> tuple[list[str], np.ndarray]:
    instance, category = tables["instance"], tables["category"]
    instance_row = _lookup(
        pc.take(tables["sample_annotation"]["instance_token"], pa.array(rows)),
        instance["token"],
        "sample_annotation",
        "instance",
    )
    category_row = _lookup(instance["category_token"], category["token"], "instance", "category")
    known = [DETECTION_NAMES.get(name, name) for name in category["name"].to_pylist()]
    names = sorted(set(known))
    code = np.array([names.index(name) for name in known], dtype=np.int16)
    return names, code[category_row[instance_row]]


def _labels(
    tokens: pa.Array, rows: np.ndarray, table: Columns, column: str, target: str
) -> tuple[list[str], np.ndarray]:
    """Texts ('' first) and the code (n,) int16 of each row among them; an empty token is 0."""
    found = _lookup(pc.take(tokens, pa.array(rows)), table["token"], "sample_annotation", target, optional=True)
    return ["", *table[column].to_pylist()], (found + 1).astype(np.int16)


# ------------------------------------------------------------------------------------------------------------------ entry points


def build_all(
    root: Path,
    outputs: Mapping[str, Path],
    *,
    num_prev_keyframes: int = 5,
    sweeps_per_keyframe: int = 5,
    progress: bool = True,
    version: str | None = None,
    splits: Mapping[str, Sequence[str]] | None = None,
) -> None:
    """Build the stores of several splits from one reading of the tables.

    Parameters
    ----------
    root : Path
        A nuScenes root.
    outputs : mapping
        Split name (``train``, ``val``) to the store's path.
    num_prev_keyframes, sweeps_per_keyframe : int
        Length of the chain of previous camera frames: stock's ``--num_prev`` and ``--num_sweep``.
    progress : bool
        Show a bar of scenes on stderr.
    version, splits : optional
        See :func:`describe_root`.
    """
    described = describe_root(root, version, splits)
    tables = read_tables(described, progress)
    for split, path in outputs.items():
        columns, metadata = assemble(described, tables, split, num_prev_keyframes, sweeps_per_keyframe)
        layout.write(Path(path), columns, metadata)


def build(
    root: Path,
    split: str,
    out: Path,
    *,
    num_prev_keyframes: int = 5,
    sweeps_per_keyframe: int = 5,
    progress: bool = True,
    version: str | None = None,
    splits: Mapping[str, Sequence[str]] | None = None,
) -> None:
    """Build the store of one split; see :func:`build_all`, which reads the tables once for both."""
    build_all(
        root,
        {split: out},
        num_prev_keyframes=num_prev_keyframes,
        sweeps_per_keyframe=sweeps_per_keyframe,
        progress=progress,
        version=version,
        splits=splits,
    )
