"""Run a trained model over a data set, labelled or not, and leave what it finds in every form that somebody takes."""

from __future__ import annotations

import csv
import io
import shutil
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from petrflow import geometry
from petrflow.annotations import AnnotationStore
from petrflow.errors import PetrflowError
from petrflow.evaluation.evaluate import judge_alone, typical_sizes
from petrflow.evaluation.protocol import NUSCENES, protocol_of_classes
from petrflow.evaluation.submission import submission_lines, write_submission
from petrflow.evaluation.table import format_table
from petrflow.evaluation.thresholds import confident
from petrflow.files import atomic_path, fingerprint, sha256_file, write_atomic, write_json
from petrflow.prediction.detections import FILE as DETECTIONS
from petrflow.prediction.detections import write_detections
from petrflow.prediction.film import draw_film, scenes_of
from petrflow.prediction.parts import Parts, predict_all
from petrflow.prediction.tracking import DISTANCES, NONE, track, tracking_lines
from petrflow.samples.dataset import PetrDataset
from petrflow.samples.types import Detections, Predicts

SUBMISSION, ZIP, TRACKS = "results_nusc.json", "results_nusc.zip", "tracks_nusc.json"


def prediction_key(model_files: Sequence[Path], store_path: Path, model_config: Mapping[str, Any]) -> str:
    """Return a fingerprint of everything that shapes the predictions of a data set."""
    return fingerprint([*(sha256_file(path) for path in model_files), sha256_file(store_path), dict(model_config)])


def predict_dataset(
    model: Predicts,
    store_path: Path,
    root: Path,
    model_config: Mapping[str, Any],
    folder: Path,
    parts: Parts,
    *,
    scores: np.ndarray,
    scenes: int = 1,
    tracks: bool = False,
    note: str = "",
    num_workers: int = 0,
) -> dict[str, Any] | None:
    """Predict all keyframes of a store and write the results into an empty folder.

    Parameters
    ----------
    model : ExportedModel or PetrV2
        Anything with ``predict(batch)``.
    store_path, root : Path
        Annotation store, with or without boxes, and the nuScenes root that it was made from.
    model_config : mapping
        The parsed model file.
    folder : Path
        Gets ``detections.parquet``, ``results_nusc.json`` (and a zip of it where the tables are nuScenes' test split),
        ``counts.csv``, ``frames/`` and ``predict.mp4``, and, where labels exist, ``metrics.json`` and ``table.txt``.
    parts : Parts
        What has been predicted so far.
    scores : (C,) float64
        Score from which on boxes of each class are counted and drawn; the files of detections hold all of them.
    scenes : int
        How many scenes are drawn, the first ones.
    tracks : bool
        Number the objects of each scene (:func:`petrflow.prediction.tracking.track`): a column of ``detections.parquet``,
        ``tracks_nusc.json`` where the model knows classes of nuScenes' tracking task, and in the pictures from above.
    note : str
        Which boxes are drawn, for the legend.

    Returns
    -------
    dict or None
        The metrics, where labels exist.
    """
    store, names = AnnotationStore.open(store_path), list(model_config["class_names"])
    if not len(store):
        raise PetrflowError(
            f"{store_path} holds no keyframe, so there is nothing to predict: check the scenes of its split."
        )
    dataset = PetrDataset(store_path, root, dict(model_config), training=False)
    found = predict_all(model, dataset, parts, num_workers)
    keyframes = range(len(store))
    by_token = dict(zip(store.columns["keyframe.token"].take(keyframes), found, strict=True))
    numbers = track(store, found, names, scores) if tracks else None
    write_detections(folder / DETECTIONS, store, found, names, numbers)
    write_submission(folder / SUBMISSION, [(keyframes, submission_lines(store, keyframes, by_token, names))])
    if store.version.endswith("-test") and set(names) <= set(NUSCENES.class_names):
        _write_zip(folder / ZIP, folder / SUBMISSION)
    if numbers is not None and set(names) & set(DISTANCES):
        write_submission(folder / TRACKS, [(keyframes, tracking_lines(store, found, numbers, names))])
    metrics = judge_alone(store, by_token, names, model_config.get("judging"))
    if metrics is not None:
        write_json(folder / "metrics.json", metrics)
        write_atomic(folder / "table.txt", format_table(metrics))
    shown = [confident(one, scores) for one in found]
    write_atomic(folder / "counts.csv", counts_table(store, shown, names))
    known = scenes_of(store)
    drawn = list(known)[:scenes]
    if drawn:
        order = [index for scene in drawn for index in known[scene]]
        picked = [shown[index] for index in order]
        written = None if numbers is None else [numbers[index][numbers[index] != NONE] for index in order]
        draw_film(store, root, drawn, picked, names, folder, "predict.mp4", note=note, tracks=written)
    return metrics


def counts_table(store: AnnotationStore, shown: Sequence[Detections], class_names: Sequence[str]) -> str:
    """Return as CSV how many boxes of each class there are by distance from the vehicle, and how many a keyframe."""
    protocol = protocol_of_classes(class_names, typical_sizes(store, class_names))
    poses = np.asarray(store.columns["keyframe.lidar_to_ego"])
    counts = np.zeros((len(class_names), len(protocol.bands)), dtype=np.int64)
    for index, one in enumerate(shown):
        ego_from_lidar = geometry.transform(poses[index, :3], poses[index, 3:])
        centres = np.asarray(one.boxes, np.float64)[:, :3] @ ego_from_lidar[:3, :3].T + ego_from_lidar[:3, 3]
        bands = protocol.band_of(np.hypot(centres[:, 0], centres[:, 1]))
        np.add.at(counts, (np.asarray(one.labels, np.int64), bands), 1)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["class", *protocol.band_names(), "all", "per keyframe"])
    for row, name in zip(counts.tolist(), class_names, strict=True):
        writer.writerow([name, *row, sum(row), f"{sum(row) / max(1, len(shown)):.2f}"])
    return text.getvalue()


def _write_zip(path: Path, submission: Path) -> None:
    """Pack a submission for the leaderboard; the same submission gives the same bytes."""
    about = zipfile.ZipInfo(SUBMISSION, (1980, 1, 1, 0, 0, 0))
    about.compress_type, about.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
    with (
        atomic_path(path) as temporary,
        zipfile.ZipFile(temporary, "w") as packed,
        packed.open(about, "w", force_zip64=True) as target,
        submission.open("rb") as source,
    ):
        shutil.copyfileobj(source, target, 1 << 20)
