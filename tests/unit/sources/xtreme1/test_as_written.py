"""Exports as servers, tools and people write them: each is read as Xtreme1 shows it, or refused with the reason."""

from __future__ import annotations

import http.server
import json
import shutil
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from petrflow.errors import PetrflowError
from petrflow.sources.xtreme1.classes import category_of, class_map_to_paste
from petrflow.sources.xtreme1.finding import find_frames
from petrflow.sources.xtreme1.frames import camera_of_folder
from petrflow.sources.xtreme1.lens import Lens, read_lens, undistort
from petrflow.sources.xtreme1.parse import Objects
from petrflow.sources.xtreme1.prepare import prepare
from petrflow.sources.xtreme1.tracks import doubt_tracks
from tests.helpers.xtreme1_tiny import SIZE, START, box, camera, edit_all, table, write_tiny


def channels(root: Path) -> dict[str, str]:
    """Which image folder each channel was made from."""
    said = json.loads((root / "import.json").read_text())["cameras"]
    return {channel: entry["folder"] for channel, entry in said.items()}


# ------------------------------------------------------------------------------------------------------------------ folders


@pytest.mark.parametrize(
    "folders",
    [
        ("camera_image_1", "camera_image_2"), ("camera_image_0", "camera_image_5"), ("image0", "image1"), ("Camera_Image_0 ", "CAMERA_IMAGE_1"),
        ("camera_image_a", "camera_image_b"), ("image_3", "image_10"),
    ],
)  # fmt: skip
def test_folders_and_entries_are_paired_by_rank_when_there_are_as_many(
    folders: tuple[str, str], tmp_path: Path
) -> None:
    prepare({"source": str(write_tiny(tmp_path / "e", folders=folders))}, tmp_path / "root")
    found = channels(tmp_path / "root")
    assert found["CAM_FRONT"] == f"camera_image_{camera_of_folder(folders[0])}"
    assert found["CAM_BACK"] == f"camera_image_{camera_of_folder(folders[1])}"


@pytest.mark.parametrize(
    "folders", [("camera_image_front", "camera_image_back"), ("camera_image_rear", "camera_image_front")]
)
def test_folders_named_by_where_they_look_get_the_entries_that_look_there(
    folders: tuple[str, str], tmp_path: Path
) -> None:
    prepare({"source": str(write_tiny(tmp_path / "e", folders=folders))}, tmp_path / "root")
    back = next(name for name in folders if "front" not in name)
    assert channels(tmp_path / "root") == {"CAM_FRONT": "camera_image_front", "CAM_BACK": back}


def test_otherwise_folder_n_has_entry_n_or_a_setting_is_asked_for(tmp_path: Path) -> None:
    source = write_tiny(tmp_path / "e", folders=("camera_image_0", "camera_image_3"))
    edit_all(source, "camera_config/*.json", lambda cameras: [cameras[0], camera(0), camera(0), cameras[1]])
    prepare({"source": str(source)}, tmp_path / "root")
    assert channels(tmp_path / "root") == {"CAM_FRONT": "camera_image_0", "CAM_BACK": "camera_image_3"}
    edit_all(source, "camera_config/*.json", lambda cameras: cameras[:3])
    with pytest.raises(PetrflowError, match=r"has 3 cameras and the export has 2 image folders.*`camera_order`"):
        prepare({"source": str(source)}, tmp_path / "root")


def test_an_unused_camera_needs_no_calibration_and_a_used_one_is_named(tmp_path: Path) -> None:
    source = write_tiny(tmp_path / "e")
    edit_all(source, "camera_config/*.json", lambda cameras: cameras[1].update(cameraExternal=[], cameraInternal={}))
    prepare({"source": str(source), "cameras": {"camera_image_0": "CAM_FRONT"}}, tmp_path / "root")
    with pytest.raises(PetrflowError, match=r"camera 1: .*leave it out with `cameras`"):
        prepare({"source": str(source)}, tmp_path / "root")


def test_endings_and_folders_of_any_case_are_read(tmp_path: Path) -> None:
    source = write_tiny(tmp_path / "e")
    for path in [*source.rglob("*.*")]:
        path.rename(path.with_suffix(path.suffix.upper()))
    for folder in [*source.glob("*/*")]:
        folder.rename(folder.with_name(folder.name.title()))
    assert prepare({"source": str(source)}, tmp_path / "root")["counts"]["keyframes"] == 6


def test_one_calibration_for_a_scene_is_taken_for_all_its_frames(tmp_path: Path) -> None:
    source = write_tiny(tmp_path / "e")
    for folder in source.glob("*/camera_config"):
        first, *others = sorted(folder.iterdir())
        first.rename(folder / "camera_config.json")
        for path in others:
            path.unlink()
    assert prepare({"source": str(source)}, tmp_path / "root")["counts"]["keyframes"] == 6


def test_files_of_a_kind_that_is_not_read_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write_tiny(tmp_path / "e", scenes=["one"])
    for name in ("a", "b"):
        (source / "one" / "lidar_point_cloud_0").mkdir(exist_ok=True)
        (source / "one" / "lidar_point_cloud_0" / f"{name}.bin").write_bytes(b"points")
    prepare({"source": str(source)}, tmp_path / "root")
    assert "2 files ending in .bin" in capsys.readouterr().err


def test_poses_of_named_parts_are_those_of_lists(tmp_path: Path) -> None:
    source = write_tiny(tmp_path / "e", scenes=["one"])
    named, listed = {}, {}
    for index in range(3):
        frame = str(START + index * 500_000)
        listed[frame] = {"translation": [index, 2, 3], "rotation": [0.6, 0, 0, 0.8]}
        named[frame] = {"translation": {"x": index, "y": 2, "z": 3}, "rotation": {"x": 0, "y": 0, "z": 0.8, "w": 0.6}}
    for name, poses in (("named", named), ("listed", listed)):
        (tmp_path / f"{name}.json").write_text(json.dumps(poses))
        prepare({"source": str(source), "poses": str(tmp_path / f"{name}.json")}, tmp_path / name)
    assert table(tmp_path / "named", "ego_pose") == table(tmp_path / "listed", "ego_pose")
    assert len({row["translation"][0] for row in table(tmp_path / "named", "ego_pose")}) == 3


def test_names_of_any_length_and_names_that_differ_in_case_or_punctuation_are_kept_apart(tmp_path: Path) -> None:
    names = iter(["停" * 70 + "1", "停" * 70 + "2", "x" * 240, "a#1", "a 1", "A+1"])
    source = write_tiny(tmp_path / "e", scenes=["s" * 200, "道" * 60], name=lambda _time: next(names))
    complete = prepare({"source": str(source)}, tmp_path / "root")
    assert complete["counts"]["keyframes"] == 6
    files = [row["filename"] for row in table(tmp_path / "root", "sample_data")]
    assert len({name.casefold() for name in files}) == len(files)
    assert max(len(Path(name).name.encode()) for name in files) < 255
    assert all((tmp_path / "root" / name).exists() for name in files)


# ------------------------------------------------------------------------------------------------------------------ encodings


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "gbk"])
def test_json_in_any_encoding_of_a_chinese_desk_is_read(encoding: str, tmp_path: Path) -> None:
    source = write_tiny(tmp_path / "e", objects=lambda _index: [box(name="小汽车"), box("b", "叉车")])
    for path in source.rglob("*.json"):
        path.write_bytes(path.read_text().encode(encoding))
    prepare({"source": str(source)}, tmp_path / "root")
    assert json.loads((tmp_path / "root" / "import.json").read_text())["classes"] == {"小汽车": 6, "叉车": 6}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "gbk"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_tables_as_excel_saves_them_are_read(encoding: str, delimiter: str, tmp_path: Path) -> None:
    source = write_tiny(tmp_path / "e", scenes=["one"], name=lambda time: f"{(time - START) // 500_000:06d}")
    rows = [["Name", "timestamp", "备注", "camera_image_1"]]
    decimal = "," if delimiter == ";" else "."
    rows += [[str(index), f"1532402927{decimal}{index}", "好", f"1532402927{decimal}{index}5"] for index in range(3)]
    text = "\r\n".join(delimiter.join(row) for row in rows) + "\r\n" + delimiter * 3 + "\r\n"
    (tmp_path / "t.csv").write_bytes(text.encode(encoding))
    prepare({"source": str(source), "timestamps": str(tmp_path / "t.csv"), "scene_gap": 10}, tmp_path / "root")
    times = sorted(row["timestamp"] for row in table(tmp_path / "root", "sample"))
    assert times == [1_532_402_927_000_000, 1_532_402_927_100_000, 1_532_402_927_200_000]
    assert {row["timestamp"] % 100_000 for row in table(tmp_path / "root", "sample_data")} == {0, 50_000}


def test_a_table_that_is_no_text_is_a_sentence(tmp_path: Path) -> None:
    source = write_tiny(tmp_path / "e")
    (tmp_path / "t.csv").write_bytes(b"PK\x03\x04\xff\xff\xff\xff\x81\x00")
    with pytest.raises(PetrflowError, match=r"`timestamps` .*t\.csv"):
        prepare({"source": str(source), "timestamps": str(tmp_path / "t.csv")}, tmp_path / "root")


# ------------------------------------------------------------------------------------------------------------------ calibration

_ROWS = [camera(which)["cameraExternal"] for which in (0, 1)]


def _nested(numbers: list[float]) -> Any:
    return np.array(numbers).reshape(4, 4).tolist()


SHAPES: dict[str, Callable[[list[float]], Any]] = {
    "nested 4x4": _nested,
    "nested 3x4": lambda numbers: _nested(numbers)[:3],
    "flat 3x4": lambda numbers: numbers[:12],
    "rotation and translation": lambda numbers: {
        "rotation": [row[:3] for row in _nested(numbers)[:3]], "translation": [row[3] for row in _nested(numbers)[:3]]
    },
}  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("listed", ["a list", "an object of numbers", "under cameras"])
def test_externals_of_any_shape_give_the_same_calibration(shape: str, listed: str, tmp_path: Path) -> None:
    source = write_tiny(tmp_path / "e")
    prepare({"source": str(source)}, tmp_path / "plain")

    def change(cameras: list[dict[str, Any]]) -> Any:
        for entry in cameras:
            entry["cameraExternal"] = SHAPES[shape](entry["cameraExternal"])
        if listed == "a list":
            return cameras
        return (
            {"cameras": cameras}
            if listed == "under cameras"
            else {str(index): entry for index, entry in enumerate(cameras)}
        )

    edit_all(source, "camera_config/*.json", change)
    prepare({"source": str(source)}, tmp_path / "root")
    assert table(tmp_path / "root", "calibrated_sensor") == table(tmp_path / "plain", "calibrated_sensor")


def test_a_quaternion_with_named_parts_is_read_and_a_list_of_four_is_refused(tmp_path: Path) -> None:
    source = write_tiny(tmp_path / "e")
    edit_all(
        source,
        "camera_config/*.json",
        lambda cameras: [
            entry.update(cameraExternal={"rotation": {"w": 0.5**0.5, "x": 0.5**0.5, "y": 0, "z": 0}, "translation": {"x": 0, "y": 0, "z": 1}})
            for entry in cameras
        ] and None,
    )  # fmt: skip
    prepare({"source": str(source)}, tmp_path / "root")
    edit_all(source, "camera_config/*.json", lambda cameras: cameras[0]["cameraExternal"].update(rotation=[1, 0, 0, 0]))
    with pytest.raises(PetrflowError, match="the order of a list of four cannot be known"):
        prepare({"source": str(source)}, tmp_path / "root")


_K = np.array([[100.0, 0, 160], [0, 100, 90], [0, 0, 1]])


@pytest.mark.parametrize(
    "lens", [Lens("pinhole", (-0.3, 0.1, 0.01, -0.01, 0.0, 0, 0, 0)), Lens("fisheye", (0.05, -0.01, 0.0, 0.0)), Lens("fisheye", (0.0,) * 4)]
)  # fmt: skip
def test_an_undistorted_image_shows_a_point_where_the_intrinsics_say(lens: Lens) -> None:
    for point in ([0.6, 0.4, 1.0], [-0.8, 0.2, 1.0], [0.1, -0.5, 1.0]):
        points, turn = np.array([[point]]), np.zeros(3)
        if lens.model == "fisheye":
            bent, _ = cv2.fisheye.projectPoints(points, turn, turn, _K, np.array(lens.coefficients))
        else:
            bent, _ = cv2.projectPoints(points, turn, turn, _K, np.array(lens.coefficients))
        picture = np.zeros((180, 320, 3), dtype=np.uint8)
        cv2.circle(picture, tuple(round(value) for value in bent.reshape(2)), 3, (255, 255, 255), -1)
        flat = undistort(picture, _K, lens)[:, :, 0].astype(float)
        rows, columns = np.mgrid[:180, :320]
        seen = np.array([(flat * columns).sum(), (flat * rows).sum()]) / flat.sum()
        np.testing.assert_allclose(seen, (_K @ point)[:2], atol=1.5)


def test_distortion_is_found_wherever_it_stands_and_never_ignored() -> None:
    pinhole = Lens("pinhole", (-0.3, 0.1, 0.01, 0.02, 0.5, 0, 0, 0))
    for entry, internal in (
        ({"distortion": [-0.3, 0.1, 0.01, 0.02, 0.5]}, {}),
        ({}, {"k1": -0.3, "k2": 0.1, "p1": 0.01, "p2": 0.02, "k3": 0.5}),
        ({"dist_coeffs": {"k1": -0.3, "k2": 0.1, "p1": 0.01, "p2": 0.02, "k3": 0.5}, "cameraModel": "pinhole"}, {}),
        ({"distortionK": [-0.3, 0.1, 0.5], "distortionP": [0.01, 0.02], "cameraType": "PINHOLE"}, {}),
        ({"distortion": [[-0.3, 0.1, 0.01, 0.02, 0.5]]}, {"k1": 0, "k2": 0}),
    ):
        assert read_lens("here", entry, internal) == pinhole
    assert read_lens("here", {"distortion": [0, 0, 0, 0, 0]}, {"k1": 0}) is None
    assert read_lens("here", {}, {}) is None
    assert read_lens("here", {"cameraModel": "AR0233"}, {}) is None
    fisheye = {"cameraType": "FISHEYE", "distortionK": [0.1, 0.2, 0.01, 0]}
    assert read_lens("here", fisheye, {}) == Lens("fisheye", (0.1, 0.2, 0.01, 0.0))
    assert read_lens("here", {"cameraModel": "equidistant"}, {}) == Lens("fisheye", (0.0,) * 4)


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        ({"cameraModel": "omnidirectional", "distortion": [0.1]}, "OpenCV's pinhole and fisheye models only"),
        ({"distortion": [0.1, 0.2], "dist_coeffs": [0.3, 0.4]}, "give different distortions"),
        ({"distortion": ["a"]}, "not a finite number"),
        ({"distortion": [0.1] * 12}, "has 12 coefficients"),
    ],
)
def test_distortion_that_cannot_be_undone_is_refused_with_the_reason(entry: dict[str, Any], says: str) -> None:
    with pytest.raises(PetrflowError, match=says):
        read_lens("here", entry, {})


def test_distorted_images_are_undistorted_at_import_and_the_source_stays(tmp_path: Path) -> None:
    source = write_tiny(tmp_path / "e")
    edit_all(source, "camera_config/*.json", lambda cameras: cameras[0].update(distortion=[-0.2, 0.01, 0, 0, 0]))
    prepare({"source": str(source)}, tmp_path / "root")
    inodes = {path.stat().st_ino for path in source.rglob("*.jpg")}
    for channel, linked in (("CAM_FRONT", False), ("CAM_BACK", True)):
        for path in (tmp_path / "root" / "samples" / channel).iterdir():
            assert (path.stat().st_ino in inodes) == linked
    assert "undistorted by OpenCV's pinhole model" in (tmp_path / "root" / "import.json").read_text()


@pytest.mark.parametrize("kind", ["bmp", "webp", "tiff", "png", "tif"])
def test_images_of_every_format_that_the_server_takes_come_in(kind: str, tmp_path: Path) -> None:
    source = write_tiny(tmp_path / "e")
    for path in [*source.rglob("*.jpg")]:
        with Image.open(path) as picture:
            picture.save(path.with_suffix(f".{kind}"))
        path.unlink()
    prepare({"source": str(source)}, tmp_path / "root")
    for row in table(tmp_path / "root", "sample_data"):
        if row["fileformat"] != "pcd":
            with Image.open(tmp_path / "root" / row["filename"]) as imported:
                assert (imported.format or "").lower().replace("jpeg", "jpg") == row["fileformat"]
                assert imported.size == SIZE
                assert abs(float(np.asarray(imported.convert("L")).mean()) - 45) < 10


# ------------------------------------------------------------------------------------------------------------------ labels


def test_chinese_names_full_width_letters_case_and_blanks_map_by_themselves() -> None:
    for name, category in {
        "小汽车": "vehicle.car", " 小汽车 ": "vehicle.car", "卡车": "vehicle.truck", "行人": "human.pedestrian.adult", "公交车": "vehicle.bus.rigid",
        "锥桶": "movable_object.trafficcone", "自行车": "vehicle.bicycle", "Ｃａｒ": "vehicle.car", "TRAFFIC_CONE": "movable_object.trafficcone",
        "Traffic　Cone": "movable_object.trafficcone", "construction vehicle": "vehicle.construction",
    }.items():  # fmt: skip
        assert category_of(name, {}) == (category, True), name
    assert category_of("叉 车", {"叉车": "truck"}) == ("vehicle.truck", True)
    assert category_of("叉车", {}) == ("叉车", False)


def test_unknown_names_come_with_counts_and_a_class_map_to_paste(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write_tiny(
        tmp_path / "e", objects=lambda _index: [box(), box("b", "叉车"), box("c", "叉车"), box("d", "三轮 车")]
    )
    prepare({"source": str(source)}, tmp_path / "root")
    said = capsys.readouterr().err
    assert "叉车 12, 三轮 车 6" in said and class_map_to_paste(["叉车", "三轮 车"]) in said
    assert class_map_to_paste(["叉车"]) == 'class_map: {"叉车": null}'
    edit_all(source, "result/*.json", lambda found: found[0].update(objects=found[0]["objects"][1:]))
    with pytest.raises(PetrflowError, match=r"paste `class_map: \{\"叉车\": null, \"三轮 车\": null\}`"):
        prepare({"source": str(source)}, tmp_path / "root")


def test_boxes_without_a_contour_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write_tiny(tmp_path / "e", objects=lambda _index: [box(), {**box("b"), "contour": None}])
    assert prepare({"source": str(source)}, tmp_path / "root")["counts"]["annotations"] == 6
    assert "6 3D boxes without a contour are left out" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("rotation", "yaw"),
    [
        ((0.0, 0.0, 0.7), 0.7), ((np.pi, np.pi, 0.7), 0.7 + np.pi), ((np.pi, 0.0, 0.7), -0.7), ((0.0, np.pi, 0.7), np.pi - 0.7),
        ((-np.pi, 0.0, 2.0), -2.0),
    ],
)  # fmt: skip
def test_a_box_turned_over_keeps_its_heading(rotation: tuple[float, float, float], yaw: float, tmp_path: Path) -> None:
    x, y, z = rotation
    plain = write_tiny(tmp_path / "plain", objects=lambda _index: [box(rotation3D={"x": 0, "y": 0, "z": yaw})])
    source = write_tiny(tmp_path / "e", objects=lambda _index: [box(rotation3D={"x": x, "y": y, "z": z})])
    for name in ("plain", "e"):
        prepare({"source": str(tmp_path / name)}, tmp_path / f"{name}-root")
    ours, theirs = (
        np.array([row["rotation"] for row in table(tmp_path / f"{name}-root", "sample_annotation")])
        for name in ("plain", "e")
    )
    assert plain != source and np.allclose(np.abs((ours * theirs).sum(axis=1)), 1.0)
    assert "are tilted" not in (tmp_path / "e-root" / "import.json").read_text()


def test_a_result_without_data_is_a_gap_like_others(tmp_path: Path) -> None:
    source = write_tiny(tmp_path / "e")
    ghost = source / "one" / "result" / "ghost.json"
    shutil.copyfile(next((source / "one" / "result").iterdir()), ghost)
    with pytest.raises(PetrflowError, match=r"ghost\.json is a result without data"):
        prepare({"source": str(source)}, tmp_path / "root")
    dataset = {"source": str(source), "max_missing": 0.2, "timestamps": "none"}
    assert prepare(dataset, tmp_path / "root")["counts"]["keyframes"] == 6


def test_degrees_are_refused_as_radians_and_read_as_degrees(tmp_path: Path) -> None:
    source = write_tiny(tmp_path / "e", objects=lambda _index: [box(rotation3D={"x": 0, "y": 0, "z": 90.0})])
    with pytest.raises(PetrflowError, match=r"rotation3D reaches 90.*`angle_unit: deg`"):
        prepare({"source": str(source)}, tmp_path / "root")
    prepare({"source": str(source), "angle_unit": "deg"}, tmp_path / "root")
    plain = write_tiny(tmp_path / "p", objects=lambda _index: [box(rotation3D={"x": 0, "y": 0, "z": np.pi / 2})])
    prepare({"source": str(plain)}, tmp_path / "plain")
    assert table(tmp_path / "root", "sample_annotation") == table(tmp_path / "plain", "sample_annotation")


# ------------------------------------------------------------------------------------------------------------------ gaps


def _no_image(folder: Path) -> None:
    (folder / "camera_image_1" / f"{START + 500_000}.jpg").unlink()


def _half_an_image(folder: Path) -> None:
    path = folder / "camera_image_1" / f"{START + 500_000}.jpg"
    path.write_bytes(path.read_bytes()[:-30])


def _no_calibration(folder: Path) -> None:
    (folder / "camera_config" / f"{START + 500_000}.json").unlink()


def _half_a_cloud(folder: Path) -> None:
    (folder / "lidar_point_cloud_0").mkdir()
    (folder / "lidar_point_cloud_0" / f"{START + 500_000}.pcd").write_bytes(b"VERSION 0.7\nFIELDS x\n")


@pytest.mark.parametrize(
    "plant", [_no_image, _half_an_image, _no_calibration, _half_a_cloud], ids=lambda plant: plant.__name__.strip("_")
)
def test_a_frame_with_a_gap_is_left_out_up_to_the_share_that_is_allowed(
    plant: Callable[[Path], None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write_tiny(tmp_path / "e")
    plant(source / "one")
    with pytest.raises(PetrflowError, match=str(START + 500_000)):
        prepare({"source": str(source)}, tmp_path / "root")
    capsys.readouterr()
    assert prepare({"source": str(source), "max_missing": 0.2}, tmp_path / "root")["counts"]["keyframes"] == 5
    assert f"1 of 6 labelled frames are left out (one/{START + 500_000}); the first: " in capsys.readouterr().err


# ------------------------------------------------------------------------------------------------------------------ the server's own


def _data_of(
    source: Path, base: str, time: str = "20240305142233", signature: str = "a1"
) -> dict[tuple[str, str], dict[str, Any]]:
    """What the server says of each frame of an upload: names and signed addresses of its files."""
    found = {}
    for path in sorted(source.rglob("result/*.json")):
        scene, name = path.parts[-3], path.stem

        def node(folder: str, file: str, scene: str = scene) -> dict[str, Any]:
            return {
                "filename": file,
                "url": f"{base}/{scene}/{folder}/{file}?X-Amz-Date={time}&X-Amz-Signature={signature}",
            }

        found[scene, name] = {
            "dataId": len(found) + 1, "name": name, "type": "LIDAR_FUSION", "cameraConfig": node("camera_config", f"{name}.json"),
            "cameraImages": [node(f"camera_image_{k}", f"{name}.jpg") for k in (0, 1)], "lidarPointClouds": [],
        }  # fmt: skip
    return found


def _server_export(source: Path, target: Path, base: str, time: str = "20240305142233", signature: str = "a1") -> Path:
    top = target / f"lot-{time}"
    for (scene, name), data in _data_of(source, base, time, signature).items():
        for kind in ("data", "result"):
            (top / scene / kind).mkdir(parents=True, exist_ok=True)
        (top / scene / "data" / f"{name}.json").write_text(json.dumps(data))
        shutil.copyfile(source / scene / "result" / f"{name}.json", top / scene / "result" / f"{name}.json")
    return top


def _single_json(source: Path, target: Path, base: str, form: str) -> Path:
    pairs = []
    for (scene, name), data in _data_of(source, base).items():
        result = json.loads((source / scene / "result" / f"{name}.json").read_text())
        pairs.append((data | {"sceneName": scene}, [entry | {"dataId": data["dataId"]} for entry in result]))
    if form == "contents":
        content: Any = {
            "version": "1.0",
            "datasetId": 1,
            "contents": [{"data": data, "result": result} for data, result in pairs],
        }
    else:
        answer = {
            "datasetId": 1,
            "data": [data for data, _ in pairs],
            "results": [entry for _, result in pairs for entry in result],
        }
        content = {"code": "OK", "data": answer} if form == "answer" else answer
    target.write_text(json.dumps(content))
    return target


@pytest.fixture
def upload(tmp_path: Path) -> Path:
    return write_tiny(tmp_path / "media")


@pytest.fixture
def server(upload: Path) -> Iterator[tuple[str, list[str]]]:
    """A file server over the upload's media, and the paths that it was asked for."""
    asked: list[str] = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            super().do_GET()

        def log_message(self, *_arguments: object) -> None:
            pass

    handler: Any = partial(Handler, directory=str(upload))
    running = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    yield f"http://127.0.0.1:{running.server_port}", asked
    running.shutdown()
    running.server_close()


@pytest.mark.parametrize("form", ["contents", "results", "answer"])
def test_an_export_of_one_json_file_gives_the_same_root(form: str, upload: Path, tmp_path: Path) -> None:
    path = _single_json(upload, tmp_path / "export.json", "http://server.invalid/x", form)
    ours = prepare({"source": str(upload)}, tmp_path / "plain")
    theirs = prepare({"source": str(path), "media_root": str(upload)}, tmp_path / "root")
    assert theirs["fingerprint"] == ours["fingerprint"]
    (tmp_path / "folder").mkdir()
    path.rename(tmp_path / "folder" / "dataset.json")
    assert len(find_frames(tmp_path / "folder")) == 6


@pytest.mark.parametrize("content", ["{}", '{"contents": []}', "[1, 2]", '{"data": {}}'])
def test_a_json_file_that_is_no_export_is_a_sentence(content: str, tmp_path: Path) -> None:
    (tmp_path / "export.json").write_text(content)
    with pytest.raises(PetrflowError, match=r"export\.json (is no export|holds no frame)") as raised:
        prepare({"source": str(tmp_path / "export.json")}, tmp_path / "root")
    assert "delete" not in str(raised.value) and (tmp_path / "export.json").exists()


def test_media_is_fetched_once_while_the_links_live(
    upload: Path, server: tuple[str, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "all_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    base, asked = server
    source = _server_export(upload, tmp_path / "export", base)
    dataset = {"source": str(source), "media": "download"}
    ours = prepare({"source": str(upload)}, tmp_path / "data" / "plain")
    assert prepare(dataset, tmp_path / "data" / "lot")["fingerprint"] == ours["fingerprint"]
    assert len(asked) == 6 * 3
    # The links have expired, or were renewed: what was fetched is kept.
    again = _server_export(upload, tmp_path / "again", "http://elsewhere.invalid", "20250101000000", "b2")
    assert prepare(dataset | {"source": str(again)}, tmp_path / "data" / "lot")["fingerprint"] == ours["fingerprint"]
    assert len(asked) == 6 * 3


def test_a_link_that_expired_says_what_to_do_and_shows_no_signature(
    upload: Path, server: tuple[str, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "all_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    source = _server_export(upload, tmp_path / "export", server[0], signature="s3cret")
    next(upload.rglob("camera_image_1/*.jpg")).unlink()
    with pytest.raises(PetrflowError, match=r"image of camera 1 could not be fetched.*export again") as raised:
        prepare({"source": str(source), "media": "download"}, tmp_path / "data" / "lot")
    assert "s3cret" not in str(raised.value)


def test_media_is_needed_only_for_frames_that_are_used(upload: Path, tmp_path: Path) -> None:
    source = _server_export(upload, tmp_path / "export", "http://server.invalid/x")
    last = sorted(source.rglob("result/*.json"))[-1]
    last.unlink()
    for path in upload.rglob(f"{last.stem}.*"):
        path.unlink()
    complete = prepare({"source": str(source), "media_root": str(upload)}, tmp_path / "root")
    assert complete["counts"]["keyframes"] == 5
    with pytest.raises(PetrflowError, match="`media_root` to a folder with the files, or `media: download`"):
        prepare({"source": str(source)}, tmp_path / "other")


def test_a_new_export_of_unchanged_labels_is_the_same_data_set(upload: Path, tmp_path: Path) -> None:
    prints = set()
    for time, signature in (("20240305142233", "a1"), ("20250101000000", "b2")):
        top = _server_export(upload, tmp_path / time, "http://server.invalid/x", time, signature)
        source = shutil.make_archive(str(tmp_path / top.name), "zip", top.parent)
        complete = prepare({"source": source, "media_root": str(upload)}, tmp_path / "root")
        assert sorted(complete["splits"]["train"] + complete["splits"]["val"]) == ["one", "two"]
        prints.add(complete["fingerprint"])
    assert len(prints) == 1


def test_files_of_early_servers_are_called_by_their_frames(upload: Path, tmp_path: Path) -> None:
    for index, path in enumerate(sorted(upload.rglob("result/*.json"))):
        data = {"id": 70 + index, "name": path.stem, "cameraImages": []}
        (path.parent.parent / "data").mkdir(exist_ok=True)
        (path.parent.parent / "data" / f"{path.stem}-{70 + index}.json").write_text(json.dumps(data))
        path.rename(path.with_name(f"{path.stem}-{70 + index}.json"))
    frames = find_frames(upload)
    assert len(frames) == 6 and all(frame.result and frame.config and frame.images for frame in frames)


# ------------------------------------------------------------------------------------------------------------------ clock and motion


@pytest.mark.parametrize("known", [True, False])
def test_unlabelled_frames_are_the_previous_frames_of_the_labelled_ones_after_them(known: bool, tmp_path: Path) -> None:
    source = write_tiny(tmp_path / "e", frames=9, step=100_000, labelled=lambda index: index % 4 == 0)
    dataset = {"source": str(source)} | ({} if known else {"timestamps": "none"})
    complete = prepare(dataset, tmp_path / "root")
    assert complete["counts"]["keyframes"] == 6
    rows = table(tmp_path / "root", "sample_data")
    front = sorted(
        (row for row in rows if "CAM_FRONT" in row["filename"]),
        key=lambda row: (row["filename"].split("__")[0], row["timestamp"]),
    )
    assert len(front) == 18
    by_token = {row["token"]: row for row in rows}
    for row in rows:
        assert (tmp_path / "root" / row["filename"]).exists()
        assert row["filename"].startswith("samples/" if row["is_key_frame"] else "sweeps/")
        if row["prev"]:
            assert by_token[row["prev"]]["timestamp"] < row["timestamp"]
    keyframe = next(row for row in front if row["is_key_frame"] and row["prev"])
    chain = []
    while keyframe["prev"]:
        keyframe = by_token[keyframe["prev"]]
        chain.append(keyframe["is_key_frame"])
    assert chain == [False, False, False, True]


def test_an_unlabelled_frame_that_lacks_something_is_dropped_and_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write_tiny(tmp_path / "e", labelled=lambda index: index != 1)
    next(source.rglob(f"camera_image_1/{START + 500_000}.jpg")).unlink()
    prepare({"source": str(source)}, tmp_path / "root")
    assert "1 unlabelled frames cannot be previous frames; the first: Frame one/" in capsys.readouterr().err
    assert sum(not row["is_key_frame"] for row in table(tmp_path / "root", "sample_data")) == 2


def test_without_poses_no_velocity_is_invented_unless_the_vehicle_stood(tmp_path: Path) -> None:
    source = write_tiny(tmp_path / "e", objects=lambda index: [box(y=10.0 - 3.5 * index)])
    assert not prepare({"source": str(source)}, tmp_path / "root")["has_velocity"]
    assert all(not row["next"] for row in table(tmp_path / "root", "sample_annotation"))
    assert prepare({"source": str(source), "ego": "still"}, tmp_path / "root")["has_velocity"]


def test_track_ids_that_are_indices_are_recognised(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def shuffled(index: int) -> list[dict[str, Any]]:
        places = np.random.default_rng(index).permutation(6) * 60.0
        return [box(str(number), y=float(place)) for number, place in enumerate(places)]

    source = write_tiny(tmp_path / "e", objects=shuffled)
    assert not prepare({"source": str(source), "ego": "still"}, tmp_path / "root")["has_velocity"]
    assert "trackId seems to be the index of the box in its frame" in capsys.readouterr().err


def test_numbered_tracks_of_slow_things_are_tracks() -> None:
    boxes = np.zeros((4, 7))
    run = [(index * 100_000, Objects(boxes=boxes + index * 0.5, tracks=["0", "1", "2", "3"])) for index in range(20)]
    assert doubt_tracks([run]) == ""
