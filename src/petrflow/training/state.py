"""The state of training: what it consists of, how it is captured in a snapshot and how it is
restored.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from petrflow.training.checkpoint import CheckpointFolder, Snapshot
from petrflow.training.parts import TrainableModel
from petrflow.training.request import Request, Schedule, state_folder

log = logging.getLogger("petrflow.training")


@dataclass
class Progress:
    """Where training stands. All random numbers are functions of seed, epoch and batch, so this is
    the generators' state, too.
    """

    step: int = 0
    """Batches since the beginning, those of skipped steps included."""
    epoch: int = 0
    batch: int = 0
    """Batches of this epoch that are done; all of them while its evaluation is under way."""
    seconds: float = 0.0
    loss_scale: float = 2.0**15
    steps_since_overflow: int = 0
    skipped: list[int] = field(default_factory=list)
    """Steps without finite loss or gradient that still count towards the limit."""
    skipped_steps: int = 0
    """All steps that did not change the weights."""
    epoch_sums: dict[str, float] = field(default_factory=dict)
    epoch_steps: int = 0
    epoch_skipped: int = 0
    window_sums: dict[str, float] = field(default_factory=dict)
    window_steps: int = 0
    lengths: list[list[int]] = field(default_factory=list)
    """``[from step, total steps]`` of each plan: a second entry means that ``epochs`` was changed
    on the way.
    """
    history: list[dict[str, Any]] = field(default_factory=list)
    best: dict[str, Any] | None = None
    metrics: dict[str, Any] | None = None
    """Metrics of the last evaluation."""

    def count(self, losses: Mapping[str, float]) -> None:
        """Add a step's losses to the sums of the epoch and of the log's window."""
        for name, value in losses.items():
            self.epoch_sums[name] = self.epoch_sums.get(name, 0.0) + value
            self.window_sums[name] = self.window_sums.get(name, 0.0) + value
        self.epoch_steps += 1
        self.window_steps += 1

    def out_of_patience(self, patience: int | None) -> bool:
        """Return whether NDS has not risen in the last ``patience`` evaluations."""
        if patience is None or self.best is None:
            return False
        since = [row for row in self.history if "NDS" in row and row["epoch"] > self.best["epoch"]]
        return len(since) >= patience


def make_optimizer(model: TrainableModel, settings: Schedule) -> Any:
    """Return AdamW over the model's trainable parameters; with ``amp: O2`` on a GPU the image
    network goes to low precision.

    The head stays in float32, as upstream computes it; parameters in low precision keep a float32
    master copy.
    """
    import paddle

    trainable = [parameter for parameter in model.parameters() if not parameter.stop_gradient]
    optimizer = paddle.optimizer.AdamW(
        settings.learning_rate,
        parameters=trainable,
        weight_decay=settings.weight_decay,
        multi_precision=settings.amp == "O2",
    )
    if settings.amp == "O2" and paddle.get_device() != "cpu":
        head = [model.pts_bbox_head] if hasattr(model, "pts_bbox_head") else []
        paddle.amp.decorate(
            models=model,
            optimizers=optimizer,
            level="O2",
            dtype=settings.amp_dtype,
            master_grad=True,  # gradients in float32, or clipping would lose the small ones of float16
            excluded_layers=[layer for part in head for layer in part.sublayers(include_self=True)],
        )
    return optimizer


def machine() -> dict[str, Any]:
    """Return what may change the last digits of a result and is no setting: device, threads,
    Paddle's version.
    """
    import paddle

    return {
        "device": paddle.get_device(),
        "threads": int(os.environ.get("OMP_NUM_THREADS", "0")) or os.cpu_count(),
        "paddle": paddle.__version__,
    }


def report_machine(before: Mapping[str, Any]) -> None:
    """Log in one line which of these have changed since the checkpoint was written."""
    changes = [f"{key} {before.get(key)} -> {value}" for key, value in machine().items() if before.get(key) != value]
    if changes:
        log.warning(
            "The checkpoint is from another machine (%s): the result may differ in its last digits", ", ".join(changes)
        )


def _parameter_names(model: TrainableModel) -> dict[str, str]:
    """Map Paddle's own names of parameters (``linear_7.w_0``: they depend on what was built before)
    to those of ``state_dict``.
    """
    return {parameter.name: name for name, parameter in model.named_parameters()}


def _optimizer_entries(optimizer: Any, names: Mapping[str, str]) -> Iterator[tuple[str, str, Any]]:
    """Yield (stable name, Paddle's key, tensor) of each accumulator and master weight of the
    optimizer.
    """
    state = optimizer.state_dict()
    masters = state.get("master_weights", {})
    for key, tensor in masters.items():
        yield f"master/{names[key]}", key, tensor
    # A master weight's moments are named after it, and its name begins with the parameter's.
    longest_first = sorted(names, key=len, reverse=True)
    for key, tensor in state.items():
        if key in ("master_weights", "LR_Scheduler"):
            continue
        owner = next(name for name in longest_first if key.startswith(name + "_"))
        yield f"{names[owner]}{key[len(owner) :]}", key, tensor


def _copy(tensor: Any) -> np.ndarray:
    """Return a copy of a tensor's values: training changes the tensor while the copy is written."""
    return np.array(tensor.numpy(), copy=True)


def model_arrays(model: TrainableModel) -> dict[str, np.ndarray]:
    """Return a copy of the model's ``state_dict``; bfloat16 comes as its bits in uint16."""
    return {name: _copy(tensor) for name, tensor in model.state_dict().items()}


def deliverable_weights(model: TrainableModel, optimizer: Any) -> dict[str, np.ndarray]:
    """Return the weights to publish, all float32: the optimizer's master copy where the model
    trains in lower precision.
    """
    names = _parameter_names(model)
    weights = {}
    for name, tensor in model.state_dict().items():
        single = tensor.astype("float32") if str(tensor.dtype).endswith(("float16", "bfloat16")) else tensor
        weights[name] = _copy(single)
    for key, tensor in optimizer.state_dict().get("master_weights", {}).items():
        weights[names[key]] = _copy(tensor)
    return weights


def capture(
    model: TrainableModel,
    optimizer: Any,
    progress: Progress,
    records: Mapping[str, np.ndarray],
    *,
    best: Mapping[str, np.ndarray] | None,
    meta: dict[str, Any],
    average: Mapping[str, np.ndarray] | None = None,
) -> Snapshot:
    """Copy the whole state of training."""
    arrays = {f"model/{name}": array for name, array in model_arrays(model).items()}
    for name, _, tensor in _optimizer_entries(optimizer, _parameter_names(model)):
        arrays[f"optimizer/{name}"] = _copy(tensor)
    arrays.update({f"records/{name}": array for name, array in records.items()})
    arrays.update({f"average/{name}": array for name, array in (average or {}).items()})
    arrays.update({f"best/{name}": array for name, array in (best or {}).items()})
    return Snapshot(arrays, {"progress": asdict(progress), **meta})


def section(snapshot: Snapshot, name: str) -> dict[str, np.ndarray]:
    """Return the arrays of one part of a snapshot, ``model``, ``optimizer``, ``average``,
    ``records`` or ``best``.
    """
    return {key[len(name) + 1 :]: array for key, array in snapshot.arrays.items() if key.startswith(name + "/")}


def restore(snapshot: Snapshot, model: TrainableModel, optimizer: Any) -> Progress:
    """Put a snapshot into the model and the optimizer, and return its progress."""
    weights = section(snapshot, "model")
    for name, tensor in model.state_dict().items():
        tensor.set_value(weights[name])
    # Paddle makes the accumulators at the first step; making them now gives the keys and shapes to
    # fill.
    if hasattr(optimizer, "_create_accumulators"):
        import paddle

        optimizer._create_accumulators(
            paddle.base.framework.default_main_program().global_block(), [p for p in model.parameters() if p.trainable]
        )
    stored = section(snapshot, "optimizer")
    for name, _, tensor in _optimizer_entries(optimizer, _parameter_names(model)):
        if name in stored:  # a parameter that has had no gradient yet has no accumulators either
            tensor.set_value(stored[name])
    return Progress(**snapshot.meta["progress"])


def find_state(request: Request) -> tuple[CheckpointFolder, Snapshot | None]:
    """Return where the checkpoints of a request are, and the newest of them.

    A state that is past the last epoch now asked for cannot be shortened: it stays, and a state of
    its own is used beside it.
    """
    folder = CheckpointFolder(state_folder(request))
    snapshot = folder.load()
    if snapshot is None:
        return folder, None
    epochs, progress = request.settings.epochs, snapshot.meta["progress"]
    if progress["epoch"] + (progress["batch"] > 0) <= epochs:
        return folder, snapshot
    shorter = CheckpointFolder(folder.folder.with_name(f"{folder.folder.name}-{epochs}-epochs"))
    log.warning(
        "epochs is %d and the state in %s has come further: it is set aside there, training uses %s",
        epochs,
        folder.folder,
        shorter.folder,
    )
    return shorter, shorter.load()
