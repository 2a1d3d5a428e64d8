"""Metrics as a table of text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from petrflow.evaluation.expectations import ERROR_NAMES

LOWEST_SCENES = 5


def format_table(metrics: Mapping[str, Any]) -> str:
    """Return the metrics as the table that nuscenes-devkit prints, with what is not available
    named.
    """
    missing = metrics["not_available"]
    lines = [f"mAP: {metrics['mAP']:.4f}"]
    absent = [name for name in metrics["per_class"] if name not in metrics["ground_truth"]]
    if absent:
        lines.append(f"mAP over classes present: {metrics['mAP_present_classes']:.4f}  (without {', '.join(absent)})")
    for name in ERROR_NAMES.values():
        note = (
            "  (not available: the split has no ground truth for it; the devkit counts it as 1)"
            if name in missing
            else ""
        )
        lines.append(f"{name}: {metrics[name]:.4f}{note}")
    lines.append(f"NDS: {metrics['NDS']:.4f}")
    if missing:
        lines.append(f"NDS over available terms: {metrics['NDS_available_terms']:.4f}  (without {', '.join(missing)})")
    lines += [
        "",
        "Per-class results:",
        f"{'Object Class':<20}\t{'AP':<6}\t{'ATE':<6}\t{'ASE':<6}\t{'AOE':<6}\t{'AVE':<6}\t{'AAE':<6}",
    ]
    for name, row in metrics["per_class"].items():
        cells = [row[key] for key in ("AP", "ATE", "ASE", "AOE", "AVE", "AAE")]
        text = "\t".join(f"{'nan' if cell is None else format(cell, '.3f'):<6}" for cell in cells)
        lines.append(f"{name:<20}\t{text}" + ("" if name in metrics["ground_truth"] else "\t(no ground truth)"))
    lines += _parts(metrics)
    if "expect" in metrics:
        lines += ["", "Expected figures:"]
        for row in metrics["expect"]["rows"]:
            verdict = "met" if row["met"] else "MISSED"
            figures = f"{row['found']:.4f}, expected {row['expected']:.4f} +- {row['tolerance']:g}"
            lines.append(f"{row['metric']}: {figures}: {verdict}")
        lines += [f"likely: {cause}" for cause in metrics["expect"]["explanations"]]
    return "\n".join(lines) + "\n"


def _parts(metrics: Mapping[str, Any]) -> list[str]:
    """Return a line for each distance band, each group of scenes and the five scenes with the
    lowest mAP.
    """
    scenes = metrics.get("scenes", {})
    lowest = sorted(scenes, key=lambda name: (scenes[name]["mAP_present_classes"], name))[:LOWEST_SCENES]
    blocks = [
        ("Distance", metrics.get("bands", {})),
        ("Scenes by description", metrics.get("groups", {})),
        ("Lowest scenes", {name: scenes[name] for name in lowest} if len(scenes) > 1 else {}),
    ]
    lines = []
    for title, parts in blocks:
        if parts:
            lines += [
                "",
                f"{title:<20}\t{'boxes':<6}\t{'mAP':<6}\t" + "\t".join(f"{n:<6}" for n in ERROR_NAMES.values()),
            ]
            for name, row in parts.items():
                cells = [row[key] for key in ("mAP_present_classes", *ERROR_NAMES.values())]
                text = "\t".join(f"{'nan' if cell is None else format(cell, '.3f'):<6}" for cell in cells)
                lines.append(f"{name:<20}\t{row['ground_truth']:<6}\t{text}")
    return [*lines, "(mAP here is over the classes that have boxes there)"] if lines else []
