"""Do boxes stand where points are?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from petrflow.annotations import Keyframe
from petrflow.doctor.findings import Finding, wrong_unit
from petrflow.geometry import points_in_boxes
from petrflow.nuscenes.names import LIDAR_HEIGHT, TYPICAL_SIZES


def check_places(keyframes: Sequence[Keyframe], figures: dict[str, Any]) -> list[Finding]:
    """Far boxes, boxes under the ground, boxes labelled twice, and how high the lidar stands."""
    findings = []
    known = [keyframe.boxes[np.isin(keyframe.names, list(TYPICAL_SIZES))] for keyframe in keyframes]
    boxes = np.concatenate(known)
    if not len(boxes):
        return []
    bottoms = boxes[:, 2] - 0.5 * boxes[:, 5]
    ground = float(np.median(bottoms))
    ranges = np.hypot(boxes[:, 0], boxes[:, 1])
    figures["median height of boxes' undersides in the lidar frame (m)"] = round(ground, 2)
    figures["distance of boxes (m, median and 99 %)"] = [
        round(float(value), 1) for value in np.percentile(ranges, [50, 99])
    ]
    sunk = int(np.count_nonzero(bottoms < ground - 3.0))
    if sunk > max(3, 0.02 * len(boxes)):
        findings.append(Finding("warn", "places", f"{sunk} boxes lie more than 3 m under the ground of the others"))
    if np.percentile(ranges, 50) > 150:
        findings.append(
            Finding(
                "fail",
                "places",
                "boxes are far beyond what cameras see: another unit or world coordinates",
                "length_unit",
                f"median {np.median(ranges):.0f} m",
            )
        )
    elif abs(ground + LIDAR_HEIGHT) > 1.3:
        findings.append(
            Finding(
                "warn", "places", "the ground is not where nuScenes' lidar sees it, and published weights expect it there",
                f"origin_height: {-ground:.2f}", f"boxes stand {ground:+.2f} m from the origin, nuScenes' about {-LIDAR_HEIGHT} m",
            )
        )  # fmt: skip
    twins = sum(_twins(keyframe) for keyframe in keyframes)
    if twins:
        findings.append(
            Finding("warn", "duplicates", f"{twins} boxes lie on another of their class (centres within 0.3 m)")
        )
    return findings


def _twins(keyframe: Keyframe) -> int:
    count = 0
    for name in set(keyframe.names):
        rows = keyframe.boxes[[other == name for other in keyframe.names], :3]
        near = np.linalg.norm(rows[:, None] - rows[None], axis=2) < 0.3
        count += int((np.count_nonzero(near, axis=1) > 1).sum()) // 2
    return count


def check_clouds(
    keyframes: Sequence[Keyframe], clouds: Mapping[int, np.ndarray], figures: dict[str, Any]
) -> list[Finding]:
    """Does the point cloud fill the boxes that claim points?"""
    claimed = filled = 0
    reach = []
    for index, points in clouds.items():
        keyframe = keyframes[index]
        claims = keyframe.num_lidar_pts > 5
        claimed += int(claims.sum())
        filled += int(np.count_nonzero(points_in_boxes(points, keyframe.boxes[claims])))
        reach.append(float(np.percentile(np.linalg.norm(points[:, :3], axis=1), 90)))
    if not reach:
        return []
    figures["90 % of points within (m)"] = round(float(np.median(reach)), 1)
    if np.median(reach) > 1000:
        unit = "mm" if np.median(reach) > 3000 else "cm"
        return [wrong_unit(("cloud",), unit, f"90 % of points within {np.median(reach):.0f} m")]
    if claimed >= 20:
        figures["boxes with points that hold points"] = round(filled / claimed, 3)
        if filled < 0.5 * claimed:
            return [
                Finding(
                    "warn",
                    "clouds",
                    "most boxes that claim points hold none: boxes and point clouds do not belong together",
                    "",
                    f"{filled} of {claimed}",
                )
            ]
    return []
