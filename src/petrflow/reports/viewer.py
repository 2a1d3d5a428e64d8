"""A folder of files that plays scenes in a browser: all cameras and the view from above, detections
against labelled boxes.

No server: the page reads its data from script files, which a page from disk may do, and its
pictures by their relative paths.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import cv2
import numpy as np

from petrflow import geometry
from petrflow.annotations import AnnotationStore
from petrflow.errors import PetrflowError
from petrflow.evaluation.thresholds import confident
from petrflow.files import atomic_dir, fingerprint, read_json, sha256_file, write_atomic, write_json
from petrflow.pictures.draw import camera_grid_order
from petrflow.prediction.film import JPEG_QUALITY, draw_keyframe, score_note
from petrflow.reports import detections as counted
from petrflow.reports import words
from petrflow.reports.detections import DetectionSet, Found, Truth
from petrflow.reports.rendering import packaged_text, page_environment
from petrflow.samples.types import Detections

THRESHOLD = 0.3
"""Score from which detections are shown at first, and from which frames are counted."""

FORMAT = 3
"""Number of the viewer's form, to be raised when the viewer changes: others are written again."""

BEFORE_PICTURE = "before.jpg"
"""The demo's middle keyframe as the weights before training see it; the page shows it beside the
demo's own."""

LEAST_SCORE = 0.05
"""Detections below it are left out: no one looks at them, and they are most of a submission's
bytes.
"""


def run_sets(folder: Path, dataset: str) -> list[DetectionSet]:
    """Return the detections of a run's own data set that stand in ``results/{run}``, those from before training first."""
    known = (
        ("before", "viewer_set_before", "baseline/results_nusc.json"),
        ("after", "viewer_set_after", "train/results_nusc.json"),
        ("after", "viewer_set_last", "state/evaluation/results_nusc.json"),
        ("predict", "viewer_set_predict", f"predict/{dataset}/results_nusc.json"),
        ("demo", "viewer_set_demo", "demo/detections.json"),
    )
    found: dict[str, DetectionSet] = {}
    for key, title, name in known:
        if (folder / name).is_file():
            found.setdefault(key, DetectionSet(key, words.pair(title), folder / name))
    return list(found.values())


def update_viewer(results: Path, run: str, dataset: str, data: Path = Path("data")) -> str:
    """Write ``results/{run}/viewer`` if the detections that stand there are others than it shows.

    A viewer is an extra: what keeps it from being written is returned as a sentence, and a run
    without detections has none.

    Parameters
    ----------
    results, data : Path
        Folders with one folder a run, and one a data set.
    run, dataset : str
    """
    folder, store = results / run, results / dataset / "annotations" / "val.arrow"
    sets = run_sets(folder, dataset)
    if not sets or not store.is_file():
        return ""
    findings = results / dataset / "doctor" / "doctor.json"
    sources = [store, *(one.path for one in sets), *([findings] if findings.is_file() else [])]
    made_from = fingerprint([FORMAT, [[path.name, sha256_file(path)] for path in sources]])
    try:
        shown = folder / "viewer" / "figures.json"
        if shown.is_file() and read_json(shown).get("made_from") == made_from:
            return ""
        if (folder / "viewer").exists() and not shown.is_file():
            return f"viewer: {folder / 'viewer'} is not petrflow's: move it elsewhere, and the viewer is written there"
        write_viewer(store, data / dataset, sets, folder / "viewer", title=run, findings=findings, made_from=made_from)
    except (PetrflowError, KeyError, TypeError, ValueError) as error:
        return f"viewer: it was not written: {error}"
    return ""


def write_viewer(
    store_path: Path,
    root: Path,
    sets: Sequence[DetectionSet],
    out: Path,
    *,
    class_names: Sequence[str] | None = None,
    threshold: float = THRESHOLD,
    title: str = "",
    findings: Path | None = None,
    made_from: str = "",
) -> None:
    """Write the viewer of one split.

    Parameters
    ----------
    store_path, root : Path
        A split's annotation store, and the nuScenes root that it was made from; pictures stay
        there.
    sets : sequence of DetectionSet
        Any number; the first is taken for "before" and the last for "after" until a person chooses
        others.
    out : Path
        Folder; appears whole. ``index.html`` is the page, ``figures.json`` what
        :mod:`petrflow.reports.page` shows of it.
    class_names : sequence of str, optional
        The model's classes; by default those that the sets hold, or those that are labelled.
    threshold : float
        Score from which boxes are shown at first.
    title : str
        Name of the run.
    findings : Path, optional
        ``doctor.json`` of the data set: its sentences are shown with the scenes.
    made_from : str
        Fingerprint of the sources, kept in ``figures.json``.
    """
    store, out = AnnotationStore.open(store_path), Path(out)
    rules = _rules(sets)
    names = list(class_names or rules) or _class_names(store, sets)
    truth = Truth(store, names, rules)
    shown = [_Shown.of(one, store, truth, names) for one in sets]
    scenes: dict[str, list[int]] = {}
    for index in range(len(store)):
        scenes.setdefault(store.columns["keyframe.scene_name"][index], []).append(index)
    with atomic_dir(out) as folder:
        (folder / "data").mkdir()
        for number, indices in enumerate(scenes.values()):
            scene = [_frame(store, truth, shown, index, Path(root)) for index in indices]
            _write_script(folder / "data" / f"scene-{number}.js", f"petrflow.scene({number},", scene)
        about = {
            "title": title or store.split,
            "pictures": quote(Path(os.path.relpath(root, out)).as_posix()) + "/",
            **_facts_of(store, truth, sets, scenes, threshold),
            "findings": _findings(findings),
        }
        _write_script(folder / "data" / "index.js", "petrflow.index(", about)
        figures = _figures(shown, sets, truth, scenes, threshold)
        write_json(folder / "figures.json", {**figures, "made_from": made_from})
        write_atomic(folder / "index.html", _page(title or store.split))
        before = _before_training(store, Path(root), sets, names)
        if before is not None:
            write_atomic(folder / BEFORE_PICTURE, before)


def _before_training(
    store: AnnotationStore, root: Path, sets: Sequence[DetectionSet], names: Sequence[str]
) -> bytes | None:
    """Return the demo's middle keyframe as JPEG with the boxes from before training, drawn as the
    demo draws them; None without a demo or without such boxes.
    """
    paths = {one.key: one.path for one in sets}
    if not {"before", "demo"} <= paths.keys():
        return None
    shown = read_json(paths["demo"])
    tokens = [keyframe["token"] for keyframe in shown["keyframes"]]
    numbers = {store[index].token: index for index in range(len(store))}
    if not tokens or tokens[len(tokens) // 2] not in numbers:
        return None
    index, least = numbers[tokens[len(tokens) // 2]], float(shown["score_threshold"])
    scores = np.array([shown.get("score_thresholds", {}).get(name, least) for name in names])
    found = counted.read_detections(paths["before"], store, names, least)
    mine = found.keyframe == index
    boxes = confident(Detections(found.boxes[mine], found.scores[mine], found.labels[mine]), scores)
    title = f"{shown['scene']}  keyframe {len(tokens) // 2 + 1}/{len(tokens)}, before training"
    picture = draw_keyframe(store[index], root, boxes, names, title, score_note(scores, False))
    return cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1].tobytes()


def _facts_of(
    store: AnnotationStore,
    truth: Truth,
    sets: Sequence[DetectionSet],
    scenes: Mapping[str, Sequence[int]],
    threshold: float,
) -> dict[str, Any]:
    """Return what the viewer knows of a split before it reads a scene."""
    return {
        "cameras": list(store.camera_names),
        "order": camera_grid_order(store[0].lidar_from_camera) if len(store) else [],
        "classes": truth.names,
        "counted": truth.classes,
        "distance": truth.protocol.error_threshold,
        "threshold": threshold,
        "least": LEAST_SCORE,
        "sets": [{"key": one.key, "title": one.title} for one in sets],
        "scenes": [{"name": name, "frames": len(indices)} for name, indices in scenes.items()],
        "labelled": bool(len(truth.boxes)),
    }


def _page(title: str) -> str:
    """Return ``index.html``, with the words that its script shows."""
    texts = {key: text for key, text in words.catalogue().items() if key.startswith("viewer_")}
    return (
        page_environment()
        .get_template("viewer.html.j2")
        .render(
            title=title,
            words=texts,
            style=packaged_text("templates", "viewer.css"),
            script=packaged_text("templates", "viewer.js"),
        )
    )


@dataclass(frozen=True)
class _Shown:
    """A set of detections, read and matched; ``first[k]`` is where keyframe k's begin."""

    found: Found
    partner: np.ndarray
    first: np.ndarray

    @classmethod
    def of(cls, one: DetectionSet, store: AnnotationStore, truth: Truth, names: Sequence[str]) -> _Shown:
        found = counted.read_detections(one.path, store, names, LEAST_SCORE)
        first = np.searchsorted(found.keyframe, np.arange(len(store) + 1))
        return cls(found, counted.match(found, truth), first)


def _class_names(store: AnnotationStore, sets: Sequence[DetectionSet]) -> list[str]:
    names = set().union(*(counted.classes_of(one.path) for one in sets))
    return counted.class_order(names or {name for name in store.metadata["names"] if "." not in name})


def _rules(sets: Sequence[DetectionSet]) -> dict[str, Any]:
    """Return the rules by class that a run of own classes was judged by; empty for nuScenes' ten."""
    beside = [one.path.with_name("metrics.json") for one in sets]
    return next((rules for path in beside if path.is_file() and (rules := read_json(path).get("rules"))), {})


def _findings(path: Path | None) -> list[str]:
    if path is None or not Path(path).is_file():
        return []
    return [str(finding["sentence"]) for finding in read_json(Path(path)).get("findings", [])]


def _frame(store: AnnotationStore, truth: Truth, shown: Sequence[_Shown], index: int, root: Path) -> dict[str, Any]:
    """Return one keyframe as the page's script reads it.

    ``cameras``: path, width, height, and ``image_from_lidar`` (3, 4), row by row. ``truth``: box,
    class, whether it counts, lidar points. ``sets``: box, class, score, number of the matched
    labelled box (-1 false, -2 does not count).
    """
    keyframe = store[index]
    views = geometry.view_matrix(keyframe.intrinsics, geometry.invert_rigid(keyframe.lidar_from_camera))
    rows = slice(int(truth.first[index]), int(truth.first[index + 1]))
    labelled = [
        [*_rounded(box), int(label), int(counts), int(points)]
        for box, label, counts, points in zip(
            truth.boxes[rows], truth.labels[rows], truth.counts[rows], keyframe.num_lidar_pts, strict=True
        )
    ]
    sets = []
    for one in shown:
        mine = slice(int(one.first[index]), int(one.first[index + 1]))
        found = one.found
        sets.append(
            [
                [*_rounded(box), int(label), round(float(score), 3), int(partner)]
                for box, label, score, partner in zip(
                    found.boxes[mine], found.labels[mine], found.scores[mine], one.partner[mine], strict=True
                )
            ]
        )
    return {
        "token": keyframe.token,
        "time": keyframe.timestamp,
        "cameras": [
            [quote(path), *size.tolist(), *(float(f"{value:.6g}") for value in view[:3].ravel())]
            for path, size, view in zip(keyframe.image_paths, keyframe.image_sizes, views, strict=True)
        ],
        "truth": labelled,
        "sets": sets,
    }


def _rounded(box: np.ndarray) -> list[float | None]:
    """Return a box in mm, mrad and mm/s steps; None for a velocity that is not known."""
    return [None if np.isnan(value) else round(float(value), 3) for value in box]


def _figures(
    shown: Sequence[_Shown],
    sets: Sequence[DetectionSet],
    truth: Truth,
    scenes: Mapping[str, Sequence[int]],
    threshold: float,
) -> dict[str, Any]:
    """Return what the page over all runs shows of the detections: of the last set that covers the
    whole split, sizes of the first too.
    """
    whole = [k for k, one in enumerate(shown) if len(np.unique(one.found.keyframe)) > 0.5 * len(truth.store)]
    if not whole or not truth.counts.any():
        return {}
    last = shown[whole[-1]]
    counts = counted.frame_counts(last.found, last.partner, truth, threshold)
    scores = counted.f1(counts)
    frames = [
        {
            "scene": name,
            "number": number,
            "found": int(counts[index, 0]),
            "missed": int(counts[index, 1]),
            "false": int(counts[index, 2]),
            "f1": round(float(scores[index]), 4),
        }
        for name, indices in scenes.items()
        for number, index in enumerate(indices)
    ]
    both = {"before": shown[whole[0]], "after": last} if len(whole) > 1 else {"after": last}
    return {
        "title": sets[whole[-1]].title,
        "threshold": threshold,
        "distance": truth.protocol.error_threshold,
        "classes": truth.names[: truth.classes],
        "frames": frames,
        "recall_curves": counted.recall_curves(last.found, last.partner, truth),
        "scores": counted.score_counts(last.found, last.partner),
        "sizes": [
            {**row, "which": which}
            for which, one in both.items()
            for row in counted.found_by_size(one.found, one.partner, truth, threshold)
        ],
        "confusion": counted.confusion(last.found, truth, threshold),
    }


def _write_script(path: Path, call: str, value: Any) -> None:
    write_atomic(path, f"{call}{json.dumps(value, separators=(',', ':'))});\n")
