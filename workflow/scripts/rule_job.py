"""What every rule's script does around its one library call: log, clean errors, an end when asked to end."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import signal
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

# A conda environment holds petrflow's dependencies, not petrflow: the checkout serves.
sys.path.append(str(Path(__file__).resolve().parents[2] / "src"))

from petrflow.errors import PetrflowError

STOPPED = 75  # exit code of a stage that was asked to end and can go on from where it was (sysexits' EX_TEMPFAIL)


# Paddle (3.3.1) says this at every import when OMP_NUM_THREADS is above 1, which is what Snakemake sets and a CPU run wants.
CHATTER = re.compile(r"^(WARNING: OMP_NUM_THREADS set to .*|PLEASE USE OMP_NUM_THREADS WISELY\.)$\n?", re.MULTILINE)


class _Tee:
    """Text that goes to the terminal and to the rule's log, without Paddle's chatter."""

    def __init__(self, terminal: TextIO, log: TextIO) -> None:
        self._terminal = terminal
        self._log = log
        self._line_dropped = False

    def write(self, text: str) -> int:
        kept = CHATTER.sub("", text)
        if self._line_dropped and kept == "\n":  # print writes a line and its end apart
            kept = ""
        self._line_dropped = kept != text and not text.endswith("\n")
        self._log.write(kept)
        with contextlib.suppress(BrokenPipeError):
            self._terminal.write(kept)
        return len(text)

    def flush(self) -> None:
        self._log.flush()
        with contextlib.suppress(BrokenPipeError):
            self._terminal.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._terminal, name)


@contextlib.contextmanager
def rule_job(snakemake: Any) -> Iterator[None]:
    """Run a rule's body: copy its output to the rule's log, print errors as one sentence, end cleanly on SIGTERM and SIGINT.

    Parameters
    ----------
    snakemake : Snakemake
        The object Snakemake puts into a script.
    """
    # Paddle says the first at every import (nothing is compiled here) and the second while it exports (nothing is lost by it).
    for message in ("No ccache found", "Tensor do not have 'place'"):
        warnings.filterwarnings("ignore", message=message)
    job_lock = _hold_jobs_lock()
    _end_with(os.environ.get("PETRFLOW_SNAKEMAKE_PID"))
    log_path = Path(str(snakemake.log[0])) if snakemake.log else Path(os.devnull)
    log_path.parent.mkdir(parents=True, exist_ok=True)
    with log_path.open("a" if log_path.name == os.devnull else "w", encoding="utf-8", buffering=1) as log:
        stdout, stderr = sys.stdout, sys.stderr
        sys.stdout, sys.stderr = _Tee(stdout, log), _Tee(stderr, log)  # type: ignore[assignment]
        try:
            for number in (signal.SIGTERM, signal.SIGINT):  # training replaces both by a stop after the step
                signal.signal(number, _interrupt)
            yield
        except PetrflowError as error:
            _leave(f"\n{snakemake.rule}: {error}", 1)
        except KeyboardInterrupt:
            _leave(f"\n{snakemake.rule}: stopped when asked to; the same command makes this stage again.", STOPPED)
        finally:
            sys.stdout, sys.stderr = stdout, stderr
            if job_lock is not None:
                os.close(job_lock)


def schedule_of(snakemake: Any) -> dict[str, Any]:
    """A run's whole schedule, also the part that is no parameter of a rule because it shapes no result."""
    schedule: dict[str, Any] = snakemake.config["runs"][snakemake.wildcards.run]["schedule"]
    return schedule


def _interrupt(_number: int, _frame: object) -> None:
    # A signal to the whole group comes twice, from the group and from Snakemake: ending must not be interrupted.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


def _leave(message: str, code: int) -> None:
    print(message, file=sys.stderr, flush=True)
    raise SystemExit(code)


def _hold_jobs_lock() -> int | None:
    """Show that this job lives, so that a new Snakemake does not take the place of one that was killed while its job still ends."""
    with contextlib.suppress(OSError):
        descriptor = os.open(Path(".snakemake") / "petrflow-jobs.lock", os.O_RDWR | os.O_CREAT, 0o644)
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return descriptor
    return None


def _end_with(snakemake_pid: str | None) -> None:
    """Ask this process to end when the Snakemake that started it is gone: nobody waits for what it makes any more."""
    if snakemake_pid is None or not Path(f"/proc/{snakemake_pid}").exists():
        return
    start = _start_time(int(snakemake_pid))

    def watch() -> None:
        while _start_time(int(snakemake_pid)) == start:
            time.sleep(1.0)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True, name="petrflow-orphan").start()


def _start_time(pid: int) -> str | None:
    """When a process started, in ticks since boot; None when it is gone or a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (OSError, IndexError):
        return None
    return None if fields[0] == "Z" else fields[19]
