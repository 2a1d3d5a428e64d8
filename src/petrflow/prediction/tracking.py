"""One number for one object over the keyframes of a scene: a greedy tracker that uses the model's velocities.

The rule is CenterPoint's (Yin, Zhou, Krähenbühl: Center-based 3D Object Detection and Tracking, CVPR 2021, section 4.2):
each detection is moved back to the time of the keyframe before by its own velocity, and detections take, the highest score
first, the nearest track of their class that is still free and near enough. Everything happens on the ground plane of the global
frame. Two things differ from the authors' code: a track outlives :data:`MISSES` keyframes without a detection, theirs two, and
a keyframe without any detection is a miss like any other, where theirs forgets all tracks.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

import numpy as np
import orjson

from petrflow.annotations import AnnotationStore
from petrflow.evaluation.boxes import global_detections
from petrflow.evaluation.submission import MAX_BOXES_PER_SAMPLE, submission_boxes
from petrflow.prediction.film import scenes_of
from petrflow.samples.types import Detections

DISTANCES = {
    "car": 4.0, "truck": 4.0, "bus": 5.5, "trailer": 3.0, "pedestrian": 1.0, "motorcycle": 13.0, "bicycle": 3.0,
}  # fmt: skip
"""m: how far a detection that was moved back may lie from its track. CenterPoint's published table
(``NUSCENE_CLS_VELOCITY_ERROR`` in its ``tools/nusc_tracking/pub_tracker.py``): the 99.9th percentile of what the velocity's
error amounts to in half a second, on nuScenes. Its keys are the classes of nuScenes' tracking task.
"""
LEAST_DISTANCE, LARGEST_DISTANCE = 1.0, 4.0
"""m: limits of the distance of any other class, which is the longer side of its boxes, seen from above."""
MISSES = 3
"""Keyframes in a row without a detection that a track outlives."""
NONE = -1
"""Number of a detection without a track; tracks are numbered from 1 in each scene."""


def class_distances(class_names: Sequence[str], found: Sequence[Detections]) -> np.ndarray:
    """Return how far a detection of each class may lie from its track.

    Parameters
    ----------
    class_names : sequence of str
    found : sequence of Detections
        Their boxes give the sizes of classes that :data:`DISTANCES` does not name: the median of the longer side, and not
        less than :data:`LEAST_DISTANCE` nor more than :data:`LARGEST_DISTANCE`.

    Returns
    -------
    (C,) float64, m
    """
    sides = np.concatenate([np.asarray(one.boxes, np.float64).reshape(-1, 9)[:, 3:5].max(axis=1) for one in found])
    labels = np.concatenate([np.asarray(one.labels, np.int64) for one in found])
    distances = np.full(len(class_names), LEAST_DISTANCE)
    for label, name in enumerate(class_names):
        if name in DISTANCES:
            distances[label] = DISTANCES[name]
        elif (own := labels == label).any():
            distances[label] = np.clip(np.median(sides[own]), LEAST_DISTANCE, LARGEST_DISTANCE)
    return distances


class Tracker:
    """Tracks of one scene, fed with one keyframe after another.

    Parameters
    ----------
    distances : (C,) float64
        m, by class.
    """

    def __init__(self, distances: np.ndarray) -> None:
        self.distances = np.asarray(distances, np.float64)
        self.last = 0
        self._time = 0.0
        self._number, self._label, self._missed = (np.zeros(0, np.int64) for _ in range(3))
        self._centre, self._velocity = np.zeros((0, 2)), np.zeros((0, 2))

    def step(
        self, time: float, centre: np.ndarray, velocity: np.ndarray, label: np.ndarray, score: np.ndarray
    ) -> np.ndarray:
        """Give every detection of the next keyframe the number of its track.

        Parameters
        ----------
        time : float
            s, not before that of the last call.
        centre, velocity : (K, 2) float64
            Global frame, m and m/s. A velocity that is not a number counts as 0.
        label : (K,) int64
        score : (K,) float64
            Equal scores: the first detection goes first.

        Returns
        -------
        (K,) int64
        """
        velocity = np.where(np.isfinite(velocity).all(axis=1, keepdims=True), velocity, 0.0)
        passed, self._time = time - self._time, time
        before = centre - velocity * passed
        numbers, free = np.zeros(len(label), np.int64), np.ones(len(self._number), bool)
        for row in np.argsort(-np.asarray(score), kind="stable").tolist():
            offset = self._centre - before[row]
            distance = np.sqrt(offset[:, 0] ** 2 + offset[:, 1] ** 2)
            near = free & (self._label == label[row]) & (distance <= self.distances[label[row]])
            if near.any():
                track = int(np.argmin(np.where(near, distance, np.inf)))
                free[track], numbers[row] = False, self._number[track]
            else:
                self.last += 1
                numbers[row] = self.last
        kept = free & (self._missed < MISSES)
        # A track without a detection goes on as it last moved.
        self._centre = np.concatenate([self._centre[kept] + self._velocity[kept] * passed, centre])
        self._velocity = np.concatenate([self._velocity[kept], velocity])
        self._number = np.concatenate([self._number[kept], numbers])
        self._label = np.concatenate([self._label[kept], label])
        self._missed = np.concatenate([self._missed[kept] + 1, np.zeros(len(label), np.int64)])
        return numbers


def track(
    store: AnnotationStore, found: Sequence[Detections], class_names: Sequence[str], scores: np.ndarray
) -> list[np.ndarray]:
    """Number the objects of every scene of a store; the same detections get the same numbers.

    Parameters
    ----------
    found : sequence of Detections
        One a keyframe, in the store's order.
    scores : (C,) float64
        Score from which on detections of each class are tracked: those that are shown. Others would take the tracks of objects.

    Returns
    -------
    list of (K,) int64
        One a keyframe: numbers from 1 in each scene, :data:`NONE` below the score of the class.
    """
    kept = [np.flatnonzero(np.asarray(one.scores) >= scores[np.asarray(one.labels, np.int64)]) for one in found]
    # In the order in which global_detections gives them.
    kept = [
        rows[np.argsort(-np.asarray(one.scores)[rows], kind="stable")] for one, rows in zip(found, kept, strict=True)
    ]
    shown = [_taken(one, rows) for one, rows in zip(found, kept, strict=True)]
    distances = class_distances(class_names, shown)
    times = np.asarray(store.columns["keyframe.timestamp"], np.int64)
    numbers = [np.full(len(one.scores), NONE, np.int64) for one in found]
    for keyframes in scenes_of(store).values():
        tracker = Tracker(distances)
        for index in keyframes:
            boxes = global_detections(store, [index], [shown[index]], class_names, len(kept[index]))
            seconds = (int(times[index]) - int(times[keyframes[0]])) / 1e6
            numbers[index][kept[index]] = tracker.step(
                seconds, boxes.centre[:, :2], boxes.velocity, boxes.label, boxes.score
            )
    return numbers


def tracking_lines(
    store: AnnotationStore, found: Sequence[Detections], tracks: Sequence[np.ndarray], class_names: Sequence[str]
) -> Iterator[bytes]:
    """Give one line for each keyframe, as nuScenes' tracking task wants it in ``results``: the token and the boxes with a track,
    of that task's seven classes.
    """
    names, scenes = store.columns["keyframe.token"], store.columns["keyframe.scene_name"]
    asked = np.array([name in DISTANCES for name in class_names], dtype=bool)
    for index, (one, numbers) in enumerate(zip(found, tracks, strict=True)):
        rows = np.flatnonzero((numbers != NONE) & asked[np.asarray(one.labels, np.int64)])
        rows = rows[np.argsort(-np.asarray(one.scores)[rows], kind="stable")][:MAX_BOXES_PER_SAMPLE]
        (boxes,) = submission_boxes(store, [index], {names[index]: _taken(one, rows)}, class_names)
        for box, number in zip(boxes, numbers[rows].tolist(), strict=True):
            del box["attribute_name"]
            box["tracking_id"] = f"{scenes[index]}/{number}"
            box["tracking_name"], box["tracking_score"] = box.pop("detection_name"), box.pop("detection_score")
        known = not boxes or np.isfinite([box["velocity"] for box in boxes]).all()
        # orjson writes null for a velocity that is not a number; the devkit reads NaN.
        text = orjson.dumps(boxes) if known else json.dumps(boxes).encode()
        yield orjson.dumps(names[index]) + b": " + text + b"\n"


def _taken(found: Detections, rows: np.ndarray) -> Detections:
    return Detections(found.boxes[rows], found.scores[rows], found.labels[rows])
