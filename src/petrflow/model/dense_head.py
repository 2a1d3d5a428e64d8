"""The dense head: one class and one box predicted at every image cell, from which queries and keys
get their positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn

from petrflow.errors import InputError
from petrflow.machine.processes import mean_over_devices
from petrflow.model.dense_targets import FOCAL_PER_METRE, TERMS, CellTargets, Grid
from petrflow.model.loss import FOCAL_ALPHA, FOCAL_GAMMA
from petrflow.model.tokens import pick, top_cells

WEIGHTS = np.array([1.0, 1.0, 4.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.3, 0.3], "float32")
PRIOR_LOGIT = -float(np.log(99.0))
"""Class logits at the beginning (probability 0.01), of cells as of queries."""
NEIGHBOUR_PENALTY = 5.0
"""By how much a cell's class logit is lowered where a neighbouring cell has a higher one."""
NOT_CENTRE = np.array([0, 0, 1, 1, 0, 1, 1, 1, 1, 1], "float32")
"""1 at the terms of a box code that do not describe the centre, 0 at the centre's."""
EDGE = 1e-3
"""Share of the detection range by which centres are kept from its ends, so that their logits stay
finite.
"""


@dataclass(frozen=True)
class CellPredictions:
    """What the cells of B samples predict; T cells in all images of both frames.

    Attributes
    ----------
    logits : (B, T, C) float32
        Of the classes.
    raw : (B, T, 10) float32
        In the order of ``TERMS``.
    points : (B, T, 3) float32
        Boxes' centres, 0 to 1 within the detection range.
    codes : (B, T, 10) float32
        Boxes as the decoder predicts them, offsets from the middle of the range: logit x, logit y,
        ln w, ln l, logit z, ln h, sin, cos, and displacement between the frames (x, y), m.
    """

    logits: Tensor
    raw: Tensor
    points: Tensor
    codes: Tensor
    grid: Grid

    @property
    def current(self) -> int:
        """Return the number of the current frame's cells; they come first."""
        return self.raw.shape[1] // 2


@dataclass(frozen=True)
class Proposals:
    """Queries that start from what a cell predicts.

    Attributes
    ----------
    reference : (B, K, 3) float32
        Reference points, 0 to 1 within the detection range.
    content : (B, K, E) float32
    logits : (B, K, C), codes : (B, K, 10) float32
        What is added to every decoder layer's predictions.
    """

    reference: Tensor
    content: Tensor
    logits: Tensor
    codes: Tensor

    def followed_by(self, learned: Tensor) -> Proposals:
        """Append queries with learned reference points (1, Q, 3); content, logits and codes of
        these are zero.
        """
        batch, _, _ = self.reference.shape
        count = learned.shape[1]

        reference = paddle.concat([self.reference, learned.expand([batch, -1, -1])], axis=1)
        rest = (paddle.concat([part, _zeros(part, count)], axis=1) for part in (self.content, self.logits, self.codes))
        return Proposals(reference, *rest)

    def after(self, count: int) -> Proposals:
        """Put ``count`` queries of zero content, logits and codes before these; the caller adds
        their reference points.
        """
        rest = (paddle.concat([_zeros(part, count), part], axis=1) for part in (self.content, self.logits, self.codes))
        return Proposals(self.reference, *rest)


def _zeros(part: Tensor, count: int) -> Tensor:
    return paddle.zeros([part.shape[0], count, part.shape[-1]])


class DenseHead(nn.Layer):
    """Class and box at every cell, placed in the lidar frame by the camera's geometry.

    FCOS3D's idea (Wang et al., 2021) on PETR's tokens, and 3DPPE's (Shu et al., 2023): a token that
    knows its depth has a point for a position, where PETR's has a ray.

    Parameters
    ----------
    embed_dims, num_classes : int
    """

    def __init__(self, embed_dims: int, num_classes: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(embed_dims, 2 * embed_dims)
        self.classes = nn.Linear(2 * embed_dims, num_classes)
        self.boxes = nn.Linear(2 * embed_dims, len(TERMS))
        self.embed = nn.Linear(num_classes + len(TERMS), embed_dims)
        self.register_buffer("not_centre", paddle.to_tensor(NOT_CENTRE), persistable=False)
        self.classes.bias.set_value(np.full(num_classes, PRIOR_LOGIT, "float32"))
        self.boxes.weight.set_value(self.boxes.weight * 0.1)

    def forward(
        self, tokens: Tensor, img2lidar: Tensor, grid: Grid, pixels: Tensor, low: Tensor, size: Tensor
    ) -> CellPredictions:
        """Predict a class and a box from each of the tokens (B, T, E) of 2N images.

        Parameters
        ----------
        tokens : (B, T, E) float32
        img2lidar : (B, 2N, 4, 4) float32
        grid : Grid
        pixels : (cells, 3) float32
            The grid's centres.
        low, size : (3,) float32
            The detection range's lower corner and extent, m.
        """
        hidden = F.relu(self.hidden(tokens))
        raw = self.boxes(hidden)
        points, codes = place_cells(raw, img2lidar, grid, pixels, low, size)
        return CellPredictions(self.classes(hidden), raw, points, codes, grid)

    def embedding(self, cells: CellPredictions) -> Tensor:
        """Embed the cells' predictions, (B, T, E)."""
        return self.embed(paddle.concat([F.sigmoid(cells.logits), cells.codes], axis=-1))

    def peaks(self, cells: CellPredictions) -> Tensor:
        """Return (B, T / 2) float32: the current frame's highest class logits, lowered where a
        neighbouring cell has a higher one.
        """
        current, grid = cells.current, cells.grid
        batch, _, classes = cells.logits.shape
        scores = cells.logits[:, :current].detach()
        scores = scores.reshape([-1, grid.height, grid.width, classes]).transpose([0, 3, 1, 2])
        scores = paddle.where(scores >= F.max_pool2d(scores, 3, 1, 1), scores, scores - NEIGHBOUR_PENALTY)
        return scores.max(axis=1).reshape([batch, current])

    def proposals(self, cells: CellPredictions, tokens: Tensor, count: int) -> Proposals:
        """Turn the current frame's top_cells peaks into queries; no gradient flows into their
        boxes.

        Parameters
        ----------
        cells : CellPredictions
        tokens : (B, T, E) float32
        count : int

        Raises
        ------
        PetrflowError
            When there are fewer cells.
        """
        if count > cells.current:
            raise InputError(
                f"proposals is {count}, and the cameras of a frame have {cells.current} cells in all: lower proposals (and num_query), "
                "or give larger images."
            )
        selected = top_cells(self.peaks(cells), count, cells.raw.shape[1])
        reference, logits, codes = (pick(part.detach(), selected) for part in (cells.points, cells.logits, cells.codes))
        # The reference point is the centre already.
        return Proposals(reference, pick(tokens, selected), logits - PRIOR_LOGIT, codes * self.not_centre)

    def losses(self, cells: CellPredictions, targets: Sequence[CellTargets]) -> tuple[Tensor, Tensor]:
        """Return the focal loss of all current cells and the L1 loss of those with a box, each
        divided by the number of the latter.
        """
        current = cells.current
        batch, tokens, classes = cells.logits.shape
        wanted = np.zeros((batch, current, classes), "float32")
        rows, values = [], []
        for sample, target in enumerate(targets):
            wanted[sample, target.rows, target.labels] = 1.0
            rows.append(sample * tokens + target.rows)
            values.append(target.values)
        found = sum(len(target.rows) for target in targets)
        total = max(mean_over_devices(float(found)), 1.0)
        focal = F.sigmoid_focal_loss(
            cells.logits[:, :current], paddle.to_tensor(wanted), alpha=FOCAL_ALPHA, gamma=FOCAL_GAMMA, reduction="sum"
        )
        if not found:
            return focal / total, cells.raw.sum() * 0.0
        value = np.concatenate(values)
        weights = np.isfinite(value) * WEIGHTS
        picked = paddle.gather(cells.raw.flatten(0, 1), paddle.to_tensor(np.concatenate(rows)))
        difference = (picked - paddle.to_tensor(np.nan_to_num(value))).abs() * paddle.to_tensor(weights)
        return focal / total, difference.sum() / total


def place_cells(
    raw: Tensor, img2lidar: Tensor, grid: Grid, pixels: Tensor, low: Tensor, size: Tensor
) -> tuple[Tensor, Tensor]:
    """Turn the cells' box terms into points and box codes of the lidar frame; arguments as
    :meth:`DenseHead.forward`.

    Returns
    -------
    points (B, T, 3), codes (B, T, 10)
        As in :class:`CellPredictions`.
    """
    batch, images = img2lidar.shape[:2]
    terms = raw.reshape([batch, images, -1, len(TERMS)])
    shift = paddle.concat([terms[..., :1] * grid.cell[1], terms[..., 1:2] * grid.cell[0]], axis=-1)
    spot = pixels + paddle.concat([shift, paddle.zeros_like(shift[..., :1])], axis=-1)
    turn = img2lidar[:, :, :3, :3]
    rays = paddle.matmul(spot, turn, transpose_y=True)
    focal = 1.0 / turn[..., 0].norm(axis=-1).reshape([batch, images, 1, 1])
    depth = (terms[..., 2:3].clip(-4.0, 3.0)).exp() * focal / FOCAL_PER_METRE
    centre = rays * depth + img2lidar[:, :, :3, 3].unsqueeze(2)
    ahead, right = _axes(rays, turn[..., 0])
    heading = -(terms[..., 6:7] * ahead + terms[..., 7:8] * right)
    moved = terms[..., 8:9] * ahead + terms[..., 9:10] * right
    centre, heading, moved = (part.reshape([batch, -1, part.shape[-1]]) for part in (centre, heading, moved))
    points = ((centre - low) / size).clip(EDGE, 1 - EDGE)
    # Not the log of points / (1 - points): in an exported graph paddle.inference (3.3.1) divides in
    # place, and whoever needs the points afterwards gets the quotients.
    where = -(1 / points - 1).log()
    return points, paddle.concat(
        [where[..., :2], raw[..., 3:5], where[..., 2:], raw[..., 5:6], heading, moved], axis=-1
    )


def _axes(rays: Tensor, column: Tensor) -> tuple[Tensor, Tensor]:
    """Level unit vectors (..., 2) along rays (B, 2N, cells, 3), and to the image's right; mirrored
    images turn the latter.
    """
    level = rays[..., :2]
    ahead = level / (level * level).sum(-1, keepdim=True).sqrt().clip(min=1e-6)
    right = paddle.concat([ahead[..., 1:], -ahead[..., :1]], axis=-1)
    facing = (right * column[..., :2].unsqueeze(2)).sum(-1, keepdim=True)
    return ahead, right * paddle.where(facing >= 0, paddle.ones_like(facing), -paddle.ones_like(facing))
