"""Batches for training and evaluation: an order that is a pure function of (seed, epoch), loaded by worker processes.

Workers are plain subprocesses that talk over a socket pair and write pictures into shared memory that has no name: a memory
file whose descriptor they inherit. Whoever is killed, and however, the kernel frees it; /dev/shm and its size limit in
containers do not come into it; and the main script is not run again in the workers, which Snakemake's scripts could not bear.
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
from collections.abc import Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from petrflow.dataset import PetrDataset, Sample
from petrflow.files import PetrflowError
from petrflow.resample import warm_up

Batch = dict[str, Any]

# Keys of a sample that are stacked; the others become lists.
_STACKED = ("lidar2img", "intrinsics", "timestamp")
# Streams of random numbers that must never meet.
_ORDER, _AUGMENTATION = 0, 1
_SECONDS_TO_STOP = 5.0


def sample_rng(seed: int, epoch: int, index: int) -> np.random.Generator:
    """Return the random numbers of one sample in one epoch: a function of these three numbers and nothing else."""
    return np.random.Generator(
        np.random.Philox(np.random.SeedSequence([seed, epoch], spawn_key=(_AUGMENTATION, index)))
    )


def epoch_order(seed: int, epoch: int, length: int, shuffle: bool) -> NDArray[np.int64]:
    """Return the order of an epoch's samples, (length,) int64: a function of its arguments and nothing else."""
    if not shuffle:
        return np.arange(length)
    sequence = np.random.SeedSequence([seed, epoch], spawn_key=(_ORDER,))
    return np.random.Generator(np.random.Philox(sequence)).permutation(length)


def epoch_batches(
    order: NDArray[np.int64], batch_size: int, *, drop_last: bool, rank: int, world_size: int, equal_steps: bool
) -> list[NDArray[np.int64]]:
    """Cut an order into this rank's batches.

    Step k of all ranks together is step k of one process with ``world_size`` times the batch size. What is left over at
    the end is dropped (`drop_last`); or filled up from the start of the order, so that every rank takes as many steps
    (`equal_steps`, for training on several devices); or dealt out, so that each sample comes exactly once.
    """
    whole = batch_size * world_size
    full = len(order) // whole * whole
    batches = [order[start + rank * batch_size :][:batch_size] for start in range(0, full, whole)]
    rest = order[full:]
    if len(rest) == 0 or drop_last:
        return batches
    if equal_steps and world_size > 1:
        rest = np.concatenate([rest, np.resize(order, whole - len(rest))])
    share = rest[rank * batch_size :][:batch_size]
    return [*batches, share] if len(share) else batches


class Loader:
    """Iterate over a dataset in batches.

    Parameters
    ----------
    dataset : PetrDataset
    batch_size : int
        Of this rank.
    seed : int
    num_workers : int
        Processes that load; 0 loads in this process. The batches are the same, byte for byte.
    shuffle, drop_last : bool
    rank, world_size : int
        See :func:`epoch_batches`. A training dataset has as many steps on every rank; otherwise every sample comes once.
    prefetch : int
        Batches loaded ahead of the one in hand.
    """

    def __init__(
        self,
        dataset: PetrDataset,
        batch_size: int,
        seed: int,
        num_workers: int,
        *,
        shuffle: bool,
        drop_last: bool,
        rank: int = 0,
        world_size: int = 1,
        prefetch: int | None = None,
    ) -> None:
        if batch_size < 1 or num_workers < 0 or not 0 <= rank < world_size:
            raise PetrflowError(
                f"Loader needs batch_size >= 1 (got {batch_size}), num_workers >= 0 (got {num_workers}) "
                f"and 0 <= rank < world_size (got {rank} of {world_size})."
            )
        self.dataset = dataset
        self.batch_size = batch_size
        self.seed = seed
        self.num_workers = num_workers
        self.shuffle = shuffle
        self.drop_last = drop_last
        self.rank = rank
        self.world_size = world_size
        if prefetch is None:
            prefetch = 1 + -(-num_workers // batch_size)
        self.prefetch = prefetch if num_workers else 0
        # One batch in the caller's hand while it asks for the next, one being handed over, the rest being filled.
        self._slots = _Slots((batch_size, *dataset.image_shape), self.prefetch + 2)
        self._pool: _Pool | None = None
        if len(dataset) == 0 or (drop_last and len(dataset) < batch_size * world_size):
            raise PetrflowError(
                f"{len(dataset)} samples make no batch of {batch_size} on each of {world_size} devices. "
                "Use a smaller batch size or more data."
            )

    def batches(self, epoch: int) -> list[NDArray[np.int64]]:
        """Return the sample indices of each of this rank's batches."""
        order = epoch_order(self.seed, epoch, len(self.dataset), self.shuffle)
        return epoch_batches(
            order,
            self.batch_size,
            drop_last=self.drop_last,
            rank=self.rank,
            world_size=self.world_size,
            equal_steps=self.dataset.training,
        )

    def __len__(self) -> int:
        """Batches of this rank per epoch."""
        return len(self.batches(0))

    def epoch(self, epoch: int, start_batch: int = 0) -> Iterator[Batch]:
        """Iterate over an epoch's batches from `start_batch` on; what comes before is not loaded.

        A batch holds ``img`` (B, 2N, 3, H, W) float32, ``lidar2img`` and ``intrinsics`` (B, 2N, 4, 4) float32, ``timestamp``
        (B, 2N) float32, ``token`` and, in training, ``gt_bboxes_3d`` and ``gt_labels_3d`` as lists; see
        :meth:`PetrDataset.load`. Its memory is used again once nothing refers to it any more.
        """
        todo = self.batches(epoch)[start_batch:]
        if self.num_workers == 0:
            return self._here(epoch, todo)
        return self._by_workers(epoch, todo)

    def close(self) -> None:
        """End the workers. The loader can be used again; it starts new ones."""
        if self._pool is not None:
            self._pool.close()
            self._pool = None

    def __enter__(self) -> Loader:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _here(self, epoch: int, todo: list[NDArray[np.int64]]) -> Iterator[Batch]:
        for indices in todo:
            images = self._slots.take()[1] if self._slots.free else np.empty(self._slots.shape, np.float32)
            samples = [
                self.dataset.load(int(index), sample_rng(self.seed, epoch, int(index)), out=images[position])
                for position, index in enumerate(indices)
            ]
            batch = _collate(samples, images[: len(indices)])
            del images, samples
            yield batch
            del batch

    def _by_workers(self, epoch: int, todo: list[NDArray[np.int64]]) -> Iterator[Batch]:
        if self._pool is not None and self._pool.closed:  # a worker died; what it was to fill may still be referred to
            self._slots = _Slots(self._slots.shape, self._slots.count)
            self._pool = None
        if self._pool is None:
            self._pool = _Pool(self.dataset, self.seed, self.num_workers, self._slots)
        pool, slots = self._pool, self._slots
        pool.drain()
        waiting: deque[_Pending] = deque()
        upcoming = iter(todo)
        try:
            for _ in todo:
                while len(waiting) <= self.prefetch and slots.free and (indices := next(upcoming, None)) is not None:
                    waiting.append(pool.submit(epoch, indices))
                batch = pool.complete(waiting.popleft())
                if isinstance(batch, WorkerFailure):
                    raise batch.error()
                # A caller that keeps many batches gets copies at last, so that one part of the ring always goes round.
                if not waiting and not slots.free:
                    batch["img"] = batch["img"].copy()
                yield batch
                del batch
        finally:
            waiting.clear()  # a caught exception keeps this frame, and must not keep the ring


def _collate(samples: list[Sample], images: NDArray[np.float32]) -> Batch:
    batch: Batch = {"img": images}
    for key in samples[0]:
        if key != "img":
            values = [sample[key] for sample in samples]
            batch[key] = np.stack(values) if key in _STACKED else values
    return batch


class _Slots:
    """Shared memory for pictures of batches, each part used again when no array refers to it any more."""

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
class _Pending:
    """A batch that workers are filling."""

    images: NDArray[np.float32]
    samples: list[Any]
    missing: int


@dataclass
class _Worker:
    connection: Connection
    tasks: dict[int, tuple[_Pending, int, int]] = field(default_factory=dict)  # by number: batch, position in it, index


class _Pool:
    """Worker processes and what each of them has been asked for."""

    def __init__(self, dataset: PetrDataset, seed: int, num_workers: int, slots: _Slots) -> None:
        self._dataset = dataset
        self._slots = slots
        self._next_task = 0
        self.closed = False
        self._process_ids: list[int] = []
        self._exit_codes: dict[int | None, int] = {}
        warm_up()
        pairs = [socket.socketpair() for _ in range(num_workers + 1)]
        theirs = [pair[1].fileno() for pair in pairs]
        # Interrupts are for the parent to answer. Workers are born with them blocked, so that none can hit them while
        # Python starts up, and ignore them from then on.
        previous = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "petrflow.loader_worker", *map(str, [slots.descriptor, *theirs])],
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

    def submit(self, epoch: int, indices: NDArray[np.int64]) -> _Pending:
        """Ask workers for a batch, each sample of the one with the least to do."""
        slot, images = self._slots.take()
        pending = _Pending(images, [None] * len(indices), len(indices))
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

    def complete(self, pending: _Pending) -> Batch | WorkerFailure:
        """Wait until a batch is whole; return it, or the first thing that went wrong in it."""
        while pending.missing:
            self._receive()
        failures = [result for result in pending.samples if isinstance(result, WorkerFailure)]
        return failures[0] if failures else _collate(pending.samples, pending.images[: len(pending.samples)])

    def drain(self) -> None:
        """Wait for the end of what was asked for and is no longer wanted, as after an epoch that was left early."""
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
            raise PetrflowError(
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
        raise PetrflowError(f"A loader worker (process {process}) {how} {loading}{rest}.{hint}")

    def _post_mortem(self, number: int) -> tuple[int | None, int | None]:
        """Return process id and exit code of a worker, as far as the process that started the workers tells them."""
        with contextlib.suppress(EOFError, OSError):
            while self._process_of(number) not in self._exit_codes and self._control.poll(_SECONDS_TO_STOP):
                self._note(self._control.recv())
        process = self._process_of(number)
        return process, self._exit_codes.get(process)

    def _process_of(self, number: int) -> int | None:
        return self._process_ids[number] if self._process_ids else None

    def _note(self, message: list[int] | tuple[int, int]) -> None:
        """Keep what the process that started the workers says: first all their ids, then each one's exit code."""
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
        """Return the exception, with the worker's traceback as a note if it was not meant for users."""
        try:
            error: Exception = pickle.loads(self.pickled)
        except Exception:
            return RuntimeError(f"A loader worker failed:\n{self.trace}")
        if not isinstance(error, PetrflowError):
            error.add_note(f"Traceback in the loader worker:\n{self.trace}")
        return error


def _worker_environment() -> dict[str, str]:
    """One thread a worker, and memory that goes back and forth within the process instead of to the kernel."""
    environment = dict(os.environ)
    package = str(Path(__file__).parents[1])
    environment["PYTHONPATH"] = os.pathsep.join([package, *filter(None, [environment.get("PYTHONPATH")])])
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
        environment[name] = "1"
    # A decoded picture is 4 MB; mapped afresh each time it would cost a thousand page faults.
    environment.setdefault("MALLOC_MMAP_THRESHOLD_", str(64 << 20))
    environment.setdefault("MALLOC_TRIM_THRESHOLD_", str(256 << 20))
    return environment
