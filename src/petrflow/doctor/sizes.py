"""Do boxes have the sizes, headings and places that things on a road have?"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from petrflow.annotations import Keyframe
from petrflow.doctor.findings import Finding, wrong_unit
from petrflow.nuscenes.names import TYPICAL_SIZES

_SHAPELESS = ("barrier", "traffic_cone", "construction_vehicle")
# Difference of log sizes, summed over the axes, beyond which another order of axes is no accident.
_CLEARLY = 0.5
_UNITS = {"mm": 1000.0, "cm": 100.0}


def sizes_by_class(keyframes: Sequence[Keyframe]) -> dict[str, np.ndarray]:
    """Median width, length and height (3,) of each class with a typical size and at least three
    boxes.
    """
    collected: dict[str, list[np.ndarray]] = {}
    for keyframe in keyframes:
        for name, box in zip(keyframe.names, keyframe.boxes, strict=True):
            if name in TYPICAL_SIZES:
                collected.setdefault(name, []).append(box[3:6])
    return {name: np.median(rows, axis=0) for name, rows in sorted(collected.items()) if len(rows) >= 3}


def check_sizes(keyframes: Sequence[Keyframe], figures: dict[str, Any]) -> list[Finding]:
    """Compare sizes with typical ones: another unit, or axes in another order."""
    medians = sizes_by_class(keyframes)
    if not medians:
        return []
    weights = _weights(keyframes, medians)
    logs = np.log(np.array(list(medians.values())))
    typical = np.log(np.array([TYPICAL_SIZES[name] for name in medians]))
    scale = float(np.exp(np.sum(weights[:, None] * (logs - typical)) / 3))
    figures["size against typical (1 is)"] = round(scale, 3)
    for unit, factor in _UNITS.items():
        if factor / 3 < scale < factor * 3:
            return [wrong_unit(("boxes",), unit, f"{scale:.0f} times the typical size")]
    findings = []
    if not 0.5 < scale < 2.0:
        findings.append(
            Finding(
                "warn",
                "sizes",
                "boxes are far from the size of their classes",
                "length_unit",
                f"{scale:.2f} times the typical size",
            )
        )
    orders = _order_misfits(medians, weights)
    best = min(orders, key=lambda order: orders[order])
    figures["size order misfit (as given, best)"] = [round(orders[0, 1, 2], 3), round(orders[best], 3)]
    if size_columns(keyframes) != (0, 1, 2):
        # Column best[k] of (w, l, h) holds what truly is the k-th of w, l, h; size3D's x, y and z
        # were read as l, w and h.
        truly = {"wlh"[best[k]]: axis for k, axis in enumerate("wlh")}
        setting = "size_order: " + "".join(truly[axis] for axis in "lwh")
        evidence = f"misfit of log sizes {orders[0, 1, 2]:.2f} as given, {orders[best]:.2f} in that order"
        findings.append(Finding("fail", "sizes", "the size axes are swapped", setting, evidence))
    return findings


def size_columns(keyframes: Sequence[Keyframe]) -> tuple[int, ...]:
    """Which of the columns w, l, h hold what truly is w, l and h: (0, 1, 2) unless another order
    fits the classes clearly better.
    """
    medians = sizes_by_class(keyframes)
    if not medians:
        return 0, 1, 2
    orders = _order_misfits(medians, _weights(keyframes, medians))
    best = min(orders, key=lambda order: orders[order])
    return best if orders[0, 1, 2] - orders[best] > _CLEARLY else (0, 1, 2)


def _weights(keyframes: Sequence[Keyframe], medians: Mapping[str, np.ndarray]) -> np.ndarray:
    """Weight of each class, (C,): its count, up to 200, so that one frequent class does not decide
    alone.
    """
    counts = np.array(
        [min(200, sum(keyframe.names.count(name) for keyframe in keyframes)) for name in medians], dtype=float
    )
    return counts / counts.sum()


def _order_misfits(medians: Mapping[str, np.ndarray], weights: np.ndarray) -> dict[tuple[int, ...], float]:
    """Distance of log sizes from the typical ones, scale apart, for each order of the columns.

    What has no front (a barrier's is across its long side in nuScenes, along it elsewhere) or no
    usual shape has no say.
    """
    weights = np.array([0.0 if name in _SHAPELESS else weight for name, weight in zip(medians, weights, strict=True)])
    weights = weights / max(weights.sum(), 1e-9)
    logs = np.log(np.array(list(medians.values())))
    typical = np.log(np.array([TYPICAL_SIZES[name] for name in medians]))
    scale = np.sum(weights[:, None] * (logs - typical)) / 3
    return {
        order: float(np.sum(weights * np.abs(logs[:, list(order)] - typical - scale).sum(axis=1)))
        for order in itertools.permutations(range(3))
    }
