"""Keyframes with boxes drawn on every camera and from above, as pictures and as a film."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from petrflow import geometry
from petrflow.annotations import AnnotationStore
from petrflow.files import write_atomic
from petrflow.files.status import tqdm
from petrflow.pictures import draw as drawing
from petrflow.pictures.read import read_image
from petrflow.pictures.video import encode_video
from petrflow.samples.types import Detections

JPEG_QUALITY = 90


def scenes_of(store: AnnotationStore) -> dict[str, list[int]]:
    """Return the numbers of each scene's keyframes in time order, scenes in the order of their first one."""
    names = store.columns["keyframe.scene_name"]
    scenes: dict[str, list[int]] = {}
    for index in range(len(store)):
        scenes.setdefault(names[index], []).append(index)
    return scenes


def draw_film(
    store: AnnotationStore,
    root: Path,
    scenes: Sequence[str],
    found: Sequence[Detections],
    class_names: Sequence[str],
    folder: Path,
    video: str,
    *,
    note: str,
    frames_per_second: int = 2,
    tracks: Sequence[np.ndarray] | None = None,
) -> None:
    """Draw scenes into ``frames/NNNN.jpg``, numbered through, and encode them as one H.264 film.

    Parameters
    ----------
    scenes : sequence of str
        At least one.
    found : sequence of Detections
        What is drawn of each of the scenes' keyframes, one after another.
    folder : Path
        Exists.
    video : str
        Name of the film in it.
    note : str
        Which boxes are drawn, for the legend.
    tracks : sequence of (K,) int64, optional
        Numbers that are written beside the boxes of each keyframe, seen from above.
    """
    (folder / "frames").mkdir()
    known = scenes_of(store)
    shown = [(scene, place, index) for scene in scenes for place, index in enumerate(known[scene])]

    def pictures() -> Iterator[np.ndarray]:
        bar = tqdm(shown, desc="draw", unit="keyframe", leave=False)
        for number, ((scene, place, index), one) in enumerate(zip(bar, found, strict=True)):
            title = f"{scene}  keyframe {place + 1}/{len(known[scene])}"
            numbers = None if tracks is None else tracks[number]
            picture = draw_keyframe(store[index], Path(root), one, class_names, title, note, numbers)
            encoded = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1]
            write_atomic(folder / "frames" / f"{number:04d}.jpg", encoded.tobytes())
            yield np.asarray(cv2.imdecode(encoded, cv2.IMREAD_COLOR))

    write_atomic(folder / video, encode_video(pictures(), frames_per_second))


def draw_keyframe(
    keyframe: Any,
    root: Path,
    found: Detections,
    class_names: Sequence[str],
    title: str,
    note: str,
    tracks: np.ndarray | None = None,
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
    if tracks is not None:
        drawing.number_boxes(from_above, found.boxes, [str(number) for number in tracks.tolist()])
    names = [Path(path).parent.name for path in keyframe.image_paths]
    picture = drawing.scene_picture(pictures, order, from_above, names)
    legend = (
        f"{'white: true, coloured' if len(true_boxes) else 'coloured'}: predicted ({note}), {len(found.boxes)} found"
    )
    return np.concatenate([drawing.legend(picture.shape[1], class_names, title, legend), picture])


def score_note(scores: np.ndarray, given: bool) -> str:
    """Say in a few words from which scores on boxes are drawn; ``given``: by the config, and not by validation."""
    if len(set(scores.tolist())) == 1:
        return f"score >= {scores[0]:g}"
    return "score >= min_score of its class" if given else "score >= that of its class's best F1"
