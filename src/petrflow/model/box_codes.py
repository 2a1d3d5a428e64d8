"""From raw head outputs to detections in nuScenes' own order (numpy, shared by the eager and the exported model)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from petrflow import geometry
from petrflow.samples.types import Detections


def decode_boxes(codes: np.ndarray) -> np.ndarray:
    """Turn box codes (..., 10) into boxes (..., 9): lidar frame, nuScenes order, centre in the middle.

    Parameters
    ----------
    codes : (..., 10) float32
        x, y, ln width, ln length, z, ln height, sin, cos of Paddle3D's yaw, vx, vy.
    """
    x, y, width, length, z, height, sine, cosine, vx, vy = np.moveaxis(np.asarray(codes, dtype="float64"), -1, 0)
    height = np.exp(height)
    petr = [x, y, z - height / 2, np.exp(width), np.exp(length), height, np.arctan2(sine, cosine), vx, vy]
    flat = np.stack(petr, axis=-1)
    return geometry.boxes_from_petr(flat.reshape(-1, 9)).reshape(flat.shape).astype("float32")


def decode(logits: np.ndarray, codes: np.ndarray, max_num: int, centre_range: Sequence[float]) -> list[Detections]:
    """Keep the best ``max_num`` (query, class) pairs of each sample whose centres lie in range.

    Parameters
    ----------
    logits : (B, Q, C) float32
    codes : (B, Q, 10) float32
    max_num : int
    centre_range : 6 floats
        Limits of the centres, lidar frame, m.
    """
    low, high = np.split(np.asarray(centre_range, dtype="float64"), 2)
    results = []
    for sample_logits, sample_codes in zip(logits, codes, strict=True):
        scores = 1 / (1 + np.exp(-sample_logits.astype("float32").reshape(-1)))
        best = np.argsort(-scores, kind="stable")[:max_num]
        query, label = np.divmod(best, sample_logits.shape[-1])
        boxes = decode_boxes(sample_codes[query])
        inside = ((boxes[:, :3] >= low) & (boxes[:, :3] <= high)).all(axis=1)
        results.append(Detections(boxes[inside], scores[best][inside], label[inside].astype("int64")))
    return results


def gravity_centre(boxes: np.ndarray) -> np.ndarray:
    """Move the centre of boxes (M, 9), Paddle3D order, from the bottom face to the middle; returns a copy, float32."""
    boxes = np.array(boxes, dtype="float32").reshape(-1, 9)
    boxes[:, 2] += boxes[:, 5] * 0.5
    return boxes


def encode(boxes: np.ndarray) -> np.ndarray:
    """Encode boxes (M, 9) with gravity centres as the head predicts them: (M, 10) x, y, ln w, ln l, z, ln h, sin, cos, vx, vy."""
    x, y, z, width, length, height, yaw, vx, vy = np.moveaxis(boxes, -1, 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        sizes = np.log(width), np.log(length), np.log(height)
    return np.stack([x, y, sizes[0], sizes[1], z, sizes[2], np.sin(yaw), np.cos(yaw), vx, vy], axis=-1).astype(
        "float32"
    )
