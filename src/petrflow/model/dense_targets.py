"""What each cell of a feature map should predict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from petrflow import geometry

TERMS = ("u", "v", "depth", "width", "length", "height", "heading ahead", "right", "displacement ahead", "right")
"""Per cell: the centre off the cell's own, cells; ln of depth over focal length; ln of the size, m; the rest along its ray and right of it."""
FOCAL_PER_METRE = 12.0
"""Pixels of focal length for each metre of depth where the head predicts 0: 15 m with 183 px."""
CORE = 0.3
"""Share of a box's extent in the image, around its centre, whose cells are to find it."""
NEAREST = 1.0
"""Depth below which no box is looked for, m."""


@dataclass(frozen=True)
class Grid:
    """The cells of one feature map.

    Attributes
    ----------
    height, width : int
    cell : (height, width)
        Of one cell, pixels of the padded image.
    """

    height: int
    width: int
    cell: tuple[float, float]

    @classmethod
    def over(cls, height: int, width: int, pad_shape: Sequence[int]) -> Grid:
        """Return the grid of a feature map (height, width) of images padded to (height, width) pixels."""
        return cls(height, width, (pad_shape[0] / height, pad_shape[1] / width))

    def centres(self) -> np.ndarray:
        """Return (height * width, 3) float32: homogeneous pixels (u, v, 1) of the cells' middles, row by row."""
        v, u = np.meshgrid(
            (np.arange(self.height) + 0.5) * self.cell[0], (np.arange(self.width) + 0.5) * self.cell[1], indexing="ij"
        )
        return np.stack([u, v, np.ones_like(u)], axis=-1).reshape(-1, 3).astype("float32")


@dataclass(frozen=True)
class CellTargets:
    """What the N * h * w current cells of one sample should see.

    Attributes
    ----------
    rows : (P,) int64
        Cells that see a box; all others are background.
    labels : (P,) int64
        The boxes' classes.
    values : (P, 10) float32
        Their boxes in the order of ``TERMS``; NaN where unknown.
    """

    rows: np.ndarray
    labels: np.ndarray
    values: np.ndarray


def cell_targets(
    boxes: np.ndarray,
    labels: np.ndarray,
    img2lidar: np.ndarray,
    grid: Grid,
    between: float,
) -> CellTargets:
    """Say which cells of one sample's current images are to find which box; the nearest wins.

    Parameters
    ----------
    boxes : (M, 9) float32
        Paddle3D order with gravity centres, lidar frame. Those without a whole centre, size and yaw are left out.
    labels : (M,) int64
    img2lidar : (N, 4, 4) float32
    grid : Grid
    between : float
        Seconds between the frames.
    """
    height, width, cell = grid.height, grid.width, grid.cell
    images = len(img2lidar)
    owner = np.full((images, height, width), -1, "int64")
    boxes = np.asarray(boxes, "float64").reshape(-1, 9)
    known = np.isfinite(boxes[:, :7]).all(axis=1)
    boxes, labels = boxes[known], np.asarray(labels)[known]
    with np.errstate(divide="ignore", invalid="ignore"):
        sizes = np.log(boxes[:, 3:6]).T
    lidar2img = np.linalg.inv(img2lidar.astype("float64"))
    heading = -np.stack([np.sin(boxes[:, 6]), np.cos(boxes[:, 6])], axis=-1)
    corners = geometry.box_corners(np.column_stack([boxes[:, :6], -boxes[:, 6] - np.pi / 2]))
    points = np.concatenate([boxes[:, None, :3], corners], axis=1)
    values = np.full((images, len(boxes), len(TERMS)), np.nan)
    for image in range(images):
        seen = points @ lidar2img[image, :3, :3].T + lidar2img[image, :3, 3]
        depth = seen[:, 0, 2]
        pixel = seen[..., :2] / np.maximum(seen[..., 2:], 0.1)
        u, v = pixel[:, 0, 0] / cell[1], pixel[:, 0, 1] / cell[0]
        inside = (depth > NEAREST) & (u >= 0) & (u < width) & (v >= 0) & (v < height)
        edges = np.clip(pixel[:, 1:] / [cell[1], cell[0]], 0, [width, height])
        half = (edges.max(1) - edges.min(1)) / 2 * CORE
        for box in sorted(np.nonzero(inside)[0], key=lambda index: -depth[index]):
            owner[image, _cells(v[box], half[box, 1], height), _cells(u[box], half[box, 0], width)] = box
        turn = img2lidar[image, :3, :3].astype("float64")
        ray = (boxes[:, :3] - img2lidar[image, :3, 3])[:, :2]
        ahead = ray / np.maximum(np.linalg.norm(ray, axis=-1, keepdims=True), 1e-6)
        right = ahead[:, ::-1] * [1.0, -1.0]
        right *= np.where((right * turn[:2, 0]).sum(-1, keepdims=True) >= 0, 1.0, -1.0)
        moved = boxes[:, 7:9] * between
        focal = 1.0 / np.linalg.norm(turn[:, 0])
        values[image] = np.stack(
            [
                u, v, np.log(np.maximum(depth, NEAREST) * FOCAL_PER_METRE / focal), *sizes,
                (heading * ahead).sum(-1), (heading * right).sum(-1), (moved * ahead).sum(-1), (moved * right).sum(-1),
            ],
            axis=-1,
        )  # fmt: skip
    rows = np.nonzero(owner.reshape(-1) >= 0)[0]
    camera, row, column = np.unravel_index(rows, owner.shape)
    chosen = owner.reshape(-1)[rows]
    found = values[camera, chosen].astype("float32")
    found[:, 0] -= column + 0.5
    found[:, 1] -= row + 0.5
    return CellTargets(rows, labels[chosen], found)


def _cells(centre: float, half: float, count: int) -> slice:
    """Cells whose middles lie within ``half`` of ``centre``, the one that holds it among them."""
    first, last = (
        min(int(np.ceil(centre - half - 0.5)), int(centre)),
        max(int(np.floor(centre + half - 0.5)), int(centre)),
    )
    return slice(max(first, 0), min(last, count - 1) + 1)
