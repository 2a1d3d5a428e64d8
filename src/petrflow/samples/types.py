"""What a model is given and what it gives: samples, batches, detections."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NotRequired, Protocol, TypedDict

import numpy as np


class Sample(TypedDict):
    """One keyframe and a frame before it, as :meth:`petrflow.samples.dataset.PetrDataset.load`
    makes it. N cameras, M boxes.

    Attributes
    ----------
    img : (2N, 3, H, W) float32
        BGR, normalised; first the N cameras of the keyframe, then those of the frame before.
    lidar2img, intrinsics : (2N, 4, 4) float32
        After augmentation, to pixels of ``img``.
    timestamp : (2N,) float32
        Seconds by which each picture is older than the keyframe.
    token : str
    gt_bboxes_3d : (M, 9) float32
        In training only: PETR boxes (:mod:`petrflow.model.box_codes`) in the lidar frame after
        augmentation, m, rad and m/s; velocity NaN where unknown.
    gt_labels_3d : (M,) int64
        In training only: indices into ``class_names``.
    """

    img: np.ndarray
    lidar2img: np.ndarray
    intrinsics: np.ndarray
    timestamp: np.ndarray
    token: str
    gt_bboxes_3d: NotRequired[np.ndarray]
    gt_labels_3d: NotRequired[np.ndarray]


@dataclass(frozen=True)
class Detections:
    """Detections of one keyframe.

    Attributes
    ----------
    boxes : (K, 9) float
        x, y, z of the centre, width, length, height (m), yaw (rad), vx, vy (m/s), in the keyframe's
        lidar frame and nuScenes' order.
    scores : (K,) float
        Confidence, 0 to 1. A model gives the highest first.
    labels : (K,) int
        Index into ``class_names``.
    attributes : sequence of str, optional
        nuScenes attribute names; chosen from class and speed when absent.
    """

    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    attributes: Sequence[str] | None = None


class Batch(TypedDict):
    """B samples: arrays of one shape are stacked, the others are lists; see :class:`Sample`."""

    img: np.ndarray
    lidar2img: np.ndarray
    intrinsics: np.ndarray
    timestamp: np.ndarray
    token: list[str]
    gt_bboxes_3d: NotRequired[list[np.ndarray]]
    gt_labels_3d: NotRequired[list[np.ndarray]]


class Predicts(Protocol):
    """A model, trained in this process or exported, as those see it who only want its
    detections.
    """

    def predict(self, batch: Batch) -> list[Detections]:
        """Return the detections of every sample of a batch, best first."""
