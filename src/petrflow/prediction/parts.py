"""Predictions that outlive a kill: what has been predicted so far, in parts of a few seconds each."""

from __future__ import annotations

import time
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from petrflow.files import atomic_path, read_json, remove, write_json
from petrflow.files.status import tqdm
from petrflow.samples.dataset import PetrDataset
from petrflow.samples.loader import Loader
from petrflow.samples.types import Detections, Predicts

SECONDS = 20.0
"""s of predictions that a kill may cost."""


class Parts:
    """The predictions of the first keyframes of a store, in files.

    Parameters
    ----------
    folder : Path
        Of petrflow's own. What it holds of another key is removed.
    key : str
        Fingerprint of everything that shapes a prediction.
    """

    def __init__(self, folder: Path, key: str) -> None:
        self.folder = Path(folder)
        about = self.folder / "key.json"
        if not about.is_file() or read_json(about) != key:
            remove(self.folder)
            write_json(about, key)
        self.found: list[Detections] = []
        for path in sorted(self.folder.glob("[0-9]*.npz")):
            if int(path.stem) != len(self.found) or not self._take(path):
                break

    def _take(self, path: Path) -> bool:
        try:
            with np.load(path, allow_pickle=False) as arrays:
                ends = np.cumsum(arrays["counts"])[:-1]
                columns = [np.split(arrays[name], ends) for name in ("boxes", "scores", "labels")]
        except (OSError, ValueError, KeyError, zipfile.BadZipFile):  # damaged on the disk: predicted again
            return False
        self.found += [Detections(*one) for one in zip(*columns, strict=True)]
        return True

    def add(self, found: Sequence[Detections]) -> None:
        """Keep the predictions of the next keyframes."""
        if not found:
            return
        with (
            atomic_path(self.folder / f"{len(self.found):08d}.npz") as temporary,
            temporary.open("wb") as handle,
        ):
            np.savez(
                handle,
                counts=np.array([len(one.scores) for one in found]),
                boxes=np.concatenate([np.asarray(one.boxes).reshape(-1, 9) for one in found]),
                scores=np.concatenate([np.asarray(one.scores) for one in found]),
                labels=np.concatenate([np.asarray(one.labels) for one in found]),
            )
        self.found += found

    def remove(self) -> None:
        """Remove the files: what was made of them is in place."""
        remove(self.folder)


def predict_all(model: Predicts, dataset: PetrDataset, parts: Parts, num_workers: int = 0) -> list[Detections]:
    """Predict every keyframe of a data set, one by one, from where an earlier start was ended.

    Parameters
    ----------
    model : ExportedModel or PetrV2
        Anything with ``predict(batch)``.
    dataset : PetrDataset
        Of all keyframes in the store's order; what is left to do of it is set here.

    Returns
    -------
    list of Detections
        One a keyframe. Whatever kills there were, these are the same numbers: a keyframe is a batch of its own.
    """
    total, begun = len(dataset.store), len(parts.found)
    if begun < total:
        dataset.indices = np.arange(begun, total)
        loader = Loader(dataset, 1, 0, num_workers, shuffle=False, drop_last=False)
        waiting: list[Detections] = []
        written = time.monotonic()
        try:
            with tqdm(total=total, initial=begun, desc="predict", unit="keyframe", leave=False) as bar:
                for batch in loader.epoch(0):
                    waiting += model.predict(batch)
                    bar.update()
                    if time.monotonic() - written > SECONDS:
                        parts.add(waiting)
                        waiting, written = [], time.monotonic()
        finally:
            parts.add(waiting)  # also when asked to stop
            loader.close()
    return parts.found
