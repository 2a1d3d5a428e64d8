"""The GPUs of a training: kept from other runs, and a full memory said in one sentence."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path

from petrflow.errors import Locked, MachineError
from petrflow.files import lock, write_atomic
from petrflow.machine import processes
from petrflow.machine.gpus import TAKEN, lock_folder, lock_name
from petrflow.machine.hardware import gpu_uuids
from petrflow.training.request import Request, Schedule
from petrflow.training.stopping import Stopped, StopRequest

log = logging.getLogger("petrflow.training")

GPU_MEMORY_FULL = re.compile(
    r"ResourceExhausted|out of memory|CUDNN_STATUS_ALLOC_FAILED|CUBLAS_STATUS_ALLOC_FAILED|cudaErrorMemoryAllocation",
    re.I,
)
"""How Paddle and CUDA's libraries say it. Paddle 3.3.1 raises MemoryError for its own allocators
and OSError for the libraries.
"""


@contextlib.contextmanager
def own_gpus(device: str, settings: Schedule, stop: StopRequest, ready: Path) -> Iterator[None]:
    """Keep the GPUs of all processes of this training to it for as long as the body lasts.

    The first process locks them all, in the same order in every training: two trainings that each
    hold a part of what the other needs would wait for ever. The others wait for the file ``ready``,
    which the launcher has removed. Nothing is to be done where the stage that started this process
    has locked them (:func:`petrflow.machine.gpus.own_gpus`): it has handed the locks on.
    """
    if os.environ.get(TAKEN):
        yield
        return
    world = processes.world_size()
    if world == 1:
        with own_gpu(device, settings, stop):
            yield
        return
    with contextlib.ExitStack() as held:
        if processes.rank() == 0:
            names = [f"gpu:{index}" for index in range(world)] if device.startswith("gpu") else []
            for name in sorted(names, key=physical_gpu):
                held.enter_context(own_gpu(name, settings, stop))
            write_atomic(ready, "")
        while not ready.exists():
            if stop.asked:
                raise Stopped(f"Stopped by {stop.signal_name} while waiting for the first process")
            time.sleep(0.1)
        yield


@contextlib.contextmanager
def own_gpu(device: str, settings: Schedule, stop: StopRequest, folder: Path | None = None) -> Iterator[None]:
    """Keep one GPU to this training, waiting for it first; ``share_gpu`` and the CPU need no
    waiting.

    Parameters
    ----------
    device : str
        Paddle's name of it.
    settings, stop
        Of the training.
    folder : Path, optional
        Where lock files are. By default ``/tmp``, the same for all users whatever their ``TMPDIR``.

    Raises
    ------
    Stopped
        A signal came while another training had the GPU.
    CannotWrite
        The lock file cannot be opened, so that nobody knows whether the GPU is free.
    """
    if not device.startswith("gpu") or settings.share_gpu:
        yield
        return
    path = (folder or lock_folder()) / lock_name(physical_gpu(device))
    waiting = False
    with contextlib.ExitStack() as held:
        while True:
            try:
                held.enter_context(lock(path, public=True))
                break
            except Locked as error:
                if not waiting:
                    hint = "share_gpu: true would not wait"
                    log.warning("Waiting for %s, which another run trains on (%s): %s", device, hint, error)
                    waiting = True
                if stop.asked:
                    raise Stopped(
                        f"Stopped by {stop.signal_name} while waiting for {device}; run the same command again"
                    ) from None
                time.sleep(1.0)
        yield


def physical_gpu(device: str) -> str:
    """Return a name for a GPU that all processes of this machine agree on, whatever they can see of
    the others.

    It is the GPU's UUID where nvidia-smi tells it, otherwise its number or what was asked for.
    """
    index = int(device.partition(":")[2] or 0)
    visible = [entry.strip() for entry in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if entry.strip()]
    name = visible[index] if index < len(visible) else str(index)
    uuids = gpu_uuids()
    if name.isdigit():
        return uuids.get(int(name), name)
    whole = [uuid for uuid in uuids.values() if uuid.startswith(name)]  # CUDA takes the beginning of a UUID, too
    return whole[0] if len(whole) == 1 else name


@contextlib.contextmanager
def memory_errors(device: str, request: Request) -> Iterator[None]:
    """Turn what Paddle raises when memory is full into one sentence that names what takes memory
    and can be set.
    """
    try:
        yield
    except (MemoryError, RuntimeError, SystemError, OSError) as error:
        full = isinstance(error, MemoryError) or bool(GPU_MEMORY_FULL.search(str(error)))
        if not full:
            raise
        raise MachineError(_memory_sentence(device, request, error)) from error


def _memory_sentence(device: str, request: Request, error: BaseException) -> str:
    said = [line.strip() for line in str(error).splitlines() if GPU_MEMORY_FULL.search(line)]
    quote = f" ({said[-1][:160].rstrip('.')})" if said else ""
    height, width = request.model_config.get("input", {}).get("image_size", (None, None))
    remedies = [f"lower schedule.batch_size (now {request.settings.batch_size})"]
    if height:
        remedies.append(f"lower input.image_size in the model file (now {height} x {width} pixels)")
    if not request.model_config.get("model", {}).get("use_recompute", False):
        remedies.append("set model.use_recompute: true in the model file (less memory, about a third more time)")
    on_gpu = device.startswith("gpu") and any(word in str(error) for word in ("GPU", "CUDA", "CUDNN", "CUBLAS"))
    what = f"The memory of {device} is full" if on_gpu else "The memory of this machine is full"
    other = "stop what else runs on this GPU" if on_gpu else "stop what else runs here, or lower schedule.num_workers"
    return (
        f"{what}{quote}. To need less: {'; or '.join(remedies)}. These shape the result, so training then starts afresh. Or {other}: with "
        "the same settings training goes on from its last checkpoint, which stays."
    )
