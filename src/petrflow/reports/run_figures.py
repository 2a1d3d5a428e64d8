"""The figures of one run, as rows of tables and as charts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from petrflow.evaluation.expectations import ERROR_NAMES
from petrflow.reports import charts, intervals, words
from petrflow.reports.gather import Run

HIGHER_IS_BETTER = {
    "mAP": True,
    "mAP_present_classes": True,
    "NDS": True,
    "NDS_available_terms": True,
    **dict.fromkeys(ERROR_NAMES.values(), False),
}
"""Metrics in the order of the table, and whether a higher one is better."""

LONGEST_HISTORY = 500
"""Points of one curve; a longer history is thinned evenly."""


def metric_rows(run: Run) -> list[dict[str, Any]]:
    """Return the rows of the table of metrics; those that say the same as another one are left
    out.
    """
    before, after = run.before, run.after
    shown = after or before or {}
    missing = set(shown.get("not_available", []))
    rows = []
    for name, higher in HIGHER_IS_BETTER.items():
        if name == "NDS_available_terms" and not missing:
            continue
        if name == "mAP_present_classes" and len(shown.get("ground_truth", ())) == len(shown.get("per_class", ())):
            continue
        if name not in shown:
            continue
        rows.append(
            {
                "name": name,
                "higher": higher,
                "available": name not in missing,
                "before": (before or {}).get(name),
                "after": (after or {}).get(name),
                **change_with_interval(before, after, name, higher),
            }
        )
    return rows


def class_rows(run: Run) -> list[dict[str, Any]]:
    """Return the rows of the table of classes: boxes, AP before and after, and the errors of the
    newest figures.
    """
    before, after = run.before, run.after
    shown = after or before
    if not shown:
        return []
    rows = []
    for name, figures in shown.get("per_class", {}).items():
        ap = {"before": class_figure(before, name), "after": class_figure(after, name)}
        change, kind, interval = None, "grey", None
        if ap["before"] is not None and ap["after"] is not None:
            change = ap["after"] - ap["before"]
            interval = intervals.of_metric(before, after, "AP", label=name)
            kind = kind_of_change(change, interval, higher=True)
        rows.append(
            {
                "name": name,
                "count": shown.get("ground_truth", {}).get(name, 0),
                **ap,
                "change": change,
                "kind": kind,
                "interval": interval,
                "errors": {short: figures.get(short[1:]) for short in ERROR_NAMES.values()},
                "by_distance": figures.get("AP_by_distance") or {},
            }
        )
    return rows


def change_with_interval(
    before: Mapping[str, Any] | None, after: Mapping[str, Any] | None, name: str, higher: bool
) -> dict[str, Any]:
    old, new = ((figures or {}).get(name) for figures in (before, after))
    if old is None or new is None or name in (after or {}).get("not_available", []):
        return {"change": None, "kind": "grey", "interval": None}
    interval = intervals.of_metric(before, after, name)
    return {"change": new - old, "kind": kind_of_change(new - old, interval, higher), "interval": interval}


def kind_of_change(change: float, interval: intervals.Interval | None, higher: bool) -> str:
    """Return good, bad or grey; grey where the change is within noise, or where nothing says how
    large noise is.
    """
    if interval is None or interval.within_noise or change == 0:
        return "grey"
    return "good" if (interval.low > 0) == higher else "bad"


def class_figure(figures: Mapping[str, Any] | None, name: str) -> float | None:
    return ((figures or {}).get("per_class", {}).get(name) or {}).get("AP")


def part_rows(run: Run, kind: str) -> list[dict[str, Any]]:
    """Return figures by distance band, group of scenes or scene, before and after."""
    before, after = ((figures or {}).get(kind) or {} for figures in (run.before, run.after))
    names = list(dict.fromkeys([*(after or before), *before]))
    return [
        {
            "name": name,
            "count": (after.get(name) or before.get(name) or {}).get("ground_truth", 0),
            "before": (before.get(name) or {}).get("mAP_present_classes"),
            "after": (after.get(name) or {}).get("mAP_present_classes"),
            "errors": {short: (after.get(name) or before.get(name) or {}).get(short) for short in ERROR_NAMES.values()},
        }
        for name in names
    ]


def _points(run: Run, column: str, baseline: bool) -> list[dict[str, Any]]:
    """Return a curve's points: ``{"step", "value"}``; the baseline is step 0."""
    points = []
    if baseline and (run.before or {}).get(column) is not None:
        points.append({"step": 0, "value": (run.before or {})[column]})
    history = run.history
    if history is not None and {"step", column} <= set(history.columns):
        known = history[["step", column]].dropna()
        if len(known) > LONGEST_HISTORY:
            known = known.iloc[np.linspace(0, len(known) - 1, LONGEST_HISTORY).round().astype(int)]
        points += [
            {"step": int(step), "value": float(value)}
            for step, value in zip(known["step"], known[column], strict=True)
            if math.isfinite(float(value))
        ]
    return points


def common_charts(runs: Sequence[Run]) -> list[charts.Spec]:
    """Return the curves of all runs, a chart a figure."""
    if len(runs) < 2:
        return []  # the run's own section has them
    found = []
    for column, baseline in (("NDS", True), ("mAP", True), ("total_loss", False)):
        rows = [{**point, "series": run.name} for run in runs for point in _points(run, column, baseline)]
        if len({row["step"] for row in rows}) > 1:
            found.append(charts.curve(rows, words.pair(f"chart_{column}")))
    return found


def run_charts(run: Run) -> dict[str, list[charts.Spec]]:
    restarts = [
        {"step": int(start["to_step"]), "why": words.pair(f"ended_{start.get('ended')}")}
        for start in run.starts()
        if start.get("ended") in ("stopped", "killed", "failed") and start.get("to_step") is not None
    ]
    curves = []
    for key, columns, baseline in (
        ("chart_metrics", ("NDS", "mAP"), True),
        ("chart_errors", tuple(ERROR_NAMES.values()), True),
        ("chart_total_loss", ("total_loss",), False),
        ("chart_losses", ("loss_cls", "loss_bbox"), False),
    ):
        rows = [{**point, "series": column} for column in columns for point in _points(run, column, baseline)]
        if len({row["step"] for row in rows}) > 1:
            curves.append(charts.curve(rows, words.pair(key), restarts))
    return {"curves": curves, "classes": _class_charts(run), "detections": _detection_charts(run)}


def _class_charts(run: Run) -> list[charts.Spec]:
    found = []
    rows = class_rows(run)
    bars = [
        {"name": row["name"], "which": which, "value": row[which]}
        for row in rows
        for which in ("before", "after")
        if row[which] is not None and row["count"]
    ]
    if bars:
        order = [row["name"] for row in sorted(rows, key=lambda row: -row["count"]) if row["count"]]
        found.append(charts.paired_bars(bars, words.pair("chart_classes"), words.pair("average_precision"), order))
    bands = part_rows(run, "bands")
    bars = [
        {"name": row["name"], "which": which, "value": row[which]}
        for row in bands
        for which in ("before", "after")
        if row[which] is not None
    ]
    if bars:
        order = [row["name"] for row in bands]
        found.append(charts.paired_bars(bars, words.pair("chart_bands"), words.pair("mean_average_precision"), order))
    return found


def _detection_charts(run: Run) -> list[charts.Spec]:
    """Return what the viewer has counted over all detections of the newest set."""
    figures = run.figures
    found = []
    if rows := figures.get("recall_curves"):
        found.append(charts.recall_curves(rows, words.pair("chart_recall")))
    if rows := figures.get("scores"):
        found.append(charts.score_counts(rows, words.pair("chart_scores")))
    if rows := figures.get("sizes"):
        order = list(dict.fromkeys(row["name"] for row in rows))
        found.append(charts.paired_bars(rows, words.pair("chart_sizes"), words.pair("share_found"), order))
    if rows := figures.get("confusion"):
        found.append(charts.confusion(rows, words.pair("chart_confusion"), figures["classes"]))
    return found
