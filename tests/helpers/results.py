"""Folders of runs as stages leave them, with made-up figures: for the page, in tests and in its benchmark."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np

CLASS_NAMES = ("car", "truck", "bus", "pedestrian", "bicycle")
ERRORS = {"mATE": 0.5, "mASE": 0.4, "mAOE": 0.3, "mAVE": 1.0, "mAAE": 0.2}


def metrics(mean_ap: float, scenes: int = 0, seed: int = 0, not_available: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return a ``metrics.json``; figures of a scene scatter around those of the split."""
    random = np.random.default_rng(seed)
    row = {"ATE": 0.5, "ASE": 0.4, "AOE": 0.3, "AVE": None, "AAE": None}
    by_distance = {"0.5": mean_ap / 2, "1.0": mean_ap, "2.0": mean_ap, "4.0": mean_ap * 1.5}
    found: dict[str, Any] = {
        "mAP": mean_ap,
        "mAP_present_classes": mean_ap,
        "NDS": mean_ap + 0.1,
        "NDS_available_terms": mean_ap + 0.2,
        **ERRORS,
        "not_available": list(not_available),
        "per_class": {name: {"AP": mean_ap, **row, "AP_by_distance": by_distance} for name in CLASS_NAMES},
        "ground_truth": {name: 10 * (k + 1) for k, name in enumerate(CLASS_NAMES)},
    }
    if scenes:
        found["scenes"] = {f"scene-{k:04d}": _part(mean_ap + random.normal(0, 0.01)) for k in range(scenes)}
        found["bands"] = {
            name: _part(mean_ap * factor) for name, factor in (("0-20 m", 1.3), ("20-35 m", 1), ("35-50 m", 0.5))
        }
        found["groups"] = {"night": _part(mean_ap / 2)}
    return found


def _part(mean_ap: float) -> dict[str, Any]:
    return {"ground_truth": 40, "mAP_present_classes": mean_ap, **ERRORS, "AP": dict.fromkeys(CLASS_NAMES, mean_ap)}


def write_run(
    folder: Path,
    before: dict[str, Any] | None,
    after: dict[str, Any] | None,
    epochs: int = 6,
    restarts: tuple[int, ...] = (),
) -> Path:
    """Write ``results/{run}``; None for a stage that has left nothing."""
    for stage, figures in (("baseline", before), ("train", after)):
        if figures is None:
            continue
        write(folder / stage / "metrics.json", {"best": figures, "last": figures} if stage == "train" else figures)
        write(folder / stage / "provenance.json", provenance(100.0 if stage == "train" else 5.0))
    if after is not None:
        rows = [
            {
                "epoch": k + 1,
                "step": 20 * (k + 1),
                "total_loss": 7 - 0.1 * k,
                "NDS": after["NDS"] if k % 2 else "",
                "mAP": "",
            }
            for k in range(epochs)
        ]
        with (folder / "train" / "history.csv").open("w", newline="") as handle:
            writer = csv.DictWriter(handle, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
        ends = [*((step, "killed") for step in restarts), (20 * epochs, "done")]
        starts, begin = [], 0
        for k, (step, ended) in enumerate(ends):
            starts.append(
                {"began": 1.7e9 + 100 * k, "from_step": begin, "to_step": step, "seconds": 50.0, "ended": ended}
            )
            begin = step
        write(folder / "state" / "progress.json", {"state": "0", "step": begin, "total": begin, "starts": starts})
    (folder / "benchmarks").mkdir(parents=True)
    (folder / "benchmarks" / "export.tsv").write_text("s\th:m:s\tmax_rss\n12.5\t0:00:12\t345.6\n")
    return folder


def provenance(seconds: float, **settings: Any) -> dict[str, Any]:
    """Return a ``provenance.json``."""
    return {
        "inputs": {"weights": "0" * 64},
        "settings": settings,
        "versions": {"petrflow": "9.9.9"},
        "python": "3.11.7",
        "platform": "Linux-test",
        "device": "cpu",
        "seconds": seconds,
        "cpu_seconds": seconds,
        "peak_memory_bytes": 2**30,
    }


def write(path: Path, value: Any) -> None:
    """Write JSON, with the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))
