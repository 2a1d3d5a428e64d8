"""Run an exported model over a scene and draw what it finds beside what is there: a small predict stage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from petrflow.annotations import AnnotationStore
from petrflow.errors import PetrflowError
from petrflow.evaluation.evaluate import predict
from petrflow.evaluation.thresholds import MinScore, class_scores, confident
from petrflow.files import atomic_dir, write_json
from petrflow.prediction.film import draw_film, scenes_of, score_note
from petrflow.samples.dataset import PetrDataset
from petrflow.samples.loader import Loader
from petrflow.samples.types import Detections


def demo(
    model: Any,
    store_path: Path,
    root: Path,
    model_config: Mapping[str, Any],
    out_dir: Path,
    *,
    scene: str | None = None,
    score_threshold: float | None = None,
    min_score: MinScore = None,
    thresholds: Path | None = None,
    frames_per_second: int = 2,
    num_workers: int = 0,
) -> None:
    """Predict one scene, draw boxes on every camera and from above, and leave pictures, a video and
    the numbers.

    Parameters
    ----------
    model : ExportedModel
        Anything with ``predict(batch)``; the demo rule gives the exported model, not the eager one.
    store_path, root : Path
        A split's annotation store and its nuScenes root.
    model_config : mapping
        The parsed model file.
    out_dir : Path
        Gets ``frames/NNNN.jpg``, ``demo.mp4`` (H.264) and ``detections.json``, all or nothing.
    scene : str, optional
        A scene of the split; its first one when absent.
    score_threshold : float, optional
        Detections below it are neither drawn nor listed. Not given, ``min_score`` holds, and then ``thresholds``; see
        :func:`petrflow.evaluation.thresholds.class_scores`.
    frames_per_second : int
        Of the video; nuScenes' keyframes come at 2 Hz.
    num_workers : int
        Of the loader.

    Raises
    ------
    PetrflowError
        When the split has no such scene.
    """
    store = AnnotationStore.open(store_path)
    indices, name = scene_keyframes(store, scene)
    class_names = list(model_config["class_names"])
    dataset = PetrDataset(store_path, root, dict(model_config), training=False)
    dataset.indices = np.array(indices)
    loader = Loader(dataset, batch_size=1, seed=0, num_workers=num_workers, shuffle=False, drop_last=False)
    try:
        detections = predict(model, loader.epoch(0), len(loader))
    finally:
        loader.close()
    least = score_threshold if score_threshold is not None else min_score
    scores = class_scores(thresholds, class_names, least)
    found = [confident(detections[store[index].token], scores) for index in indices]
    with atomic_dir(Path(out_dir)) as folder:
        draw_film(
            store,
            root,
            [name],
            found,
            class_names,
            folder,
            "demo.mp4",
            note=score_note(scores, least is not None),
            frames_per_second=frames_per_second,
        )
        records = [_record(store[index], one, class_names) for index, one in zip(indices, found, strict=True)]
        shown = {
            "score_threshold": float(scores.min()),
            "score_thresholds": dict(zip(class_names, scores.tolist(), strict=True)),
        }
        write_json(folder / "detections.json", {"scene": name, **shown, "keyframes": records})


def scene_keyframes(store: AnnotationStore, scene: str | None) -> tuple[list[int], str]:
    """Return the indices of a scene's keyframes in time order, and the scene's name.

    Raises
    ------
    PetrflowError
        When the store is empty or the scene is not in it.
    """
    known = scenes_of(store)
    if not known:
        raise PetrflowError(f"{store.path}: the split holds no keyframe, so there is nothing to show; check its scenes")
    chosen = next(iter(known)) if scene is None else scene
    if chosen not in known:
        raise PetrflowError(f"demo.scene: {chosen} is not in this split; it holds {', '.join(known)}")
    return known[chosen], chosen


def _record(keyframe: Any, found: Detections, class_names: Sequence[str]) -> dict[str, Any]:
    return {
        "token": keyframe.token,
        "timestamp": int(keyframe.timestamp),
        "frame": "lidar; x, y, z, width, length, height, yaw, vx, vy in m, rad and m/s",
        "predicted": [
            {
                "class": class_names[int(label)],
                "score": round(float(score), 5),
                "box": [round(float(v), 4) for v in box],
            }
            for box, score, label in zip(found.boxes, found.scores, found.labels, strict=True)
        ],
        "true": [
            {
                "class": name,
                "box": [round(float(v), 4) for v in box],
                "velocity": [None if np.isnan(v) else round(float(v), 4) for v in velocity],
            }
            for name, box, velocity in zip(keyframe.names, keyframe.boxes, keyframe.velocities, strict=True)
        ],
    }
