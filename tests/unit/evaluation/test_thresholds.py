"""The score of a class's best F1, against every score tried one by one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from petrflow.annotations import AnnotationStore
from petrflow.errors import PetrflowError
from petrflow.evaluation.judge import match_keyframes
from petrflow.evaluation.protocol import NUSCENES
from petrflow.evaluation.thresholds import UNKNOWN, best_scores, class_scores, confident
from tests.helpers.found import near_truth

NAMES = list(NUSCENES.class_names)


def f1_from(score: float, label: int, store: AnnotationStore, found: dict[str, Any]) -> float:
    """F1 of a class when only detections of at least a score were ever there."""
    shown = {token: confident(one, score) for token, one in found.items()}
    matches = match_keyframes(store, range(len(store)), shown, NAMES, NUSCENES)
    rows = matches.label == label
    right = int(matches.hit[rows, list(NUSCENES.distance_thresholds).index(2.0)].sum())
    return 2 * right / max(1, int(rows.sum()) + int((matches.truth_label == label).sum()))


def test_no_other_score_has_a_better_f1(synthetic_stores: dict[str, Path]) -> None:
    store = AnnotationStore.open(synthetic_stores["train"])
    found = near_truth(store, NAMES, seed=1, false=40)
    for one in found.values():
        one.scores[:] = np.round(one.scores, 1)  # many equal ones
    best = best_scores(match_keyframes(store, range(len(store)), found, NAMES, NUSCENES), NUSCENES)
    assert len(best) > 4
    tried = np.unique(np.concatenate([one.scores for one in found.values()]))
    for name, figures in best.items():
        each = {float(score): f1_from(score, NAMES.index(name), store, found) for score in tried}
        assert figures["f1"] == pytest.approx(max(each.values()), abs=1e-4)
        assert f1_from(figures["score"], NAMES.index(name), store, found) == pytest.approx(max(each.values()))
        # Another model's rounding of the scores takes no box away and adds none.
        for rounding in (-1e-6, 1e-6):
            assert f1_from(figures["score"] + rounding, NAMES.index(name), store, found) == pytest.approx(
                max(each.values())
            )
        harmonic = 2 * figures["precision"] * figures["recall"] / (figures["precision"] + figures["recall"])
        assert harmonic == pytest.approx(figures["f1"], abs=1e-3)


def test_min_score_goes_before_the_file_and_the_file_before_the_usual_score(tmp_path: Path) -> None:
    path = tmp_path / "thresholds.json"
    path.write_text(json.dumps({"car": {"score": 0.41}, "bus": {"score": 0.2}}))
    names = ["car", "bus", "truck"]
    assert class_scores(path, names).tolist() == [0.41, 0.2, UNKNOWN]
    assert class_scores(path, names, {"bus": 0.6}).tolist() == [0.41, 0.6, UNKNOWN]
    assert class_scores(path, names, 0.1).tolist() == [0.1] * 3
    assert class_scores(tmp_path / "none.json", names).tolist() == [UNKNOWN] * 3
    with pytest.raises(PetrflowError, match="min_score names lorry"):
        class_scores(path, names, {"lorry": 0.5})
