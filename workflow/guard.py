"""What the Snakemake process itself does about being killed: stale locks, signals to its jobs, and the checks before work starts.

Seen with Snakemake 9.27: killed with SIGKILL it leaves file lists under `.snakemake/locks`, and every later run stops until somebody
types `--unlock`; told to end by SIGTERM it waits for running jobs and does not tell them, so a training of ten hours goes on for ten
hours. Both are mended here, from the Snakefile's global code, with the kernel's locks and Python's own signal interface.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import psutil

MAIN_LOCK = "petrflow-main.lock"  # held, shared, by every live Snakemake process of the folder
JOBS_LOCK = "petrflow-jobs.lock"  # held, shared, by every live rule script of the folder
ORPHAN_SECONDS = 60.0
# Dry runs and reports hold the lock for a few seconds; a run that starts beside one waits that long before it takes it for a real one.
CONTEST_SECONDS = 5.0

_held: list[int] = []
_wakeup_pipe: list[int] = []


def enter(folder: Path) -> None:
    """Take part in a folder's runs: hold its lock for the life of this process, and drop Snakemake locks that nobody holds.

    Two live runs stay apart as before: while another process of this workflow lives, Snakemake's own file lists are left alone and
    Snakemake refuses what overlaps. Where the file system has no locks (some mounted buckets), nothing is judged stale.

    Parameters
    ----------
    folder : Path
        The `.snakemake` folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        descriptor = os.open(folder / MAIN_LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError:
        return
    _held.append(descriptor)
    try:
        if _is_alone(descriptor, CONTEST_SECONDS if _lists(folder) else 0.0):
            _remove_stale(folder)
        # Between giving up the exclusive lock and getting the shared one, another process may look: it finds no file list of ours yet.
        fcntl.flock(descriptor, fcntl.LOCK_SH)
    except OSError:
        return


def _is_alone(descriptor: int, patience: float) -> bool:
    """Try for the exclusive lock for `patience` seconds."""
    deadline = time.monotonic() + patience
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.2)


def _lists(folder: Path) -> list[Path]:
    """Snakemake's lock files: lists of the files that a run reads or writes."""
    return sorted((folder / "locks").glob("*.lock"))


def _remove_stale(folder: Path) -> None:
    """Remove file lists left by killed runs, once the jobs that outlived their Snakemake have ended."""
    stale = _lists(folder)
    if not stale:
        return
    descriptor = os.open(folder / JOBS_LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        if not _is_alone(descriptor, 0.0):
            print(
                f"A job of a killed run is still ending; waiting up to {ORPHAN_SECONDS:.0f} s for it.", file=sys.stderr
            )
            if not _is_alone(descriptor, ORPHAN_SECONDS):
                return
    finally:
        os.close(descriptor)
    for path in stale:
        path.unlink(missing_ok=True)
    print("The last run here was killed; its lock held nothing any more and was removed.", file=sys.stderr)


def pass_signals_on() -> None:
    """Tell running rule scripts when this process is asked to end (SIGTERM or SIGINT), so that training can write its checkpoint.

    Snakemake keeps its own handlers; the interpreter reports every signal on a pipe as well, and a thread reads it there.
    """
    if _wakeup_pipe or threading.current_thread() is not threading.main_thread():
        return
    os.environ["PETRFLOW_SNAKEMAKE_PID"] = str(os.getpid())
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    _wakeup_pipe.extend((reader, writer))
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    threading.Thread(target=_pass_on, args=(reader,), daemon=True, name="petrflow-signals").start()


def _pass_on(reader: int) -> None:
    while received := os.read(reader, 64):
        if set(received) & {signal.SIGTERM, signal.SIGINT}:
            for process in rule_scripts():
                with contextlib.suppress(psutil.Error):
                    process.send_signal(signal.SIGTERM)


def rule_scripts() -> list[psutil.Process]:
    """Live processes under this one that run a rule's script (and not the shell around it or the workers below it)."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            command = process.cmdline()
            if len(command) > 1 and "python" in Path(command[0]).name and "/.snakemake/scripts/" in command[1]:
                found.append(process)
    return found


def check_machine(config: dict[str, Any], models: dict[str, Any], python: str = sys.executable) -> bool:
    """Print what this machine is good for, and say whether it can do what the config asks for.

    Runs in a process of its own: asking Paddle means importing it, and it must be the Paddle that the stages will use.

    Parameters
    ----------
    config, models : dict
        The checked config with the runs that are about to start, and the path of each run's model file.
    python : str
        Interpreter of the environment in which the stages run.
    """
    source = str(Path(__file__).resolve().parents[1] / "src")
    request = json.dumps({"config": config, "models": {run: str(path) for run, path in models.items()}})
    search_path = os.pathsep.join(filter(None, [source, os.environ.get("PYTHONPATH")]))
    environment = os.environ | {"PYTHONPATH": search_path, "PYTHONWARNINGS": "ignore"}
    command = [python, str(Path(__file__).with_name("machine.py"))]
    return subprocess.run(command, input=request, text=True, env=environment, check=False).returncode == 0
