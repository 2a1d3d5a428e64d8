"""The orders in which a box is written, and the ways between them (numpy, shared by the eager and
the exported model).

All are in the lidar frame, in m, rad and m/s. An order's name in this project is the one in the
left column.

=====================  ============================================================================================
nuScenes' order        (9) x, y, z of the centre, width, length, height, yaw from x towards y, vx, vy
PETR boxes             (9) as Paddle3D's data sets give them: the centre of the bottom face, Paddle3D's yaw
centred PETR boxes     (9) the same with the centre of the box
box codes              (10) x, y, ln width, ln length, z, ln height, sin and cos of Paddle3D's yaw, vx, vy; centre of the box
=====================  ============================================================================================

Between the first two goes :mod:`petrflow.geometry`, where the yaws are explained. What a cell of
the dense head predicts is in :mod:`petrflow.model.dense_targets`. The roundings to float32 stand
where stock Paddle3D has them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from petrflow import geometry
from petrflow.samples.types import Detections


def centred(boxes: np.ndarray) -> np.ndarray:
    """Turn PETR boxes (M, 9) into centred PETR boxes (M, 9) float32: half the height is added to
    z.
    """
    boxes = np.array(boxes, dtype="float32").reshape(-1, 9)
    boxes[:, 2] += boxes[:, 5] * 0.5
    return boxes


def encode(boxes: np.ndarray) -> np.ndarray:
    """Turn centred PETR boxes (M, 9) into box codes (M, 10) float32."""
    x, y, z, width, length, height, yaw, vx, vy = np.moveaxis(boxes, -1, 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        sizes = np.log(width), np.log(length), np.log(height)
    return np.stack([x, y, sizes[0], sizes[1], z, sizes[2], np.sin(yaw), np.cos(yaw), vx, vy], axis=-1).astype(
        "float32"
    )


def decode(codes: np.ndarray) -> np.ndarray:
    """Turn box codes (..., 10) into boxes (..., 9) float32 in nuScenes' order."""
    x, y, width, length, z, height, sine, cosine, vx, vy = np.moveaxis(np.asarray(codes, dtype="float64"), -1, 0)
    height = np.exp(height)
    petr = [x, y, z - height / 2, np.exp(width), np.exp(length), height, np.arctan2(sine, cosine), vx, vy]
    flat = np.stack(petr, axis=-1)
    return geometry.boxes_from_petr(flat.reshape(-1, 9)).reshape(flat.shape).astype("float32")


def centred_corners(boxes: np.ndarray) -> np.ndarray:
    """Return the corners (M, 8, 3) of centred PETR boxes (M, 9)."""
    # geometry.box_corners takes nuScenes' yaw, which is -yaw - pi / 2 of Paddle3D's.
    return geometry.box_corners(np.column_stack([boxes[:, :6], -boxes[:, 6] - np.pi / 2]))


def centred_headings(boxes: np.ndarray) -> np.ndarray:
    """Return the unit vectors (M, 2) along which centred PETR boxes (M, 9) point."""
    return -np.stack([np.sin(boxes[:, 6]), np.cos(boxes[:, 6])], axis=-1)


def best_detections(
    logits: np.ndarray, codes: np.ndarray, max_num: int, centre_range: Sequence[float]
) -> list[Detections]:
    """Keep the ``max_num`` (query, class) pairs of each sample with the highest scores, as far as
    their centres lie in range.

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
        boxes = decode(sample_codes[query])
        inside = ((boxes[:, :3] >= low) & (boxes[:, :3] <= high)).all(axis=1)
        results.append(Detections(boxes[inside], scores[best][inside], label[inside].astype("int64")))
    return results
