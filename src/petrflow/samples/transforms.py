"""What happens to a keyframe's pictures, matrices and boxes on the way to the model.

The steps and their semantics are those of Paddle3D's transform chain for PETRv2 (load, choose a
previous frame, filter boxes, resize-crop-flip, rotate and scale the scene, normalise, pad), fused:
all random numbers are drawn first (:func:`draw_augmentation`), every picture goes from bytes to its
place in the sample in one go, and matrices are multiplied in stock's order and precision, so that a
sample equals stock's bit for bit for the same augmentation.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from petrflow.samples.settings import InputSettings

FloatArray = NDArray[np.float64]

PUBLISHED_WIDTH = 1600
"""Pixels; the width of the pictures that the published resize limits were chosen for."""
SECONDS_PER_SWEEP = 0.083
"""Seconds between two camera sweeps, as stock guesses where a keyframe has no previous frame."""


@dataclass(frozen=True)
class Augmentation:
    """All random numbers of one training sample; None where the sample is treated as in validation.

    Attributes
    ----------
    sweep : int or None
        Previous frame, counted back from the keyframe; clipped to those that exist. None: the
        middle of the range.
    resize : float or None
        Resize factor for a picture 1600 px wide. None: the smallest that fills the final size.
    bottom : float
        Share of the resized picture cut off below.
    left : float in [0, 1)
        Where the crop lies between the left end and the right end of its freedom.
    flip : bool
    image_rotation : float, degrees counter-clockwise
    scene_rotation : float, rad, about the lidar's z axis
    scene_scale : float
    """

    sweep: int | None = None
    resize: float | None = None
    bottom: float = 0.0
    left: float = 0.5
    flip: bool = False
    image_rotation: float = 0.0
    scene_rotation: float | None = None
    scene_scale: float | None = None


def draw_augmentation(settings: InputSettings, rng: np.random.Generator, num_sweeps: int) -> Augmentation:
    """Draw the augmentation of one training sample: always as many random numbers, so that one
    setting does not shift another's.
    """
    uniform = rng.random(7)

    def between(limits: tuple[float, float], share: float) -> float:
        return float(limits[0] + (limits[1] - limits[0]) * share)

    if not settings.augment:
        return no_augmentation(settings)
    first, past_last = settings.sweep_range
    if first < num_sweeps:
        past_last = min(past_last, num_sweeps)
    return Augmentation(
        sweep=first + int(uniform[0] * (past_last - first)),
        resize=between(settings.resize_limits, uniform[1]),
        bottom=between(settings.bottom_limits, uniform[2]),
        left=float(uniform[3]),
        flip=settings.random_flip and bool(uniform[4] < 0.5),
        image_rotation=between(settings.image_rotation, float(rng.random())),
        scene_rotation=between(settings.scene_rotation, uniform[5]),
        scene_scale=between(settings.scene_scale, uniform[6]),
    )


def no_augmentation(settings: InputSettings) -> Augmentation:
    """Return what validation does: the middle previous frame, the smallest resize that fills, a
    centred crop, no flip, no rotation.
    """
    return Augmentation(bottom=float(np.mean(settings.bottom_limits)))


@dataclass(frozen=True)
class ImagePlan:
    """What happens to one picture.

    Attributes
    ----------
    resized : (width, height) px of the whole picture after the resize
    origin : (left, top) px of the crop in it; negative or beyond means black
    flip, rotation : bool, degrees
    matrix : (3, 3) float64
        Takes homogeneous pixel coordinates of the file's picture to those of the crop. Read-only.
    """

    resized: tuple[int, int]
    origin: tuple[int, int]
    flip: bool
    rotation: float
    matrix: FloatArray


@lru_cache(maxsize=64)
def plan_image(settings: InputSettings, augmentation: Augmentation, width: int, height: int) -> ImagePlan:
    """Turn an augmentation into a plan for a picture of `width` x `height` px, by stock's rules and
    rounding.
    """
    final_height, final_width = settings.image_size
    if augmentation.resize is None:
        resize = max(final_height / height, final_width / width)
    else:
        resize = augmentation.resize * (PUBLISHED_WIDTH / width)
    resized = (int(width * resize), int(height * resize))
    top = int((1 - augmentation.bottom) * resized[1]) - final_height
    freedom = max(0, resized[0] - final_width)
    left = int(freedom / 2) if augmentation.resize is None else int(freedom * augmentation.left)
    matrix = _image_matrix(
        resize, (left, top), (final_width, final_height), augmentation.flip, augmentation.image_rotation
    )
    matrix.flags.writeable = False
    return ImagePlan(resized, (left, top), augmentation.flip, augmentation.image_rotation, matrix)


def _image_matrix(
    resize: float, origin: tuple[int, int], size: tuple[int, int], flip: bool, rotation: float
) -> FloatArray:
    linear = np.eye(2) * resize
    shift = -np.array(origin, np.float64)
    if flip:
        mirror = np.array([[-1.0, 0.0], [0.0, 1.0]])
        linear = mirror @ linear
        shift = mirror @ shift + np.array([size[0], 0])
    angle = rotation / 180 * np.pi
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    center = np.array(size) / 2
    matrix = np.eye(3)
    matrix[:2, :2] = turn @ linear
    matrix[:2, 2] = turn @ shift + (turn @ -center + center)
    return matrix


def camera_from_lidar(lidar_from_camera: FloatArray) -> FloatArray:
    """Invert camera poses in the order of operations that stock's rounding has.

    Parameters
    ----------
    lidar_from_camera : (N, 4, 4) float64

    Returns
    -------
    (N, 4, 4) float64
    """
    out = np.zeros((len(lidar_from_camera), 4, 4))
    for matrix, pose in zip(out, lidar_from_camera, strict=True):
        rotation = np.linalg.inv(pose[:3, :3])
        matrix[:3, :3] = rotation
        matrix[:3, 3] = -(pose[:3, 3] @ rotation.T)
        matrix[3, 3] = 1.0
    return out


def pad_intrinsics(intrinsics: FloatArray) -> FloatArray:
    """Put (N, 3, 3) camera matrices into (N, 4, 4) ones."""
    out = np.zeros((len(intrinsics), 4, 4))
    out[:, :3, :3] = intrinsics
    out[:, 3, 3] = 1.0
    return out


def rotate_matrices(augmentation: Augmentation, lidar2img: list[NDArray[Any]]) -> list[NDArray[Any]]:
    """Apply the scene's rotation and scale to projection matrices; stock rounds to single precision
    before each product.
    """
    if augmentation.scene_rotation is None or augmentation.scene_scale is None:
        return lidar2img
    cosine, sine = np.cos(augmentation.scene_rotation), np.sin(augmentation.scene_rotation)
    turn = np.array([[cosine, -sine, 0, 0], [sine, cosine, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    stretch = np.diag([augmentation.scene_scale, augmentation.scene_scale, augmentation.scene_scale, 1.0])
    turn, stretch = np.linalg.inv(turn), np.linalg.inv(stretch)
    return [(matrix.astype(np.float32) @ turn).astype(np.float32) @ stretch for matrix in lidar2img]


def rotate_boxes(
    settings: InputSettings, augmentation: Augmentation, boxes: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Apply the scene's rotation and scale to boxes in Paddle3D's order, whose yaw falls in a
    positive rotation.

    Parameters
    ----------
    boxes : (M, 9) float32
        Paddle3D's order (see `geometry.boxes_to_petr`), lidar frame, m, rad, m/s; velocity NaN
        where unknown.

    Returns
    -------
    (M, 9) float32
        Rounded where stock rounds: turns in double precision, scales in single.
    """
    if augmentation.scene_rotation is None or augmentation.scene_scale is None:
        return boxes
    angle = np.float64(-augmentation.scene_rotation if settings.reverse_angle else augmentation.scene_rotation)
    cosine, sine = np.cos(angle), np.sin(angle)
    turn = np.array([[cosine, -sine, 0], [sine, cosine, 0], [0, 0, 1]])
    boxes = boxes.copy()
    boxes[:, :3] = boxes[:, :3] @ turn
    boxes[:, 6] = boxes[:, 6] + angle
    boxes[:, 7:9] = boxes[:, 7:9] @ turn[:2, :2]
    boxes[:, :6] *= augmentation.scene_scale
    boxes[:, 7:] *= augmentation.scene_scale
    return boxes


def in_range(settings: InputSettings, boxes: NDArray[Any]) -> NDArray[np.bool_]:
    """Which boxes' centres lie inside the point cloud range, seen from above; stock ignores the
    height here.
    """
    low_x, low_y, _, high_x, high_y, _ = np.asarray(settings.point_cloud_range, np.float32)
    x, y = boxes[:, 0].astype(np.float32), boxes[:, 1].astype(np.float32)
    inside: NDArray[np.bool_] = (x > low_x) & (y > low_y) & (x < high_x) & (y < high_y)
    return inside


def wrap_petr_yaw(boxes: NDArray[np.float32]) -> NDArray[np.float32]:
    """Bring the yaw of boxes in Paddle3D's order within [-pi, pi), with stock's formula and
    precision.
    """
    boxes = boxes.copy()
    boxes[:, 6] -= np.floor(boxes[:, 6] / (2 * np.pi) + 0.5) * (2 * np.pi)
    return boxes
