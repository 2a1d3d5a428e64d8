"""Write a nuScenes root as an Xtreme1 upload or export: both generations of names, both matrix orders, with mistakes planted if asked.

It lives with the tests because nobody but they needs the way back; it reads the annotation store, so that it carries over exactly what
training would see, the motion between an image and the sweep included.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from petrflow.annotations import AnnotationStore, build
from petrflow.files import read_json
from petrflow.geometry import boxes_to_xtreme1, invert_rigid, matrix_to_quaternion
from tests.helpers.pcd import write_pcd

CLASS_NAMES = {
    "car": "Car",
    "pedestrian": "Pedestrian",
    "traffic_cone": "Traffic Cone",
    "construction_vehicle": "Construction Vehicle",
}


@dataclass
class Export:
    """How an export is written; the defaults are what Xtreme1 0.8 writes."""

    old_names: bool = False
    row_major: bool = True
    scenes: bool = True
    server_zip: bool = False  # data/*.json and result/*.json only; media goes to `media`
    names: str = "timestamp"  # or "index"
    pcd_encoding: str = "binary"
    clouds: bool = True
    # Change one camera_config entry (dict), one object (dict) or the order of image folders before they are written.
    edit_camera: Callable[[dict[str, Any]], None] | None = None
    edit_object: Callable[[dict[str, Any]], None] | None = None
    folder_of_camera: list[int] | None = None
    cloud_scale: float = 1.0


def stores_of(root: Path, folder: Path) -> dict[str, AnnotationStore]:
    """Build and open the stores of a root's two splits."""
    for split in ("train", "val"):
        build(root, split, folder / f"{split}.arrow", progress=False)
    return {split: AnnotationStore.open(folder / f"{split}.arrow") for split in ("train", "val")}


def write_export(
    root: Path, target: Path, how: Export | None = None, media: Path | None = None
) -> dict[str, list[str]]:
    """Write an export of a root into `target` (a folder, or a `.zip`); return the scene names by split."""
    how = how or Export()
    with tempfile.TemporaryDirectory() as scratch:
        stores = stores_of(root, Path(scratch))
        folder = Path(scratch) / "export" if target.suffix == ".zip" else target
        for store in stores.values():
            counters: dict[str, int] = {}
            for index in range(len(store)):
                keyframe = store[index]
                number = counters.get(keyframe.scene_name, 0)
                counters[keyframe.scene_name] = number + 1
                name = str(keyframe.timestamp) if how.names == "timestamp" else f"frame_{number}"
                if not how.scenes and how.names != "timestamp":
                    name = f"{keyframe.scene_name}_{name}"
                scene = keyframe.scene_name if how.scenes else ""
                _write_frame(root, folder, media, scene=scene, name=name, keyframe=keyframe, how=how)
        if target.suffix == ".zip":
            with zipfile.ZipFile(target, "w") as archive:
                for path in sorted(folder.rglob("*")):
                    if path.is_file():
                        archive.write(path, path.relative_to(folder))
        return {split: sorted({store[i].scene_name for i in range(len(store))}) for split, store in stores.items()}


def write_poses(root: Path, path: Path) -> None:
    """Write the poses of LIDAR_TOP in the world as JSON, named as `names="timestamp"` names frames."""
    with tempfile.TemporaryDirectory() as scratch:
        poses = {}
        for store in stores_of(root, Path(scratch)).values():
            for index in range(len(store)):
                keyframe = store[index]
                pose = keyframe.global_from_lidar
                poses[str(keyframe.timestamp)] = {
                    "translation": pose[:3, 3].tolist(),
                    "rotation": matrix_to_quaternion(pose[:3, :3]).tolist(),
                }
    path.write_text(json.dumps(poses))


def _write_frame(
    root: Path, folder: Path, media: Path | None, *, scene: str, name: str, keyframe: Any, how: Export
) -> None:
    cloud_folder = "point_cloud" if how.old_names else "lidar_point_cloud_0"
    media_base = (media if how.server_zip and media else folder) / scene
    base = folder / scene
    order = how.folder_of_camera or list(range(len(keyframe.image_paths)))
    images = []
    for camera, image in enumerate(keyframe.image_paths):
        image_folder = f"image{order[camera]}" if how.old_names else f"camera_image_{order[camera]}"
        path = media_base / image_folder / f"{name}{Path(image).suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(root / image, path)
        images.append((order[camera], path))
    if how.clouds and (root / keyframe.lidar_path).exists():
        points = np.fromfile(root / keyframe.lidar_path, dtype=np.float32).reshape(-1, 5)[:, :4].copy()
        points[:, :3] *= how.cloud_scale
        (media_base / cloud_folder).mkdir(parents=True, exist_ok=True)
        write_pcd(media_base / cloud_folder / f"{name}.pcd", points, encoding=how.pcd_encoding)
    _dump(media_base / "camera_config" / f"{name}.json", _camera_config(keyframe, how))
    if how.server_zip:
        _dump(base / "data" / f"{name}.json", _data_json(name, scene, images, cloud_folder, how))
    _dump(base / "result" / f"{name}.json", [_result(keyframe, how)])


def _camera_config(keyframe: Any, how: Export) -> list[dict[str, Any]]:
    entries = []
    for camera in range(len(keyframe.image_paths)):
        intrinsic = keyframe.intrinsics[camera]
        external = invert_rigid(keyframe.lidar_from_camera[camera])
        internal = {"fx": intrinsic[0, 0], "fy": intrinsic[1, 1], "cx": intrinsic[0, 2], "cy": intrinsic[1, 2]}
        numbers = (external if how.row_major else external.T).reshape(-1).tolist()
        width, height = (int(value) for value in keyframe.image_sizes[camera])
        entry = {
            "camera_internal" if how.old_names else "cameraInternal": internal,
            "camera_external" if how.old_names else "cameraExternal": numbers,
            "width": width,
            "height": height,
        }
        if not how.row_major or not how.old_names:  # older files leave rowMajor out where it is true
            entry["rowMajor"] = how.row_major
        if how.edit_camera:
            how.edit_camera(entry)
        entries.append(entry)
    return entries


def _result(keyframe: Any, how: Export) -> dict[str, Any]:
    centers, sizes, yaws = boxes_to_xtreme1(keyframe.boxes)
    objects: list[dict[str, Any]] = []
    for index, name in enumerate(keyframe.names):
        entry = {
            "id": keyframe.annotation_tokens[index],
            "type": "3D_BOX",
            "classId": 1,
            "className": CLASS_NAMES.get(name, name),
            "trackId": keyframe.instance_tokens[index],
            "trackName": str(index),
            "classValues": [],
            "contour": {
                "pointN": int(keyframe.num_lidar_pts[index]),
                "points": [],
                "viewIndex": 0,
                "center3D": dict(zip("xyz", centers[index].tolist(), strict=True)),
                "size3D": dict(zip("xyz", sizes[index].tolist(), strict=True)),
                "rotation3D": {"x": 0, "y": 0, "z": float(yaws[index])},
            },
        }
        if how.edit_object:
            how.edit_object(entry)
        objects.append(entry)
    if objects:  # an image label that rides along
        objects.append(
            {
                "type": "2D_RECT",
                "className": "Car",
                "trackId": "flat",
                "contour": {"points": [{"x": 1, "y": 2}], "viewIndex": 0},
            }
        )
    return {
        "version": "Xtreme1 V0.6",
        "dataId": 1,
        "sourceName": "Ground Truth",
        "classificationValues": None,
        "objects": objects,
    }


def _data_json(name: str, scene: str, images: list[tuple[int, Path]], cloud_folder: str, how: Export) -> dict[str, Any]:
    base = f"http://server.invalid/bucket/1657877637263-90050/{scene}"
    nodes = []
    for _, path in sorted(images):
        tail = f"{path.parent.name}/{path.name}"
        nodes.append(
            {"url": f"{base}/{tail}?X-Amz-Expires=1", "zipPath": f"upload/{scene}/{tail}", "width": 1, "height": 1}
        )
    data: dict[str, Any] = {"version": "1.0", "dataId": 1, "type": "LIDAR_FUSION", "name": name, "cameraImages": nodes}
    cloud, config = f"{base}/{cloud_folder}/{name}.pcd", f"{base}/camera_config/{name}.json"
    if how.old_names:
        return data | {"pointCloudUrl": cloud, "cameraConfigUrl": config}
    return data | {"lidarPointClouds": [{"url": cloud}], "cameraConfig": {"url": config}}


def _dump(path: Path, obj: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(obj))


def complete_of(root: Path) -> dict[str, Any]:
    """What `.complete.json` of a root says."""
    content: dict[str, Any] = read_json(root / ".complete.json")
    return content
