"""How training is asked to stop, and how it ends then."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

log = logging.getLogger("petrflow.training")

PATIENCE = 25.0
"""Seconds that a step may go on after a signal: a preempted machine has about thirty."""


def stop_signals() -> set[signal.Signals]:
    """Return the signals that ask to stop: SIGTERM, SIGINT, and SIGHUP (a closed terminal) unless
    it is ignored, as under nohup.
    """
    signals = {signal.SIGTERM, signal.SIGINT}
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        signals.add(signal.SIGHUP)
    return signals


class Stopped(Exception):
    """Training was asked to stop and has left a checkpoint."""


class Interrupted(BaseException):
    """Raised by a signal in work that may be dropped, such as an evaluation. It is no Exception, so
    that no ``except`` catches it.
    """


class StopRequest:
    """The signals of :func:`stop_signals` as a flag that the loop reads between steps.

    Inside :meth:`interruptible` a signal raises :class:`Interrupted` at once instead: evaluation
    may take far longer than the half minute that a preempted machine has, and nothing of it is
    needed. A step that is not over ``PATIENCE`` seconds after the signal is given up, by a thread,
    because Python itself sees no signal inside one long call: the last checkpoint stands.
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
            for number in stop_signals():
                self._previous[number] = signal.signal(number, self._handle)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, self._previous)  # see petrflow.training.launch
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
        self.signal_name = self.signal_name or signal.Signals(number).name
        if self._interruptible:
            self._interruptible = False
            self._answered.set()
            raise Interrupted
        if first:
            log.warning("%s: finishing this step, then writing a checkpoint", self.signal_name)

    def _give_up(self, reader: int) -> None:
        """End the process when the loop has not answered a signal after ``PATIENCE`` seconds; runs
        in a thread of its own.
        """
        with contextlib.closing(os.fdopen(reader, "rb", buffering=0)) as pipe:
            while received := pipe.read(1):
                if received[0] not in self._previous:
                    continue
                if not self._answered.wait(PATIENCE):
                    what = f"What is under way is not over after {PATIENCE:.0f} s: giving it up"
                    log.error("%s. Run the same command again to go on from the last checkpoint", what)
                    os._exit(os.EX_TEMPFAIL)
            # Only now: to the interpreter, a pipe that nobody reads is an error at the next signal.

    @property
    def asked(self) -> bool:
        """Whether a signal has come. The loop asks after each step: the answer means that it is
        about to write a checkpoint.
        """
        if self.signal_name is not None:
            self._answered.set()
        return self.signal_name is not None

    @contextlib.contextmanager
    def interruptible(self) -> Iterator[None]:
        """Let a signal, also one that has come already, end the body at once with
        :class:`Interrupted`.
        """
        self._interruptible = True  # first: a signal between these two lines must not be lost
        try:
            if self.asked:
                raise Interrupted
            yield
        finally:
            self._interruptible = False
