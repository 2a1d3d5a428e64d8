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
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from petrflow.errors import PetrflowError
from petrflow.evaluation.expectations import ERROR_NAMES

EVALUATED_SPLIT = "petrflow_val"


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
