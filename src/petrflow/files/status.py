"""``status.json``: where the stages of a run or data set stand, for people, while they run and after.

Every stage writes its own entry, at its start, every few seconds, and at its end; a process that
trains for the stage adds where it is. The file is no output of the workflow and nothing is computed
from it: whoever cannot write it goes on without.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tqdm import tqdm as plain_tqdm

from petrflow.errors import PetrflowError
from petrflow.files.atomic import write_json
from petrflow.files.locks import lock
from petrflow.files.owners import owner_is_gone, owner_tag

NAME = "status.json"
FORMAT = 1
WRITE_SECONDS = 2.0
"""Seconds between two notes of one process, those of an event apart."""
SILENT_SECONDS = 60.0
"""Seconds without a note after which a stage of another machine counts as silent: it writes every 5 s."""
MOST_NOTES = 20
MOST_LINES = 50

_current: list[StageStatus] = []


def read_status(path: Path) -> dict[str, Any]:
    """Return a ``status.json`` that stands there whole, else an empty mapping."""
    try:
        record = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) and isinstance(record.get("stages"), dict) else {}


def clock_text(seconds: float | None) -> str:
    """Return seconds as ``0:43``, ``12:05`` or ``3:20:00``; ``?`` for None."""
    if seconds is None:
        return "?"
    minutes, rest = divmod(round(max(0.0, seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


class StageStatus:
    """One stage's entry in a ``status.json``.

    Parameters
    ----------
    path : Path
        ``results/{run}/status.json``.
    stage : str
    """

    def __init__(self, path: Path, stage: str) -> None:
        self._path = path
        self._stage = stage
        self._written = float("-inf")
        self._waiting: dict[str, Any] = {}
        self._guard = threading.Lock()

    def begin(self, fingerprint: str, seconds_before: float, starts: int) -> None:
        """Note a start: figures of an earlier making go, what it cost stays.

        Parameters
        ----------
        fingerprint : str
            Of what shapes the stage.
        seconds_before : float
            What earlier starts of this same making took; 0.0 when it begins from nothing.
        starts : int
            Starts of this making, this one included.
        """

        def change(entry: dict[str, Any]) -> dict[str, Any]:
            earlier = float(entry.get("earlier_seconds", 0.0))
            kept: dict[str, Any] = {}
            if seconds_before > 0 and entry.get("fingerprint") == fingerprint:
                kept = {key: entry[key] for key in ("lines", "best", "metrics", "evaluation_seconds") if key in entry}
            else:
                earlier += float(entry.get("seconds", 0.0))
            return {
                **kept,
                "state": "running",
                "fingerprint": fingerprint,
                "began": round(time.time(), 3),
                "starts": starts,
                "seconds": round(seconds_before, 3),
                "earlier_seconds": round(earlier, 3),
                "owner": owner_tag(),
                "machine": socket.gethostname(),
                "notes": [],
            }

        self._write(change)

    def update(self, now: bool = False, **values: Any) -> None:
        """Note values; unless ``now`` is set, at most every ``WRITE_SECONDS``."""
        with self._guard:
            self._waiting |= values
            if not now and time.monotonic() - self._written < WRITE_SECONDS:
                return
            waiting, self._waiting = self._waiting, {}
            self._written = time.monotonic()
        self._write(lambda entry: {**entry, **waiting})

    def add(self, name: str, text: str, most: int = MOST_NOTES) -> None:
        """Add a text to a list of texts; one that stands there already is not added again."""
        self._write(lambda entry: {**entry, name: [*[t for t in entry.get(name, []) if t != text], text][-most:]})

    def end(self, state: str, seconds: float, sentence: str | None = None) -> None:
        """Note how the stage ended: ``done``, ``failed`` or ``stopped``. What the process that did
        the work has said of the reason stays.
        """

        def change(entry: dict[str, Any]) -> dict[str, Any]:
            ended = {"state": state, "ended": round(time.time(), 3), "seconds": round(seconds, 3), "owner": ""}
            said = {} if sentence is None else {"sentence": entry.get("sentence") or sentence}
            return {**entry, **self._waiting, **said, **ended}

        self._write(change)

    def _write(self, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
        # A full disk or a file of somebody else is for the stage to report, not for its status.
        with contextlib.suppress(PetrflowError, OSError), lock(self._path.with_name(".status.lock"), timeout=3.0):
            stages = read_status(self._path).get("stages", {})
            entry = change(dict(stages.get(self._stage, {})))
            entry["updated"] = round(time.time(), 3)
            stages = {**stages, self._stage: entry}
            record = {
                "format": FORMAT,
                "subject": self._path.parent.name,
                **_failure(self._path.parent.name, stages),
                "updated": entry["updated"],
                "disk_free_bytes": shutil.disk_usage(self._path.parent).free,
                "stages": stages,
            }
            write_json(self._path, record)


@contextlib.contextmanager
def made_current(status: StageStatus) -> Iterator[None]:
    """Let bars and figures of this process go into a status while the body runs."""
    _current.append(status)
    try:
        yield
    finally:
        _current.remove(status)


def current() -> StageStatus | None:
    """Return the status of the stage that this process makes; None where it makes none."""
    return _current[-1] if _current else None


def figure(text: str) -> None:
    """Say what the present stage came to, in a few words: its closing line in the terminal."""
    if status := current():
        status.update(now=True, figure=text)


def state_of(entry: dict[str, Any], now: float | None = None) -> str:
    """Return ``running``, ``done``, ``failed``, ``stopped``, or ``killed`` for a stage whose process
    is gone without a word, ``silent`` for one of another machine that has not been heard of.
    """
    state = str(entry.get("state", ""))
    if state != "running":
        return state
    tag = str(entry.get("owner", ""))
    age = (time.time() if now is None else now) - float(entry.get("updated", 0.0))
    if tag.partition("-")[0] == owner_tag().partition("-")[0]:  # this machine, since its last boot
        return "killed" if owner_is_gone(tag, age) else "running"
    return "running" if age < SILENT_SECONDS else "silent"


def _failure(subject: str, stages: dict[str, Any]) -> dict[str, Any]:
    """Return what the page reads of a stage that has failed and was not made since."""
    for name, entry in stages.items():
        if entry.get("state") == "failed":
            sentence, log = entry.get("sentence"), f"logs/{subject}/{name}.log"
            return {"state": "failed", "stage": name, "sentence": sentence, "log": log}
    return {}


class tqdm(plain_tqdm):  # type: ignore[type-arg]
    """A bar of tqdm's that is also seen in ``status.json``, from any machine."""

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        """Draw the bar, and note where it stands."""
        if status := current():
            values = self.format_dict
            rate = values["rate"] or (self.n / values["elapsed"] if values["elapsed"] else 0)
            left = (self.total - self.n) / rate if self.total and rate else None
            status.update(
                doing=str(self.desc).removesuffix(": "),
                done=self.n,
                total=self.total,
                unit=self.unit.strip(),
                left=None if left is None else round(left, 1),
            )
        super().display(msg, pos)


__all__ = ["NAME", "StageStatus", "clock_text", "current", "figure", "made_current", "read_status", "state_of", "tqdm"]
