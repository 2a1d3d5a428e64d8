"""Poses, boxes and projections in numpy: the one place where a frame convention is spelled out.

Conventions, all of them nuScenes' own:

- A quaternion is ``(w, x, y, z)``. It need not be of unit length where a function says so.
- ``a_from_b`` is a ``(4, 4)`` matrix that takes homogeneous column points in frame b to frame a, m.
- Lidar frame of LIDAR_TOP: x to the right, y forward, z up. Ego frame: x forward, y to the left,
  z up, origin on the ground under the rear axle. Camera frame: x to the right, y down, z forward
  (depth). Global frame: the map's, z up.
- A box is ``x, y, z, w, l, h, yaw[, vx, vy]``: the centre in m; width across, length along and
  height up in m; the angle of its heading from the frame's x axis towards y in rad; velocity of the
  centre in m/s, NaN where unknown.
- Paddle3D's PETR uses another order for the same boxes, "PETR boxes". :func:`boxes_to_petr` and
  :func:`boxes_from_petr` are the only ways there and back; :mod:`petrflow.model.box_codes` has a
  name for each order that the model uses.

Every function works on any number of leading axes unless its shapes say otherwise.

For every package. It must not read files, know a class or a camera's name, or use a frame convention
that is not in the list above.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

FloatArray = NDArray[np.float64]

# Signs of the eight corners along length (forward), width (left) and height (up), in the devkit's
# order: four ahead, four behind.
_CORNER_SIGNS = 0.5 * np.array(
    [
        [1, 1, 1, 1, -1, -1, -1, -1],
        [1, -1, -1, 1, 1, -1, -1, 1],
        [1, 1, -1, -1, 1, 1, -1, -1],
    ],
    dtype=np.float64,
)


def wrap_angle(angle: ArrayLike) -> FloatArray:
    """Wrap angles in rad into [-pi, pi)."""
    angle = np.asarray(angle, dtype=np.float64)
    return (angle + np.pi) % (2 * np.pi) - np.pi


# ------------------------------------------------------------------------------------------------------------------ rotations


def normalize_quaternion(quaternion: ArrayLike) -> FloatArray:
    """Scale quaternions ``(..., 4)`` to unit length."""
    quaternion = np.asarray(quaternion, dtype=np.float64)
    unit: FloatArray = quaternion / np.linalg.norm(quaternion, axis=-1, keepdims=True)
    return unit


def quaternion_to_matrix(quaternion: ArrayLike) -> FloatArray:
    """Turn quaternions into rotation matrices.

    Parameters
    ----------
    quaternion : (..., 4) float
        w, x, y, z; of any length but zero.

    Returns
    -------
    (..., 3, 3) float64
    """
    w, x, y, z = np.moveaxis(normalize_quaternion(quaternion), -1, 0)
    matrix = np.empty((*w.shape, 3, 3), dtype=np.float64)
    xx, yy, zz = 2 * x * x, 2 * y * y, 2 * z * z
    xy, xz, yz = 2 * x * y, 2 * x * z, 2 * y * z
    wx, wy, wz = 2 * w * x, 2 * w * y, 2 * w * z
    matrix[..., 0, 0] = 1 - yy - zz
    matrix[..., 0, 1] = xy - wz
    matrix[..., 0, 2] = xz + wy
    matrix[..., 1, 0] = xy + wz
    matrix[..., 1, 1] = 1 - xx - zz
    matrix[..., 1, 2] = yz - wx
    matrix[..., 2, 0] = xz - wy
    matrix[..., 2, 1] = yz + wx
    matrix[..., 2, 2] = 1 - xx - yy
    return matrix


def matrix_to_quaternion(matrix: ArrayLike) -> FloatArray:
    """Turn rotation matrices ``(..., 3, 3)`` into unit quaternions ``(..., 4)`` w, x, y, z with w
    >= 0.
    """
    m = np.asarray(matrix, dtype=np.float64)
    m00, m11, m22 = m[..., 0, 0], m[..., 1, 1], m[..., 2, 2]
    # Each candidate divides by a different component; the largest is the well-conditioned one.
    squares = np.stack([m00 + m11 + m22, m00 - m11 - m22, m11 - m00 - m22, m22 - m00 - m11], axis=-1)
    best = squares.argmax(axis=-1)
    s01, s02, s12 = m[..., 1, 0] + m[..., 0, 1], m[..., 2, 0] + m[..., 0, 2], m[..., 2, 1] + m[..., 1, 2]
    d01, d02, d12 = m[..., 1, 0] - m[..., 0, 1], m[..., 0, 2] - m[..., 2, 0], m[..., 2, 1] - m[..., 1, 2]
    diagonal = 1 + squares
    candidates = np.stack(
        [
            np.stack([diagonal[..., 0], d12, d02, d01], axis=-1),
            np.stack([d12, diagonal[..., 1], s01, s02], axis=-1),
            np.stack([d02, s01, diagonal[..., 2], s12], axis=-1),
            np.stack([d01, s02, s12, diagonal[..., 3]], axis=-1),
        ],
        axis=-2,
    )
    quaternion = np.take_along_axis(candidates, best[..., None, None], axis=-2)[..., 0, :]
    quaternion = normalize_quaternion(quaternion)
    return np.where(quaternion[..., :1] < 0, -quaternion, quaternion)


def quaternion_multiply(left: ArrayLike, right: ArrayLike) -> FloatArray:
    """Return the Hamilton product of quaternions ``(..., 4)``: the rotation ``right`` first, then
    ``left``.
    """
    lw, lx, ly, lz = np.moveaxis(np.asarray(left, dtype=np.float64), -1, 0)
    rw, rx, ry, rz = np.moveaxis(np.asarray(right, dtype=np.float64), -1, 0)
    return np.stack(
        [
            lw * rw - lx * rx - ly * ry - lz * rz,
            lw * rx + lx * rw + ly * rz - lz * ry,
            lw * ry - lx * rz + ly * rw + lz * rx,
            lw * rz + lx * ry - ly * rx + lz * rw,
        ],
        axis=-1,
    )


def quaternion_inverse(quaternion: ArrayLike) -> FloatArray:
    """Return the inverse rotation of quaternions ``(..., 4)`` of any length but zero, as unit
    quaternions.
    """
    inverse: FloatArray = normalize_quaternion(quaternion) * np.array([1.0, -1.0, -1.0, -1.0])
    return inverse


def yaw_to_quaternion(yaw: ArrayLike) -> FloatArray:
    """Return unit quaternions ``(..., 4)`` that turn by ``yaw`` ``(...)`` rad about z."""
    half = np.asarray(yaw, dtype=np.float64) / 2
    zero = np.zeros_like(half)
    return np.stack([np.cos(half), zero, zero, np.sin(half)], axis=-1)


def quaternion_yaw(quaternion: ArrayLike) -> FloatArray:
    """Return the heading ``(...)`` in rad of quaternions ``(..., 4)``: the turned x axis, seen from
    above (as the devkit does).
    """
    w, x, y, z = np.moveaxis(normalize_quaternion(quaternion), -1, 0)
    yaw: FloatArray = np.arctan2(2 * (x * y + w * z), 1 - 2 * (y * y + z * z))
    return yaw


def quaternion_yaw_intrinsic(quaternion: ArrayLike) -> FloatArray:
    """Return pyquaternion's ``yaw_pitch_roll[0]`` ``(...)`` in rad of quaternions ``(..., 4)``.

    It differs from :func:`quaternion_yaw` by ``4 x y``, about 1e-4 rad for boxes seen from a lidar
    that is tilted by a degree. Paddle3D's annotations use it for the heading of a box in the lidar
    frame.
    """
    w, x, y, z = np.moveaxis(normalize_quaternion(quaternion), -1, 0)
    yaw: FloatArray = np.arctan2(2 * (w * z - x * y), 1 - 2 * (y * y + z * z))
    return yaw


# ------------------------------------------------------------------------------------------------------------------ poses


def transform(translation: ArrayLike, rotation_quaternion: ArrayLike) -> FloatArray:
    """Return ``parent_from_child`` of a nuScenes pose or calibration record.

    Parameters
    ----------
    translation : (..., 3) float
        Origin of the child frame in the parent frame, m.
    rotation_quaternion : (..., 4) float
        w, x, y, z.

    Returns
    -------
    (..., 4, 4) float64
    """
    rotation = quaternion_to_matrix(rotation_quaternion)
    translation = np.asarray(translation, dtype=np.float64)
    return rigid(rotation, translation)


def rigid(rotation: ArrayLike, translation: ArrayLike) -> FloatArray:
    """Assemble ``(..., 4, 4)`` from rotations ``(..., 3, 3)`` and translations ``(..., 3)`` in
    m.
    """
    rotation = np.asarray(rotation, dtype=np.float64)
    translation = np.asarray(translation, dtype=np.float64)
    shape = np.broadcast_shapes(rotation.shape[:-2], translation.shape[:-1])
    matrix = np.zeros((*shape, 4, 4), dtype=np.float64)
    matrix[..., :3, :3] = rotation
    matrix[..., :3, 3] = translation
    matrix[..., 3, 3] = 1.0
    return matrix


def invert_rigid(matrix: ArrayLike) -> FloatArray:
    """Invert rigid transforms ``(..., 4, 4)``: ``a_from_b`` becomes ``b_from_a``."""
    matrix = np.asarray(matrix, dtype=np.float64)
    rotation = np.swapaxes(matrix[..., :3, :3], -1, -2)
    translation = -(rotation @ matrix[..., :3, 3:])[..., 0]
    return rigid(rotation, translation)


def transform_points(matrix: ArrayLike, points: ArrayLike) -> FloatArray:
    """Take points ``(..., N, 3)`` through transforms ``(..., 4, 4)``: ``(..., N, 3)``, m."""
    matrix = np.asarray(matrix, dtype=np.float64)
    points = np.asarray(points, dtype=np.float64)
    moved: FloatArray = points @ np.swapaxes(matrix[..., :3, :3], -1, -2) + matrix[..., None, :3, 3]
    return moved


# ------------------------------------------------------------------------------------------------------------------ projection


def project(points: ArrayLike, intrinsic: ArrayLike, cam_from_lidar: ArrayLike) -> tuple[FloatArray, FloatArray]:
    """Project points into an image.

    Parameters
    ----------
    points : (..., 3) float
        In the lidar frame (or whichever frame ``cam_from_lidar`` starts from), m.
    intrinsic : (3, 3) float
        Camera matrix, pixels.
    cam_from_lidar : (4, 4) float

    Returns
    -------
    uv : (..., 2) float64
        Pixels, x to the right and y down. Meaningless where depth <= 0 (NaN or inf where it is 0).
    depth : (...) float64
        z in the camera frame, m.
    """
    points = np.asarray(points, dtype=np.float64)
    matrix = np.asarray(cam_from_lidar, dtype=np.float64)
    in_camera = points @ matrix[:3, :3].T + matrix[:3, 3]
    homogeneous = in_camera @ np.asarray(intrinsic, dtype=np.float64).T
    with np.errstate(divide="ignore", invalid="ignore"):
        uv = homogeneous[..., :2] / homogeneous[..., 2:]
    return uv, in_camera[..., 2]


def view_matrix(intrinsic: ArrayLike, cam_from_lidar: ArrayLike) -> FloatArray:
    """Return ``image_from_lidar`` ``(..., 4, 4)``: the intrinsic ``(..., 3, 3)`` padded to 4x4,
    times ``cam_from_lidar``.
    """
    return rigid(intrinsic, np.zeros(3)) @ np.asarray(cam_from_lidar, dtype=np.float64)


# ------------------------------------------------------------------------------------------------------------------ boxes


def box_corners(boxes: ArrayLike) -> FloatArray:
    """Return the corners of boxes in the devkit's order: four ahead (first above left, right), then
    four behind.

    Parameters
    ----------
    boxes : (..., 7+) float
        x, y, z, w, l, h, yaw; columns after these are ignored.

    Returns
    -------
    (..., 8, 3) float64
        In the frame of the boxes, m.
    """
    boxes = np.asarray(boxes, dtype=np.float64)
    width, length, height, yaw = (boxes[..., 3 + k, None] for k in range(4))
    ahead, left, up = length * _CORNER_SIGNS[0], width * _CORNER_SIGNS[1], height * _CORNER_SIGNS[2]
    cos, sin = np.cos(yaw), np.sin(yaw)
    corners: FloatArray = (
        np.stack([cos * ahead - sin * left, sin * ahead + cos * left, up], axis=-1) + boxes[..., None, :3]
    )
    return corners


def boxes_to_petr(boxes: ArrayLike) -> FloatArray:
    """Convert boxes to the order and meaning that Paddle3D's PETR head trains on.

    Parameters
    ----------
    boxes : (..., 7 or 9) float
        Lidar frame: x, y, z of the centre, w, l, h, yaw[, vx, vy].

    Returns
    -------
    same shape, float64
        x, y, z of the centre of the bottom face, w, l, h, ``-yaw - pi/2`` (not wrapped, as stock
        leaves it)[, vx, vy].
    """
    boxes = np.array(boxes, dtype=np.float64)
    boxes[..., 2] -= boxes[..., 5] * 0.5
    boxes[..., 6] = -boxes[..., 6] - np.pi / 2
    return boxes


def boxes_from_petr(boxes: ArrayLike) -> FloatArray:
    """Undo :func:`boxes_to_petr`; the yaw comes back within [-pi, pi)."""
    boxes = np.array(boxes, dtype=np.float64)
    boxes[..., 2] += boxes[..., 5] * 0.5
    boxes[..., 6] = wrap_angle(-boxes[..., 6] - np.pi / 2)
    return boxes


def boxes_from_xtreme1(centers: ArrayLike, sizes: ArrayLike, yaws: ArrayLike) -> FloatArray:
    """Convert the contours of Xtreme1's 3D boxes.

    Parameters
    ----------
    centers : (N, 3) float
        center3D, the box's centre in the point cloud's frame (right-handed, z up), m.
    sizes : (N, 3) float
        size3D: length along the heading, width across, height, m.
    yaws : (N,) float
        rotation3D.z, the heading's angle from x towards y, rad.

    Returns
    -------
    (N, 7) float64
        x, y, z, w, l, h, yaw in the same frame; yaw within [-pi, pi).
    """
    centers, sizes = (np.asarray(values, dtype=np.float64).reshape(-1, 3) for values in (centers, sizes))
    return np.concatenate([centers, sizes[:, [1, 0, 2]], wrap_angle(yaws).reshape(-1, 1)], axis=1)


def boxes_to_xtreme1(boxes: ArrayLike) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Undo :func:`boxes_from_xtreme1`: centers ``(N, 3)``, sizes ``(N, 3)`` as length, width,
    height, and yaws ``(N,)``.
    """
    boxes = np.asarray(boxes, dtype=np.float64)
    return boxes[:, :3].copy(), boxes[:, [4, 3, 5]], wrap_angle(boxes[:, 6])


def transform_boxes(boxes: ArrayLike, matrix: ArrayLike) -> FloatArray:
    """Take boxes to another frame.

    Parameters
    ----------
    boxes : (N, 7 or 9) float
        x, y, z, w, l, h, yaw[, vx, vy] in frame b.
    matrix : (4, 4) float
        ``a_from_b``, rigid. What it tilts is lost: headings and velocities are seen from above
        before and after.

    Returns
    -------
    same shape, float64
        In frame a; yaw within [-pi, pi].
    """
    boxes = np.array(boxes, dtype=np.float64)
    matrix = np.asarray(matrix, dtype=np.float64)
    boxes[..., :3] = transform_points(matrix, boxes[..., :3])
    plane = matrix[:2, :2]
    heading = np.stack([np.cos(boxes[..., 6]), np.sin(boxes[..., 6])], axis=-1) @ plane.T
    boxes[..., 6] = np.arctan2(heading[..., 1], heading[..., 0])
    if boxes.shape[-1] >= 9:
        boxes[..., 7:9] = boxes[..., 7:9] @ plane.T
    return boxes


def points_in_boxes(points: ArrayLike, boxes: ArrayLike) -> NDArray[np.int64]:
    """Count the points inside each box, faces included.

    Parameters
    ----------
    points : (P, 3+) float
        Columns after the third are ignored.
    boxes : (N, 7+) float
        x, y, z, w, l, h, yaw in the points' frame.

    Returns
    -------
    (N,) int64
    """
    points = np.asarray(points, dtype=np.float64)[:, :3]
    counts = np.zeros(len(np.asarray(boxes)), dtype=np.int64)
    # One box at a time: N x P intermediates of a full sweep would not fit the cache, and most
    # points fall to the first test.
    for index, (x, y, z, w, length, h, yaw) in enumerate(np.asarray(boxes, dtype=np.float64)[:, :7]):
        near = points[np.abs(points[:, 0] - x) <= 0.5 * np.hypot(w, length)] - (x, y, z)
        ahead = np.abs(near[:, 0] * np.cos(yaw) + near[:, 1] * np.sin(yaw)) <= 0.5 * length
        across = np.abs(near[:, 1] * np.cos(yaw) - near[:, 0] * np.sin(yaw)) <= 0.5 * w
        counts[index] = int(np.count_nonzero(ahead & across & (np.abs(near[:, 2]) <= 0.5 * h)))
    return counts
