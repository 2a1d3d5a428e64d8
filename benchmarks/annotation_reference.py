"""What an annotation store must hold, computed one record at a time with nuscenes-devkit and pyquaternion.

Independent of petrflow on purpose: tests compare a store with it, and benchmarks/annotate.py its cost. It follows the meaning of
Paddle3D's ``tools/create_petr_nus_infos.py``, of which the wheel holds no copy.
"""

from __future__ import annotations

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
