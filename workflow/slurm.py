"""What the workflow asks Slurm: which jobs of this folder an earlier run left, and to start a
stopped job again.

The executor plugin submits jobs and waits for them. When its Snakemake is killed, the jobs go on;
the next Snakemake must not submit them a second time.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

MAX_RESTARTS = 50
"""How often a stopped job is started again. A training that is preempted more often needs a person."""
POLL_SECONDS = 10.0
ASK_SECONDS = 60.0
"""Seconds that Slurm has to answer."""

_PLUGIN_COMMENT = re.compile(r"rule_(?P<rule>.+?)(_wildcards_(?P<wildcards>.+))?")


@dataclass(frozen=True)
class Job:
    """A job of this folder that is waiting or running: its number, state, and the rule's comment."""

    number: str
    state: str
    comment: str

    def __str__(self) -> str:
        match = _PLUGIN_COMMENT.fullmatch(self.comment)
        subject = re.sub(r"_?[0-9a-f]{16}$", "", (match["wildcards"] or "")) if match else ""
        what = " ".join(filter(None, [match["rule"], subject])) if match else self.comment
        return f"{self.number} ({what}, {self.state.lower()})"


def _ask(*command: str) -> str | None:
    """Return what one of Slurm's programs prints; None where it is missing or does not answer."""
    if shutil.which(command[0]) is None:
        return None
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=ASK_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def jobs_of(folder: Path) -> list[Job]:
    """Return the jobs of rules that Slurm holds for this user and folder, oldest first.

    Parameters
    ----------
    folder : Path
        The folder that Snakemake was started in.
    """
    answer = _ask("squeue", "--me", "--noheader", "--sort=i", "--format=%i|%T|%Z|%k")
    found = []
    for line in (answer or "").splitlines():
        number, state, where, comment = [*line.split("|", 3), "", "", ""][:4]
        if _PLUGIN_COMMENT.fullmatch(comment) and os.path.realpath(where) == os.path.realpath(folder):
            found.append(Job(number, state, comment))
    return found


def wait_for_earlier_jobs(folder: Path) -> None:
    """Wait until the jobs that an earlier, killed Snakemake left in this folder have ended.

    Their results are then found as any others, and nothing is computed twice. Ctrl-C ends the wait
    and leaves the jobs alone.
    """
    jobs = jobs_of(folder)
    if not jobs:
        return
    print(
        f"Jobs of an earlier run here are still under way: {', '.join(map(str, jobs))}. Waiting for them. "
        f"Ctrl-C leaves them alone; scancel {' '.join(job.number for job in jobs)} ends them, and training "
        "then goes on from its checkpoint.",
        file=sys.stderr,
        flush=True,
    )
    while jobs:
        time.sleep(POLL_SECONDS)
        jobs = jobs_of(folder)
    print("They have ended.", file=sys.stderr, flush=True)


def start_again() -> str:
    """Ask Slurm to start this job again from the queue, after a stage was asked to end.

    A job that is near its time limit or about to be preempted is told by a signal, writes its
    checkpoint and ends. Slurm starts it again, also when the Snakemake that submitted it is gone.
    A job that somebody cancelled stays cancelled.

    Returns
    -------
    str
        What happened, as a sentence; empty outside of a job that the executor plugin submitted.
    """
    number = os.environ.get("SLURM_JOB_ID")
    answer = _ask("scontrol", "--oneliner", "show", "job", number) if number else None
    if not number or answer is None:
        return ""
    fields = dict(re.findall(r"(\w+)=(\S*)", answer))
    if fields.get("BatchFlag") != "1" or not fields.get("Comment", "").startswith("rule_"):
        return ""
    if fields.get("JobState") != "RUNNING":
        return ""
    restarts = int(fields.get("Restarts", "0"))
    if restarts >= MAX_RESTARTS:
        return f"Slurm has started this job again {restarts} times; it is left to you now."
    if _ask("scontrol", "requeue", number) is None:
        return "Slurm did not take the job back into its queue."
    return "Slurm starts it again."
