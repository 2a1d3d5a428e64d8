"""One process or several that train together: the few collective operations that the training loop
needs.

Gradients are averaged by one all-reduce over a flat buffer after backward. ``paddle.DataParallel``
would overlap it with backward, at the price of hooks that fight with recomputation and unused
parameters; with one all-reduce, two processes compute what one would.
"""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Iterable, Sequence
from typing import Any


def rank() -> int:
    """Return this process's number, 0 when it is alone."""
    return int(os.environ.get("PADDLE_TRAINER_ID", "0"))


def world_size() -> int:
    """Return the number of processes that train together."""
    return int(os.environ.get("PADDLE_TRAINERS_NUM", "1"))


def initialize(device: str) -> None:
    """Join the other processes, where there are any; ``device`` is what this one computes on
    (``cpu``, ``gpu:0``, …).
    """
    if world_size() > 1:
        import paddle.distributed

        if device == "cpu":
            os.environ["PADDLE_DISTRI_BACKEND"] = "gloo"  # a GPU build would take NCCL

        # Paddle writes there which of its flags differ from their defaults: its own doing, and
        # nothing to act on.
        with contextlib.redirect_stderr(io.StringIO()):
            paddle.distributed.init_parallel_env()


def barrier() -> None:
    """Wait until every process is here."""
    if world_size() > 1:
        import paddle

        # gloo's barrier in 3.3.1 wants a device id; a reduction of one number waits just as well on
        # every backend
        flag = paddle.zeros([1])
        paddle.distributed.all_reduce(flag)
        flag.numpy()


def average_in_place(tensors: Sequence[Any]) -> None:
    """Replace tensors (of one dtype or several) by their mean over all processes."""
    world = world_size()
    if world == 1 or not tensors:
        return
    import paddle

    by_dtype: dict[Any, list[Any]] = {}
    for tensor in tensors:
        by_dtype.setdefault(tensor.dtype, []).append(tensor)
    for group in by_dtype.values():
        flat = paddle.concat([tensor.reshape([-1]) for tensor in group])
        paddle.distributed.all_reduce(flat)
        flat = flat / world
        for tensor, part in zip(group, paddle.split(flat, [tensor.size for tensor in group]), strict=True):
            tensor.set_value(part.reshape(tensor.shape))


def average_gradients(parameters: Iterable[Any]) -> None:
    """Average the gradients of all parameters; one that has none here counts as zero, as it may
    have one elsewhere.
    """
    if world_size() == 1:
        return
    import paddle

    gradients = []
    for parameter in parameters:
        if parameter.stop_gradient:
            continue
        if parameter.grad is None:
            parameter.grad = paddle.zeros_like(parameter)
        gradients.append(parameter.grad)
    average_in_place(gradients)


def average_numbers(numbers: Sequence[float]) -> list[float]:
    """Return the means over all processes; a NaN anywhere is a NaN everywhere."""
    if world_size() == 1:
        return list(numbers)
    import paddle

    tensor = paddle.to_tensor(list(numbers), dtype="float64" if not paddle.is_compiled_with_cuda() else "float32")
    paddle.distributed.all_reduce(tensor)
    return [float(value) / world_size() for value in tensor.numpy()]


def broadcast(tensors: Iterable[Any]) -> None:
    """Give every process the values of the first."""
    if world_size() > 1:
        import paddle.distributed

        for tensor in tensors:
            paddle.distributed.broadcast(tensor, src=0)


def mean_over_devices(value: float) -> float:
    """Average a number over the processes of a distributed run."""
    import paddle.distributed

    if not paddle.distributed.is_initialized():
        return value
    tensor = paddle.to_tensor([value / paddle.distributed.get_world_size()], dtype="float32")
    paddle.distributed.all_reduce(tensor)
    return float(tensor.item())
