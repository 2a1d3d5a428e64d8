"""Detections that a stage has left, set against the labelled boxes: what is right, missed and
false, at any score.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from petrflow import geometry
from petrflow.annotations import AnnotationStore
from petrflow.errors import PetrflowError
from petrflow.evaluation.evaluate import typical_sizes
from petrflow.evaluation.matching import Boxes, assign, candidates
from petrflow.evaluation.protocol import NUSCENES, Protocol, protocol_of_classes
from petrflow.files import read_json
from petrflow.nuscenes.synonyms import labels_of

MOST_BOXES = 300
"""The best detections of a keyframe that are shown."""


@dataclass(frozen=True)
class DetectionSet:
    """Detections with a name.

    Attributes
    ----------
    key : str
        In links to frames.
    title : pair of texts
        For people, as :func:`petrflow.reports.words.pair` gives it.
    path : Path
        A submission (``results_nusc.json``, global frame) or a demo's ``detections.json`` (lidar
        frame).
    """

    key: str
    title: Mapping[str, str]
    path: Path


@dataclass(frozen=True)
class Found:
    """Detections of all keyframes of a store, those of a keyframe in one piece and the highest
    score first.

    Attributes
    ----------
    keyframe : (n,) int64
        Number of the keyframe in the store.
    boxes : (n, 9) float64
        Lidar frame: x, y, z, w, l, h, yaw, vx, vy; m, rad, m/s. NaN for a velocity that is not
        given.
    scores : (n,) float64
    labels : (n,) int64
        Index into the class names.
    """

    keyframe: np.ndarray
    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray


class Truth:
    """The labelled boxes of a store, and which of them count.

    Parameters
    ----------
    store : AnnotationStore
    class_names : sequence of str
        The model's classes; labelled boxes of others are shown and do not count.
    judging : mapping, optional
        Of the model file: rules of some classes.

    Attributes
    ----------
    names : list of str
        ``class_names``, and after them the other names of labelled boxes.
    first : (K + 1,) int64
        The boxes of keyframe k are ``first[k]`` to ``first[k + 1]``.
    boxes : (N, 9) float64
        As in :class:`Found`.
    labels : (N,) int64
        Index into ``names``.
    counts : (N,) bool
        Of a class of the model, within its range, with a lidar or radar point inside.
    """

    def __init__(
        self, store: AnnotationStore, class_names: Sequence[str], judging: Mapping[str, Any] | None = None
    ) -> None:
        self.store = store
        columns = store.columns
        self.protocol: Protocol = protocol_of_classes(class_names, typical_sizes(store, class_names), judging)
        names = store.metadata["names"]
        known = labels_of(names, class_names)
        others = [name for name, label in zip(names, known, strict=True) if label < 0]
        self.names = [*class_names, *dict.fromkeys(others)]
        self.classes = len(class_names)
        self.first = np.asarray(columns["keyframe.box_offset"], dtype=np.int64)
        self.boxes = np.concatenate([columns["box.box"], columns["box.velocity"]], axis=1).astype(np.float64)
        number = {name: k for k, name in enumerate(self.names)}
        codes = [number[name] if label < 0 else label for name, label in zip(names, known, strict=True)]
        self.labels = np.array(codes or [0], dtype=np.int64)[columns["box.name"]]
        self.keyframe = np.repeat(np.arange(len(store)), np.diff(self.first))
        valid = np.asarray(columns["box.valid"]) != 0
        self.counts = valid & self.within_range(self.keyframe, self.boxes, self.labels)

    @cached_property
    def _vehicle(self) -> np.ndarray:
        """(K, 2) float64: the vehicle's place in the lidar frame, m."""
        poses = self.store.columns["keyframe.lidar_to_ego"]
        return geometry.invert_rigid(geometry.transform(poses[:, :3], poses[:, 3:]))[:, :2, 3]

    def within_range(self, keyframe: np.ndarray, boxes: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """Return (n,) bool: of a class of the model, and nearer to the vehicle than the class's
        range.
        """
        ranges = np.array([self.protocol.class_ranges.get(name, 0.0) for name in self.names])
        ranges[self.classes :] = 0.0
        offset = boxes[:, :2] - self._vehicle[keyframe]
        near: np.ndarray = np.hypot(offset[:, 0], offset[:, 1]) < ranges[labels]
        return near


def read_detections(path: Path, store: AnnotationStore, class_names: Sequence[str], least_score: float = 0.0) -> Found:
    """Read the detections of a file that belong to keyframes of ``store``; classes that are not in
    ``class_names`` are left out.

    Raises
    ------
    PetrflowError
        When the file holds neither a submission nor a demo's detections.
    """
    content = read_json(path)
    tokens = store.columns["keyframe.token"].take(range(len(store)))
    number = {name: k for k, name in enumerate(class_names)}
    by_token = _rows_by_token(content, path)
    parts: list[tuple[int, np.ndarray]] = []
    for index, token in enumerate(tokens):
        rows = np.array(
            [row for row in (_row(item, number) for item in by_token.get(token, ())) if row is not None],
            dtype=np.float64,
        ).reshape(-1, 11)
        rows = rows[rows[:, 9] >= least_score]
        rows = rows[np.argsort(-rows[:, 9], kind="stable")[:MOST_BOXES]]
        if "results" in content and len(rows):
            lidar_from_global = geometry.invert_rigid(store[index].global_from_lidar)
            rows[:, :9] = geometry.transform_boxes(rows[:, :9], lidar_from_global)
        parts.append((index, rows))
    rows = np.concatenate([part for _, part in parts]) if parts else np.zeros((0, 11))
    keyframe = np.repeat([index for index, _ in parts], [len(part) for _, part in parts]).astype(np.int64)
    return Found(keyframe, rows[:, :9], rows[:, 9], rows[:, 10].astype(np.int64))


def classes_of(path: Path) -> set[str]:
    """Return the class names in a file of detections."""
    return {
        str(item.get("detection_name", item.get("class")))
        for items in _rows_by_token(read_json(path), path).values()
        for item in items
    }


def class_order(names: set[str]) -> list[str]:
    """Return class names as nuScenes orders them, then the others by name."""
    known = NUSCENES.class_names
    return [name for name in known if name in names] + sorted(names - set(known))


def match(found: Found, truth: Truth) -> np.ndarray:
    """Match as the evaluation does, at its error threshold: the best detection takes the nearest
    free box of its class.

    A match depends on better detections only, so it holds at any least score.

    Returns
    -------
    (n,) int64
        Number of the matched box among the keyframe's; -1 for a false detection; -2 for one that
        does not count.
    """
    counts = truth.within_range(found.keyframe, found.boxes, found.labels)
    rows, kept = np.flatnonzero(counts), np.flatnonzero(truth.counts)
    partner = np.full(len(found.scores), -2, dtype=np.int64)
    partner[rows] = -1
    matched = _assign(found, rows, truth, kept, found.labels[rows], truth.labels[kept], truth.classes)
    has = matched >= 0
    box = kept[matched[has]]
    partner[rows[has]] = box - truth.first[truth.keyframe[box]]
    return partner


def match_any_class(found: Found, truth: Truth, threshold: float) -> tuple[np.ndarray, np.ndarray]:
    """Match detections of at least ``threshold`` whatever their class.

    Returns
    -------
    rows : (m,) int64
        Detections that count.
    boxes : (m,) int64
        Number of the matched box in the store, -1 for none.
    """
    counts = truth.within_range(found.keyframe, found.boxes, found.labels) & (found.scores >= threshold)
    rows, kept = np.flatnonzero(counts), np.flatnonzero(truth.counts)
    one = np.zeros(len(rows), dtype=np.int64)
    matched = _assign(found, rows, truth, kept, one, np.zeros(len(kept), dtype=np.int64), 1)
    return rows, np.where(matched >= 0, kept[np.maximum(matched, 0)] if len(kept) else -1, -1)


def _assign(
    found: Found,
    rows: np.ndarray,
    truth: Truth,
    kept: np.ndarray,
    found_labels: np.ndarray,
    truth_labels: np.ndarray,
    classes: int,
) -> np.ndarray:
    ours = _as_boxes(found.keyframe[rows], found.boxes[rows], found_labels, found.scores[rows])
    theirs = _as_boxes(truth.keyframe[kept], truth.boxes[kept], truth_labels, np.zeros(0))
    choose = np.argsort(ours.score, kind="stable")[::-1]
    rank = np.empty(len(ours), dtype=np.int64)
    rank[choose] = np.arange(len(ours))
    limit = truth.protocol.error_threshold
    return assign(candidates(ours, theirs, classes, limit, rank), limit, len(theirs))[rank]


def _as_boxes(keyframe: np.ndarray, boxes: np.ndarray, labels: np.ndarray, scores: np.ndarray) -> Boxes:
    nothing = np.zeros(len(keyframe))
    return Boxes(
        keyframe=keyframe,
        label=labels.astype(np.int16),
        centre=boxes[:, :3],
        size=boxes[:, 3:6],
        heading=boxes[:, 6],
        velocity=boxes[:, 7:9],
        attribute=nothing.astype(np.int16),
        distance=nothing,
        score=scores,
    )


def _rows_by_token(content: Any, path: Path) -> dict[str, list[dict[str, Any]]]:
    if isinstance(content, dict) and isinstance(content.get("results"), dict):
        return dict(content["results"])
    if isinstance(content, dict) and isinstance(content.get("keyframes"), list):
        return {str(one["token"]): one["predicted"] for one in content["keyframes"]}
    raise PetrflowError(
        f"{path} holds no detections: give a submission (results_nusc.json) or a demo's detections.json, and run again."
    )


def _row(item: Mapping[str, Any], number: Mapping[str, int]) -> list[float] | None:
    """Return x, y, z, w, l, h, yaw, vx, vy, score, label of one detection; None for a class that is
    not known.
    """
    name = item.get("detection_name", item.get("class"))
    if name not in number:
        return None
    if "box" in item:
        box = [float(value) for value in item["box"]]
        return [*box[:7], *(box[7:9] or [np.nan, np.nan]), float(item["score"]), number[name]]
    yaw = float(geometry.quaternion_yaw(item["rotation"]))
    velocity = item.get("velocity") or [np.nan, np.nan]
    score = float(item["detection_score"])
    return [*item["translation"], *item["size"], yaw, *velocity, score, number[name]]


# ---------------------------------------------------------------------------------------------------------------- counts


def frame_counts(found: Found, partner: np.ndarray, truth: Truth, threshold: float) -> np.ndarray:
    """Return (K, 3) int64: boxes found, missed and false of every keyframe, at a least score."""
    total = len(truth.first) - 1
    shown = found.scores >= threshold
    right = np.bincount(found.keyframe[shown & (partner >= 0)], minlength=total)
    false = np.bincount(found.keyframe[shown & (partner == -1)], minlength=total)
    boxes = np.bincount(truth.keyframe[truth.counts], minlength=total)
    return np.stack([right, boxes - right, false], axis=1)


def f1(counts: np.ndarray) -> np.ndarray:
    """Return (K,) float64: 2 found / (2 found + missed + false); 1 where there is nothing to find
    and nothing false.
    """
    right, missed, false = (counts[:, k].astype(np.float64) for k in range(3))
    total = 2 * right + missed + false
    return np.where(total > 0, 2 * right / np.maximum(total, 1), 1.0)


def recall_curves(found: Found, partner: np.ndarray, truth: Truth, points: int = 60) -> list[dict[str, Any]]:
    """Return precision over recall by class: rows of ``class``, ``recall``, ``precision`` and
    ``score``, thinned to ``points``.
    """
    rows = []
    for label in range(truth.classes):
        boxes = int((truth.counts & (truth.labels == label)).sum())
        mine = np.flatnonzero((found.labels == label) & (partner > -2))
        if not boxes or not len(mine):
            continue
        mine = mine[np.argsort(-found.scores[mine], kind="stable")]
        right = np.cumsum(partner[mine] >= 0)
        for k in np.unique(np.linspace(0, len(mine) - 1, points).round().astype(int)):
            precision, recall = right[k] / (k + 1), right[k] / boxes
            score = float(found.scores[mine[k]])
            rows.append(
                {
                    "class": truth.names[label],
                    "recall": round(float(recall), 4),
                    "precision": round(float(precision), 4),
                    "score": round(score, 4),
                }
            )
    return rows


def score_counts(found: Found, partner: np.ndarray, bins: int = 20) -> list[dict[str, Any]]:
    """Return how many detections of each score are right and false: rows of ``score``, ``which``
    and ``count``.
    """
    edges = np.linspace(0.0, 1.0, bins + 1)
    rows = []
    for which, chosen in (("right", partner >= 0), ("false", partner == -1)):
        counts = np.histogram(found.scores[chosen], edges)[0]
        rows += [
            {"score": f"{low:.2f}", "which": which, "count": int(n)} for low, n in zip(edges, counts, strict=False)
        ]
    return rows


AREAS = ((0.0, 1.0), (1.0, 3.0), (3.0, 8.0), (8.0, 15.0), (15.0, np.inf))
"""m², width times length: cones and people, cycles, small cars, cars, trucks and buses."""


def found_by_size(found: Found, partner: np.ndarray, truth: Truth, threshold: float) -> list[dict[str, Any]]:
    """Return the share of boxes found by their area seen from above: rows of ``name`` and
    ``value``.
    """
    shown = (found.scores >= threshold) & (partner >= 0)
    hit = np.zeros(len(truth.labels), dtype=bool)
    hit[truth.first[found.keyframe[shown]] + partner[shown]] = True
    area = truth.boxes[:, 3] * truth.boxes[:, 4]
    rows = []
    for low, high in AREAS:
        inside = truth.counts & (area >= low) & (area < high)
        if inside.any():
            name = f"{low:g}-{high:g} m²" if np.isfinite(high) else f"> {low:g} m²"
            rows.append({"name": name, "value": round(float(hit[inside].mean()), 4)})
    return rows


def confusion(found: Found, truth: Truth, threshold: float) -> list[dict[str, Any]]:
    """Return how labelled classes were called: rows of ``true``, ``found`` (None: nothing),
    ``count`` and ``share`` of its row.
    """
    rows, boxes = match_any_class(found, truth, threshold)
    size = truth.classes
    table = np.zeros((size + 1, size + 1), dtype=np.int64)
    has = boxes >= 0
    np.add.at(table, (truth.labels[boxes[has]], found.labels[rows[has]]), 1)
    np.add.at(table, (np.full(int((~has).sum()), size), found.labels[rows[~has]]), 1)
    missed = truth.counts.copy()
    missed[boxes[has]] = False
    np.add.at(table, (truth.labels[missed], np.full(int(missed.sum()), size)), 1)
    used = [k for k in range(size) if table[k].any() or table[:, k].any()]
    names = {k: truth.names[k] for k in used} | {size: None}
    return [
        {
            "true": names[row],
            "found": names[column],
            "count": int(table[row, column]),
            "share": round(float(table[row, column] / max(1, table[row].sum())), 4),
        }
        for row in names
        for column in names
        if table[row, column]
    ]
