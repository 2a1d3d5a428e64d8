"""Start one training process a device, pass one signal on to them, and end them together.

The processes find each other by variables that Paddle reads, such as ``PADDLE_TRAINER_ID``.
Paddle's own launcher is not used. Seen in 3.3.1: it writes the whole environment, credentials
included, into its log folder; a second Ctrl-C ends it before its processes have written a
checkpoint; and with ``CUDA_VISIBLE_DEVICES`` set it starts fewer processes than asked, or none, on
a CPU.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from petrflow.files import remove
from petrflow.machine.hardware import child_environment, cores
from petrflow.machine.mkl import THREADS
from petrflow.training.stopping import stop_signals

PARENT = "PETRFLOW_PARENT"
"""Environment variable with the process that a training process must not outlive."""
CLUSTER = ("PADDLE_TRAINER_ID", "PADDLE_TRAINERS_NUM", "PADDLE_CURRENT_ENDPOINT", "PADDLE_TRAINER_ENDPOINTS", "PADDLE_MASTER",
           "PADDLE_DISTRI_BACKEND", "MASTER_ADDR", "MASTER_PORT")  # fmt: skip
"""Variables by which Paddle's processes find each other. Those of another job (Slurm's, say) must
not reach ours.
"""
SECONDS_AFTER_FAILURE = 10.0
"""Seconds that the other processes have to say why they end, once one has failed."""
SECONDS_AFTER_STOP = 60.0
"""Seconds that the other processes have to end, once one has stopped or is done."""
LAST_LINES = 15


def launch(request_path: Path, devices: int = 1, script: Path | None = None, keep: Sequence[int] = ()) -> int:
    """Train in a process of its own, or in one a device; return the exit code.

    The processes get what must be set before Python starts: deterministic kernels, and an allocator
    that keeps its pages. What the first one prints goes to ``sys.stderr``. The first SIGTERM,
    SIGINT or SIGHUP is passed on to all. A process whose parent is gone stops too. When one process
    fails, the others are ended, and what it said last is printed.

    Parameters
    ----------
    request_path : Path
        JSON of a :class:`petrflow.training.request.Request`.
    devices : int
        Processes; logs of those after the first go to ``launch/`` beside the request.
    script : Path, optional
        What to run in place of ``python -m petrflow.training``.
    keep : sequence of int
        Descriptors of locks that the processes inherit: a training that outlives this process while
        it writes its checkpoint still has its GPUs.

    Returns
    -------
    int
        0 when training is done, 75 when it stopped and left a checkpoint, anything else after an
        error (which is printed).
    """
    program = [str(script)] if script else ["-P", "-m", "petrflow.training"]  # -P: not the working folder's modules
    command = [sys.executable, *program, "--request", str(request_path)]
    logs = request_path.with_name("launch")
    remove(logs)
    addresses = free_addresses(devices)
    asked: list[int] = []
    started: list[Started] = []
    with _signals_passed_on(started, asked):
        for rank in range(devices):
            path = logs / f"rank-{rank}.log" if rank else None
            started.append(_start(command, rank_environment(rank, addresses), path, keep))
        order = _wait_for_all(started)
    return _outcome(started, order, bool(asked))


# ------------------------------------------------------------------------------------------------------------------ environment


def free_addresses(count: int) -> list[str]:
    """Return as many addresses ``127.0.0.1:PORT``; their ports were free a moment ago."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [f"127.0.0.1:{each.getsockname()[1]}" for each in sockets]


def rank_environment(rank: int, addresses: Sequence[str], local_rank: int | None = None) -> dict[str, str]:
    """Return the environment of one of the processes that train together.

    Parameters
    ----------
    rank : int
        Its number among all processes.
    addresses : sequence of str
        ``HOST:PORT`` of all processes, the first one's first. All of them must be given the same.
    local_rank : int, optional
        Which GPU of its machine it takes; ``rank`` where all processes run on one machine.
    """
    environment = _environment(len(addresses))
    for name in CLUSTER:
        environment.pop(name, None)
    if len(addresses) > 1:
        environment |= {
            "PADDLE_TRAINER_ID": str(rank),
            "PADDLE_TRAINERS_NUM": str(len(addresses)),
            "PADDLE_CURRENT_ENDPOINT": addresses[rank],
            "PADDLE_TRAINER_ENDPOINTS": ",".join(addresses),
            "PADDLE_MASTER": addresses[0],
            "FLAGS_selected_gpus": str(rank if local_rank is None else local_rank),
        }
    return environment


def _environment(devices: int) -> dict[str, str]:
    """Return what any training process needs before Python starts; the caller's own values win."""
    environment = child_environment()
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
        share = environment.get(THREADS[0], "")  # Snakemake: how many cores this job has
        available = min(cores(), int(share)) if share.isdigit() else cores()
        environment.update(dict.fromkeys(THREADS, str(max(1, available // devices))))
    environment[PARENT] = str(os.getpid())
    return environment


# ------------------------------------------------------------------------------------------------------------------ processes


@dataclass
class Started:
    """A training process.

    Attributes
    ----------
    process : Popen
    log : Path, optional
        Where its output goes; None where it is shown.
    reader : Thread, optional
        Shows the output.
    """

    process: subprocess.Popen[bytes]
    log: Path | None
    reader: threading.Thread | None = None

    @property
    def code(self) -> int:
        """Exit code, or minus the signal that killed it; only to be asked for when it has ended."""
        assert self.process.returncode is not None
        return self.process.returncode


@contextlib.contextmanager
def _signals_passed_on(started: Sequence[Started], asked: list[int]) -> Iterator[None]:
    """Pass the first signal that asks to stop on to all processes, and note it; signals are blocked
    when the body begins.
    """

    def pass_on(number: int, _: FrameType | None) -> None:
        # A terminal's Ctrl-C reaches the processes by itself as well; people press it twice.
        if not asked:
            for each in started:
                with contextlib.suppress(ProcessLookupError):
                    each.process.send_signal(number)
        asked.append(number)

    numbers = stop_signals()
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    previous: dict[int, Any] = {}
    try:
        if threading.current_thread() is threading.main_thread():
            previous = {number: signal.signal(number, pass_on) for number in numbers}
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _start(command: Sequence[str], environment: dict[str, str], log: Path | None, keep: Sequence[int]) -> Started:
    """Start a process. It is born with stop signals blocked and lets them in once it can answer
    them: importing Paddle takes seconds.
    """
    if log is None:
        process = subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            pass_fds=keep,
        )
        reader = threading.Thread(target=_show_all, args=(process,), daemon=True)
        reader.start()
        return Started(process, None, reader)
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, pass_fds=keep
        )
    return Started(process, log)


def _show_all(process: subprocess.Popen[bytes]) -> None:
    """Show what a process prints, on ``sys.stderr`` as it stands here."""
    assert process.stdout is not None
    while chunk := os.read(process.stdout.fileno(), 1 << 16):
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.write(chunk.decode(errors="replace"))
            sys.stderr.flush()


def _wait_for_all(started: Sequence[Started]) -> list[int]:
    """Wait until all processes have ended, killing those that outlast the first by too much; return
    their ranks in the order of their ends.
    """
    ended: queue.SimpleQueue[int] = queue.SimpleQueue()

    def wait(rank: int) -> None:
        started[rank].process.wait()
        ended.put(rank)

    for rank in range(len(started)):
        threading.Thread(target=wait, args=(rank,), daemon=True).start()
    # Signals were blocked until here, so that each one finds every process started, and this thread
    # to answer it.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, stop_signals())
    order: list[int] = []
    deadline: float | None = None
    while len(order) < len(started):
        try:
            rank = ended.get(timeout=None if deadline is None else max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            for other in set(range(len(started))) - set(order):
                started[other].process.kill()
            deadline = None
            continue
        if not order:
            calm = started[rank].code in (0, os.EX_TEMPFAIL)
            deadline = time.monotonic() + (SECONDS_AFTER_STOP if calm else SECONDS_AFTER_FAILURE)
        order.append(rank)
    for each in started:
        if each.reader is not None:
            each.reader.join(5.0)
    return order


def _outcome(started: Sequence[Started], order: Sequence[int], asked: bool) -> int:
    """Return the exit code of a training from those of its processes, and say what failed."""
    codes = [started[rank].code for rank in order]
    if not any(codes):
        return 0
    if codes[0] == os.EX_TEMPFAIL or (asked and started[0].code == os.EX_TEMPFAIL):
        return os.EX_TEMPFAIL  # the others may have lost their partner in the middle of a reduction
    if asked and all(-code in stop_signals() for code in codes):
        print("Stopped before training began. Run the same command again to start", file=sys.stderr)
        return os.EX_TEMPFAIL
    rank, code = next((rank, code) for rank, code in zip(order, codes, strict=True) if code not in (0, os.EX_TEMPFAIL))
    name = (
        "The training process"
        if len(started) == 1
        else f"A training process was lost: number {rank + 1} of {len(started)}"
    )
    if code < 0:
        hint = " The system kills with SIGKILL when memory runs out." if code == -signal.SIGKILL else ""
        print(f"{name} was killed by {signal.Signals(-code).name}.{hint}", file=sys.stderr)
    elif len(started) > 1:
        print(f"{name} ended with code {code}. The others were ended too.", file=sys.stderr)
    log = started[rank].log
    if log is not None:
        lines = log.read_text(errors="replace").splitlines()[-LAST_LINES:]
        print(f"Its last lines, from {log}:\n" + "\n".join(f"    {line}" for line in lines), file=sys.stderr)
    return code


def end_with_parent() -> None:
    """Ask the kernel for a SIGTERM when the process that launched this one is gone (Linux;
    elsewhere training just goes on).
    """
    parent = os.environ.pop(PARENT, None)
    if parent is None:
        return
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None, use_errno=True).prctl(1, signal.SIGTERM)  # 1: PR_SET_PDEATHSIG
    if os.getppid() != int(parent):
        os.kill(os.getpid(), signal.SIGTERM)  # blocked until training can answer it
