"""PETRv2's head: Paddle3D's parameters, computed over tokens, for any number of cameras, layers and
channels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn
from paddle3d.models.heads.dense_heads import petr_head
from paddle3d.models.layers.layer_libs import inverse_sigmoid

from petrflow.errors import InputError
from petrflow.model import denoise, loss
from petrflow.model.dense_head import CellPredictions, DenseHead, Proposals
from petrflow.model.dense_targets import Grid, cell_targets
from petrflow.model.tokens import (
    cell_padding,
    frustum,
    image_sines,
    pick,
    pointwise,
    sine_embedding,
    top_cells,
    wavelengths,
)

STILL = 1e-4
"""Seconds between two frames below which they say nothing about velocity."""


@dataclass(frozen=True)
class Keys:
    """What the decoder attends to: K of the T cells in all images of both frames.

    Attributes
    ----------
    values, positions : (B, K, E) float32
        The cells' tokens, and the embedding of where they are.
    bias : (1, 1, 1, K) float32, optional
        Added to attention logits; keeps the decoder from padding.
    points : (B, K, 3) float32, optional
        Centres of the boxes that the cells predict, 0 to 1 within the detection range.
    predicted : (B, T, E) float32, optional
        The embedding of all cells' predictions.
    """

    values: Tensor
    positions: Tensor
    bias: Tensor | None
    points: Tensor | None = None
    predicted: Tensor | None = None


@dataclass(frozen=True)
class Queries:
    """What the decoder starts from.

    Attributes
    ----------
    reference : (B or 1, Q, 3) float32
        Reference points, 0 to 1 within the detection range.
    start : Proposals, optional
        What the queries begin with; without it, with zeros.
    blocked : (Q, Q) float32, optional
        Added to the logits of attention between queries.
    """

    reference: Tensor
    start: Proposals | None
    blocked: Tensor | None = None


class PetrV2Head(petr_head.PETRHead):
    """PETRHead without its fixed sizes and faults; without ``monocular`` its parameters' names and
    shapes are upstream's.

    Parameters
    ----------
    embed_dims : int
        Channels of tokens and queries; upstream fixes 256.
    num_pred : int
        Decoder layers; upstream fixes 6 and dies with an IndexError beyond that.
    reference_height : (low, high), optional
        Where reference points start within the height range, 0 to 1; upstream spreads them over all
        of it.
    monocular : float
        Weight of the loss of the dense head, which predicts a box at each cell; its predictions are
        added to keys and values. 0, as upstream: there is no such head.
    proposals : int
        Of the ``num_query`` queries, how many start from the cells of the dense head's highest
        scores.
    keys : int
        To how many of each frame's cells the decoder attends at most, those of the highest scores:
        fine feature maps are mostly road and sky. 0: all.
    point_prior : sequence of floats, optional
        One strength per attention head: by how much attention logits are lowered for each metre
        between a query's reference point and the box that a cell predicts. A small model otherwise
        takes long to find out where to look. 0 leaves a head free.
    **arguments
        As PETRHead.
    """

    def __init__(
        self,
        embed_dims: int = 256,
        num_pred: int = 6,
        reference_height: Sequence[float] | None = None,
        monocular: float = 0.0,
        proposals: int = 0,
        keys: int = 0,
        point_prior: Sequence[float] | None = None,
        **arguments: Any,
    ) -> None:
        self._sizes = (embed_dims, num_pred)
        if (proposals or keys or point_prior is not None) and not monocular:
            raise ValueError(
                "proposals, keys and point_prior need monocular above 0: they use the predictions of that head"
            )
        if proposals and proposals >= arguments.get("num_query", 100):
            raise ValueError(f"proposals is {proposals}: num_query must be more, some reference points are learned")
        self.reference_height = reference_height
        self.monocular_weight, self.num_proposals, self.point_prior = monocular, proposals, point_prior
        self.num_keys = keys
        super().__init__(**arguments)
        self._constants: dict[tuple[str | float, ...], Tensor] = {}
        # Upstream keeps float32 epsilon as a loose tensor here. Under PIR (Paddle 3.x) such a
        # tensor reaches an exported graph without data ("Tensor holds no memory" on loading); the
        # losses below do without it.
        del self.pd_eps
        if not (self.with_position and self.with_time and self.with_multiview):
            raise ValueError("PetrV2Head needs with_position, with_time and with_multiview: true, as PETRv2 has them")
        for part in (self.loss_cls, self.loss_bbox):
            if part.reduction != "sum":
                raise ValueError(f"{type(part).__name__} needs reduction: sum")

    def _init_layers(self) -> None:
        # The parent sets 256 and 6 just before this hook; state_dict keys follow from these two.
        self.embed_dims, self.num_pred = self._sizes
        super()._init_layers()
        if self.num_proposals:
            self.reference_points = nn.Embedding(self.num_query - self.num_proposals, 3)
        if self.monocular_weight:
            self.monocular = DenseHead(self.embed_dims, self.num_classes)

    def constant(self, name: tuple[str | float, ...], make: Callable[[], np.ndarray]) -> Tensor:
        """Return a constant tensor, made once for each name: what it is, and the sizes that it
        depends on.
        """
        if name not in self._constants:
            if not paddle.in_dynamic_mode():
                raise RuntimeError(
                    f"{name} is unknown while tracing: run the model once on inputs of this shape before"
                )
            self._constants[name] = paddle.to_tensor(make())
        return self._constants[name]

    def register_constants(self) -> None:
        """Make buffers of the constants made so far, which an exported graph then carries;
        ``state_dict`` leaves them out.

        Under PIR (Paddle 3.x) a tensor that is neither parameter nor buffer reaches an exported
        graph without its data: saving dies with ``KeyError: 'generated_tensor_…'``, or loading with
        "Tensor holds no memory".
        """
        for name, tensor in self._constants.items():
            text = "_".join(str(part) for part in name).replace(".", "_")
            self.register_buffer(f"constant_{text}", tensor, persistable=False)

    def init_weights(self) -> None:
        """Draw the initial weights as upstream does, but for the reference points' heights where
        the config says so.
        """
        super().init_weights()
        if self.reference_height is not None:
            low, high = self.reference_height
            points = self.reference_points.weight.numpy()
            points[:, 2] = low + (high - low) * points[:, 2]
            self.reference_points.weight.set_value(points)

    # -- where tokens are
    # -------------------------------------------------------------------------------------------

    def depths(self) -> np.ndarray:
        """Return (D,) float32: how far along a cell's ray its points lie, m."""
        index = np.arange(self.depth_num, dtype="float32")
        reach = self.position_range[3] - self.depth_start
        if self.LID:
            return self.depth_start + reach / (self.depth_num * (1 + self.depth_num)) * index * (index + 1)
        return self.depth_start + reach / self.depth_num * index

    def point_embedding(
        self, img2lidar: Tensor, grid: Sequence[int], pad_shape: Sequence[int], selected: Tensor | None = None
    ) -> Tensor:
        """Embed where each cell's ray runs: (B, 2N, 4, 4) -> (B, 2N * h * w, E); with ``selected``,
        of these cells only: (B, K, E).

        ``grid`` is (h, w), the size of one image's feature map.

        Upstream tiles a 4x4 matrix to every cell and depth bin and multiplies hundreds of thousands
        of 4x4 by 4x1; one product over all points gives the same numbers.
        """
        batch, images = img2lidar.shape[:2]
        low, high = np.split(np.asarray(self.position_range, "float32"), 2)
        points = self.constant(("frustum", *grid, *pad_shape), lambda: frustum(grid, pad_shape, self.depths()))
        matrix = img2lidar[:, :, :3, :].reshape([batch * images, 3, 4])
        points = paddle.matmul(points, matrix, transpose_y=True)
        lowest, size = (
            self.constant(("position_low",), lambda: low),
            self.constant(("position_size",), lambda: high - low),
        )
        points = (points - lowest) / size
        points = points.reshape([batch, -1, self.depth_num * 3])
        encoded = inverse_sigmoid(pick(points, selected))
        encoded.stop_gradient = True
        return pointwise(self.position_encoder[2], F.relu(pointwise(self.position_encoder[0], encoded)))

    def detection_range(self) -> tuple[Tensor, Tensor]:
        """Return the lower corner and the extent of the detection range, (3,) float32 each, m."""
        low, high = np.split(np.asarray(self.pc_range, "float32"), 2)
        return self.constant(("range_low",), lambda: low), self.constant(("range_size",), lambda: high - low)

    def predict_cells(self, tokens: Tensor, img2lidar: Tensor, grid: Grid) -> CellPredictions:
        """Return what the dense head predicts from tokens (B, 2N * h * w, E)."""
        pixels = self.constant(("pixels", grid.height, grid.width, *grid.cell), grid.centres)
        return self.monocular(tokens, img2lidar, grid, pixels, *self.detection_range())

    def point_bias(self, reference: Tensor, points: Tensor) -> Tensor:
        """Return what ``point_prior`` adds to the attention logits: (B, heads, Q, T).

        Parameters
        ----------
        reference : (B or 1, Q, 3) float32
            Reference points, 0 to 1 within the detection range.
        points : (B, T, 3) float32
            Centres of the boxes that the cells predict, likewise. Heights do not count.
        """
        low, high = np.split(np.asarray(self.pc_range, "float32"), 2)
        size = self.constant(("level_size",), lambda: (high - low)[:2])
        reference, points = reference.detach()[..., :2] * size, points.detach()[..., :2] * size
        # Differences first: squares of 50 m cancel to errors of centimetres, which an exported
        # graph makes otherwise.
        across = reference.unsqueeze(2) - points.unsqueeze(1)
        distance = ((across * across).sum(-1) + 0.25).sqrt().unsqueeze(1)
        strength = self.constant(("point_prior",), lambda: np.asarray(self.point_prior, "float32").reshape(1, -1, 1, 1))
        return -distance * strength

    def selection_scores(self, cells: CellPredictions) -> tuple[Tensor, int]:
        """Return each cell's score, (2B, T / 2) with one row per sample and frame, and how many
        cells per row the decoder attends to.
        """
        scores = cells.logits.detach().max(axis=-1).reshape([-1, cells.current])
        return scores, min(self.num_keys, cells.current)

    def selection_gap(self, cells: CellPredictions) -> float:
        """Return the score gap between the last selected cell and the best cell left out.

        If the gap is smaller than the rounding error, another device may select the other cell.
        """
        gap = math.inf
        for scores, count in (self.selection_scores(cells), (self.monocular.peaks(cells), self.num_proposals)):
            if 0 < count < scores.shape[1]:
                best = -np.sort(-scores.numpy(), axis=-1)
                gap = min(gap, float((best[:, count - 1] - best[:, count]).min()))
        return gap

    def image_embedding(
        self, where: tuple[int, int, int], padding: np.ndarray | None, selected: Tensor | None = None
    ) -> Tensor:
        """Embed image number, row and column of (2N, h, w) cells: (1, 2N * h * w, E), the same for
        every sample; or (B, K, E).
        """
        name = ("sines", *where, padding is not None)
        sines = self.constant(name, lambda: image_sines(where, padding, self.positional_encoding))
        return pointwise(self.adapt_pos3d[2], F.relu(pointwise(self.adapt_pos3d[0], pick(sines, selected))))

    def embed_points(self, points: Tensor) -> Tensor:
        """Embed points (..., 3), 0 to 1 within the detection range, as queries' positions are:
        (..., E).
        """
        frequencies = self.constant(
            ("frequencies",), lambda: (2 * math.pi / wavelengths(self.embed_dims // 2)).astype("float32")
        )
        return self.query_embedding(sine_embedding(points, frequencies))

    # -- forward
    # ----------------------------------------------------------------------------------------------------

    def decode_queries(
        self,
        features: Tensor,
        img2lidar: Tensor,
        timestamps: Tensor,
        pad_shape: Sequence[int],
        image_shape: Sequence[int],
        denoising: denoise.DenoisingQueries | None = None,
    ) -> tuple[Tensor, Tensor, CellPredictions | None]:
        """Return the class logits (L, B, Q, C) and box codes (L, B, Q, 10) of all decoder layers,
        and the dense head's predictions.

        Parameters
        ----------
        features : (B, 2N, in_channels, h, w) float32
            First the N cameras now, then the same N cameras before.
        img2lidar : (B, 2N, 4, 4) float32
            (u d, v d, d, 1) in a padded image's pixels -> lidar frame, m.
        timestamps : (B, 2N) float32
            Seconds by which each image is older than the sample.
        pad_shape, image_shape : (height, width)
            Of the padded image and of the picture in its top left corner, pixels.
        denoising : DenoisingQueries, optional
            Its P queries come first in the outputs.

        Raises
        ------
        PetrflowError
            When the dense head would predict boxes in padding.
        """
        batch, images, channels, height, width = features.shape
        tokens = features.reshape([batch, images, channels, height * width]).transpose([0, 1, 3, 2])
        tokens = pointwise(self.input_proj, tokens.reshape([batch, -1, channels]))
        cells = None
        if self.monocular_weight:
            _refuse_padding(pad_shape, image_shape)
            cells = self.predict_cells(tokens, img2lidar, Grid.over(height, width, pad_shape))
        keys = self._keys(tokens, cells, img2lidar, (images, height, width), pad_shape, image_shape)
        queries = self._queries(tokens, cells, keys, denoising)
        logits, codes = self._decode(keys, queries)
        return logits, self.place(codes, queries.reference, timestamps), cells

    def _keys(
        self,
        tokens: Tensor,
        cells: CellPredictions | None,
        img2lidar: Tensor,
        where: tuple[int, int, int],
        pad_shape: Sequence[int],
        image_shape: Sequence[int],
    ) -> Keys:
        """Return what the decoder attends to: all cells, or those of the highest scores where
        ``keys`` of the model file says so.

        Parameters
        ----------
        tokens : (B, 2N * h * w, E) float32
        cells : CellPredictions, optional
        where : (2N, h, w)
        img2lidar, pad_shape, image_shape
            As :meth:`decode_queries`.
        """
        # ---- which cells
        selected = None
        if cells is not None and self.num_keys:
            selected = top_cells(*self.selection_scores(cells), cells.current).reshape([tokens.shape[0], -1])

        # ---- their rays, as PETR embeds them
        values = pick(tokens, selected)
        positions = self.point_embedding(img2lidar, where[1:], pad_shape, selected)
        if self.with_fpe:
            gate = pointwise(self.fpe.conv_expand, F.relu(pointwise(self.fpe.conv_reduce, values)))
            positions = positions * F.sigmoid(gate)
        padding = cell_padding(where, pad_shape, image_shape)
        positions = positions + self.image_embedding(where, padding, selected)
        bias = None
        if padding is not None:
            bias = self.constant(("padding", *where), lambda: padding.reshape(1, 1, 1, -1) * np.float32(-1e9))
        if cells is None:
            return Keys(values, positions, bias)

        # ---- the points that the dense head predicts on them
        predicted, points = self.monocular.embedding(cells), pick(cells.points, selected)
        values = values + pick(predicted, selected)
        positions = positions + self.embed_points(points.detach())
        return Keys(values, positions, bias, points, predicted)

    def _queries(
        self,
        tokens: Tensor,
        cells: CellPredictions | None,
        keys: Keys,
        denoising: denoise.DenoisingQueries | None,
    ) -> Queries:
        """Return the decoder's queries: those of denoising first, then those that start from cells,
        then those with learned points.
        """
        reference, start = self.reference_points.weight.unsqueeze(0), None
        if cells is not None and self.num_proposals:
            start = self.monocular.proposals(cells, tokens + keys.predicted, self.num_proposals).followed_by(reference)
            reference = start.reference
        if denoising is None:
            return Queries(reference, start)
        noisy = paddle.to_tensor(denoising.reference)
        reference = paddle.concat([noisy, reference.expand([tokens.shape[0], -1, -1])], axis=1)
        blocked = paddle.to_tensor(denoising.blocked.astype("float32") * np.float32(-1e9))
        return Queries(reference, None if start is None else start.after(noisy.shape[1]), blocked)

    def _decode(self, keys: Keys, queries: Queries) -> tuple[Tensor, Tensor]:
        """Run the decoder; return the class logits (L, B, Q, C) and what is added to reference
        points, (L, B, Q, 10).
        """
        bias, start = keys.bias, queries.start
        if self.point_prior is not None:
            bias = self.point_bias(queries.reference, keys.points)
        content = None if start is None else start.content
        positions = self.embed_points(queries.reference)
        decoded = self.transformer(keys.values, keys.positions, positions, queries.blocked, bias, content)
        logits = paddle.stack([branch(decoded[level]) for level, branch in enumerate(self.cls_branches)])
        codes = paddle.stack([branch(decoded[level]) for level, branch in enumerate(self.reg_branches)])
        if start is not None:
            logits, codes = logits + start.logits, codes + start.codes
        return logits, codes

    def place(self, codes: Tensor, reference: Tensor, timestamps: Tensor) -> Tensor:
        """Turn offsets from the reference points into metres and displacements between frames into
        velocities.
        """
        low, size = self.detection_range()
        centre = paddle.concat([codes[..., 0:2], codes[..., 4:5]], axis=-1)
        centre = F.sigmoid(centre + inverse_sigmoid(reference))
        centre = centre * size + low
        # Upstream reshapes to [-1, 6]: six cameras and no other number.
        batch, images = timestamps.shape
        halves = timestamps.reshape([batch, 2, images // 2])
        between = (halves[:, 1] - halves[:, 0]).mean(-1).reshape([1, batch, 1, 1])
        # Upstream divides by this time as it is: two frames of one time give inf, and NaN losses.
        # They show no motion.
        moving = (between.abs() > STILL).astype("float32")
        velocity = codes[..., 8:] / (between * moving + (1 - moving)) * moving
        return paddle.concat([centre[..., :2], codes[..., 2:4], centre[..., 2:], codes[..., 5:8], velocity], axis=-1)

    def denoising_queries(
        self, boxes: Sequence[np.ndarray], labels: Sequence[np.ndarray], rng: np.random.Generator
    ) -> denoise.DenoisingQueries | None:
        """Return denoising queries for the true boxes of a batch (centred PETR boxes); None without
        ``with_denoise``.
        """
        if not self.with_denoise:
            return None
        return denoise.make_queries(
            boxes,
            labels,
            groups=self.scalar,
            num_query=self.num_query,
            num_classes=self.num_classes,
            noise_scale=self.bbox_noise_scale,
            noise_trans=self.bbox_noise_trans,
            split=self.split,
            pc_range=self.pc_range,
            rng=rng,
        )

    def losses(
        self,
        logits: Tensor,
        codes: Tensor,
        boxes: Sequence[np.ndarray],
        labels: Sequence[np.ndarray],
        denoising: denoise.DenoisingQueries | None,
    ) -> dict[str, Tensor]:
        """Return the losses of all queries by their upstream names; arguments as
        :meth:`decode_queries` returns and takes them.
        """
        losses: dict[str, Tensor] = {}
        if denoising is not None:
            padding = denoising.reference.shape[1]
            known = loss.denoising_losses(self, logits[:, :, :padding], codes[:, :, :padding], denoising)
            losses.update(loss.named("dn_", *known))
            logits, codes = logits[:, :, padding:], codes[:, :, padding:]
        losses.update(loss.named("", *loss.matching_losses(self, logits, codes, boxes, labels)))
        return losses

    def monocular_losses(
        self,
        cells: CellPredictions,
        boxes: Sequence[np.ndarray],
        labels: Sequence[np.ndarray],
        img2lidar: np.ndarray,
        timestamps: np.ndarray,
    ) -> dict[str, Tensor]:
        """Return the losses of the dense head; ``img2lidar`` and ``timestamps`` as the network gets
        them, on the host.
        """
        count = timestamps.shape[1] // 2
        between = timestamps[:, count:].mean(-1) - timestamps[:, :count].mean(-1)
        targets = [
            cell_targets(b, label, matrices[:count], cells.grid, float(time))
            for b, label, matrices, time in zip(boxes, labels, img2lidar, between, strict=True)
        ]
        cls, box = self.monocular.losses(cells, targets)
        weight = self.monocular_weight
        return {"monocular_loss_cls": cls * weight, "monocular_loss_bbox": box * (weight * self.loss_bbox.loss_weight)}


def _refuse_padding(pad_shape: Sequence[int], image_shape: Sequence[int]) -> None:
    if tuple(pad_shape) != tuple(image_shape):
        raise InputError(
            f"monocular above 0 finds boxes in every cell, and images of {tuple(image_shape)} are padded to {tuple(pad_shape)}: "
            "give an input.image_size of multiples of input.size_divisor."
        )
