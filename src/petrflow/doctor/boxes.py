"""Do boxes have the sizes, headings and places that things on a road have?"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from petrflow.annotations import Keyframe
from petrflow.doctor.findings import Finding
from petrflow.geometry import points_in_boxes, wrap_angle

# Typical width, length and height of nuScenes' classes, m.
TYPICAL = {
    "car": (1.95, 4.6, 1.73), "truck": (2.5, 6.9, 2.8), "bus": (2.9, 11.0, 3.4), "trailer": (2.9, 12.3, 3.9),
    "construction_vehicle": (2.8, 6.4, 3.2), "pedestrian": (0.67, 0.73, 1.77), "motorcycle": (0.77, 2.1, 1.47), "bicycle": (0.6, 1.7, 1.28),
    "traffic_cone": (0.41, 0.41, 1.07), "barrier": (2.53, 0.5, 0.98),
}  # fmt: skip
_SHAPELESS = ("barrier", "traffic_cone", "construction_vehicle")
_LONG = ("car", "truck", "bus", "trailer", "motorcycle", "bicycle")
VOTES, MOVING = "boxes that fit their points better (as given, turned by 90 degrees)", "moving boxes"
_LIDAR_HEIGHT = 1.84
# Difference of log sizes, summed over the axes, beyond which another order of axes is no accident.
_CLEARLY = 0.5
_UNITS = {"mm": 1000.0, "cm": 100.0}


def check_classes(
    counts: Mapping[str, Mapping[str, int]], class_names: Sequence[str], unmapped: Mapping[str, int]
) -> list[Finding]:
    """Count labels per class and split."""
    findings = []
    known = {
        split: {name: count for name, count in table.items() if name in class_names} for split, table in counts.items()
    }
    others = sorted({name for table in counts.values() for name in table} - set(class_names))
    if not sum(sum(table.values()) for table in known.values()):
        example = next(iter(unmapped or dict.fromkeys(others, 0)), "Car")
        return [
            Finding(
                "fail",
                "classes",
                "no box has a class that training knows",
                f"class_map: {{{example}: car}}",
                f"names: {', '.join(others) or 'none'}",
            )
        ]
    for split in ("train", "val"):
        if not known.get(split):
            findings.append(Finding("fail", "classes", f"the {split} split holds no box of a trained class", "splits"))
    only_val = sorted(set(known.get("val", {})) - set(known.get("train", {})))
    if only_val and known.get("train"):
        findings.append(
            Finding("warn", "classes", f"{', '.join(only_val)} in val but never in train: cannot be learned", "splits")
        )
    if unmapped:
        listing = ", ".join(
            f"{name} {count}" for name, count in sorted(unmapped.items(), key=lambda item: (-item[1], item[0]))
        )
        findings.append(
            Finding(
                "warn",
                "classes",
                "boxes of unmapped class names are neither trained on nor scored",
                "class_map",
                listing,
            )
        )
    return findings


def sizes_by_class(keyframes: Sequence[Keyframe]) -> dict[str, np.ndarray]:
    """Median width, length and height (3,) of each class with a typical size and at least three boxes."""
    collected: dict[str, list[np.ndarray]] = {}
    for keyframe in keyframes:
        for name, box in zip(keyframe.names, keyframe.boxes, strict=True):
            if name in TYPICAL:
                collected.setdefault(name, []).append(box[3:6])
    return {name: np.median(rows, axis=0) for name, rows in sorted(collected.items()) if len(rows) >= 3}


def check_sizes(keyframes: Sequence[Keyframe], figures: dict[str, Any]) -> list[Finding]:
    """Compare sizes with typical ones: another unit, or axes in another order."""
    medians = sizes_by_class(keyframes)
    if not medians:
        return []
    weights = _weights(keyframes, medians)
    logs = np.log(np.array(list(medians.values())))
    typical = np.log(np.array([TYPICAL[name] for name in medians]))
    scale = float(np.exp(np.sum(weights[:, None] * (logs - typical)) / 3))
    figures["size against typical (1 is)"] = round(scale, 3)
    for unit, factor in _UNITS.items():
        if factor / 3 < scale < factor * 3:
            return [
                Finding(
                    "fail",
                    "units",
                    f"boxes are in {unit}",
                    f"length_unit: {{boxes: {unit}}}",
                    f"{scale:.0f} times the typical size",
                )
            ]
    findings = []
    if not 0.5 < scale < 2.0:
        findings.append(
            Finding(
                "warn",
                "sizes",
                "boxes are far from the size of their classes",
                "length_unit",
                f"{scale:.2f} times the typical size",
            )
        )
    orders = _order_misfits(medians, weights)
    best = min(orders, key=lambda order: orders[order])
    figures["size order misfit (as given, best)"] = [round(orders[0, 1, 2], 3), round(orders[best], 3)]
    if size_columns(keyframes) != (0, 1, 2):
        # Column best[k] of (w, l, h) holds what truly is the k-th of w, l, h; size3D's x, y and z were read as l, w and h.
        truly = {"wlh"[best[k]]: axis for k, axis in enumerate("wlh")}
        setting = "size_order: " + "".join(truly[axis] for axis in "lwh")
        evidence = f"misfit of log sizes {orders[0, 1, 2]:.2f} as given, {orders[best]:.2f} in that order"
        findings.append(Finding("fail", "sizes", "the size axes are swapped", setting, evidence))
    return findings


def size_columns(keyframes: Sequence[Keyframe]) -> tuple[int, ...]:
    """Which of the columns w, l, h hold what truly is w, l and h: (0, 1, 2) unless another order fits the classes clearly better."""
    medians = sizes_by_class(keyframes)
    if not medians:
        return 0, 1, 2
    orders = _order_misfits(medians, _weights(keyframes, medians))
    best = min(orders, key=lambda order: orders[order])
    return best if orders[0, 1, 2] - orders[best] > _CLEARLY else (0, 1, 2)


def _weights(keyframes: Sequence[Keyframe], medians: Mapping[str, np.ndarray]) -> np.ndarray:
    """Weight of each class, (C,): its count, up to 200, so that one frequent class does not decide alone."""
    counts = np.array(
        [min(200, sum(keyframe.names.count(name) for keyframe in keyframes)) for name in medians], dtype=float
    )
    return counts / counts.sum()


def _order_misfits(medians: Mapping[str, np.ndarray], weights: np.ndarray) -> dict[tuple[int, ...], float]:
    """Distance of log sizes from the typical ones, scale apart, for each order of the columns.

    What has no front (a barrier's is across its long side in nuScenes, along it elsewhere) or no usual shape has no say.
    """
    weights = np.array([0.0 if name in _SHAPELESS else weight for name, weight in zip(medians, weights, strict=True)])
    weights = weights / max(weights.sum(), 1e-9)
    logs = np.log(np.array(list(medians.values())))
    typical = np.log(np.array([TYPICAL[name] for name in medians]))
    scale = np.sum(weights[:, None] * (logs - typical)) / 3
    return {
        order: float(np.sum(weights * np.abs(logs[:, list(order)] - typical - scale).sum(axis=1)))
        for order in itertools.permutations(range(3))
    }


def check_headings(
    keyframes: Sequence[Keyframe], clouds: Mapping[int, np.ndarray], figures: dict[str, Any]
) -> list[Finding]:
    """Do long sides lie along the points on them, and do moving things move the way they face?"""
    votes = np.array([0, 0])
    for index, points in clouds.items():
        votes += _side_votes(keyframes[index], points)
    turns = _motion_turns(keyframes)
    figures[VOTES] = votes.tolist()
    figures[MOVING] = len(turns)
    sideways_by_points = votes.sum() >= 10 and votes[1] > 1.5 * votes[0]
    along, across = (float(np.mean(np.abs(function(turns)))) if len(turns) else 0.0 for function in (np.cos, np.sin))
    # Points are the stronger witness: motion decides only where there are few.
    sideways_by_motion = votes.sum() < 10 and len(turns) >= 5 and across > 0.8 and along < 0.5
    if len(turns):
        figures["motion along the heading (mean cosine)"] = round(float(np.mean(np.cos(turns))), 3)
    if sideways_by_points or sideways_by_motion:
        turn = (
            float(np.degrees(np.arctan2(np.mean(np.sin(turns)), np.mean(np.cos(turns))))) if len(turns) >= 5 else None
        )
        sign = "90" if turn is None else ("90" if turn > 0 else "-90")
        evidence = f"turned by 90 degrees {votes[1]} boxes hold more of their points, as given {votes[0]}"
        if turn is None:
            evidence += "; nothing moves, so it may be -90 as well: look at the pictures"
        else:
            evidence += f"; things move {turn:.0f} degrees off their heading"
        return [
            Finding(
                "fail",
                "headings",
                "the yaw is off by 90 degrees: long sides lie across their points or motion",
                f"yaw_offset: {sign}",
                evidence,
            )
        ]
    if len(turns) >= 5 and np.mean(np.cos(turns)) < -0.5:
        return [
            Finding(
                "fail",
                "headings",
                "things move backwards: the yaw is off by 180 degrees",
                "yaw_offset: 180",
                f"{len(turns)} moving boxes",
            )
        ]
    return _neighbours(keyframes, figures)


def _side_votes(keyframe: Keyframe, points: np.ndarray) -> np.ndarray:
    """(2,) counts of long boxes that hold clearly more points as given, and turned by 90 degrees about their centre."""
    boxes = keyframe.boxes
    ratio = boxes[:, 4] / np.maximum(boxes[:, 3], 1e-6)
    long = (
        np.isin(keyframe.names, list(TYPICAL))
        & ((ratio > 1.5) | (ratio < 1 / 1.5))
        & (np.hypot(boxes[:, 0], boxes[:, 1]) < 50)
    )
    boxes = boxes[long].copy()
    # The ground's points say nothing about a heading: leave out the lowest fifth, and some paint outside for noise.
    boxes[:, 2] += 0.1 * boxes[:, 5]
    boxes[:, 5] *= 0.8
    boxes[:, 3:5] += 0.1
    turned = boxes.copy()
    turned[:, 6] += np.pi / 2
    given, other = points_in_boxes(points, boxes), points_in_boxes(points, turned)
    enough = given + other >= 8
    return np.array(
        [np.count_nonzero(enough & (given > 1.3 * other)), np.count_nonzero(enough & (other > 1.3 * given))]
    )


def _motion_turns(keyframes: Sequence[Keyframe]) -> np.ndarray:
    """Angles from heading to motion, rad, of things that move at more than 1.5 m/s and have a heading."""
    turns: list[np.ndarray] = []
    for keyframe in keyframes:
        speed = np.linalg.norm(keyframe.velocities, axis=1)
        with np.errstate(invalid="ignore"):
            moving = (speed > 1.5) & (speed < 60) & np.isin(keyframe.names, list(_LONG))
        directions = np.arctan2(keyframe.velocities[moving, 1], keyframe.velocities[moving, 0])
        turns.append(wrap_angle(directions - keyframe.boxes[moving, 6]))
    return np.concatenate(turns) if turns else np.zeros(0)


def _neighbours(keyframes: Sequence[Keyframe], figures: dict[str, Any]) -> list[Finding]:
    """Vehicles close to each other mostly share a direction, or stand square to it."""
    agreements = []
    for keyframe in keyframes:
        cars = np.isin(keyframe.names, ["car", "truck", "bus"])
        boxes = keyframe.boxes[cars]
        for first, second in itertools.combinations(range(min(len(boxes), 40)), 2):
            if np.hypot(*(boxes[first, :2] - boxes[second, :2])) < 8:
                agreements.append(np.cos(4 * (boxes[first, 6] - boxes[second, 6])))
    if len(agreements) < 20:
        return []
    figures["neighbouring vehicles parallel or square (1 is)"] = round(float(np.mean(agreements)), 3)
    if np.mean(agreements) > 0.1:
        return []
    return [
        Finding(
            "warn",
            "headings",
            "neighbouring vehicles head in unrelated directions: is the yaw in rad, about z?",
            "",
            f"{len(agreements)} pairs",
        )
    ]


def check_places(keyframes: Sequence[Keyframe], figures: dict[str, Any]) -> list[Finding]:
    """Far boxes, boxes under the ground, boxes labelled twice, and how high the lidar stands."""
    findings = []
    known = [keyframe.boxes[np.isin(keyframe.names, list(TYPICAL))] for keyframe in keyframes]
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
    elif abs(ground + _LIDAR_HEIGHT) > 1.3:
        findings.append(
            Finding(
                "warn", "places", "the ground is not where nuScenes' lidar sees it, and published weights expect it there",
                f"origin_height: {-ground:.2f}", f"boxes stand {ground:+.2f} m from the origin, nuScenes' about {-_LIDAR_HEIGHT} m",
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
        return [
            Finding(
                "fail",
                "units",
                f"point clouds are in {unit}",
                f"length_unit: {{cloud: {unit}}}",
                f"90 % of points within {np.median(reach):.0f} m",
            )
        ]
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


def check_forward(keyframes: Sequence[Keyframe], figures: dict[str, Any]) -> list[Finding]:
    """A driving vehicle moves along its lidar's y axis, as nuScenes' does."""
    angles = []
    for earlier, later in itertools.pairwise(keyframes):
        step = later.global_from_lidar[:3, 3] - earlier.global_from_lidar[:3, 3]
        seconds = (later.timestamp - earlier.timestamp) * 1e-6
        if earlier.scene_token == later.scene_token and 0 < seconds < 2 and np.linalg.norm(step) > 1.0:
            ahead = earlier.global_from_lidar[:3, :3].T @ step
            angles.append(np.arctan2(ahead[1], ahead[0]) - np.pi / 2)
    if len(angles) < 5:
        return []
    mean = float(np.degrees(np.arctan2(np.mean(np.sin(angles)), np.mean(np.cos(angles)))))
    figures["vehicle moves off its forward axis by (degrees)"] = round(mean, 1)
    if abs(mean) < 45:
        return []
    return [
        Finding(
            "warn",
            "poses",
            "the vehicle does not move the way its front camera looks",
            "forward",
            f"{mean:.0f} degrees off; or the poses are inverted",
        )
    ]
