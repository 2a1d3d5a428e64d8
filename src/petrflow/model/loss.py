"""Set matching and the losses of all decoder layers at once: one transfer to the host a step, no
loop over slices.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import paddle
from paddle import Tensor, nn
from scipy.optimize import linear_sum_assignment

from petrflow.machine.processes import mean_over_devices
from petrflow.model.box_codes import encode
from petrflow.model.denoise import DenoisingQueries

CLASS_COST, BOX_COST = 2.0, 0.25
FOCAL_ALPHA, FOCAL_GAMMA = 0.25, 2.0
"""Weights of the matching cost; Paddle3D's HungarianAssigner3D fixes them in its code."""


def regression_targets(codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Split encoded boxes into targets and weights, both (K, 10) float32.

    A box of unknown velocity keeps every other term and loses the velocity's; upstream drops the
    whole box from the regression loss (1.0.0), so that a data set without velocities trains no box
    at all. A box with any other non-finite term is dropped, as upstream does.
    """
    finite = np.isfinite(codes)
    weights = finite.astype("float32") * finite[:, :8].all(axis=1, keepdims=True)
    # One unknown component makes the whole velocity unknown.
    weights[:, 8:] *= finite[:, 8:].all(axis=1, keepdims=True)
    return np.where(weights > 0, codes, 0).astype("float32"), weights


def match(
    logits: np.ndarray, predicted: np.ndarray, codes: np.ndarray, labels: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Assign queries to boxes one to one at least cost; returns (query indices, box indices).

    Parameters
    ----------
    logits : (Q, C) float32
    predicted : (Q, 10) float32, encoded
    codes : (M, 10) float32, encoded
    labels : (M,) int64
    """
    probability = 1 / (1 + np.exp(-logits.astype("float32")))
    negative = -np.log(1 - probability + 1e-12) * (1 - FOCAL_ALPHA) * probability**FOCAL_GAMMA
    positive = -np.log(probability + 1e-12) * FOCAL_ALPHA * (1 - probability) ** FOCAL_GAMMA
    cost = CLASS_COST * (positive - negative)[:, labels]
    distance = np.zeros_like(cost)
    for term in range(8):  # the velocity takes no part, as upstream has it
        distance += np.abs(predicted[:, term, None] - codes[None, :, term])
    cost = cost + BOX_COST * distance
    return linear_sum_assignment(np.nan_to_num(cost, nan=100.0, posinf=100.0, neginf=-100.0))


def _classification(loss: nn.Layer, logits: Tensor, labels: np.ndarray, average: float) -> Tensor:
    """Focal loss of each decoder layer, (L,); ``labels`` (L, K) int64 with background = C."""
    levels, _, classes = logits.shape
    each = loss(logits.reshape([-1, classes]), paddle.to_tensor(labels.reshape(-1)), reduction_override="none")
    return _sum_levels(each.reshape([levels, -1])) / average


def _regression(loss: nn.Layer, codes: Tensor, targets: np.ndarray, weights: Tensor, average: float) -> Tensor:
    """L1 loss of each decoder layer, (L,); ``codes`` (L, K, 10), ``targets`` (L or 1, K, 10)."""
    difference = (codes - paddle.to_tensor(targets)).abs() * weights
    return _sum_levels(difference) * (loss.loss_weight / average)


def _sum_levels(values: Tensor) -> Tensor:
    # Paddle 3.3.1 on CPU adds up one after the other along an axis, 1e-5 off; a whole tensor it
    # adds up pairwise.
    return paddle.stack([level.sum() for level in values.unbind(0)])


def matching_losses(
    head: nn.Layer, logits: Tensor, codes: Tensor, boxes: Sequence[np.ndarray], labels: Sequence[np.ndarray]
) -> tuple[Tensor, Tensor]:
    """Classification and box loss of each decoder layer, (L,) each.

    Parameters
    ----------
    head : PETRHead
        For its loss functions, weights and class count.
    logits : (L, B, Q, C) float32
    codes : (L, B, Q, 10) float32
    boxes : B arrays (M, 9) float32
        Centred PETR boxes.
    labels : B arrays (M,) int64
    """
    levels, batch, queries, _ = logits.shape
    encoded = [encode(b) for b in boxes]
    # The only transfer to the host in a step: upstream makes four for every layer and sample.
    both = paddle.concat([logits, codes], axis=-1).detach().numpy()
    host_logits, host_codes = both[..., : logits.shape[-1]], both[..., logits.shape[-1] :]
    assigned = np.full((levels, batch, queries), head.num_classes, dtype="int64")
    rows, targets = [], []
    for level in range(levels):
        for sample, (truth, classes) in enumerate(zip(encoded, labels, strict=True)):
            if not len(truth):
                continue
            query, box = match(host_logits[level, sample], host_codes[level, sample], truth, classes)
            assigned[level, sample, query] = classes[box]
            rows.append((level * batch + sample) * queries + query)
            targets.append(truth[box])
    positives = sum(min(queries, len(b)) for b in boxes)
    # Before any return: processes that wait for each other must ask equally often, whoever has no
    # boxes.
    everywhere = max(mean_over_devices(float(positives)), 1.0)
    average = everywhere if head.sync_cls_avg_factor else max(float(positives), 1.0)
    loss_cls = _classification(head.loss_cls, logits.flatten(1, 2), assigned, average)
    if not positives:
        return loss_cls, codes.sum(axis=[1, 2, 3]) * 0.0
    target, weight = regression_targets(np.concatenate(targets))
    # Upstream writes targets into slices of a (Q, 10) tensor; on Paddle 3.2.2 and 3.3.1 an
    # index-put into such a strided view writes out of bounds ("double free or corruption").
    # Gathering the matched rows needs no write at all.
    matched = paddle.gather(codes.reshape([-1, codes.shape[-1]]), paddle.to_tensor(np.concatenate(rows)))
    shape = [levels, positives, -1]
    weights = (paddle.to_tensor(weight) * head.code_weights).reshape(shape)
    return loss_cls, _regression(head.loss_bbox, matched.reshape(shape), target.reshape(shape), weights, everywhere)


def denoising_losses(head: nn.Layer, logits: Tensor, codes: Tensor, queries: DenoisingQueries) -> tuple[Tensor, Tensor]:
    """Classification and box loss of the denoising queries in each decoder layer, (L,) each.

    Parameters
    ----------
    head : PETRHead
    logits : (L, B, P, C) float32
    codes : (L, B, P, 10) float32
    queries : DenoisingQueries
    """
    levels, _, padding, _ = logits.shape
    rows = paddle.to_tensor(queries.batch_index * padding + queries.slot)
    total = float(len(queries.labels))
    average = total * 3.14159 / 6 * head.split**3
    average = max(mean_over_devices(average) if head.sync_cls_avg_factor else average, 1.0)
    known_logits = paddle.index_select(logits.flatten(1, 2), rows, axis=1)
    known_codes = paddle.index_select(codes.flatten(1, 2), rows, axis=1)
    # Upstream passes int64 label weights here, which Paddle 3.x refuses to multiply with float32;
    # they are all one.
    loss_cls = _classification(head.loss_cls, known_logits, np.tile(queries.labels, (levels, 1)), average)
    target, weight = regression_targets(encode(queries.boxes))
    weight[:, 6:8] = 0  # upstream leaves the heading out of denoising
    weights = paddle.to_tensor(weight[None]) * head.code_weights
    total = max(mean_over_devices(total), 1.0)
    loss_bbox = _regression(head.loss_bbox, known_codes, target[None], weights, total)
    return head.dn_weight * loss_cls, head.dn_weight * loss_bbox


def named(prefix: str, loss_cls: Tensor, loss_bbox: Tensor) -> dict[str, Tensor]:
    """Name the losses as upstream does: the last layer plainly, the others with ``d0.``, ``d1.``
    …
    """
    losses: dict[str, Tensor] = {}
    last = loss_cls.shape[0] - 1
    for level, (cls, bbox) in enumerate(zip(loss_cls.unbind(0), loss_bbox.unbind(0), strict=True)):
        start = prefix if level == last else f"d{level}.{prefix}"
        losses[f"{start}loss_cls"], losses[f"{start}loss_bbox"] = cls, bbox
    return losses
