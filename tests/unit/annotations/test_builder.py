"""The annotation store against a record-by-record computation with the devkit, on tables and on a real keyframe."""

from __future__ import annotations

import itertools
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from nuscenes import NuScenes

from petrflow.annotations import AnnotationStore, Keyframe, build, build_all
from petrflow.errors import PetrflowError

sys.path.insert(0, str(Path(__file__).parents[3] / "benchmarks"))

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


def test_the_synthetic_set_equals_the_record_by_record_computation(
    synthetic_root: Path, synthetic_stores: dict[str, Path]
) -> None:
    nusc = NuScenes(VERSION, str(synthetic_root), verbose=False)
    for path in synthetic_stores.values():
        assert_equals_reference(AnnotationStore.open(path), nusc)


# ------------------------------------------------------------------------------------------------------------------ edges


def test_the_first_keyframe_of_a_scene_has_no_sweeps_and_later_ones_have_six_a_keyframe(
    stores: dict[str, AnnotationStore],
) -> None:
    counts = [stores["val"][k].num_sweeps for k in range(len(stores["val"]))]
    assert counts == [6 * min(k, 5) for k in range(9)]
    with pytest.raises(IndexError, match="has 0 sweeps"):
        stores["val"][0].sweep(0)


def test_keyframes_of_all_scenes_come_in_time_order(stores: dict[str, AnnotationStore]) -> None:
    keys = [(keyframe.timestamp, keyframe.token) for keyframe in (stores["train"][k] for k in range(18))]
    assert keys == sorted(keys)
    assert {stores["train"][k].scene_name for k in range(18)} == {"scene-0001", "scene-0002"}


def test_a_camera_whose_chain_ends_early_repeats_the_entry_before_it(editable: Path) -> None:
    samples = json.loads((editable / VERSION / "sample.json").read_text())
    third = samples[2]["timestamp"]

    def cut(records: list[dict[str, Any]]) -> None:
        # CAM_BACK saw nothing before the third keyframe but the keyframes themselves; the cameras walked ahead of it still go on.
        for record in records:
            if "/CAM_BACK/" in record["filename"] and record["timestamp"] < third - 150_000:
                record["prev"] = ""

    edit(editable, "sample_data", cut)
    store, nusc = rebuilt(editable)
    assert_equals_reference(store, nusc)
    repeated = store[4]
    tokens = [repeated.sweep(k).image_tokens for k in range(repeated.num_sweeps)]
    assert any(a == b for a, b in itertools.pairwise(tokens))


def test_a_chain_that_ends_at_once_leaves_the_previous_keyframe_as_nearest_sweep(editable: Path) -> None:
    def cut(records: list[dict[str, Any]]) -> None:
        for record in records:
            if "/CAM_FRONT/" in record["filename"]:
                record["prev"] = ""

    edit(editable, "sample_data", cut)
    store, nusc = rebuilt(editable)
    assert_equals_reference(store, nusc)
    assert store[1].num_sweeps == 1
    assert store[1].sweep(0).image_tokens == store[0].image_tokens


def test_with_few_sweeps_the_chain_runs_past_the_previous_keyframe_as_in_stock(editable: Path) -> None:
    drop = set()

    def thin(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
        by_token = {record["token"]: record for record in records}
        for k, record in enumerate(records):
            if not record["is_key_frame"] and k % 2 and record["filename"].startswith("sweeps/CAM"):
                drop.add(record["token"])
                if record["prev"]:
                    by_token[record["prev"]]["next"] = record["next"]
                if record["next"]:
                    by_token[record["next"]]["prev"] = record["prev"]
        return [record for record in records if record["token"] not in drop]

    edit(editable, "sample_data", thin)
    store, nusc = rebuilt(editable)
    assert_equals_reference(store, nusc)
    last = store[len(store) - 1]
    own = {token for k in range(6) for token in last.sweep(k).image_tokens}
    before = set(store[len(store) - 2].image_tokens)
    assert sum(token in before for k in range(5) for token in last.sweep(k).image_tokens) > 0 < len(own)


def test_keyframes_without_annotations_have_empty_boxes(editable: Path) -> None:
    sample = json.loads((editable / VERSION / "sample.json").read_text())[3]["token"]
    edit(editable, "sample_annotation", lambda records: [r for r in records if r["sample_token"] != sample])

    def mend(records: list[dict[str, Any]]) -> None:
        kept = {record["token"] for record in records}
        for record in records:
            record["prev"], record["next"] = (t if t in kept else "" for t in (record["prev"], record["next"]))

    edit(editable, "sample_annotation", mend)
    store, nusc = rebuilt(editable)
    assert_equals_reference(store, nusc)
    empty = next(keyframe for keyframe in (store[k] for k in range(len(store))) if keyframe.token == sample)
    assert empty.boxes.shape == (0, 7) and empty.velocities.shape == (0, 2) and empty.names == []


def test_a_data_set_without_any_annotation_builds(editable: Path) -> None:
    edit(editable, "sample_annotation", lambda _: [])
    edit(editable, "instance", lambda _: [])
    store, _ = rebuilt(editable)
    assert [len(store[k].boxes) for k in range(len(store))] == [0] * len(store)


def test_categories_that_are_no_detection_class_keep_their_names(stores: dict[str, AnnotationStore]) -> None:
    names = {name for store in stores.values() for k in range(len(store)) for name in store[k].names}
    assert {"pedestrian", "car", "movable_object.debris", "animal"} <= names
    assert "vehicle.car" not in names


def test_a_category_of_ones_own_keeps_its_name(editable: Path) -> None:
    edit(editable, "category", lambda records: [{**r, "name": f"own.{r['name']}"} for r in records])
    store, nusc = rebuilt(editable)
    assert_equals_reference(store, nusc)
    assert all(name.startswith("own.") for name in store[0].names)


def test_a_root_with_two_cameras_and_no_sweeps_has_the_keyframes_as_its_chain(tmp_path: Path) -> None:
    root = tmp_path / "root"
    write_tables(root, 2, keyframes=4, boxes_per_keyframe=3, version=VERSION, cameras=("CAM_BACK", "CAM_FRONT"))
    kept: set[str] = set()

    def only_keyframes(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
        kept.update(record["token"] for record in records if record["is_key_frame"])
        keyframes = [record for record in records if record["is_key_frame"]]
        last: dict[tuple[str, str], str] = {}
        for record in keyframes:
            chain = (record["calibrated_sensor_token"], "")
            record["prev"], last[chain] = last.get(chain, ""), record["token"]
        return keyframes

    edit(root, "sample_data", only_keyframes)
    store, nusc = rebuilt(root)
    assert store.camera_names == ("CAM_FRONT", "CAM_BACK")
    assert_equals_reference(store, nusc)
    assert store[3].image_paths[0].startswith("samples/CAM_FRONT/")


def test_cameras_of_other_names_keep_the_order_of_the_root(tmp_path: Path) -> None:
    root = tmp_path / "root"
    write_tables(
        root, 2, keyframes=3, boxes_per_keyframe=3, version=VERSION, cameras=("CAM_ZULU", "CAM_BACK", "CAM_ALPHA")
    )
    store, _ = rebuilt(root)
    assert store.camera_names == ("CAM_BACK", "CAM_ZULU", "CAM_ALPHA")
    assert store[1].num_sweeps == 6


# ------------------------------------------------------------------------------------------------------------------ damage


def test_a_missing_table_is_named(editable: Path) -> None:
    (editable / VERSION / "instance.json").unlink()
    with pytest.raises(PetrflowError, match=r"instance\.json is missing"):
        rebuilt(editable)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.999])
@pytest.mark.parametrize("table", ["sample_data", "category"])
def test_a_table_that_is_cut_off_is_named(editable: Path, table: str, share: float) -> None:
    path = editable / VERSION / f"{table}.json"
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(PetrflowError, match=rf"{table}\.json is cut off or damaged"):
        rebuilt(editable)


@pytest.mark.parametrize(
    ("table", "change", "message"),
    [
        (
            "ego_pose",
            lambda r: r[5].pop("rotation"),
            r"ego_pose\.json: a record has no 'rotation' \(the one with token [0-9a-f]{32}",
        ),
        (
            "ego_pose",
            lambda r: r[5]["rotation"].pop(),
            r"ego_pose\.json: 'rotation' of record [0-9a-f]{32} holds 3 numbers, not 4",
        ),
        (
            "sample_data",
            lambda r: r.remove(next(x for x in r if "sweeps/CAM" in x["filename"] and x["next"])),
            r"sample_data '[0-9a-f]{32}' in record [0-9a-f]{32}, which sample_data\.json does not hold",
        ),
        (
            "ego_pose",
            lambda r: r.pop(0),
            r"sample_data\.json refers to ego_pose '[0-9a-f]{32}' in record [0-9a-f]{32}, which ego_pose\.json does not hold",
        ),
        ("sample", lambda r: r[1].update(timestamp="noon"), r"sample\.json: a record is not as nuScenes has it"),
        (
            "sample_data",
            lambda r: r[5].update(calibrated_sensor_token="elsewhere"),
            r"sample_data\.json refers to calibrated_sensor 'elsewhere', which calibrated_sensor\.json does not hold",
        ),
        ("scene", lambda r: r.pop(), r"scene\.json"),
    ],
)
def test_damaged_records_are_named(editable: Path, table: str, change: Any, message: str) -> None:
    edit(editable, table, lambda records: (change(records), records)[1])
    with pytest.raises(PetrflowError, match=message):
        rebuilt(editable)


def test_a_keyframe_without_an_image_of_every_camera_is_named(editable: Path) -> None:
    def blind(records: list[dict[str, Any]]) -> None:
        next(r for r in records if r["filename"].startswith("samples/CAM_BACK_LEFT"))["is_key_frame"] = False

    edit(editable, "sample_data", blind)
    with pytest.raises(PetrflowError, match=r"no key frame of CAM_BACK_LEFT for sample [0-9a-f]{32}"):
        rebuilt(editable)


def without_one_lidar(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    lost = next(record for record in records if record["filename"].startswith("samples/LIDAR"))
    return [record for record in records if record is not lost]


def test_a_keyframe_without_a_lidar_record_is_named(editable: Path) -> None:
    edit(editable, "sample_data", without_one_lidar)
    with pytest.raises(PetrflowError, match=r"no key frame of LIDAR_TOP for sample [0-9a-f]{32}"):
        rebuilt(editable)


def test_a_split_with_an_unknown_scene_is_refused(editable: Path) -> None:
    with pytest.raises(PetrflowError, match="has no scene scene-9999"):
        build(editable, "val", editable / "x.arrow", splits={"val": ["scene-0001", "scene-9999"]}, progress=False)
