"""Do headings agree with motion and with the points in boxes?"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from petrflow.annotations import Keyframe
from petrflow.doctor.findings import Finding
from petrflow.geometry import points_in_boxes, wrap_angle
from petrflow.nuscenes.names import TYPICAL_SIZES

_LONG = ("car", "truck", "bus", "trailer", "motorcycle", "bicycle")
# Votes and moving boxes from which points or motion decide on headings.
_ENOUGH_VOTES, _ENOUGH_MOVING = 10, 5


def check_headings(
    keyframes: Sequence[Keyframe], clouds: Mapping[int, np.ndarray], figures: dict[str, Any]
) -> tuple[list[Finding], bool]:
    """Do long sides lie along the points on them, and do moving things move the way they face?

    Returns
    -------
    findings, and whether there were points or motion enough to decide
    """
    votes = np.array([0, 0])
    for index, points in clouds.items():
        votes += _side_votes(keyframes[index], points)
    turns = _motion_turns(keyframes)
    decided = bool(votes.sum() >= _ENOUGH_VOTES or len(turns) >= _ENOUGH_MOVING)
    figures["boxes that fit their points better (as given, turned by 90 degrees)"] = votes.tolist()
    figures["moving boxes"] = len(turns)
    sideways_by_points = votes.sum() >= _ENOUGH_VOTES and votes[1] > 1.5 * votes[0]
    along, across = (float(np.mean(np.abs(function(turns)))) if len(turns) else 0.0 for function in (np.cos, np.sin))
    # Points are the stronger witness: motion decides only where there are few.
    sideways_by_motion = votes.sum() < _ENOUGH_VOTES and len(turns) >= _ENOUGH_MOVING and across > 0.8 and along < 0.5
    if len(turns):
        figures["motion along the heading (mean cosine)"] = round(float(np.mean(np.cos(turns))), 3)
    if sideways_by_points or sideways_by_motion:
        turn = (
            float(np.degrees(np.arctan2(np.mean(np.sin(turns)), np.mean(np.cos(turns)))))
            if len(turns) >= _ENOUGH_MOVING
            else None
        )
        sign = "90" if turn is None else ("90" if turn > 0 else "-90")
        evidence = f"turned by 90 degrees {votes[1]} boxes hold more of their points, as given {votes[0]}"
        if turn is None:
            evidence += "; nothing moves, so it may be -90 as well: look at the pictures"
        else:
            evidence += f"; things move {turn:.0f} degrees off their heading"
        finding = Finding(
            "fail",
            "headings",
            "the yaw is off by 90 degrees: long sides lie across their points or motion",
            f"yaw_offset: {sign}",
            evidence,
        )
        return [finding], decided
    if len(turns) >= _ENOUGH_MOVING and np.mean(np.cos(turns)) < -0.5:
        finding = Finding(
            "fail",
            "headings",
            "things move backwards: the yaw is off by 180 degrees",
            "yaw_offset: 180",
            f"{len(turns)} moving boxes",
        )
        return [finding], decided
    return _neighbours(keyframes, figures), decided


def _side_votes(keyframe: Keyframe, points: np.ndarray) -> np.ndarray:
    """(2,) counts of long boxes that hold clearly more points as given, and turned by 90 degrees
    about their centre.
    """
    boxes = keyframe.boxes
    ratio = boxes[:, 4] / np.maximum(boxes[:, 3], 1e-6)
    long = (
        np.isin(keyframe.names, list(TYPICAL_SIZES))
        & ((ratio > 1.5) | (ratio < 1 / 1.5))
        & (np.hypot(boxes[:, 0], boxes[:, 1]) < 50)
    )
    boxes = boxes[long].copy()
    # The ground's points say nothing about a heading: leave out the lowest fifth, and some paint
    # outside for noise.
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
    """Angles from heading to motion, rad, of things that move at more than 1.5 m/s and have a
    heading.
    """
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
