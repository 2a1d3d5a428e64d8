"""petrflow's own judge: nuScenes' detection figures from an annotation store, without the devkit
and without the tables.

Keyframes are matched on their own, so any number of processes share them (:func:`match_keyframes`);
classes are summed up on their own, so processes share those too (:func:`judge_classes`).
:func:`judge` does both in one process.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from petrflow.annotations import AnnotationStore
from petrflow.evaluation.boxes import counted, detected, global_detections, labelled
from petrflow.evaluation.figures import ClassFigures, class_figures, combine
from petrflow.evaluation.matching import Boxes, assign, candidates, errors
from petrflow.evaluation.protocol import Protocol

CHUNK_KEYFRAMES = 256
"""Keyframes that are matched at once. Memory grows with it: a few hundred bytes for each
detection.
"""


@dataclass(frozen=True)
class Matches:
    """What is left of detections and boxes of some keyframes once they are matched.

    Attributes
    ----------
    keyframes : (K,) int64
        The keyframes, by their number in the store.
    truth_keyframe, truth_label, truth_band : (G,) int64, int16, uint8
        Labelled boxes that count: keyframe, class, distance band.
    keyframe, label, score : (n,) int64, int16, float64
        Detections that count.
    hit : (n, T) bool
        Whether the detection matches at each distance threshold.
    band : (n, T) uint8
        Distance band of the matched box, or of the detection itself where it matches none.
    error : (m, 5) float64
        Errors of the detections that match at the protocol's error threshold, in the order of
        those.
    known : (2,) bool
        Whether any box that counts has a velocity, and whether any has an attribute.
    """

    keyframes: np.ndarray
    truth_keyframe: np.ndarray
    truth_label: np.ndarray
    truth_band: np.ndarray
    keyframe: np.ndarray
    label: np.ndarray
    score: np.ndarray
    hit: np.ndarray
    band: np.ndarray
    error: np.ndarray
    known: np.ndarray

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the attributes by name, as they go into a file."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


def match_keyframes(
    store: AnnotationStore,
    keyframes: Sequence[int],
    detections: Mapping[str, Any],
    class_names: Sequence[str],
    protocol: Protocol,
) -> Matches:
    """Match the detections of some keyframes with their labelled boxes.

    Parameters
    ----------
    store : AnnotationStore
        The split.
    keyframes : sequence of int
        Numbers of keyframes of the store.
    detections : mapping of sample token to Detections
        At least those of the keyframes.
    class_names : sequence of str
        Names behind the labels of the detections.
    protocol : Protocol
    """
    wanted = np.asarray(keyframes, dtype=np.int64)
    order = wanted[np.argsort(store.columns["keyframe.sample_row"][wanted], kind="stable")]
    pieces = [order[k : k + CHUNK_KEYFRAMES] for k in range(0, len(order), CHUNK_KEYFRAMES)]
    tokens = store.columns["keyframe.token"]
    parts = []
    for piece in pieces:
        found = [detections[tokens[int(k)]] for k in piece]
        parts.append(_match(store, piece, found, class_names, protocol))
    return join(parts, store, protocol)


def _match(
    store: AnnotationStore, keyframes: np.ndarray, found: Sequence[Any], class_names: Sequence[str], protocol: Protocol
) -> Matches:
    truth, racks = labelled(store, keyframes, protocol)
    turned = global_detections(store, keyframes.tolist(), found, class_names, protocol.max_boxes_per_keyframe)
    boxes = counted(detected(store, turned, class_names, protocol), racks, protocol)
    return match_boxes(keyframes, boxes, truth, protocol)


def match_boxes(keyframes: np.ndarray, boxes: Boxes, truth: Boxes, protocol: Protocol) -> Matches:
    """Match detections with labelled boxes; both hold only what counts."""
    thresholds = protocol.distance_thresholds
    # The devkit sorts pairs of score and place and turns the list round: of equal scores the last
    # one chooses first.
    choose = np.argsort(boxes.score, kind="stable")[::-1]
    rank = np.empty(len(boxes), dtype=np.int64)
    rank[choose] = np.arange(len(boxes))
    pairs = candidates(boxes, truth, len(protocol.class_names), max(thresholds), rank)
    own = protocol.band_of(boxes.distance)
    truth_band = protocol.band_of(truth.distance)
    hit = np.zeros((len(boxes), len(thresholds)), dtype=bool)
    band = np.repeat(own[:, None], len(thresholds), axis=1)
    error = np.zeros((0, 5))
    for k, threshold in enumerate(thresholds):
        partner = assign(pairs, threshold, len(truth))[rank]
        rows = np.flatnonzero(partner >= 0)
        hit[rows, k] = True
        band[rows, k] = truth_band[partner[rows]]
        if threshold == protocol.error_threshold:
            error = errors(boxes.take(rows), truth.take(partner[rows]), protocol.heading_periods())
    known = np.array([np.isfinite(truth.velocity).all(axis=1).any(), (truth.attribute != 0).any()])
    return Matches(
        keyframes,
        truth.keyframe,
        truth.label,
        truth_band,
        boxes.keyframe,
        boxes.label,
        boxes.score,
        hit,
        band,
        error,
        known,
    )


def join(parts: Iterable[Matches], store: AnnotationStore, protocol: Protocol) -> Matches:
    """Join the matches of several sets of keyframes, in the order of sample.json, on which equal
    scores depend.
    """
    thresholds = len(protocol.distance_thresholds)
    nothing = Matches(
        keyframes=np.zeros(0, dtype=np.int64),
        truth_keyframe=np.zeros(0, dtype=np.int64),
        truth_label=np.zeros(0, dtype=np.int16),
        truth_band=np.zeros(0, dtype=np.uint8),
        keyframe=np.zeros(0, dtype=np.int64),
        label=np.zeros(0, dtype=np.int16),
        score=np.zeros(0),
        hit=np.zeros((0, thresholds), dtype=bool),
        band=np.zeros((0, thresholds), dtype=np.uint8),
        error=np.zeros((0, 5)),
        known=np.zeros(2, dtype=bool),
    )
    listed = [nothing, *parts]
    arrays = {
        name: np.concatenate([getattr(part, name) for part in listed]) for name in nothing.arrays() if name != "known"
    }
    place = store.columns["keyframe.sample_row"]
    order = np.argsort(place[arrays["keyframe"]], kind="stable")
    if not np.array_equal(order, np.arange(len(order))):
        column = list(protocol.distance_thresholds).index(protocol.error_threshold)
        rows = np.flatnonzero(arrays["hit"][:, column])
        number = np.zeros(len(order), dtype=np.int64)
        number[rows] = np.arange(len(rows))
        sorted_hits = order[arrays["hit"][order, column]]
        arrays["error"] = arrays["error"][number[sorted_hits]]
        for name in ("keyframe", "label", "score", "hit", "band"):
            arrays[name] = arrays[name][order]
    return Matches(**arrays, known=np.any([part.known for part in listed], axis=0))


# --------------------------------------------------------------------------------------------------------------------- figures


@dataclass(frozen=True)
class Parts:
    """Sets of keyframes for which figures are given apart.

    Attributes
    ----------
    scene : (K,) int64
        Number of every keyframe's scene.
    scenes : list of str
        Names of the scenes.
    groups : dict of str to (K,) bool
        Which keyframes belong to a group of scenes.
    """

    scene: np.ndarray
    scenes: list[str]
    groups: dict[str, np.ndarray]


GROUP_WORDS = {"night": ("night",), "rain": ("rain",)}
"""Groups of scenes, and the words in a scene's description that put it there."""


def parts_of(store: AnnotationStore) -> Parts:
    """Return the scenes of a store and the groups to which their descriptions put them.

    nuScenes describes its scenes ("Night, after rain, peds on sidewalk"); a group that no scene
    belongs to is left out.
    """
    scene = np.asarray(store.columns["keyframe.scene_row"], dtype=np.int64)
    count = len(store.columns["scene.name"])
    names = store.columns["scene.name"].take(range(count))
    descriptions = [text.lower() for text in store.columns["scene.description"].take(range(count))]
    groups = {}
    for group, words in GROUP_WORDS.items():
        member = np.array([any(word in text for word in words) for text in descriptions], dtype=bool)
        if count and member[scene].any():
            groups[group] = member[scene]
    return Parts(scene, names, groups)


@dataclass(frozen=True)
class Judged:
    """Figures of one class: on all keyframes, by distance band, by group of scenes and by scene
    (where it has boxes).
    """

    whole: ClassFigures
    bands: dict[str, ClassFigures]
    groups: dict[str, ClassFigures]
    scenes: dict[str, ClassFigures]


def judge_classes(
    matches: Matches, protocol: Protocol, parts: Parts | None = None, classes: Sequence[str] | None = None
) -> dict[str, Judged]:
    """Return the figures of some classes (by default all).

    Parameters
    ----------
    matches : Matches
        Of all keyframes.
    parts : Parts, optional
        Without it there are no figures by band, group and scene.
    """
    order, starts = _sorted_by_class(matches.label, matches.score, len(protocol.class_names))
    column = list(protocol.distance_thresholds).index(protocol.error_threshold)
    number = np.cumsum(matches.hit[:, column]) - 1
    judged = {}
    for label, name in enumerate(protocol.class_names):
        if classes is None or name in classes:
            rows = order[starts[label] : starts[label + 1]]
            one = _OneClass(name, matches, protocol, rows, np.flatnonzero(matches.truth_label == label), column, number)
            judged[name] = one.judged(parts)
    return judged


def _sorted_by_class(label: np.ndarray, score: np.ndarray, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Sort detections by class, the highest score first and of equal scores the last one first, as
    the devkit does.
    """
    starts = np.concatenate([[0], np.cumsum(np.bincount(label, minlength=classes))])
    by_class = np.argsort(label, kind="stable")
    order = np.empty(len(label), dtype=np.int64)
    for k in range(classes):
        rows = by_class[starts[k] : starts[k + 1]]
        order[starts[k] : starts[k + 1]] = rows[np.argsort(score[rows], kind="stable")[::-1]]
    return order, starts


class _OneClass:
    """The detections of a class in the order of their scores, and its boxes."""

    def __init__(
        self,
        name: str,
        matches: Matches,
        protocol: Protocol,
        rows: np.ndarray,
        truths: np.ndarray,
        column: int,
        number: np.ndarray,
    ) -> None:
        self.name, self.protocol, self.column = name, protocol, column
        self.score, self.hit, self.band = matches.score[rows], matches.hit[rows], matches.band[rows]
        self.keyframe = matches.keyframe[rows]
        self.truth_keyframe, self.truth_band = matches.truth_keyframe[truths], matches.truth_band[truths]
        self.errors, self.number = matches.error, number[rows]

    def judged(self, parts: Parts | None) -> Judged:
        whole = self.figures(slice(None), len(self.truth_keyframe))
        if parts is None:
            return Judged(whole, {}, {}, {})
        bands = {name: self.figures_of_band(k) for k, name in enumerate(self.protocol.band_names()) if self._reaches(k)}
        groups = {
            name: self.figures(member[self.keyframe], int(member[self.truth_keyframe].sum()))
            for name, member in parts.groups.items()
        }
        return Judged(whole, bands, groups, self.figures_of_scenes(parts))

    def _reaches(self, band: int) -> bool:
        return self.protocol.bands[band][0] < self.protocol.class_ranges[self.name]

    def figures(self, rows: Any, truths: int) -> ClassFigures:
        hit = self.hit[rows]
        errors = self.errors[self.number[rows][hit[:, self.column]]]
        return class_figures(self.name, self.score[rows], hit, errors, truths, self.protocol)

    def figures_of_band(self, band: int) -> ClassFigures:
        """Count matches in the band of the labelled box and false detections in their own."""
        inside = self.band == band
        truths = int((self.truth_band == band).sum())
        thresholds = []
        for k in range(inside.shape[1]):
            # One threshold at a time: a detection may match boxes of two bands at two thresholds.
            rows = np.flatnonzero(inside[:, k])
            hit = np.zeros((len(rows), inside.shape[1]), dtype=bool)
            hit[:, k] = self.hit[rows, k]
            errors = self.errors[self.number[rows][hit[:, self.column]]]
            thresholds.append(class_figures(self.name, self.score[rows], hit, errors, truths, self.protocol))
        aps = np.array([one.aps[k] for k, one in enumerate(thresholds)])
        return ClassFigures(truths, aps, thresholds[self.column].errors)

    def figures_of_scenes(self, parts: Parts) -> dict[str, ClassFigures]:
        """Return the figures of every scene that holds boxes of the class."""
        truths = np.bincount(parts.scene[self.truth_keyframe], minlength=len(parts.scenes))
        scene = parts.scene[self.keyframe]
        order = np.argsort(scene, kind="stable")
        starts = np.searchsorted(scene[order], np.arange(len(parts.scenes) + 1))
        return {
            parts.scenes[k]: self.figures(order[starts[k] : starts[k + 1]], int(truths[k]))
            for k in np.flatnonzero(truths)
        }


def to_plain(judged: Mapping[str, Judged]) -> dict[str, Any]:
    """Return figures in a form that JSON keeps to the last bit."""
    return {
        name: {
            "whole": _plain(one.whole),
            **{
                kind: {part: _plain(figures) for part, figures in getattr(one, kind).items()}
                for kind in ("bands", "groups", "scenes")
            },
        }
        for name, one in judged.items()
    }


def _plain(figures: ClassFigures) -> list[Any]:
    return [figures.truths, figures.aps.tolist(), figures.errors.tolist()]


def from_plain(stored: Mapping[str, Any]) -> dict[str, Judged]:
    """Undo :func:`to_plain`."""

    def figures(one: list[Any]) -> ClassFigures:
        return ClassFigures(one[0], np.array(one[1], dtype=np.float64), np.array(one[2], dtype=np.float64))

    return {
        name: Judged(
            figures(one["whole"]),
            *({part: figures(value) for part, value in one[kind].items()} for kind in ("bands", "groups", "scenes")),
        )
        for name, one in stored.items()
    }


def judge(
    store: AnnotationStore,
    detections: Mapping[str, Any],
    class_names: Sequence[str],
    protocol: Protocol,
    details: bool = True,
) -> tuple[dict[str, Any], Matches, dict[str, Judged]]:
    """Judge the detections of a whole split in this process.

    Returns
    -------
    summary : dict
        In the form of the devkit's ``metrics_summary.json``.
    matches : Matches
    judged : dict of str to Judged
        Figures by class; by band, group and scene where ``details`` asks for them.
    """
    matches = match_keyframes(store, range(len(store)), detections, class_names, protocol)
    judged = judge_classes(matches, protocol, parts_of(store) if details else None)
    return combine({name: one.whole for name, one in judged.items()}, protocol), matches, judged
