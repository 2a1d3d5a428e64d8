"""Figures that weights are known to reach: compare what was measured with them, and explain a miss
by its usual causes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from petrflow.errors import PetrflowError

ERROR_NAMES = {
    "trans_err": "mATE",
    "scale_err": "mASE",
    "orient_err": "mAOE",
    "vel_err": "mAVE",
    "attr_err": "mAAE",
}
"""The devkit's names of the five true-positive errors, and the names that people know."""


def compare_with_expected(metrics: Mapping[str, Any], expect: Mapping[str, Any]) -> dict[str, Any]:
    """Compare metrics with expected figures and explain a miss by its usual causes.

    Parameters
    ----------
    metrics : mapping
        As :func:`score` returns it.
    expect : mapping
        ``{metric: {"value": float, "tolerance": float}}``.

    Returns
    -------
    dict
        ``{"met": bool, "rows": [{metric, expected, tolerance, found, met}], "explanations":
        [str]}``.

    Raises
    ------
    PetrflowError
        When an expected metric is not one that is computed.
    """
    rows = []
    for name, figure in expect.items():
        if not isinstance(metrics.get(name), int | float):
            raise PetrflowError(f"expect.{name}: no such metric; known are mAP, NDS, {', '.join(ERROR_NAMES.values())}")
        met = abs(metrics[name] - figure["value"]) <= figure["tolerance"]
        rows.append(
            {
                "metric": name,
                "expected": figure["value"],
                "tolerance": figure["tolerance"],
                "found": metrics[name],
                "met": met,
            }
        )
    met = all(row["met"] for row in rows)
    return {"met": met, "rows": rows, "explanations": [] if met else explain_miss(metrics, expect)}


def explain_miss(metrics: Mapping[str, Any], expect: Mapping[str, Any]) -> list[str]:
    """Return the likely causes for metrics that miss the expected figures, the likeliest first."""
    causes = []
    fitting = [name for name, count in metrics["ground_truth"].items() if count]
    aps = {name: metrics["per_class"][name]["AP"] for name in fitting}
    expected_map = expect.get("mAP", {}).get("value", 0.1)
    if not fitting:
        causes.append("the split holds no ground truth in range: check splits.val of the data set")
    if metrics["mAOE"] > 1.2 and metrics["mAP"] > 0.05:
        causes.append(
            f"mAOE {metrics['mAOE']:.2f} with a usable mAP: the weights were trained with another yaw convention "
            "(PETR before and after mmdetection3d 1.0); box centres are right, headings are turned"
        )
    if metrics["mAP"] < 0.1 * expected_map:
        causes.append(
            "almost nothing was found: the weights do not belong to this model file, the camera order differs, or the "
            "calibration is off (run the doctor target on this data set)"
        )
    elif any(ap < 0.01 for ap in aps.values()) and any(ap > 0.2 for ap in aps.values()):
        lost = ", ".join(name for name, ap in aps.items() if ap < 0.01)
        causes.append(
            f"some classes are found and {lost} not at all: class_names may be in another order than in training"
        )
    if not causes or metrics["mAP"] > 1.3 * expected_map:
        causes.append(
            "the figures differ only in size: the expected ones may be of another split (mini_val and val differ by 0.15 "
            "mAP) or another version of the weights"
        )
    return causes
