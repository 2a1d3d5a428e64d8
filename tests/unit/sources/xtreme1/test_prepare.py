"""The Xtreme1 door: an export of the synthetic root comes back as the same root, and bad input is named."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from petrflow.annotations import AnnotationStore
from petrflow.errors import PetrflowError
from petrflow.evaluation.table import format_table
from petrflow.geometry import box_corners, boxes_from_xtreme1, boxes_to_xtreme1, invert_rigid, transform_boxes
from petrflow.sources.xtreme1.camera_names import derive_names, forward_axis, lidar_from_cloud
from petrflow.sources.xtreme1.prepare import prepare
from tests.helpers.xtreme1_writer import Export, stores_of, write_export, write_poses

pytestmark = pytest.mark.xdist_group("xtreme1")


@pytest.fixture(scope="session")
def export(synthetic_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A plain export, new names, by scenes. Read only: copy it to plant something."""
    folder = tmp_path_factory.mktemp("xtreme1") / "export"
    write_export(synthetic_root, folder)
    return folder


@pytest.fixture
def small(export: Path, tmp_path: Path) -> Path:
    """One scene of the export, to plant mistakes in."""
    folder = tmp_path / "small"
    shutil.copytree(sorted(path for path in export.iterdir() if path.is_dir())[0], folder)
    return folder


def first(folder: Path, pattern: str) -> Path:
    return sorted(folder.glob(pattern))[0]


def edit(path: Path, change: Callable[[Any], None]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def assert_equal_stores(
    original: dict[str, AnnotationStore], imported: dict[str, AnnotationStore], tolerance: float = 1e-5
) -> None:
    """Everything that both formats carry is the same: cameras, calibration, boxes, names, tracks, counts, time, poses, velocities."""
    for split, ours in original.items():
        theirs = imported[split]
        assert ours.camera_names == theirs.camera_names
        assert len(ours) == len(theirs)
        for index in range(len(ours)):
            a, b = ours[index], theirs[index]
            assert (a.timestamp, a.scene_name, a.names) == (b.timestamp, b.scene_name, b.names)
            for field in ("boxes", "lidar_from_camera", "intrinsics", "global_from_lidar", "velocities"):
                np.testing.assert_allclose(getattr(b, field), getattr(a, field), atol=tolerance, err_msg=field)
            np.testing.assert_array_equal(a.image_sizes, b.image_sizes)
            np.testing.assert_array_equal(a.num_lidar_pts, b.num_lidar_pts)
            tracks = [dict(zip(k.instance_tokens, range(len(k.instance_tokens)), strict=True)) for k in (a, b)]
            assert list(tracks[0].values()) == list(tracks[1].values())


@pytest.mark.parametrize(
    "how",
    [
        Export(),
        Export(row_major=False, pcd_encoding="binary_compressed"),
        Export(old_names=True, pcd_encoding="ascii"),
        Export(old_names=True, row_major=False),
    ],
    ids=["new names, rows", "new names, columns", "old names, rows", "old names, columns"],
)
def test_an_export_of_the_synthetic_root_comes_back_as_the_same_store(
    synthetic_root: Path, tmp_path: Path, how: Export
) -> None:
    splits = write_export(synthetic_root, tmp_path / "export", how)
    write_poses(synthetic_root, tmp_path / "poses.json")
    complete = prepare(
        {
            "kind": "xtreme1",
            "source": str(tmp_path / "export"),
            "splits": splits,
            "poses": str(tmp_path / "poses.json"),
        },
        tmp_path / "root",
    )
    assert complete["has_velocity"] and not complete["has_attributes"]
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    assert_equal_stores(stores_of(synthetic_root, tmp_path / "a"), stores_of(tmp_path / "root", tmp_path / "b"))


def test_points_come_back_from_the_cloud(synthetic_root: Path, export: Path, tmp_path: Path) -> None:
    prepare({"source": str(export)}, tmp_path / "root")
    ours = sorted(path.stat().st_size for path in (synthetic_root / "samples" / "LIDAR_TOP").iterdir())
    assert ours == sorted(path.stat().st_size for path in (tmp_path / "root" / "samples" / "LIDAR_TOP").iterdir())


def test_a_server_zip_finds_its_media_under_media_root_by_name(synthetic_root: Path, tmp_path: Path) -> None:
    for old_names in (False, True):
        media = tmp_path / f"media{old_names}"
        splits = write_export(
            synthetic_root, tmp_path / f"e{old_names}.zip", Export(server_zip=True, old_names=old_names), media
        )
        dataset = {"source": str(tmp_path / f"e{old_names}.zip"), "splits": splits}
        with pytest.raises(PetrflowError, match="media_root"):
            prepare(dataset, tmp_path / "root")
        prepare(dataset | {"media_root": str(media)}, tmp_path / f"root{old_names}")
        (tmp_path / f"s{old_names}").mkdir()
        (tmp_path / f"o{old_names}").mkdir()
        imported = stores_of(tmp_path / f"root{old_names}", tmp_path / f"s{old_names}")
        original = stores_of(synthetic_root, tmp_path / f"o{old_names}")
        np.testing.assert_allclose(imported["train"][0].boxes, original["train"][0].boxes, atol=1e-5)
    assert not [path for path in tmp_path.iterdir() if "unpacked" in path.name]


def test_a_flat_export_is_cut_into_scenes_where_time_jumps(synthetic_root: Path, tmp_path: Path) -> None:
    write_export(synthetic_root, tmp_path / "export", Export(scenes=False))
    complete = prepare({"source": str(tmp_path / "export")}, tmp_path / "root")
    assert complete["counts"]["scenes"] == 3


def test_the_same_export_gives_the_same_bytes(small: Path, tmp_path: Path) -> None:
    dataset = {"source": str(small)}
    first_run, second_run = prepare(dataset, tmp_path / "a"), prepare(dataset, tmp_path / "b")
    assert first_run == second_run
    for path in (tmp_path / "a").rglob("*.json"):
        if path.name in ("provenance.json", ".petrflow-root.json"):  # how long it took, and the data set's own name
            continue
        assert path.read_bytes() == (tmp_path / "b" / path.relative_to(tmp_path / "a")).read_bytes()


def test_the_devkit_loads_the_root(small: Path, tmp_path: Path) -> None:
    from nuscenes import NuScenes

    prepare({"source": str(small)}, tmp_path / "root")
    nusc = NuScenes("v1.0-xtreme1", str(tmp_path / "root"), verbose=False)
    assert nusc.sample and nusc.sample_annotation
    nusc.get_sample_data(nusc.sample[0]["data"]["LIDAR_TOP"])


# ------------------------------------------------------------------------------------------------------------------ axes, cameras


@pytest.mark.parametrize("quarter", [1, 2, 3])
def test_a_cloud_with_another_forward_axis_is_turned_into_nuscenes_axes(
    synthetic_root: Path, tmp_path: Path, quarter: int
) -> None:
    turn = np.eye(4)
    turn[:2, :2] = np.rint(
        [
            [np.cos(quarter * np.pi / 2), -np.sin(quarter * np.pi / 2)],
            [np.sin(quarter * np.pi / 2), np.cos(quarter * np.pi / 2)],
        ]
    )

    def turn_camera(entry: dict[str, Any]) -> None:
        entry["cameraExternal"] = (
            (np.array(entry["cameraExternal"]).reshape(4, 4) @ invert_rigid(turn)).reshape(-1).tolist()
        )

    def turn_object(entry: dict[str, Any]) -> None:
        contour = entry["contour"]
        center, size = ([contour[key][axis] for axis in "xyz"] for key in ("center3D", "size3D"))
        box = transform_boxes(boxes_from_xtreme1([center], [size], [contour["rotation3D"]["z"]]), turn)
        centers, _, yaws = boxes_to_xtreme1(box)
        contour["center3D"] = dict(zip("xyz", centers[0].tolist(), strict=True))
        contour["rotation3D"]["z"] = float(yaws[0])

    splits = write_export(
        synthetic_root, tmp_path / "e", Export(edit_camera=turn_camera, edit_object=turn_object, clouds=False)
    )
    prepare({"source": str(tmp_path / "e"), "splits": splits}, tmp_path / "root")
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    ours, theirs = (
        stores_of(synthetic_root, tmp_path / "a")["val"][0],
        stores_of(tmp_path / "root", tmp_path / "b")["val"][0],
    )
    np.testing.assert_allclose(box_corners(theirs.boxes), box_corners(ours.boxes), atol=1e-5)
    np.testing.assert_allclose(theirs.lidar_from_camera, ours.lidar_from_camera, atol=1e-5)


def _ring(degrees: list[float], offset: float = 90.0) -> dict[str, np.ndarray]:
    turns = np.radians(np.array(degrees) + offset)
    return {str(index): np.array([np.cos(turn), np.sin(turn), 0.0]) for index, turn in enumerate(turns)}


def test_cameras_are_named_by_where_they_look_clockwise_from_the_front() -> None:
    names = derive_names(_ring([0, 55, 110, 180, -110, -55]), "+y")
    assert list(names.values()) == [
        "CAM_FRONT",
        "CAM_FRONT_RIGHT",
        "CAM_BACK_RIGHT",
        "CAM_BACK",
        "CAM_BACK_LEFT",
        "CAM_FRONT_LEFT",
    ]
    assert list(derive_names(_ring([0]), "+y").values()) == ["CAM_FRONT"]
    assert list(derive_names(_ring([0, 90, 180, -90]), "+y").values()) == [
        "CAM_FRONT",
        "CAM_RIGHT",
        "CAM_BACK",
        "CAM_LEFT",
    ]
    twelve = derive_names(_ring([30.0 * k for k in range(12)]), "+y")
    assert len(set(twelve.values())) == 12


def test_the_forward_axis_comes_from_the_ring_of_cameras_or_the_named_front_camera() -> None:
    for offset, axis in ((90, "+y"), (0, "+x"), (180, "-x"), (-90, "-y")):
        assert forward_axis(_ring([0, 55, 110, 180, -110, -55], offset), None, "auto") == axis
        assert forward_axis(_ring([55, 0, 110, 180, -110, -55], offset), None, "auto") == axis
        assert forward_axis(_ring([180, 0], offset), {"1": "CAM_FRONT", "0": "CAM_BACK"}, "auto") == axis
    assert forward_axis(_ring([0]), None, "-x") == "-x"


def test_the_lidar_frame_has_y_ahead_and_nuscenes_height() -> None:
    np.testing.assert_allclose(lidar_from_cloud("+x", 0.0) @ [1, 0, 0, 1], [0, 1, -1.84, 1], atol=1e-12)
    np.testing.assert_allclose(lidar_from_cloud("+y", None), np.eye(4), atol=1e-12)


def test_cameras_from_the_config_are_used_alone_and_in_their_order(small: Path, tmp_path: Path) -> None:
    cameras = {"camera_image_3": "CAM_BACK", "camera_image_0": "CAM_FRONT"}
    complete = prepare({"source": str(small), "cameras": cameras}, tmp_path / "root")
    assert complete["cameras"] == ["CAM_BACK", "CAM_FRONT"]


@pytest.mark.parametrize("count", [1, 4])
def test_any_number_of_cameras_is_taken(small: Path, tmp_path: Path, count: int) -> None:
    for index in range(count, 6):
        shutil.rmtree(small / f"camera_image_{index}")
    assert len(prepare({"source": str(small)}, tmp_path / "root")["cameras"]) == count


def test_shuffled_folders_are_put_right_by_camera_order(synthetic_root: Path, tmp_path: Path) -> None:
    splits = write_export(synthetic_root, tmp_path / "e", Export(folder_of_camera=[2, 0, 1, 3, 4, 5]))
    order = [f"camera_image_{index}" for index in (2, 0, 1, 3, 4, 5)]
    prepare({"source": str(tmp_path / "e"), "splits": splits, "camera_order": order}, tmp_path / "root")
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    ours, theirs = (
        stores_of(synthetic_root, tmp_path / "a")["val"][0],
        stores_of(tmp_path / "root", tmp_path / "b")["val"][0],
    )
    np.testing.assert_allclose(theirs.lidar_from_camera, ours.lidar_from_camera, atol=1e-5)
    for a, b in zip(ours.image_paths, theirs.image_paths, strict=True):
        assert (synthetic_root / a).read_bytes() == (tmp_path / "root" / b).read_bytes()


@pytest.mark.parametrize(
    "settings", [{"external_direction": "camera_to_cloud"}, {"external_rotation": "transposed"}, {"length_unit": "mm"}]
)
def test_settings_undo_what_they_name(synthetic_root: Path, tmp_path: Path, settings: dict[str, str]) -> None:
    def edit_camera(entry: dict[str, Any]) -> None:
        matrix = np.array(entry["cameraExternal"]).reshape(4, 4)
        if "external_direction" in settings:
            matrix = invert_rigid(matrix)
        elif "external_rotation" in settings:
            matrix[:3, :3] = matrix[:3, :3].T.copy()
        else:
            matrix[:3, 3] *= 1000
        entry["cameraExternal"] = matrix.reshape(-1).tolist()

    def edit_object(entry: dict[str, Any]) -> None:
        if "length_unit" in settings:
            for key in ("center3D", "size3D"):
                entry["contour"][key] = {axis: 1000 * value for axis, value in entry["contour"][key].items()}

    how = Export(edit_camera=edit_camera, edit_object=edit_object, clouds=False)
    splits = write_export(synthetic_root, tmp_path / "e", how)
    prepare({"source": str(tmp_path / "e"), "splits": splits, **settings}, tmp_path / "root")
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    ours, theirs = (
        stores_of(synthetic_root, tmp_path / "a")["val"][0],
        stores_of(tmp_path / "root", tmp_path / "b")["val"][0],
    )
    np.testing.assert_allclose(theirs.lidar_from_camera, ours.lidar_from_camera, atol=1e-5)
    np.testing.assert_allclose(theirs.boxes, ours.boxes, atol=1e-5)


def test_images_of_another_size_than_the_calibration_says_are_an_error_or_scale_it(small: Path, tmp_path: Path) -> None:
    for path in small.glob("camera_config/*.json"):
        edit(path, lambda cameras: cameras[0].update(width=640, height=360))
    with pytest.raises(PetrflowError, match="scale_intrinsics"):
        prepare({"source": str(small)}, tmp_path / "root")
    prepare({"source": str(small), "scale_intrinsics": True}, tmp_path / "root")
    calibrations = json.loads((tmp_path / "root" / "v1.0-xtreme1" / "calibrated_sensor.json").read_text())
    focal = json.loads(first(small, "camera_config/*.json").read_text())[0]["cameraInternal"]["fx"]
    assert any(
        row["camera_intrinsic"] and abs(row["camera_intrinsic"][0][0] - focal / 2) < 1e-9 for row in calibrations
    )


# ------------------------------------------------------------------------------------------------------------------ time, motion


def test_without_timestamps_no_velocity_is_invented(
    synthetic_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_export(synthetic_root, tmp_path / "e", Export(names="index"))
    complete = prepare({"source": str(tmp_path / "e")}, tmp_path / "root")
    assert not complete["has_velocity"]
    (tmp_path / "s").mkdir()
    for store in stores_of(tmp_path / "root", tmp_path / "s").values():
        assert all(np.isnan(store[index].velocities).all() for index in range(len(store)))
        assert store[len(store) - 1].num_sweeps > 0  # frames still follow one another
    said = capsys.readouterr().err
    assert "no velocity is derived" in said and "as though the vehicle had stood" in said


def test_timestamps_come_from_a_csv_also_for_single_cameras(synthetic_root: Path, tmp_path: Path) -> None:
    write_export(synthetic_root, tmp_path / "e", Export(names="index"))
    lines = ["scene,name,timestamp,camera_image_1"]
    for scene in sorted(path for path in (tmp_path / "e").iterdir()):
        for number, path in enumerate(sorted(scene.glob("result/*.json"))):
            lines.append(f"{scene.name},{path.stem},{0.5 * number},{0.5 * number + 0.02}")
    (tmp_path / "t.csv").write_text("\n".join(lines))
    dataset = {"source": str(tmp_path / "e"), "timestamps": str(tmp_path / "t.csv")}
    assert not prepare(dataset, tmp_path / "moving")["has_velocity"]  # nobody said where the vehicle was
    assert prepare(dataset | {"ego": "still"}, tmp_path / "root")["has_velocity"]
    (tmp_path / "s").mkdir()
    keyframe = stores_of(tmp_path / "root", tmp_path / "s")["val"][0]
    assert sorted(set((keyframe.image_timestamps - keyframe.timestamp).tolist())) == [0, 20000]


def test_poses_are_read_from_a_csv(small: Path, tmp_path: Path) -> None:
    names = sorted(path.stem for path in small.glob("result/*.json"))
    rows = ["name,tx,ty,tz,qw,qx,qy,qz", *(f"{name},{10 * k},0,0,1,0,0,0" for k, name in enumerate(names))]
    (tmp_path / "p.csv").write_text("\n".join(rows))
    prepare(
        {"source": str(small), "poses": str(tmp_path / "p.csv"), "splits": {"train": str(_list(tmp_path, names[:-1]))}},
        tmp_path / "root",
    )
    (tmp_path / "s").mkdir()
    store = stores_of(tmp_path / "root", tmp_path / "s")["train"]
    np.testing.assert_allclose(
        store[1].global_from_lidar[:3, 3] - store[0].global_from_lidar[:3, 3], [10, 0, 0], atol=1e-9
    )
    (tmp_path / "p.csv").write_text("\n".join(rows[:-1]))
    with pytest.raises(PetrflowError, match=names[-1]):
        prepare({"source": str(small), "poses": str(tmp_path / "p.csv")}, tmp_path / "root")


# ------------------------------------------------------------------------------------------------------------------ splits


def _list(folder: Path, names: list[str]) -> Path:
    path = folder / f"list{len(names)}.txt"
    path.write_text("\n".join(names))
    return path


def _frames_by_split(root: Path, folder: Path) -> dict[str, set[int]]:
    folder.mkdir()
    return {split: {store[i].timestamp for i in range(len(store))} for split, store in stores_of(root, folder).items()}


def test_a_ratio_draws_scenes_by_seed_and_never_shares_a_frame(export: Path, tmp_path: Path) -> None:
    drawn = set()
    for seed in range(4):
        complete = prepare({"source": str(export), "splits": {"ratio": 0.34, "seed": seed}}, tmp_path / f"r{seed}")
        assert complete["splits"]["val"] and complete["splits"]["train"]
        assert not set(complete["splits"]["val"]) & set(complete["splits"]["train"])
        drawn.add(tuple(complete["splits"]["val"]))
    assert len(drawn) > 1


def test_a_file_list_cuts_a_scene_so_that_no_previous_frame_crosses_the_cut(small: Path, tmp_path: Path) -> None:
    names = sorted(path.stem for path in small.glob("result/*.json"))
    dataset = {"source": str(small), "splits": {"val": str(_list(tmp_path, [names[1], f"{names[2]}.jpg"]))}}
    complete = prepare(dataset, tmp_path / "root")
    assert len(complete["splits"]["train"]) == 2 and len(complete["splits"]["val"]) == 1
    frames = _frames_by_split(tmp_path / "root", tmp_path / "s")
    assert frames["val"] == {int(names[1]), int(names[2])} and not frames["train"] & frames["val"]
    rows = {
        row["token"]: row for row in json.loads((tmp_path / "root" / "v1.0-xtreme1" / "sample_data.json").read_text())
    }
    samples = {
        row["token"]: row["scene_token"]
        for row in json.loads((tmp_path / "root" / "v1.0-xtreme1" / "sample.json").read_text())
    }
    for row in rows.values():
        if row["prev"]:
            assert samples[row["sample_token"]] == samples[rows[row["prev"]]["sample_token"]]


def test_a_frame_in_both_lists_is_an_error(small: Path, tmp_path: Path) -> None:
    names = sorted(path.stem for path in small.glob("result/*.json"))
    splits = {"train": str(_list(tmp_path, names[:3])), "val": str(_list(tmp_path, names[2:]))}
    with pytest.raises(PetrflowError, match=rf"{names[2]}.* train and val"):
        prepare({"source": str(small), "splits": splits}, tmp_path / "root")


def test_frames_that_are_no_sequence_become_scenes_of_their_own(synthetic_root: Path, tmp_path: Path) -> None:
    def forget_track(entry: dict[str, Any]) -> None:
        entry["trackId"] = entry["trackName"] = ""

    write_export(synthetic_root, tmp_path / "e", Export(names="index", scenes=False, edit_object=forget_track))
    complete = prepare({"source": str(tmp_path / "e")}, tmp_path / "root")
    assert complete["counts"]["scenes"] == complete["counts"]["keyframes"] == 12


# ------------------------------------------------------------------------------------------------------------------ labels


def test_unmapped_class_names_are_counted_and_mapped_ones_follow_the_config(small: Path, tmp_path: Path) -> None:
    def rename(results: list[dict[str, Any]]) -> None:
        for entry in results[0]["objects"]:
            entry["className"] = {"Car": "Quad Bike", "Pedestrian": "pedESTRIAN", "barrier": "Wall"}.get(
                entry["className"], entry["className"]
            )

    for path in small.glob("result/*.json"):
        edit(path, rename)
    prepare({"source": str(small), "class_map": {"wall": None}}, tmp_path / "root")
    said = json.loads((tmp_path / "root" / "import.json").read_text())
    assert set(said["unmapped"]) == {"Quad Bike"} and said["unmapped"]["Quad Bike"] > 0
    (tmp_path / "s").mkdir()
    names = set(stores_of(tmp_path / "root", tmp_path / "s")["train"][0].names)
    assert "pedestrian" in names and "Quad Bike" in names and not names & {"Wall", "barrier", "car"}
    prepare({"source": str(small), "class_map": {"Quad Bike": "spaceship"}}, tmp_path / "own")
    assert not json.loads((tmp_path / "own" / "import.json").read_text())["unmapped"].keys() & {"Quad Bike"}
    (tmp_path / "o").mkdir()
    assert "spaceship" in stores_of(tmp_path / "own", tmp_path / "o")["train"][0].names


def test_no_known_class_at_all_is_an_error_that_names_the_map(small: Path, tmp_path: Path) -> None:
    for path in small.glob("result/*.json"):
        edit(path, lambda results: [entry.update(className="Fahrzeug") for entry in results[0]["objects"]])
    with pytest.raises(PetrflowError, match=r"class_map.*Fahrzeug"):
        prepare({"source": str(small)}, tmp_path / "root")
    prepare({"source": str(small)}, tmp_path / "root", class_names=["fahrzeug"])  # a class of the run's model


def test_labels_are_people_s_own_and_a_choice_is_asked_for_where_it_is_not_clear(small: Path, tmp_path: Path) -> None:
    path = first(small, "result/*.json")
    edit(path, lambda results: results.append(dict(results[0], sourceName="Model run 1")))
    count = prepare({"source": str(small)}, tmp_path / "root")["counts"]["annotations"]
    for each in small.glob("result/*.json"):
        edit(each, lambda results: results[0].update(sourceName="Model run 2"))
    with pytest.raises(PetrflowError, match="result_source"):
        prepare({"source": str(small)}, tmp_path / "root")
    assert (
        prepare({"source": str(small), "result_source": "Model run 2"}, tmp_path / "root")["counts"]["annotations"]
        == count
    )


def test_points_are_counted_where_the_labels_do_not_say(small: Path, tmp_path: Path) -> None:
    prepare({"source": str(small)}, tmp_path / "root")
    table = tmp_path / "root" / "v1.0-xtreme1" / "sample_annotation.json"
    said = [row["num_lidar_pts"] for row in json.loads(table.read_text())]
    for path in small.glob("result/*.json"):
        edit(path, lambda results: [entry["contour"].update(pointN=0) for entry in results[0]["objects"]])
    prepare({"source": str(small)}, tmp_path / "root")
    counted = [row["num_lidar_pts"] for row in json.loads(table.read_text())]
    # A box seen from a tilted lidar keeps its yaw alone in Xtreme1: points near its edges change sides.
    np.testing.assert_allclose(counted, said, atol=3, rtol=0.1)
    assert np.mean(np.array(counted) == said) > 0.8
    assert sum(counted) > 1000
    shutil.rmtree(small / "lidar_point_cloud_0")
    prepare({"source": str(small)}, tmp_path / "root")
    assert {row["num_lidar_pts"] for row in json.loads(table.read_text())} == {1}


def test_frames_without_a_result_are_left_out_and_said(
    small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first(small, "result/*.json").unlink()
    assert prepare({"source": str(small)}, tmp_path / "root")["counts"]["keyframes"] == 3
    assert "1 of 4 frames have no labels: unlabelled, not empty" in capsys.readouterr().err


def test_a_frame_that_only_a_model_labelled_is_left_out_not_taken_as_empty(small: Path, tmp_path: Path) -> None:
    edit(first(small, "result/*.json"), lambda results: results[0].update(sourceName="Model run 1"))
    assert prepare({"source": str(small)}, tmp_path / "root")["counts"]["keyframes"] == 3


# ------------------------------------------------------------------------------------------------------------------ bad input


def _missing_image(folder: Path) -> None:
    first(folder, "camera_image_2/*").unlink()


def _short_matrix(folder: Path) -> None:
    edit(first(folder, "camera_config/*"), lambda cameras: cameras[1]["cameraExternal"].pop())


def _not_finite(folder: Path) -> None:
    edit(
        first(folder, "result/*"),
        lambda results: results[0]["objects"][3]["contour"]["center3D"].update(y=float("nan")),
    )


def _not_finite_camera(folder: Path) -> None:
    edit(first(folder, "camera_config/*"), lambda cameras: cameras[1]["cameraInternal"].update(fx="inf"))


def _result_without_data(folder: Path) -> None:
    shutil.copyfile(first(folder, "result/*"), folder / "result" / "ghost.json")


def _empty_results(folder: Path) -> None:
    for path in folder.glob("result/*"):
        edit(path, lambda results: results[0].update(objects=[]))


def _no_boxes(folder: Path) -> None:
    for path in folder.glob("result/*"):
        edit(path, lambda results: [entry.update(type="2D_RECT") for entry in results[0]["objects"]])


def _broken_json(folder: Path) -> None:
    first(folder, "result/*").write_text("[{")


def _no_camera_config(folder: Path) -> None:
    first(folder, "camera_config/*").unlink()


def _few_cameras(folder: Path) -> None:
    edit(first(folder, "camera_config/*"), lambda cameras: cameras.pop())


def _mirror(folder: Path) -> None:
    def flip(cameras: list[dict[str, Any]]) -> None:
        cameras[0]["cameraExternal"][:4] = [-value for value in cameras[0]["cameraExternal"][:4]]

    edit(first(folder, "camera_config/*"), flip)


def _broken_image(folder: Path) -> None:
    first(folder, "camera_image_0/*").write_bytes(b"no image")


@pytest.mark.parametrize(
    ("plant", "message"),
    [
        (_missing_image, r"no image in camera_image_2/"),
        (_short_matrix, r"camera 1: cameraExternal has 15 numbers instead of 16"),
        (_not_finite, r"object 3, center3D.y: nan is not a finite number"),
        (_not_finite_camera, r"camera 1, cameraInternal.fx: 'inf' is not a finite number"),
        (_result_without_data, r"ghost.json is a result without data"),
        (_empty_results, r"The results are empty"),
        (_no_boxes, r"no 3D_BOX"),
        (_broken_json, r"\.json is not readable JSON"),
        (_no_camera_config, r"has no camera_config/"),
        (_few_cameras, r"has 5 cameras and the export has 6 image folders"),
        (_mirror, r"mirrors"),
        (_broken_image, r"no readable image"),
    ],
    ids=lambda value: value.__name__.strip("_") if callable(value) else "",
)
def test_bad_input_is_one_clear_error_and_no_root(
    small: Path, tmp_path: Path, plant: Callable[[Path], None], message: str
) -> None:
    plant(small)
    with pytest.raises(PetrflowError, match=message):
        prepare({"source": str(small)}, tmp_path / "root")
    assert not (tmp_path / "root").exists()


def test_a_zip_that_leaves_its_folder_is_refused(small: Path, tmp_path: Path) -> None:
    for name in ("../outside.json", "/outside.json"):
        with zipfile.ZipFile(tmp_path / "bad.zip", "w") as archive:
            archive.writestr(name, "{}")
        with pytest.raises(PetrflowError, match=r"outside\.json"):
            prepare({"source": str(tmp_path / "bad.zip")}, tmp_path / "root")
    assert not (tmp_path / "root").exists() and not (tmp_path.parent / "outside.json").exists()


def test_a_zip_is_read_like_a_folder_and_leaves_nothing_behind(small: Path, tmp_path: Path) -> None:
    shutil.make_archive(str(tmp_path / "good"), "zip", small)
    (tmp_path / "data").mkdir()
    prepare({"source": str(tmp_path / "good.zip")}, tmp_path / "data" / "root")
    kept = [path for path in (tmp_path / "data").rglob("*") if tmp_path / "data" / "root" not in (path, *path.parents)]
    assert sorted(path.name for path in kept if path.is_file()) == [".root.lock", "mark.json", "sources.json"]


def test_a_folder_without_frames_and_a_source_that_is_not_there_are_named(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(PetrflowError, match="holds no Xtreme1 frame"):
        prepare({"source": str(tmp_path / "empty")}, tmp_path / "root")
    with pytest.raises(PetrflowError, match="does not exist"):
        prepare({"source": str(tmp_path / "nowhere")}, tmp_path / "root")
    with pytest.raises(PetrflowError, match=r"sauce: unknown key; did you mean 'source'"):
        prepare({"source": str(tmp_path), "sauce": 1}, tmp_path / "root")


# ------------------------------------------------------------------------------------------------------------------ evaluation


@pytest.mark.parametrize(("names", "missing"), [("index", ["mAVE", "mAAE"]), ("timestamp", ["mAAE"])])
def test_an_evaluation_on_an_import_names_what_neither_labels_nor_time_hold(
    synthetic_root: Path, tmp_path: Path, names: str, missing: list[str]
) -> None:
    from petrflow.evaluation.score import score
    from petrflow.evaluation.submission import to_submission
    from tests.helpers.found import ground_truth_detections

    classes = [
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
    write_export(synthetic_root, tmp_path / "e", Export(names=names))
    prepare({"source": str(tmp_path / "e"), "ego": "still"}, tmp_path / "root")
    (tmp_path / "s").mkdir()
    store = stores_of(tmp_path / "root", tmp_path / "s")["val"]
    perfect = to_submission(store, ground_truth_detections(store, classes), classes)
    metrics = score(perfect, tmp_path / "root", "v1.0-xtreme1", "petrflow_val")
    assert metrics["not_available"] == missing
    assert metrics["NDS"] < metrics["NDS_available_terms"]
    assert all(metrics["per_class"][name]["AP"] == pytest.approx(1.0, abs=1e-6) for name in metrics["ground_truth"])
    assert "not available" in format_table(metrics)
