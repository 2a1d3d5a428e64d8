"""What a training is asked to do, and the fingerprint that says whether an old state still belongs
to it.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from petrflow.config import shaping, shaping_defaults, with_defaults
from petrflow.errors import PetrflowError
from petrflow.files import fingerprint, read_json, sha256_file, write_json

log = logging.getLogger("petrflow.training")

LOOP_VERSION = 1
"""Must be raised when the loop computes something else from the same inputs; states of another
version are set aside.
"""


@dataclass(frozen=True)
class Schedule:
    """The schedule of a run, checked and complete; the config's schema says what each key means and
    its default.
    """

    epochs: int
    batch_size: int
    learning_rate: float
    weight_decay: float
    warmup_steps: int | None
    clip_norm: float
    log_interval: int
    save_interval: int
    checkpoint_minutes: float
    do_eval: bool
    seed: int
    num_workers: int
    amp: str | None
    amp_dtype: str
    device: str
    devices: int
    share_gpu: bool
    nan_limit: int
    slow_factor: float
    judge: str
    ema_decay: float | None
    patience: int | None
    frozen: list[str]
    sampling: str

    @classmethod
    def from_schedule(cls, schedule: Mapping[str, Any]) -> Schedule:
        """Take a checked schedule and fill in the schema's defaults."""
        filled = with_defaults("schedule", schedule)
        values = {entry.name: filled[entry.name] for entry in dataclasses.fields(cls)}
        return cls(**{**values, "amp": filled["amp"] or None})


@dataclass(frozen=True)
class Request:
    """One training: model, data, schedule, and where results go.

    Attributes
    ----------
    run : str
        Name of the run, for messages.
    model_config : dict
        The parsed model file.
    schedule : dict
        Keys of :class:`Schedule`.
    train_store, val_store : Path
        Annotation stores of the two splits.
    root : Path
        The nuScenes root that the stores were made from.
    state_dir, out_dir : Path
        ``results/{run}/state`` and ``results/{run}/train``.
    weights : Path, optional
        ``.pdparams`` to start from.
    partial_weights : bool
        Take weights that hold less than nine tenths of the model's entries.
    """

    run: str
    model_config: dict[str, Any]
    schedule: dict[str, Any]
    train_store: Path
    val_store: Path
    root: Path
    state_dir: Path
    out_dir: Path
    weights: Path | None = None
    partial_weights: bool = False
    settings: Schedule = field(init=False, compare=False)

    def __post_init__(self) -> None:
        """Turn path texts into paths, and check the schedule."""
        for key in ("train_store", "val_store", "root", "state_dir", "out_dir", "weights"):
            value = getattr(self, key)
            object.__setattr__(self, key, None if value is None else Path(value))
        object.__setattr__(self, "settings", Schedule.from_schedule(self.schedule))

    def write(self, path: Path) -> None:
        """Write the request as JSON for ``python -m petrflow.training --request``."""
        values = {entry.name: getattr(self, entry.name) for entry in dataclasses.fields(self) if entry.init}
        write_json(path, {key: str(value) if isinstance(value, Path) else value for key, value in values.items()})

    @classmethod
    def read(cls, path: Path) -> Request:
        """Read what :meth:`write` wrote."""
        return cls(**read_json(path))

    def fingerprint_fields(self) -> dict[str, str]:
        """Return what shapes the result, by name. A state made under other values belongs to
        another training.
        """
        fields = {
            "loop version": str(LOOP_VERSION),
            "train annotations": sha256_file(self.train_store),
            "weights": "none" if self.weights is None else sha256_file(self.weights),
        }
        if self.settings.do_eval:
            fields["val annotations"] = sha256_file(self.val_store)
        if self.settings.devices > 1:
            fields["running statistics"] = "averaged over processes"  # version 1 of the loop kept the first process's
        for key, value in shaping("model", self.model_config).items():
            fields[f"model file: {key}"] = fingerprint(value)
        for key, value in shaping("schedule", dataclasses.asdict(self.settings)).items():
            if key != "epochs":  # it may be raised later (docs/training.md)
                fields[f"schedule: {key}"] = str(value)
        return fields


def changed_fields(old: Mapping[str, str], new: Mapping[str, str]) -> list[str]:
    """Return one phrase for each field that differs, with both values where they are short."""
    defaults = shaping_defaults("schedule")

    def show(key: str, value: str | None) -> str:
        if value is None:
            return str(defaults.get(key.removeprefix("schedule: "), "nothing"))
        return value if len(value) < 40 else value[:8] + "…"

    return [
        f"{key} ({show(key, old.get(key))} -> {show(key, new.get(key))})"
        for key in sorted({*old, *new})
        if old.get(key) != new.get(key)
    ]


def state_folder(request: Request) -> Path:
    """Return the folder of this request's state. Each fingerprint has its own, so that a changed
    input sets the old state aside.

    The log says which field changed. Going back to the old inputs finds the old state where it was
    left.
    """
    fields = request.fingerprint_fields()
    name = fingerprint(fields)[:16]
    folder = request.state_dir / name
    current = request.state_dir / "current.json"
    if current.exists():
        try:
            record = read_json(current)
            before, known = str(record["folder"]), dict(record["fields"])
        except (PetrflowError, KeyError, TypeError, ValueError):
            before, known = name, fields  # only what the log says depends on it
        if before != name:
            log.warning(
                "What shapes this training has changed: %s. The old state is set aside in %s; %s",
                "; ".join(changed_fields(known, fields)),
                request.state_dir / before,
                "these inputs have a state of their own, going on from that"
                if folder.exists()
                else "training starts afresh",
            )
    folder.mkdir(parents=True, exist_ok=True)
    write_json(current, {"folder": name, "fields": fields})
    return folder
