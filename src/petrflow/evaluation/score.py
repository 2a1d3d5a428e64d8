"""Score a submission with nuscenes-devkit, the judge of ``judge: devkit`` and the oracle of
petrflow's own.

:class:`nuscenes.eval.detection.evaluate.NuScenesEval` knows nuScenes' ten classes and loads every
table into memory.
"""

from __future__ import annotations

import contextlib
import functools
import io
import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from petrflow.errors import PetrflowError
from petrflow.evaluation.summary import summary
from petrflow.files import read_json

EVALUATED_SPLIT = "petrflow_val"


@functools.lru_cache(maxsize=1)
def _devkit_tables(root: str, version: str) -> Any:
    # One evaluation every few epochs would otherwise parse the tables again each time (a minute on
    # trainval).
    from nuscenes import NuScenes

    return NuScenes(version=version, dataroot=root, verbose=False)


def require_devkit_can_score(tokens: Sequence[str], root: Path, version: str, scenes: Sequence[str]) -> None:
    """Let the devkit load all that it needs, as if nothing were detected, so that it cannot fail
    once the work is done.
    """
    nothing: dict[str, Any] = {"meta": {}, "results": {token: [] for token in tokens}}
    with tempfile.TemporaryDirectory(prefix="petrflow-evaluate-") as folder:
        _evaluation(nothing, root, version, EVALUATED_SPLIT, Path(folder), "the split", scenes)


def score(
    submission: Mapping[str, Any] | Path,
    root: Path,
    version: str,
    split: str = EVALUATED_SPLIT,
    name: str = "submission",
    scenes: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Score a submission with nuscenes-devkit's ``NuScenesEval`` (configuration
    ``detection_cvpr_2019``).

    Parameters
    ----------
    submission : mapping or Path
        As :func:`to_submission` returns it, or its file.
    root, version : Path, str
        The nuScenes root and the name of its tables' folder.
    split : str
        A split of ``splits.json`` or one of the devkit's own.
    name : str
        What messages call the submission.
    scenes : sequence of str, optional
        Scenes of the split, where no ``splits.json`` beside the tables names them.

    Returns
    -------
    dict
        As :func:`petrflow.evaluation.summary.summary` returns it.

    Raises
    ------
    PetrflowError
        When the devkit cannot load the tables, or the submission and the split hold different
        samples.
    """
    with tempfile.TemporaryDirectory(prefix="petrflow-evaluate-") as folder:
        evaluation = _evaluation(submission, root, version, split, Path(folder), name, scenes)
        metrics, _ = evaluation.evaluate()
    counts: dict[str, int] = {}
    velocity_known = attribute_known = False
    for box in evaluation.gt_boxes.all:
        counts[box.detection_name] = counts.get(box.detection_name, 0) + 1
        velocity_known |= bool(np.isfinite(box.velocity).all())
        attribute_known |= box.attribute_name != ""
    return summary(metrics.serialize(), counts, velocity_known, attribute_known)


def _evaluation(
    submission: Mapping[str, Any] | Path,
    root: Path,
    version: str,
    split: str,
    folder: Path,
    name: str,
    scenes: Sequence[str] | None,
) -> Any:
    from nuscenes.eval.common.config import config_factory
    from nuscenes.eval.detection.evaluate import NuScenesEval

    remedy = (
        "Correct the tables, or use petrflow's own judge (judge: petrflow), which needs neither maps nor the devkit"
    )
    try:
        nusc = _devkit_tables(str(Path(root).absolute()), version)
    except Exception as error:  # the devkit has no errors of its own: KeyError, IndexError, AssertionError, Exception
        raise PetrflowError(
            f"nuscenes-devkit cannot load the tables in {Path(root) / version} ({type(error).__name__}: {error}). {remedy}"
        ) from error
    path = submission if isinstance(submission, Path) and _holds_boxes(submission) else folder / "results_nusc.json"
    if path != submission:
        content = read_json(submission) if isinstance(submission, Path) else submission
        path.write_text(json.dumps(_with_one_box(content)))
    try:
        with contextlib.redirect_stderr(io.StringIO()), _splits(folder, split, scenes):
            return NuScenesEval(
                nusc,
                config=config_factory("detection_cvpr_2019"),
                result_path=str(path),
                eval_set=split,
                output_dir=str(folder),
                verbose=False,
            )
    except Exception as error:
        raise PetrflowError(
            f"nuscenes-devkit finds that {name} does not fit split {split} of {root} ({version}): {error}. Version, split "
            f"and predictions must belong together, and every box may have one attribute. {remedy}"
        ) from error


@contextlib.contextmanager
def _splits(folder: Path, split: str, scenes: Sequence[str] | None) -> Iterator[None]:
    """Let the devkit read a split from a file of ours: a root that is used where it stands has none
    beside its tables.
    """
    from nuscenes.utils import splits as devkit

    if scenes is None:
        yield
        return
    path = folder / "splits.json"
    path.write_text(json.dumps({split: list(scenes)}))
    before = devkit._get_custom_splits_file_path
    devkit._get_custom_splits_file_path = lambda nusc: str(path)
    try:
        yield
    finally:
        devkit._get_custom_splits_file_path = before


def _holds_boxes(path: Path) -> bool:
    with path.open("rb") as handle:
        return any(b"detection_name" in line for line in handle)


def _with_one_box(submission: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the submission, or if it holds no box at all one with a far box of score 0.

    devkit 1.2.0 cannot name the class field of an empty submission and raises; a box outside every
    class range is dropped by its distance filter before anything is counted.
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
