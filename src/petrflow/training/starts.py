"""Every start of one training: what it cost and how it ended. Kept in ``state/progress.json``, for
people and for the next start.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from petrflow.errors import CannotWrite, PetrflowError
from petrflow.files import read_json, write_json
from petrflow.files.owners import owner_tag
from petrflow.training.stopping import Stopped

NOTE_SECONDS = 10.0
"""Seconds between two notes: what a kill may take from the count."""


class Starts:
    """What all starts of a training have cost so far; as a context manager, the present one until
    it ends.

    A kill leaves no word of itself, so the present start is noted every ``NOTE_SECONDS``; the next
    start finds it there. Nothing here has a part in what is computed.

    Parameters
    ----------
    path : Path, optional
        ``progress.json``. None keeps no record: of several processes only the first does.
    state : str
        Name of the folder with the checkpoints. A record of another folder's starts is replaced.
    began : float
        When this start began, as ``time.monotonic`` gives it.
    """

    def __init__(self, path: Path | None, state: str = "", began: float | None = None) -> None:
        self._path = path
        self._state = state
        self._noted = time.monotonic()
        self._began = self._noted if began is None else began
        self._where: dict[str, Any] = {}
        self.earlier = self._read()
        self._present: dict[str, Any] = {
            "began": round(time.time() - (self._noted - self._began), 3),
            "ended": None,
            "owner": owner_tag(),
        }

    def _read(self) -> list[dict[str, Any]]:
        """Return the record of the starts before; one that says nothing of its end was killed."""
        if self._path is None or not self._path.exists():
            return []
        try:
            record = read_json(self._path)
            if record["state"] != self._state:
                return []
            return [{**start, "ended": start["ended"] or "killed"} for start in record["starts"]]
        except (PetrflowError, KeyError, TypeError):
            return []  # a record only: training does not depend on it

    def earlier_sum(self, key: str) -> float:
        """Return the sum of one figure (``seconds``, ``training_seconds``, ``cpu_seconds``) over
        the starts before.
        """
        return float(sum(start.get(key, 0.0) for start in self.earlier))

    def checkpoint_costs(self) -> dict[str, Any]:
        """Return what checkpoints cost over all starts, by the fields of
        :class:`petrflow.training.checkpoint.WriteCosts`.
        """
        costs = [start.get("checkpoints", {}) for start in [*self.earlier, self._present]]
        total = {
            key: sum(each.get(key, 0) for each in costs) for key in ("count", "blocked_seconds", "background_seconds")
        }
        return {**total, "nbytes": max((each.get("nbytes", 0) for each in costs), default=0)}

    def note(
        self,
        step: int,
        total: int,
        epoch: int,
        training_seconds: float,
        checkpoints: Mapping[str, float],
        now: bool = False,
    ) -> None:
        """Note where training stands, at most every ``NOTE_SECONDS`` unless ``now`` is set.

        Parameters
        ----------
        step, total, epoch : int
            Steps and whole epochs that are done, and the steps of the whole schedule.
        training_seconds : float
            Seconds that this start has spent in the loop.
        checkpoints : mapping
            What checkpoints have cost this start.
        """
        self._present.setdefault("from_step", step)
        done = step - self._present["from_step"]
        left = (total - step) * training_seconds / done if done else None
        self._where = {
            "step": step,
            "total": total,
            "epoch": epoch,
            "seconds_left": None if left is None else round(left),
        }
        self._present |= {
            "to_step": step,
            "training_seconds": round(training_seconds, 3),
            "checkpoints": dict(checkpoints),
        }
        if now or time.monotonic() - self._noted >= NOTE_SECONDS:
            self._write()

    def _write(self) -> None:
        self._noted = time.monotonic()
        self._present |= {
            "seconds": round(self._noted - self._began, 3),
            "cpu_seconds": round(time.process_time(), 3),
        }
        if self._path is not None:
            starts = [*self.earlier, self._present]
            record = {"state": self._state, "updated": round(time.time(), 3), **self._where, "starts": starts}
            with contextlib.suppress(CannotWrite):  # the checkpoints tell of a full disk, and they matter
                write_json(self._path, record)

    def __enter__(self) -> Starts:
        self._write()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._present["ended"] = "done" if kind is None else "stopped" if issubclass(kind, Stopped) else "failed"
        self._write()
