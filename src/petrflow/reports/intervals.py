"""Confidence intervals of a figure's change, by a bootstrap over scenes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from petrflow.evaluation.expectations import ERROR_NAMES

RESAMPLES = 2000
"""Number of bootstrap samples of the scenes."""

FEWEST_SCENES = 5
"""With fewer scenes no interval is given: there are too few different draws."""


@dataclass(frozen=True)
class Interval:
    """The range in which 95 % of the resampled mean changes lie.

    Attributes
    ----------
    low, high : float
        In the unit of the figure.
    scenes : int
        How many scenes it comes from.
    """

    low: float
    high: float
    scenes: int

    @property
    def within_noise(self) -> bool:
        """Whether no change at all lies in the range."""
        return self.low <= 0.0 <= self.high


def of_metric(
    before: Mapping[str, Any] | None, after: Mapping[str, Any] | None, name: str, label: str | None = None
) -> Interval | None:
    """Return the interval of a figure's change between two ``metrics.json``; None without enough
    scenes in both.

    Parameters
    ----------
    before, after : mapping
        Figures with ``scenes``: scene -> its own figures.
    name : str
        A metric, or ``AP`` with the class ``label``.
    """
    old, new = (before or {}).get("scenes") or {}, (after or {}).get("scenes") or {}
    changes, weights = [], []
    for scene in sorted(old.keys() & new.keys()):
        first, second = (_of_scene(scenes[scene], name, label) for scenes in (old, new))
        if first is not None and second is not None:
            changes.append(second - first)
            weights.append(float(new[scene].get("ground_truth") or 1.0))
    return bootstrap(np.array(changes), np.array(weights))


def bootstrap(changes: np.ndarray, weights: np.ndarray) -> Interval | None:
    """Return the interval of the weighted mean of paired changes.

    Parameters
    ----------
    changes : (S,) float64
        After minus before, by scene.
    weights : (S,) float64
        Number of labelled boxes of each scene.
    """
    count = len(changes)
    if count < FEWEST_SCENES:
        return None
    drawn = np.random.default_rng(0).integers(count, size=(RESAMPLES, count))
    means = (changes[drawn] * weights[drawn]).sum(axis=1) / weights[drawn].sum(axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    return Interval(float(low), float(high), count)


def _of_scene(scene: Mapping[str, Any], name: str, label: str | None) -> float | None:
    """Return a figure of one scene; mAP is over the classes that the scene has, NDS over the errors
    that it has.
    """
    if label is not None:
        return (scene.get("AP") or {}).get(label)
    precision = scene.get("mAP_present_classes")
    if name in ("mAP", "mAP_present_classes"):
        return precision
    if name in ("NDS", "NDS_available_terms"):
        if precision is None:
            return None
        errors = [value for key in ERROR_NAMES.values() if (value := scene.get(key)) is not None]
        total = 5.0 * precision + sum(1.0 - min(1.0, error) for error in errors)
        return float(total / (5.0 + len(errors)))
    figure: float | None = scene.get(name)
    return figure
