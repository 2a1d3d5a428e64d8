"""Join the tables into boxes in the lidar frame of their keyframe."""

from __future__ import annotations

import numpy as np

from petrflow import geometry
from petrflow.annotations.frames import number_of
from petrflow.nuscenes.arrays import take
from petrflow.nuscenes.columns import Columns
from petrflow.nuscenes.names import DETECTION_NAMES, VELOCITY_SECONDS, VISIBILITIES


def box_columns(
    tables: dict[str, Columns], keyframe_rows: np.ndarray, keyframes: Columns, has_points: bool | None = None
) -> tuple[Columns, np.ndarray]:
    """Annotations of some keyframes, in table order within each; and where each keyframe's begin
    and end: (K + 1,) int64.

    A box is valid if it holds a lidar or radar point. Where no box of the data holds one
    (``has_points`` false; None: as the tables say), points were not counted, and every box is.
    """
    annotation = tables["sample_annotation"]
    keyframe = number_of(keyframe_rows, len(tables["sample"]["timestamp"]))[annotation["sample_row"]]
    rows = np.flatnonzero(keyframe >= 0)
    rows = rows[np.argsort(keyframe[rows], kind="stable")]
    keyframe = keyframe[rows]
    points = np.stack([annotation["num_lidar_pts"][rows], annotation["num_radar_pts"][rows]], axis=1)
    if has_points is None:
        has_points = bool((annotation["num_lidar_pts"] + annotation["num_radar_pts"] > 0).any())
    instance = annotation["instance_row"][rows]
    global_velocities = _global_velocities(tables, rows)
    boxes, velocities = _in_lidar_frame(
        tables, rows, global_velocities, keyframes["lidar_to_ego"], keyframes["ego_to_global"], keyframe
    )
    columns = {
        "token": take(annotation["token"], rows),
        "instance_token": take(tables["instance"]["token"], instance),
        "box": boxes,
        "velocity": velocities,
        # Evaluation compares in the global frame: turned back from the lidar frame, tilt and digits
        # would be lost.
        "global_translation": annotation["translation"][rows],
        "global_rotation": annotation["rotation"][rows],
        "global_velocity": global_velocities,
        "name": tables["instance"]["category_row"][instance].astype(np.int16),
        "attribute": (annotation["attribute_row"][rows] + 1).astype(np.int16),
        "attribute_count": annotation["attribute_tokens_count"][rows].astype(np.int16),
        "visibility": _visibility(tables)[annotation["visibility_row"][rows]],
        "num_lidar_pts": points[:, 0].astype(np.int32),
        "num_radar_pts": points[:, 1].astype(np.int32),
        "valid": ((points.sum(axis=1) > 0) | (not has_points)).astype(np.uint8),
    }
    counts = np.bincount(keyframe, minlength=len(keyframe_rows))
    return columns, np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)


def seen(boxes: Columns, box_offset: np.ndarray, keyframes: Columns, images: Columns) -> np.ndarray:
    """Return which boxes have a corner or their centre in an image of their keyframe: (M,) bool.

    Parameters
    ----------
    boxes, box_offset, keyframes
        As :func:`box_columns` and :func:`petrflow.annotations.frames.keyframe_columns` return them.
    images : Columns
        Of the keyframes' images: ``size`` (K, N, 2), ``intrinsic`` (K, N, 3, 3), ``camera_to_ego``
        and ``ego_pose`` (K, N, 7).
    """
    keyframe = np.repeat(np.arange(len(box_offset) - 1), np.diff(box_offset))
    global_from_lidar = _matrices(keyframes["ego_to_global"]) @ _matrices(keyframes["lidar_to_ego"])
    found = np.zeros(len(keyframe), dtype=bool)
    for camera in range(images["size"].shape[1]):
        pose, mount = images["ego_pose"][:, camera], images["camera_to_ego"][:, camera]
        camera_from_lidar = geometry.invert_rigid(_matrices(pose) @ _matrices(mount)) @ global_from_lidar
        for start in range(0, len(keyframe), _BOXES_AT_ONCE):
            rows = slice(start, start + _BOXES_AT_ONCE)
            own = keyframe[rows]
            box = boxes["box"][rows]
            points = np.concatenate([geometry.box_corners(box), box[:, None, :3]], axis=1)
            matrix = camera_from_lidar[own]
            points = points @ matrix[:, :3, :3].transpose(0, 2, 1) + matrix[:, None, :3, 3]
            pixels = points @ images["intrinsic"][own, camera].transpose(0, 2, 1)
            with np.errstate(divide="ignore", invalid="ignore"):
                pixels = pixels[..., :2] / pixels[..., 2:]
            inside = (pixels >= 0).all(axis=2) & (pixels < images["size"][own, camera][:, None]).all(axis=2)
            found[rows] |= (inside & (points[..., 2] > NEAR)).any(axis=1)
    return found


_BOXES_AT_ONCE = 50_000
NEAR = 0.1
"""m: what is nearer to a camera is not seen."""


def _matrices(poses: np.ndarray) -> np.ndarray:
    return geometry.transform(poses[:, :3], poses[:, 3:])


def box_labels(tables: dict[str, Columns]) -> dict[str, list[str]]:
    """Texts behind the codes of :func:`box_columns`: ``names`` and ``attributes``, where code 0 is
    none.
    """
    names = [DETECTION_NAMES.get(name, name) for name in tables["category"]["name"].to_pylist()]
    return {"names": names, "attributes": ["", *tables["attribute"]["name"].to_pylist()]}


def _visibility(tables: dict[str, Columns]) -> np.ndarray:
    """Levels 1 to 4 of the rows of visibility.json, and 0 behind them for row -1."""
    number_of_level = {level: number for number, level in enumerate(VISIBILITIES, 1)}
    return np.array(
        [*(number_of_level.get(level, 0) for level in tables["visibility"]["level"].to_pylist()), 0], dtype=np.int8
    )


def _in_lidar_frame(
    tables: dict[str, Columns],
    rows: np.ndarray,
    global_velocities: np.ndarray,
    lidar_to_ego: np.ndarray,
    ego_to_global: np.ndarray,
    keyframe: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Boxes (M, 7) and velocities (M, 2) of annotation ``rows`` in the lidar frame of their
    ``keyframe`` (M,).
    """
    annotation = tables["sample_annotation"]
    lidar_from_global = geometry.invert_rigid(
        geometry.transform(ego_to_global[:, :3], ego_to_global[:, 3:])
        @ geometry.transform(lidar_to_ego[:, :3], lidar_to_ego[:, 3:])
    )
    turn = geometry.quaternion_inverse(geometry.quaternion_multiply(ego_to_global[:, 3:], lidar_to_ego[:, 3:]))
    yaw = geometry.quaternion_yaw_intrinsic(geometry.quaternion_multiply(turn[keyframe], annotation["rotation"][rows]))
    rotation = lidar_from_global[keyframe, :3, :3]
    centre = (rotation @ annotation["translation"][rows, :, None])[..., 0] + lidar_from_global[keyframe, :3, 3]
    velocity = (rotation[:, :2, :2] @ global_velocities[:, :, None])[..., 0]
    return np.concatenate([centre, annotation["size"][rows], yaw[:, None]], axis=1), velocity


def _global_velocities(tables: dict[str, Columns], rows: np.ndarray) -> np.ndarray:
    """Velocities (M, 2) in the global frame as the devkit's ``box_velocity`` has them; NaN where it
    has none.
    """
    annotation = tables["sample_annotation"]
    before, after = annotation["prev_row"][rows], annotation["next_row"][rows]
    first, last = np.where(before >= 0, before, rows), np.where(after >= 0, after, rows)
    # The devkit turns each timestamp into seconds before it subtracts, which costs 5e-7 of
    # precision: equal figures need equal steps.
    seconds = 1e-6 * tables["sample"]["timestamp"]
    elapsed = seconds[annotation["sample_row"][last]] - seconds[annotation["sample_row"][first]]
    allowed = np.where((before >= 0) & (after >= 0), 2 * VELOCITY_SECONDS, VELOCITY_SECONDS)
    known = ((before >= 0) | (after >= 0)) & (elapsed <= allowed)
    with np.errstate(divide="ignore", invalid="ignore"):
        velocity = (annotation["translation"][last, :2] - annotation["translation"][first, :2]) / elapsed[:, None]
    return np.where(known[:, None], velocity, np.nan)
