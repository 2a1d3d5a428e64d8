"""Image cells as tokens: where each one is, what its position embedding is made of, and how some
are picked.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn


def pointwise(convolution: nn.Layer, tokens: Tensor) -> Tensor:
    """Apply a 1x1 Conv2D to (..., C) tokens: one matrix product, no change of layout."""
    return F.linear(tokens, convolution.weight.flatten(1).t(), convolution.bias)


def pick(tokens: Tensor, selected: Tensor | None) -> Tensor:
    """Return the selected tokens of (B, T, C) as (B, K, C); all of them without a selection.

    ``selected`` (B, K) int64 counts through the whole batch: token t of sample b is b * T + t. With
    tokens (1, T, C) that all samples share, t counts.
    """
    if selected is None:
        return tokens
    batch, keys = selected.shape
    rows = selected.reshape([-1])
    if tokens.shape[0] != batch:
        rows = rows % tokens.shape[1]
    return paddle.gather(tokens.flatten(0, 1), rows).reshape([batch, keys, tokens.shape[-1]])


def top_cells(scores: Tensor, count: int, stride: int) -> Tensor:
    """Return (G, count) int64: the cells of the highest scores in each row of ``scores`` (G, T), as
    :func:`pick` takes them.

    ``stride`` is the distance between the first tokens of two rows in the flattened batch. It is T,
    or larger if only the first T tokens of a row are candidates.
    """
    starts = paddle.arange(scores.shape[0], dtype="int64").unsqueeze(1) * stride
    return paddle.topk(scores, count)[1] + starts


def sine_embedding(position: Tensor, frequencies: Tensor) -> Tensor:
    """Embed points (..., 3), each 0 to 1, as (..., 3 * F) sines and cosines of F frequencies (rad),
    in the order y, x, z.
    """
    angle = position.unsqueeze(-1) * frequencies
    even, odd = angle[..., 0::2].sin(), angle[..., 1::2].cos()
    x, y, z = paddle.stack([even, odd], axis=-1).flatten(-2).unbind(-2)
    return paddle.concat([y, x, z], axis=-1)


def wavelengths(features: int, temperature: float = 10000.0) -> np.ndarray:
    """Return (features,) float32: what positions are divided by before their sines and cosines,
    each twice.
    """
    index = np.arange(features)
    return (temperature ** (2 * (index // 2) / features)).astype("float32")


def frustum(cells: Sequence[int], pad_shape: Sequence[int], depths: np.ndarray) -> np.ndarray:
    """Return (h * w * D, 4) float32: homogeneous image points (u d, v d, d, 1) of every cell and
    depth.

    Parameters
    ----------
    cells : (h, w)
    pad_shape : (height, width)
        Of the padded image, pixels.
    depths : (D,) float32
        m.
    """
    (height, width), (pad_height, pad_width) = cells, pad_shape
    columns = np.arange(width, dtype="float32") * pad_width / width
    rows = np.arange(height, dtype="float32") * pad_height / height
    v, u, d = np.meshgrid(rows, columns, depths.astype("float32"), indexing="ij")
    d_safe = np.maximum(d, np.float32(1e-5))
    return np.stack([u * d_safe, v * d_safe, d, np.ones_like(d)], axis=-1).reshape(-1, 4).astype("float32")


def image_sines(where: Sequence[int], padding: np.ndarray | None, encoding: nn.Layer) -> np.ndarray:
    """Return (1, 2N * h * w, 3 * num_feats) float32, SinePositionalEncoding3D's numbers for (2N, h,
    w) cells.
    """
    valid = np.ones(tuple(where), "float32") if padding is None else 1.0 - padding
    embeds = []
    for axis in range(3):
        embed = valid.cumsum(axis=axis, dtype="float32")
        if encoding.normalize:
            last = np.take(embed, [-1], axis=axis)
            embed = (embed + encoding.offset) / (last + encoding.eps) * encoding.scale
        angle = embed[..., None] / wavelengths(encoding.num_feats, encoding.temperature)
        embeds += [np.sin(angle[..., 0::2]), np.cos(angle[..., 1::2])]  # all sines, then all cosines
    return np.concatenate(embeds, axis=-1).reshape(1, valid.size, -1).astype("float32")


def cell_padding(where: Sequence[int], pad_shape: Sequence[int], image_shape: Sequence[int]) -> np.ndarray | None:
    """Return (2N, h, w) float32, 1 where a cell's image point is padding; None if nothing is
    padded.
    """
    if tuple(pad_shape) == tuple(image_shape):
        return None
    _, height, width = where
    mask = np.ones(tuple(pad_shape), "float32")
    mask[: image_shape[0], : image_shape[1]] = 0
    rows = (np.arange(height) * (pad_shape[0] / height)).astype(int)
    columns = (np.arange(width) * (pad_shape[1] / width)).astype(int)
    return np.broadcast_to(mask[rows][:, columns], tuple(where)).copy()
