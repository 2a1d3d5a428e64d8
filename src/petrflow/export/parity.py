"""Does an exported model give the boxes of the eager one?"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import paddle
from scipy.optimize import linear_sum_assignment

from petrflow.model import PetrV2
from petrflow.model.box_codes import decode
from petrflow.model.petr import network_inputs
from petrflow.samples.dataset import PetrDataset

TOLERANCE = 1e-3
"""Largest difference between exported and eager model, relative to the number or to the scale
below, whichever is larger.
"""
BOX_SCALE, SCORE_SCALE = 1.0, 1e-2
STEADY, CANDIDATES = 1e-4, 10
"""Gap in logits above which rounding changes no selection of cells, and how many samples are tried
for one that has it.
"""


@dataclass(frozen=True)
class Parity:
    """Largest differences between two models over some samples, before the choice of the best
    boxes.
    """

    boxes: float
    scores: float

    @property
    def holds(self) -> bool:
        """Whether both stay within the tolerance (NaN does not)."""
        return self.boxes <= TOLERANCE and self.scores <= TOLERANCE


@dataclass(frozen=True)
class Sample:
    """What the eager model makes of one sample.

    Attributes
    ----------
    index : int
        In the data set.
    inputs : of the network.
    outputs : class logits (1, Q, C) and box codes (1, Q, 10) of the last decoder layer.
    selection_gap : float
        As :meth:`petrflow.model.head.PetrV2Head.selection_gap`; infinite without a dense head.
    """

    index: int
    inputs: tuple[np.ndarray, ...]
    outputs: tuple[np.ndarray, np.ndarray]
    selection_gap: float


def run_eager(model: PetrV2, dataset: PetrDataset, index: int) -> Sample:
    """Run the eager model on one sample."""
    inputs = network_inputs(_batch_of_one(dataset.load(index)))
    with paddle.no_grad():
        logits, codes, cells = model.all_outputs(*(paddle.to_tensor(array) for array in inputs))
    gap = math.inf if cells is None else model.pts_bbox_head.selection_gap(cells)
    return Sample(index, inputs, (logits[-1].numpy(), codes[-1].numpy()), gap)


def steady_sample(model: PetrV2, dataset: PetrDataset, index: int) -> Sample:
    """Return the first sample from ``index`` on whose queries and keys do not depend on rounding,
    or the one of a few with the widest gap.

    The dense head's cells of the highest scores become queries and keys. Where the last selected
    cell and the best cell left out differ by less than rounding, an exact copy of the model may
    select the other, and no comparison of outputs would hold.
    """
    best: Sample | None = None
    for candidate in range(index, min(index + CANDIDATES, len(dataset))):
        sample = run_eager(model, dataset, candidate)
        if best is None or sample.selection_gap > best.selection_gap:
            best = sample
        if best.selection_gap > STEADY:
            break
    assert best is not None
    return best


def compare(expected: list[tuple[np.ndarray, np.ndarray]], actual: list[tuple[np.ndarray, np.ndarray]]) -> Parity:
    """Compare class logits and box codes of two models, as scores and as boxes, whatever order
    their queries have.

    Queries that start from the dense head's cells come in the order of their scores: the last digit
    decides between two equal ones.
    """
    boxes, scores = [], []
    for (logits, codes), unordered in zip(expected, actual, strict=True):
        other_logits, other_codes = _in_order_of((logits, codes), unordered)
        scores.append(_difference(_sigmoid(logits), _sigmoid(other_logits), SCORE_SCALE))
        # Without the yaw, which jumps at pi; its sine and cosine are compared in its place.
        box, other_box = (np.delete(decode(c), 6, axis=-1) for c in (codes, other_codes))
        boxes.append(_difference(box, other_box, BOX_SCALE))
        boxes.append(_difference(codes[..., 6:8], other_codes[..., 6:8], BOX_SCALE))
    return Parity(boxes=float(np.max(boxes)), scores=float(np.max(scores)))


def _in_order_of(
    expected: tuple[np.ndarray, np.ndarray], actual: tuple[np.ndarray, np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Bring the queries of ``actual`` into the order of those of ``expected`` that they are nearest
    to.
    """
    ordered = []
    for sample in range(len(expected[0])):
        wanted, given = (np.concatenate([part[sample] for part in both], axis=-1) for both in (expected, actual))
        distance = np.nan_to_num(np.abs(wanted[:, None] - given[None]).sum(-1), nan=1e9, posinf=1e9)
        ordered.append(linear_sum_assignment(distance)[1])
    return tuple(np.stack([p[o] for p, o in zip(part, ordered, strict=True)]) for part in actual)  # type: ignore[return-value]


def _difference(expected: np.ndarray, actual: np.ndarray, scale: float) -> float:
    return float(np.max(np.abs(expected - actual) / np.maximum(np.abs(expected), scale)))


def _sigmoid(values: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-values.astype("float64")))


def _batch_of_one(sample: Mapping[str, Any]) -> dict[str, Any]:
    return {key: np.asarray(sample[key])[None] for key in ("img", "lidar2img", "timestamp")}
