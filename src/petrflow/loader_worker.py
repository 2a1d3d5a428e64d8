"""A loader's worker process: receives sample indices, writes pictures into shared memory, sends the rest back.

Started by `petrflow.loader` as ``python -m petrflow.loader_worker SOCKET MEMORY`` with two inherited descriptors.
"""

from __future__ import annotations

import mmap
import pickle
import signal
import sys
import traceback
from multiprocessing.connection import Connection

import numpy as np


def main(socket: int, memory: int) -> None:
    """Load samples until the parent closes the connection or is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT, signal.SIGTERM})
    connection = Connection(socket)
    try:
        sys.path[:] = connection.recv()  # before anything else of ours is imported or unpickled
        import cv2

        from petrflow.loader import _Failure, sample_rng

        cv2.setNumThreads(1)
        dataset, seed, shape, stride, count = pickle.loads(connection.recv_bytes())
        shared = mmap.mmap(memory, stride * count)
        size = int(np.prod(shape))
        while True:
            number, epoch, index, slot, position = connection.recv()
            images = np.frombuffer(shared, np.float32, size, slot * stride).reshape(shape)
            try:
                result = dataset.load(index, sample_rng(seed, epoch, index), out=images[position])
                del result["img"]
            except Exception as error:
                result = _Failure(_pickled(error), traceback.format_exc())
            connection.send((number, result))
    except (EOFError, OSError):
        return  # the parent has closed the connection, or died


def _pickled(error: Exception) -> bytes:
    try:
        return pickle.dumps(error)
    except Exception:
        return b""


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
