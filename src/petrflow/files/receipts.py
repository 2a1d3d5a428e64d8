"""What a stage was made from: the receipt that says a result is finished, and whether it still is
what the configuration asks for.

The workflow knows a finished stage by one small file, its receipt, whose name holds the fingerprint
of everything that shaped the stage. The results themselves (weights, metrics, pictures) are no
outputs of the workflow, so nothing deletes them: a successor replaces them when it is whole. Their
``provenance.json`` carries the same record under ``made_from``. Where the two differ, the results
were made from something else, and the receipt does not count.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from petrflow.errors import PetrflowError
from petrflow.files.atomic import write_json
from petrflow.files.beats import beating
from petrflow.files.fingerprints import fingerprint, sha256_file
from petrflow.files.owners import owner_is_gone, owner_tag
from petrflow.files.status import NAME as STATUS_NAME
from petrflow.files.status import StageStatus, made_current

FORMAT = 1
"""Number of the receipts' form, to be raised when the form changes. Receipts of another form do not
count.
"""

DIGITS = 16
"""Hex digits of a fingerprint in a receipt's name."""


@dataclass
class Order:
    """What the workflow wants of one stage, and the account of making it.

    Attributes
    ----------
    stage, subject : str
        ``train`` and the run, ``annotate`` and the data set.
    fingerprint : str
        Of ``shaping`` and ``after``.
    settings : dict
        Every setting that shapes the stage, defaults included, for people: what has changed is told
        by comparing two of these.
    after : dict
        Fingerprints of the stages before this one, by ``stage subject``.
    receipt : Path
        ``results/{subject}/receipts/{stage}-{fingerprint}.json``.
    """

    stage: str
    subject: str
    fingerprint: str
    settings: dict[str, Any]
    after: dict[str, str]
    receipt: Path
    seconds_before: float = 0.0
    starts: int = 1
    _start: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        """Take a text for a path."""
        self.receipt = Path(self.receipt)

    @property
    def made_from(self) -> dict[str, Any]:
        """What ``provenance.json`` says of the stage's origin."""
        values = {key: getattr(self, key) for key in ("stage", "subject", "fingerprint", "settings", "after")}
        return {"format": FORMAT, **values}

    @property
    def seconds(self) -> float:
        """Seconds of all starts of this stage with these settings, interrupted ones included."""
        return self.seconds_before + time.monotonic() - self._start

    @contextlib.contextmanager
    def account(self) -> Iterator[None]:
        """Keep account of the stage's time while the body runs, also in ``status.json``; at its end
        the receipt is written and older ones go.
        """
        note = running_note(self.receipt.parent, self.stage)
        earlier = _read(note)
        if earlier.get("fingerprint") == self.fingerprint:
            self.seconds_before = float(earlier.get("seconds", 0.0))
            self.starts = int(earlier.get("starts", 0)) + 1
        status = StageStatus(self.receipt.parent.parent / STATUS_NAME, self.stage)

        def beat() -> None:  # a kill loses at most the seconds since the last one of the account
            self._note(note)
            status.update(now=True, seconds=round(self.seconds, 3))

        self._note(note)
        status.begin(self.fingerprint, self.seconds_before, self.starts)
        try:
            with beating(beat, "petrflow-account"), made_current(status):
                yield
        except BaseException as error:
            self._note(note, ended=True)
            if isinstance(error, KeyboardInterrupt):
                status.end("stopped", self.seconds)
            else:
                status.end("failed", self.seconds, str(error).strip() or type(error).__name__)
            raise
        write_json(
            self.receipt,
            {**self.made_from, "seconds": round(self.seconds, 3), "starts": self.starts, "finished": time.time()},
        )
        for old in receipts_of(self.receipt.parent, self.stage):
            if old != self.receipt:
                old.unlink(missing_ok=True)
        note.unlink(missing_ok=True)
        status.end("done", self.seconds)

    def _note(self, path: Path, ended: bool = False) -> None:
        with contextlib.suppress(OSError, PetrflowError):  # a full disk is the stage's to report
            values = {"fingerprint": self.fingerprint, "seconds": round(self.seconds, 3), "starts": self.starts}
            write_json(path, {**values, "owner": "" if ended else owner_tag()})


def running_note(folder: Path, stage: str) -> Path:
    """The account of a stage that runs, or that was interrupted."""
    return folder / f".{stage}.running.json"


def running(folder: Path, stage: str, digest: str) -> dict[str, Any] | None:
    """The account of a stage under these settings that has begun and is not finished; ``alive``
    says whether it runs now.
    """
    note = running_note(folder, stage)
    record = _read(note)
    if record.get("fingerprint") != digest:
        return None
    tag = str(record.get("owner", ""))
    age = time.time() - note.stat().st_mtime if note.exists() else 0.0
    return {**record, "alive": bool(tag) and not owner_is_gone(tag, age)}


def receipts_of(folder: Path, stage: str) -> list[Path]:
    """All receipts of a stage, the newest last."""
    found = folder.glob(f"{stage}-{'[0-9a-f]' * DIGITS}.json")
    return sorted(found, key=lambda path: (path.stat().st_mtime_ns, path.name))


def made_from(provenance: Path) -> dict[str, Any] | None:
    """What the results beside a ``provenance.json`` were made from; None where there are none, or
    of another form.
    """
    record = _read(provenance).get("made_from")
    return record if isinstance(record, dict) and record.get("format") == FORMAT else None


def noted(provenance: Path, name: str) -> Any:
    """What a stage noted in its ``provenance.json`` under a name; None where it noted nothing."""
    extra = _read(provenance).get("extra")
    return extra.get(name) if isinstance(extra, dict) else None


def shaped_fingerprint(shaping: Mapping[str, Any], after: Mapping[str, str]) -> str:
    """Fingerprint of a stage, as many digits as a receipt's name holds."""
    return fingerprint({"shaping": shaping, "after": after})[:DIGITS]


def _read(path: Path) -> dict[str, Any]:
    try:
        record = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


# ------------------------------------------------------------------------------------------------------------ differences


def flat(settings: Any, path: str = "") -> dict[str, Any]:
    """Settings as one mapping of key paths to values that are no mappings."""
    if not isinstance(settings, Mapping):
        return {path: settings}
    values: dict[str, Any] = {}
    for key, entry in settings.items():
        values |= flat(entry, f"{path}.{key}" if path else str(key))
    return values


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Say what has changed between two settings, one phrase for each key path: ``batch_size 4 ->
    64``.

    A key that only one of them knows was added or removed by another version of petrflow, or by a
    model file's edit.
    """
    before, now = flat(old), flat(new)
    changes = []
    for key in sorted({*before, *now}):
        if fingerprint(before.get(key)) != fingerprint(now.get(key)) or (key in before) != (key in now):
            shown = [_short(values[key]) if key in values else "nothing" for values in (before, now)]
            changes.append(f"{key} {shown[0]} -> {shown[1]}")
    return changes


def common_differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """As :func:`differences`, of the keys that both know: another value of these is another result,
    whatever the version.
    """
    before, now = flat(old), flat(new)
    both = before.keys() & now.keys()
    return differences({key: before[key] for key in both}, {key: now[key] for key in both})


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    if len(text) == 64 and all(letter in "0123456789abcdef" for letter in text):
        return text[:8] + "…"
    return text if len(text) <= 60 else text[:57] + "…"


# --------------------------------------------------------------------------------------------------------------- contents


class Contents:
    """What user's files hold, taken once: known again by size, modification time and inode.

    Parameters
    ----------
    path : Path
        JSON file that keeps what was taken; read once, written by :meth:`save`.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known = _read(path)
        self._used: dict[str, Any] = {}
        self._changed = False

    def sha256(self, path: Path) -> str:
        """SHA-256 of a file's bytes."""
        return str(self.take(path, "sha256", sha256_file))

    def take(self, path: Path, kind: str, reader: Callable[[Path], Any]) -> Any:
        """What ``reader`` makes of a file, as JSON-able values; ``kind`` names the reader."""
        name = f"{kind} {path.absolute()}"
        if name in self._used:
            return self._used[name][-1]
        try:
            status = path.stat()
        except OSError as error:
            raise PetrflowError(f"Cannot read {path}: {error.strerror}.") from error
        mark = [status.st_size, status.st_mtime_ns, status.st_ino]
        entry = self._known.get(name)
        if not (isinstance(entry, list) and len(entry) == 4 and entry[:3] == mark):
            entry = [*mark, json.loads(json.dumps(reader(path), default=str))]
            self._changed = True
        self._used[name] = entry
        return entry[-1]

    def save(self) -> None:
        """Keep what was taken; where nothing may be written, it is taken again next time."""
        if self._changed:
            with contextlib.suppress(OSError, PetrflowError):
                write_json(self._path, {**self._known, **self._used})
            self._changed = False


__all__ = [
    "Contents",
    "Order",
    "common_differences",
    "differences",
    "flat",
    "made_from",
    "noted",
    "receipts_of",
    "running",
    "shaped_fingerprint",
]
