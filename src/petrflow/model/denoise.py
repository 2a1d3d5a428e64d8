"""Denoising queries: true boxes with noise on their centres, which the decoder must correct (numpy,
no device round trip).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class DenoisingQueries:
    """What denoising adds to one training step; ``P`` queries come before the learned ones.

    Attributes
    ----------
    reference : (B, P, 3) float32
        Centres with noise, 0 to 1 within the detection range; unused slots are 0.
    blocked : (P + Q, P + Q) bool
        True where a query (row) must not attend to another (column).
    batch_index, slot : (K,) int64
        Sample and slot of each of the K boxes.
    labels : (K,) int64
        Class, or ``num_classes`` (background) where the noise was too large.
    boxes : (K, 9) float32
        The true boxes, centred PETR boxes.
    """

    reference: np.ndarray
    blocked: np.ndarray
    batch_index: np.ndarray
    slot: np.ndarray
    labels: np.ndarray
    boxes: np.ndarray


def make_queries(
    boxes: Sequence[np.ndarray],
    labels: Sequence[np.ndarray],
    *,
    groups: int,
    num_query: int,
    num_classes: int,
    noise_scale: float,
    noise_trans: float,
    split: float,
    pc_range: Sequence[float],
    rng: np.random.Generator,
) -> DenoisingQueries | None:
    """Add noise to the true boxes of a batch; None when the batch holds no box.

    Parameters
    ----------
    boxes : B arrays (M, 9) float32
        Centred PETR boxes.
    labels : B arrays (M,) int
    groups : int
        Independent copies of all boxes.
    num_query, num_classes : int
    noise_scale, noise_trans : float
        A centre moves by at most ``noise_scale * (half the size + noise_trans)`` along each axis.
    split : float
        Boxes whose draw in [-1, 1]^3 is longer than this count as background.
    pc_range : 6 floats
        Detection range, m.
    rng : numpy Generator
    """
    counts = [len(b) for b in boxes]
    # Upstream divides by the largest count and dies with ZeroDivisionError on a batch without boxes
    # (1.0.0).
    if not sum(counts):
        return None
    longest = max(counts)
    padding = longest * groups
    true_boxes = np.tile(np.concatenate(boxes), (groups, 1)).astype("float32")
    known_labels = np.tile(np.concatenate(labels), groups).astype("int64")
    batch_index = np.tile(np.repeat(np.arange(len(counts)), counts), groups)
    within = np.concatenate([np.arange(n) for n in counts])
    slot = np.concatenate([within + longest * group for group in range(groups)])

    low, high = np.asarray(pc_range[:3], "float32"), np.asarray(pc_range[3:], "float32")
    draw = rng.random((len(true_boxes), 3), dtype="float32") * 2 - 1
    centre = true_boxes[:, :3] + draw * (true_boxes[:, 3:6] / 2 + noise_trans) * noise_scale
    known_labels[np.linalg.norm(draw, axis=1) > split] = num_classes

    reference = np.zeros((len(counts), padding, 3), "float32")
    reference[batch_index, slot] = np.clip((centre - low) / (high - low), 0, 1)
    group_of = np.concatenate([np.repeat(np.arange(groups), longest), np.full(num_query, -1)])
    blocked = (group_of[:, None] != group_of[None]) & (group_of[None] >= 0)
    return DenoisingQueries(reference, blocked, batch_index, slot, known_labels, true_boxes)
