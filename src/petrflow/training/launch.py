"""Start one process a device, and end them together."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import FrameType
from typing import Any

from petrflow.files import read_json, remove
from petrflow.machine.mkl import THREADS
from petrflow.training.stopping import EX_TEMPFAIL

PARENT = "PETRFLOW_PARENT"
"""Environment variable with the process that a training process must not outlive."""


def launch(request_path: Path, devices: int = 1, script: Path | None = None) -> int:
    """Train in a process of its own, or in one a device under ``paddle.distributed.launch``; return the exit code.

    The processes get what must be set before Python starts: deterministic kernels, and an allocator that keeps its pages. What they
    print goes to ``sys.stderr`` as it stands here. SIGTERM and SIGINT are passed on, and a child whose parent is gone stops too.

    Parameters
    ----------
    request_path : Path
        JSON of a :class:`petrflow.training.request.Request`.
    devices : int
        Processes; logs of those after the first go to ``launch/`` beside the request.
    script : Path, optional
        What to run in place of ``petrflow/train.py``.

    Returns
    -------
    int
        0 when training is done, 75 when it stopped and left a checkpoint, anything else after an error (which it has printed).
    """
    script = script or Path(__file__).with_name("train.py")
    command = [sys.executable, str(script), "--request", str(request_path)]
    outcome = request_path.with_name("outcome.json")
    log_dir = request_path.with_name("launch")
    if devices > 1:
        remove(outcome)
        remove(log_dir)
        log_dir.mkdir(parents=True)
        options = ["--nproc_per_node", str(devices), "--log_dir", str(log_dir), "--log_level", "ERROR"]
        command = [sys.executable, __file__, *options, *command[1:]]
    environment = _environment(devices)
    if devices > 1 and read_json(request_path)["schedule"].get("device") == "cpu":
        environment["PADDLE_DISTRI_BACKEND"] = "gloo"  # a GPU build would ask for NCCL
    code = _run(command, environment, log_dir / "workerlog.0" if devices > 1 else None)
    if devices > 1:
        if code and outcome.exists():
            code = int(read_json(outcome)["code"])  # the launcher's own code after a signal is the signal's number
        elif code:
            print(f"A training process was lost (code {code}); the logs of all are in {log_dir}", file=sys.stderr)
    return code


def _environment(devices: int) -> dict[str, str]:
    environment = dict(os.environ)
    defaults = {
        "FLAGS_cudnn_deterministic": "1",
        "FLAGS_embedding_deterministic": "1",
        "PYTHONWARNINGS": "ignore:No ccache found,ignore:When training",  # about compiling extensions; about a default of 2.0
        # Half of a CPU step can be page faults: keep freed memory in the process.
        "MALLOC_MMAP_MAX_": "0",
        "MALLOC_TRIM_THRESHOLD_": str(64 << 30),
        "MALLOC_TOP_PAD_": str(256 << 20),
    }
    for name, value in defaults.items():
        environment.setdefault(name, value)
    if devices > 1:
        environment.setdefault("GLOG_minloglevel", "1")  # not which ports and sockets were opened
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        told = environment.get(THREADS[0], "")  # Snakemake: how many cores this job has
        cores = min(cores, int(told)) if told.isdigit() else cores
        environment.update(dict.fromkeys(THREADS, str(max(1, cores // devices))))
    package = str(Path(__file__).resolve().parents[2])
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")]))
    environment["PYTHONSAFEPATH"] = (
        "1"  # a script's own folder must not stand in for installed modules of the same names
    )
    environment[PARENT] = str(os.getpid())
    return environment


def _run(command: list[str], environment: dict[str, str], log_path: Path | None) -> int:
    """Run a command to its end with its output on our ``sys.stderr`` (or that of the first process, from its log)."""
    # Training is born with these blocked and lets them in once it can answer them; importing Paddle takes seconds.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    try:
        process = subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)

    def pass_on(number: int, _: FrameType | None) -> None:
        asked.append(number)
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)

    asked: list[int] = []
    previous: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():
        previous = {number: signal.signal(number, pass_on) for number in (signal.SIGTERM, signal.SIGINT)}
    tail = threading.Thread(target=_tail, args=(log_path, process), daemon=True)
    try:
        if log_path is not None:
            tail.start()
        assert process.stdout is not None
        while chunk := os.read(process.stdout.fileno(), 1 << 16):
            if log_path is None:
                _show(chunk)
        code = process.wait()
        if log_path is not None:
            tail.join(2.0)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    # A signal that comes before Paddle's launcher has its own handler ends it at once; nothing is lost by that.
    return EX_TEMPFAIL if asked and code in (-signal.SIGTERM, signal.SIGTERM) else code


def _show(chunk: bytes) -> None:
    with contextlib.suppress(OSError):
        sys.stderr.write(chunk.decode(errors="replace"))
        sys.stderr.flush()


def _tail(path: Path, process: subprocess.Popen[bytes]) -> None:
    """Show a growing log until the process that makes it has ended."""
    position = 0
    while True:
        ended = process.poll() is not None
        if path.exists():
            with path.open("rb") as handle:
                handle.seek(position)
                chunk = handle.read()
            position += len(chunk)
            _show(chunk)
        if ended:
            return
        time.sleep(0.5)


def end_with_parent() -> None:
    """Ask the kernel for a SIGTERM when the process that launched this one is gone (Linux; elsewhere training just goes on)."""
    parent = os.environ.pop(PARENT, None)
    if parent is None:
        return
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None, use_errno=True).prctl(1, signal.SIGTERM)  # 1: PR_SET_PDEATHSIG
    if os.getppid() != int(parent):
        os.kill(os.getpid(), signal.SIGTERM)  # blocked until training can answer it


def _paddle_launch() -> None:
    """Be ``python -m paddle.distributed.launch`` with this process's arguments, ending with the parent."""
    end_with_parent()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM, signal.SIGINT})
    os.environ[PARENT] = str(os.getpid())
    import runpy

    sys.argv[0] = "paddle.distributed.launch"
    runpy.run_module("paddle.distributed.launch", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    _paddle_launch()
