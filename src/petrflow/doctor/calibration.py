"""Are the cameras where, and looking where, cameras on a vehicle are? And do boxes land in their
images?
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from petrflow.annotations import Keyframe
from petrflow.doctor.findings import Finding, wrong_unit
from petrflow.geometry import invert_rigid, project, rigid

# A camera on a road vehicle is upright: its image's downward axis is close to the vehicle's. 0.6 is
# a tilt of 53 degrees.
_UPRIGHT = 0.6
# No vehicle is this large: cameras further from the lidar are given in another unit, m.
_LARGEST_VEHICLE = 30.0


def boxes_inside(keyframe: Keyframe, camera_from_lidar: np.ndarray | None = None) -> np.ndarray:
    """Return (N, M) bool: which box centres project into which camera's image, under other
    extrinsics (N, 4, 4) if given.
    """
    if camera_from_lidar is None:
        camera_from_lidar = invert_rigid(keyframe.lidar_from_camera)
    inside = np.zeros((len(camera_from_lidar), len(keyframe.boxes)), dtype=bool)
    for camera, matrix in enumerate(camera_from_lidar):
        uv, depth = project(keyframe.boxes[:, :3], keyframe.intrinsics[camera], matrix)
        width, height = keyframe.image_sizes[camera]
        with np.errstate(invalid="ignore"):
            inside[camera] = (
                (depth > 0.5) & (uv[:, 0] >= 0) & (uv[:, 0] < width) & (uv[:, 1] >= 0) & (uv[:, 1] < height)
            )
    return inside


def uprightness(camera_from_lidar: np.ndarray) -> np.ndarray:
    """Return (N,) cosines between each camera's downward axis and the lidar frame's, for extrinsics
    (N, 4, 4).
    """
    return -camera_from_lidar[:, 1, 2]


def _outwardness(camera_from_lidar: np.ndarray) -> float:
    """How far, m, cameras sit towards where they look, on average: front cameras ahead, rear ones
    behind.
    """
    centers = invert_rigid(camera_from_lidar)[:, :3, 3]
    return float(np.mean(np.sum(centers[:, :2] * camera_from_lidar[:, 2, :2], axis=1)))


def _interpretations(camera_from_lidar: np.ndarray, lidar_from_cloud: np.ndarray) -> dict[str, np.ndarray]:
    """The extrinsics as given, and as they would be had they been written inverted, or with their
    rotation transposed.

    A door may have turned the point cloud's axes into LIDAR_TOP's, (4, 4); what was written relates
    cameras to the cloud.
    """
    camera_from_cloud = camera_from_lidar @ lidar_from_cloud
    rotation, translation = camera_from_cloud[:, :3, :3], camera_from_cloud[:, :3, 3]
    cloud_from_lidar = invert_rigid(lidar_from_cloud)
    return {
        "as given": camera_from_lidar,
        "inverse": invert_rigid(camera_from_cloud) @ cloud_from_lidar,
        "rotation transposed": rigid(np.swapaxes(rotation, -1, -2), translation) @ cloud_from_lidar,
    }


_ADVICE = {
    "inverse": (
        "the extrinsics are inverted: they take camera to point cloud coordinates",
        "external_direction: camera_to_cloud",
    ),
    "rotation transposed": ("the rotations of the extrinsics are transposed", "external_rotation: transposed"),
}


def _judge_interpretations(
    keyframes: Sequence[Keyframe], lidar_from_cloud: np.ndarray
) -> dict[str, tuple[float, float, float]]:
    """Return, by interpretation of the extrinsics, how upright the cameras are, the share of boxes
    in an image, and how far, m, cameras sit towards where they look.
    """
    scores = {}
    first = invert_rigid(keyframes[0].lidar_from_camera)
    for name, matrices in _interpretations(first, lidar_from_cloud).items():
        shares = []
        for keyframe in keyframes[:40]:
            if len(keyframe.boxes):
                camera_from_lidar = invert_rigid(keyframe.lidar_from_camera)
                read_so = _interpretations(camera_from_lidar, lidar_from_cloud)[name]
                shares.append(float(boxes_inside(keyframe, read_so).any(axis=0).mean()))
        seen = float(np.mean(shares)) if shares else 0.0
        scores[name] = (float(np.mean(uprightness(matrices))), seen, _outwardness(matrices))
    return scores


def check_extrinsics(
    keyframes: Sequence[Keyframe], figures: dict[str, Any], lidar_from_cloud: np.ndarray | None = None
) -> list[Finding]:
    """Compare the extrinsics as given with how they would look inverted or transposed."""
    lidar_from_cloud = np.eye(4) if lidar_from_cloud is None else lidar_from_cloud
    centers = keyframes[0].lidar_from_camera[:, :3, 3]
    distance = float(np.median(np.linalg.norm(centers, axis=1)))
    scores = _judge_interpretations(keyframes, lidar_from_cloud)
    figures["cameras upright (1 is)"] = round(scores["as given"][0], 3)
    figures["boxes seen by any camera"] = round(scores["as given"][1], 3)
    figures["cameras' distance from the lidar (m)"] = round(distance, 2)
    findings = []
    if distance > _LARGEST_VEHICLE:
        findings.append(
            wrong_unit(
                ("externals",),
                "mm" if distance > 300 else "cm",
                f"{distance:.0f} m in the median",
                "cameras are too far from the point cloud's origin for a vehicle: translations in another unit",
            )
        )
    return findings + _check_uprightness(scores, figures)


def _check_uprightness(scores: Mapping[str, tuple[float, float, float]], figures: dict[str, Any]) -> list[Finding]:
    """Judge by :func:`_judge_interpretations` whether the cameras are upright, and if not, which
    interpretation would make them so.
    """
    upright, seen, _ = scores["as given"]
    better = {
        name: score
        for name, score in scores.items()
        if name != "as given" and score[0] > max(_UPRIGHT, upright + 0.3) and score[1] >= 0.7 * seen
    }
    if upright < _UPRIGHT and better:
        # Both have the same rotations; only the right one puts front cameras in front and rear
        # cameras behind.
        likely = max(better, key=lambda name: better[name][2] + (0.1 if name == "inverse" else 0.0))
        figures["cameras sit towards where they look (m)"] = {
            name: round(score[2], 3) for name, score in scores.items()
        }
        cause, setting = _ADVICE[likely]
        evidence = (
            f"as given, cameras' downward axes point {np.degrees(np.arccos(np.clip(upright, -1, 1))):.0f} degrees off the ground's direction on "
            f"average and {seen:.0%} of boxes are in an image; {likely}, {better[likely][1]:.0%} are, with upright cameras"
        )
        return [Finding("fail", "extrinsics", cause, setting, evidence)]
    if upright < _UPRIGHT:
        return [
            Finding(
                "warn", "extrinsics", "the cameras are not upright in the point cloud's frame", "",
                f"mean cosine of their downward axes with the ground's {upright:.2f}; is the cloud's z axis up?",
            )
        ]  # fmt: skip
    return []


def check_projection(
    keyframes: Sequence[Keyframe], names: Sequence[str], cameras: dict[str, dict[str, Any]], explained: bool = False
) -> list[Finding]:
    """Count, per camera, the boxes that land in its image. `explained`: another check has found why
    they might not.
    """
    total = sum(len(keyframe.boxes) for keyframe in keyframes)
    counts = sum((boxes_inside(keyframe).sum(axis=1) for keyframe in keyframes), np.zeros(len(names), dtype=int))
    for name, count in zip(names, counts.tolist(), strict=True):
        cameras[name] = {"boxes_inside": int(count), "share": count / max(total, 1)}
    if total and not counts.any():
        return [
            Finding(
                "fail", "projection", "no box projects into any image: boxes and extrinsics are in different frames or units",
                "" if explained else "external_direction: camera_to_cloud", f"{total} boxes, {len(names)} cameras",
            )
        ]  # fmt: skip
    empty = [name for name, count in zip(names, counts, strict=True) if not count]
    return (
        [Finding("warn", "projection", f"no box projects into {', '.join(empty)}", "", "is its calibration right?")]
        if empty
        else []
    )
