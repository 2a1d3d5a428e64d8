"""From which score on a detection is shown or handed over: of every class, the score of the best F1 on validation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from petrflow.errors import PetrflowError
from petrflow.evaluation.judge import Matches
from petrflow.evaluation.protocol import Protocol
from petrflow.files import read_json
from petrflow.samples.types import Detections

FILE = "thresholds.json"
"""Written beside ``metrics.json``: class to ``score``, and what detections of at least that score reach."""

SLACK = 0.01
"""How far below the lowest score of the best F1 a threshold may lie. The exported model's scores differ from those
that were judged by rounding, and a box that was counted must not fall out for it.
"""

UNKNOWN = 0.3
"""Score for a class of which validation says nothing."""

MinScore = float | Mapping[str, float] | None
"""``min_score`` of a run: a score for all classes, or for some by name."""


def best_scores(matches: Matches, protocol: Protocol) -> dict[str, dict[str, Any]]:
    """Return of every class the score from which on its detections have the best F1.

    It lies half way to the next lower score, and at most :data:`SLACK` below the lowest that counts.

    Parameters
    ----------
    matches : Matches
        Of a whole split. A detection is right when it matches at the protocol's error threshold (2 m).

    Returns
    -------
    dict
        Class to ``score``, ``f1``, ``precision``, ``recall`` and ``boxes``, the labelled ones. Classes without a labelled
        box, or without a right detection, are left out. Of equal F1 the highest score is taken.
    """
    column = list(protocol.distance_thresholds).index(protocol.error_threshold)
    found = {}
    for label, name in enumerate(protocol.class_names):
        boxes = int((matches.truth_label == label).sum())
        rows = np.flatnonzero(matches.label == label)
        rows = rows[np.argsort(-matches.score[rows], kind="stable")]
        right = np.cumsum(matches.hit[rows, column])
        if not boxes or not len(rows) or not right[-1]:
            continue
        score = matches.score[rows]
        ends = np.flatnonzero(np.append(score[1:] != score[:-1], True))  # a score is reached with all of its detections
        f1 = 2.0 * right[ends] / (ends + 1 + boxes)
        best = ends[int(np.argmax(f1))]
        below = score[best + 1] if best + 1 < len(score) else 0.0
        found[name] = {
            "score": float(max((score[best] + below) / 2, score[best] - SLACK)),
            "f1": round(float(f1.max()), 4),
            "precision": round(float(right[best] / (best + 1)), 4),
            "recall": round(float(right[best] / boxes), 4),
            "boxes": boxes,
        }
    return found


def class_scores(path: Path | None, class_names: Sequence[str], min_score: MinScore = None) -> np.ndarray:
    """Return the score from which on detections of each class are shown or handed over.

    Parameters
    ----------
    path : Path, optional
        ``thresholds.json``. Classes that it does not name, and all classes where there is no such file, have
        :data:`UNKNOWN`.
    class_names : sequence of str
        The model's classes.
    min_score : float or mapping of class to float, optional
        Goes before the file.

    Returns
    -------
    (C,) float64
    """
    scores = np.full(len(class_names), UNKNOWN)
    known = read_json(path) if path is not None and Path(path).is_file() else {}
    given = min_score if isinstance(min_score, Mapping) else {}
    if min_score is not None and not isinstance(min_score, Mapping):
        return np.full(len(class_names), float(min_score))
    if unknown := [name for name in given if name not in class_names]:
        raise PetrflowError(
            f"min_score names {', '.join(unknown)}, which the model does not know: its classes are {', '.join(class_names)}."
        )
    for label, name in enumerate(class_names):
        if name in known:
            scores[label] = float(known[name]["score"])
        if name in given:
            scores[label] = float(given[name])
    return scores


def confident(found: Detections, scores: np.ndarray | float) -> Detections:
    """Return the detections of at least a score: one for all classes, or (C,) one for each."""
    least = np.asarray(scores, dtype=np.float64)
    if least.ndim:
        least = least[np.asarray(found.labels, dtype=np.int64)]
    keep = np.asarray(found.scores) >= least
    return Detections(found.boxes[keep], found.scores[keep], found.labels[keep])
