"""What a running training shows: VisualDL scalars and a progress bar."""

from __future__ import annotations

import contextlib
import logging
import struct
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from tqdm import tqdm

from petrflow.files import disk_errors, write_atomic
from petrflow.machine import processes

LOG_NAME = "vdlrecords.0000000001.log"
"""VisualDL reads files whose names follow this pattern; with a fixed name, a run has one curve
however often it is resumed.
"""
TIMING = "Timing/"
"""Tags that begin with this measure the machine: their steps are exact, their values differ from
run to run.
"""


def _record(data: bytes) -> bytes:
    """Frame one record as VisualDL's own writer does: length, then the message."""
    return struct.pack("<Q", len(data)) + data


class Scalars:
    """VisualDL scalars kept in the state of training and mirrored into a log file that can be
    watched.

    The file is rewritten from the state whenever training resumes, so that no step stands in it
    twice and none is missing.
    """

    def __init__(self, tags: list[str] | None = None, records: Mapping[str, np.ndarray] | None = None) -> None:
        """Start empty, or from what :meth:`arrays` and :attr:`tags` were in a checkpoint."""
        self.tags = list(tags or [])
        self._rows: list[tuple[int, int, float, int]] = []
        if records:
            columns = (records["step"], records["tag"], records["value"], records["walltime"])
            self._rows = list(zip(*(column.tolist() for column in columns), strict=True))
        self._file: BinaryIO | None = None

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the records as columns: step int64, tag int32 (index into ``tags``), value
        float64, walltime int64 (ms).
        """
        columns: list[Any] = list(zip(*self._rows, strict=True)) or [(), (), (), ()]
        kinds = (np.int64, np.int32, np.float64, np.int64)
        names = ("step", "tag", "value", "walltime")
        return {name: np.array(column, dtype=kind) for name, column, kind in zip(names, columns, kinds, strict=True)}

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Record values of one step by tag."""
        now = round(time.time() * 1000)
        fresh = []
        for tag, value in values.items():
            if tag not in self.tags:
                self.tags.append(tag)
            fresh.append((step, self.tags.index(tag), float(value), now))
        self._rows += fresh
        if self._file is not None:
            with disk_errors(Path(self._file.name)):
                self._file.write(b"".join(self._encode(row) for row in fresh))
                self._file.flush()

    def _encode(self, row: tuple[int, int, float, int]) -> bytes:
        from visualdl.component.base_component import scalar

        step, tag, value, walltime = row
        return _record(scalar(tag=self.tags[tag], value=value, step=step, walltime=walltime).SerializeToString())

    def to_bytes(self) -> bytes:
        """Return the whole log file."""
        from visualdl.component.base_component import meta_data

        first = self._rows[0][3] if self._rows else 0
        head = _record(meta_data(tag="meta_data_tag", display_name="", step=0, walltime=first).SerializeToString())
        return head + b"".join(self._encode(row) for row in self._rows)

    def mirror(self, folder: Path) -> None:
        """Write the log into ``folder`` and keep it up to date from now on."""
        path = folder / LOG_NAME
        write_atomic(path, self.to_bytes())
        self._file = path.open("ab")

    def close(self) -> None:
        """Stop mirroring."""
        if self._file is not None:
            self._file.close()
            self._file = None


class _Unbroken:
    """``sys.stderr`` whose errors are ignored: when the terminal is gone, the progress bar must not
    end training.
    """

    def write(self, text: str) -> None:
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.write(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.flush()


def progress_bar(name: str, step: int, total: int, hidden: bool = False) -> Any:
    """Return a progress bar on stderr: redrawn twice a second in a terminal, a line every ten
    seconds in a log.
    """
    patience = 0.5 if sys.stderr.isatty() else 10.0
    return tqdm(
        total=total, initial=step, desc=name, unit="step", disable=hidden, mininterval=patience, file=_Unbroken()
    )


def log_to_stderr(log: logging.Logger) -> None:
    """Print a logger's lines on ``sys.stderr``: all of the first process, warnings of the others."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s", datefmt="%H:%M:%S"))
    log.addHandler(handler)
    log.setLevel(logging.INFO if processes.rank() == 0 else logging.WARNING)
    log.propagate = False  # Paddle has given the root logger a format of its own
