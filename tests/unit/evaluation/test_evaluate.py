"""Predictions become the devkit's submission without losing anything, and the devkit's figures become ours."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from nuscenes import NuScenes
from nuscenes.utils.data_classes import Box
from pyquaternion import Quaternion

from petrflow.annotations import AnnotationStore, build
from petrflow.errors import PetrflowError
from petrflow.evaluation.evaluate import write_evaluation
from petrflow.evaluation.expectations import compare_with_expected
from petrflow.evaluation.score import score
from petrflow.evaluation.submission import ground_truth_detections, to_submission
from petrflow.evaluation.table import format_table
from petrflow.samples.types import Detections

CLASS_NAMES = [
    "car", "truck", "construction_vehicle", "bus", "trailer",
    "barrier", "motorcycle", "bicycle", "pedestrian", "traffic_cone",
]  # fmt: skip


@pytest.fixture(scope="module")
def store(synthetic_stores: dict[str, Path]) -> AnnotationStore:
    return AnnotationStore.open(synthetic_stores["val"])


@pytest.fixture(scope="module")
def perfect(store: AnnotationStore) -> dict[str, Any]:
    truth = ground_truth_detections(store, CLASS_NAMES)
    return to_submission(store, truth, CLASS_NAMES)


def test_ground_truth_fed_through_the_conversion_scores_one_with_no_error(
    perfect: dict[str, Any], synthetic_root: Path
) -> None:
    metrics = score(perfect, synthetic_root, "v1.0-mini")
    assert len(metrics["ground_truth"]) >= 6
    for name in metrics["ground_truth"]:
        row = metrics["per_class"][name]
        assert row["AP"] == pytest.approx(1.0, abs=1e-9), name
        for error in ("ATE", "ASE", "AOE", "AVE", "AAE"):
            assert row[error] is None or row[error] < 2e-3, (name, error)
    assert metrics["not_available"] == []
    assert metrics["NDS_available_terms"] == pytest.approx(metrics["NDS"])


def test_a_box_lands_where_pyquaternion_and_the_devkits_box_put_it(
    store: AnnotationStore, synthetic_root: Path
) -> None:
    keyframe = store[1]
    box = np.array([[12.0, -7.5, 0.4, 1.9, 4.6, 1.7, 2.1, 3.0, -1.0]])
    found = {store[i].token: Detections(np.zeros((0, 9)), np.zeros(0), np.zeros(0)) for i in range(len(store))}
    found[keyframe.token] = Detections(box, np.array([0.7]), np.array([0]))
    (got,) = to_submission(store, found, CLASS_NAMES)["results"][keyframe.token]

    tables = NuScenes("v1.0-mini", str(synthetic_root), verbose=False)
    record = tables.get("sample_data", tables.get("sample", keyframe.token)["data"]["LIDAR_TOP"])
    sensor = tables.get("calibrated_sensor", record["calibrated_sensor_token"])
    pose = tables.get("ego_pose", record["ego_pose_token"])
    expected = Box(box[0, :3], box[0, 3:6], Quaternion(axis=[0, 0, 1], radians=2.1), velocity=(3.0, -1.0, 0.0))
    for frame in (sensor, pose):
        expected.rotate(Quaternion(frame["rotation"]))
        expected.translate(np.array(frame["translation"]))
    np.testing.assert_allclose(got["translation"], expected.center, atol=1e-6)
    np.testing.assert_allclose(got["velocity"], expected.velocity[:2], atol=1e-6)
    assert Quaternion(got["rotation"]).rotation_matrix == pytest.approx(expected.orientation.rotation_matrix, abs=1e-6)
    assert (
        got["detection_name"] == "car" and got["attribute_name"] == "vehicle.moving" and got["size"] == [1.9, 4.6, 1.7]
    )


def test_shifted_boxes_show_as_a_translation_error_of_that_size(perfect: dict[str, Any], synthetic_root: Path) -> None:
    shifted = json.loads(json.dumps(perfect))
    for boxes in shifted["results"].values():
        for box in boxes:
            box["translation"][0] += 0.3
    metrics = score(shifted, synthetic_root, "v1.0-mini")
    # Next to a border of the class range the shift may cost or gain a box; the error of matched boxes is the shift itself.
    assert metrics["per_class"]["car"]["ATE"] == pytest.approx(0.3, abs=0.02)


def test_no_detection_at_all_is_a_score_of_zero_and_not_a_crash(store: AnnotationStore, synthetic_root: Path) -> None:
    nothing = Detections(np.zeros((0, 9)), np.zeros(0), np.zeros(0))
    empty = to_submission(store, {store[i].token: nothing for i in range(len(store))}, CLASS_NAMES)
    assert not any(empty["results"].values())
    metrics = score(empty, synthetic_root, "v1.0-mini")
    assert metrics["mAP"] == 0.0 and metrics["mATE"] == 1.0


def test_a_keyframe_without_a_prediction_is_named(store: AnnotationStore) -> None:
    with pytest.raises(PetrflowError, match=store[0].token):
        to_submission(store, {}, CLASS_NAMES)


def test_predictions_of_another_split_are_refused_with_a_remedy(perfect: dict[str, Any], synthetic_root: Path) -> None:
    with pytest.raises(PetrflowError, match="belong together"):
        score(perfect, synthetic_root, "v1.0-mini", split="petrflow_train")


def test_velocities_and_attributes_that_no_box_has_are_reported_as_not_available(
    keyframe_root: Path, tmp_path: Path
) -> None:
    # The real keyframe stands alone: the devkit cannot know a velocity, and its boxes carry no attribute.
    root = tmp_path / "root"
    (root / "v1.0-mini").mkdir(parents=True)
    for table in (keyframe_root / "v1.0-mini").iterdir():
        (root / "v1.0-mini" / table.name).symlink_to(table)
    for folder in ("samples", "maps"):
        (root / folder).symlink_to(keyframe_root / folder)
    splits = {"petrflow_train": ["scene-0061"], "petrflow_val": ["scene-0061"]}
    (root / "v1.0-mini" / "splits.json").write_text(json.dumps(splits))
    build(root, "val", tmp_path / "val.arrow", progress=False)
    store = AnnotationStore.open(tmp_path / "val.arrow")
    perfect = ground_truth_detections(store, CLASS_NAMES)
    boxes_of = to_submission(store, perfect, CLASS_NAMES)
    for boxes in boxes_of["results"].values():
        for box in boxes:
            box["velocity"] = [0.0, 0.0]
    metrics = score(boxes_of, root, "v1.0-mini")
    assert metrics["not_available"] == ["mAVE", "mAAE"]
    present = [metrics["per_class"][name]["AP"] for name in metrics["ground_truth"]]
    assert min(present) == pytest.approx(1.0)
    assert metrics["mAP_present_classes"] == pytest.approx(1.0) and metrics["mAP"] == pytest.approx(len(present) / 10)
    errors = [metrics[name] for name in ("mATE", "mASE", "mAOE")]
    assert metrics["NDS_available_terms"] == pytest.approx((5 * metrics["mAP"] + sum(1 - e for e in errors)) / 8)
    table = format_table(metrics)
    assert "mAP over classes present: 1.0000  (without" in table
    assert "mAVE: 1.0000  (not available" in table and "NDS over available terms" in table


def test_a_missed_expectation_stands_in_the_table_with_its_likely_cause(
    perfect: dict[str, Any], synthetic_root: Path
) -> None:
    metrics = score(perfect, synthetic_root, "v1.0-mini")
    expect = {"mAP": {"value": 0.2669, "tolerance": 0.01}, "mATE": {"value": 0.0, "tolerance": 0.01}}
    table = format_table({**metrics, "expect": compare_with_expected(metrics, expect)})
    assert "expected 0.2669 +- 0.01: MISSED" in table and "expected 0.0000 +- 0.01: met" in table
    assert "likely: the figures differ only in size" in table


def test_a_written_evaluation_is_standard_json(perfect: dict[str, Any], synthetic_root: Path, tmp_path: Path) -> None:
    metrics = score(perfect, synthetic_root, "v1.0-mini")
    write_evaluation(tmp_path / "baseline", metrics, perfect)

    def refuse(text: str) -> None:
        raise AssertionError(f"{text} is not JSON")

    stored = json.loads((tmp_path / "baseline" / "metrics.json").read_text(), parse_constant=refuse)
    assert stored["mAP"] == metrics["mAP"]
    assert (tmp_path / "baseline" / "table.txt").read_text().startswith("mAP: ")
