"""Train a run: one loop, readable from top to bottom, that any kill at any time only delays.

``python -m petrflow.training --request request.json`` trains what
:class:`petrflow.training.request.Request` describes. Its exit code is 0 when training is done, 75
when it was asked to stop and has left a checkpoint (the same command goes on), 1 on an error.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from petrflow.errors import PetrflowError
from petrflow.files import lock
from petrflow.files.claims import claim
from petrflow.files.provenance import Provenance, provenance
from petrflow.machine import processes
from petrflow.machine.device import use_device
from petrflow.samples.types import Batch
from petrflow.training.average import Average
from petrflow.training.checkpoint import CheckpointFolder, WriteCosts
from petrflow.training.gpu import memory_errors, own_gpus
from petrflow.training.launch import end_with_parent
from petrflow.training.learning_rate import learning_rate
from petrflow.training.log import TIMING, Scalars, log_to_stderr
from petrflow.training.parts import Parts, TrainableModel, petrflow_parts
from petrflow.training.request import Request, Schedule
from petrflow.training.results import Trained, write_results
from petrflow.training.shown import Shown, say_failure
from petrflow.training.starts import Starts
from petrflow.training.state import (
    Progress,
    capture,
    deliverable_weights,
    find_state,
    machine,
    make_optimizer,
    report_machine,
    restore,
    section,
)
from petrflow.training.step import LossScale, take_step
from petrflow.training.stopping import Interrupted, Stopped, StopRequest
from petrflow.training.watch import Clock, Watch

log = logging.getLogger("petrflow.training")

GO_ON = "Run the same command again to go on"
ORPHAN_SECONDS = 40.0
"""Seconds to wait for a process that outlived its killed parents and is still writing its
checkpoint.
"""


def train(request: Request, make_parts: Callable[[Request], Parts] | None = None) -> dict[str, Any]:
    """Train to the end, from the last checkpoint if there is one, and write ``request.out_dir``.

    Parameters
    ----------
    request : Request
        What to train.
    make_parts : callable, optional
        Builds model, loader and evaluation; :func:`petrflow_parts` unless a test brings its own.

    Returns
    -------
    dict
        What ``metrics.json`` holds.

    Raises
    ------
    Stopped
        A signal asked for it; a checkpoint is written and the message says how to go on.
    PetrflowError
        The input, the state or the numbers do not allow to go on.
    """
    began = time.monotonic()
    first = processes.rank() == 0
    require_ours: Callable[[], None] = lambda: None  # noqa: E731
    with contextlib.ExitStack() as held:
        stop = held.enter_context(StopRequest())
        with contextlib.ExitStack() as recorded:
            try:
                with stop.interruptible():  # nothing is lost by a stop before the first step
                    if first:
                        held.enter_context(lock(request.state_dir / "lock", timeout=ORPHAN_SECONDS))
                        require_ours = held.enter_context(claim(request.state_dir)).require
                    device = _take_device(request, stop, held)
                    record = Provenance(device)
                    if first:
                        inputs = _inputs(request)
                        record = recorded.enter_context(
                            provenance(request.state_dir / "provenance.json", inputs, request.schedule)
                        )
                        record.device = device
                    recorded.enter_context(memory_errors(device, request))
                    parts = (make_parts or petrflow_parts)(request)
                    held.callback(parts.loader.close)
                    resumed = _resume(request, parts, began)
                    resumed.folder.require_ours = require_ours
            except Interrupted:
                raise Stopped(f"Stopped by {stop.signal_name} before the first step. {GO_ON}") from None
            starts = recorded.enter_context(resumed.starts)
            trained = _train(request, parts, resumed, stop)
            record.add_earlier(starts.earlier_sum("seconds"), starts.earlier_sum("cpu_seconds"))
            costs = WriteCosts(**starts.checkpoint_costs()).summary(trained.progress.seconds)
            record.record(
                training_seconds=round(trained.progress.seconds, 3), starts=len(starts.earlier) + 1, checkpoints=costs
            )
        if first:
            write_results(request, trained, require_ours)
        processes.barrier()
    return trained.metrics


def _take_device(request: Request, stop: StopRequest, held: contextlib.ExitStack) -> str:
    """Choose the device, wait until its GPU is free, and join the other processes; return the
    device's name.
    """
    settings = request.settings
    device = use_device(settings.device)
    if settings.amp and device == "cpu" and processes.rank() == 0:
        log.warning("amp %s has no effect on a CPU: Paddle computes in float32 there", settings.amp)
    held.enter_context(own_gpus(device, settings, stop, request.state_dir / "launch" / "gpus-locked"))
    processes.initialize(device)
    return device


@dataclass
class Resumed:
    """A training as its last checkpoint left it, or as it begins."""

    optimizer: Any
    progress: Progress
    scalars: Scalars
    best: Mapping[str, np.ndarray] | None
    folder: CheckpointFolder
    starts: Starts
    average: Average | None = None

    def deliverable(self, model: TrainableModel) -> dict[str, np.ndarray]:
        """Return the weights to publish: the average where one is kept."""
        own = deliverable_weights(model, self.optimizer)
        return own if self.average is None else {**own, **self.average.arrays()}


def _resume(request: Request, parts: Parts, began: float) -> Resumed:
    """Put the newest checkpoint into the model and a new optimizer; without one, give every process
    the first one's weights.
    """
    model = parts.model
    optimizer = make_optimizer(model, request.settings)
    progress, scalars, best, averaged = Progress(), Scalars(), None, None
    folder, snapshot = find_state(request)
    if snapshot is not None:
        progress = restore(snapshot, model, optimizer)
        scalars = Scalars(snapshot.meta["tags"], section(snapshot, "records"))
        best = section(snapshot, "best") or None
        averaged = section(snapshot, "average")
        log.info("Going on from epoch %d, batch %d of %d", progress.epoch + 1, progress.batch, len(parts.loader))
        report_machine(snapshot.meta["machine"])
    else:
        processes.broadcast([*model.parameters(), *model.buffers()])
    record = request.state_dir / "progress.json" if processes.rank() == 0 else None
    decay = request.settings.ema_decay
    average = None if decay is None else Average(model, optimizer, decay, averaged)
    return Resumed(optimizer, progress, scalars, best, folder, Starts(record, folder.folder.name, began), average)


def _train(request: Request, parts: Parts, resumed: Resumed, stop: StopRequest) -> Trained:
    # ---- what the steps share
    settings, progress, scalars = request.settings, resumed.progress, resumed.scalars
    total_steps = _plan(progress, settings, len(parts.loader))
    if processes.rank() == 0:
        scalars.mirror(resumed.folder.folder / "visualdl")
    loop = _Loop(
        request,
        parts,
        resumed,
        stop,
        total_steps,
        Watch(settings.nan_limit, slow_factor=settings.slow_factor),
        LossScale(progress, settings.amp is not None and settings.amp_dtype == "float16"),
        Clock(max(progress.seconds, resumed.starts.earlier_sum("training_seconds"))),
        Shown(request, progress, total_steps, resumed.folder.folder, first=processes.rank() == 0),
    )
    loop.note(now=True)
    while progress.epoch < settings.epochs and not progress.out_of_patience(settings.patience):
        # ---- the steps of an epoch
        parts.model.train()
        for batch in parts.loader.epoch(progress.epoch, start_batch=progress.batch):
            loop.step(batch)
            loop.save_or_stop()

        # ---- the epoch's end: here again if a kill came during the evaluation
        loop.end_epoch()

    # ---- the end
    if progress.epoch < settings.epochs and processes.rank() == 0:
        best = progress.best or {}
        says = "Stopped after epoch %d of %d: NDS has not risen in %d evaluations; the best is that of epoch %s"
        log.info(says, progress.epoch, settings.epochs, settings.patience, best.get("epoch"))
    resumed.folder.finish()
    loop.note(now=True)
    loop.shown.close()
    scalars.close()
    return Trained(progress, scalars, resumed.best, resumed.deliverable(parts.model))


@dataclass
class _Loop:
    """The phases of the loop, and what they share."""

    request: Request
    parts: Parts
    resumed: Resumed
    stop: StopRequest
    total_steps: int
    watch: Watch
    scale: LossScale
    clock: Clock
    shown: Shown

    def step(self, batch: Batch) -> None:
        """Train on one batch, and count, time and log the step."""
        settings, model, optimizer = self.request.settings, self.parts.model, self.resumed.optimizer
        progress, clock, world = self.resumed.progress, self.clock, processes.world_size()
        waited = clock.lap()
        rate = learning_rate(progress.step, self.total_steps, settings.learning_rate, settings.warmup_steps)
        optimizer.set_lr(rate)
        model.seed_step(settings.seed, progress.epoch, progress.batch * world + processes.rank())
        skipped = progress.skipped_steps
        losses = take_step(
            model, optimizer, batch, settings=settings, progress=progress, watch=self.watch, scale=self.scale
        )
        progress.step += 1
        progress.batch += 1
        if self.resumed.average is not None and progress.skipped_steps == skipped:
            self.resumed.average.update(progress.step - skipped)
        self.watch.check_time(progress.step, waited, clock.step(), rate, batch["token"])
        self.note()
        self.shown.step(progress, losses, rate)
        if progress.step % settings.log_interval == 0:
            _log_window(self.resumed.scalars, progress, rate, clock.steps_per_second() * settings.batch_size * world)

    def save_or_stop(self) -> None:
        """Write a checkpoint where one is due, and end where a signal asked for it."""
        self.resumed.folder.check()
        checkpoint_due = time.monotonic() - self.clock.saved > 60.0 * self.request.settings.checkpoint_minutes
        stopping, saving = _agree(self.stop.asked, checkpoint_due)
        if stopping or saving:
            self.save(wait=stopping)
        if stopping:
            self.note(now=True)
            processes.barrier()  # no process ends before the checkpoint is written
            raise Stopped(_how_to_go_on(self.stop, self.resumed.progress, self.total_steps))

    def end_epoch(self) -> None:
        """Evaluate where it is due, keep the best weights, close the epoch and save."""
        settings, progress, resumed = self.request.settings, self.resumed.progress, self.resumed
        last = progress.epoch + 1 == settings.epochs
        self.watch.check_skipped(progress.step, progress.skipped_steps, last)
        metrics, evaluation_seconds = None, 0.0
        evaluation_due = last or (progress.epoch + 1) % settings.save_interval == 0
        if evaluation_due and settings.do_eval:
            self.save()
            began = time.monotonic()
            metrics = _evaluate(self.parts, self.stop, resumed, self.total_steps)
            evaluation_seconds = time.monotonic() - began
            if metrics is not None and (progress.best is None or metrics["NDS"] > progress.best["NDS"]):
                progress.best = {"epoch": progress.epoch + 1, "step": progress.step, **metrics}
                resumed.best = resumed.deliverable(self.parts.model)
        _close_epoch(progress, resumed.scalars, metrics)
        if evaluation_due:
            self.save()
        self.clock.leave_out()
        self.note()
        self.shown.epoch(progress, metrics, evaluation_seconds)

    def save(self, wait: bool = False) -> None:
        """Write a checkpoint, in the first process."""
        resumed = self.resumed
        if processes.rank() == 0:
            meta = {"tags": resumed.scalars.tags, "machine": machine()}
            resumed.folder.save(
                lambda: capture(
                    self.parts.model,
                    resumed.optimizer,
                    resumed.progress,
                    resumed.scalars.arrays(),
                    best=resumed.best,
                    average=None if resumed.average is None else resumed.average.arrays(),
                    meta=meta,
                ),
                wait,
            )
        self.clock.saved = time.monotonic()
        self.clock.lap()

    def note(self, now: bool = False) -> None:
        """Write how far training is into ``progress.json``; with ``now`` even if it is fresh."""
        progress, starts = self.resumed.progress, self.resumed.starts
        progress.seconds = self.clock.total()
        costs = asdict(self.resumed.folder.costs)
        starts.note(progress.step, self.total_steps, progress.epoch, self.clock.this_start(), costs, now)


def _evaluate(parts: Parts, stop: StopRequest, resumed: Resumed, total_steps: int) -> dict[str, Any] | None:
    """Evaluate the model. A signal ends this at once: the checkpoint from before stands, and the
    next start evaluates again.
    """
    parts.model.eval()
    try:
        with resumed.average.in_place() if resumed.average else contextlib.nullcontext(), stop.interruptible():
            return parts.evaluate(parts.model)
    except Interrupted:
        resumed.folder.finish()
        raise Stopped(_how_to_go_on(stop, resumed.progress, total_steps)) from None
    finally:
        parts.model.train()


def _close_epoch(progress: Progress, scalars: Scalars, metrics: dict[str, Any] | None) -> None:
    """Write the epoch's line of the history, and its metrics among the scalars; go to the next
    epoch.
    """
    row: dict[str, Any] = {"epoch": progress.epoch + 1, "step": progress.step, "skipped": progress.epoch_skipped}
    row |= {name: value / progress.epoch_steps for name, value in sorted(progress.epoch_sums.items())}
    if metrics is not None:
        figures = {
            name: value
            for name, value in metrics.items()
            if isinstance(value, float | int) and not isinstance(value, bool)
        }
        row |= figures
        progress.metrics = {"epoch": progress.epoch + 1, "step": progress.step, **metrics}
        scalars.add(progress.step, {f"Evaluation/{name}": value for name, value in sorted(figures.items())})
    progress.history.append(row)
    progress.epoch_sums, progress.epoch_steps, progress.epoch_skipped = {}, 0, 0
    progress.epoch, progress.batch = progress.epoch + 1, 0


def _log_window(scalars: Scalars, progress: Progress, rate: float, samples_per_second: float) -> None:
    steps = max(1, progress.window_steps)  # every step of the window may have been skipped
    values = {f"Training/{name}": value / steps for name, value in sorted(progress.window_sums.items())}
    scalars.add(
        progress.step, {"Training/learning_rate": rate, **values, TIMING + "samples_per_second": samples_per_second}
    )
    progress.window_sums, progress.window_steps = {}, 0


# ---------------------------------------------------------------------------------------------------------------- around the loop


def _plan(progress: Progress, settings: Schedule, batches: int) -> int:
    """Return the steps of the whole schedule, noting where it was changed by another number of
    epochs.
    """
    total = settings.epochs * batches
    if not progress.lengths:
        progress.lengths.append([progress.step, total])
    elif progress.lengths[-1][1] != total:
        log.warning(
            "epochs changed: %d steps were planned, now %d. From step %d on the learning rate follows the schedule of the new length",
            progress.lengths[-1][1],
            total,
            progress.step,
        )
        progress.lengths.append([progress.step, total])
    return total


def _agree(stop: bool, due: bool) -> tuple[bool, bool]:
    """Return whether any process was asked to stop, and whether the first one wants a
    checkpoint.
    """
    mine = [float(stop), float(due and processes.rank() == 0)]
    stop_somewhere, due_first = processes.average_numbers(mine)
    return stop_somewhere > 0, due_first > 0


def _how_to_go_on(stop: StopRequest, progress: Progress, total_steps: int) -> str:
    who = stop.signal_name or "another process"
    return f"Stopped by {who} at step {progress.step} of {total_steps}; a checkpoint is written. {GO_ON} from there"


def _inputs(request: Request) -> dict[str, str | Path]:
    inputs: dict[str, str | Path] = {"train annotations": request.train_store, "val annotations": request.val_store}
    return inputs if request.weights is None else {**inputs, "weights": request.weights}


def main(arguments: list[str] | None = None) -> int:
    """Train what ``--request`` says; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m petrflow.training", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--request", type=Path, required=True, help="JSON written by petrflow.training.request.Request.write"
    )
    options = parser.parse_args(arguments)
    end_with_parent()
    log_to_stderr(log)
    try:
        request = Request.read(options.request)
        with say_failure(request):
            train(request)
    except Stopped as message:
        log.warning("%s", message)
        return os.EX_TEMPFAIL
    except PetrflowError as error:
        log.error("%s", error)
        return 1
    return 0
