"""The store's file: reproducible bytes, versions, light and shared reading; stock's pickle; and the images it refers to."""

from __future__ import annotations

import json
import pickle
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from nuscenes import NuScenes
from PIL import Image

from petrflow.annotations import AnnotationStore, annotate, build, build_all, layout, write_classic
from petrflow.annotations.check import check_frames
from petrflow.annotations.runs import divide
from petrflow.errors import PetrflowError
from petrflow.pictures.read import header_size

sys.path.insert(0, str(Path(__file__).parents[3] / "benchmarks"))

from annotation_reference import reference_keyframe
from nuscenes_tables import write_tables

VERSION = "v1.0-mini"


@pytest.fixture(scope="module")
def store_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("store")
    write_tables(folder / "root", 2, keyframes=6, boxes_per_keyframe=8, version=VERSION)
    build(folder / "root", "train", folder / "train.arrow", progress=False)
    return folder / "train.arrow"


# ------------------------------------------------------------------------------------------------------------------ the file


def test_two_builds_give_the_same_bytes_whatever_the_number_of_threads(store_path: Path, tmp_path: Path) -> None:
    root = store_path.parent / "root"
    for threads in (1, 2, 3):
        paths = {split: tmp_path / f"{split}{threads}.arrow" for split in ("val", "train")}
        build_all(root, paths, progress=False, threads=threads)
        assert paths["train"].read_bytes() == store_path.read_bytes()


def test_runs_of_scenes_joined_one_after_another_give_the_same_bytes(tmp_path: Path) -> None:
    root = tmp_path / "root"
    write_tables(root, 8, keyframes=6, boxes_per_keyframe=9, version=VERSION, val_share=0.4, distinct=5)
    folder = tmp_path / "stores"
    for number in (1, 2, 3, 8):
        stores = {split: folder / f"{split}{number}.arrow" for split in ("train", "val")}
        build_all(root, stores, progress=False, runs_of_scenes=number)
        for split, path in stores.items():
            assert path.read_bytes() == (folder / f"{split}1.arrow").read_bytes(), (split, number)
    assert sorted(path.suffix for path in folder.iterdir()) == [".arrow"] * 8, "nothing else is left"


def test_runs_are_cut_where_no_scene_goes_on(tmp_path: Path) -> None:
    starts = np.array([0, 5, 20, 30, 34, 50]) * 1_000_000
    sample = {
        "timestamp": (starts[:, None] + np.arange(4) * 3_000_000).reshape(-1),
        "scene_row": np.repeat(range(6), 4),
    }
    rows = [np.arange(0, 24, 2), np.arange(1, 20, 2)]
    runs = divide({"sample": sample}, rows, 6).reshape(6, 4)
    assert runs[:5, 0].tolist() == [0, 0, 1, 2, 2] and runs[5].tolist() == [3, -1, 3, -1]
    assert (runs[:5] == runs[:5, :1]).all()


def test_the_order_of_records_in_the_tables_changes_nothing_but_the_order_that_is_kept(
    store_path: Path, tmp_path: Path
) -> None:
    root = tmp_path / "root"
    shutil.copytree(store_path.parent / "root", root)
    for table in ("sample", "sample_data", "ego_pose", "scene", "instance"):
        path = root / VERSION / f"{table}.json"
        path.write_text(json.dumps(json.loads(path.read_text())[::-1]))
    build(root, "train", tmp_path / "train.arrow", progress=False)
    (turned, turned_metadata), (columns, metadata) = layout.read(tmp_path / "train.arrow"), layout.read(store_path)
    before, after = columns.pop("keyframe.sample_row"), turned.pop("keyframe.sample_row")
    np.testing.assert_array_equal(after, len(json.loads((root / VERSION / "sample.json").read_text())) - 1 - before)
    assert turned_metadata == metadata and set(turned) == set(columns)
    for name, column in columns.items():
        rows = range(len(column))
        assert (
            np.array_equal(turned[name], column, equal_nan=True)
            if isinstance(column, np.ndarray)
            else (turned[name].take(rows) == column.take(rows))
        )


def test_a_split_without_scenes_gives_an_empty_store(store_path: Path, tmp_path: Path) -> None:
    build(store_path.parent / "root", "val", tmp_path / "val.arrow", splits={"val": []}, progress=False)
    assert len(AnnotationStore.open(tmp_path / "val.arrow")) == 0


def test_a_folder_may_have_any_name(store_path: Path, tmp_path: Path) -> None:
    root = tmp_path / "it's [a] root? *"
    shutil.copytree(store_path.parent / "root", root)
    build(root, "train", root / "train.arrow", progress=False)
    assert (root / "train.arrow").read_bytes() == store_path.read_bytes()


@pytest.mark.parametrize(
    ("found", "message"), [(0, "an older petrflow.*Move it away"), (99, "a newer petrflow.*Update petrflow")]
)
def test_a_store_of_another_version_is_refused(
    store_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, found: int, message: str
) -> None:
    columns, metadata = layout.read(store_path)
    monkeypatch.setattr(layout, "FORMAT_VERSION", found)
    metadata.pop("format_version")
    layout.write(tmp_path / "other.arrow", {"keyframe.timestamp": columns["keyframe.timestamp"]}, metadata)
    monkeypatch.undo()
    with pytest.raises(PetrflowError, match=message):
        AnnotationStore.open(tmp_path / "other.arrow")


def test_a_store_that_is_missing_damaged_or_something_else_is_named(store_path: Path, tmp_path: Path) -> None:
    with pytest.raises(PetrflowError, match=r"nothing\.arrow does not exist"):
        AnnotationStore.open(tmp_path / "nothing.arrow")
    half = tmp_path / "half.arrow"
    half.write_bytes(store_path.read_bytes()[:5000])
    with pytest.raises(PetrflowError, match=r"half\.arrow is damaged or no annotation store"):
        AnnotationStore.open(half)
    other = tmp_path / "other.arrow"
    table = pa.table({"a": [1]})
    with pa.OSFile(str(other), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    with pytest.raises(PetrflowError, match="no annotation store"):
        AnnotationStore.open(other)


def test_any_arrow_library_reads_the_store(store_path: Path) -> None:
    with pa.memory_map(str(store_path)) as source:
        batch = pa.ipc.open_file(source).get_batch(0)
        row = batch.slice(0, 1).to_pylist()[0]
    store = AnnotationStore.open(store_path)
    assert batch.num_rows == 1
    assert row["keyframe.token"] == [store[k].token for k in range(len(store))]
    np.testing.assert_array_equal(np.array(row["box.box"])[: len(store[0].boxes)], store[0].boxes)


def test_a_pickled_store_is_opened_anew_and_not_copied(store_path: Path) -> None:
    store = AnnotationStore.open(store_path)
    data = pickle.dumps(store)
    assert len(data) < 1000
    assert pickle.loads(data)[3].token == store[3].token


def test_negative_indices_count_from_the_end_and_others_are_refused(store_path: Path) -> None:
    store = AnnotationStore.open(store_path)
    assert store[-1].token == store[len(store) - 1].token
    with pytest.raises(IndexError, match="holds 6 keyframes"):
        store[6]


def test_arrays_of_a_keyframe_are_views_that_cannot_be_written(store_path: Path) -> None:
    with pytest.raises(ValueError, match="read-only"):
        AnnotationStore.open(store_path)[0].boxes[:] = 0


def test_reading_a_store_imports_neither_pandas_nor_duckdb_nor_paddle(store_path: Path) -> None:
    code = (
        "import sys; from petrflow.annotations import AnnotationStore; "
        f"store = AnnotationStore.open({str(store_path)!r}); store[5].sweep(0); "
        "print([name for name in ('pandas', 'duckdb', 'paddle', 'nuscenes') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# ------------------------------------------------------------------------------------------------------------------ stock's pickle


@pytest.fixture(scope="module")
def classic(
    synthetic_root: Path, synthetic_stores: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, Any]]:
    path = tmp_path_factory.mktemp("classic") / "petr_nuscenes_annotation_train.pkl"
    write_classic(synthetic_root, synthetic_stores["train"], path, progress=False)
    with path.open("rb") as handle:
        return path, pickle.load(handle)


def assert_same(actual: Any, expected: Any, where: str) -> None:
    """Equal in structure and types, and to 1e-6 in numbers."""
    if isinstance(expected, dict):
        assert list(actual) == list(expected), where
        for key, value in expected.items():
            assert_same(actual[key], value, f"{where}.{key}")
    elif isinstance(expected, np.ndarray) and expected.dtype.kind == "f":
        assert actual.dtype == expected.dtype, where
        np.testing.assert_allclose(actual, expected, atol=1e-6, rtol=0, err_msg=where)
    elif isinstance(expected, np.ndarray):
        assert actual.dtype == expected.dtype, where
        np.testing.assert_array_equal(actual, expected, err_msg=where)
    else:
        assert type(actual) is type(expected) and actual == expected, where


def test_the_classic_pickle_holds_what_stock_computes(
    synthetic_root: Path, classic: tuple[Path, dict[str, Any]]
) -> None:
    stock = pytest.importorskip("paddle3d.datasets.nuscenes.nuscenes_multiview_det")
    nusc = NuScenes(VERSION, str(synthetic_root), verbose=False)
    wanted, _ = stock._fill_trainval_infos(nusc, {scene["token"] for scene in nusc.scene}, set(), False)
    by_token = {info["token"]: info for info in wanted}
    infos = classic[1]["infos"]
    assert classic[1]["metadata"] == {"version": VERSION}
    assert [info["timestamp"] for info in infos] == sorted(info["timestamp"] for info in infos)
    for info in infos:
        expected = by_token[info["token"]]
        assert_same({**info, "sweeps": 0}, {**expected, "sweeps": 0}, info["token"])


def test_sweeps_of_the_classic_pickle_equal_the_record_by_record_computation(
    synthetic_root: Path, classic: tuple[Path, dict[str, Any]]
) -> None:
    nusc = NuScenes(VERSION, str(synthetic_root), verbose=False)
    assert max(len(info["sweeps"]) for info in classic[1]["infos"]) > 0
    for info in classic[1]["infos"]:
        expected = reference_keyframe(nusc, info["token"])["sweeps"]
        assert len(info["sweeps"]) == len(expected)
        for entry, views in zip(info["sweeps"], expected, strict=True):
            for name, view in views.items():
                assert_same(entry[name], stock_sweep(nusc, synthetic_root, view), f"{info['token']}.{name}")


def stock_sweep(nusc: NuScenes, root: Path, view: dict[str, Any]) -> dict[str, Any]:
    data = nusc.get("sample_data", view["token"])
    camera_from_lidar = np.linalg.inv(view["lidar_from_camera"])
    intrinsics = np.eye(4)
    intrinsics[:3, :3] = view["intrinsic"]
    return {
        "is_key_frame": data["is_key_frame"],
        "data_path": str(root / view["path"]),
        "type": "camera",
        "timestamp": view["timestamp"],
        "sample_data_token": data["sample_token"],
        "sensor2lidar_rotation": view["lidar_from_camera"][:3, :3],
        "sensor2lidar_translation": view["lidar_from_camera"][:3, 3],
        "intrinsics": intrinsics.astype(np.float32),
        "extrinsics": camera_from_lidar.T.astype(np.float32),
        "lidar2img": (intrinsics @ camera_from_lidar).astype(np.float32),
    }


def test_stock_dataset_reads_the_classic_pickle_into_equal_samples(
    synthetic_root: Path, synthetic_stores: dict[str, Path], classic: tuple[Path, dict[str, Any]]
) -> None:
    stock = pytest.importorskip("paddle3d.datasets.nuscenes.nuscenes_multiview_det")
    names = [
        "car",
        "truck",
        "construction_vehicle",
        "bus",
        "trailer",
        "barrier",
        "motorcycle",
        "bicycle",
        "pedestrian",
        "traffic_cone",
    ]
    dataset = stock.NuscenesMVDataset(
        str(synthetic_root), ann_file=str(classic[0]), mode="train", class_names=names, use_valid_flag=True
    )
    store = AnnotationStore.open(synthetic_stores["train"])
    assert len(dataset) == len(store)
    for index in range(len(store)):
        keyframe, sample = store[index], dataset.get_data_info(index)
        assert sample.sample_idx == keyframe.token
        assert sample.img_filename == [str(synthetic_root / path) for path in keyframe.image_paths]
        assert all(Path(path).exists() for path in sample.img_filename)
        np.testing.assert_allclose(sample.img_timestamp, keyframe.image_timestamps / 1e6)
        camera_from_lidar = np.linalg.inv(keyframe.lidar_from_camera)
        np.testing.assert_allclose(sample.extrinsics, camera_from_lidar.transpose(0, 2, 1), atol=1e-6)
        projections = np.array([matrix[:3] for matrix in sample.lidar2img])
        np.testing.assert_allclose(projections, keyframe.intrinsics @ camera_from_lidar[:, :3], atol=1e-6)
        boxes = np.asarray(sample.ann_info["gt_bboxes_3d"])
        np.testing.assert_allclose(boxes[:, :2], keyframe.boxes[keyframe.valid, :2], atol=1e-6)
        np.testing.assert_allclose(boxes[:, 6], -keyframe.boxes[keyframe.valid, 6] - np.pi / 2, atol=1e-6)
        labels = [names.index(name) if name in names else -1 for name in np.array(keyframe.names)[keyframe.valid]]
        assert sample.ann_info["gt_labels_3d"].tolist() == labels
        for entry in sample.sweeps:
            assert all(Path(view["data_path"]).exists() for view in entry.values())


def test_the_classic_pickle_is_written_without_holding_its_infos(
    synthetic_root: Path, synthetic_stores: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import gc
    import weakref

    from petrflow.annotations import classic as module

    class Info(dict[str, Any]):
        def __reduce__(self) -> tuple[Any, ...]:
            return dict, (list(self.items()),)

    alive: list[weakref.ref[Info]] = []
    most = 0
    original = module.classic_info

    def watched(*arguments: Any) -> Info:
        nonlocal most
        info = Info(original(*arguments))
        alive.append(weakref.ref(info))
        gc.collect()
        most = max(most, sum(reference() is not None for reference in alive))
        return info

    monkeypatch.setattr(module, "classic_info", watched)
    write_classic(synthetic_root, synthetic_stores["train"], tmp_path / "x.pkl", progress=False)
    assert len(alive) == len(AnnotationStore.open(synthetic_stores["train"])) and most <= 2


# ------------------------------------------------------------------------------------------------------------------ images


@pytest.fixture
def pictured(tmp_path: Path) -> tuple[Path, AnnotationStore]:
    """Tables of two cameras with small pictures of the right size behind every frame."""
    root = tmp_path / "root"
    write_tables(root, 1, keyframes=2, boxes_per_keyframe=2, version=VERSION, cameras=("CAM_FRONT", "CAM_BACK"))
    path = root / VERSION / "sample_data.json"
    path.write_text(path.read_text().replace('"height": 900', '"height": 36').replace('"width": 1600', '"width": 64'))
    build(root, "train", tmp_path / "train.arrow", progress=False)
    store = AnnotationStore.open(tmp_path / "train.arrow")
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (36, 64, 3), dtype=np.uint8))
    for index in range(len(store)):
        keyframe = store[index]
        for views in (keyframe, *(keyframe.sweep(k) for k in range(keyframe.num_sweeps))):
            for name in views.image_paths:
                (root / name).parent.mkdir(parents=True, exist_ok=True)
                picture.save(root / name)
    return root, store


def check_images(root: Path, store: AnnotationStore, decode: bool | None) -> int:
    return check_frames(root, [layout.read(store.path)], decode=decode, progress=False)


def test_whole_images_of_the_right_size_pass_both_checks(pictured: tuple[Path, AnnotationStore]) -> None:
    root, store = pictured
    frames = len(store.columns["camera_frame.timestamp"])
    assert check_images(root, store, decode=False) == frames
    assert check_images(root, store, decode=True) == frames


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda path: path.unlink(), "is missing"),
        (lambda path: path.write_bytes(b""), "is empty"),
        (lambda path: path.write_bytes(b"<html>no such file</html>"), "neither a JPEG nor a PNG"),
        (lambda path: path.write_bytes(path.read_bytes()[:-200]), "is cut short"),
        (lambda path: path.write_bytes(path.read_bytes()[:100]), "header that is damaged or cut off"),
        (lambda path: Image.new("RGB", (36, 64)).save(path), "is 36x64, sample_data.json says 64x36"),
    ],
)
def test_a_bad_image_is_named_with_its_token_and_camera(
    pictured: tuple[Path, AnnotationStore], harm: Any, message: str
) -> None:
    root, store = pictured
    name, token = store[1].image_paths[1], store[1].image_tokens[1]
    harm(root / name)
    with pytest.raises(PetrflowError, match=message) as caught:
        check_images(root, store, decode=False)
    assert f"{name} (CAM_BACK, sample_data {token})" in str(caught.value)
    assert "1 of " in str(caught.value)


def test_damage_inside_an_image_shows_when_it_is_decoded_as_small_data_sets_are(
    pictured: tuple[Path, AnnotationStore],
) -> None:
    root, store = pictured
    path = root / store[0].image_paths[0]
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (36, 64, 3), dtype=np.uint8)).save(path, format="PNG")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)
    check_images(root, store, decode=False)
    for decode in (True, None):
        with pytest.raises(PetrflowError, match="is damaged"):
            check_images(root, store, decode=decode)


def test_a_jpeg_with_a_large_preview_ahead_and_data_behind_is_sized_from_its_header(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    Image.new("RGB", (64, 36)).save(path, exif=b"Exif\x00\x00" + bytes(60_000))
    path.write_bytes(path.read_bytes() + bytes(500))
    assert header_size(path) == (64, 36)


def test_the_stage_writes_no_store_when_an_image_is_bad(pictured: tuple[Path, AnnotationStore], tmp_path: Path) -> None:
    root, store = pictured
    outputs = {split: tmp_path / "out" / f"{split}.arrow" for split in ("train", "val")}
    annotate(root, outputs, progress=False)
    record = json.loads((tmp_path / "out" / "provenance.json").read_text())
    assert record["extra"]["images_checked"] == 2 * len(store.columns["camera_frame.timestamp"])
    shutil.rmtree(tmp_path / "out")
    (root / store[0].image_paths[0]).unlink()
    with pytest.raises(PetrflowError, match="is missing"):
        annotate(root, outputs, progress=False)
    assert not list((tmp_path / "out").glob("*.arrow"))


def test_real_images_pass_the_full_check(keyframe_root: Path, tmp_path: Path) -> None:
    splits = {"val": ["scene-0061"]}
    assert (
        build_all(keyframe_root, {"val": tmp_path / "v.arrow"}, splits=splits, check_images=True, progress=False) == 6
    )
