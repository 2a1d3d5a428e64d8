"""Run an exported model over a scene and draw what it finds beside what is there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from petrflow import geometry
from petrflow.annotations import AnnotationStore
from petrflow.errors import PetrflowError
from petrflow.evaluation.evaluate import predict
from petrflow.files import atomic_dir, write_atomic, write_json
from petrflow.files.status import tqdm
from petrflow.pictures import draw as drawing
from petrflow.pictures.read import read_image
from petrflow.pictures.video import encode_video
from petrflow.samples.dataset import PetrDataset
from petrflow.samples.loader import Loader
from petrflow.samples.types import Detections

JPEG_QUALITY = 90


def demo(
    model: Any,
    store_path: Path,
    root: Path,
    model_config: Mapping[str, Any],
    out_dir: Path,
    *,
    scene: str | None = None,
    score_threshold: float = 0.3,
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
    score_threshold : float
        Detections below it are neither drawn nor listed.
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
    dataset = PetrDataset(store_path, root, dict(model_config), training=False)
    dataset.indices = np.array(indices)
    loader = Loader(dataset, batch_size=1, seed=0, num_workers=num_workers, shuffle=False, drop_last=False)
    try:
        detections = predict(model, loader.epoch(0), len(loader))
    finally:
        loader.close()
    class_names = list(model_config["class_names"])
    with atomic_dir(Path(out_dir)) as folder:
        (folder / "frames").mkdir()
        records, pictures = [], []
        for number, index in enumerate(tqdm(indices, desc="draw", unit="keyframe", leave=False)):
            keyframe = store[index]
            found = confident(detections[keyframe.token], score_threshold)
            title = f"{name}  keyframe {number + 1}/{len(indices)}"
            picture = draw_keyframe(keyframe, Path(root), found, class_names, title, score_threshold)
            encoded = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1].tobytes()
            write_atomic(folder / "frames" / f"{number:04d}.jpg", encoded)
            pictures.append(encoded)
            records.append(_record(keyframe, found, class_names))
        write_atomic(folder / "demo.mp4", encode_video(_decoded(pictures), frames_per_second))
        write_json(
            folder / "detections.json", {"scene": name, "score_threshold": score_threshold, "keyframes": records}
        )


def scene_keyframes(store: AnnotationStore, scene: str | None) -> tuple[list[int], str]:
    """Return the indices of a scene's keyframes in time order, and the scene's name.

    Raises
    ------
    PetrflowError
        When the store is empty or the scene is not in it.
    """
    scene_names = store.columns["keyframe.scene_name"]
    names = [scene_names[index] for index in range(len(store))]
    if not names:
        raise PetrflowError(f"{store.path}: the split holds no keyframe, so there is nothing to show; check its scenes")
    known = list(dict.fromkeys(names))
    chosen = known[0] if scene is None else scene
    if chosen not in known:
        raise PetrflowError(f"demo.scene: {chosen} is not in this split; it holds {', '.join(known)}")
    return [index for index, name in enumerate(names) if name == chosen], chosen


def confident(found: Detections, threshold: float) -> Detections:
    """Return the detections that score at least ``threshold``."""
    keep = np.asarray(found.scores) >= threshold
    return Detections(found.boxes[keep], found.scores[keep], found.labels[keep])


def draw_keyframe(
    keyframe: Any,
    root: Path,
    found: Detections,
    class_names: Sequence[str],
    title: str,
    score_threshold: float,
) -> np.ndarray:
    """Draw one keyframe: true boxes white (those that the lidar touched), predicted ones in their
    class's colour.

    Returns
    -------
    (H, W, 3) uint8, BGR
    """
    colors = drawing.class_colors([class_names[int(label)] for label in found.labels])
    true_boxes = keyframe.boxes[keyframe.valid]
    white = [drawing.TRUE_COLOR] * len(true_boxes)
    pictures: dict[int, np.ndarray] = {}
    for camera, path in enumerate(keyframe.image_paths):
        width, height = keyframe.image_sizes[camera].tolist()
        image = read_image(root / path, (width, height), f"sample_data {keyframe.image_tokens[camera]}")
        # Small images are drawn at twice their size or more, or lines would cover the objects.
        zoom = max(1.0, 800.0 / image.shape[1])
        if zoom > 1.0:
            image = cv2.resize(image, None, fx=zoom, fy=zoom, interpolation=cv2.INTER_LINEAR)
        intrinsic = np.diag([zoom, zoom, 1.0]) @ keyframe.intrinsics[camera]
        camera_from_lidar = geometry.invert_rigid(keyframe.lidar_from_camera[camera])
        thickness = max(1, round(image.shape[1] / 800))
        drawing.draw_boxes(image, true_boxes, intrinsic, camera_from_lidar, white, thickness)
        drawing.draw_boxes(image, found.boxes, intrinsic, camera_from_lidar, colors, thickness + 1)
        pictures[camera] = image
    order = drawing.camera_grid_order(keyframe.lidar_from_camera)
    from_above = drawing.birds_eye_view(640, true_boxes, found.boxes, colors)
    names = [Path(path).parent.name for path in keyframe.image_paths]
    picture = drawing.scene_picture(pictures, order, from_above, names)
    note = f"white: true, coloured: predicted (score >= {score_threshold:g}), {len(found.boxes)} found"
    return np.concatenate([drawing.legend(picture.shape[1], class_names, title, note), picture])


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


def _decoded(pictures: Sequence[bytes]) -> Iterator[np.ndarray]:
    for picture in pictures:
        yield np.asarray(cv2.imdecode(np.frombuffer(picture, np.uint8), cv2.IMREAD_COLOR))
