"""Something done again and again beside the work, so that others can tell that it still goes on."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator

BEAT_SECONDS = 5.0
"""Seconds between two beats."""


@contextlib.contextmanager
def beating(beat: Callable[[], None], name: str, seconds: float = BEAT_SECONDS) -> Iterator[None]:
    """Call ``beat`` every few seconds while the body runs; no call is under way when this ends.

    Parameters
    ----------
    beat : callable
        Called in a thread of its own; it must not raise.
    name : str
        Name of the thread.
    seconds : float
        Seconds between two calls. The first comes after as many.
    """
    ended = threading.Event()

    def go_on() -> None:
        while not ended.wait(seconds):
            beat()

    thread = threading.Thread(target=go_on, daemon=True, name=name)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
