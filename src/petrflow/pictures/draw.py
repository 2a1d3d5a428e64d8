"""Pictures of boxes: on camera images and from above. BGR uint8 arrays as OpenCV uses them."""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping, Sequence

import cv2
import numpy as np

from petrflow import geometry

CLASS_COLORS: dict[str, tuple[int, int, int]] = {
    "car": (10, 159, 255),
    "truck": (58, 69, 255),
    "construction_vehicle": (10, 214, 255),
    "bus": (242, 90, 191),
    "trailer": (104, 142, 172),
    "barrier": (175, 154, 142),
    "motorcycle": (162, 95, 255),
    "bicycle": (88, 209, 48),
    "pedestrian": (255, 123, 47),
    "traffic_cone": (255, 210, 100),
}
"""Class colours (BGR), far enough apart to tell thin lines from each other; the devkit's vehicles
are all orange.
"""

TRUE_COLOR = (255, 255, 255)
OTHER_COLOR = (180, 180, 180)
NEAR = 0.1
"""Distance (m) in front of the camera at which box edges are cut."""

EDGES = ((0, 1), (1, 2), (2, 3), (3, 0), (4, 5), (5, 6), (6, 7), (7, 4), (0, 4), (1, 5), (2, 6), (3, 7))
"""Edges between the corners in the devkit's order: 0 to 3 are the front face, 4 to 7 the back
face.
"""


def draw_boxes(
    image: np.ndarray,
    boxes: np.ndarray,
    intrinsic: np.ndarray,
    camera_from_lidar: np.ndarray,
    colors: Sequence[tuple[int, int, int]],
    thickness: int = 2,
) -> np.ndarray:
    """Draw the edges of 3D boxes onto a camera image, the front face with a cross.

    Parameters
    ----------
    image : (H, W, 3) uint8, BGR
        Drawn on in place.
    boxes : (N, 7+) float
        Lidar frame, nuScenes' order, m and rad.
    intrinsic : (3, 3) float
        Of this image, in its pixels.
    camera_from_lidar : (4, 4) float
        Lidar frame to camera frame.
    colors : sequence of BGR
        One a box.
    thickness : int
        Of the lines, in pixels.

    Returns
    -------
    (H, W, 3) uint8
        The same image.
    """
    if len(boxes) == 0:
        return image
    corners = geometry.box_corners(np.asarray(boxes, dtype=np.float64)[:, :7])
    in_camera = corners @ camera_from_lidar[:3, :3].T + camera_from_lidar[:3, 3]
    order = np.argsort(-in_camera[:, :, 2].mean(axis=1), kind="stable")
    for index in order:
        points = in_camera[index]
        if (points[:, 2] > NEAR).sum() == 0:
            continue
        for start, end in (*EDGES, (0, 2), (1, 3)):
            _draw_edge(image, points[start], points[end], intrinsic, colors[index], thickness)
    return image


def _draw_edge(
    image: np.ndarray,
    start: np.ndarray,
    end: np.ndarray,
    intrinsic: np.ndarray,
    color: tuple[int, int, int],
    thickness: int,
) -> None:
    """Draw one edge (camera frame, m), cut at the near plane so that nothing behind the camera is
    mirrored in front.
    """
    if start[2] <= NEAR and end[2] <= NEAR:
        return
    if start[2] <= NEAR or end[2] <= NEAR:
        cut = start + (end - start) * (NEAR - start[2]) / (end[2] - start[2])
        start, end = (cut, end) if start[2] <= NEAR else (start, cut)
    pixels = np.stack([start, end]) @ intrinsic.T
    pixels = pixels[:, :2] / pixels[:, 2:]
    height, width = image.shape[:2]
    # OpenCV's coordinates are 16-bit after its own shift: clip the segment in float first.
    limit = 8.0 * max(height, width)
    if np.abs(pixels).max() > limit:
        clipped = _clip_segment(pixels, limit)
        if clipped is None:
            return
        pixels = clipped
    first, second = (tuple(round(v * 16) for v in point) for point in pixels)
    cv2.line(image, first, second, color, thickness, cv2.LINE_AA, shift=4)


def _clip_segment(pixels: np.ndarray, limit: float) -> np.ndarray | None:
    """Clip a segment (2, 2) to the square ``[-limit, limit]`` (Liang and Barsky); None when it lies
    outside.
    """
    start, delta = pixels[0], pixels[1] - pixels[0]
    enter, leave = 0.0, 1.0
    for axis in (0, 1):
        for direction, bound in ((-delta[axis], start[axis] + limit), (delta[axis], limit - start[axis])):
            if direction == 0:
                if bound < 0:
                    return None
            elif direction < 0:
                enter = max(enter, bound / direction)
            else:
                leave = min(leave, bound / direction)
    if enter > leave:
        return None
    return np.stack([start + enter * delta, start + leave * delta])


def class_colors(names: Sequence[str]) -> list[tuple[int, int, int]]:
    """Return the colour of each class name, grey for names outside nuScenes' ten."""
    return [class_color(name) for name in names]


def class_color(name: str) -> tuple[int, int, int]:
    """Return the colour of a class (BGR): nuScenes' for its ten, and for any other name always the
    same of those.
    """
    if "." in name:  # a category of nuScenes that is no class
        return OTHER_COLOR
    known = list(CLASS_COLORS.values())
    return CLASS_COLORS.get(name, known[zlib.crc32(name.encode()) % len(known)])


def birds_eye_view(
    size: int,
    true_boxes: np.ndarray,
    predicted_boxes: np.ndarray,
    predicted_colors: Sequence[tuple[int, int, int]],
    extent: float = 51.2,
    points: np.ndarray | None = None,
) -> np.ndarray:
    """Draw boxes from above: x to the right, y up (lidar frame of nuScenes: the vehicle looks along
    +y).

    Parameters
    ----------
    size : int
        Width and height of the picture in pixels.
    true_boxes, predicted_boxes : (N, 7+), (M, 7+) float
        Lidar frame, nuScenes' order, m and rad; velocities in columns 7 and 8 of predictions are
        drawn as arrows.
    predicted_colors : sequence of BGR
        One a predicted box.
    extent : float
        Half the side of the shown square, m.
    points : (P, 2+) float, optional
        Lidar points, m.

    Returns
    -------
    (size, size, 3) uint8, BGR
    """
    picture = np.full((size, size, 3), 28, np.uint8)
    scale = size / (2.0 * extent)
    for radius in range(10, math.ceil(extent * 1.5), 10):
        cv2.circle(picture, (size // 2, size // 2), int(radius * scale), (58, 58, 58), 1, cv2.LINE_AA)
        cv2.putText(
            picture, f"{radius} m", (size // 2 + 3, size // 2 - int(radius * scale) - 3), cv2.FONT_HERSHEY_SIMPLEX,
            0.32, (110, 110, 110), 1, cv2.LINE_AA,
        )  # fmt: skip
    if points is not None and len(points):
        pixels = _from_above(points[:, :2], size, scale).round().astype(int)
        inside = ((pixels >= 0) & (pixels < size)).all(axis=1)
        picture[pixels[inside, 1], pixels[inside, 0]] = (90, 90, 90)
    ego = _from_above(np.array([[-0.9, -2.0], [0.9, -2.0], [0.9, 2.0], [0.0, 3.0], [-0.9, 2.0]]), size, scale)
    cv2.fillPoly(picture, [ego.round().astype(np.int32)], (120, 120, 120), cv2.LINE_AA)
    for box in np.asarray(true_boxes).reshape(-1, np.shape(true_boxes)[-1] if np.size(true_boxes) else 7):
        _draw_footprint(picture, box, TRUE_COLOR, 1, scale)
    for box, color in zip(predicted_boxes, predicted_colors, strict=True):
        _draw_footprint(picture, box, color, 2, scale)
    return picture


def _from_above(points: np.ndarray, size: int, scale: float) -> np.ndarray:
    """Return pixels (N, 2) of points (N, 2) in m, the lidar's origin in the middle."""
    return np.stack([size / 2 + points[:, 0] * scale, size / 2 - points[:, 1] * scale], axis=1)


def _draw_footprint(
    picture: np.ndarray, box: np.ndarray, color: tuple[int, int, int], thickness: int, scale: float
) -> None:
    size = picture.shape[0]
    corners = geometry.box_corners(box[None, :7])[0]
    # Bottom corners in the devkit's order: 2 and 3 are the front's, 6 and 7 the back's.
    outline = _from_above(corners[[2, 3, 7, 6], :2], size, scale)
    nose = _from_above(np.stack([box[:2], corners[[2, 3], :2].mean(axis=0)]), size, scale)
    cv2.polylines(picture, [(outline * 16).round().astype(np.int32)], True, color, thickness, cv2.LINE_AA, shift=4)
    cv2.polylines(picture, [(nose * 16).round().astype(np.int32)], False, color, thickness, cv2.LINE_AA, shift=4)
    if len(box) >= 9 and np.isfinite(box[7:9]).all() and np.hypot(*box[7:9]) > 0.5:
        arrow = _from_above(np.stack([box[:2], box[:2] + box[7:9]]), size, scale).round().astype(int)
        cv2.arrowedLine(picture, tuple(arrow[0]), tuple(arrow[1]), color, 1, cv2.LINE_AA, tipLength=0.2)


def number_boxes(picture: np.ndarray, boxes: np.ndarray, texts: Sequence[str], extent: float = 51.2) -> None:
    """Write a text (ASCII) beside each box of a picture of :func:`birds_eye_view`, of the same extent."""
    size = picture.shape[0]
    places = _from_above(np.asarray(boxes, np.float64)[:, :2], size, size / (2.0 * extent)).round().astype(int)
    for (x, y), text in zip(places.tolist(), texts, strict=True):
        if 0 <= x < size and 0 <= y < size:
            label(picture, text, (x + 6, y - 4), 0.36)


def camera_grid_order(lidar_from_camera: np.ndarray) -> list[int]:
    """Return camera indices as a person looks around: front cameras from left to right, then rear
    ones.

    Parameters
    ----------
    lidar_from_camera : (N, 4, 4) float
        The cameras' poses in the lidar frame; a camera looks along its +z axis, the vehicle along
        the lidar's +y.
    """
    looking = lidar_from_camera[:, :2, 2]
    # Angle to the left of the driving direction: +90 degrees is left, 180 is back.
    angle = np.arctan2(-looking[:, 0], looking[:, 1])
    front = [index for index in range(len(angle)) if abs(angle[index]) <= math.radians(90)]
    rear = [index for index in range(len(angle)) if index not in front]
    # Seen on a screen, a rear camera that looks left belongs on the left: start at the left rear
    # and turn past the back.
    rear_angle = {index: angle[index] % (2 * math.pi) for index in rear}
    return sorted(front, key=lambda i: -angle[i]) + sorted(rear, key=lambda i: rear_angle[i])


def fit_into(image: np.ndarray, width: int, height: int) -> np.ndarray:
    """Scale an image into a cell of ``width`` x ``height`` pixels, keeping its proportions, on
    black.
    """
    scale = min(width / image.shape[1], height / image.shape[0])
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    target = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
    resized = cv2.resize(image, target, interpolation=method)
    cell = np.zeros((height, width, 3), np.uint8)
    top, left = (height - resized.shape[0]) // 2, (width - resized.shape[1]) // 2
    cell[top : top + resized.shape[0], left : left + resized.shape[1]] = resized
    return cell


def label(image: np.ndarray, text: str, origin: tuple[int, int] = (8, 18), scale: float = 0.45) -> None:
    """Write ``text`` (ASCII) onto the image with a dark rim, so that it reads on any background."""
    # The rim is the same letters shifted: OpenCV 5 spaces thicker letters wider.
    for shift in ((-1, 0), (1, 0), (0, -1), (0, 1)):
        shifted = (origin[0] + shift[0], origin[1] + shift[1])
        cv2.putText(image, text, shifted, cv2.FONT_HERSHEY_SIMPLEX, scale, (0, 0, 0), 1, cv2.LINE_AA)
    cv2.putText(image, text, origin, cv2.FONT_HERSHEY_SIMPLEX, scale, (255, 255, 255), 1, cv2.LINE_AA)


def legend(width: int, classes: Sequence[str], title: str, note: str) -> np.ndarray:
    """Return a strip (44, width, 3) with a title, a note and the colour of each class."""
    strip = np.full((44, width, 3), 28, np.uint8)
    label(strip, title, (10, 17), 0.48)
    text_width = cv2.getTextSize(note, cv2.FONT_HERSHEY_SIMPLEX, 0.42, 1)[0][0]
    label(strip, note, (max(10, width - text_width - 10), 17), 0.42)
    step = (width - 20) // max(1, len(classes))
    for index, name in enumerate(classes):
        left = 10 + index * step
        cv2.rectangle(strip, (left, 28), (left + 10, 38), class_color(name), -1)
        cv2.putText(strip, name, (left + 15, 37), cv2.FONT_HERSHEY_SIMPLEX, 0.38, (220, 220, 220), 1, cv2.LINE_AA)
    return strip


def scene_picture(
    images: Mapping[int, np.ndarray], order: Sequence[int], from_above: np.ndarray, names: Sequence[str]
) -> np.ndarray:
    """Lay camera pictures out in a grid (two rows from four cameras on) beside a bird's-eye view.

    Parameters
    ----------
    images : mapping of camera index to (H, W, 3) uint8
    order : sequence of int
        Camera indices in reading order.
    from_above : (S, S, 3) uint8
        Scaled to the grid's height.
    names : sequence of str
        The cameras' names, by camera index.

    Returns
    -------
    (H, W, 3) uint8, BGR, even in both directions
    """
    rows = 1 if len(order) <= 3 else 2 if len(order) <= 8 else 3
    columns = math.ceil(len(order) / rows)
    first = images[order[0]]
    cell_width = 480 if columns > 1 else 800
    cell_height = round(cell_width * first.shape[0] / first.shape[1] / 2) * 2
    grid = np.zeros((rows * cell_height, columns * cell_width, 3), np.uint8)
    for place, camera in enumerate(order):
        row, column = divmod(place, columns)
        cell = fit_into(images[camera], cell_width, cell_height)
        label(cell, names[camera])
        grid[row * cell_height : (row + 1) * cell_height, column * cell_width : (column + 1) * cell_width] = cell
    side = grid.shape[0]
    return np.concatenate([grid, fit_into(from_above, side, side)], axis=1)
