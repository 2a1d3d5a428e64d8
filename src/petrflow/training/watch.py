"""Report steps whose numbers or times make no sense, and stop training where too many do."""

from __future__ import annotations

import logging
import math
import statistics
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from petrflow.errors import PetrflowError

log = logging.getLogger("petrflow.training")

REMEDY = (
    "Lower learning_rate, lengthen warmup_steps, or train without amp or with amp_dtype bfloat16; if it is always the same samples, "
    "look at them first"
)


@dataclass
class Watch:
    """Judge each step by its numbers and its time.

    Parameters
    ----------
    nan_limit : int
        How many of the last ``window`` steps may be skipped for a non-finite loss or gradient
        before training stops.
    slow_factor : float
        A step that takes this many times the median is reported.
    """

    nan_limit: int = 10
    window: int = 100
    slow_factor: float = 20.0
    _seconds: deque[float] = field(default_factory=lambda: deque(maxlen=100))
    _zero_reports: int = 0

    def check_finite(
        self,
        step: int,
        losses: Mapping[str, float],
        norm: float,
        rate: float,
        tokens: Sequence[str],
        *,
        skipped: list[int],
    ) -> bool:
        """Return whether a step may change the weights; report it otherwise and add it to
        ``skipped`` (kept in the state).

        Raises
        ------
        PetrflowError
            When more than ``nan_limit`` of the last ``window`` steps were skipped.
        """
        skipped[:] = [earlier for earlier in skipped if earlier > step - self.window]
        broken = [name for name, value in losses.items() if not math.isfinite(value)]
        if not broken and math.isfinite(norm):
            return True
        skipped.append(step)
        what = f"{', '.join(broken)} not finite" if broken else f"gradient norm is {norm}"
        log.warning(
            "iteration %d: %s; learning rate %.3g; samples %s; step skipped", step, what, rate, ", ".join(tokens)
        )
        if len(skipped) > self.nan_limit:
            raise PetrflowError(
                f"{len(skipped)} of the last {self.window} steps had no finite loss or gradient (the last at iteration "
                f"{step}: {what}; learning rate {rate:.3g}). Training stopped; its last checkpoint is from before. {REMEDY}: "
                f"{', '.join(tokens)}"
            )
        return False

    def check_skipped(self, steps: int, skipped: int, last: bool) -> None:
        """Raise when most steps did not change the weights. Called at the end of each epoch.

        Parameters
        ----------
        steps, skipped : int
            Since the beginning.
        last : bool
            Whether this epoch is the last. Before that, up to ``nan_limit`` skipped steps are
            forgiven: they may be the first ones.

        Raises
        ------
        PetrflowError
            More than half of the steps were skipped.
        """
        if 2 * skipped > steps and (last or skipped > self.nan_limit):
            raise PetrflowError(
                f"{skipped} of {steps} steps had no finite loss or gradient and changed nothing: this is no training. {REMEDY}; the "
                "lines above name the samples."
            )

    def check_boxes(
        self, step: int, losses: Mapping[str, float], boxes: int, rate: float, tokens: Sequence[str]
    ) -> None:
        """Report a box loss of exactly zero on a batch with boxes: then targets were lost on the
        way.
        """
        if boxes and losses.get("loss_bbox") == 0.0:
            self._zero_reports += 1
            if self._zero_reports <= 5 or self._zero_reports % 100 == 0:
                log.warning(
                    "iteration %d: loss_bbox is exactly 0 with %d boxes present; learning rate %.3g; samples %s",
                    step,
                    boxes,
                    rate,
                    ", ".join(tokens),
                )

    def check_time(self, step: int, waited: float, computed: float, rate: float, tokens: Sequence[str]) -> None:
        """Report a step whose seconds of waiting for data and computing are ``slow_factor`` times
        the median of those before.
        """
        seconds = waited + computed
        if len(self._seconds) >= 10:
            median = statistics.median(self._seconds)
            if seconds > self.slow_factor * median:
                log.warning(
                    "iteration %d took %.1f s (%.1f s of it waiting for data), the median is %.2f s; learning rate %.3g; samples %s",
                    step,
                    seconds,
                    waited,
                    median,
                    rate,
                    ", ".join(tokens),
                )
        self._seconds.append(seconds)


class Clock:
    """Seconds of training over all starts, and of the pieces of a step."""

    def __init__(self, seconds_before: float) -> None:
        self._before = seconds_before
        self._start = self._lap = self._window = self.saved = time.monotonic()
        self._steps = 0

    def lap(self) -> float:
        """Return the seconds since this was last asked."""
        now = time.monotonic()
        seconds, self._lap = now - self._lap, now
        return seconds

    def step(self) -> float:
        """Count a step; return its seconds since the lap before it."""
        self._steps += 1
        return self.lap()

    def leave_out(self) -> None:
        """Restart the timing after an evaluation, which must not count as a slow step."""
        self.lap()
        self._window, self._steps = self._lap, 0

    def this_start(self) -> float:
        """Return the seconds of training in this start."""
        return time.monotonic() - self._start

    def total(self) -> float:
        """Return the seconds of training in this start and in those before."""
        return self._before + self.this_start()

    def steps_per_second(self) -> float:
        """Return the rate since this was last asked."""
        steps, seconds = self._steps, time.monotonic() - self._window
        self._window, self._steps = time.monotonic(), 0
        return steps / max(seconds, 1e-9)
