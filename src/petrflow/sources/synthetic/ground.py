"""The ground as a picture: asphalt with lane markings, kerbs, paved walks, grass; and the drivable
area as nuScenes' map mask.
"""

from __future__ import annotations

import cv2
import numpy as np

from petrflow.sources.synthetic.path import Drive
from petrflow.sources.synthetic.sensors.camera import Ground
from petrflow.sources.synthetic.world import RoadLayout

RESOLUTION = 0.1  # m a pixel
LEVELS = 6
_SHIFT = 4  # fractional bits of OpenCV's polygon coordinates


def _strip(
    image: np.ndarray, drive: Drive, s: np.ndarray, low: float, high: float, color: tuple[int, int, int] | int
) -> None:
    """Paint the strip between offsets `low` and `high` over consecutive distances `s`, piece by
    piece, so that bends fold over harmlessly.
    """
    left, _ = drive.point(s, high)
    right, _ = drive.point(s, low)
    for i in range(len(s) - 1):
        quad = np.array([left[i], left[i + 1], right[i + 1], right[i]]) / RESOLUTION
        cv2.fillConvexPoly(image, np.round(quad * 2**_SHIFT).astype(np.int32), color, cv2.LINE_AA, _SHIFT)


def _dashes(image: np.ndarray, drive: Drive, d: float, dash: float, gap: float, color: tuple[int, int, int]) -> None:
    starts = np.arange(drive.line_s[0], drive.line_s[-1] - dash, dash + gap)
    for start in starts:
        _strip(image, drive, np.linspace(start, start + dash, 4), d - 0.08, d + 0.08, color)


def _grain(rng: np.random.Generator, shape: tuple[int, int], cell: int, amplitude: float) -> np.ndarray:
    """Smooth brightness noise (H, W) float32 around 1, with features of `cell` pixels."""
    small = rng.uniform(1 - amplitude, 1 + amplitude, size=(shape[0] // cell + 2, shape[1] // cell + 2)).astype(
        np.float32
    )
    return cv2.resize(small, (shape[1], shape[0]), interpolation=cv2.INTER_LINEAR)


def paint(rng: np.random.Generator, drive: Drive, layout: RoadLayout) -> tuple[Ground, np.ndarray]:
    """Paint one scene's ground; returns it and the drivable area (H, W) uint8, 255 on the road, row
    0 at the largest y as the devkit reads it.
    """
    extent = np.ceil((drive.line_xy.max(axis=0) + 40.0) / RESOLUTION).astype(int)
    width, height = int(extent[0]), int(extent[1])
    image = np.empty((height, width, 3), dtype=np.uint8)
    image[:] = np.array([104, 122, 78]) + rng.integers(-10, 11, size=3)
    s = np.arange(drive.line_s[0], drive.line_s[-1], 1.0)
    right, left = layout.right_edge, layout.left_edge
    walk_right, walk_left = right - layout.parking, left + layout.parking
    asphalt = int(rng.integers(92, 112))
    _strip(image, drive, s, walk_right - layout.walk, walk_left + layout.walk, (168, 162, 152))
    for d in np.arange(1.0, layout.walk, 1.0):  # joints between the slabs
        _strip(image, drive, s, walk_left + d, walk_left + d + 0.06, (140, 134, 126))
        _strip(image, drive, s, walk_right - d - 0.06, walk_right - d, (140, 134, 126))
    for start in np.arange(drive.line_s[0], drive.line_s[-1] - 1, 2.0):
        piece = np.array([start, start + 0.08])
        _strip(image, drive, piece, walk_left, walk_left + layout.walk, (140, 134, 126))
        _strip(image, drive, piece, walk_right - layout.walk, walk_right, (140, 134, 126))
    _strip(image, drive, s, walk_right - 0.18, walk_left + 0.18, (196, 192, 186))
    _strip(image, drive, s, walk_right, walk_left, (asphalt - 10, asphalt - 10, asphalt - 6))
    _strip(image, drive, s, right, left, (asphalt, asphalt, asphalt + 3))
    white, yellow = (226, 226, 220), (222, 182, 70)
    for k in range(-layout.right_lanes, layout.left_lanes):
        d = (k + 0.5) * layout.lane
        if k == 0:  # between the two directions: a double line
            _strip(image, drive, s, d - 0.2, d - 0.08, yellow)
            _strip(image, drive, s, d + 0.08, d + 0.2, yellow)
        else:
            _dashes(image, drive, d, 3.0, 4.5, white)
    for d in (right + 0.1, left - 0.1):
        _strip(image, drive, s, d - 0.07, d + 0.07, white)
    for side, edge in ((1.0, left), (-1.0, right)):  # parking bays
        for start in np.arange(drive.line_s[0], drive.line_s[-1] - 1, 6.2):
            low, high = sorted((edge, edge + side * layout.parking * 0.8))
            _strip(image, drive, np.array([start, start + 0.12]), low, high, (200, 200, 196))
    for _ in range(2):  # pedestrian crossings
        start = rng.uniform(-10.0, drive.length + 20.0)
        for d in np.arange(right + 0.5, left - 0.6, 1.1):
            _strip(image, drive, np.array([start, start + 1.5, start + 3.0]), d, d + 0.55, white)
    grain = (
        _grain(rng, (height, width), 40, 0.08)
        * _grain(rng, (height, width), 7, 0.07)
        * _grain(rng, (height, width), 2, 0.06)
    )
    cv2.multiply(image, cv2.merge([grain, grain, grain]), dst=image, dtype=cv2.CV_8U)
    mask = np.zeros((height, width), dtype=np.uint8)
    _strip(mask, drive, s, walk_right, walk_left, 255)
    levels = [image]
    for _ in range(LEVELS - 1):
        coarser = levels[-1]
        levels.append(
            cv2.resize(
                coarser, (max(1, coarser.shape[1] // 2), max(1, coarser.shape[0] // 2)), interpolation=cv2.INTER_AREA
            )
        )
    return Ground(tuple(levels), RESOLUTION), np.where(mask > 127, 255, 0).astype(np.uint8)[::-1]
