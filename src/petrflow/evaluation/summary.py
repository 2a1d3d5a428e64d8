"""Figures of a judge as ``metrics.json`` has them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from petrflow.evaluation.expectations import ERROR_NAMES
from petrflow.evaluation.figures import ClassFigures
from petrflow.evaluation.judge import Judged
from petrflow.evaluation.protocol import Protocol


def summary(
    serialized: Mapping[str, Any], counts: Mapping[str, int], velocity_known: bool, attribute_known: bool
) -> dict[str, Any]:
    """Return the figures of a split.

    Parameters
    ----------
    serialized : mapping
        In the form of the devkit's ``metrics_summary.json``.
    counts : mapping of str to int
        Labelled boxes that count, by class.
    velocity_known, attribute_known : bool
        Whether any of them has a velocity, and whether any has an attribute.

    Returns
    -------
    dict
        ``mAP``, ``NDS``, ``mATE`` … ``mAAE`` as the devkit computes them; ``not_available``, the
        errors for which the split has no ground truth (the devkit counts them as 1.0);
        ``NDS_available_terms``, the same weighted mean over the terms that exist;
        ``mAP_present_classes``, mAP over the classes that the split has boxes of (the devkit counts
        the others as 0); ``per_class`` with ``AP``, ``ATE`` … and ``AP_by_distance`` (threshold in
        m -> AP); ``ground_truth`` with the number of boxes by class.
    """
    not_available = [name for name, known in (("mAVE", velocity_known), ("mAAE", attribute_known)) if not known]
    not_available += [
        name
        for key, name in ERROR_NAMES.items()
        if name not in not_available and all(math.isnan(row[key]) for row in serialized["label_tp_errors"].values())
    ]
    figures: dict[str, Any] = {"mAP": serialized["mean_ap"], "NDS": serialized["nd_score"]}
    for key, name in ERROR_NAMES.items():
        figures[name] = serialized["tp_errors"][key]
    terms = [1.0 - min(1.0, figures[name]) for name in ERROR_NAMES.values() if name not in not_available]
    # NDS = (5 mAP + sum of (1 - min(1, error))) / 10 over five errors (nuScenes, CVPR 2020, eq. 3);
    # here over those known.
    figures["NDS_available_terms"] = (5.0 * figures["mAP"] + sum(terms)) / (5.0 + len(terms))
    figures["not_available"] = not_available
    figures["per_class"] = {
        name: {
            "AP": serialized["mean_dist_aps"][name],
            **{short[1:]: serialized["label_tp_errors"][name][key] for key, short in ERROR_NAMES.items()},
            "AP_by_distance": serialized["label_aps"][name],
        }
        for name in serialized["mean_dist_aps"]
    }
    present = {name: count for name, count in sorted(counts.items()) if count}
    figures["ground_truth"] = present
    aps = [figures["per_class"][name]["AP"] for name in present]
    figures["mAP_present_classes"] = sum(aps) / len(aps) if aps else 0.0
    return dict(plain(figures))


def details(judged: Mapping[str, Judged], protocol: Protocol) -> dict[str, Any]:
    """Return the figures of a split by distance band, group of scenes and scene.

    Each is a mapping of the band's, group's or scene's name to ``ground_truth`` (number of boxes),
    ``mAP_present_classes`` (mean AP of the classes that it has boxes of), ``mATE`` … ``mAAE``
    (means over those classes) and ``AP`` by class.
    """
    found: dict[str, Any] = {}
    for kind in ("bands", "groups", "scenes"):
        parts: dict[str, dict[str, ClassFigures]] = {}
        for name in protocol.class_names:
            for part, figures in getattr(judged[name], kind).items():
                parts.setdefault(part, {})[name] = figures
        order = protocol.band_names() if kind == "bands" else sorted(parts)
        found[kind] = {part: _part(parts[part]) for part in order if part in parts}
    return dict(plain(found))


def _part(classes: Mapping[str, ClassFigures]) -> dict[str, Any]:
    present = {name: one for name, one in classes.items() if one.truths}
    aps = {name: float(np.mean(one.aps)) for name, one in present.items()}
    figures: dict[str, Any] = {
        "ground_truth": sum(one.truths for one in present.values()),
        "mAP_present_classes": sum(aps.values()) / len(aps) if aps else None,
    }
    for k, name in enumerate(ERROR_NAMES.values()):
        values = np.array([one.errors[k] for one in present.values()])
        known = values[~np.isnan(values)]
        figures[name] = float(np.mean(known)) if len(known) else None
    return {**figures, "AP": aps}


def plain(value: Any) -> Any:
    """Return ``value`` with numpy scalars as Python's and NaN as None, so that the file is standard
    JSON.
    """
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
