"""How fast a loader gives batches; for loader.py and gpu.py."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from typing import Any


def batches_of(loader: Any) -> Iterator[Any]:
    """Yield a loader's batches, epoch after epoch, without end."""
    for epoch in itertools.count():
        yield from loader.epoch(epoch)


def loader_rate(loader: Any, warm: int, batches: int) -> tuple[float, float]:
    """Return the seconds to the first batch, and samples/s over ``batches`` batches after ``warm`` others."""
    began = time.perf_counter()
    stream = batches_of(loader)
    next(stream)
    first = time.perf_counter() - began
    for _ in range(warm):
        next(stream)
    began, samples = time.perf_counter(), 0
    for _ in range(batches):
        samples += len(next(stream)["token"])
    rate = samples / (time.perf_counter() - began)
    stream.close()  # type: ignore[attr-defined]
    return first, rate
