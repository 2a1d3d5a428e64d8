"""Worker processes of a loader, and the shared memory that they fill.

Workers are plain subprocesses that talk over socket pairs. They write pictures into shared memory
without a name, a memory file whose descriptor they inherit: the kernel frees it however the
processes end, and the size limit of /dev/shm in containers does not apply. The main script is not
run again in the workers, as multiprocessing would; Snakemake's scripts cannot be run twice.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import pickle
import signal
import socket
import subprocess
import sys
import tempfile
import weakref
from collections import deque
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from petrflow.errors import MachineError, PetrflowError
from petrflow.machine.hardware import child_environment
from petrflow.machine.mkl import THREADS
from petrflow.pictures.resample import warm_up
from petrflow.samples.dataset import PetrDataset
from petrflow.samples.types import Batch, Sample

_SECONDS_TO_STOP = 5.0


def collate(samples: list[Sample], images: NDArray[np.float32]) -> Batch:
    """Make a batch of samples whose pictures lie in `images` (B, 2N, 3, H, W)."""
    batch: Batch = {
        "img": images,
        "lidar2img": np.stack([sample["lidar2img"] for sample in samples]),
        "intrinsics": np.stack([sample["intrinsics"] for sample in samples]),
        "timestamp": np.stack([sample["timestamp"] for sample in samples]),
        "token": [sample["token"] for sample in samples],
    }
    if "gt_bboxes_3d" in samples[0]:
        batch["gt_bboxes_3d"] = [sample["gt_bboxes_3d"] for sample in samples]
        batch["gt_labels_3d"] = [sample["gt_labels_3d"] for sample in samples]
    return batch


class Slots:
    """Shared memory for pictures of batches, each part used again when no array refers to it any
    more.
    """

    def __init__(self, shape: tuple[int, ...], count: int) -> None:
        self.shape = shape
        page = mmap.PAGESIZE
        self.stride = -(-int(np.prod(shape)) * 4 // page) * page
        self.count = count
        self.descriptor = _unnamed_file(self.stride * count)
        self._memory = mmap.mmap(self.descriptor, self.stride * count)
        self.free = deque(range(count))
        weakref.finalize(self, os.close, self.descriptor)

    def take(self) -> tuple[int, NDArray[np.float32]]:
        """Return the number of a free part, and an array over it; there must be one."""
        number = self.free.popleft()
        array = self.view(number)
        # All views of an array, however derived, refer to the one that was made first.
        weakref.finalize(array.base, self.free.append, number)
        return number, array

    def view(self, number: int) -> NDArray[np.float32]:
        """Return an array over one part."""
        size = int(np.prod(self.shape))
        return np.frombuffer(self._memory, np.float32, size, number * self.stride).reshape(self.shape)


def _unnamed_file(size: int) -> int:
    """Return the descriptor of `size` bytes of memory that no folder lists."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("petrflow-loader", os.MFD_CLOEXEC)
    else:
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    os.ftruncate(descriptor, size)
    return descriptor


@dataclass
class Pending:
    """A batch that workers are filling."""

    images: NDArray[np.float32]
    samples: list[Any]
    missing: int


@dataclass
class _Worker:
    connection: Connection
    tasks: dict[int, tuple[Pending, int, int]] = field(default_factory=dict)  # by number: batch, position in it, index


class Pool:
    """Worker processes and what each of them has been asked for."""

    def __init__(self, dataset: PetrDataset, seed: int, num_workers: int, slots: Slots) -> None:
        self._dataset = dataset
        self._slots = slots
        self._next_task = 0
        self.closed = False
        self._process_ids: list[int] = []
        self._exit_codes: dict[int | None, int] = {}
        warm_up()
        pairs = [socket.socketpair() for _ in range(num_workers + 1)]
        theirs = [pair[1].fileno() for pair in pairs]
        # Interrupts are for the parent to answer. Workers are born with them blocked, so that none
        # can hit them while Python starts up, and ignore them from then on.
        previous = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "petrflow.samples.worker", *map(str, [slots.descriptor, *theirs])],
                pass_fds=(slots.descriptor, *theirs),
                stdin=subprocess.DEVNULL,
                env=_worker_environment(),
            )
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, previous)
            for pair in pairs:
                pair[1].close()
        self._control, *connections = [Connection(pair[0].detach()) for pair in pairs]
        self._workers = [_Worker(connection) for connection in connections]
        with contextlib.suppress(OSError):  # if it is gone already, the first batch says so
            self._control.send(sys.path)
            self._control.send_bytes(pickle.dumps((dataset, seed, slots.shape, slots.stride, slots.count)))

    def submit(self, epoch: int, indices: NDArray[np.int64]) -> Pending:
        """Ask workers for a batch; each sample goes to the worker with the fewest tasks."""
        slot, images = self._slots.take()
        pending = Pending(images, [None] * len(indices), len(indices))
        for position, index in enumerate(indices):
            worker = min(self._workers, key=lambda candidate: len(candidate.tasks))
            number = self._next_task
            self._next_task += 1
            worker.tasks[number] = (pending, position, int(index))
            try:
                worker.connection.send((number, epoch, int(index), slot, position))
            except OSError:
                self._fail(worker)
        return pending

    def complete(self, pending: Pending) -> Batch | WorkerFailure:
        """Wait until a batch is whole; return it, or the first failure in it."""
        while pending.missing:
            self._receive()
        failures = [result for result in pending.samples if isinstance(result, WorkerFailure)]
        return failures[0] if failures else collate(pending.samples, pending.images[: len(pending.samples)])

    def drain(self) -> None:
        """Wait for the results of earlier tasks that nobody wants any more, as after an epoch that
        was left early.
        """
        while any(worker.tasks for worker in self._workers):
            self._receive()

    def _receive(self) -> None:
        """Wait for results and put them into their batches."""
        by_connection: dict[Any, _Worker] = {worker.connection: worker for worker in self._workers}
        for connection in wait(list(by_connection)):
            worker = by_connection[connection]
            try:
                number, result = worker.connection.recv()
            except (EOFError, OSError):
                self._fail(worker)
            batch, position, _ = worker.tasks.pop(number)
            batch.samples[position] = result
            batch.missing -= 1

    def _fail(self, worker: _Worker) -> NoReturn:
        """Say that a worker died and what it was loading."""
        number = self._workers.index(worker)
        process, code = self._post_mortem(number)
        tokens = [self._dataset.token(index) for _, _, index in worker.tasks.values()]
        self.close()
        if process is None:
            raise MachineError(
                f"The loader's workers could not start (exit code {self._process.returncode}); what they printed says why."
            )
        how = "stopped answering" if code is None else f"ended with exit code {code}"
        if code is not None and code < 0:
            how = f"was killed by {signal.Signals(-code).name}"
        hint = (
            " The system kills with SIGKILL when memory runs out: use fewer workers." if code == -signal.SIGKILL else ""
        )
        loading = f"while loading sample {tokens[0]}" if tokens else "while idle"
        rest = f" (next in its queue: {', '.join(tokens[1:])})" if len(tokens) > 1 else ""
        raise MachineError(f"A loader worker (process {process}) {how} {loading}{rest}.{hint}")

    def _post_mortem(self, number: int) -> tuple[int | None, int | None]:
        """Return process id and exit code of a worker, as far as the process that started the
        workers tells them.
        """
        with contextlib.suppress(EOFError, OSError):
            while self._process_of(number) not in self._exit_codes and self._control.poll(_SECONDS_TO_STOP):
                self._note(self._control.recv())
        process = self._process_of(number)
        return process, self._exit_codes.get(process)

    def _process_of(self, number: int) -> int | None:
        return self._process_ids[number] if self._process_ids else None

    def _note(self, message: list[int] | tuple[int, int]) -> None:
        """Note what the process that started the workers reports: first all their ids, then each
        one's exit code.
        """
        if isinstance(message, list):
            self._process_ids = message
        else:
            self._exit_codes[message[0]] = message[1]

    def close(self) -> None:
        """End the workers: a closed connection tells them to; if one is stuck, all are killed."""
        for worker in self._workers:
            worker.connection.close()
        self._workers = []
        self.closed = True
        try:
            self._process.wait(_SECONDS_TO_STOP)
        except subprocess.TimeoutExpired:
            self._kill()
        self._control.close()

    def _kill(self) -> None:
        with contextlib.suppress(EOFError, OSError):
            while self._control.poll():
                self._note(self._control.recv())
        for process in self._process_ids:
            if process not in self._exit_codes:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)
        self._process.kill()
        self._process.wait()


@dataclass
class WorkerFailure:
    """An exception on its way from a worker."""

    pickled: bytes
    trace: str

    @classmethod
    def of(cls, error: Exception, trace: str) -> WorkerFailure:
        """Pack an exception; one that cannot be pickled travels as its traceback."""
        try:
            return cls(pickle.dumps(error), trace)
        except Exception:
            return cls(b"", trace)

    def error(self) -> Exception:
        """Return the exception, with the worker's traceback as a note if it was not meant for
        users.
        """
        try:
            error: Exception = pickle.loads(self.pickled)
        except Exception:
            return RuntimeError(f"A loader worker failed:\n{self.trace}")
        if not isinstance(error, PetrflowError):
            error.add_note(f"Traceback in the loader worker:\n{self.trace}")
        return error


def _worker_environment() -> dict[str, str]:
    """Return the workers' environment: one thread each, and freed memory that stays in the process
    for the next picture.
    """
    environment = child_environment()
    for name in (*THREADS, "NUMBA_NUM_THREADS"):
        environment[name] = "1"
    # A decoded picture is 4 MB; mapped afresh each time it would cost a thousand page faults.
    environment.setdefault("MALLOC_MMAP_THRESHOLD_", str(64 << 20))
    environment.setdefault("MALLOC_TRIM_THRESHOLD_", str(256 << 20))
    return environment
