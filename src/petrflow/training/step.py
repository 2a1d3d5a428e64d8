"""One step of training: losses, gradients, the update, and when there is none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import paddle

from petrflow.machine import processes
from petrflow.samples.types import Batch
from petrflow.training.parts import TrainableModel
from petrflow.training.request import Schedule
from petrflow.training.state import Progress
from petrflow.training.watch import Watch


@dataclass
class LossScale:
    """The factor that keeps small gradients of float16 from becoming zero; its state is part of the
    training's progress.

    Attributes
    ----------
    progress : Progress
        Holds the factor and the steps since it was last lowered.
    enabled : bool
        Without float16 the factor is 1.
    """

    progress: Progress
    enabled: bool
    GROW_AFTER = 2000

    @property
    def factor(self) -> float:
        """Return by what the loss is multiplied before backward."""
        return self.progress.loss_scale if self.enabled else 1.0

    def overflowed(self, losses: Mapping[str, float], norm: float) -> bool:
        """Return whether only the factor can be why a gradient is not finite. That happens now and
        then in float16.
        """
        return self.factor > 1.0 and not np.isfinite(norm) and bool(np.isfinite(list(losses.values())).all())

    def lower(self) -> None:
        """Halve the factor after an overflow."""
        self.progress.loss_scale, self.progress.steps_since_overflow = self.factor / 2, 0

    def count_step(self) -> None:
        """Count a step without overflow; double the factor after many of them."""
        if self.enabled:
            self.progress.steps_since_overflow += 1
            if self.progress.steps_since_overflow == self.GROW_AFTER:
                self.progress.loss_scale, self.progress.steps_since_overflow = self.factor * 2, 0


def take_step(
    model: TrainableModel,
    optimizer: Any,
    batch: Batch,
    *,
    settings: Schedule,
    progress: Progress,
    watch: Watch,
    scale: LossScale,
) -> dict[str, float]:
    """Forward, backward, clip, update. A step without finite loss and gradient changes nothing but
    the count of such steps.

    Parameters
    ----------
    model : TrainableModel
        Seeded for this step (``seed_step``).
    optimizer : paddle Optimizer
        With this step's learning rate set.
    batch : Batch
        Of this process.
    settings : Schedule
        ``amp``, ``amp_dtype`` and ``clip_norm`` are used.
    progress : Progress
        Its sums and its skipped steps are updated, not its step number.
    watch : Watch
    scale : LossScale

    Returns
    -------
    dict
        The losses by name and ``total_loss``, means over all processes.
    """
    # ---- forward and backward
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    with paddle.amp.auto_cast(enable=settings.amp is not None, level=settings.amp or "O1", dtype=settings.amp_dtype):
        losses = model.losses(batch)
        total = sum(losses.values())
    (total * scale.factor if scale.enabled else total).backward()

    # ---- gradients and losses of all processes
    parameters = [parameter for parameter in model.parameters() if not parameter.stop_gradient]
    processes.average_gradients(parameters)
    norm = clip(parameters, settings.clip_norm, scale.factor)
    names = sorted(losses)
    values = paddle.stack([value.astype("float32").reshape([]) for value in [*(losses[name] for name in names), total]])
    means = dict(zip([*names, "total_loss"], processes.average_numbers(values.numpy().tolist()), strict=True))

    # ---- the update, or none
    tokens, rate = batch["token"], optimizer.get_lr()
    if scale.overflowed(means, norm):
        scale.lower()
        usable = False
    else:
        usable = watch.check_finite(progress.step, means, norm, rate, tokens, skipped=progress.skipped)
    if usable:
        optimizer.step()
        processes.average_in_place(_running_statistics(model))
        progress.count(means)
        scale.count_step()
    else:
        progress.epoch_skipped += 1
        progress.skipped_steps += 1
        for buffer, before in buffers:
            buffer.set_value(before)
    optimizer.clear_grad()
    watch.check_boxes(progress.step, means, sum(len(boxes) for boxes in batch["gt_bboxes_3d"]), rate, tokens)
    return means


def _running_statistics(model: TrainableModel) -> list[Any]:
    """Return the buffers that a step changes: means and variances of the normalisation layers that
    are not frozen.

    Each process sees other images. Averaged after every step, these buffers are the same in all
    processes whenever the model is evaluated, saved or delivered, however often that happens.
    """
    if processes.world_size() == 1:
        return []
    layers = [layer for layer in model.sublayers(include_self=True) if layer.training]
    buffers = [getattr(layer, name, None) for layer in layers for name in ("_mean", "_variance")]
    return [buffer for buffer in buffers if isinstance(buffer, paddle.Tensor)]


@paddle.no_grad()  # the gradients of some operations count as leaves that want gradients themselves
def clip(parameters: list[Any], limit: float, scale: float) -> float:
    """Undo the loss scale and scale all gradients down to a common norm of at most ``limit``;
    return the norm before.
    """
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    squares = paddle.stack([paddle.sum(paddle.square(_unscaled(gradient, scale))) for gradient in gradients])
    norm = float(paddle.sqrt(paddle.sum(squares)))
    factor = min(1.0, limit / norm) / scale if norm > 0.0 else 1.0 / scale
    if np.isfinite(norm) and factor != 1.0:
        for gradient in gradients:
            gradient.scale_(factor)
    return norm


def _unscaled(gradient: Any, scale: float) -> Any:
    gradient = gradient.astype("float32")
    return gradient if scale == 1.0 else gradient / scale
