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
_WHITE, _YELLOW, _JOINT = (226, 226, 220), (222, 182, 70), (140, 134, 126)  # red, green, blue


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


def _paint_walks(image: np.ndarray, drive: Drive, layout: RoadLayout, s: np.ndarray) -> None:
    """Paint the paved walks on both sides, the joints between their slabs, and the kerbs."""
    right, left = layout.right_edge - layout.parking, layout.left_edge + layout.parking
    _strip(image, drive, s, right - layout.walk, left + layout.walk, (168, 162, 152))
    for d in np.arange(1.0, layout.walk, 1.0):
        _strip(image, drive, s, left + d, left + d + 0.06, _JOINT)
        _strip(image, drive, s, right - d - 0.06, right - d, _JOINT)
    for start in np.arange(drive.line_s[0], drive.line_s[-1] - 1, 2.0):
        piece = np.array([start, start + 0.08])
        _strip(image, drive, piece, left, left + layout.walk, _JOINT)
        _strip(image, drive, piece, right - layout.walk, right, _JOINT)
    _strip(image, drive, s, right - 0.18, left + 0.18, (196, 192, 186))


def _paint_markings(image: np.ndarray, drive: Drive, layout: RoadLayout, s: np.ndarray) -> None:
    """Paint the lines between lanes, along the edges and between parking bays."""
    right, left = layout.right_edge, layout.left_edge
    for k in range(-layout.right_lanes, layout.left_lanes):
        d = (k + 0.5) * layout.lane
        if k == 0:  # between the two directions: a double line
            _strip(image, drive, s, d - 0.2, d - 0.08, _YELLOW)
            _strip(image, drive, s, d + 0.08, d + 0.2, _YELLOW)
        else:
            _dashes(image, drive, d, 3.0, 4.5, _WHITE)
    for d in (right + 0.1, left - 0.1):
        _strip(image, drive, s, d - 0.07, d + 0.07, _WHITE)
    for side, edge in ((1.0, left), (-1.0, right)):  # parking bays
        for start in np.arange(drive.line_s[0], drive.line_s[-1] - 1, 6.2):
            low, high = sorted((edge, edge + side * layout.parking * 0.8))
            _strip(image, drive, np.array([start, start + 0.12]), low, high, (200, 200, 196))


def _halved(image: np.ndarray) -> tuple[np.ndarray, ...]:
    """Return the picture and its copies, each half as large as the one before."""
    levels = [image]
    for _ in range(LEVELS - 1):
        height, width = levels[-1].shape[:2]
        size = (max(1, width // 2), max(1, height // 2))
        levels.append(cv2.resize(levels[-1], size, interpolation=cv2.INTER_AREA))
    return tuple(levels)


def paint(rng: np.random.Generator, drive: Drive, layout: RoadLayout) -> tuple[Ground, np.ndarray]:
    """Paint one scene's ground.

    Returns
    -------
    ground : Ground
    drivable : (H, W) uint8
        255 on the road, row 0 at the largest y, as the devkit reads it.
    """
    extent = np.ceil((drive.line_xy.max(axis=0) + 40.0) / RESOLUTION).astype(int)
    width, height = int(extent[0]), int(extent[1])
    s = np.arange(drive.line_s[0], drive.line_s[-1], 1.0)
    right, left = layout.right_edge, layout.left_edge
    # Grass, walks and asphalt, the parking bays' a little darker.
    image = np.empty((height, width, 3), dtype=np.uint8)
    image[:] = np.array([104, 122, 78]) + rng.integers(-10, 11, size=3)
    asphalt = int(rng.integers(92, 112))
    _paint_walks(image, drive, layout, s)
    _strip(image, drive, s, right - layout.parking, left + layout.parking, (asphalt - 10, asphalt - 10, asphalt - 6))
    _strip(image, drive, s, right, left, (asphalt, asphalt, asphalt + 3))
    # Lines and two pedestrian crossings.
    _paint_markings(image, drive, layout, s)
    for _ in range(2):
        start = rng.uniform(-10.0, drive.length + 20.0)
        for d in np.arange(right + 0.5, left - 0.6, 1.1):
            _strip(image, drive, np.array([start, start + 1.5, start + 3.0]), d, d + 0.55, _WHITE)
    # Uneven brightness.
    shape = (height, width)
    grain = _grain(rng, shape, 40, 0.08) * _grain(rng, shape, 7, 0.07) * _grain(rng, shape, 2, 0.06)
    cv2.multiply(image, cv2.merge([grain, grain, grain]), dst=image, dtype=cv2.CV_8U)
    mask = np.zeros(shape, dtype=np.uint8)
    _strip(mask, drive, s, right - layout.parking, left + layout.parking, 255)
    return Ground(_halved(image), RESOLUTION), np.where(mask > 127, 255, 0).astype(np.uint8)[::-1]
