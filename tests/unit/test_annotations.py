"""The annotation store against a record-by-record computation with the devkit, on tables and on a real keyframe."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from nuscenes import NuScenes

from petrflow.annotations import AnnotationStore, Keyframe, build, build_all

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from annotation_reference import reference_keyframe
from nuscenes_tables import write_tables

VERSION = "v1.0-mini"


@pytest.fixture(scope="session")
def tables_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three scenes of nine keyframes, tables only."""
    root = tmp_path_factory.mktemp("tables")
    write_tables(root, 3, keyframes=9, boxes_per_keyframe=12, version=VERSION, seed=3)
    return root


@pytest.fixture(scope="session")
def stores(tables_root: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, AnnotationStore]:
    folder = tmp_path_factory.mktemp("stores")
    paths = {split: folder / f"{split}.arrow" for split in ("train", "val")}
    build_all(tables_root, paths, progress=False)
    return {split: AnnotationStore.open(path) for split, path in paths.items()}


def assert_equals_reference(store: AnnotationStore, nusc: NuScenes) -> None:
    for index in range(len(store)):
        keyframe = store[index]
        assert_keyframe_equals(store, keyframe, reference_keyframe(nusc, keyframe.token))


def assert_keyframe_equals(store: AnnotationStore, keyframe: Keyframe, expected: dict[str, Any]) -> None:
    for name in (
        "token",
        "timestamp",
        "lidar_token",
        "lidar_path",
        "annotation_tokens",
        "instance_tokens",
        "names",
        "attributes",
    ):
        assert getattr(keyframe, name) == expected[name], name
    for name in ("lidar_to_ego", "ego_to_global"):
        for actual, wanted in zip(getattr(keyframe, name), expected[name], strict=True):
            np.testing.assert_array_equal(actual, wanted)
    np.testing.assert_allclose(keyframe.boxes, expected["boxes"], atol=1e-6, rtol=0)
    np.testing.assert_allclose(keyframe.velocities, expected["velocities"], atol=1e-6, rtol=0)
    np.testing.assert_array_equal(
        np.stack([keyframe.num_lidar_pts, keyframe.num_radar_pts], axis=1), expected["points"]
    )
    np.testing.assert_array_equal(keyframe.valid, expected["points"].sum(axis=1) > 0)
    assert [str(level) for level in keyframe.visibility] == expected["visibility"]
    assert list(expected["cameras"]) == list(store.camera_names)
    assert_cameras_equal(store, keyframe, expected["cameras"])
    assert keyframe.num_sweeps == len(expected["sweeps"])
    for k, views in enumerate(expected["sweeps"]):
        assert_cameras_equal(store, keyframe.sweep(k), views)


def assert_cameras_equal(store: AnnotationStore, actual: Any, expected: dict[str, dict[str, Any]]) -> None:
    for k, name in enumerate(store.camera_names):
        view = expected[name]
        assert actual.image_tokens[k] == view["token"]
        assert actual.image_paths[k] == view["path"]
        assert actual.image_timestamps[k] == view["timestamp"]
        assert tuple(actual.image_sizes[k]) == view["size"]
        np.testing.assert_array_equal(actual.intrinsics[k], view["intrinsic"])
        np.testing.assert_allclose(actual.lidar_from_camera[k], view["lidar_from_camera"], atol=1e-6, rtol=0)


def edit(root: Path, table: str, change: Any) -> None:
    path = root / VERSION / f"{table}.json"
    records = json.loads(path.read_text())
    changed = change(records)
    path.write_text(json.dumps(records if changed is None else changed))


@pytest.fixture
def editable(tmp_path: Path) -> Path:
    """A root of two short scenes whose tables a test may change."""
    write_tables(tmp_path / "root", 2, keyframes=7, boxes_per_keyframe=5, version=VERSION, seed=5)
    return tmp_path / "root"


def rebuilt(root: Path, split: str = "train") -> tuple[AnnotationStore, NuScenes]:
    build(root, split, root / f"{split}.arrow", progress=False)
    return AnnotationStore.open(root / f"{split}.arrow"), NuScenes(VERSION, str(root), verbose=False)


# ------------------------------------------------------------------------------------------------------------------ equality


def test_stores_equal_the_record_by_record_computation(tables_root: Path, stores: dict[str, AnnotationStore]) -> None:
    nusc = NuScenes(VERSION, str(tables_root), verbose=False)
    assert sum(len(store) for store in stores.values()) == len(nusc.sample)
    for store in stores.values():
        assert_equals_reference(store, nusc)
    known = np.concatenate([stores["train"][k].velocities for k in range(9)])
    assert 0.3 < np.isfinite(known).mean() < 1.0


def test_the_real_keyframe_equals_the_record_by_record_computation(keyframe_root: Path, tmp_path: Path) -> None:
    build(keyframe_root, "val", tmp_path / "val.arrow", splits={"val": ["scene-0061"]}, progress=False)
    store = AnnotationStore.open(tmp_path / "val.arrow")
    assert_equals_reference(store, NuScenes(VERSION, str(keyframe_root), verbose=False))
    assert len(store[0].boxes) == 68
    assert np.isnan(store[0].velocities).all()
    assert store[0].num_sweeps == 0
