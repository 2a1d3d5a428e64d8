"""Join the tables into keyframes, camera frames and the chains that lead from a keyframe back in time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from petrflow.annotations.roots import LIDAR, Root, channels_of, lookup
from petrflow.annotations.tables import Columns
from petrflow.files import PetrflowError

_SWEEP_ORDER = ("CAM_FRONT", "CAM_FRONT_RIGHT", "CAM_BACK_RIGHT", "CAM_BACK", "CAM_BACK_LEFT", "CAM_FRONT_LEFT")
"""Order in which stock walks the cameras back in time; it matters where one camera's chain ends early."""


def keyframes_of(root: Root, tables: dict[str, Columns], split: str) -> tuple[Columns, np.ndarray]:
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
    scene_rows = lookup(sample["scene_token"], scene["token"], "sample", "scene")
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


def camera_frames(
    tables: dict[str, Columns], samples: pa.Array, cameras: tuple[str, ...]
) -> tuple[Columns, np.ndarray]:
    """All camera frames of the keyframes' scenes, near in the file what is near in time, and the (K, N) frames of the keyframes."""
    data = tables["sample_data"]
    channels, _ = channels_of(tables)
    camera_of = {name: k for k, name in enumerate(cameras)}
    calibration = lookup(
        data["calibrated_sensor_token"], tables["calibrated_sensor"]["token"], "sample_data", "calibrated_sensor"
    )
    camera = np.array([camera_of.get(channel, -1) for channel in channels], dtype=np.int32)[calibration]
    keyframe = pc.fill_null(pc.index_in(data["sample_token"], value_set=samples), -1).to_numpy(zero_copy_only=False)
    rows = np.flatnonzero((camera >= 0) & (keyframe >= 0))
    rows = rows[np.lexsort((camera[rows], data["timestamp"][rows], keyframe[rows]))]
    tokens = pc.take(data["token"], pa.array(rows))
    pose = lookup(
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
        "prev": lookup(pc.take(data["prev"], pa.array(rows)), tokens, "sample_data", "sample_data", optional=True),
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
    *,
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


def renumber(current: np.ndarray, sweeps: np.ndarray, number: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the frames that any keyframe uses, and (number,) their new numbers."""
    flags = np.zeros(number + 1, dtype=bool)
    flags[current] = True
    flags[sweeps] = True  # -1 lands on the extra entry
    used = np.flatnonzero(flags[:-1])
    renumbered = np.full(number, -1, dtype=np.int32)
    renumbered[used] = np.arange(len(used), dtype=np.int32)
    return used, renumbered


def lidar_frames(tables: dict[str, Columns], samples: pa.Array) -> tuple[Columns, np.ndarray]:
    """Lidar columns of the keyframes, and the (K,) quaternions and poses in one (K, 14) array: lidar_to_ego, ego_to_global."""
    data, calibrated = tables["sample_data"], tables["calibrated_sensor"]
    channels, _ = channels_of(tables)
    calibration = lookup(data["calibrated_sensor_token"], calibrated["token"], "sample_data", "calibrated_sensor")
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
    pose = lookup(
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


def calibrations(tables: dict[str, Columns]) -> dict[str, Any]:
    calibrated = tables["calibrated_sensor"]
    return {
        "calibration.camera_to_ego": np.concatenate([calibrated["translation"], calibrated["rotation"]], axis=1),
        "calibration.intrinsic": calibrated["camera_intrinsic"].reshape(-1, 3, 3),
    }
