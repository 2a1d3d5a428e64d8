"""Random small splits in memory, judged by nuscenes-devkit and by petrflow: two views of the same
tables.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from nuscenes import NuScenes
from nuscenes.eval.detection.config import config_factory
from nuscenes.eval.detection.constants import ATTRIBUTE_NAMES
from nuscenes.eval.detection.data_classes import DetectionConfig
from nuscenes.eval.detection.evaluate import DetectionEval

from petrflow import geometry
from petrflow.evaluation.boxes import global_detections
from petrflow.evaluation.protocol import NUSCENES, Protocol

CATEGORIES = {
    "car": "vehicle.car",
    "truck": "vehicle.truck",
    "bus": "vehicle.bus.rigid",
    "trailer": "vehicle.trailer",
    "construction_vehicle": "vehicle.construction",
    "pedestrian": "human.pedestrian.adult",
    "motorcycle": "vehicle.motorcycle",
    "bicycle": "vehicle.bicycle",
    "traffic_cone": "movable_object.trafficcone",
    "barrier": "movable_object.barrier",
}
RACK = "static_object.bicycle_rack"
MADE = "made"


@dataclass(frozen=True)
class Case:
    """What a random split looks like."""

    seed: int
    keyframes: int = 2
    truths: int = 8
    found: int = 20
    classes: int = 10
    racks: int = 0
    score_digits: int = 8
    grid: bool = False
    unknown_velocity: float = 0.0
    without_attribute: float = 0.0
    tilt: float = 0.0
    spread: float = 30.0


class Tables:
    """As much of ``NuScenes`` as its evaluation looks at."""

    version = "v1.0-mini"
    box_velocity = NuScenes.box_velocity

    def __init__(self, folder: Path, records: dict[str, list[dict[str, Any]]]) -> None:
        self.dataroot = str(folder)
        self._rows = {name: {row["token"]: row for row in rows} for name, rows in records.items()}
        self.sample, self.attribute = records["sample"], records["attribute"]
        (folder / self.version).mkdir(parents=True, exist_ok=True)
        (folder / self.version / "splits.json").write_text(json.dumps({MADE: ["scene"]}))

    def get(self, table: str, token: str) -> dict[str, Any]:
        return self._rows[table][token]


def make(case: Case, folder: Path) -> tuple[Tables, Any, dict[str, Any]]:
    """Return the devkit's view, petrflow's view (a stand-in for AnnotationStore) and random
    detections by sample token.
    """
    rng = np.random.default_rng(case.seed)
    names = list(CATEGORIES)[: case.classes]
    records: dict[str, list[dict[str, Any]]] = {
        name: [] for name in ("sample", "sample_annotation", "sample_data", "ego_pose")
    }
    records["scene"] = [{"token": "scene", "name": "scene"}]
    records["attribute"] = [{"token": f"a{k}", "name": name} for k, name in enumerate(ATTRIBUTE_NAMES)]
    labels = ["", *ATTRIBUTE_NAMES]
    table_order = rng.permutation(case.keyframes)
    columns: dict[str, list[Any]] = {
        name: [] for name in ("name", "attribute", "valid", "translation", "rotation", "velocity")
    }
    columns["size"] = []
    offset, poses = [0], []
    for k in range(case.keyframes):
        pose = (
            rng.uniform(-50, 50, 3).round(0 if case.grid else 9),
            _turn(rng, 0.0 if case.grid else case.tilt, case.grid),
        )
        poses.append(pose)
        token = f"s{k}"
        records["ego_pose"].append({"token": token, "translation": pose[0].tolist(), "rotation": pose[1].tolist()})
        records["sample_data"].append({"token": token, "ego_pose_token": token})
        annotations = []
        for j in range(case.truths + case.racks):
            is_rack = j >= case.truths
            name = RACK if is_rack else names[rng.integers(len(names))]
            place = _places(rng, case, 1)[0] + pose[0]
            attribute = int(rng.integers(1, len(labels))) * int(rng.random() >= case.without_attribute)
            velocity = rng.normal(0, 3, 3) * (np.nan if rng.random() < case.unknown_velocity else 1.0)
            size = np.array([6.0, 8.0, 4.0]) if is_rack else rng.uniform(0.3, 5, 3)
            rotation = _turn(rng, case.tilt, case.grid)
            points = int(rng.random() < 0.9) * int(rng.integers(1, 9))
            annotations.append(f"{token}-{j}")
            records["sample_annotation"].append(
                {
                    "token": annotations[-1],
                    "sample_token": token,
                    "category_name": RACK if is_rack else CATEGORIES[name],
                    "attribute_tokens": [f"a{attribute - 1}"] if attribute else [],
                    "translation": place.tolist(),
                    "size": size.tolist(),
                    "rotation": rotation.tolist(),
                    "num_lidar_pts": points,
                    "num_radar_pts": 0,
                    "velocity": velocity,
                }
            )
            for column, value in zip(
                ("name", "attribute", "valid", "translation", "rotation", "velocity", "size"),
                (name, attribute, points > 0, place, rotation, velocity[:2], size),
                strict=True,
            ):
                columns[column].append(value)
        offset.append(len(columns["name"]))
        records["sample"].append(
            {"token": token, "scene_token": "scene", "anns": annotations, "data": {"LIDAR_TOP": token}}
        )
    records["sample"] = [records["sample"][k] for k in table_order]
    tables = Tables(folder, records)
    tables.box_velocity = lambda token: tables.get("sample_annotation", token)["velocity"]  # type: ignore[method-assign]
    store = _store(case, columns, offset, poses, labels, table_order)
    return tables, store, {f"s{k}": _found(rng, case, store, k, names) for k in range(case.keyframes)}


def _turn(rng: np.random.Generator, tilt: float, grid: bool) -> np.ndarray:
    if grid:
        return np.array([[1.0, 0, 0, 0], [0.0, 0, 0, 1.0]][rng.integers(2)])
    return geometry.normalize_quaternion([*rng.normal(size=1), *rng.normal(0, tilt, 2), *rng.normal(size=1)])


def _places(rng: np.random.Generator, case: Case, count: int) -> np.ndarray:
    places = rng.uniform(-case.spread, case.spread, (count, 3)) * (1, 1, 0.02)
    return places.round() if case.grid else places


def _store(
    case: Case, columns: dict[str, list[Any]], offset: list[int], poses: list[Any], labels: list[str], order: np.ndarray
) -> Any:
    names = sorted(set(columns["name"]))
    count = len(columns["name"])
    ego = np.array([[*place, *turn] for place, turn in poses]).reshape(-1, 7)
    sizes = np.array(columns["size"]).reshape(count, 3)
    tokens = [f"s{k}" for k in range(case.keyframes)]
    return _Store(
        metadata={"names": names, "attributes": labels},
        columns={
            "keyframe.token": tokens,
            "keyframe.box_offset": np.array(offset, dtype=np.int64),
            "keyframe.ego_to_global": ego,
            "keyframe.lidar_to_ego": np.tile([0.5, 0.0, 1.5, 1.0, 0, 0, 0], (case.keyframes, 1)),
            "keyframe.sample_row": np.argsort(order).astype(np.int32),
            "keyframe.scene_row": np.zeros(case.keyframes, dtype=np.int32),
            "scene.name": _Texts(["scene"]),
            "scene.description": _Texts(["Night, rain"]),
            "box.name": np.array([names.index(name) for name in columns["name"]], dtype=np.int16),
            "box.attribute": np.array(columns["attribute"], dtype=np.int16),
            "box.valid": np.array(columns["valid"], dtype=np.uint8),
            "box.box": np.concatenate([np.zeros((count, 3)), sizes, np.zeros((count, 1))], axis=1),
            "box.global_translation": np.array(columns["translation"]).reshape(count, 3),
            "box.global_rotation": np.array(columns["rotation"]).reshape(count, 4),
            "box.global_velocity": np.array(columns["velocity"]).reshape(count, 2),
        },
    )


class _Store(SimpleNamespace):
    """What the judge reads of an AnnotationStore."""

    columns: dict[str, Any]

    def __len__(self) -> int:
        return len(self.columns["keyframe.token"])


class _Texts(list[str]):
    def take(self, rows: Any) -> list[str]:
        return [self[k] for k in rows]


def _found(rng: np.random.Generator, case: Case, store: Any, keyframe: int, names: list[str]) -> Any:
    """Half of the detections lie near labelled boxes of the keyframe, half anywhere."""
    first, last = store.columns["keyframe.box_offset"][keyframe : keyframe + 2]
    near = case.found // 2 if last > first else 0
    chosen = rng.integers(first, last, near) if near else np.zeros(0, dtype=np.int64)
    ego = store.columns["keyframe.ego_to_global"][keyframe]
    lidar = store.columns["keyframe.lidar_to_ego"][keyframe]
    lidar_from_global = geometry.invert_rigid(
        geometry.transform(ego[:3], ego[3:]) @ geometry.transform(lidar[:3], lidar[3:])
    )
    places = geometry.transform_points(lidar_from_global, store.columns["box.global_translation"][chosen])
    steps = rng.integers(-2, 3, (near, 3)) if case.grid else rng.normal(0, 1.2, (near, 3))
    anywhere = _places(rng, case, case.found - near)
    boxes = np.zeros((case.found, 9))
    boxes[:, :3] = np.concatenate([places + steps * (1, 1, 0.1), anywhere])
    boxes[:, 3:6] = rng.uniform(0.3, 5, (case.found, 3))
    boxes[:, 6] = rng.uniform(-4, 4, case.found)
    boxes[:, 7:9] = rng.normal(0, 1, (case.found, 2))
    boxes[rng.random(case.found) < case.unknown_velocity / 2, 7:9] = np.nan
    known = [store.metadata["names"][code] for code in store.columns["box.name"][chosen]]
    labels = [names.index(name) if name in names and rng.random() < 0.8 else rng.integers(len(names)) for name in known]
    labels += rng.integers(0, len(names), case.found - near).tolist()
    scores = rng.random(case.found).round(case.score_digits)
    if rng.random() < 0.3:
        scores[rng.random(case.found) < 0.2] = 0.0
    attributes = [ATTRIBUTE_NAMES[rng.integers(8)] if rng.random() < 0.7 else "" for _ in range(case.found)]
    return SimpleNamespace(
        boxes=boxes,
        scores=scores,
        labels=np.array(labels, dtype=np.int64),
        attributes=attributes if case.seed % 2 else None,
    )


def devkit_summary(
    tables: Tables,
    store: Any,
    found: dict[str, Any],
    class_names: list[str],
    folder: Path,
    protocol: Protocol = NUSCENES,
) -> dict[str, Any]:
    """Return what nuscenes-devkit's evaluation says of the detections."""
    results: dict[str, list[dict[str, Any]]] = {}
    for k, token in enumerate(store.columns["keyframe.token"]):
        one = global_detections(store, [k], [found[token]], class_names, protocol.max_boxes_per_keyframe)
        results[token] = [
            {
                "sample_token": token,
                "translation": one.centre[j].tolist(),
                "size": one.size[j].tolist(),
                "rotation": one.rotation[j].tolist(),
                "velocity": one.velocity[j].tolist(),
                "detection_name": class_names[one.label[j]],
                "detection_score": float(one.score[j]),
                "attribute_name": one.attribute_names[one.attribute[j]],
            }
            for j in range(len(one.score))
        ]
    if not any(results.values()):  # the devkit cannot read a submission without a box; a far one changes nothing
        far = {"translation": [1e7, 1e7, 0.0], "size": [1.0] * 3, "rotation": [1.0, 0, 0, 0], "velocity": [0.0, 0.0]}
        token = next(iter(results))
        results[token] = [
            {**far, "sample_token": token, "detection_name": "car", "detection_score": 0.0, "attribute_name": ""}
        ]
    path = folder / "results_nusc.json"
    path.write_text(json.dumps({"meta": {}, "results": results}))
    config = config_factory("detection_cvpr_2019").serialize()
    config = DetectionConfig.deserialize(
        {
            **config,
            "class_range": dict(protocol.class_ranges),
            "dist_ths": list(protocol.distance_thresholds),
            "dist_th_tp": protocol.error_threshold,
            "min_recall": protocol.min_recall,
            "min_precision": protocol.min_precision,
        }
    )
    evaluation = DetectionEval(tables, config, str(path), MADE, str(folder), verbose=False)
    return dict(evaluation.evaluate()[0].serialize())


def largest_difference(ours: Any, theirs: Any, path: str = "") -> float:
    """Return the largest difference of the figures that ours names; NaN equals NaN and nothing
    else.
    """
    if isinstance(ours, dict):
        assert {str(key) for key in ours} == {str(key) for key in theirs}, path
        return max(
            (largest_difference(value, theirs[key], f"{path}/{key}") for key, value in ours.items()), default=0.0
        )
    if np.isnan(ours) or np.isnan(theirs):
        assert np.isnan(ours) and np.isnan(theirs), f"{path}: {ours} against {theirs}"
        return 0.0
    if np.isinf(ours) or np.isinf(theirs):
        assert ours == theirs, f"{path}: {ours} against {theirs}"
        return 0.0
    return abs(float(ours) - float(theirs))
