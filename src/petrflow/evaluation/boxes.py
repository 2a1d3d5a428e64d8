"""Labelled and detected boxes of a split as columns in the global frame, filtered as a protocol
says.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from petrflow import geometry
from petrflow.annotations import AnnotationStore
from petrflow.errors import PetrflowError
from petrflow.evaluation.matching import Boxes, inside_any
from petrflow.evaluation.protocol import Protocol
from petrflow.nuscenes.synonyms import labels_of

MOVING_SPEED = 0.2
"""Speed (m/s) above which a vehicle counts as moving and a cycle as ridden when an attribute is
chosen.
"""

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


@dataclass(frozen=True)
class GlobalDetections:
    """Detections of some keyframes in the global frame, the best of each keyframe first.

    Attributes
    ----------
    keyframe : (n,) int64
        Number of the keyframe in the store.
    label : (n,) int64
        Number of the class among the names given.
    centre, size : (n, 3) float64
        m; width, length, height.
    rotation : (n, 4) float64
        Quaternion w, x, y, z.
    velocity : (n, 2) float64
        m/s.
    score : (n,) float64
    attribute : (n,) int64
        Number of the attribute in ``attribute_names``.
    attribute_names : list of str
        The first one is '', no attribute.
    """

    keyframe: np.ndarray
    label: np.ndarray
    centre: np.ndarray
    size: np.ndarray
    rotation: np.ndarray
    velocity: np.ndarray
    score: np.ndarray
    attribute: np.ndarray
    attribute_names: list[str]


def global_detections(
    store: AnnotationStore, keyframes: Sequence[int], found: Sequence[Any], class_names: Sequence[str], limit: int
) -> GlobalDetections:
    """Take detections from the lidar frame of their keyframes to the global frame.

    The result does not depend on how keyframes are divided into calls: what is scored and what is
    written are the same numbers.

    Parameters
    ----------
    keyframes : sequence of int
        Numbers of the keyframes in the store.
    found : sequence of Detections
        One for each of them.
    class_names : sequence of str
        Names behind the labels.
    limit : int
        Keep the best so many detections of a keyframe.
    """
    names, moving, still = _attribute_tables(class_names)
    best = [np.argsort(-np.asarray(one.scores), kind="stable")[:limit] for one in found]
    boxes = _joined([np.asarray(one.boxes).reshape(-1, 9)[k] for one, k in zip(found, best, strict=True)], (0, 9))
    scores = _joined([np.asarray(one.scores)[k] for one, k in zip(found, best, strict=True)], (0,))
    labels = _joined([np.asarray(one.labels)[k] for one, k in zip(found, best, strict=True)], (0,)).astype(np.int64)
    counts = [len(k) for k in best]
    keyframe = np.repeat(np.asarray(keyframes, dtype=np.int64), counts)
    if not (np.isfinite(boxes[:, :7]).all() and np.isfinite(scores).all()):
        row = int(np.flatnonzero(~(np.isfinite(boxes[:, :7]).all(axis=1) & np.isfinite(scores)))[0])
        raise PetrflowError(
            f"the model's detections of sample {store.columns['keyframe.token'][int(keyframe[row])]} are not numbers (NaN or "
            "infinite): its weights are damaged or the training diverged; train again with a lower learning rate or other weights"
        )
    global_from_lidar = _poses(store, np.asarray(keyframes, dtype=np.int64))
    place = np.repeat(np.arange(len(counts)), counts)
    turn = global_from_lidar[:, :3, :3]
    rotation = geometry.quaternion_multiply(
        geometry.matrix_to_quaternion(turn)[place], geometry.yaw_to_quaternion(boxes[:, 6])
    )
    centre = _turned(turn[place], boxes[:, :3]) + global_from_lidar[place, :3, 3]
    velocity = _turned(turn[place], np.concatenate([boxes[:, 7:9], np.zeros((len(boxes), 1))], axis=1))[:, :2]
    with np.errstate(invalid="ignore"):
        fast = np.sqrt(boxes[:, 7] ** 2 + boxes[:, 8] ** 2) > MOVING_SPEED
    attribute = np.where(fast, moving[labels], still[labels]) if len(labels) else np.zeros(0, dtype=np.int64)
    if any(one.attributes is not None for one in found):
        names, attribute = _given_attributes(found, best, names, attribute)
    return GlobalDetections(keyframe, labels, centre, boxes[:, 3:6], rotation, velocity, scores, attribute, names)


def _joined(parts: list[np.ndarray], empty: tuple[int, ...]) -> np.ndarray:
    return np.concatenate(parts).astype(np.float64) if parts else np.zeros(empty)


def _turned(rotation: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    # Written out: a matrix product may round differently in batches of another size.
    x, y, z = (vectors[:, k, None] for k in range(3))
    turned: np.ndarray = rotation[:, :, 0] * x + rotation[:, :, 1] * y + rotation[:, :, 2] * z
    return turned


def _attribute_tables(class_names: Sequence[str]) -> tuple[list[str], np.ndarray, np.ndarray]:
    names = ["", *dict.fromkeys([*MOVING_ATTRIBUTE.values(), *STILL_ATTRIBUTE.values()])]
    moving = np.array([names.index(MOVING_ATTRIBUTE.get(name, "")) for name in class_names], dtype=np.int64)
    still = np.array([names.index(STILL_ATTRIBUTE.get(name, "")) for name in class_names], dtype=np.int64)
    return names, moving, still


def _given_attributes(
    found: Sequence[Any], best: list[np.ndarray], names: list[str], chosen: np.ndarray
) -> tuple[list[str], np.ndarray]:
    """Use the attributes that detections bring along, and the chosen ones for those that bring
    none.
    """
    names, codes, start = list(names), chosen.copy(), 0
    number = {name: k for k, name in enumerate(names)}
    for one, rows in zip(found, best, strict=True):
        if one.attributes is not None:
            for offset, row in enumerate(rows):
                name = one.attributes[int(row)]
                if name not in number:
                    number[name] = len(names)
                    names.append(name)
                codes[start + offset] = number[name]
        start += len(rows)
    return names, codes


# ------------------------------------------------------------------------------------------------------------------- the store


def _poses(store: AnnotationStore, keyframes: np.ndarray) -> np.ndarray:
    """Return ``global_from_lidar`` of some keyframes: (K, 4, 4) float64."""
    ego, lidar = store.columns["keyframe.ego_to_global"][keyframes], store.columns["keyframe.lidar_to_ego"][keyframes]
    return geometry.transform(ego[:, :3], ego[:, 3:]) @ geometry.transform(lidar[:, :3], lidar[:, 3:])


@dataclass(frozen=True)
class Racks:
    """Boxes in which boxes of some classes do not count."""

    boxes: Boxes
    rotations: np.ndarray


def labelled(store: AnnotationStore, keyframes: np.ndarray, protocol: Protocol) -> tuple[Boxes, Racks]:
    """Return the labelled boxes of some keyframes that count, and the racks that the protocol
    knows.

    Parameters
    ----------
    keyframes : (K,) int64
        Numbers of keyframes of the store.
    """
    columns = store.columns
    offset = columns["keyframe.box_offset"]
    counts = offset[keyframes + 1] - offset[keyframes]
    keyframe = np.repeat(keyframes, counts)
    rows = np.arange(len(keyframe)) + np.repeat(offset[keyframes] - (np.cumsum(counts) - counts), counts)
    names = store.metadata["names"]
    label_of_code = np.array(labels_of(names, protocol.class_names), dtype=np.int16)
    code = columns["box.name"][rows]
    is_rack = np.array([bool(protocol.rack_category) and name == protocol.rack_category for name in names], dtype=bool)
    rack = np.flatnonzero(is_rack[code]) if len(names) else np.zeros(0, dtype=np.int64)
    racks = Racks(
        _labelled_boxes(store, rows[rack], keyframe[rack], np.full(len(rack), -1, dtype=np.int16)),
        geometry.quaternion_to_matrix(columns["box.global_rotation"][rows[rack]]),
    )
    label = label_of_code[code] if len(names) else np.zeros(0, dtype=np.int16)
    kept = np.flatnonzero((label >= 0) & (columns["box.valid"][rows] != 0))
    boxes = _labelled_boxes(store, rows[kept], keyframe[kept], label[kept])
    return counted(boxes, racks, protocol), racks


def _labelled_boxes(store: AnnotationStore, rows: np.ndarray, keyframe: np.ndarray, label: np.ndarray) -> Boxes:
    columns = store.columns
    centre = columns["box.global_translation"][rows]
    first_of_name: dict[str, int] = {}
    codes = np.array(
        [first_of_name.setdefault(name, k) for k, name in enumerate(store.metadata["attributes"])], dtype=np.int16
    )
    return Boxes(
        keyframe=keyframe,
        label=label,
        centre=centre,
        size=columns["box.box"][rows, 3:6],
        heading=geometry.quaternion_yaw(columns["box.global_rotation"][rows]),
        velocity=columns["box.global_velocity"][rows],
        attribute=codes[columns["box.attribute"][rows]],
        distance=_distance(store, keyframe, centre),
        score=np.zeros(0),
    )


def detected(store: AnnotationStore, found: GlobalDetections, class_names: Sequence[str], protocol: Protocol) -> Boxes:
    """Return detections as boxes with the protocol's labels, without classes that it does not
    know.
    """
    number = {name: k for k, name in enumerate(protocol.class_names)}
    label = np.array([number.get(name, -1) for name in class_names], dtype=np.int16)[found.label]
    attributes: list[str] = store.metadata["attributes"]
    # -1: an attribute that no labelled box has.
    code = np.array([attributes.index(n) if n in attributes else -1 for n in found.attribute_names], dtype=np.int16)
    boxes = Boxes(
        keyframe=found.keyframe,
        label=label,
        centre=found.centre,
        size=found.size,
        heading=geometry.quaternion_yaw(found.rotation),
        velocity=found.velocity,
        attribute=code[found.attribute],
        distance=_distance(store, found.keyframe, found.centre),
        score=found.score,
    )
    return boxes if (label >= 0).all() else boxes.take(label >= 0)


def counted(boxes: Boxes, racks: Racks, protocol: Protocol) -> Boxes:
    """Return the boxes within their class's range and outside racks."""
    near = boxes.distance < protocol.ranges()[boxes.label]
    if len(racks.boxes):
        racked = np.array([name in protocol.racked_classes for name in protocol.class_names], dtype=bool)[boxes.label]
        rows = np.flatnonzero(near & racked)
        near[rows[inside_any(boxes.centre[rows], boxes.keyframe[rows], racks.boxes, racks.rotations)]] = False
    return boxes.take(near)


def _distance(store: AnnotationStore, keyframe: np.ndarray, centre: np.ndarray) -> np.ndarray:
    """Return the distance from the vehicle, seen from above: (n,) float64, m."""
    offset = centre[:, :2] - store.columns["keyframe.ego_to_global"][keyframe, :2]
    distance: np.ndarray = np.sqrt(offset[:, 0] ** 2 + offset[:, 1] ** 2)
    return distance
