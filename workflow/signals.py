"""Signals to the Snakemake process reach its jobs, and a job whose Snakemake is gone ends.

Seen with Snakemake 9.27: told to end by SIGTERM it waits for running jobs and does not tell them, so a training of ten hours goes on
for ten hours.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from petrflow.files.owners import machine_tag, owner_tag, start_ticks

SNAKEMAKE = "PETRFLOW_SNAKEMAKE"
"""Environment variable with the Snakemake process that a rule's script must not outlive, as an owner
tag: its number alone may name another process on another machine or in another container."""

ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

_wakeup_pipe: list[int] = []


def pass_signals_on(asked: Callable[[int], None] = lambda _: None) -> None:
    """Tell running rule scripts when this process is asked to end, so that training can write its checkpoint.

    Snakemake keeps its own handlers; the interpreter reports every signal on a pipe as well, and a thread reads it there. A closed
    terminal (SIGHUP) counts as SIGTERM, unless the signal was ignored from the start (nohup).

    Parameters
    ----------
    asked : callable
        Called once, with the first such signal.
    """
    if _wakeup_pipe or threading.current_thread() is not threading.main_thread():
        return
    os.environ[SNAKEMAKE] = owner_tag()
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    _wakeup_pipe.extend((reader, writer))
    if signal.getsignal(signal.SIGHUP) == signal.SIG_DFL:
        signal.signal(signal.SIGHUP, lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    threading.Thread(target=_pass_on, args=(reader, asked), daemon=True, name="petrflow-signals").start()


def _pass_on(reader: int, asked: Callable[[int], None]) -> None:
    first = True
    while received := os.read(reader, 64):
        if ending := [number for number in received if number in ENDING]:
            if first:
                asked(ending[0])
                first = False
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


def interrupt_on_signals() -> None:
    """Let a rule's script end by KeyboardInterrupt when it is asked to; training replaces the handlers by a stop after the step."""
    for number in ENDING:
        if not (number == signal.SIGHUP and signal.getsignal(number) == signal.SIG_IGN):
            signal.signal(number, _interrupt)


def _interrupt(_number: int, _frame: object) -> None:
    # A signal to the whole group comes twice, from the group and from Snakemake: ending must not be interrupted. Not SIG_IGN: where both
    # have come before the first is handled, Python 3.11 prints "Signal 15 ignored due to race condition" with a traceback.
    for number in ENDING:
        signal.signal(number, _already_ending)
    raise KeyboardInterrupt


def _already_ending(_number: int, _frame: object) -> None:
    """Do nothing more about a signal: the script is ending for the one before."""


def end_with_snakemake() -> None:
    """Ask this process to end when the Snakemake that started it is gone: nobody waits for what it makes any more.

    A Snakemake on another machine, as that of a cluster's login node, is not watched: the cluster ends its jobs.
    """
    tag = os.environ.get(SNAKEMAKE, "")
    machine, _, process = tag.partition("-")
    if machine != machine_tag(os.getpid()):
        return
    pid, start = process.split("-")

    def watch() -> None:
        while _alive_since(int(pid)) == start:
            time.sleep(1.0)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True, name="petrflow-orphan").start()


def _alive_since(pid: int) -> str:
    """When a process started, in ticks since boot; empty when it is gone or a zombie."""
    with contextlib.suppress(OSError, IndexError):
        if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
            return start_ticks(pid)
    return ""
