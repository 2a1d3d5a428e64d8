"""Say what is left to do: stage, run, why, and about how long, from what the same stage took
before.

    python workflow/left.py [TARGET ...] [--configfile FILE]

A dry run of Snakemake, asked for its facts instead of its text. It starts nothing.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import struct
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))
sys.path.insert(0, str(Path(__file__).resolve().parent))

from console import Console
from stage import Stage as Planned

from petrflow.files import read_json
from petrflow.files.receipts import running


@dataclass(frozen=True)
class Stage:
    """One job that a run of Snakemake would start."""

    rule: str
    subject: str  # the run, data set or file it is for
    reason: str
    seconds: float | None  # what it took last time; None where it never ran
    note: str = ""


class _Facts(logging.Filter):
    """Keeps the stages that Snakemake would run and its errors, and lets nothing be printed.

    A filter, since Snakemake removes the handlers that it finds on its logger.
    """

    def __init__(self, logger: logging.Logger) -> None:
        super().__init__()
        self._logger = logger
        self.stages: dict[int, Stage] = {}
        self.errors: list[str] = []

    def filter(self, record: logging.LogRecord) -> bool:
        if getattr(getattr(record, "event", None), "name", "") == "JOB_INFO":
            self._note(record)
        elif record.levelno >= logging.ERROR:
            self.errors.append(record.getMessage())
        return False

    def _note(self, record: Any) -> None:
        consoles = [entry for entry in self._logger.filters if isinstance(entry, Console)]
        if not consoles:
            return
        consoles[-1].filter(record)  # puts the reason into words
        if (planned := consoles[-1].stage_of(record)) is not None:
            self.stages[record.jobid] = _stage(planned, record.reason)


def dry_run(arguments: Sequence[str]) -> list[Stage]:
    """Ask Snakemake what it would do.

    Raises
    ------
    SystemExit
        When Snakemake cannot say; the message is Snakemake's.
    """
    from snakemake.cli import main
    from snakemake.logging import logger

    collected = _Facts(logger)
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
    return list(collected.stages.values())


def _stage(planned: Planned, reason: str) -> Stage:
    subject = "all runs" if planned.name == "report" else planned.subject
    reason = reason.removeprefix(f"{planned.name}: ")
    account = running(planned.receipts, planned.name, planned.fingerprint)
    notes = []
    if account is not None:
        spent = duration(account["seconds"])
        notes.append(f"runs now, for {spent}" if account["alive"] else f"interrupted after {spent}")
    if planned.name == "train":
        notes.append(_training_note(Path("results") / subject / "state"))
    return Stage(planned.name, subject, reason, planned.past_seconds(), ", ".join(filter(None, notes)))


def _training_note(state: Path) -> str:
    """How far the newest checkpoint has come, from its header."""
    with contextlib.suppress(Exception):
        folder = state / str(read_json(state / "current.json")["folder"])
        with (folder / str(read_json(folder / "newest.json")["name"])).open("rb") as handle:
            (length,) = struct.unpack("<Q", handle.read(8))
            meta = json.loads(json.loads(handle.read(length))["__metadata__"]["state"])
        progress = meta["progress"]
        return f"goes on at step {progress['step']} of {progress['lengths'][-1][1]}"
    return ""


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
