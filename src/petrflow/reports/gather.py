"""Read what a run has left so far. A file that is absent is None or empty; a file that cannot be
read is said and left out.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pandas as pd

from petrflow.errors import PetrflowError
from petrflow.files import read_json
from petrflow.files.status import read_status

STAGES = ("baseline", "train", "export", "demo", "predict", "viewer")
"""Folders of a run in the order in which they are made."""

ARTEFACTS = (
    "viewer/index.html",
    "demo/demo.mp4",
    "demo/detections.json",
    "train/best_model/model.pdparams",
    "train/last_model/model.pdparams",
    "train/history.csv",
    "train/metrics.json",
    "export/model.json",
    "export/model.pdiparams",
    "export/model.onnx",
    "export/parity.json",
    "baseline/metrics.json",
    "baseline/table.txt",
    "baseline/results_nusc.json",
    "train/results_nusc.json",
    "predict/results_nusc.json",
    "predict/detections.json",
)


@dataclass
class Run:
    """A run as its folder shows it.

    Attributes
    ----------
    name : str
    folder : Path
        ``results/{run}``.
    settings : dict
        The run's part of the config.
    before, after : dict or None
        Figures of the baseline, and of the best model that training has evaluated.
    last : dict or None
        Figures of the last evaluation in training.
    expected : list of str
        Sentences about expected figures that were missed.
    history : DataFrame or None
        ``train/history.csv``, or what training has left so far.
    provenance : dict
        Stage -> ``provenance.json``.
    costs : dict
        Stage -> ``{"seconds", "memory_bytes"}`` of Snakemake's benchmark files.
    progress : dict
        ``state/progress.json``: where training stands and all of its starts.
    status : dict
        ``status.json``.
    parity : dict
        Largest relative difference between exported and trained model.
    figures : dict
        ``viewer/figures.json``: curves and counts by score, class and size, and the frames.
    problems : list of str
        Files that could not be read, with the reason.
    notes : list of str
        What the workflow says of the run: a stage that failed, results of other settings.
    """

    name: str
    folder: Path
    settings: dict[str, Any] = field(default_factory=dict)
    before: dict[str, Any] | None = None
    after: dict[str, Any] | None = None
    last: dict[str, Any] | None = None
    history: pd.DataFrame | None = None
    provenance: dict[str, dict[str, Any]] = field(default_factory=dict)
    costs: dict[str, dict[str, float]] = field(default_factory=dict)
    progress: dict[str, Any] = field(default_factory=dict)
    status: dict[str, Any] = field(default_factory=dict)
    parity: dict[str, float] = field(default_factory=dict)
    figures: dict[str, Any] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def seconds(self) -> float | None:
        """Seconds of all stages that have ended, all of their starts together; None where none
        has.
        """
        known = [float(record["seconds"]) for record in self.provenance.values() if "seconds" in record]
        return sum(known) if known else None

    @property
    def memory_bytes(self) -> int | None:
        """The largest peak of memory over the stages; None where none has ended."""
        known = [int(r["peak_memory_bytes"]) for r in self.provenance.values() if "peak_memory_bytes" in r]
        return max(known, default=None)

    @property
    def finished(self) -> float | None:
        """When the newest figures were written, seconds since 1970."""
        paths = [self.folder / stage / name for stage in STAGES for name in ("metrics.json", "provenance.json")]
        return max((path.stat().st_mtime for path in paths if path.is_file()), default=None)

    @property
    def failure(self) -> dict[str, str] | None:
        """Stage, sentence and log of a failed run, from the workflow's notes or from
        ``status.json``.
        """
        for note in self.notes:
            stage, failed, sentence = note.partition(" failed: ")
            if failed and " " not in stage:
                return {"stage": stage, "sentence": sentence, "log": f"logs/{self.name}/{stage}.log"}
        status = self.status
        state = str(status.get("state") or status.get("status") or "").lower()
        told = status.get("sentence") or status.get("error") or status.get("message")
        if state not in ("failed", "error") or not told:
            return None
        return {
            "stage": str(status.get("stage") or "?"),
            "sentence": str(told),
            "log": str(status.get("log") or ""),
        }

    def starts(self) -> list[dict[str, Any]]:
        """Return the starts of training, the first one first."""
        return [dict(start) for start in self.progress.get("starts", []) if isinstance(start, dict)]

    def artefacts(self, page: Path) -> list[dict[str, Any]]:
        """Return the files that stand there: name, link from ``page``, bytes."""
        found = []
        for name in ARTEFACTS:
            path = self.folder / name
            if path.is_file():
                found.append({"name": name, "link": link(path, page), "bytes": path.stat().st_size})
        return found


def link(path: Path, page: Path) -> str:
    """Return the address of a file relative to a page, with odd characters escaped."""
    return quote(Path(os.path.relpath(path, page.parent)).as_posix())


def run_of(folder: Path, name: str, settings: Mapping[str, Any] | None = None) -> Run:
    """Read ``results/{run}``; a folder that is missing gives a run without figures."""
    run = Run(name, Path(folder), dict(settings or {}))
    read = _Reader(run)
    run.before = read.json("baseline/metrics.json") or None
    trained = read.json("train/metrics.json")
    run.after, run.last = trained.get("best") or None, trained.get("last") or None
    if run.after is None:
        # While training runs, its evaluations stand in state; they are no result yet.
        run.last = read.json("state/evaluation/metrics.json") or None
    run.history = read.table("train/history.csv")
    if run.history is None:
        run.history = read.table("state/history.csv")
    for stage in STAGES:
        if record := read.json(f"{stage}/provenance.json"):
            run.provenance[stage] = record
    for path in sorted((run.folder / "benchmarks").glob("*.tsv")):
        frame = read.table(path.relative_to(run.folder).as_posix(), sep="\t")
        if frame is not None and len(frame) and {"s", "max_rss"} <= set(frame.columns):
            numbers = pd.to_numeric(frame.iloc[-1][["s", "max_rss"]], errors="coerce")
            run.costs[path.stem] = {"seconds": float(numbers["s"]), "memory_bytes": float(numbers["max_rss"]) * 1024**2}
    run.progress = read.json("state/progress.json")
    run.status = read.json("status.json")
    run.parity = read.json("export/parity.json").get("max_relative_difference") or {}
    run.figures = read.json("viewer/figures.json")
    return run


def runs_of(results: Path, config: Mapping[str, Any]) -> list[Run]:
    """Return the runs that the config names, in its order, then those that stand in ``results`` and
    are named no more.
    """
    named = dict(config.get("runs") or {})
    runs = [run_of(results / name, name, settings) for name, settings in named.items()]
    return runs + [run_of(results / name, name) for name in _unnamed(results, named)]


def _unnamed(results: Path, named: Iterable[str]) -> list[str]:
    known = set(named)
    folders = sorted(path for path in results.iterdir() if path.is_dir()) if results.is_dir() else []
    return [
        folder.name
        for folder in folders
        if folder.name not in known
        and (
            any((folder / part).is_file() for part in ("baseline/metrics.json", "train/metrics.json"))
            or not {"baseline", "train"}.isdisjoint(read_status(folder / "status.json").get("stages", {}))
        )
    ]


class _Reader:
    """Reads files of one run and notes those that cannot be read."""

    def __init__(self, run: Run) -> None:
        self._run = run

    def json(self, name: str) -> dict[str, Any]:
        path = self._run.folder / name
        if not path.is_file():
            return {}
        try:
            found = read_json(path)
        except (PetrflowError, OSError, ValueError) as error:
            self._run.problems.append(f"{name}: {error}")
            return {}
        if isinstance(found, dict):
            return found
        self._run.problems.append(f"{name}: no JSON object")
        return {}

    def table(self, name: str, sep: str = ",") -> pd.DataFrame | None:
        path = self._run.folder / name
        if not path.is_file():
            return None
        try:
            return pd.read_csv(path, sep=sep)
        except (OSError, ValueError) as error:  # pandas' own errors are ValueErrors
            self._run.problems.append(f"{name}: {error}")
            return None
