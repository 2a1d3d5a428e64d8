"""A split's keyframes as the stream that an export's ``runner.py`` reads, and what its boxes are
compared with.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import linear_sum_assignment

from petrflow.annotations import AnnotationStore
from petrflow.annotations.store import CameraFrames


def scenes_of(store: AnnotationStore) -> Iterator[range]:
    """Yield the places of each scene's keyframes; they lie one after another, in time order."""
    first = 0
    for place in range(1, len(store) + 1):
        if place == len(store) or store[place].scene_token != store[first].scene_token:
            yield range(first, place)
            first = place


def moments_of(store: AnnotationStore, root: Path, places: Sequence[int], folder: Path) -> dict[str, Any]:
    """Return a scene in the form of ``moments.json``: its keyframes, and the frames between them,
    which are only seen.

    Paths of pictures are relative to ``folder``, where that file will lie.
    """
    start = os.path.relpath(Path(root).resolve(), Path(folder).resolve())
    moments: list[dict[str, Any]] = []
    seen = -1
    for place in places:
        keyframe = store[place]
        between = {}
        for k in range(keyframe.num_sweeps):
            frames = keyframe.sweep(k)
            taken = int(frames.image_timestamps[0])
            if taken <= seen:
                break
            between[taken] = _cameras(frames, keyframe.global_from_lidar, start)
        for taken in sorted(between):
            if (
                moments
            ):  # frames before the first keyframe would serve a vehicle; the data set pairs that keyframe with itself
                moments.append({"time": taken / 1e6, "cameras": between[taken]})
        moments.append(
            {
                "time": keyframe.timestamp / 1e6,
                "world_from_lidar": keyframe.global_from_lidar.tolist(),
                "cameras": _cameras(keyframe, keyframe.global_from_lidar, start),
            }
        )
        seen = int(keyframe.image_timestamps[0])
    return {"moments": moments}


def _cameras(frames: CameraFrames, world_from_lidar: np.ndarray, start: str) -> list[dict[str, Any]]:
    return [
        {
            "picture": f"{start}/{path}",
            "time": int(taken) / 1e6,
            "intrinsics": intrinsics.tolist(),
            "world_from_camera": (world_from_lidar @ pose).tolist(),
        }
        for path, taken, intrinsics, pose in zip(
            frames.image_paths, frames.image_timestamps, frames.intrinsics, frames.lidar_from_camera, strict=True
        )
    ]


def largest_difference(boxes: Any, others: Any) -> float:
    """Return the largest absolute difference of two models' boxes of a keyframe (m, rad, m/s), each
    with the nearest of its class.

    Both have ``boxes`` (K, 9), ``scores`` and ``labels`` (K,). Infinite where their numbers differ:
    equal scores may come in any order, other boxes may not.
    """
    if sorted(boxes.labels) != sorted(others.labels):
        return float("inf")
    apart = np.abs(boxes.boxes[:, None].astype("float64") - others.boxes[None])
    apart[..., 6] = np.abs((apart[..., 6] + np.pi) % (2 * np.pi) - np.pi)  # yaws
    scores = np.abs(boxes.scores[:, None].astype("float64") - others.scores[None])
    worst = np.maximum(apart.max(-1), scores)
    worst[boxes.labels[:, None] != others.labels[None]] = 1e6
    return float(worst[linear_sum_assignment(worst)].max(initial=0.0))
