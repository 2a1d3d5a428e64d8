"""Join the tables into boxes in the lidar frame of their keyframe."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from petrflow import geometry
from petrflow.annotations.roots import lookup
from petrflow.annotations.tables import Columns

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


def boxes_of(
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
    prev = lookup(
        pc.take(annotation["prev"], pa.array(rows)), annotation["token"], "sample_annotation", "sample_annotation", True
    )
    following = lookup(
        pc.take(annotation["next"], pa.array(rows)), annotation["token"], "sample_annotation", "sample_annotation", True
    )
    first, last = np.where(prev >= 0, prev, own), np.where(following >= 0, following, own)
    sample_row = lookup(annotation["sample_token"], sample["token"], "sample_annotation", "sample")
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
    instance_row = lookup(
        pc.take(tables["sample_annotation"]["instance_token"], pa.array(rows)),
        instance["token"],
        "sample_annotation",
        "instance",
    )
    category_row = lookup(instance["category_token"], category["token"], "instance", "category")
    known = [DETECTION_NAMES.get(name, name) for name in category["name"].to_pylist()]
    names = sorted(set(known))
    code = np.array([names.index(name) for name in known], dtype=np.int16)
    return names, code[category_row[instance_row]]


def _labels(
    tokens: pa.Array, rows: np.ndarray, table: Columns, column: str, target: str
) -> tuple[list[str], np.ndarray]:
    """Texts ('' first) and the code (n,) int16 of each row among them; an empty token is 0."""
    found = lookup(pc.take(tokens, pa.array(rows)), table["token"], "sample_annotation", target, optional=True)
    return ["", *table[column].to_pylist()], (found + 1).astype(np.int16)
