"""Detections that are labelled boxes, moved a little, some left out and some added: for tests and benchmarks of the viewer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from petrflow.annotations import AnnotationStore
from petrflow.evaluation.submission import submission_lines, write_submission
from petrflow.samples.types import Detections


def near_truth(
    store: AnnotationStore, class_names: Sequence[str], seed: int, share: float = 0.7, false: int = 5
) -> dict[str, Detections]:
    """Return detections by sample token: ``share`` of the labelled boxes within about 1 m, and ``false`` others a keyframe."""
    random = np.random.default_rng(seed)
    found = {}
    for index in range(len(store)):
        keyframe = store[index]
        known = [k for k, name in enumerate(keyframe.names) if name in class_names and random.random() < share]
        boxes = np.concatenate([keyframe.boxes, np.nan_to_num(keyframe.velocities)], axis=1)[known]
        labels = np.array([class_names.index(keyframe.names[k]) for k in known], dtype=np.int64)
        boxes[:, :2] += random.normal(0, 0.5, (len(boxes), 2))
        other = np.tile([0, 0, -1, 2, 4, 1.5, 0, 0, 0], (false, 1)) + random.uniform(-40, 40, (false, 9)) * (
            [1, 1] + [0] * 7
        )
        boxes = np.concatenate([boxes, other])
        labels = np.concatenate([labels, random.integers(len(class_names), size=false)])
        scores = np.round(random.uniform(0.1, 1.0, len(boxes)), 3)
        order = np.argsort(-scores, kind="stable")
        found[keyframe.token] = Detections(boxes[order], scores[order], labels[order])
    return found


def write_found(path: Path, store: AnnotationStore, found: dict[str, Detections], class_names: Sequence[str]) -> Path:
    """Write detections as a submission."""
    path.parent.mkdir(parents=True, exist_ok=True)
    keyframes = list(range(len(store)))
    write_submission(path, [(keyframes, submission_lines(store, keyframes, found, class_names))])
    return path


def ground_truth_detections(store: AnnotationStore, class_names: Sequence[str]) -> dict[str, Detections]:
    """Return the split's own boxes as if a perfect detector had found them (score 1), for checking
    the conversion.

    Boxes without a lidar or radar point are left out, as the devkit leaves them out of the ground
    truth.
    """
    detections = {}
    for index in range(len(store)):
        keyframe = store[index]
        known = np.array([name in class_names for name in keyframe.names], dtype=bool) & keyframe.valid
        names = [name for name, keep in zip(keyframe.names, known, strict=True) if keep]
        labels = np.array([class_names.index(name) for name in names], dtype=np.int64)
        boxes = np.concatenate([keyframe.boxes, keyframe.velocities], axis=1)[known]
        attributes = [name for name, keep in zip(keyframe.attributes, known, strict=True) if keep]
        detections[keyframe.token] = Detections(boxes, np.ones(len(boxes)), labels, attributes)
    return detections
