"""The demo draws the model's boxes where they are, and leaves the numbers behind the picture."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from petrflow.annotations import AnnotationStore
from petrflow.errors import PetrflowError
from petrflow.pictures import draw as drawing
from petrflow.prediction import film
from petrflow.reports import demo
from tests.helpers.found import ground_truth_detections

CLASS_NAMES = [
    "car", "truck", "construction_vehicle", "bus", "trailer",
    "barrier", "motorcycle", "bicycle", "pedestrian", "traffic_cone",
]  # fmt: skip
MODEL_CONFIG: dict[str, Any] = {
    "class_names": CLASS_NAMES,
    "input": {
        "image_size": [64, 160],
        "resize_lim": [0.094, 0.125],
        "bot_pct_lim": [0.0, 0.0],
        "rand_flip": True,
        "mean": [103.53, 116.28, 123.675],
        "std": [57.375, 57.12, 58.395],
        "size_divisor": 32,
        "sweep_range": [3, 27],
        "point_cloud_range": [-51.2, -51.2, -5.0, 51.2, 51.2, 3.0],
    },
    "augmentation": {"enabled": False},
}


@dataclass
class Oracle:
    """Stands in for an exported model: it "finds" the true boxes."""

    truth: dict[str, Any]

    def predict(self, batch: dict[str, Any]) -> list[Any]:
        return [self.truth[token] for token in batch["token"]]


def test_a_demo_leaves_a_picture_a_keyframe_a_video_and_the_numbers(
    synthetic_root: Path, synthetic_stores: dict[str, Path], tmp_path: Path
) -> None:
    import av

    store = AnnotationStore.open(synthetic_stores["val"])
    oracle = Oracle(ground_truth_detections(store, CLASS_NAMES))
    demo.demo(oracle, synthetic_stores["val"], synthetic_root, MODEL_CONFIG, tmp_path / "demo", score_threshold=0.5)
    frames = sorted((tmp_path / "demo" / "frames").iterdir())
    assert [frame.name for frame in frames] == [f"{i:04d}.jpg" for i in range(len(store))]
    with av.open(str(tmp_path / "demo" / "demo.mp4")) as container:
        assert sum(1 for _ in container.decode(video=0)) == len(store)
    record = json.loads((tmp_path / "demo" / "detections.json").read_text())
    for index, keyframe in enumerate(record["keyframes"]):
        assert keyframe["token"] == store[index].token
        expected = oracle.truth[keyframe["token"]]
        np.testing.assert_allclose([found["box"] for found in keyframe["predicted"]], expected.boxes, atol=1e-3)
        assert len(keyframe["true"]) == len(store[index].boxes)


def test_predicted_boxes_are_drawn_in_their_classs_colour_over_the_objects(
    synthetic_root: Path, synthetic_stores: dict[str, Path]
) -> None:
    store = AnnotationStore.open(synthetic_stores["val"])
    keyframe = store[0]
    found = ground_truth_detections(store, CLASS_NAMES)[keyframe.token]
    without = demo.confident(found, 2.0)
    drawn = film.draw_keyframe(keyframe, synthetic_root, found, CLASS_NAMES, "x", "").astype(int)
    plain = film.draw_keyframe(keyframe, synthetic_root, without, CLASS_NAMES, "x", "").astype(int)
    changed = np.abs(drawn - plain).max(axis=2) > 60
    for label in np.unique(found.labels):
        color = np.array(drawing.CLASS_COLORS[CLASS_NAMES[label]])
        assert (changed & (np.abs(drawn - color).max(axis=2) < 12)).any(), CLASS_NAMES[label]


def test_an_unknown_scene_is_named_with_those_that_exist(synthetic_stores: dict[str, Path]) -> None:
    store = AnnotationStore.open(synthetic_stores["val"])
    with pytest.raises(PetrflowError, match=f"scene-9999 is not in this split; it holds {store[0].scene_name}"):
        demo.scene_keyframes(store, "scene-9999")


def test_an_unreadable_image_is_named(synthetic_root: Path, synthetic_stores: dict[str, Path], tmp_path: Path) -> None:
    keyframe = AnnotationStore.open(synthetic_stores["val"])[0]
    found = ground_truth_detections(AnnotationStore.open(synthetic_stores["val"]), CLASS_NAMES)[keyframe.token]
    for path in keyframe.image_paths:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(b"not a picture")
    with pytest.raises(PetrflowError, match=re.escape(Path(keyframe.image_paths[0]).name)):
        film.draw_keyframe(keyframe, tmp_path, found, CLASS_NAMES, "x", "")
