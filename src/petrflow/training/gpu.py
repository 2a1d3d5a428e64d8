"""A GPU for this training alone."""

from __future__ import annotations

import contextlib
import logging
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from petrflow.errors import PetrflowError
from petrflow.files import lock
from petrflow.training.request import Settings
from petrflow.training.stopping import Stopped, StopRequest

log = logging.getLogger("petrflow.training")


@contextlib.contextmanager
def own_gpu(device: str, settings: Settings, stop: StopRequest, folder: Path | None = None) -> Iterator[None]:
    """Keep the GPU to this run for as long as the body lasts, waiting for it first; ``share_gpu`` and the CPU need no waiting."""
    if not device.startswith("gpu") or settings.share_gpu:
        yield
        return
    path = (folder or Path(tempfile.gettempdir())) / f"petrflow-{_physical_gpu(device)}.lock"
    told = False
    with contextlib.ExitStack() as held:
        while True:
            try:
                held.enter_context(lock(path))
                break
            except PetrflowError as error:
                if not told:
                    log.warning(
                        "Waiting for %s, which another run trains on (share_gpu: true would not wait): %s",
                        device,
                        error,
                    )
                    told = True
                if stop.asked:
                    raise Stopped(
                        f"Stopped by {stop.signal_name} while waiting for {device}; run the same command again"
                    ) from None
                time.sleep(1.0)
        yield


def _physical_gpu(device: str) -> str:
    """Return a name for a GPU that all processes of this machine agree on, whatever they can see of the others."""
    index = int(device.partition(":")[2] or 0)
    visible = [entry.strip() for entry in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if entry.strip()]
    return "gpu-" + (visible[index] if index < len(visible) else str(index)).replace("/", "_")
