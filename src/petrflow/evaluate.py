"""Score detections with nuscenes-devkit: predictions of a model -> submission file -> metrics.

The devkit's own :class:`nuscenes.eval.detection.evaluate.NuScenesEval` is the judge; this module converts to its submission
format, names what the devkit cannot know (a data set without velocities or attributes), and compares with expected figures.
"""

from __future__ import annotations

import contextlib
import functools
import io
import json
import math
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from petrflow import geometry
from petrflow.annotations import AnnotationStore
from petrflow.errors import PetrflowError
from petrflow.expectations import ERROR_NAMES, compare_with_expected
from petrflow.files import atomic_dir, write_atomic, write_json
from petrflow.samples.types import SampleDetections

EVALUATED_SPLIT = "petrflow_val"
MAX_BOXES_PER_SAMPLE = 500
MOVING_SPEED = 0.2
"""Speed (m/s) above which a vehicle counts as moving and a cycle as ridden when an attribute is chosen."""

MOVING_ATTRIBUTE = {
    **dict.fromkeys(("car", "truck", "construction_vehicle", "bus", "trailer"), "vehicle.moving"),
    **dict.fromkeys(("bicycle", "motorcycle"), "cycle.with_rider"),
    "pedestrian": "pedestrian.moving",
}
STILL_ATTRIBUTE = {
    **dict.fromkeys(("car", "truck", "construction_vehicle", "trailer"), "vehicle.parked"),
    **dict.fromkeys(("bicycle", "motorcycle"), "cycle.without_rider"),
    "bus": "vehicle.stopped",
    "pedestrian": "pedestrian.standing",
}


def choose_attribute(class_name: str, speed: float) -> str:
    """Return the nuScenes attribute of a detection from its class and its speed (m/s).

    PETRv2 predicts no attribute; moving or not is what its velocity tells, and cones and barriers have none.
    """
    table = MOVING_ATTRIBUTE if speed > MOVING_SPEED else STILL_ATTRIBUTE
    return table.get(class_name, "")


def to_submission(
    store: AnnotationStore, detections: Mapping[str, SampleDetections], class_names: Sequence[str]
) -> dict[str, Any]:
    """Convert detections in the lidar frame to nuScenes' submission format (global frame).

    Parameters
    ----------
    store : AnnotationStore
        The split that was predicted; it gives each keyframe's pose.
    detections : mapping of sample token to SampleDetections
        One entry for every keyframe of the split.
    class_names : sequence of str
        Names behind the labels.

    Returns
    -------
    dict
        ``{"meta": …, "results": {token: [box, …]}}`` as https://www.nuscenes.org/object-detection describes it.

    Raises
    ------
    PetrflowError
        When a keyframe of the split has no entry.
    """
    results: dict[str, list[dict[str, Any]]] = {}
    for index in range(len(store)):
        keyframe = store[index]
        if keyframe.token not in detections:
            raise PetrflowError(
                f"no detections for sample {keyframe.token} (scene {keyframe.scene_name}): predictions and annotations "
                "come from different splits or data sets; remove the run's baseline folder and run again"
            )
        results[keyframe.token] = _submission_boxes(keyframe, detections[keyframe.token], class_names)
    meta = {"use_camera": True, "use_lidar": False, "use_radar": False, "use_map": False, "use_external": False}
    return {"meta": meta, "results": results}


def _submission_boxes(keyframe: Any, found: SampleDetections, class_names: Sequence[str]) -> list[dict[str, Any]]:
    boxes = np.asarray(found.boxes, dtype=np.float64).reshape(-1, 9)
    keep = np.argsort(-np.asarray(found.scores), kind="stable")[:MAX_BOXES_PER_SAMPLE]
    global_from_lidar = keyframe.global_from_lidar
    centres = boxes[:, :3] @ global_from_lidar[:3, :3].T + global_from_lidar[:3, 3]
    velocities = np.concatenate([boxes[:, 7:9], np.zeros((len(boxes), 1))], axis=1) @ global_from_lidar[:3, :3].T
    rotations = geometry.quaternion_multiply(
        geometry.matrix_to_quaternion(global_from_lidar[:3, :3]), geometry.yaw_to_quaternion(boxes[:, 6])
    )
    converted = []
    for index in keep:
        name = class_names[int(found.labels[index])]
        speed = float(np.linalg.norm(boxes[index, 7:9]))
        attribute = found.attributes[index] if found.attributes is not None else choose_attribute(name, speed)
        converted.append(
            {
                "sample_token": keyframe.token,
                "translation": centres[index].tolist(),
                "size": boxes[index, 3:6].tolist(),
                "rotation": rotations[index].tolist(),
                "velocity": velocities[index, :2].tolist(),
                "detection_name": name,
                "detection_score": float(found.scores[index]),
                "attribute_name": attribute,
            }
        )
    return converted


def ground_truth_detections(store: AnnotationStore, class_names: Sequence[str]) -> dict[str, SampleDetections]:
    """Return the split's own boxes as if a perfect detector had found them (score 1), for checking the conversion.

    Boxes without a lidar or radar point are left out, as the devkit leaves them out of the ground truth.
    """
    detections = {}
    for index in range(len(store)):
        keyframe = store[index]
        known = np.array([name in class_names for name in keyframe.names], dtype=bool) & keyframe.valid
        names = [name for name, keep in zip(keyframe.names, known, strict=True) if keep]
        labels = np.array([class_names.index(name) for name in names], dtype=np.int64)
        boxes = np.concatenate([keyframe.boxes, keyframe.velocities], axis=1)[known]
        attributes = [name for name, keep in zip(keyframe.attributes, known, strict=True) if keep]
        detections[keyframe.token] = SampleDetections(boxes, np.ones(len(boxes)), labels, attributes)
    return detections


def predict(model: Any, batches: Iterable[dict[str, Any]], total: int | None = None) -> dict[str, SampleDetections]:
    """Run ``model.predict`` over batches of the loader and return detections by sample token."""
    detections: dict[str, SampleDetections] = {}
    for batch in tqdm(batches, total=total, desc="evaluate", unit="batch", leave=False):
        for token, found in zip(batch["token"], model.predict(batch), strict=True):
            detections[token] = SampleDetections(found.boxes, found.scores, found.labels)
    return detections


@functools.lru_cache(maxsize=1)
def _devkit_tables(root: str, version: str) -> Any:
    # One evaluation every few epochs would otherwise parse the tables again each time (a minute on trainval).
    from nuscenes import NuScenes

    return NuScenes(version=version, dataroot=root, verbose=False)


def score(
    submission: Mapping[str, Any], root: Path, version: str, split: str = EVALUATED_SPLIT, name: str = "submission"
) -> dict[str, Any]:
    """Score a submission with nuscenes-devkit's ``NuScenesEval`` (configuration ``detection_cvpr_2019``).

    Parameters
    ----------
    submission : mapping
        As :func:`to_submission` returns it.
    root, version : Path, str
        The nuScenes root and the name of its tables' folder.
    split : str
        A split of ``splits.json`` or one of the devkit's own.
    name : str
        What messages call the submission.

    Returns
    -------
    dict
        ``mAP``, ``NDS``, ``mATE`` … ``mAAE`` as the devkit computes them; ``not_available``, the errors for which the
        split has no ground truth (the devkit counts them as 1.0); ``NDS_available_terms``, the same weighted mean over the
        terms that exist; ``mAP_present_classes``, mAP over the classes that the split has boxes of (the devkit counts the
        others as 0); ``per_class`` with ``AP``, ``ATE`` … and ``AP_by_distance`` (threshold in m -> AP);
        ``ground_truth`` with the number of boxes by class.

    Raises
    ------
    PetrflowError
        When the submission and the split hold different samples.
    """
    from nuscenes.eval.common.config import config_factory
    from nuscenes.eval.detection.evaluate import NuScenesEval

    nusc = _devkit_tables(str(Path(root).absolute()), version)
    with tempfile.TemporaryDirectory(prefix="petrflow-evaluate-") as folder:
        path = Path(folder) / "results_nusc.json"
        path.write_text(json.dumps(_with_one_box(submission)))
        try:
            with contextlib.redirect_stderr(io.StringIO()):
                judge = NuScenesEval(
                    nusc,
                    config=config_factory("detection_cvpr_2019"),
                    result_path=str(path),
                    eval_set=split,
                    output_dir=folder,
                    verbose=False,
                )
        except (AssertionError, KeyError) as error:
            raise PetrflowError(
                f"{name} does not fit split {split} of {root} ({version}): {error}. Version, split and predictions must "
                "belong together; remove the annotations and the baseline of this data set and run again"
            ) from error
        metrics, _ = judge.evaluate()
    return _summary(metrics.serialize(), judge.gt_boxes)


def _with_one_box(submission: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the submission, or if it holds no box at all one with a far box of score 0.

    devkit 1.2.0 cannot name the class field of an empty submission and raises; a box outside every class range is dropped
    by its distance filter before anything is counted.
    """
    if any(submission["results"].values()) or not submission["results"]:
        return submission
    token = next(iter(submission["results"]))
    far = {
        "sample_token": token,
        "translation": [1e7, 1e7, 0.0],
        "size": [1.0, 1.0, 1.0],
        "rotation": [1.0, 0.0, 0.0, 0.0],
        "velocity": [0.0, 0.0],
        "detection_name": "car",
        "detection_score": 0.0,
        "attribute_name": "",
    }
    return {"meta": submission["meta"], "results": {**submission["results"], token: [far]}}


def _summary(serialized: dict[str, Any], ground_truth: Any) -> dict[str, Any]:
    counts: dict[str, int] = {}
    velocity_known = attribute_known = False
    for box in ground_truth.all:
        counts[box.detection_name] = counts.get(box.detection_name, 0) + 1
        velocity_known |= bool(np.isfinite(box.velocity).all())
        attribute_known |= box.attribute_name != ""
    not_available = [name for name, known in (("mAVE", velocity_known), ("mAAE", attribute_known)) if not known]
    summary: dict[str, Any] = {"mAP": serialized["mean_ap"], "NDS": serialized["nd_score"]}
    for key, name in ERROR_NAMES.items():
        summary[name] = serialized["tp_errors"][key]
    terms = [1.0 - min(1.0, summary[name]) for name in ERROR_NAMES.values() if name not in not_available]
    # NDS = (5 mAP + sum of (1 - min(1, error))) / 10 over five errors (nuScenes, CVPR 2020, eq. 3); here over those known.
    summary["NDS_available_terms"] = (5.0 * summary["mAP"] + sum(terms)) / (5.0 + len(terms))
    summary["not_available"] = not_available
    summary["per_class"] = {
        name: {
            "AP": serialized["mean_dist_aps"][name],
            **{short[1:]: serialized["label_tp_errors"][name][key] for key, short in ERROR_NAMES.items()},
            "AP_by_distance": serialized["label_aps"][name],
        }
        for name in serialized["mean_dist_aps"]
    }
    summary["ground_truth"] = dict(sorted(counts.items()))
    present = [summary["per_class"][name]["AP"] for name in counts]
    summary["mAP_present_classes"] = sum(present) / len(present) if present else 0.0
    return _plain(summary)


def _plain(value: Any) -> Any:
    """Return ``value`` with numpy scalars as Python's and NaN as None, so that the file is standard JSON."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def format_table(metrics: Mapping[str, Any]) -> str:
    """Return the metrics as the table that nuscenes-devkit prints, with what is not available named."""
    missing = metrics["not_available"]
    lines = [f"mAP: {metrics['mAP']:.4f}"]
    absent = [name for name in metrics["per_class"] if name not in metrics["ground_truth"]]
    if absent:
        lines.append(f"mAP over classes present: {metrics['mAP_present_classes']:.4f}  (without {', '.join(absent)})")
    for name in ERROR_NAMES.values():
        note = (
            "  (not available: the split has no ground truth for it; the devkit counts it as 1)"
            if name in missing
            else ""
        )
        lines.append(f"{name}: {metrics[name]:.4f}{note}")
    lines.append(f"NDS: {metrics['NDS']:.4f}")
    if missing:
        lines.append(f"NDS over available terms: {metrics['NDS_available_terms']:.4f}  (without {', '.join(missing)})")
    lines += [
        "",
        "Per-class results:",
        f"{'Object Class':<20}\t{'AP':<6}\t{'ATE':<6}\t{'ASE':<6}\t{'AOE':<6}\t{'AVE':<6}\t{'AAE':<6}",
    ]
    for name, row in metrics["per_class"].items():
        cells = [row[key] for key in ("AP", "ATE", "ASE", "AOE", "AVE", "AAE")]
        text = "\t".join(f"{'nan' if cell is None else format(cell, '.3f'):<6}" for cell in cells)
        lines.append(f"{name:<20}\t{text}" + ("" if name in metrics["ground_truth"] else "\t(no ground truth)"))
    if "expect" in metrics:
        lines += ["", "Expected figures:"]
        for row in metrics["expect"]["rows"]:
            verdict = "met" if row["met"] else "MISSED"
            figures = f"{row['found']:.4f}, expected {row['expected']:.4f} +- {row['tolerance']:g}"
            lines.append(f"{row['metric']}: {figures}: {verdict}")
        lines += [f"likely: {cause}" for cause in metrics["expect"]["explanations"]]
    return "\n".join(lines) + "\n"


def evaluate(
    model: Any,
    store_path: Path,
    root: Path,
    model_config: Mapping[str, Any],
    out_dir: Path,
    *,
    batch_size: int = 1,
    num_workers: int = 0,
    expect: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Predict a split with ``model``, score it and leave ``metrics.json``, ``results_nusc.json`` and ``table.txt``.

    Parameters
    ----------
    model : PetrV2 or ExportedModel
        Anything with ``predict(batch)``.
    store_path, root : Path
        The split's annotation store and the nuScenes root it was made from.
    model_config : mapping
        The parsed model file.
    out_dir : Path
        Appears whole when everything is written.
    batch_size, num_workers : int
        Of the loader.
    expect : mapping, optional
        ``{metric: {"value": float, "tolerance": float}}``; see :func:`petrflow.expectations.compare_with_expected`.

    Returns
    -------
    dict
        As :func:`score` returns it, with ``expect`` added when figures are expected.
    """
    from petrflow.samples.dataset import PetrDataset
    from petrflow.samples.loader import Loader

    store = AnnotationStore.open(store_path)
    dataset = PetrDataset(store_path, root, dict(model_config), training=False)
    loader = Loader(dataset, batch_size=batch_size, seed=0, num_workers=num_workers, shuffle=False, drop_last=False)
    try:
        detections = predict(model, loader.epoch(0), len(loader))
    finally:
        loader.close()
    submission = to_submission(store, detections, list(model_config["class_names"]))
    metrics = score(submission, root, store.version)
    if expect:
        metrics["expect"] = compare_with_expected(metrics, expect)
    write_evaluation(out_dir, metrics, submission)
    return metrics


def write_evaluation(out_dir: Path, metrics: Mapping[str, Any], submission: Mapping[str, Any]) -> None:
    """Write ``metrics.json``, ``results_nusc.json`` and ``table.txt`` into ``out_dir``, whole or not at all."""
    with atomic_dir(Path(out_dir)) as folder:
        write_json(folder / "metrics.json", dict(metrics))
        write_json(folder / "results_nusc.json", dict(submission))
        write_atomic(folder / "table.txt", format_table(metrics))
