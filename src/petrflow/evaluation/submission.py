"""Detections as nuScenes' submission: global frame, attributes, at most 500 boxes a sample."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from petrflow.annotations import AnnotationStore
from petrflow.errors import PetrflowError
from petrflow.evaluation.boxes import GlobalDetections, global_detections
from petrflow.samples.types import Detections

MAX_BOXES_PER_SAMPLE = 500
CHUNK_KEYFRAMES = 32
"""Keyframes, ascending, that are converted at once."""

META = {"use_camera": True, "use_lidar": False, "use_radar": False, "use_map": False, "use_external": False}


def to_submission(
    store: AnnotationStore, detections: Mapping[str, Detections], class_names: Sequence[str]
) -> dict[str, Any]:
    """Convert detections in the lidar frame to nuScenes' submission format (global frame).

    Parameters
    ----------
    store : AnnotationStore
        The split that was predicted; it gives each keyframe's pose.
    detections : mapping of sample token to Detections
        One entry for every keyframe of the split.
    class_names : sequence of str
        Names behind the labels.

    Returns
    -------
    dict
        ``{"meta": …, "results": {token: [box, …]}}`` as https://www.nuscenes.org/object-detection
        describes it.

    Raises
    ------
    PetrflowError
        When a keyframe of the split has no entry.
    """
    require_all(store, detections)
    tokens = store.columns["keyframe.token"]
    numbers = range(len(store))
    boxes = submission_boxes(store, numbers, detections, class_names)
    return {"meta": META, "results": {tokens[k]: one for k, one in zip(numbers, boxes, strict=True)}}


def require_all(store: AnnotationStore, detections: Mapping[str, Any]) -> None:
    """Refuse detections that leave out a keyframe of the split."""
    tokens, scenes = store.columns["keyframe.token"], store.columns["keyframe.scene_name"]
    for index in range(len(store)):
        if tokens[index] not in detections:
            raise PetrflowError(
                f"no detections for sample {tokens[index]} (scene {scenes[index]}): predictions and annotations "
                "come from different splits or data sets; run the stage again from the start"
            )


def submission_boxes(
    store: AnnotationStore, keyframes: Sequence[int], detections: Mapping[str, Detections], class_names: Sequence[str]
) -> Iterator[list[dict[str, Any]]]:
    """Give the boxes of one keyframe after another in nuScenes' form."""
    tokens = store.columns["keyframe.token"]
    for start in range(0, len(keyframes), CHUNK_KEYFRAMES):
        piece = list(keyframes[start : start + CHUNK_KEYFRAMES])
        found = global_detections(
            store, piece, [detections[tokens[index]] for index in piece], class_names, MAX_BOXES_PER_SAMPLE
        )
        boxes = _boxes([tokens[index] for index in found.keyframe.tolist()], found, class_names)
        ends = np.searchsorted(found.keyframe, piece, side="right")
        for first, last in zip([0, *ends[:-1].tolist()], ends.tolist(), strict=True):
            yield boxes[first:last]


def _boxes(tokens: list[str], found: GlobalDetections, class_names: Sequence[str]) -> list[dict[str, Any]]:
    columns = zip(
        tokens,
        found.centre.tolist(),
        found.size.tolist(),
        found.rotation.tolist(),
        found.velocity.tolist(),
        found.label.tolist(),
        found.score.tolist(),
        found.attribute.tolist(),
        strict=True,
    )
    return [
        {
            "sample_token": token,
            "translation": translation,
            "size": size,
            "rotation": rotation,
            "velocity": velocity,
            "detection_name": class_names[label],
            "detection_score": score,
            "attribute_name": found.attribute_names[attribute],
        }
        for token, translation, size, rotation, velocity, label, score, attribute in columns
    ]


# ------------------------------------------------------------------------------------------------- files, a keyframe at a time


def submission_lines(
    store: AnnotationStore, keyframes: Sequence[int], detections: Mapping[str, Detections], class_names: Sequence[str]
) -> Iterator[bytes]:
    """Give one line for each keyframe: its token and its boxes, as they stand in a submission's
    ``results``.
    """
    tokens = store.columns["keyframe.token"]
    for index, boxes in zip(keyframes, submission_boxes(store, keyframes, detections, class_names), strict=True):
        known = not boxes or np.isfinite([box["velocity"] for box in boxes]).all()
        # orjson writes null for a velocity that is not a number; the devkit reads NaN.
        text = orjson.dumps(boxes) if known else json.dumps(boxes).encode()
        yield orjson.dumps(tokens[index]) + b": " + text + b"\n"


def read_lines(path: Path) -> Iterator[bytes]:
    """Give the lines of a file."""
    with path.open("rb") as handle:
        yield from handle


def write_submission(path: Path, shares: Sequence[tuple[Sequence[int], Iterable[bytes]]]) -> None:
    """Join shares of a submission, a keyframe at a time and keyframes ascending.

    Parameters
    ----------
    path : Path
        ``results_nusc.json``.
    shares : sequence of (sequence of int, iterable of bytes)
        Numbers of keyframes, ascending, and the line of each (:func:`submission_lines`).
    """
    lines = [iter(one) for _, one in shares]
    order = sorted((index, k) for k, (keyframes, _) in enumerate(shares) for index in keyframes)
    with path.open("wb") as handle:
        handle.write(b'{"meta": ' + orjson.dumps(META) + b', "results": {')
        for place, (_, k) in enumerate(order):
            handle.write((b",\n" if place else b"\n") + next(lines[k]).rstrip(b"\n"))
        handle.write(b"\n}}\n")
