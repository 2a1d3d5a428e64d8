"""A request to stop, and how training ends for it."""

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
