"""What a model is given and what it gives: samples, batches, detections."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Sample = dict[str, Any]

Batch = dict[str, Any]


@dataclass(frozen=True)
class Detections:
    """Detections of one keyframe.

    Attributes
    ----------
    boxes : (K, 9) float
        x, y, z of the centre, width, length, height (m), yaw (rad), vx, vy (m/s), in the keyframe's lidar frame and
        nuScenes' order.
    scores : (K,) float
        Confidence, 0 to 1. A model gives the highest first.
    labels : (K,) int
        Index into ``class_names``.
    attributes : sequence of str, optional
        nuScenes attribute names; chosen from class and speed when absent.
    """

    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    attributes: Sequence[str] | None = None
