"""What keeps an eye on training: signals that ask it to stop, losses that stop making sense, steps that hang."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import signal
import statistics
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

from petrflow.errors import PetrflowError

log = logging.getLogger("petrflow.train")

EX_TEMPFAIL = 75
"""sysexits.h: a failure that going on later will cure."""


PATIENCE = 25.0
"""Seconds that a step may go on after a signal: a preempted machine has about thirty."""


class Stopped(Exception):
    """Training was asked to stop and has left a checkpoint."""


class Interrupted(BaseException):
    """Raised inside work that may be dropped (evaluation) when a stop is asked for; not an Exception, so that nothing swallows it."""


class StopRequest:
    """SIGTERM and SIGINT as a flag that the loop reads between steps.

    Inside :meth:`interruptible` a signal raises :class:`Interrupted` at once instead: evaluation may take far longer than the
    half minute that a preempted machine has, and nothing of it is needed. A step that is not over ``PATIENCE`` seconds after the
    signal is given up, by a thread, because Python itself sees no signal inside one long call: the last checkpoint stands.
    """

    def __init__(self) -> None:
        self.signal_name: str | None = None
        self._answered = threading.Event()
        self._interruptible = False
        self._previous: dict[int, Any] = {}
        self._pipe: tuple[int, int] | None = None
        self._previous_wakeup = -1

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            self._pipe = os.pipe()
            os.set_blocking(self._pipe[1], False)
            self._previous_wakeup = signal.set_wakeup_fd(self._pipe[1], warn_on_full_buffer=False)
            threading.Thread(target=self._give_up, args=(self._pipe[0],), daemon=True, name="stop").start()
            for number in (signal.SIGTERM, signal.SIGINT):
                self._previous[number] = signal.signal(number, self._handle)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, self._previous)  # see petrflow.machine.hardware.processes
        return self

    def __exit__(self, *_: object) -> None:
        self._answered.set()
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        if self._pipe is not None:
            signal.set_wakeup_fd(self._previous_wakeup)
            os.close(self._pipe[1])

    def _handle(self, number: int, _: FrameType | None) -> None:
        first = self.signal_name is None
        self.signal_name = signal.Signals(number).name
        if self._interruptible:
            self._interruptible = False
            self._answered.set()
            raise Interrupted
        if first:
            log.warning("%s: finishing this step, then writing a checkpoint", self.signal_name)

    def _give_up(self, reader: int) -> None:
        with contextlib.closing(os.fdopen(reader, "rb", buffering=0)) as pipe:
            while received := pipe.read(1):
                if received[0] in (signal.SIGTERM, signal.SIGINT):
                    break
            else:
                return
        if not self._answered.wait(PATIENCE):
            text = f"The step under way is not over after {PATIENCE:.0f} s: giving it up. Run the same command again to go on"
            log.error("%s from the last checkpoint", text)
            os._exit(EX_TEMPFAIL)

    @property
    def asked(self) -> bool:
        """Whether a signal has come. The loop asks after each step: the answer means that it is about to write a checkpoint."""
        if self.signal_name is not None:
            self._answered.set()
        return self.signal_name is not None

    @contextlib.contextmanager
    def interruptible(self) -> Iterator[None]:
        """Let a signal, also one that has come already, end the body at once with :class:`Interrupted`."""
        self._interruptible = True
        try:
            if self.asked:
                raise Interrupted
            yield
        finally:
            self._interruptible = False


@dataclass
class Watch:
    """Judge each step by its numbers and its time.

    Parameters
    ----------
    nan_limit : int
        Steps without finite loss and gradient that are skipped in a row of ``window`` before training stops.
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
        """Return whether a step may change the weights; report it otherwise and add it to ``skipped`` (kept in the state).

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
                f"{step}: {what}). Training stopped; its last checkpoint is from before. Lower learning_rate (now {rate:.3g}), "
                "lengthen warmup_steps, or train without amp or with amp_dtype bfloat16; if it is always the same samples, look at "
                f"them first: {', '.join(tokens)}"
            )
        return False

    def check_boxes(
        self, step: int, losses: Mapping[str, float], boxes: int, rate: float, tokens: Sequence[str]
    ) -> None:
        """Report a box loss of exactly zero on a batch that has boxes: targets went missing on the way."""
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
        """Report a step whose seconds of waiting for data and computing are ``slow_factor`` times the median of those before."""
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
    """Seconds of training over all sessions, and of the pieces of a step."""

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
        """Begin anew after something that is no step: an evaluation must not look like a slow one."""
        self.lap()
        self._window, self._steps = self._lap, 0

    def total(self) -> float:
        """Return the seconds of training in this session and in those before."""
        return self._before + time.monotonic() - self._start

    def steps_per_second(self) -> float:
        """Return the rate since this was last asked."""
        steps, seconds = self._steps, time.monotonic() - self._window
        self._window, self._steps = time.monotonic(), 0
        return steps / max(seconds, 1e-9)
