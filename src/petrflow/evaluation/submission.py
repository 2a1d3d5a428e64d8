"""Detections as nuScenes' submission: global frame, attributes, at most 500 boxes a sample."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from petrflow import geometry
from petrflow.annotations import AnnotationStore
from petrflow.errors import PetrflowError
from petrflow.samples.types import SampleDetections

MAX_BOXES_PER_SAMPLE = 500
MOVING_SPEED = 0.2
"""Speed (m/s) above which a vehicle counts as moving and a cycle as ridden when an attribute is chosen."""

MOVING_ATTRIBUTE = {
    **dict.fromkeys(("car", "truck", "construction_vehicle", "bus", "trailer"), "vehicle.moving"),
    **dict.fromkeys(("bicycle", "motorcycle"), "cycle.with_rider"),
    "pedestrian": "pedestrian.moving",
}
STILL_ATTRIBUTE = {
    **dict.fromkeys(("car", "truck", "construction_vehicle", "trailer"), "vehicle.parked"),
    **dict.fromkeys(("bicycle", "motorcycle"), "cycle.without_rider"),
    "bus": "vehicle.stopped",
    "pedestrian": "pedestrian.standing",
}


def choose_attribute(class_name: str, speed: float) -> str:
    """Return the nuScenes attribute of a detection from its class and its speed (m/s).

    PETRv2 predicts no attribute; moving or not is what its velocity tells, and cones and barriers have none.
    """
    table = MOVING_ATTRIBUTE if speed > MOVING_SPEED else STILL_ATTRIBUTE
    return table.get(class_name, "")


def to_submission(
    store: AnnotationStore, detections: Mapping[str, SampleDetections], class_names: Sequence[str]
) -> dict[str, Any]:
    """Convert detections in the lidar frame to nuScenes' submission format (global frame).

    Parameters
    ----------
    store : AnnotationStore
        The split that was predicted; it gives each keyframe's pose.
    detections : mapping of sample token to SampleDetections
        One entry for every keyframe of the split.
    class_names : sequence of str
        Names behind the labels.

    Returns
    -------
    dict
        ``{"meta": …, "results": {token: [box, …]}}`` as https://www.nuscenes.org/object-detection describes it.

    Raises
    ------
    PetrflowError
        When a keyframe of the split has no entry.
    """
    results: dict[str, list[dict[str, Any]]] = {}
    for index in range(len(store)):
        keyframe = store[index]
        if keyframe.token not in detections:
            raise PetrflowError(
                f"no detections for sample {keyframe.token} (scene {keyframe.scene_name}): predictions and annotations "
                "come from different splits or data sets; remove the run's baseline folder and run again"
            )
        results[keyframe.token] = _submission_boxes(keyframe, detections[keyframe.token], class_names)
    meta = {"use_camera": True, "use_lidar": False, "use_radar": False, "use_map": False, "use_external": False}
    return {"meta": meta, "results": results}


def _submission_boxes(keyframe: Any, found: SampleDetections, class_names: Sequence[str]) -> list[dict[str, Any]]:
    boxes = np.asarray(found.boxes, dtype=np.float64).reshape(-1, 9)
    keep = np.argsort(-np.asarray(found.scores), kind="stable")[:MAX_BOXES_PER_SAMPLE]
    global_from_lidar = keyframe.global_from_lidar
    centres = boxes[:, :3] @ global_from_lidar[:3, :3].T + global_from_lidar[:3, 3]
    velocities = np.concatenate([boxes[:, 7:9], np.zeros((len(boxes), 1))], axis=1) @ global_from_lidar[:3, :3].T
    rotations = geometry.quaternion_multiply(
        geometry.matrix_to_quaternion(global_from_lidar[:3, :3]), geometry.yaw_to_quaternion(boxes[:, 6])
    )
    converted = []
    for index in keep:
        name = class_names[int(found.labels[index])]
        speed = float(np.linalg.norm(boxes[index, 7:9]))
        attribute = found.attributes[index] if found.attributes is not None else choose_attribute(name, speed)
        converted.append(
            {
                "sample_token": keyframe.token,
                "translation": centres[index].tolist(),
                "size": boxes[index, 3:6].tolist(),
                "rotation": rotations[index].tolist(),
                "velocity": velocities[index, :2].tolist(),
                "detection_name": name,
                "detection_score": float(found.scores[index]),
                "attribute_name": attribute,
            }
        )
    return converted


def ground_truth_detections(store: AnnotationStore, class_names: Sequence[str]) -> dict[str, SampleDetections]:
    """Return the split's own boxes as if a perfect detector had found them (score 1), for checking the conversion.

    Boxes without a lidar or radar point are left out, as the devkit leaves them out of the ground truth.
    """
    detections = {}
    for index in range(len(store)):
        keyframe = store[index]
        known = np.array([name in class_names for name in keyframe.names], dtype=bool) & keyframe.valid
        names = [name for name, keep in zip(keyframe.names, known, strict=True) if keep]
        labels = np.array([class_names.index(name) for name in names], dtype=np.int64)
        boxes = np.concatenate([keyframe.boxes, keyframe.velocities], axis=1)[known]
        attributes = [name for name, keep in zip(keyframe.attributes, known, strict=True) if keep]
        detections[keyframe.token] = SampleDetections(boxes, np.ones(len(boxes)), labels, attributes)
    return detections
