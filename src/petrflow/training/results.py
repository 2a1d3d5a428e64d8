"""What a finished training leaves: weights, history, metrics, curves."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from petrflow.evaluation.thresholds import FILE as THRESHOLDS
from petrflow.files import atomic_dir, remove, write_atomic, write_json
from petrflow.files.provenance import note_files
from petrflow.training.log import LOG_NAME, Scalars
from petrflow.training.request import Request
from petrflow.training.state import Progress


@dataclass
class Trained:
    """The state of training after the last epoch."""

    progress: Progress
    scalars: Scalars
    best: Mapping[str, np.ndarray] | None
    last: Mapping[str, np.ndarray]

    @property
    def metrics(self) -> dict[str, Any]:
        """Return what ``metrics.json`` holds."""
        progress = self.progress
        figures = {"best": progress.best, "last": progress.metrics, "plans": progress.lengths}
        return {**figures, "steps": progress.step, "epochs": progress.epoch}


def write_results(request: Request, trained: Trained, require_ours: Callable[[], None] = lambda: None) -> None:
    """Write ``best_model``, ``last_model``, ``history.csv``, ``metrics.json``, ``thresholds.json``
    of the best model where it was evaluated, and ``visualdl``, whole or not at all.

    Parameters
    ----------
    require_ours : callable
        Called directly before the results take their place; raises when another machine has taken
        the training over.
    """
    from petrflow.weights.class_rows import CLASSES_NAME
    from petrflow.weights.pdparams import save_pdparams

    best = trained.best or trained.last
    with atomic_dir(request.out_dir) as folder:
        for name, weights in (("last_model", trained.last), ("best_model", best)):
            (folder / name).mkdir()
            save_pdparams(folder / name / "model.pdparams", {key: weights[key] for key in trained.last})
            write_json(folder / name / CLASSES_NAME, request.model_config["class_names"])
        write_atomic(folder / "history.csv", history_csv(trained.progress.history))
        write_atomic(folder / "visualdl" / LOG_NAME, trained.scalars.to_bytes())
        write_json(folder / "metrics.json", trained.metrics)
        if trained.progress.best and "thresholds" in trained.progress.best:
            write_json(folder / THRESHOLDS, trained.progress.best["thresholds"])
        write_atomic(folder / "provenance.json", (request.state_dir / "provenance.json").read_bytes())
        note_files(folder)
        require_ours()
    for mirror in request.state_dir.glob("*/visualdl"):
        remove(mirror)  # VisualDL would show every curve twice


def history_csv(history: list[dict[str, Any]]) -> str:
    """Return one line an epoch; columns in order of first appearance, floats as Python prints them
    (exact), nothing timed.
    """
    columns: dict[str, None] = {}
    for row in history:
        columns.update(dict.fromkeys(row))
    text = io.StringIO()
    writer = csv.DictWriter(text, list(columns), restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(history)
    return text.getvalue()
