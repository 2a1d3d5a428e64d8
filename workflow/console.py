"""What Snakemake says on the terminal, in the words of the configuration; and the last lines after
a failure or a stop.

Snakemake prints much about a failed script: the rule's inputs and outputs, the interpreter's
command line, where the exception passed. Whoever reads it needs the run, the stage, one sentence
and the log. Its reasons name files ("Missing output files"); what matters is the setting that has
changed.
"""

from __future__ import annotations

import atexit
import logging
import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import notify
from plan import Plan
from stage import Stage
from terminal import Terminal, figures, figures_in_short, last_figures

from petrflow.messages import _

TARGETS_ONLY = re.compile(r"all|.+_all|doctor")
"""Rules that make nothing: they stand for a list of stages."""

_STATUS = re.compile(
    r"scripts/tmp\w+\.(\w+)\.py.* (?:returned non-zero exit status (\d+)|died with <Signals\.(\w+))", re.DOTALL
)
_LOGGED_ERROR = re.compile(r"^\d\d:\d\d:\d\d ERROR (.*)", re.MULTILINE)
# Said by Snakemake around a failure or a stop; the last words say it once.
_AROUND = (
    "At least one job did not complete successfully",
    "Exiting because a job execution failed",
    "Shutting down, this might take some time",
    "Terminating processes on user request",
    "Will exit after finishing currently running jobs",
)


@dataclass(frozen=True)
class End:
    """How a stage ended that did not finish."""

    stage: Stage | None
    rule: str
    sentence: str
    stopped: bool = False

    def __str__(self) -> str:
        if self.stage is None:
            return f"{self.rule}: {self.sentence}"
        return _(
            "{title}: {sentence}\n    log: {log}", title=self.stage.title, sentence=self.sentence, log=self.stage.log
        )


class Console(logging.Filter):
    """Changes Snakemake's records on their way to the terminal.

    A filter, since Snakemake removes the handlers that it finds on its logger.

    Parameters
    ----------
    plan : Plan
        The stages, by whose receipts jobs are known.
    hook : mapping
        The section ``notify``: who is told how it ended.
    """

    def __init__(self, plan: Plan, hook: Mapping[str, Any] | None = None) -> None:
        super().__init__()
        self._plan = plan
        self._hook = dict(hook or {})
        self._by_receipt = {str(stage.receipt): stage for stage in plan.all()}
        self._status: dict[str, str] = {}
        self._stage_jobs: set[int | None] = set()
        self.ends: list[End] = []
        self.stopping = False
        self.terminal: Terminal | None = None
        self.finished = 0

    def enter(self, logger: logging.Logger) -> None:
        """Listen from now on, and have the last word."""
        logger.addFilter(self)
        atexit.register(self.last_words, os.getpid())

    def filter(self, record: logging.LogRecord) -> bool:
        """Change a record; return whether it is printed."""
        event = getattr(getattr(record, "event", None), "name", "")
        if event == "JOB_INFO":
            stage = self.stage_of(record)
            if stage is not None:
                self._stage_jobs.add(getattr(record, "jobid", None))
                record.reason = f"{stage.name}: {stage.reason(self._plan.runs or ())}"
            return stage is not None or not TARGETS_ONLY.fullmatch(str(getattr(record, "rule_name", "")))
        if event == "JOB_FINISHED" and getattr(record, "job_id", None) in self._stage_jobs:
            self.finished += 1
        if event == "JOB_ERROR":
            self._note_end(record)
            return False
        text = str(record.msg)
        if record.levelno >= logging.WARNING and (status := _STATUS.search(text)):
            self._status[status[1]] = status[2] or status[3]
            return False
        return not any(start in text for start in _AROUND)

    def stage_of(self, record: logging.LogRecord) -> Stage | None:
        """The stage that a record is about."""
        return next(
            (self._by_receipt[path] for path in getattr(record, "output", []) if path in self._by_receipt), None
        )

    def _note_end(self, record: logging.LogRecord) -> None:
        stage, rule = self.stage_of(record), str(getattr(record, "rule_name", "a job"))
        status = self._status.get(rule, "")
        sentence = None if stage is None else last_sentence(stage.log, stage.name)
        if status and status not in ("1", str(os.EX_TEMPFAIL)):
            ended = _("with exit code {status}", status=status) if status.isdigit() else _("by {status}", status=status)
            sentence = _("it was ended from outside ({ended}); often memory was too short", ended=ended)
        self.ends.append(
            End(stage, rule, sentence or _("it failed before it could say why."), status == str(os.EX_TEMPFAIL))
        )

    def asked_to_stop(self) -> None:
        """Note that this process was asked to end."""
        self.stopping = True
        print(_("\nStopping: the stages under way are asked to end."), file=sys.stderr, flush=True)

    def last_words(self, process: int) -> None:
        """Print what failed or was stopped, run by run."""
        if os.getpid() != process:  # a fork
            return
        if self.terminal is not None:
            self.terminal.leave()
        ends = [
            end for end in self.ends if end.stage is None or not end.stage.receipt.exists()
        ]  # a retry may have done it
        stopped = [end for end in ends if end.stopped or self.stopping]
        failed = [end for end in ends if end not in stopped]
        said = []
        if failed:
            said.append("\n".join([_("\nFailed:"), *(f"  {end}" for end in failed)]))
        if stopped or self.stopping:
            stages = ", ".join(end.stage.title if end.stage else end.rule for end in stopped)
            what = f" ({stages})" if stages else ""
            said.append(_("\nStopped on request{what}; the same command goes on from here.", what=what))
        if self.finished and not said:
            print("", *last_figures(self._plan), sep="\n", file=sys.stderr, flush=True)
        for text in said:
            print(text, file=sys.stderr, flush=True)
        if said or self.finished:
            self._tell("failed" if failed else "stopped" if said else "done", said)

    def _tell(self, event: str, said: list[str]) -> None:
        """Tell whoever wants to know how it ended."""
        if not any(self._hook.values()):
            return
        found = figures(self._plan)
        heading = {"done": _("done"), "failed": _("failed"), "stopped": _("stopped")}[event]
        lines = [f"petrflow, {Path.cwd().name}: {heading}", *(text.strip() for text in said), *figures_in_short(found)]
        if sentence := notify.tell(self._hook, event, "\n".join(lines), found):
            print(
                _("Warning: nobody was told how this ended: {sentence}", sentence=sentence), file=sys.stderr, flush=True
            )


def last_sentence(log: Path, stage: str) -> str | None:
    """Return the last sentence of a stage's log, or the error that training printed before it
    ended.
    """
    try:
        with log.open("rb") as handle:
            handle.seek(max(0, log.stat().st_size - (64 << 10)))
            text = handle.read().decode(errors="replace")
    except OSError:
        return None
    text = text[max(0, text.rfind("\n---- ")) :]  # of the last start
    start = text.rfind(f"\n{stage}: ")
    if start < 0:
        return None
    sentence = text[start + len(stage) + 3 :].strip()
    if "stands above" in sentence and (told := _LOGGED_ERROR.findall(text[:start])):
        return str(told[-1])
    return sentence
