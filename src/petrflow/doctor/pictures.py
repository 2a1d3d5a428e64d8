"""Pictures of frames with their labels drawn in, for eyes to judge."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from petrflow.annotations import Keyframe
from petrflow.files import write_atomic
from petrflow.geometry import invert_rigid
from petrflow.pictures import draw as drawing
from petrflow.pictures.read import Unreadable, read_pixels

_TILE_WIDTH = 480
_COLUMNS = 3


def write_overlay(keyframe: Keyframe, root: Path, names: Sequence[str], path: Path, title: str) -> None:
    """Write one frame's cameras side by side, boxes drawn in, as a JPEG."""
    tiles = []
    camera_from_lidar = invert_rigid(keyframe.lidar_from_camera)
    for camera, name in enumerate(names):
        try:
            image = read_pixels(root / keyframe.image_paths[camera])
        except Unreadable:
            image = np.zeros((225, 400, 3), dtype=np.uint8)
        factor = _TILE_WIDTH / image.shape[1]
        image = cv2.resize(image, (_TILE_WIDTH, max(1, round(image.shape[0] * factor))), interpolation=cv2.INTER_AREA)
        # The table's intrinsics are for the table's size.
        scale = np.diag(
            [image.shape[1] / keyframe.image_sizes[camera, 0], image.shape[0] / keyframe.image_sizes[camera, 1], 1.0]
        )
        colors = drawing.class_colors(keyframe.names)
        drawing.draw_boxes(
            image, keyframe.boxes, scale @ keyframe.intrinsics[camera], camera_from_lidar[camera], colors, thickness=1
        )
        drawing.label(image, name)
        tiles.append(image)
    height = max(tile.shape[0] for tile in tiles)
    tiles = [cv2.copyMakeBorder(tile, 0, height - tile.shape[0], 0, 0, cv2.BORDER_CONSTANT) for tile in tiles]
    columns = min(_COLUMNS, len(tiles))
    while len(tiles) % columns:
        tiles.append(np.zeros_like(tiles[0]))
    picture = np.concatenate(
        [np.concatenate(tiles[row : row + columns], axis=1) for row in range(0, len(tiles), columns)]
    )
    bar = np.zeros((26, picture.shape[1], 3), dtype=np.uint8)
    drawing.label(bar, title)
    _, encoded = cv2.imencode(".jpg", np.concatenate([bar, picture]), [cv2.IMWRITE_JPEG_QUALITY, 88])
    write_atomic(path, encoded.tobytes())
