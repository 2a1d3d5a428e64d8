"""What an annotation store must hold, computed one record at a time with nuscenes-devkit and pyquaternion.

Independent of petrflow on purpose: tests compare a store with it, and benchmarks/annotate.py its cost. It follows the meaning of
Paddle3D's ``tools/create_petr_nus_infos.py``, of which the wheel holds no copy.
"""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from nuscenes import NuScenes
from nuscenes.eval.detection.utils import category_to_detection_name
from nuscenes.utils.geometry_utils import transform_matrix
from pyquaternion import Quaternion

CAMERAS = ("CAM_FRONT", "CAM_FRONT_RIGHT", "CAM_FRONT_LEFT", "CAM_BACK", "CAM_BACK_LEFT", "CAM_BACK_RIGHT")
WALKING_ORDER = ("CAM_FRONT", "CAM_FRONT_RIGHT", "CAM_BACK_RIGHT", "CAM_BACK", "CAM_BACK_LEFT", "CAM_FRONT_LEFT")


def reference_keyframe(nusc: NuScenes, sample_token: str, num_prev: int = 5, num_sweeps: int = 5) -> dict[str, Any]:
    """Compute everything about one keyframe; cameras that the tables lack are left out."""
    sample = nusc.get("sample", sample_token)
    lidar = nusc.get("sample_data", sample["data"]["LIDAR_TOP"])
    calibrated = nusc.get("calibrated_sensor", lidar["calibrated_sensor_token"])
    pose = nusc.get("ego_pose", lidar["ego_pose_token"])
    lidar_from_global = transform_matrix(
        calibrated["translation"], Quaternion(calibrated["rotation"]), inverse=True
    ) @ transform_matrix(pose["translation"], Quaternion(pose["rotation"]), inverse=True)
    cameras = [name for name in CAMERAS if name in sample["data"]]
    return {
        "token": sample_token,
        "timestamp": sample["timestamp"],
        "lidar_token": lidar["token"],
        "lidar_path": lidar["filename"],
        "lidar_to_ego": (calibrated["translation"], calibrated["rotation"]),
        "ego_to_global": (pose["translation"], pose["rotation"]),
        "cameras": {name: _camera(nusc, sample["data"][name], lidar_from_global) for name in cameras},
        "sweeps": _sweeps(nusc, sample, lidar_from_global, num_prev, num_sweeps),
        **_boxes(nusc, sample, lidar["token"], calibrated, pose),
    }


def _camera(nusc: NuScenes, token: str, lidar_from_global: np.ndarray) -> dict[str, Any]:
    data = nusc.get("sample_data", token)
    calibrated = nusc.get("calibrated_sensor", data["calibrated_sensor_token"])
    pose = nusc.get("ego_pose", data["ego_pose_token"])
    global_from_camera = transform_matrix(pose["translation"], Quaternion(pose["rotation"])) @ transform_matrix(
        calibrated["translation"], Quaternion(calibrated["rotation"])
    )
    return {
        "token": token,
        "path": data["filename"],
        "timestamp": data["timestamp"],
        "size": (data["width"], data["height"]),
        "intrinsic": np.array(calibrated["camera_intrinsic"]),
        "lidar_from_camera": lidar_from_global @ global_from_camera,
    }


def _sweeps(
    nusc: NuScenes, sample: dict[str, Any], lidar_from_global: np.ndarray, num_prev: int, num_sweeps: int
) -> list[dict[str, Any]]:
    """Walk every camera back record by record; where stock has nothing to repeat, nothing is added."""
    order = [name for name in WALKING_ORDER if name in sample["data"]]
    entries: list[dict[str, Any]] = []
    position = dict(sample["data"])
    while num_prev > 0 and sample["prev"]:
        num_prev -= 1
        for _ in range(num_sweeps):
            entry = {}
            for name in order:
                before = nusc.get("sample_data", position[name])["prev"]
                if not before:
                    entry = entries[-1] if entries else None
                    break
                position[name] = before
                entry[name] = _camera(nusc, before, lidar_from_global)
            if entry is not None:
                entries.append(entry)
        sample = nusc.get("sample", sample["prev"])
        position = dict(sample["data"])
        entries.append({name: _camera(nusc, position[name], lidar_from_global) for name in order})
    return entries


def _boxes(
    nusc: NuScenes, sample: dict[str, Any], lidar_token: str, calibrated: dict[str, Any], pose: dict[str, Any]
) -> dict[str, Any]:
    turn = Quaternion(calibrated["rotation"]).inverse * Quaternion(pose["rotation"]).inverse
    boxes, velocities, names, points, attributes, visibility = [], [], [], [], [], []
    for box in nusc.get_boxes(lidar_token):
        annotation = nusc.get("sample_annotation", box.token)
        box.translate(-np.array(pose["translation"]))
        box.rotate(Quaternion(pose["rotation"]).inverse)
        box.translate(-np.array(calibrated["translation"]))
        box.rotate(Quaternion(calibrated["rotation"]).inverse)
        boxes.append([*box.center, *box.wlh, box.orientation.yaw_pitch_roll[0]])
        velocities.append(turn.rotate(np.array([*nusc.box_velocity(box.token)[:2], 0.0]))[:2])
        names.append(category_to_detection_name(box.name) or box.name)
        points.append([annotation["num_lidar_pts"], annotation["num_radar_pts"]])
        attributes.append("".join(nusc.get("attribute", token)["name"] for token in annotation["attribute_tokens"]))
        visibility.append(annotation["visibility_token"])
    return {
        "annotation_tokens": list(sample["anns"]),
        "instance_tokens": [nusc.get("sample_annotation", token)["instance_token"] for token in sample["anns"]],
        "boxes": np.array(boxes).reshape(-1, 7),
        "velocities": np.array(velocities).reshape(-1, 2),
        "names": names,
        "points": np.array(points, dtype=int).reshape(-1, 2),
        "attributes": attributes,
        "visibility": visibility,
    }


# ------------------------------------------------------------------------------------------------------------------ stock's own steps


class _SomeSamples:
    """A NuScenes object of which only some samples are to be visited."""

    def __init__(self, nusc: NuScenes, tokens: Sequence[str]) -> None:
        self._nusc = nusc
        self.sample = [nusc.get("sample", token) for token in tokens]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._nusc, name)


def stock_infos(nusc: NuScenes, tokens: Sequence[str], num_prev: int = 5, num_sweeps: int = 5) -> list[dict[str, Any]]:
    """Compute stock infos of some keyframes with the wheel's own functions: the cost that users of stock Paddle3D pay.

    The first half is the wheel's ``_fill_trainval_infos``; the camera sweeps, which only the tool outside the wheel adds, are walked here
    and placed with the wheel's ``obtain_sensor2top``. Lidar files must exist.
    """
    from paddle3d.datasets.nuscenes import nuscenes_multiview_det as stock

    with contextlib.redirect_stdout(io.StringIO()):
        samples: Any = _SomeSamples(nusc, tokens)
        infos, _ = stock._fill_trainval_infos(samples, {s["scene_token"] for s in samples.sample}, set(), False)
    for info in infos:
        ego = np.array(info["ego2global_translation"]), Quaternion(info["ego2global_rotation"]).rotation_matrix
        lidar = np.array(info["lidar2ego_translation"]), Quaternion(info["lidar2ego_rotation"]).rotation_matrix

        def place(token: str, ego: Any = ego, lidar: Any = lidar) -> dict[str, Any]:
            view = stock.obtain_sensor2top(nusc, token, *lidar, *ego, "camera")
            calibrated = nusc.get("calibrated_sensor", nusc.get("sample_data", token)["calibrated_sensor_token"])
            return {**view, **_matrices(view, np.array(calibrated["camera_intrinsic"]))}

        info["sweeps"] = _stock_sweeps(nusc, nusc.get("sample", info["token"]), place, num_prev, num_sweeps)
    return infos


def _stock_sweeps(
    nusc: NuScenes, sample: dict[str, Any], place: Any, num_prev: int, num_sweeps: int
) -> list[dict[str, Any]]:
    order = [name for name in WALKING_ORDER if name in sample["data"]]
    entries: list[dict[str, Any]] = []
    position = dict(sample["data"])
    while num_prev > 0 and sample["prev"]:
        num_prev -= 1
        for _ in range(num_sweeps):
            entry: dict[str, Any] = {}
            for name in order:
                before = nusc.get("sample_data", position[name])["prev"]
                if not before:
                    entry = entries[-1]
                    break
                position[name] = before
                entry[name] = place(before)
            entries.append(entry)
        sample = nusc.get("sample", sample["prev"])
        position = dict(sample["data"])
        entries.append({name: place(position[name]) for name in order})
    return entries


def _matrices(view: dict[str, Any], intrinsic: np.ndarray) -> dict[str, np.ndarray]:
    """Matrices of a sweep's camera in stock's layout: float32, extrinsics transposed."""
    turn = np.linalg.inv(view["sensor2lidar_rotation"])
    extrinsics = np.eye(4)
    extrinsics[:3, :3] = turn.T
    extrinsics[3, :3] = -(view["sensor2lidar_translation"] @ turn.T)
    padded = np.eye(4)
    padded[:3, :3] = intrinsic
    matrices = {"intrinsics": padded, "extrinsics": extrinsics, "lidar2img": padded @ extrinsics.T}
    return {name: matrix.astype(np.float32) for name, matrix in matrices.items()}


def touch_lidar_files(nusc: NuScenes) -> None:
    """Put empty files where stock only checks that lidar sweeps exist."""
    for sample in nusc.sample:
        path = Path(os.path.join(nusc.dataroot, nusc.get("sample_data", sample["data"]["LIDAR_TOP"])["filename"]))  # noqa: PTH118
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
