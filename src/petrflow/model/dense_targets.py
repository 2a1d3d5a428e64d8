"""What each cell of a feature map should predict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from petrflow.model import box_codes

TERMS = ("u", "v", "depth", "width", "length", "height", "heading ahead", "right", "displacement ahead", "right")
"""The ten numbers that a cell predicts: offset of the box's projected centre from the cell's centre
(in cells); ln(depth / focal length); ln of width, length and height in metres; heading and
displacement, each split into a part along the cell's viewing ray and a part to its right.
"""
FOCAL_PER_METRE = 12.0
"""Pixels of focal length for each metre of depth where the head predicts 0: 15 m with 183 px."""
CORE = 0.3
"""Share of a box's extent in the image: the cells within it, around the box's centre, are to
predict the box.
"""
NEAREST = 1.0
"""Metres of depth below which no cell is to predict a box."""


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
        """Return the grid of a feature map (height, width) of images padded to (height, width)
        pixels.
        """
        return cls(height, width, (pad_shape[0] / height, pad_shape[1] / width))

    def centres(self) -> np.ndarray:
        """Return (height * width, 3) float32: homogeneous pixels (u, v, 1) of the cells' middles,
        row by row.
        """
        v, u = np.meshgrid(
            (np.arange(self.height) + 0.5) * self.cell[0], (np.arange(self.width) + 0.5) * self.cell[1], indexing="ij"
        )
        return np.stack([u, v, np.ones_like(u)], axis=-1).reshape(-1, 3).astype("float32")


@dataclass(frozen=True)
class CellTargets:
    """What the N * h * w current cells of one sample should predict.

    Attributes
    ----------
    rows : (P,) int64
        Cells that are to predict a box; all others are background.
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
    """Assign boxes to the cells of one sample's current images; where boxes overlap, the nearest
    one wins.

    Parameters
    ----------
    boxes : (M, 9) float32
        Centred PETR boxes (:mod:`petrflow.model.box_codes`), lidar frame. Boxes without a finite
        centre, size and yaw are left out.
    labels : (M,) int64
    img2lidar : (N, 4, 4) float32
    grid : Grid
    between : float
        Seconds between the frames.
    """
    # ---- boxes that are known well enough
    height, width, cell = grid.height, grid.width, grid.cell
    images = len(img2lidar)
    owner = np.full((images, height, width), -1, "int64")
    boxes = np.asarray(boxes, "float64").reshape(-1, 9)
    known = np.isfinite(boxes[:, :7]).all(axis=1)
    boxes, labels = boxes[known], np.asarray(labels)[known]
    with np.errstate(divide="ignore", invalid="ignore"):
        sizes = np.log(boxes[:, 3:6]).T
    lidar2img = np.linalg.inv(img2lidar.astype("float64"))
    heading = box_codes.centred_headings(boxes)
    points = np.concatenate([boxes[:, None, :3], box_codes.centred_corners(boxes)], axis=1)
    values = np.full((images, len(boxes), len(TERMS)), np.nan)
    for image in range(images):
        # ---- which cells of this image get which box, the nearest box last
        seen = points @ lidar2img[image, :3, :3].T + lidar2img[image, :3, 3]
        depth = seen[:, 0, 2]
        pixel = seen[..., :2] / np.maximum(seen[..., 2:], 0.1)
        u, v = pixel[:, 0, 0] / cell[1], pixel[:, 0, 1] / cell[0]
        inside = (depth > NEAREST) & (u >= 0) & (u < width) & (v >= 0) & (v < height)
        edges = np.clip(pixel[:, 1:] / [cell[1], cell[0]], 0, [width, height])
        half = (edges.max(1) - edges.min(1)) / 2 * CORE
        for box in sorted(np.nonzero(inside)[0], key=lambda index: -depth[index]):
            owner[image, _cells_within(v[box], half[box, 1], height), _cells_within(u[box], half[box, 0], width)] = box
        # ---- the boxes' terms as this camera sees them
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
    # ---- the terms of the cells that got a box, relative to the cell
    rows = np.nonzero(owner.reshape(-1) >= 0)[0]
    camera, row, column = np.unravel_index(rows, owner.shape)
    assigned = owner.reshape(-1)[rows]
    found = values[camera, assigned].astype("float32")
    found[:, 0] -= column + 0.5
    found[:, 1] -= row + 0.5
    return CellTargets(rows, labels[assigned], found)


def _cells_within(centre: float, half: float, count: int) -> slice:
    """Return the cells whose middles lie within ``half`` of ``centre``; the cell that holds
    ``centre`` is always one of them.
    """
    first, last = (
        min(int(np.ceil(centre - half - 0.5)), int(centre)),
        max(int(np.floor(centre + half - 0.5)), int(centre)),
    )
    return slice(max(first, 0), min(last, count - 1) + 1)
