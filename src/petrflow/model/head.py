"""PETRv2's head: Paddle3D's parameters, computed over tokens, for any number of cameras, layers and channels."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn
from paddle3d.models.heads.dense_heads import petr_head
from paddle3d.models.layers.layer_libs import inverse_sigmoid

from petrflow.errors import PetrflowError
from petrflow.model import denoise, loss
from petrflow.model.dense_head import MonocularHead, Sight
from petrflow.model.dense_targets import Grid, cell_targets
from petrflow.model.tokens import (
    boldest,
    cell_padding,
    frustum,
    image_sines,
    pick,
    pointwise,
    sine_embedding,
    wavelengths,
)

STILL = 1e-4
"""Seconds: two frames closer than this in time tell nothing about velocity."""


class PetrV2Head(petr_head.PETRHead):
    """PETRHead without its fixed sizes and faults; without ``monocular`` its parameters' names and shapes are upstream's.

    Parameters
    ----------
    embed_dims : int
        Channels of tokens and queries; upstream fixes 256.
    num_pred : int
        Decoder layers; upstream fixes 6 and dies with an IndexError beyond that.
    reference_height : (low, high), optional
        Where reference points start within the height range, 0 to 1; upstream spreads them over all of it.
    monocular : float
        Weight of the loss of a dense head that finds boxes cell by cell; keys and values then carry what it sees. 0, as
        upstream: there is no such head.
    proposals : int
        Of the ``num_query`` queries, how many start from the dense head's boldest cells.
    keys : int
        Of each frame's cells, how many of the boldest the decoder attends to, at most; fine feature maps are mostly road and sky. 0: all.
    point_prior : sequence of floats, optional
        One strength per attention head: by how much attention logits are lowered for each metre between a query's reference
        point and the box that a cell sees. A small model otherwise takes long to find out where to look. 0 leaves a head free.
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
                "proposals, keys and point_prior need monocular above 0: they are about what that head sees"
            )
        if proposals and proposals >= arguments.get("num_query", 100):
            raise ValueError(f"proposals is {proposals}: num_query must be more, some reference points are learned")
        self.reference_height = reference_height
        self.monocular_weight, self.num_proposals, self.point_prior = monocular, proposals, point_prior
        self.num_keys = keys
        super().__init__(**arguments)
        self._constants: dict[str, Tensor] = {}
        # Upstream keeps float32 epsilon as a loose tensor here. Under PIR (Paddle 3.x) such a tensor reaches an exported
        # graph without data ("Tensor holds no memory" on loading); the losses below do without it.
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
            self.monocular = MonocularHead(self.embed_dims, self.num_classes)

    def constant(self, name: str, make: Callable[[], np.ndarray]) -> Tensor:
        """Return a constant tensor, made once."""
        if name not in self._constants:
            if not paddle.in_dynamic_mode():
                raise RuntimeError(
                    f"{name} is unknown while tracing: run the model once on inputs of this shape before"
                )
            self._constants[name] = paddle.to_tensor(make())
        return self._constants[name]

    def register_constants(self) -> None:
        """Make buffers of the constants made so far, which an exported graph then carries; ``state_dict`` leaves them out.

        Under PIR (Paddle 3.x) a tensor that is neither parameter nor buffer reaches an exported graph without its data:
        saving dies with ``KeyError: 'generated_tensor_…'``, or loading with "Tensor holds no memory".
        """
        for name, tensor in self._constants.items():
            self.register_buffer(f"constant_{name}", tensor, persistable=False)

    def init_weights(self) -> None:
        """Draw the initial weights as upstream does, but for the reference points' heights where the config says so."""
        super().init_weights()
        if self.reference_height is not None:
            low, high = self.reference_height
            points = self.reference_points.weight.numpy()
            points[:, 2] = low + (high - low) * points[:, 2]
            self.reference_points.weight.set_value(points)

    # -- where tokens are -------------------------------------------------------------------------------------------

    def depths(self) -> np.ndarray:
        """Return (D,) float32: how far along a cell's ray its points lie, m."""
        index = np.arange(self.depth_num, dtype="float32")
        reach = self.position_range[3] - self.depth_start
        if self.LID:
            return self.depth_start + reach / (self.depth_num * (1 + self.depth_num)) * index * (index + 1)
        return self.depth_start + reach / self.depth_num * index

    def point_embedding(
        self, img2lidar: Tensor, cells: Sequence[int], pad_shape: Sequence[int], chosen: Tensor | None = None
    ) -> Tensor:
        """Embed where each cell's ray runs: (B, 2N, 4, 4) -> (B, 2N * h * w, E), or of the ``chosen`` cells only.

        Upstream tiles a 4x4 matrix to every cell and depth bin and multiplies hundreds of thousands of 4x4 by 4x1;
        one product over all points gives the same numbers.
        """
        batch, images = img2lidar.shape[:2]
        low, high = np.split(np.asarray(self.position_range, "float32"), 2)
        name = "frustum_{}_{}_{}_{}".format(*cells, *pad_shape)
        points = self.constant(name, lambda: frustum(cells, pad_shape, self.depths()))
        matrix = img2lidar[:, :, :3, :].reshape([batch * images, 3, 4])
        points = paddle.matmul(points, matrix, transpose_y=True)
        points = (points - self.constant("position_low", lambda: low)) / self.constant(
            "position_size", lambda: high - low
        )
        points = points.reshape([batch, -1, self.depth_num * 3])
        encoded = inverse_sigmoid(pick(points, chosen))
        encoded.stop_gradient = True
        return pointwise(self.position_encoder[2], F.relu(pointwise(self.position_encoder[0], encoded)))

    def look(self, tokens: Tensor, img2lidar: Tensor, grid: Grid) -> Sight:
        """Return what the dense head sees in tokens (B, 2N * cells, E)."""
        low, high = np.split(np.asarray(self.pc_range, "float32"), 2)
        pixels = self.constant(f"pixels_{grid}".replace(".", "_"), grid.centres)
        low_corner = self.constant("range_low", lambda: low)
        return self.monocular(
            tokens, img2lidar, grid, pixels, low_corner, self.constant("range_size", lambda: high - low)
        )

    def point_bias(self, reference: Tensor, points: Tensor) -> Tensor:
        """Return what ``point_prior`` adds to the attention logits: (B, heads, Q, T).

        Parameters
        ----------
        reference : (B or 1, Q, 3) float32
            Reference points, 0 to 1 within the detection range.
        points : (B, T, 3) float32
            Centres of what the cells see, likewise. Heights do not count.
        """
        low, high = np.split(np.asarray(self.pc_range, "float32"), 2)
        size = self.constant("level_size", lambda: (high - low)[:2])
        reference, points = reference.detach()[..., :2] * size, points.detach()[..., :2] * size
        # Differences first: squares of 50 m cancel to errors of centimetres, which an exported graph makes otherwise.
        across = reference.unsqueeze(2) - points.unsqueeze(1)
        distance = ((across * across).sum(-1) + 0.25).sqrt().unsqueeze(1)
        strength = self.constant("point_prior", lambda: np.asarray(self.point_prior, "float32").reshape(1, -1, 1, 1))
        return -distance * strength

    def attended(self, sight: Sight) -> tuple[Tensor, int]:
        """Return what decides which cells are attended to: a heat (2B, T / 2) of each frame, and how many of each row are taken."""
        heat = sight.logits.detach().max(axis=-1).reshape([-1, sight.current])
        return heat, min(self.num_keys, sight.current)

    def margin(self, sight: Sight) -> float:
        """Return by how much the last cell chosen outdoes the first that is not: below rounding, another device chooses that one."""
        margin = math.inf
        for heat, count in (self.attended(sight), (self.monocular.peaks(sight), self.num_proposals)):
            if 0 < count < heat.shape[1]:
                best = -np.sort(-heat.numpy(), axis=-1)
                margin = min(margin, float((best[:, count - 1] - best[:, count]).min()))
        return margin

    def image_embedding(
        self, where: tuple[int, int, int], padding: np.ndarray | None, chosen: Tensor | None = None
    ) -> Tensor:
        """Embed image number, row and column of (2N, h, w) cells: (1, 2N * h * w, E), the same for every sample; or (B, K, E)."""
        name = "sines_{}_{}_{}_{}".format(*where, padding is not None)
        sines = self.constant(name, lambda: image_sines(where, padding, self.positional_encoding))
        return pointwise(self.adapt_pos3d[2], F.relu(pointwise(self.adapt_pos3d[0], pick(sines, chosen))))

    def embed_points(self, points: Tensor) -> Tensor:
        """Embed points (..., 3), 0 to 1 within the detection range, as queries' positions are: (..., E)."""
        frequencies = self.constant(
            "frequencies", lambda: (2 * math.pi / wavelengths(self.embed_dims // 2)).astype("float32")
        )
        return self.query_embedding(sine_embedding(points, frequencies))

    def keys(
        self,
        tokens: Tensor,
        img2lidar: Tensor,
        where: tuple[int, int, int],
        pad_shape: Sequence[int],
        image_shape: Sequence[int],
        chosen: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return what the decoder attends to: tokens (B, K, E), their positions (B, K, E) and what padding adds to attention.

        Parameters
        ----------
        tokens : (B, 2N * h * w, E) float32
        img2lidar, pad_shape, image_shape
            As :meth:`decode_queries`.
        where : (2N, h, w)
        chosen : (B, K) int64, optional
            As :func:`pick` takes it.
        """
        keys = pick(tokens, chosen)
        positions = self.point_embedding(img2lidar, where[1:], pad_shape, chosen)
        if self.with_fpe:
            gate = pointwise(self.fpe.conv_expand, F.relu(pointwise(self.fpe.conv_reduce, keys)))
            positions = positions * F.sigmoid(gate)
        padding = cell_padding(where, pad_shape, image_shape)
        positions = positions + self.image_embedding(where, padding, chosen)
        if padding is None:
            return keys, positions, None
        name = "padding_{}_{}_{}".format(*where)
        return keys, positions, self.constant(name, lambda: padding.reshape(1, 1, 1, -1) * np.float32(-1e9))

    # -- forward ----------------------------------------------------------------------------------------------------

    def decode_queries(
        self,
        features: Tensor,
        img2lidar: Tensor,
        timestamps: Tensor,
        pad_shape: Sequence[int],
        image_shape: Sequence[int],
        denoising: denoise.DenoisingQueries | None = None,
    ) -> tuple[Tensor, Tensor, Sight | None]:
        """Return the class logits (L, B, Q, C) and box codes (L, B, Q, 10) of all decoder layers, and what the dense head sees.

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
            When the dense head would look at padding.
        """
        batch, images, channels, height, width = features.shape
        tokens = features.reshape([batch, images, channels, height * width]).transpose([0, 1, 3, 2])
        tokens = pointwise(self.input_proj, tokens.reshape([batch, -1, channels]))
        sight, chosen = None, None
        if self.monocular_weight:
            if tuple(pad_shape) != tuple(image_shape):
                raise PetrflowError(
                    f"monocular above 0 finds boxes in every cell, and images of {tuple(image_shape)} are padded to {tuple(pad_shape)}: "
                    "give an input.image_size of multiples of input.size_divisor."
                )
            sight = self.look(tokens, img2lidar, Grid.over(height, width, pad_shape))
            if self.num_keys:
                chosen = boldest(*self.attended(sight), sight.current).reshape([batch, -1])

        where = (images, height, width)
        keys, positions, cross_bias = self.keys(tokens, img2lidar, where, pad_shape, image_shape, chosen)
        reference, start = self.reference_points.weight.unsqueeze(0), None
        if sight is not None:
            seeing, points = self.monocular.embedding(sight), pick(sight.points, chosen)
            keys = keys + pick(seeing, chosen)
            positions = positions + self.embed_points(points.detach())
            if self.num_proposals:
                start = self.monocular.proposals(sight, tokens + seeing, self.num_proposals).followed_by(reference)
                reference = start.reference
        self_bias = None
        if denoising is not None:
            shaken = paddle.to_tensor(denoising.reference)
            reference = paddle.concat([shaken, reference.expand([batch, -1, -1])], axis=1)
            self_bias = paddle.to_tensor(denoising.blocked.astype("float32") * np.float32(-1e9))
            start = None if start is None else start.after(shaken.shape[1])
        if self.point_prior is not None:
            cross_bias = self.point_bias(reference, points)
        content = None if start is None else start.content
        decoded = self.transformer(keys, positions, self.embed_points(reference), self_bias, cross_bias, content)
        logits = paddle.stack([branch(decoded[level]) for level, branch in enumerate(self.cls_branches)])
        codes = paddle.stack([branch(decoded[level]) for level, branch in enumerate(self.reg_branches)])
        if start is not None:
            logits, codes = logits + start.logits, codes + start.codes
        return logits, self.place(codes, reference, timestamps), sight

    def place(self, codes: Tensor, reference: Tensor, timestamps: Tensor) -> Tensor:
        """Turn offsets from the reference points into metres and displacements between frames into velocities."""
        low, high = np.split(np.asarray(self.pc_range, "float32"), 2)
        centre = paddle.concat([codes[..., 0:2], codes[..., 4:5]], axis=-1)
        centre = F.sigmoid(centre + inverse_sigmoid(reference))
        centre = centre * self.constant("range_size", lambda: high - low) + self.constant("range_low", lambda: low)
        # Upstream reshapes to [-1, 6]: six cameras and no other number.
        batch, images = timestamps.shape
        halves = timestamps.reshape([batch, 2, images // 2])
        between = (halves[:, 1] - halves[:, 0]).mean(-1).reshape([1, batch, 1, 1])
        # Upstream divides by this time as it is: two frames of one time give inf, and NaN losses. They show no motion.
        moving = (between.abs() > STILL).astype("float32")
        velocity = codes[..., 8:] / (between * moving + (1 - moving)) * moving
        return paddle.concat([centre[..., :2], codes[..., 2:4], centre[..., 2:], codes[..., 5:8], velocity], axis=-1)

    def denoising_queries(
        self, boxes: Sequence[np.ndarray], labels: Sequence[np.ndarray], rng: np.random.Generator
    ) -> denoise.DenoisingQueries | None:
        """Shake the true boxes of a batch (gravity centres, Paddle3D order); None without ``with_denoise``."""
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
        """Return the losses of all queries by their upstream names; arguments as :meth:`decode_queries` returns and takes them."""
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
        sight: Sight,
        boxes: Sequence[np.ndarray],
        labels: Sequence[np.ndarray],
        img2lidar: np.ndarray,
        timestamps: np.ndarray,
    ) -> dict[str, Tensor]:
        """Return the losses of the dense head; ``img2lidar`` and ``timestamps`` as the network gets them, on the host."""
        count = timestamps.shape[1] // 2
        between = timestamps[:, count:].mean(-1) - timestamps[:, :count].mean(-1)
        targets = [
            cell_targets(b, label, matrices[:count], sight.grid, float(time))
            for b, label, matrices, time in zip(boxes, labels, img2lidar, between, strict=True)
        ]
        cls, box = self.monocular.losses(sight, targets)
        weight = self.monocular_weight
        return {"monocular_loss_cls": cls * weight, "monocular_loss_bbox": box * (weight * self.loss_bbox.loss_weight)}
