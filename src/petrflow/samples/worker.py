"""A loader's worker processes: receive sample indices, write pictures into shared memory, send the
rest back.

Started by `petrflow.samples.pool` as ``python -m petrflow.samples.worker MEMORY CONTROL SOCKET...``
with inherited descriptors. The process that is started imports everything once, opens the dataset,
forks a worker for each socket, which shares those pages, and from then on only reports which of
them ended how. It has a single thread, so that forking is safe.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import pickle
import signal
import sys
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any


def main(memory: int, control_socket: int, sockets: list[int]) -> None:
    """Start the workers and report on them until all have ended."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT, signal.SIGTERM})
    control = Connection(control_socket)
    try:
        load = _prepare(control, memory)
    except (EOFError, ConnectionError):
        return  # the parent is gone
    processes = []
    while sockets:
        socket = sockets.pop(0)
        process = os.fork()
        if process == 0:
            control.close()
            for other in sockets:
                os.close(other)
            _serve(Connection(socket), load)
            os._exit(0)
        os.close(socket)
        processes.append(process)
    with contextlib.suppress(OSError, ChildProcessError):
        control.send(processes)
        while True:
            process, status = os.wait()
            control.send((process, os.waitstatus_to_exitcode(status)))


def _prepare(control: Connection, memory: int) -> Callable[[int, int, int, int], Any]:
    """Receive what to load from; return a function of (epoch, sample, part of the memory, position
    in it).
    """
    sys.path[:] = control.recv()  # before anything else of ours is imported or unpickled
    import cv2
    import numpy as np

    from petrflow.pictures.resample import warm_up
    from petrflow.samples.loader import sample_rng
    from petrflow.samples.pool import WorkerFailure

    cv2.setNumThreads(1)
    warm_up()
    dataset, seed, shape, stride, count = pickle.loads(control.recv_bytes())
    shared = mmap.mmap(memory, stride * count)
    size = int(np.prod(shape))

    def load(epoch: int, index: int, slot: int, position: int) -> Any:
        images = np.frombuffer(shared, np.float32, size, slot * stride).reshape(shape)
        try:
            sample = dataset.load(index, sample_rng(seed, epoch, index), out=images[position])
        except Exception as error:
            return WorkerFailure.of(error, traceback.format_exc())
        return {key: value for key, value in sample.items() if key != "img"}

    return load


def _serve(connection: Connection, load: Callable[[int, int, int, int], Any]) -> None:
    """Load samples until the parent closes the connection or is gone."""
    with contextlib.suppress(EOFError, OSError):
        while True:
            number, *what = connection.recv()
            connection.send((number, load(*what)))


if __name__ == "__main__":
    descriptors = [int(argument) for argument in sys.argv[1:]]
    main(descriptors[0], descriptors[1], descriptors[2:])
