"""Predict a store with a stand-in for a model that takes its time: for test_predict_kills.

python predict_here.py STORE ROOT FOLDER SECONDS_A_KEYFRAME
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from petrflow.annotations import AnnotationStore
from petrflow.files import atomic_dir
from petrflow.prediction import parts as parts_of
from petrflow.prediction.parts import Parts
from petrflow.prediction.predict import predict_dataset
from tests.helpers.found import near_truth
from tests.unit.reports.test_demo import CLASS_NAMES, MODEL_CONFIG


class Slow:
    """Finds near the true boxes."""

    def __init__(self, store: Path, seconds: float) -> None:
        self.found = near_truth(AnnotationStore.open(store), CLASS_NAMES, seed=5)
        self.seconds = seconds

    def predict(self, batch: dict[str, Any]) -> list[Any]:
        time.sleep(self.seconds)
        print("one", flush=True)
        return [self.found[token] for token in batch["token"]]


if __name__ == "__main__":
    store, root, folder = (Path(argument) for argument in sys.argv[1:4])
    parts_of.SECONDS = 0.1
    parts = Parts(folder / ".out", "key")
    with atomic_dir(folder / "out") as made:
        scores = np.full(len(CLASS_NAMES), 0.3)
        predict_dataset(
            Slow(store, float(sys.argv[4])), store, root, MODEL_CONFIG, made, parts, scores=scores, scenes=0
        )
    parts.remove()
