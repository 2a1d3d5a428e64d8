"""Say what is left to do: stage, run, why, and about how long, from what the same stage took before.

    python workflow/left.py [TARGET ...] [--configfile FILE]

A dry run of Snakemake, asked for its facts instead of its text. It starts nothing.
"""

from __future__ import annotations

import contextlib
import csv
import io
import logging
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

from petrflow.files import read_json

TARGETS_ONLY = re.compile(r"all|.+_all|doctor")


@dataclass(frozen=True)
class Stage:
    """One job that a run of Snakemake would start."""

    rule: str
    subject: str  # the run, data set or file it is for
    reason: str
    seconds: float | None  # what it took last time; None where it never ran
    note: str = ""


class _Facts(logging.Filter):
    """Keeps Snakemake's records of jobs and errors and lets none of them be printed.

    A filter, since Snakemake removes the handlers that it finds on its logger.
    """

    def __init__(self) -> None:
        super().__init__()
        self.jobs: list[Any] = []
        self.errors: list[str] = []

    def filter(self, record: logging.LogRecord) -> bool:
        if getattr(getattr(record, "event", None), "name", "") == "JOB_INFO":
            self.jobs.append(record)
        elif record.levelno >= logging.ERROR:
            self.errors.append(record.getMessage())
        return False


def dry_run(arguments: Sequence[str]) -> list[Stage]:
    """Ask Snakemake what it would do.

    Raises
    ------
    SystemExit
        When Snakemake cannot say; the message is Snakemake's.
    """
    from snakemake.cli import main
    from snakemake.logging import logger

    collected = _Facts()
    logger.addFilter(collected)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()) as said:
            code = main(["--dry-run", "--cores", "all", "--nolock", *arguments]) or 0
    except SystemExit as end:
        if isinstance(end.code, str):
            raise SystemExit(end.code) from None
        code = int(end.code or 0)
    finally:
        logger.removeFilter(collected)
    if code:
        raise SystemExit("\n".join(collected.errors) or said.getvalue())
    jobs = {record.jobid: record for record in collected.jobs if not TARGETS_ONLY.fullmatch(record.rule_name)}
    return [_stage(record) for record in jobs.values()]


def _stage(record: Any) -> Stage:
    wildcards = dict(record.wildcards)
    subject = wildcards.get("run") or wildcards.get("dataset") or wildcards.get("key") or "all runs"
    seconds = _past_seconds(Path(str(record.benchmark))) if record.benchmark else None
    note = _training_note(Path("results") / subject / "state") if record.rule_name == "train" else ""
    return Stage(record.rule_name, subject, _short(str(record.reason)), seconds, note)


def _past_seconds(benchmark: Path) -> float | None:
    """Wall time of a stage's last finished run."""
    try:
        with benchmark.open(encoding="utf-8") as lines:
            return float(next(csv.DictReader(lines, delimiter="\t"))["s"])
    except (OSError, StopIteration, KeyError, ValueError):
        return None


def _training_note(state: Path) -> str:
    """Where an interrupted training would go on."""
    with contextlib.suppress(Exception):
        progress = read_json(state / "progress.json")
        return f"goes on at step {progress['step']} of {progress['total']}"
    return "goes on from its last checkpoint" if state.is_dir() and any(state.rglob("*.ckpt*")) else ""


def _short(reason: str) -> str:
    """Snakemake's reason in few words: what is missing or has changed, not every file that follows from it."""
    parts = [part.strip() for part in reason.split(";")]
    own = [part for part in parts if not part.startswith("Input files updated by another job")]
    if not own:
        return "follows from a stage above"
    kind, _, files = own[0].partition(": ")
    names = [name.strip() for name in files.split(",") if name.strip()]
    words = {
        "Missing output files": "not made yet",
        "Updated input files": "newer input",
        "Params have changed since last execution": "settings changed",
        "Set of input files has changed since last execution": "other inputs",
        "Incomplete output files": "half made when it was killed",
    }
    for start, plain in words.items():
        if kind.startswith(start):
            detail = f" ({names[0]})" if start == "Updated input files" and names else ""
            return plain + detail
    return "half made when it was killed" if kind.startswith("Forced execution") else own[0]


def duration(seconds: float | None) -> str:
    """Seconds as people say them; '?' for None."""
    if seconds is None:
        return "?"
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def table(stages: Sequence[Stage]) -> str:
    """Stages as a table, with the sum of what is known at its foot."""
    if not stages:
        return "Nothing is left to do."
    rows = [("stage", "for", "last time", "why")]
    rows += [
        (stage.rule, stage.subject, duration(stage.seconds), ", ".join(filter(None, [stage.reason, stage.note])))
        for stage in stages
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    lines = [
        "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[3]]) for row in rows
    ]
    known = [stage.seconds for stage in stages if stage.seconds is not None]
    unknown = len(stages) - len(known)
    total = f"{len(stages)} stages left, about {duration(sum(known))}" if known else f"{len(stages)} stages left"
    return "\n".join([*lines, total + (f", and {unknown} that never ran here" if unknown else "")])


if __name__ == "__main__":
    print(table(dry_run(sys.argv[1:])))
