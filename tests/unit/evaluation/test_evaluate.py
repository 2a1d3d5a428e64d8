"""Predictions become the devkit's submission without losing anything, and the devkit's figures become ours."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from nuscenes import NuScenes
from nuscenes.utils.data_classes import Box
from pyquaternion import Quaternion

from petrflow.annotations import AnnotationStore, build
from petrflow.errors import PetrflowError
from petrflow.evaluation.evaluate import require_scorable, score_detections
from petrflow.evaluation.expectations import compare_with_expected
from petrflow.evaluation.score import score
from petrflow.evaluation.submission import to_submission
from petrflow.evaluation.table import format_table
from petrflow.machine import processes
from petrflow.samples.types import Detections
from tests.helpers.found import ground_truth_detections

sys.path.insert(0, str(Path(__file__).parents[3] / "benchmarks"))

from nuscenes_tables import write_tables

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


def test_a_written_evaluation_is_standard_json(store: AnnotationStore, synthetic_root: Path, tmp_path: Path) -> None:
    found = ground_truth_detections(store, CLASS_NAMES)
    metrics = score_detections(store, found, CLASS_NAMES, synthetic_root, tmp_path / "baseline")
    assert metrics is not None

    def refuse(text: str) -> None:
        raise AssertionError(f"{text} is not JSON")

    stored = json.loads((tmp_path / "baseline" / "metrics.json").read_text(), parse_constant=refuse)
    assert stored == metrics
    assert (tmp_path / "baseline" / "table.txt").read_text().startswith("mAP: ")
    assert json.loads((tmp_path / "baseline" / "results_nusc.json").read_text()) == to_submission(
        store, found, CLASS_NAMES
    )


# ----------------------------------------------------------------------------------------------------------------- both judges


def noisy(store: AnnotationStore, seed: int = 0, per_keyframe: int = 60) -> dict[str, Detections]:
    """Return detections near the split's boxes and anywhere else, with many equal scores."""
    rng = np.random.default_rng(seed)
    found = {}
    for token, truth in ground_truth_detections(store, CLASS_NAMES).items():
        near = rng.integers(0, len(truth.scores), per_keyframe) if len(truth.scores) else np.zeros(0, dtype=int)
        boxes = np.nan_to_num(
            truth.boxes[near] + rng.normal(0, 0.6, (len(near), 9)) * [1, 1, 0.1, 0, 0, 0, 0.2, 0.2, 0.2]
        )
        far = np.concatenate([rng.uniform(-60, 60, (20, 2)), np.zeros((20, 1)), np.ones((20, 3)), np.zeros((20, 3))], 1)
        labels = np.concatenate([truth.labels[near], rng.integers(0, 10, 20)])
        boxes = np.concatenate([boxes, far]).astype("float32")
        found[token] = Detections(boxes, rng.random(len(labels)).round(2).astype("float32"), labels)
    return found


def apart(metrics: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Split metrics into what both judges say and what only petrflow's own does."""
    own = {key: metrics[key] for key in ("bands", "groups", "scenes") if key in metrics}
    return {key: value for key, value in metrics.items() if key not in own}, own


def assert_equal(ours: Any, theirs: Any) -> None:
    if isinstance(ours, dict):
        assert set(ours) == set(theirs)
        for key, value in ours.items():
            assert_equal(value, theirs[key])
    elif isinstance(ours, float) and theirs is not None:
        assert ours == pytest.approx(theirs, abs=1e-9)
    else:
        assert ours == theirs


def test_both_judges_write_the_same_figures_and_the_same_submission(
    store: AnnotationStore, synthetic_root: Path, tmp_path: Path
) -> None:
    found = noisy(store)
    ours, theirs = (
        score_detections(store, found, CLASS_NAMES, synthetic_root, tmp_path / judge, judge=judge)
        for judge in ("petrflow", "devkit")
    )
    assert ours is not None and theirs is not None
    common, own = apart(ours)
    assert_equal(common, theirs)
    assert 0.05 < ours["mAP"] < 0.95
    assert set(own["bands"]) == {"0-20 m", "20-35 m", "35-50 m"} and set(own["scenes"]) == {store[0].scene_name}
    assert sum(part["ground_truth"] for part in own["bands"].values()) == sum(ours["ground_truth"].values())
    scene = own["scenes"][store[0].scene_name]
    assert scene["mAP_present_classes"] == pytest.approx(ours["mAP_present_classes"])
    results = [(tmp_path / judge / "results_nusc.json").read_bytes() for judge in ("petrflow", "devkit")]
    assert results[0] == results[1]


@pytest.fixture(scope="module")
def large_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tables with gaps in the tracks, bicycle racks, and scenes at night and in the rain."""
    root = tmp_path_factory.mktemp("tables")
    folder = write_tables(root, 6, keyframes=12, boxes_per_keyframe=40, val_share=1.0)
    path = folder / "category.json"
    path.write_text(path.read_text().replace("movable_object.debris", "static_object.bicycle_rack"))
    scenes = json.loads((folder / "scene.json").read_text())
    for scene, description in zip(scenes, ("Night", "rain, dark", "Night, rain", "Sunny", "", "Turn"), strict=True):
        scene["description"] = description
    (folder / "scene.json").write_text(json.dumps(scenes))
    return root


def test_the_store_carries_all_that_the_devkit_reads_from_the_tables(large_root: Path, tmp_path: Path) -> None:
    root = copied_root(large_root, tmp_path, "splits", None)  # a root that is used where it stands has none
    splits = json.loads((large_root / "v1.0-trainval" / "splits.json").read_text())
    build(root, "val", tmp_path / "val.arrow", progress=False, splits={"val": splits["petrflow_val"]})
    store = AnnotationStore.open(tmp_path / "val.arrow")
    found = noisy(store, per_keyframe=200)
    ours = score_detections(store, found, CLASS_NAMES, root, tmp_path / "ours")
    theirs = score_detections(store, found, CLASS_NAMES, root, tmp_path / "theirs", judge="devkit")
    assert ours is not None and theirs is not None
    common, own = apart(ours)
    assert_equal(common, theirs)
    assert ours["mAP"] > 0.2 and len(own["scenes"]) == 6
    counts = {name: part["ground_truth"] for name, part in own["scenes"].items()}
    assert own["groups"]["night"]["ground_truth"] == counts["scene-0001"] + counts["scene-0003"]
    assert own["groups"]["rain"]["ground_truth"] == counts["scene-0002"] + counts["scene-0003"]


def test_processes_that_score_together_leave_the_same_files_as_one(
    large_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build(large_root, "val", tmp_path / "val.arrow", progress=False)
    store = AnnotationStore.open(tmp_path / "val.arrow")
    found = noisy(store)
    alone = score_detections(store, found, CLASS_NAMES, large_root, tmp_path / "alone")
    me, waiting = threading.local(), threading.Barrier(3, timeout=60)
    monkeypatch.setattr(processes, "rank", lambda: me.rank)
    monkeypatch.setattr(processes, "world_size", lambda: 3)
    monkeypatch.setattr(processes, "barrier", waiting.wait)

    def share(rank: int) -> dict[str, Any] | None:
        me.rank = rank
        mine = {store[k].token: found[store[k].token] for k in range(len(store)) if k // 4 % 3 == rank}
        return score_detections(store, mine, CLASS_NAMES, large_root, tmp_path / "together")

    with ThreadPoolExecutor(3) as pool:
        first, *others = pool.map(share, range(3))
    assert first == alone and others == [None, None]
    for name in ("metrics.json", "results_nusc.json", "table.txt"):
        assert (tmp_path / "together" / name).read_bytes() == (tmp_path / "alone" / name).read_bytes()


# --------------------------------------------------------------------------------------------------- said before anything is done


def test_a_split_without_a_box_that_counts_is_refused_with_the_reasons(
    store: AnnotationStore, synthetic_root: Path
) -> None:
    with pytest.raises(PetrflowError, match=r"(?s)of no class of the model \(moose; the data has .*do_eval: false"):
        require_scorable(store, ["moose"], synthetic_root)


def test_own_classes_are_scored_by_their_own_names_and_refused_by_the_devkit(large_root: Path, tmp_path: Path) -> None:
    build(large_root, "val", tmp_path / "val.arrow", progress=False)
    store = AnnotationStore.open(tmp_path / "val.arrow")
    classes = ["animal", "car"]
    protocol = require_scorable(store, classes, large_root)
    assert protocol.class_names == ("animal", "car")
    metrics = score_detections(
        store, ground_truth_detections(store, classes), classes, large_root, tmp_path / "own", judge="petrflow"
    )
    assert metrics is not None
    assert metrics["per_class"]["animal"]["AP"] == pytest.approx(1.0) and set(metrics["per_class"]) == set(classes)
    assert metrics["rules"]["animal"]["without"] == ["AAE"] and metrics["rules"]["car"]["range"] == 50.0
    near = require_scorable(store, classes, large_root, judging={"car": {"range": 20}})
    assert near.class_ranges["car"] == 20.0
    with pytest.raises(PetrflowError, match=r"knows no classes but nuScenes' ten.*animal, car"):
        require_scorable(store, classes, large_root, judge="devkit")


def copied_root(large_root: Path, folder: Path, change: str, edit: Callable[[Any], Any] | None) -> Path:
    """Link a root's tables but one, which is edited, or left out."""
    root = folder / "root"
    tables = root / "v1.0-trainval"
    tables.mkdir(parents=True)
    for path in (large_root / "v1.0-trainval").iterdir():
        if path.stem != change:
            (tables / path.name).symlink_to(path)
        elif edit is not None:
            (tables / path.name).write_text(json.dumps(edit(json.loads(path.read_text()))))
    for name in (".complete.json", "maps"):
        (root / name).symlink_to(large_root / name)
    return root


def without(*fields: str) -> Callable[[Any], Any]:
    return lambda rows: [{key: value for key, value in row.items() if key not in fields} for row in rows]


@pytest.mark.parametrize(
    ("table", "edit"),
    [
        ("map", None),
        ("map", lambda rows: []),
        ("map", without("log_tokens")),
        ("visibility", None),
        ("sample_annotation", without("num_radar_pts")),
    ],
    ids=["no map", "empty map", "map without log", "no visibility", "no radar counts"],
)
def test_what_the_devkit_fails_on_is_said_before_predicting(
    large_root: Path, tmp_path: Path, table: str, edit: Callable[[Any], Any] | None
) -> None:
    root = copied_root(large_root, tmp_path, table, edit)
    build(root, "val", tmp_path / "val.arrow", progress=False)
    store = AnnotationStore.open(tmp_path / "val.arrow")
    require_scorable(store, CLASS_NAMES, root)  # our own judge does without
    with pytest.raises(PetrflowError, match=r"nuscenes-devkit (cannot load|finds).*judge: petrflow"):
        require_scorable(store, CLASS_NAMES, root, judge="devkit")


def test_a_box_with_two_attributes_is_scored_by_its_first_and_refused_by_the_devkit_before_predicting(
    large_root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    attributes = [row["token"] for row in json.loads((large_root / "v1.0-trainval" / "attribute.json").read_text())]
    root = copied_root(
        large_root,
        tmp_path,
        "sample_annotation",
        lambda rows: [{**row, "attribute_tokens": attributes[:2]} for row in rows[:50]] + rows[50:],
    )
    build(root, "val", tmp_path / "val.arrow", progress=False)
    store = AnnotationStore.open(tmp_path / "val.arrow")
    require_scorable(store, CLASS_NAMES, root)
    assert "50 boxes of" in caplog.text and "the first one counts" in caplog.text
    with pytest.raises(PetrflowError, match="every box may have one attribute"):
        require_scorable(store, CLASS_NAMES, root, judge="devkit")


def test_detections_that_are_not_numbers_are_refused_by_name(
    store: AnnotationStore, synthetic_root: Path, tmp_path: Path
) -> None:
    found = noisy(store)
    found[store[0].token].boxes[0, 0] = np.nan
    with pytest.raises(PetrflowError, match=f"detections of sample {store[0].token} are not numbers"):
        score_detections(store, found, CLASS_NAMES, synthetic_root, tmp_path / "out")
