"""One stage of one run or data set: what shapes it, where its results are, and whether they are
what is wanted.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from petrflow.files import read_json
from petrflow.files.receipts import common_differences, differences, made_from, noted, receipts_of, shaped_fingerprint
from petrflow.nuscenes.root import mark_of

DOORS = ("synthetic", "nuscenes", "xtreme1")
"""Stages that end in a nuScenes root: one a kind of data set."""

RUN_STAGES = ("baseline", "train", "export", "demo")
"""Stages of a run, in the order in which data flows; after them comes ``predict-DATASET`` for each data set that
it predicts. ``prelabel-DATASET`` follows it where a target asks for it."""

# A stage that makes something else from the same inputs, when what it made before must be made
# again: 1 until it is raised. Of annotate it is petrflow.annotations.layout.FORMAT_VERSION, which would import Arrow here.
VERSIONS = {"annotate": 2, "demo": 2}


@dataclass(frozen=True)
class Stage:
    """One stage of one run or data set.

    Attributes
    ----------
    name : str
        ``synthetic``, ``nuscenes``, ``xtreme1``, ``weights``, ``annotate``, ``classic-train``,
        ``classic-val``, ``doctor``, one of :data:`RUN_STAGES`, ``predict-DATASET``,
        ``prelabel-DATASET``, or ``report``.
    subject : str
        The run, the data set, the key of fetched weights; ``report`` for the page over all runs.
    folder : Path
        Where its results are.
    files : tuple of str
        Results in ``folder`` without which the stage is not finished.
    stamp : Path
        The ``provenance.json`` that says what the results were made from.
    settings : dict
        All that shapes it, for people.
    after : tuple of Stage
        Stages whose results it reads.
    """

    name: str
    subject: str
    folder: Path
    files: tuple[str, ...]
    stamp: Path
    fingerprint: str
    settings: dict[str, Any] = field(hash=False)
    after: tuple[Stage, ...] = ()

    @property
    def kind(self) -> str:
        """The stage's name, without the split or the data set in it."""
        return self.name.partition("-")[0]

    @property
    def of_run(self) -> bool:
        """Whether the stage belongs to a run."""
        return self.kind in (*RUN_STAGES, "predict", "prelabel")

    @property
    def title(self) -> str:
        """``train default``."""
        return f"{self.name} {self.subject}"

    @property
    def receipts(self) -> Path:
        """Folder of the receipts."""
        return (self.folder if self.name == "weights" else Path("results") / self.subject) / "receipts"

    @property
    def receipt(self) -> Path:
        """The receipt that says that the stage is finished as it is wanted."""
        return self.receipts / f"{self.name}-{self.fingerprint}.json"

    @property
    def log(self) -> Path:
        """Log of the stage."""
        return Path("logs/report.log") if self.name == "report" else Path("logs") / self.subject / f"{self.name}.log"

    def order(self) -> dict[str, Any]:
        """What the stage's script is given: fields of :class:`petrflow.files.receipts.Order`."""
        values = {
            "stage": self.name,
            "subject": self.subject,
            "fingerprint": self.fingerprint,
            "settings": self.settings,
        }
        after = {stage.title: stage.fingerprint for stage in self.after}
        return {**values, "after": after, "receipt": str(self.receipt)}

    def past_seconds(self) -> float | None:
        """Seconds that the results in place took, all starts together; None where there are none."""
        for path in [*receipts_of(self.receipts, self.name)[::-1], self.stamp]:
            with contextlib.suppress(Exception):
                return float(read_json(path)["seconds"])
        return None

    def fault(self) -> str:
        """Why the receipt is not to be believed, in a few words; empty when it is, or when there is
        none.
        """
        if not self.receipt.exists():
            return ""
        for name in self.files:
            if not (self.folder / name).exists():
                return f"{self.folder / name} is gone"
        origin = made_from(self.stamp)
        if origin is None:
            return f"{self.stamp} does not say what the results were made from"
        if origin["fingerprint"] != self.fingerprint:
            return "the results in place were made from other settings"
        if self.name in DOORS and noted(self.stamp, "root") != mark_of(self.folder, self.stamp.parent):
            return f"{self.folder} was made anew since"
        return ", ".join(common_differences(origin["settings"], self.settings))

    def reason(self, runs: Collection[Stage] = ()) -> str:
        """Why the stage is to be made, in the words of the configuration: ``batch_size 4 -> 64``;
        ``runs`` are all that will be made.
        """
        if fault := self.fault():
            return fault
        origin = made_from(self.stamp)
        if origin is None or not any((self.folder / name).exists() for name in self.files):
            return "not made yet"
        if changes := differences(origin["settings"], self.settings):
            return ", ".join(changes)
        wanted = {stage.title: stage for stage in self.after}
        changed = [
            name for name, digest in origin["after"].items() if name in wanted and wanted[name].fingerprint != digest
        ]
        changed += [name for name in wanted if name not in origin["after"]]
        if changed:
            return f"follows from {', '.join(changed)}"
        if again := [stage.title for stage in self.after if stage in runs and stage.of_run]:
            return f"follows from {', '.join(again)}, made again"
        return "asked for" if receipts_of(self.receipts, self.name) else "was not finished"


def make_stage(
    name: str,
    subject: str,
    folder: Path,
    files: tuple[str, ...],
    settings: Mapping[str, Any] | None = None,
    shaping: Mapping[str, Any] | None = None,
    after: Iterable[Stage] = (),
    stamp: Path | str = "provenance.json",
) -> Stage:
    """A stage with its fingerprint."""
    before = tuple(after)
    settings = dict(settings or {})
    shaped = dict(settings if shaping is None else shaping)
    kind = name.partition("-")[0]
    if VERSIONS.get(kind, 1) > 1:
        settings["stage version"] = shaped["stage version"] = VERSIONS[kind]
    digest = shaped_fingerprint(shaped, {stage.title: stage.fingerprint for stage in before})
    return Stage(
        name, subject, folder, files, folder / stamp if isinstance(stamp, str) else stamp, digest, settings, before
    )
