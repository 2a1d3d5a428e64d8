"""The decoder of PETRv2, batch first; positions are added to keys once and not in every layer.
Parameters are Paddle3D's own.
"""

from __future__ import annotations

from typing import Any

import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn
from paddle.distributed.fleet.utils import recompute
from paddle3d.models.layers import petr_transformer


def attend(
    wrapper: nn.Layer, query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, residual: Tensor
) -> Tensor:
    """Multi-head attention with the weights of one of Paddle3D's attention wrappers, plus its
    residual.

    Parameters
    ----------
    wrapper : MultiHeadAttention or PETRMultiheadAttention
    query : (B, Q, E) float32, positions added
    key : (B, T, E) float32, positions added
    value : (B, T, E) float32
    bias : broadcastable to (B, heads, Q, T) float32 or None
        Added to the attention logits.
    residual : (B, Q, E) float32
    """
    attention = wrapper.attn
    heads, width = attention.num_heads, attention.head_dim

    def split(projected: Tensor) -> Tensor:
        return projected.reshape([0, 0, heads, width]).transpose([0, 2, 1, 3])

    q = split(attention.q_proj(query) * width**-0.5)
    weights = paddle.matmul(q, split(attention.k_proj(key)), transpose_y=True)
    if bias is not None:
        weights = weights + bias
    weights = F.softmax(weights)
    if attention.dropout and attention.training:
        weights = F.dropout(weights, attention.dropout)
    mixed = paddle.matmul(weights, split(attention.v_proj(value))).transpose([0, 2, 1, 3]).flatten(2)
    out = attention.out_proj(mixed)
    dropout = wrapper.dropout if hasattr(wrapper, "dropout") else wrapper.dropout_layer
    return residual + dropout(wrapper.proj_drop(out))


class DecoderLayer(petr_transformer.PETRTransformerDecoderLayer):
    """One decoder layer over batch-first tensors; takes keys with their positions already added."""

    def forward(
        self, query: Tensor, query_pos: Tensor, key: Tensor, value: Tensor, self_bias: Any, cross_bias: Any
    ) -> Tensor:
        """Return the next queries.

        Parameters
        ----------
        query, query_pos : (B, Q, E) float32
        key, value : (B, T, E) float32
        self_bias, cross_bias : broadcastable to (B, heads, Q, Q) and (B, heads, Q, T), or None
        """
        arguments = (query, query_pos, key, value, self_bias, cross_bias)
        if self.use_recompute and self.training:
            return recompute(self._forward, *arguments)
        return self._forward(*arguments)

    def _forward(
        self, query: Tensor, query_pos: Tensor, key: Tensor, value: Tensor, self_bias: Any, cross_bias: Any
    ) -> Tensor:
        attentions, norms, ffns = iter(self.attentions), iter(self.norms), iter(self.ffns)
        for operation in self.operation_order:
            if operation == "self_attn":
                placed = query + query_pos
                query = attend(next(attentions), placed, placed, query, self_bias, query)
            elif operation == "cross_attn":
                query = attend(next(attentions), query + query_pos, key, value, cross_bias, query)
            elif operation == "norm":
                query = next(norms)(query)
            else:
                query = next(ffns)(query)
        return query


class _BatchFirst:
    """Runs the decoder on batch-first tokens; shared by the two transformers, which differ in their
    initial weights.
    """

    decoder: nn.Layer

    def forward(
        self,
        tokens: Tensor,
        positions: Tensor,
        query_pos: Tensor,
        self_bias: Tensor | None,
        cross_bias: Tensor | None,
        content: Tensor | None = None,
    ) -> Tensor:
        """Return (L, B, Q, E) float32: the queries after each of the L decoder layers.

        Parameters
        ----------
        tokens, positions : (B, T, E) float32
            Image features and their position embedding.
        query_pos : (B or 1, Q, E) float32
        self_bias, cross_bias : float32, added to attention logits, or None
        content : (B, Q, E) float32, optional
            What the queries begin with; zeros, as upstream, without it.
        """
        batch = tokens.shape[0]
        key = tokens + positions
        query_pos = query_pos.expand([batch, -1, -1])
        query = paddle.zeros_like(query_pos) if content is None else content
        outputs = []
        for layer in self.decoder.layers:
            query = layer(query, query_pos, key, tokens, self_bias, cross_bias)
            outputs.append(query if self.decoder.post_norm is None else self.decoder.post_norm(query))
        return paddle.stack(outputs)


class Transformer(_BatchFirst, petr_transformer.PETRTransformer):
    """PETRTransformer, batch first."""


class DenoisingTransformer(_BatchFirst, petr_transformer.PETRDNTransformer):
    """PETRDNTransformer, batch first."""
