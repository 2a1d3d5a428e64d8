"""A miss of expected figures is explained by its usual cause."""

from __future__ import annotations

from typing import Any

import pytest

from petrflow.errors import PetrflowError
from petrflow.evaluation import expectations

CLASS_NAMES = ["car", "truck", "pedestrian"]


def _metrics(mean_ap: float, orientation: float, aps: dict[str, float]) -> dict[str, Any]:
    per_class = {name: {"AP": aps.get(name, 0.0)} for name in CLASS_NAMES}
    return {
        "mAP": mean_ap,
        "mAOE": orientation,
        "per_class": per_class,
        "ground_truth": dict.fromkeys(aps, 10),
        "NDS": 0.2,
    }


@pytest.mark.parametrize(
    ("metrics", "cause"),
    [
        (_metrics(0.26, 1.45, {"car": 0.4, "truck": 0.4}), "yaw convention"),
        (_metrics(0.001, 0.5, {"car": 0.001}), "almost nothing was found"),
        (_metrics(0.15, 0.5, {"car": 0.4, "truck": 0.0}), "class_names"),
        (_metrics(0.41, 0.4, {"car": 0.5, "truck": 0.4}), "another split"),
    ],
)
def test_a_missed_expectation_is_explained_by_its_usual_cause(metrics: dict[str, Any], cause: str) -> None:
    compared = expectations.compare_with_expected(metrics, {"mAP": {"value": 0.2669, "tolerance": 0.001}})
    assert not compared["met"]
    assert any(cause in text for text in compared["explanations"])


def test_an_expectation_that_is_met_needs_no_explanation() -> None:
    metrics = _metrics(0.2671, 0.4, {"car": 0.4})
    compared = expectations.compare_with_expected(metrics, {"mAP": {"value": 0.2669, "tolerance": 0.001}})
    assert compared["met"] and compared["explanations"] == []


def test_an_expected_metric_that_does_not_exist_is_named() -> None:
    with pytest.raises(PetrflowError, match=r"expect\.mAPP"):
        expectations.compare_with_expected(_metrics(0.2, 0.2, {}), {"mAPP": {"value": 0.2, "tolerance": 0.1}})
