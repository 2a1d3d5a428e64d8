"""The viewer's data is what the stages left: boxes in their place, matches as the evaluation makes them."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import cv2
import numpy as np
import pytest

from petrflow import geometry
from petrflow.annotations import AnnotationStore
from petrflow.errors import PetrflowError
from petrflow.evaluation.judge import match_keyframes
from petrflow.evaluation.protocol import NUSCENES
from petrflow.prediction import film
from petrflow.reports import demo
from petrflow.reports import detections as counted
from petrflow.reports.gather import Run
from petrflow.reports.run_view import run_view
from petrflow.reports.viewer import DetectionSet, run_sets, update_viewer, write_viewer
from tests.helpers.found import near_truth, write_found
from tests.unit.reports.test_demo import MODEL_CONFIG
from tests.unit.reports.test_demo import Oracle as Exported

NAMES = list(NUSCENES.class_names)


def _data(path: Path) -> Any:
    text = path.read_text()
    start = text.index("(") + 1
    text = text[start : text.rindex(")")]
    return json.loads(text.partition(",")[2] if path.name.startswith("scene") else text)


@pytest.fixture(scope="module")
def viewer(synthetic_root: Path, synthetic_stores: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("viewer")
    store = AnnotationStore.open(synthetic_stores["val"])
    for seed, stage in enumerate(("baseline", "train")):
        write_found(folder / stage / "results_nusc.json", store, near_truth(store, NAMES, seed), NAMES)
    write_viewer(
        synthetic_stores["val"], synthetic_root, run_sets(folder, "made"), folder / "viewer", class_names=NAMES
    )
    return folder / "viewer"


def test_matches_are_those_of_the_evaluation(synthetic_stores: dict[str, Path], tmp_path: Path) -> None:
    store = AnnotationStore.open(synthetic_stores["train"])
    made = near_truth(store, NAMES, 3, share=0.9)
    path = write_found(tmp_path / "results_nusc.json", store, made, NAMES)
    truth = counted.Truth(store, NAMES)
    found = counted.read_detections(path, store, NAMES)
    partner = counted.match(found, truth)
    judged = match_keyframes(store, range(len(store)), made, NAMES, NUSCENES)
    threshold = NUSCENES.distance_thresholds.index(NUSCENES.error_threshold)
    assert int(truth.counts.sum()) == len(judged.truth_label)
    assert int((partner > -2).sum()) == len(judged.score)
    assert sorted(found.scores[partner >= 0].tolist()) == pytest.approx(
        sorted(judged.score[judged.hit[:, threshold]].tolist())
    )


def test_a_match_holds_at_any_least_score(synthetic_stores: dict[str, Path], tmp_path: Path) -> None:
    store = AnnotationStore.open(synthetic_stores["train"])
    path = write_found(tmp_path / "results_nusc.json", store, near_truth(store, NAMES, 4), NAMES)
    truth = counted.Truth(store, NAMES)
    whole, part = (counted.read_detections(path, store, NAMES, least) for least in (0.0, 0.5))
    partner = counted.match(whole, truth)
    np.testing.assert_array_equal(partner[whole.scores >= 0.5], counted.match(part, truth))


def test_boxes_and_pictures_are_where_the_store_has_them(
    viewer: Path, synthetic_root: Path, synthetic_stores: dict[str, Path]
) -> None:
    store = AnnotationStore.open(synthetic_stores["val"])
    index, frames = _data(viewer / "data" / "index.js"), _data(viewer / "data" / "scene-0.js")
    assert [one["key"] for one in index["sets"]] == ["before", "after"] and len(frames) == len(store)
    made = near_truth(store, NAMES, 1)
    for k, frame in enumerate(frames):
        keyframe = store[k]
        for number, camera in enumerate(frame["cameras"]):
            picture = viewer / unquote(index["pictures"] + camera[0])
            assert picture.exists() and os.path.samefile(picture, synthetic_root / keyframe.image_paths[number])
            points = np.array([[3.0, 20.0, 1.0]])
            expected, depth = geometry.project(
                points, keyframe.intrinsics[number], geometry.invert_rigid(keyframe.lidar_from_camera[number])
            )
            u, v, w = np.reshape(camera[3:], (3, 4)) @ [*points[0], 1.0]
            assert w == pytest.approx(depth[0], rel=1e-4, abs=1e-3)
            np.testing.assert_allclose([u / w, v / w], expected[0], rtol=1e-3)
        np.testing.assert_allclose([box[:7] for box in frame["truth"]], keyframe.boxes, atol=1e-3)
        np.testing.assert_allclose([box[:7] for box in frame["sets"][1]], made[keyframe.token].boxes[:, :7], atol=2e-3)
        assert [box[9] for box in frame["sets"][1]] == made[keyframe.token].labels.tolist()


def test_the_frames_that_the_page_links_to_are_counted_at_the_threshold(viewer: Path) -> None:
    figures, frames = json.loads((viewer / "figures.json").read_text()), _data(viewer / "data" / "scene-0.js")
    for counts, frame in zip(figures["frames"], frames, strict=True):
        shown = [box for box in frame["sets"][1] if box[10] >= figures["threshold"]]
        right = sum(box[11] >= 0 for box in shown)
        assert (counts["found"], counts["false"]) == (right, sum(box[11] == -1 for box in shown))
        assert counts["missed"] == sum(box[10] for box in frame["truth"]) - right
    total = sum(row["count"] for row in figures["confusion"] if row["true"] is not None)
    assert total == sum(box[10] for frame in frames for box in frame["truth"])


def test_a_demos_detections_are_read_as_a_submission_is(synthetic_stores: dict[str, Path], tmp_path: Path) -> None:
    store = AnnotationStore.open(synthetic_stores["val"])
    made = near_truth(store, NAMES, 5)
    submission = write_found(tmp_path / "results_nusc.json", store, made, NAMES)
    demo = {
        "keyframes": [
            {
                "token": token,
                "predicted": [
                    {"class": NAMES[label], "score": float(score), "box": box.tolist()}
                    for box, score, label in zip(one.boxes, one.scores, one.labels, strict=True)
                ],
            }
            for token, one in made.items()
        ]
    }
    (tmp_path / "detections.json").write_text(json.dumps(demo))
    first, second = (counted.read_detections(p, store, NAMES) for p in (submission, tmp_path / "detections.json"))
    np.testing.assert_allclose(first.boxes, second.boxes, atol=1e-3)
    np.testing.assert_array_equal(first.labels, second.labels)


def test_the_page_shows_the_demos_middle_keyframe_before_and_after_training(
    synthetic_root: Path, synthetic_stores: dict[str, Path], tmp_path: Path
) -> None:
    store = AnnotationStore.open(synthetic_stores["val"])
    before, after = near_truth(store, NAMES, 1), near_truth(store, NAMES, 2)
    write_found(tmp_path / "run" / "baseline" / "results_nusc.json", store, before, NAMES)
    demo.demo(Exported(after), synthetic_stores["val"], synthetic_root, MODEL_CONFIG, tmp_path / "run" / "demo")
    write_viewer(
        synthetic_stores["val"], synthetic_root, run_sets(tmp_path / "run", "made"), tmp_path / "run" / "viewer"
    )
    middle = store[len(store) // 2]
    found = demo.confident(before[middle.token], 0.3)
    expected = film.draw_keyframe(middle, synthetic_root, found, NAMES, "", "")
    drawn = cv2.imread(str(tmp_path / "run" / "viewer" / "before.jpg"))
    assert drawn.shape == expected.shape
    below = slice(80, None)  # the legend's title apart
    assert np.abs(drawn[below].astype(int) - expected[below]).mean() < 4
    other = film.draw_keyframe(middle, synthetic_root, demo.confident(after[middle.token], 0.3), NAMES, "", "")
    assert (
        np.abs(drawn[below].astype(int) - expected[below]).sum() < np.abs(drawn[below].astype(int) - other[below]).sum()
    )
    view = run_view(Run("run", tmp_path / "run"), tmp_path / "index.html", {})
    assert [one["name"] for one in view["pictures"]] == [
        "viewer/before.jpg",
        f"demo/frames/{len(store) // 2:04d}.jpg",
    ]


def test_a_file_without_detections_is_one_sentence(
    synthetic_root: Path, synthetic_stores: dict[str, Path], tmp_path: Path
) -> None:
    (tmp_path / "x.json").write_text("[]")
    one = DetectionSet("x", {"en": "x", "zh": "x"}, tmp_path / "x.json")
    with pytest.raises(PetrflowError, match=r"x\.json holds no detections"):
        write_viewer(synthetic_stores["val"], synthetic_root, [one], tmp_path / "viewer")
    assert not (tmp_path / "viewer").exists()


def test_a_viewer_is_written_anew_only_when_the_detections_are_others(
    synthetic_root: Path, synthetic_stores: dict[str, Path], tmp_path: Path
) -> None:
    store = AnnotationStore.open(synthetic_stores["val"])
    data, results = tmp_path / "data", tmp_path / "results"
    data.mkdir()
    (data / "made").symlink_to(synthetic_root)
    assert update_viewer(results, "run", "made", data) == "" and not (results / "run").exists()
    write_found(results / "run" / "baseline" / "results_nusc.json", store, near_truth(store, NAMES, 0), NAMES)
    shutil.copytree(synthetic_stores["val"].parent, results / "made" / "annotations")
    page = results / "run" / "viewer" / "index.html"
    inodes = []
    for _ in range(2):
        assert update_viewer(results, "run", "made", data) == ""
        inodes.append(page.stat().st_ino)
    write_found(results / "run" / "train" / "results_nusc.json", store, near_truth(store, NAMES, 1), NAMES)
    assert update_viewer(results, "run", "made", data) == ""
    assert inodes[0] == inodes[1] != page.stat().st_ino
    (results / "run" / "train" / "results_nusc.json").write_text("{}")
    assert "holds no detections" in update_viewer(results, "run", "made", data) and page.exists()
