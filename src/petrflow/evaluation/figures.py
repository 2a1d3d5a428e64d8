"""From matched detections to figures: average precision, errors of true positives, mAP and NDS."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from petrflow.evaluation.protocol import ERRORS, Protocol

RECALLS = np.linspace(0, 1, 101)
"""The recalls at which precision is read."""


@dataclass(frozen=True)
class ClassFigures:
    """What one class reached on some keyframes.

    Attributes
    ----------
    truths : int
        Labelled boxes that count.
    aps : (T,) float64
        Average precision at each distance threshold.
    errors : (5,) float64
        In the order of :data:`ERRORS`; NaN where an error means nothing for the class.
    """

    truths: int
    aps: np.ndarray
    errors: np.ndarray


def class_figures(
    name: str, score: np.ndarray, hit: np.ndarray, errors: np.ndarray, truths: int, protocol: Protocol
) -> ClassFigures:
    """Return the figures of a class.

    Parameters
    ----------
    name : str
        The class.
    score : (n,) float64
        Of its detections, the highest first.
    hit : (n, T) bool
        Whether a detection matches at each distance threshold.
    errors : (m, 5) float64
        Errors of the detections that match at the protocol's ``error_threshold``, in the same
        order.
    truths : int
        Labelled boxes that count.
    """
    thresholds = protocol.distance_thresholds
    aps, means = np.zeros(len(thresholds)), np.ones(len(ERRORS))
    number = np.arange(1.0, len(score) + 1)
    for k, threshold in enumerate(thresholds):
        hits = np.cumsum(hit[:, k], dtype=np.float64)
        if truths == 0 or len(hits) == 0 or hits[-1] == 0:
            continue
        recall = hits / float(truths)
        precision = np.interp(RECALLS, recall, hits / number, right=0)
        aps[k] = _average_precision(precision, protocol)
        if threshold == protocol.error_threshold:
            confidence = np.interp(RECALLS, recall, score, right=0)
            means = _mean_errors(confidence, score[hit[:, k]], errors, protocol)
    for k, error in enumerate(ERRORS):
        if error in protocol.undefined_errors.get(name, ()):
            means[k] = np.nan
    return ClassFigures(truths, aps, means)


def _average_precision(precision: np.ndarray, protocol: Protocol) -> float:
    above = precision[round(100 * protocol.min_recall) + 1 :] - protocol.min_precision
    return float(np.mean(np.maximum(above, 0))) / (1.0 - protocol.min_precision) if len(above) else math.nan


def _mean_errors(confidence: np.ndarray, score: np.ndarray, errors: np.ndarray, protocol: Protocol) -> np.ndarray:
    """Return the mean of each error over the recalls above the least and up to the highest that was
    reached: (5,).
    """
    first = round(100 * protocol.min_recall) + 1
    reached = np.flatnonzero(confidence)
    last = int(reached[-1]) if len(reached) else 0
    if last < first:
        return np.ones(len(ERRORS))
    # Interpolation needs ascending scores, so both go backwards.
    wanted, known, curves = confidence[first : last + 1], score[::-1], _means_so_far(errors)[::-1]
    return np.array([np.mean(np.interp(wanted, known, curves[:, k])) for k in range(len(ERRORS))])


def _means_so_far(values: np.ndarray) -> np.ndarray:
    """Return the mean of each column up to each row, without NaN; 0 before the first known value, 1
    where none is known.
    """
    known = ~np.isnan(values)
    count = np.cumsum(known, axis=0)
    means: np.ndarray = np.divide(
        np.cumsum(np.where(known, values, 0.0), axis=0), count, out=np.zeros(values.shape), where=count != 0
    )
    means[:, ~known.any(axis=0)] = 1.0
    return means


def combine(classes: Mapping[str, ClassFigures], protocol: Protocol) -> dict[str, Any]:
    """Return the figures of all classes in the form of the devkit's ``metrics_summary.json``."""
    label_aps = {
        name: dict(zip(protocol.distance_thresholds, one.aps.tolist(), strict=True)) for name, one in classes.items()
    }
    mean_dist_aps = {name: float(np.mean(one.aps)) for name, one in classes.items()}
    mean_ap = float(np.mean(list(mean_dist_aps.values())))
    label_errors = {name: dict(zip(ERRORS, one.errors.tolist(), strict=True)) for name, one in classes.items()}
    tp_errors = {
        error: _known_mean(np.array([one.errors[k] for one in classes.values()])) for k, error in enumerate(ERRORS)
    }
    tp_scores = {error: max(0.0, 1.0 - value) for error, value in tp_errors.items()}
    weight = protocol.mean_ap_weight
    return {
        "label_aps": label_aps,
        "mean_dist_aps": mean_dist_aps,
        "mean_ap": mean_ap,
        "label_tp_errors": label_errors,
        "tp_errors": tp_errors,
        "tp_scores": tp_scores,
        "nd_score": float(weight * mean_ap + sum(tp_scores.values())) / float(weight + len(tp_scores)),
    }


def _known_mean(values: np.ndarray) -> float:
    known = values[~np.isnan(values)]
    # No class has this error: 1, as the devkit counts what is not known.
    return float(np.mean(known)) if len(known) else 1.0
