"""Do the images show what the calibration and the labels say? Contours of projected boxes against
edges in the images.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
from scipy.optimize import linear_sum_assignment

from petrflow.annotations import Keyframe
from petrflow.doctor.findings import Finding
from petrflow.geometry import box_corners, invert_rigid, project
from petrflow.pictures.read import Unreadable, read_pixels

# Edges are compared at this image width: box contours are labelled to a few pixels of the original.
_WIDTH = 400
# Where a contour is moved to for comparison, in pixels of the reduced image: far enough to leave
# the object's own edges.
_SHIFTS = (-60, -45, -30, 30, 45, 60)
# Frames, and per pair of cameras frames with contours, below which no verdict on the order of
# cameras is given.
_FEWEST = 5
_NEAREST, _FARTHEST = 2.0, 45.0


def image_fit(keyframe: Keyframe, root: Path) -> np.ndarray | None:
    """Compare each camera's calibration with each camera's image.

    Parameters
    ----------
    keyframe
        With N cameras.
    root
        Of the data set.

    Returns
    -------
    (N, N) float64, or None where an image cannot be read: entry (i, j) says how much stronger edges
    of image j are on the contours of boxes projected with calibration i than on the same contours
    moved sideways, as a difference of ranks within the image: 0 for images that have nothing to do
    with the boxes. NaN where no contour lies in the image.
    """
    edges = [_edge_ranks(root / path) for path in keyframe.image_paths]
    if any(image is None for image in edges):
        return None
    count = len(edges)
    fit = np.full((count, count), np.nan)
    camera_from_lidar = invert_rigid(keyframe.lidar_from_camera)
    seen = replace(keyframe, boxes=keyframe.boxes[_in_sight(keyframe)])
    for i in range(count):
        points = _contours(seen, camera_from_lidar[i], i)
        for j, image in enumerate(edges):
            if len(points) >= 40 and image is not None:
                fit[i, j] = _stand_out(image, points)
    return fit


def _in_sight(keyframe: Keyframe) -> np.ndarray:
    """(M,) bool: boxes with some points, whose objects are not wholly hidden; all where counts are
    unknown (1 stands for that).
    """
    counts = keyframe.num_lidar_pts
    return np.ones(len(counts), dtype=bool) if counts.max(initial=0) <= 1 else counts > 2


def check_turned(keyframes: Sequence[Keyframe], root: Path) -> list[Finding]:
    """Without points and motion, ask the images: do contours of long boxes turned by 90 degrees fit
    them better than as they are?
    """
    gains = []
    for keyframe in keyframes:
        ratio = keyframe.boxes[:, 4] / np.maximum(keyframe.boxes[:, 3], 1e-6)
        given = keyframe.boxes[_in_sight(keyframe) & ((ratio > 1.5) | (ratio < 1 / 1.5))].copy()
        turned = given.copy()
        turned[:, 6] += np.pi / 2
        fits = [_own_fit(replace(keyframe, boxes=boxes), root) for boxes in (given, turned)]
        if None not in fits:
            gains.append(float(fits[1] or 0.0) - float(fits[0] or 0.0))
    if len(gains) < _FEWEST:
        return []
    gain, scatter = float(np.mean(gains)), float(np.std(gains, ddof=1) / np.sqrt(len(gains)))
    if gain < max(4.0 * scatter, 0.02):
        return []
    evidence = f"contours of long boxes stand out from the images by {gain:.3f} more when turned; it may be -90 as well: look at the pictures"
    return [
        Finding(
            "fail",
            "headings",
            "the yaw is off by 90 degrees: long sides lie across the objects in the images",
            "yaw_offset: 90",
            evidence,
        )
    ]


def _own_fit(keyframe: Keyframe, root: Path) -> float | None:
    """How much box contours stand out from their own images, weighted by their length; None without
    contours.
    """
    camera_from_lidar = invert_rigid(keyframe.lidar_from_camera)
    total = weight = 0.0
    for camera, path in enumerate(keyframe.image_paths):
        points, ranks = _contours(keyframe, camera_from_lidar[camera], camera), _edge_ranks(root / path)
        if ranks is not None and len(points):
            total += len(points) * _stand_out(ranks, points)
            weight += len(points)
    return total / weight if weight else None


def _edge_ranks(path: Path) -> np.ndarray | None:
    """(H, 400) float32: rank of each pixel's gradient within its own row's neighbourhood of the
    image, 0 to 1.
    """
    try:
        image = read_pixels(path, grey=True)
    except Unreadable:
        return None
    height = max(1, round(image.shape[0] * _WIDTH / image.shape[1]))
    image = cv2.GaussianBlur(cv2.resize(image, (_WIDTH, height), interpolation=cv2.INTER_AREA), (3, 3), 0)
    gradient = cv2.magnitude(cv2.Sobel(image, cv2.CV_32F, 1, 0), cv2.Sobel(image, cv2.CV_32F, 0, 1))
    # A contour may miss the object's edge by a pixel or two.
    gradient = cv2.dilate(gradient, np.ones((3, 3), np.uint8))
    ranks = np.empty(gradient.size, dtype=np.float32)
    ranks[np.argsort(gradient, axis=None, kind="stable")] = np.linspace(0, 1, gradient.size, dtype=np.float32)
    return ranks.reshape(gradient.shape)


def _contours(keyframe: Keyframe, camera_from_lidar: np.ndarray, camera: int) -> np.ndarray:
    """(K, 2) points on the convex outlines of boxes in one camera, in units of the image's width
    and height.
    """
    outlines = []
    width, height = keyframe.image_sizes[camera].tolist()
    corners = box_corners(keyframe.boxes)
    for box in range(len(corners)):
        uv, depth = project(corners[box], keyframe.intrinsics[camera], camera_from_lidar)
        if depth.min() < _NEAREST or depth.max() > _FARTHEST:
            continue
        hull = cv2.convexHull(uv.astype(np.float32))[:, 0]
        extent = np.ptp(hull, axis=0) * _WIDTH / width
        if extent.min() < 5 or extent.max() > 300:
            continue
        closed = np.concatenate([hull, hull[:1]])
        for start, end in itertools.pairwise(closed):
            steps = max(2, int(np.linalg.norm(end - start) * _WIDTH / width / 2))
            outlines.append(start + (end - start) * np.linspace(0, 1, steps, endpoint=False)[:, None])
    points = np.concatenate(outlines) / (width, height) if outlines else np.zeros((0, 2))
    inside = ((points > 0) & (points < 1)).all(axis=1)
    return points[inside]


def _stand_out(ranks: np.ndarray, points: np.ndarray) -> float:
    height, width = ranks.shape
    x, y = (points[:, 0] * width).astype(int), (points[:, 1] * height).astype(int)
    here = float(ranks[y, x].mean())
    elsewhere = [float(ranks[y, (x + shift) % width].mean()) for shift in _SHIFTS]
    return here - float(np.mean(elsewhere))


def check_camera_order(
    fits: Sequence[np.ndarray], names: Sequence[str], folders: dict[str, dict[str, object]]
) -> tuple[list[Finding], np.ndarray]:
    """Find the assignment of images to calibrations under which contours meet edges; fail where it
    clearly is not the given one.

    Parameters
    ----------
    fits
        Results of `image_fit` of several frames, (N, N) each.
    names
        Channels of the N cameras.
    folders
        What `import.json` says of each channel of an Xtreme1 export: its image folder and its entry
        in camera_config.
    """
    count = len(names)
    if not fits:
        return [], np.full(count, np.nan)
    stack = np.stack(fits)
    seen = np.isfinite(stack)
    number = seen.sum(axis=0)
    mean = np.where(number > 0, np.nansum(stack, axis=0) / np.maximum(number, 1), 0.0)
    own = np.where(np.diag(number) > 0, np.diag(mean), np.nan)
    if count < 2:
        return [], own
    rows, columns = linear_sum_assignment(-mean)
    moved = [index for index in range(count) if columns[index] != index]
    if not moved:
        return [], own
    # The gain of the better assignment, frame by frame: its mean must stand well clear of its own
    # scatter.
    gains = np.nansum(stack[:, rows[moved], columns[moved]] - stack[:, moved, moved], axis=1) / len(moved)
    scatter = float(np.std(gains, ddof=1) / np.sqrt(len(gains))) if len(gains) > 1 else np.inf
    gain, own_fit, best_fit = (
        float(np.mean(gains)),
        float(np.mean(mean[moved, moved])),
        float(np.mean(mean[rows[moved], columns[moved]])),
    )
    few = len(gains) < _FEWEST or min(number[rows[moved], columns[moved]]) < _FEWEST
    if few or gain < 4.0 * scatter or gain < 0.04 or own_fit > 0.3 * best_fit:
        return [], own
    pairs = ", ".join(f"{names[columns[index]]}'s image fits {names[index]}'s calibration" for index in moved)
    evidence = f"box contours stand out from the images by {own_fit:+.3f} as given, {best_fit:+.3f} so; {pairs}"
    return [
        Finding(
            "fail",
            "camera order",
            "camera images are shuffled against their calibrations",
            _order_setting(names, columns, folders),
            evidence,
        )
    ], own


def _order_setting(names: Sequence[str], columns: np.ndarray, folders: dict[str, dict[str, object]]) -> str:
    """`camera_order`: for each entry of camera_config, the folder whose images fit it."""
    if not all(name in folders for name in names):
        return "camera_order"
    pairs = sorted(
        (int(str(folders[name]["entry"])), str(folders[names[columns[index]]]["folder"]))
        for index, name in enumerate(names)
    )
    return f"camera_order: [{', '.join(folder for _, folder in pairs)}]"
