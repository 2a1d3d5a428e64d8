"""Join the tables into keyframes, camera frames and the chains that lead from a keyframe back in
time.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from petrflow.errors import PetrflowError
from petrflow.nuscenes.arrays import arrow, take, view
from petrflow.nuscenes.columns import Columns
from petrflow.nuscenes.names import LIDAR, LIDAR_HEIGHT
from petrflow.nuscenes.root import Root

_SWEEP_ORDER = ("CAM_FRONT", "CAM_FRONT_RIGHT", "CAM_BACK_RIGHT", "CAM_BACK", "CAM_BACK_LEFT", "CAM_FRONT_LEFT")
"""Order in which stock walks the cameras back in time; it matters where one camera's chain ends
early.
"""


def keyframes_of(root: Root, tables: dict[str, Columns], split: str) -> np.ndarray:
    """Rows in sample.json of the keyframes of the split's scenes, ordered by time and then by
    token: (K,) int64.
    """
    if split not in root.splits:
        raise PetrflowError(f"{root.folder} defines no split '{split}': it has {', '.join(root.splits) or 'none'}.")
    sample = tables["sample"]
    names = tables["scene"]["name"].to_pylist()
    wanted = set(root.splits[split])
    if unknown := sorted(wanted - set(names)):
        raise PetrflowError(
            f"{root.folder / root.version / 'scene.json'} has no scene {', '.join(unknown[:5])} ({len(unknown)} of the {split} split's "
            f"{len(wanted)} are missing): correct the split, or fetch the rest of the data set."
        )
    chosen = np.array([name in wanted for name in names], dtype=bool)
    rows = np.flatnonzero(chosen[sample["scene_row"]])
    keys = pa.Table.from_arrays(
        [arrow(sample["timestamp"][rows]), take(sample["token"], rows)], names=["timestamp", "token"]
    )
    ordered: np.ndarray = rows[
        view(pc.sort_indices(keys, sort_keys=[("timestamp", "ascending"), ("token", "ascending")]))
    ]
    return ordered


def number_of(rows: np.ndarray, total: int) -> np.ndarray:
    """Invert a choice of rows: (total,) int32 with the place of every row in ``rows``, -1 for rows
    that were not chosen.
    """
    numbers = np.full(total, -1, dtype=np.int32)
    numbers[rows] = np.arange(len(rows), dtype=np.int32)
    return numbers


def keyframe_columns(tables: dict[str, Columns], rows: np.ndarray, scene_rows: np.ndarray) -> Columns:
    """Columns of the keyframes ``rows``, those of their lidar frame and scene (its place in
    ``scene_rows``) included.
    """
    sample, data, calibrated = (tables[name] for name in ("sample", "sample_data", "calibrated_sensor"))
    number = number_of(rows, len(sample["timestamp"]))
    lidar_rows = np.flatnonzero((data["camera"] < 0) & (number[data["sample_row"]] >= 0))
    lidar = np.full(len(rows), -1, dtype=np.int64)
    lidar[number[data["sample_row"][lidar_rows]]] = lidar_rows
    if len(lidar_rows) == 0:
        return _without_lidar(tables, rows, scene_rows, number)
    if (lidar < 0).any():
        token = sample["token"][int(rows[np.flatnonzero(lidar < 0)[0]])].as_py()
        raise PetrflowError(
            f"sample_data.json has no key frame of {LIDAR} for sample {token}: boxes are in its frame. Add the record (the file itself is "
            "not needed), or take the scene out of the data set."
        )
    calibration = data["calibrated_sensor_row"][lidar]
    lidar_to_ego = np.concatenate([calibrated["translation"][calibration], calibrated["rotation"][calibration]], axis=1)
    return {
        **_moments(tables, rows, scene_rows),
        "lidar_token": take(data["token"], lidar),
        "lidar_path": take(data["filename"], lidar),
        "lidar_to_ego": lidar_to_ego,
        "ego_to_global": data["ego_pose"][lidar],
    }


def _moments(tables: dict[str, Columns], rows: np.ndarray, scene_rows: np.ndarray) -> Columns:
    """Columns of the keyframes ``rows`` that hang on no sensor: their tokens, times and scenes."""
    sample, scene = tables["sample"], tables["scene"]
    return {
        "token": take(sample["token"], rows),
        "timestamp": sample["timestamp"][rows],
        "scene_name": take(scene["name"], sample["scene_row"][rows]),
        "scene_token": take(scene["token"], sample["scene_row"][rows]),
        "scene_row": number_of(scene_rows, len(scene["token"]))[sample["scene_row"][rows]],
        "sample_row": rows.astype(np.int32),
    }


def _without_lidar(tables: dict[str, Columns], rows: np.ndarray, scene_rows: np.ndarray, number: np.ndarray) -> Columns:
    """Columns of keyframes of a data set without LIDAR_TOP: its place is taken by a point above the
    vehicle's origin, and its time by the image nearest to the keyframe's.
    """
    sample, data = tables["sample"], tables["sample_data"]
    own = np.flatnonzero(data["is_key_frame"] & (data["camera"] >= 0) & (number[data["sample_row"]] >= 0))
    keyframe = number[data["sample_row"][own]]
    away = np.abs(data["timestamp"][own] - sample["timestamp"][rows][keyframe])
    order = np.lexsort((data["camera"][own], away, keyframe))
    found, first = np.unique(keyframe[order], return_index=True)
    nearest = np.full(len(rows), -1, dtype=np.int64)
    nearest[found] = own[order[first]]  # a keyframe without images is said by camera_frames_of
    lidar_to_ego = np.array([0.0, 0.0, LIDAR_HEIGHT, np.sqrt(0.5), 0.0, 0.0, -np.sqrt(0.5)])  # y ahead, x to the right
    nothing = pa.array([""] * len(rows), pa.string())
    return {
        **_moments(tables, rows, scene_rows),
        "lidar_token": nothing,
        "lidar_path": nothing,
        "lidar_to_ego": np.tile(lidar_to_ego, (len(rows), 1)),
        "ego_to_global": data["ego_pose"][nearest],
    }


def every(scene_rows: np.ndarray, step: int) -> np.ndarray:
    """Return the places of each scene's first keyframe and every ``step``-th after it: (k,) int64.

    Parameters
    ----------
    scene_rows : (K,) int32
        Scene of every keyframe, in the order of time.
    """
    if step == 1:
        return np.arange(len(scene_rows))
    order = np.argsort(scene_rows, kind="stable")
    _, first, counts = np.unique(scene_rows[order], return_index=True, return_counts=True)
    place = np.empty(len(order), dtype=np.int64)
    place[order] = np.arange(len(order)) - np.repeat(first, counts)
    return np.flatnonzero(place % step == 0)


def scenes_of(tables: dict[str, Columns], keyframe_rows: np.ndarray) -> np.ndarray:
    """Return the rows in scene.json of the scenes of some keyframes, ordered by name: (S,)
    int64.
    """
    used = np.unique(tables["sample"]["scene_row"][keyframe_rows])
    names = tables["scene"]["name"].to_pylist()
    return np.array(sorted(used.tolist(), key=lambda row: names[row]), dtype=np.int64)


def scene_columns(tables: dict[str, Columns], rows: np.ndarray) -> Columns:
    """Columns of the scenes ``rows``."""
    return {name: take(tables["scene"][name], rows) for name in ("name", "description")}


def camera_frames_of(
    tables: dict[str, Columns], keyframe_rows: np.ndarray, cameras: Sequence[str]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Find the camera frames of some keyframes' scenes.

    Returns
    -------
    rows : (F,) int64
        In sample_data, ordered by keyframe, time and camera: what is near in time is near in the
        file.
    current : (K, N) int32
        Numbers (places in ``rows``) of every keyframe's own frames.
    previous : (F,) int32
        Number of the frame before, of the same camera; -1 at the start.
    """
    data, sample = tables["sample_data"], tables["sample"]
    keyframe = number_of(keyframe_rows, len(sample["timestamp"]))[data["sample_row"]]
    rows = np.flatnonzero((data["camera"] >= 0) & (keyframe >= 0))
    keyframe, camera = keyframe[rows], data["camera"][rows]
    order = np.lexsort((camera, data["timestamp"][rows], keyframe))
    rows, keyframe, camera = rows[order], keyframe[order], camera[order]
    current = np.full((len(keyframe_rows), len(cameras)), -1, dtype=np.int32)
    own = np.flatnonzero(data["is_key_frame"][rows])
    current[keyframe[own], camera[own]] = own
    if (current < 0).any():
        row, column = np.argwhere(current < 0)[0]
        raise PetrflowError(
            f"sample_data.json has no key frame of {cameras[column]} for sample {sample['token'][int(keyframe_rows[row])].as_py()} "
            f"({int((current < 0).sum())} such gaps): every keyframe needs an image of every camera. Take the camera or the scene out of "
            "the data set, or complete it."
        )
    before = data["prev_row"][rows]
    previous = np.where(before >= 0, number_of(rows, len(data["timestamp"]))[before], -1)
    return rows, current, previous


def camera_frame_columns(tables: dict[str, Columns], rows: np.ndarray, keyframe_rows: np.ndarray) -> Columns:
    """Columns of the camera frames ``rows``."""
    data = tables["sample_data"]
    return {
        "token": take(data["token"], rows),
        "keyframe": number_of(keyframe_rows, len(tables["sample"]["timestamp"]))[data["sample_row"][rows]],
        "camera": data["camera"][rows].astype(np.int16),
        "timestamp": data["timestamp"][rows],
        "is_keyframe": data["is_key_frame"][rows].astype(np.uint8),
        "path": take(data["filename"], rows),
        "size": np.stack([data["width"][rows], data["height"][rows]], axis=1).astype(np.int32),
        "calibration": data["calibrated_sensor_row"][rows],
        "ego_pose": data["ego_pose"][rows],
    }


def images_of(tables: dict[str, Columns], rows: np.ndarray) -> Columns:
    """Sizes, calibrations and poses of the images ``rows`` (K, N) of sample_data."""
    data, calibrated = tables["sample_data"], tables["calibrated_sensor"]
    sensor = data["calibrated_sensor_row"][rows]
    return {
        "size": np.stack([data["width"][rows], data["height"][rows]], axis=2),
        "intrinsic": calibrated["camera_intrinsic"].reshape(-1, 3, 3)[sensor],
        "camera_to_ego": np.concatenate([calibrated["translation"], calibrated["rotation"]], axis=1)[sensor],
        "ego_pose": data["ego_pose"][rows],
    }


def calibration_columns(tables: dict[str, Columns]) -> Columns:
    """Columns of all calibrated sensors."""
    calibrated = tables["calibrated_sensor"]
    return {
        "camera_to_ego": np.concatenate([calibrated["translation"], calibrated["rotation"]], axis=1),
        "intrinsic": calibrated["camera_intrinsic"].reshape(-1, 3, 3),
    }


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

    For each of up to ``num_prev_keyframes`` previous keyframes: ``sweeps_per_keyframe`` steps along
    each camera's own chain, then the previous keyframe itself, from which the next steps start.
    Where any camera's chain has ended, a step repeats the entry before it, while the cameras that
    stock walks ahead of the ended one still move on. A repeat with nothing before it, where stock
    fails with an IndexError, is left out.

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


def used_frames(current: np.ndarray, sweeps: np.ndarray, number: int) -> np.ndarray:
    """Return the numbers of the frames that any keyframe uses, in order."""
    flags = np.zeros(number + 1, dtype=bool)
    flags[current] = True
    flags[sweeps] = True  # -1 lands on the extra entry
    return np.flatnonzero(flags[:-1])
