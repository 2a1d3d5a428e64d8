"""What a person sees in a terminal: for each stage a heading, a bar, its lines, and one line at its end.

Put in place of Snakemake's own handler where standard error is a terminal and nobody asked for ``--verbose``. Snakemake's log file keeps
everything, and the stages write to their logs. Not a logger plugin: one that a profile names must be installed wherever Snakemake is,
and a checkout with Snakemake from elsewhere would not start.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import shutil
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

from stage import RUN_STAGES, Stage

from petrflow.files.status import NAME, clock_text, read_status
from petrflow.messages import _
from petrflow.reports.status import position

QUIET = "PETRFLOW_QUIET_STAGES"
"""Environment variable that tells a rule's script to write to its log alone."""

SHOWN_FROM_SNAKEMAKE = ("Nothing to be done",)
_BAR = 24


class Terminal(logging.Handler):
    """Writes what Snakemake's records and the stages' ``status.json`` say.

    Parameters
    ----------
    stage_of : callable
        The stage that a record is about; None where it is about none.
    stream : TextIO
        A terminal.
    """

    def __init__(self, stage_of: Callable[[Any], Stage | None], stream: TextIO = sys.stderr) -> None:
        super().__init__()
        self._stage_of = stage_of
        self._stream = stream
        self._guard = threading.RLock()
        self._jobs: dict[int, Stage] = {}
        self._began: dict[Stage, float] = {}
        self._lines: dict[Stage, int] = {}
        self._said: set[str] = set()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True, name="petrflow-terminal")

    def enter(self, logger: logging.Logger) -> None:
        """Take the place of Snakemake's handler for the terminal."""
        for handler in list(logger.handlers):
            if handler.name == "DefaultStreamHandler":
                logger.removeHandler(handler)
        logger.addHandler(self)
        os.environ[QUIET] = "1"
        self._thread.start()

    def emit(self, record: logging.LogRecord) -> None:
        """Write what matters of a record."""
        event = getattr(getattr(record, "event", None), "name", "")
        if event == "JOB_INFO" and (stage := self._stage_of(record)) is not None:
            self._begin(stage, int(getattr(record, "jobid", -1)), str(getattr(record, "reason", "")))
        elif event == "JOB_FINISHED":
            if (stage := self._jobs.get(int(getattr(record, "job_id", -1)))) is not None:
                self._finish(stage)
        elif not event or event in ("ERROR", "RUN_INFO"):
            text = str(record.msg or "").strip()
            if text and (record.levelno >= logging.WARNING or text.startswith(SHOWN_FROM_SNAKEMAKE)):
                self.say(text)

    def say(self, text: str) -> None:
        """Write lines above the bar."""
        with self._guard:
            self._write(f"\r\033[K{text}\n")

    def leave(self) -> None:
        """Stop drawing; of stages that did not finish, show what they have said."""
        self._ended.set()
        with self._guard:
            for stage in list(self._began):
                self._show_new(stage)
            self._began.clear()
            self._write("\r\033[K")

    def _begin(self, stage: Stage, job: int, reason: str) -> None:
        with self._guard:
            self._jobs[job] = stage
            self._began[stage] = time.monotonic()
            self._lines[stage] = len(self._entry(stage).get("lines", []))
            reason = reason.removeprefix(f"{stage.name}: ")
            estimate = stage.past_seconds()
            about = "" if estimate is None else f"  (took {clock_text(estimate)} last time)"
            self.say(f"{'report' if stage.name == 'report' else stage.title}: {reason}{about}")

    def _finish(self, stage: Stage) -> None:
        with self._guard:
            began = self._began.pop(stage, None)
            if began is None:
                return
            self._show_new(stage)
            figure = self._entry(stage).get("figure")
            took = clock_text(time.monotonic() - began)
            self.say(f"  done in {took}{f'  {figure}' if figure else ''}")

    def _entry(self, stage: Stage) -> dict[str, Any]:
        path = stage.receipts.parent / NAME
        return dict(read_status(path).get("stages", {}).get(stage.name, {}))

    def _show_new(self, stage: Stage) -> dict[str, Any]:
        """Write the lines and notes that a stage has added; return its entry."""
        entry = self._entry(stage)
        if entry.get("fingerprint") != stage.fingerprint:
            return {}
        lines = entry.get("lines", [])
        for line in lines[self._lines.get(stage, 0) :]:
            self.say(f"  {line}")
        self._lines[stage] = len(lines)
        for note in entry.get("notes", []):
            if note not in self._said:
                self._said.add(note)
                self.say(f"  note: {note}")
        return entry

    def _watch(self) -> None:
        while not self._ended.wait(0.5):
            with self._guard:
                # The doctor speaks for itself.
                stages = [stage for stage in self._began if stage.name != "doctor" and not stage.receipt.exists()]
                entries = [self._show_new(stage) for stage in stages]
                if stages:
                    self._draw(stages, entries)

    def _draw(self, stages: list[Stage], entries: list[dict[str, Any]]) -> None:
        stage, entry = stages[-1], entries[-1]
        done, total = entry.get("done"), entry.get("total")
        filled = round(_BAR * done / total) if done is not None and total else 0
        bar = f"[{'#' * filled}{'-' * (_BAR - filled)}]"
        more = f"  (and {', '.join(other.title for other in stages[:-1])})" if len(stages) > 1 else ""
        elapsed = clock_text(time.monotonic() - self._began[stage])
        where = f"{entry.get('doing') or ''} {position(entry)}" if entry.get("state") == "running" else ""
        text = f"  {bar} {elapsed}  {where.strip()}{more}"
        self._write(f"\r\033[K{text[: shutil.get_terminal_size().columns - 1]}")

    def _write(self, text: str) -> None:
        try:
            self._stream.write(text)
            self._stream.flush()
        except (OSError, ValueError):  # the terminal is gone
            self._ended.set()


def wanted(workflow: Any) -> bool:
    """Whether a person looks at a terminal, and asked for nothing but to see what matters."""
    settings = workflow.output_settings
    return sys.stderr.isatty() and not (settings.verbose or settings.dryrun or settings.quiet or settings.stdout)


def set_up_in_short(text: str) -> str:
    """Return what a table about the machine says, in a line, and its notes."""
    rows = [re.split(r"\s{2,}", line, maxsplit=2) for line in text.splitlines() if line[:1].strip()]
    fine = [row[2] for row in rows if len(row) == 3 and row[0] in ("CPU", "Memory") and row[1] == "ok"]
    notes = [f"{row[0]} {row[2]}" for row in rows if len(row) == 3 and row[1] not in ("ok", "default")]
    return f"This machine: {', '.join([*fine, *notes])}"


def figures(plan: Any) -> dict[str, dict[str, dict[str, float]]]:
    """Return each run's mAP and NDS, ``before`` and ``after`` training, from results that are what
    the configuration asks for.
    """
    from petrflow.files import read_json

    found: dict[str, dict[str, dict[str, float]]] = {}
    for run in plan.config["runs"]:
        for name, key, when in (("baseline", None, "before"), ("train", "best", "after")):
            with contextlib.suppress(Exception):  # a run that has none yet
                if not plan.stage(name, run).receipt.exists():
                    continue
                metrics = read_json(Path("results") / run / name / "metrics.json")
                metrics = metrics[key] if key else metrics
                both = {metric: float(metrics[metric]) for metric in ("mAP", "NDS")}
                for metric, value in both.items():
                    found.setdefault(run, {}).setdefault(metric, {})[when] = value
    return found


def figures_in_short(found: dict[str, dict[str, dict[str, float]]]) -> list[str]:
    """A line for each run with figures, at most five."""
    lines = []
    for run, metrics in found.items():
        shown = [
            f"{metric} {' -> '.join(f'{value:.3f}' for value in both.values())}" for metric, both in metrics.items()
        ]
        lines.append(f"{run}: {'  '.join(shown)}")
    if len(lines) > 5:
        lines = [*lines[:4], _("and {count} more runs, all in the report", count=len(lines) - 4)]
    return lines


def last_figures(plan: Any) -> list[str]:
    """At most ten lines at the end: figures of every run, where to look, how long it took."""
    lines, times = figures_in_short(figures(plan)), []
    runs = list(plan.config["runs"])
    for run in runs:
        folder = Path("results") / run
        entries = read_status(folder / NAME).get("stages", {})
        spent = [f"{name} {clock_text(entry.get('seconds'))}" for name in RUN_STAGES if (entry := entries.get(name))]
        times.append(_("time of {run}: {stages}", run=run, stages=", ".join(spent)))
    run = runs[0] if len(runs) == 1 else "RUN"
    if (page := Path("results/report/index.html")).exists():
        lines.append(_("report: {page}", page=page))
    places = {_("viewer"): "viewer/index.html", _("model"): "export", _("video"): "demo/demo.mp4"}
    there = {name: place for name, place in places.items() if any((Path("results") / r / place).exists() for r in runs)}
    if there:
        lines.append(", ".join(f"{name}: results/{run}/{place}" for name, place in there.items()))
    if len(runs) == 1:
        lines += times
    look = _("open the report, or ") if page.exists() else ""
    return [*lines, _("next: {look}make visualdl for the curves; make status while something runs", look=look)]
