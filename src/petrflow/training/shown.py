"""What people see of a running training: a bar, one line an epoch, and its entry in ``status.json``."""

from __future__ import annotations

import contextlib
import logging
import statistics
import time
from collections import deque
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from petrflow.errors import PetrflowError
from petrflow.files.status import MOST_LINES, NAME, StageStatus, clock_text, read_status
from petrflow.machine import processes
from petrflow.training.log import progress_bar
from petrflow.training.request import Request
from petrflow.training.state import Progress
from petrflow.training.stopping import Stopped

log = logging.getLogger("petrflow.training")


class Shown:
    """The bar, the lines and the status of one training; of several processes, the first one's.

    Parameters
    ----------
    request : Request
    progress : Progress
        Where training stands when it starts or goes on.
    total_steps : int
        Of the whole schedule.
    checkpoints : Path
        Folder with ``newest.json``, whose time is the last checkpoint's.
    first : bool
        Whether this is the first process; the others show nothing.
    """

    def __init__(
        self, request: Request, progress: Progress, total_steps: int, checkpoints: Path, first: bool = True
    ) -> None:
        self._settings = request.settings
        self._total = total_steps
        self._newest = checkpoints / "newest.json"
        self._bar = progress_bar(request.run, progress.step, total_steps, hidden=not first)
        path = request.state_dir.parent / NAME
        self._status = StageStatus(path, "train") if first else None
        stages = read_status(path).get("stages", {}) if first else {}
        earlier = stages.get("train", {}).get("evaluation_seconds")
        # Before the first evaluation, the baseline's seconds are the best guess of one.
        self._evaluation_seconds = float(earlier or stages.get("baseline", {}).get("seconds") or 0.0)
        self._seconds: deque[float] = deque(maxlen=100)
        self._last = time.monotonic()
        if self._status:
            self._status.update(now=True, **self._where(progress))

    def step(self, progress: Progress, losses: Mapping[str, float], rate: float) -> None:
        """Show a step that is done."""
        now = time.monotonic()
        self._seconds.append(now - self._last)
        self._last = now
        self._bar.set_postfix(loss=f"{losses['total_loss']:.3f}", rate=f"{rate:.1e}", refresh=False)
        self._bar.update()
        if self._status:
            self._status.update(loss=round(losses["total_loss"], 4), learning_rate=rate, **self._where(progress))

    def epoch(self, progress: Progress, metrics: Mapping[str, Any] | None, evaluation_seconds: float) -> None:
        """Show an epoch that is closed, with its evaluation where it had one."""
        if metrics is not None:
            self._evaluation_seconds = evaluation_seconds
        best = progress.best if progress.best and metrics is not None else {}
        is_best = bool(best) and best.get("epoch") == progress.epoch
        where = self._where(progress)
        parts = [f"epoch {progress.epoch}/{self._settings.epochs}"]
        if "total_loss" in progress.history[-1]:
            parts.append(f"loss {progress.history[-1]['total_loss']:.2f}")
        if metrics is not None:
            parts.append(f"mAP {metrics['mAP']:.3f}  NDS {metrics['NDS']:.3f}{' best' if is_best else ''}")
        if "seconds_per_step" in where:
            parts.append(f"{where['seconds_per_step']:.1f} s/step")
        parts.append(f"left {clock_text(where.get('left') or 0)}")
        line = "  ".join(parts)
        log.info("%s", line)
        self._last = time.monotonic()
        if self._status:
            figures = {
                name: {key: found[key] for key in ("epoch", "step", "mAP", "NDS") if key in found}
                for name, found in (("best", progress.best), ("metrics", progress.metrics))
                if found
            }
            self._status.update(now=True, evaluation_seconds=round(self._evaluation_seconds, 3), **figures, **where)
            self._status.add("lines", line, MOST_LINES)

    def close(self) -> None:
        """End the bar."""
        self._bar.close()

    def _where(self, progress: Progress) -> dict[str, Any]:
        where: dict[str, Any] = {
            "doing": "train",
            "unit": "step",
            "done": progress.step,
            "total": self._total,
            "epoch": progress.epoch,
            "epochs": self._settings.epochs,
        }
        if self._seconds:
            each = statistics.fmean(self._seconds)
            where["seconds_per_step"] = round(each, 4)
            left = each * (self._total - progress.step) + self._evaluation_seconds * self._evaluations(progress)
            where["left"] = round(left, 1)
        with contextlib.suppress(OSError):
            where["checkpoint"] = round(self._newest.stat().st_mtime, 3)
        return where

    def _evaluations(self, progress: Progress) -> int:
        """Return how many evaluations are to come."""
        settings = self._settings
        coming = range(progress.epoch + 1, settings.epochs + 1)
        return sum(e == settings.epochs or e % settings.save_interval == 0 for e in coming) if settings.do_eval else 0


@contextlib.contextmanager
def say_failure(request: Request) -> Iterator[None]:
    """Note in ``status.json`` why the body failed: the process that started this one does not know."""
    try:
        yield
    except PetrflowError as error:
        if processes.rank() == 0 and not isinstance(error, Stopped):
            StageStatus(request.state_dir.parent / NAME, "train").update(now=True, sentence=str(error))
        raise
