"""The doctor: silent on data that is right, and the right advice for every known mistake."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from petrflow.annotations import AnnotationStore, build
from petrflow.doctor.classes import check_classes
from petrflow.doctor.examine import _check_files, diagnose, examine
from petrflow.errors import PetrflowError
from petrflow.sources.xtreme1.prepare import prepare
from tests.helpers.xtreme1_writer import Export, write_export, write_poses


def external(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[dict[str, Any]], None]:
    def edit(entry: dict[str, Any]) -> None:
        entry["cameraExternal"] = change(np.array(entry["cameraExternal"]).reshape(4, 4)).reshape(-1).tolist()

    return edit


def transposed_rotation(matrix: np.ndarray) -> np.ndarray:
    matrix = matrix.copy()
    matrix[:3, :3] = matrix[:3, :3].T.copy()
    return matrix


def thousandfold(matrix: np.ndarray) -> np.ndarray:
    matrix = matrix.copy()
    matrix[:3, 3] *= 1000
    return matrix


def turned(degrees: float) -> Callable[[dict[str, Any]], None]:
    def edit(entry: dict[str, Any]) -> None:
        entry["contour"]["rotation3D"]["z"] += math.radians(degrees)

    return edit


def reordered(axes: str) -> Callable[[dict[str, Any]], None]:
    def edit(entry: dict[str, Any]) -> None:
        size = entry["contour"]["size3D"]
        entry["contour"]["size3D"] = dict(zip("xyz", (size[axis] for axis in axes), strict=True))

    return edit


def in_millimetres(entry: dict[str, Any]) -> None:
    for key in ("center3D", "size3D"):
        entry["contour"][key] = {axis: 1000 * value for axis, value in entry["contour"][key].items()}


def wrong_flag(entry: dict[str, Any]) -> None:
    entry["rowMajor"] = not entry["rowMajor"]


def imported(root: Path, folder: Path, how: Export, **settings: Any) -> Path:
    """Export with a mistake, import, and return the root."""
    write_export(root, folder / "export", how)
    if how.names == "timestamp":
        write_poses(root, folder / "poses.json")
        settings = {"poses": str(folder / "poses.json")} | settings
    prepare({"source": str(folder / "export"), **settings}, folder / "root")
    return folder / "root"


def advice(root: Path, folder: Path) -> tuple[list[str], str]:
    """Settings that the failed findings advise, and the error's text ('' where the doctor is content)."""
    try:
        examine(root, folder / "doctor")
        message = ""
    except PetrflowError as error:
        message = str(error)
    report = json.loads((folder / "doctor" / "doctor.json").read_text())
    return [finding["setting"] for finding in report["findings"] if finding["level"] == "fail"], message


def test_the_synthetic_root_is_fit_and_leaves_report_and_pictures(
    synthetic_root: Path, synthetic_stores: dict[str, Path], tmp_path: Path
) -> None:
    report = examine(synthetic_root, tmp_path, synthetic_stores)
    assert report["verdict"] == "fit", report["findings"]
    assert report["figures"]["boxes seen by any camera"] > 0.95
    assert {path.name for path in tmp_path.iterdir()} == {
        "doctor.json",
        "doctor.txt",
        "least_consistent.jpg",
        "most_consistent.jpg",
    }
    assert all(camera["boxes_inside"] > 0 and camera["image_fit"] > 0 for camera in report["cameras"].values())
    assert sum(report["classes"]["train"].values()) > sum(report["classes"]["val"].values()) > 0


def test_the_real_keyframe_raises_no_alarm(keyframe_root: Path, tmp_path: Path) -> None:
    splits = {"train": ["scene-0061"], "val": ["scene-0061"]}
    for split in splits:
        build(keyframe_root, split, tmp_path / f"{split}.arrow", splits=splits, progress=False)
    stores = {split: AnnotationStore.open(tmp_path / f"{split}.arrow") for split in splits}
    report = diagnose(keyframe_root, stores)
    assert report["verdict"] == "fit", report["findings"]


def test_a_clean_export_is_fit_with_poses_and_without(synthetic_root: Path, tmp_path: Path) -> None:
    assert advice(imported(synthetic_root, tmp_path, Export()), tmp_path) == ([], "")
    # A vehicle that drove, taken as still: what stands seems to move backwards, and no heading is wrong for that.
    prepare({"source": str(tmp_path / "export")}, tmp_path / "root")
    assert examine(tmp_path / "root", tmp_path / "doctor")["verdict"] == "fit"


@pytest.mark.parametrize(
    ("how", "setting", "cause"),
    [
        (Export(edit_camera=external(transposed_rotation)), "external_rotation: transposed", "transposed"),
        (Export(edit_camera=external(np.linalg.inv)), "external_direction: camera_to_cloud", "inverted"),
        (Export(edit_object=turned(90)), "yaw_offset: -90", "yaw is off by 90 degrees"),
        (Export(edit_object=turned(-90)), "yaw_offset: 90", "yaw is off by 90 degrees"),
        (Export(edit_object=turned(180)), "yaw_offset: 180", "yaw is off by 180 degrees"),
        (Export(edit_object=turned(90), names="index", clouds=False), "yaw_offset: 90", "yaw is off by 90 degrees"),
        (Export(edit_object=reordered("yxz")), "size_order: wlh", "size axes are swapped"),
        (Export(edit_object=reordered("zxy")), "size_order: hlw", "size axes are swapped"),
        (
            Export(folder_of_camera=[1, 2, 0, 3, 4, 5]),
            "camera_order: [camera_image_1, camera_image_2, camera_image_0, camera_image_3, camera_image_4, camera_image_5]",
            "shuffled",
        ),
        (Export(edit_object=in_millimetres), "length_unit: {boxes: mm}", "in mm"),
        (Export(edit_object=in_millimetres, edit_camera=external(thousandfold), cloud_scale=1000.0), "length_unit: mm", "in mm"),
    ],
    ids=[
        "rotations transposed", "inverse externals", "yaw by 90", "yaw by -90", "yaw by 180", "yaw by 90 without points or time",
        "length and width swapped", "axes in a circle", "camera folders shuffled", "boxes in mm", "all in mm",
    ],
)  # fmt: skip
def test_a_planted_mistake_is_caught_with_the_setting_that_mends_it(
    synthetic_root: Path, tmp_path: Path, how: Export, setting: str, cause: str
) -> None:
    settings, message = advice(imported(synthetic_root, tmp_path, how), tmp_path)
    assert settings == [setting]
    assert cause in message and f"Set `{setting}`" in message


def test_externals_transposed_against_their_flag_are_caught(synthetic_root: Path, tmp_path: Path) -> None:
    # Flagged column-major and written in rows: Xtreme1 itself cannot show these either.
    with pytest.raises(PetrflowError, match=r"transposed.*external_layout: row_major"):
        imported(synthetic_root, tmp_path, Export(edit_camera=wrong_flag))
    prepare({"source": str(tmp_path / "export"), "external_layout": "row_major"}, tmp_path / "root")
    assert advice(tmp_path / "root", tmp_path) == ([], "")


def test_externals_that_xtreme1_s_viewer_transposes_itself_are_read_as_it_does_and_named(
    synthetic_root: Path, tmp_path: Path
) -> None:
    root = imported(synthetic_root, tmp_path, Export(row_major=False, edit_camera=wrong_flag))
    report = examine(root, tmp_path / "doctor")
    assert [(finding["level"], finding["setting"]) for finding in report["findings"]] == [
        ("warn", "external_layout: column_major")
    ]


def test_a_class_that_is_only_in_val_and_unmapped_names_are_warned_of(synthetic_root: Path, tmp_path: Path) -> None:
    def rename(entry: dict[str, Any]) -> None:
        if entry["className"] == "bus":
            entry["className"] = "Omnibus"

    report = examine(imported(synthetic_root, tmp_path, Export(edit_object=rename)), tmp_path / "doctor")
    assert report["verdict"] == "warnings"
    assert any("Omnibus" in finding["sentence"] and "class_map" in finding["setting"] for finding in report["findings"])


def test_a_cloud_far_from_nuscenes_height_is_warned_of_and_mended(synthetic_root: Path, tmp_path: Path) -> None:
    def on_the_ground(entry: dict[str, Any]) -> None:
        entry["contour"]["center3D"]["z"] += 1.84

    raise_camera = external(
        lambda matrix: matrix @ np.array([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, -1.84], [0, 0, 0, 1]])
    )
    root = imported(synthetic_root, tmp_path, Export(edit_object=on_the_ground, edit_camera=raise_camera, clouds=False))
    report = examine(root, tmp_path / "doctor")
    assert [finding["setting"].split(":")[0] for finding in report["findings"]] == ["origin_height"]
    prepare(
        {"source": str(tmp_path / "export"), "poses": str(tmp_path / "poses.json"), "origin_height": 0.0},
        tmp_path / "root",
    )
    assert examine(tmp_path / "root", tmp_path / "doctor")["verdict"] == "fit"


def test_boxes_labelled_twice_and_boxes_under_the_ground_are_warned_of(synthetic_root: Path, tmp_path: Path) -> None:
    write_export(synthetic_root, tmp_path / "export", Export())
    for path in (tmp_path / "export").rglob("result/*.json"):
        results = json.loads(path.read_text())
        boxes = [entry for entry in results[0]["objects"] if entry["type"] == "3D_BOX"]
        results[0]["objects"] += [dict(entry, trackId=f"again {number}") for number, entry in enumerate(boxes[:3])]
        for entry in boxes[3:9]:
            entry["contour"] = json.loads(json.dumps(entry["contour"]))
            entry["contour"]["center3D"]["z"] -= 10
        path.write_text(json.dumps(results))
    prepare({"source": str(tmp_path / "export")}, tmp_path / "root")
    report = examine(tmp_path / "root", tmp_path / "doctor")
    causes = " ".join(finding["cause"] for finding in report["findings"])
    assert report["verdict"] == "warnings"
    assert "36 boxes lie on another" in causes and "under the ground" in causes


def test_a_missing_image_is_named(synthetic_root: Path, tmp_path: Path) -> None:
    write_export(synthetic_root, tmp_path / "export", Export(clouds=False))
    prepare({"source": str(tmp_path / "export")}, tmp_path / "root")
    gone = sorted((tmp_path / "root" / "samples" / "CAM_BACK").iterdir())[0]
    gone.unlink()
    with pytest.raises(PetrflowError, match=rf"1 images are missing.*{gone.name}"):
        examine(tmp_path / "root", tmp_path / "doctor")


def test_an_exif_orientation_that_nothing_applies_is_said(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (64, 36)).save(tmp_path / "turned.jpg", exif=exif)
    Image.new("RGB", (64, 36)).save(tmp_path / "upright.jpg")
    keyframe = SimpleNamespace(image_paths=["turned.jpg", "upright.jpg"])
    (finding,) = _check_files([keyframe], tmp_path)  # type: ignore[list-item]
    assert (finding.level, finding.check) == ("warn", "orientation")
    assert "1 of 2 images looked at, such as" in finding.evidence
    keyframe.image_paths = ["upright.jpg"]
    assert not _check_files([keyframe], tmp_path)  # type: ignore[list-item]


def test_own_classes_are_known_by_their_names() -> None:
    counts = {"train": {"Fork Lift": 5, "car": 3}, "val": {"forklift": 2}}
    findings = check_classes(counts, ["forklift", "kart"], {"Fork Lift": 5, "car": 3})
    assert [finding.cause for finding in findings] == [
        "no box is called kart: cannot be learned",
        "boxes of unmapped class names are neither trained on nor scored",
    ]
    assert findings[1].evidence == "car 3"
    assert check_classes(counts, ["crane"], {})[0].level == "fail"
