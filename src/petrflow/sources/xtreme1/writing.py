"""Write scenes of converted frames as a nuScenes root: tables, splits, images and point clouds."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from petrflow.files import sha256_file
from petrflow.files.status import tqdm
from petrflow.geometry import (
    invert_rigid,
    matrix_to_quaternion,
    points_in_boxes,
    quaternion_multiply,
    transform_points,
    yaw_to_quaternion,
)
from petrflow.nuscenes.names import (
    ATTRIBUTES,
    CATEGORY_OF_DETECTION,
    LIDAR,
    TABLE_NAMES,
    VELOCITY_SECONDS,
    VISIBILITIES,
)
from petrflow.nuscenes.splits import write_splits
from petrflow.nuscenes.writer import token
from petrflow.sources.xtreme1.camera_names import ego_from_lidar
from petrflow.sources.xtreme1.images import Picture, bring
from petrflow.sources.xtreme1.lens import Lens
from petrflow.sources.xtreme1.pcd import read_pcd

# Bytes of a scene's or frame's name in a file name; a disk takes 255 for the whole of it.
_LONGEST_PART, _SHORTENED = 90, 60


@dataclass
class CameraFacts:
    """One image: `camera_from_lidar` (4, 4), `intrinsic` (3, 3) px, `lens` None where it does not
    bend, `timestamp` µs.
    """

    picture: Picture
    camera_from_lidar: np.ndarray
    intrinsic: np.ndarray
    lens: Lens | None
    timestamp: int


@dataclass
class SweepFacts:
    """The images of one moment, by channel; `world_from_lidar` (4, 4), timestamp in µs."""

    name: str
    timestamp: int
    world_from_lidar: np.ndarray
    cameras: dict[str, CameraFacts]


@dataclass
class FrameFacts(SweepFacts):
    """Everything the tables hold of one labelled frame, in LIDAR_TOP's axes.

    boxes (N, 7) float64 with their categories, tracks ('' unknown) and point counts (0 unknown);
    sweeps: unlabelled frames before it.
    """

    cloud: Path | None
    boxes: np.ndarray
    categories: list[str]
    tracks: list[str]
    point_counts: list[int]
    sweeps: list[SweepFacts] = field(default_factory=list)


@dataclass
class SceneFacts:
    """A scene's name and its frames in time order."""

    name: str
    split: str
    frames: list[FrameFacts]


@dataclass
class Written:
    """What was written: counts for `.complete.json`, and what a person should hear about."""

    counts: dict[str, int] = field(default_factory=dict)
    has_velocity: bool = False
    frames_without_cloud: int = 0
    boxes_assumed_seen: int = 0
    repeated_tracks: int = 0
    media: dict[str, str] = field(default_factory=dict)  # file in the root -> SHA-256 of its content
    read: dict[Path, str] = field(default_factory=dict)  # file of the export -> SHA-256 of its content


def write_root(
    root: Path,
    version: str,
    scenes: Sequence[SceneFacts],
    channels: Sequence[str],
    *,
    lidar_from_cloud: np.ndarray,
    cloud_unit: float,
    velocities: bool,
) -> Written:
    """Write the media and the thirteen tables of a root into an existing folder.

    Annotations of one track are linked only where `velocities` says that tracks, time and the
    vehicle's motion are known: the devkit then gives velocities by its own rule, and NaN elsewhere.
    """
    writer = _Writer(root, version, lidar_from_cloud, cloud_unit, velocities)
    writer.write_sensors(channels)
    total = sum(len(scene.frames) for scene in scenes)
    with tqdm(total=total, desc="nuScenes root", unit="frame", file=sys.stderr, disable=total < 20) as bar:
        for scene in scenes:
            writer.write_scene(scene, bar)
    writer.write_tables(scenes)
    return writer.written


class _Writer:
    def __init__(
        self, root: Path, version: str, lidar_from_cloud: np.ndarray, cloud_unit: float, velocities: bool
    ) -> None:
        self.root, self.version, self.velocities = root, version, velocities
        self.lidar_from_cloud, self.cloud_unit = lidar_from_cloud, cloud_unit
        self.tables: dict[str, list[dict[str, Any]]] = {name: [] for name in TABLE_NAMES}
        self.calibrations: set[str] = set()
        self.categories: set[str] = set(CATEGORY_OF_DETECTION.values())
        self.time_of: dict[str, int] = {}
        self.file_names: set[str] = set()
        self.written = Written()

    def write_sensors(self, channels: Iterable[str]) -> None:
        for channel in (*channels, LIDAR):
            (self.root / "samples" / channel).mkdir(parents=True)
            (self.root / "sweeps" / channel).mkdir(parents=True)
            modality = "lidar" if channel == LIDAR else "camera"
            self.tables["sensor"].append({"token": token("sensor", channel), "channel": channel, "modality": modality})

    def write_scene(self, scene: SceneFacts, bar: Any) -> None:
        scene_token, log_token = token("scene", scene.name), token("log", scene.name)
        samples = [token("sample", scene.name, frame.name) for frame in scene.frames]
        self.tables["log"].append(
            {
                "token": log_token,
                "logfile": scene.name,
                "vehicle": "xtreme1",
                "date_captured": "",
                "location": "xtreme1",
            }
        )
        self.tables["scene"].append(
            {
                "token": scene_token, "log_token": log_token, "nbr_samples": len(samples), "first_sample_token": samples[0],
                "last_sample_token": samples[-1], "name": scene.name, "description": f"Xtreme1, {scene.split}",
            }
        )  # fmt: skip
        last_of_channel: dict[str, dict[str, Any]] = {}
        annotations: dict[tuple[str, str], list[dict[str, Any]]] = {}
        self.time_of.update(zip(samples, (frame.timestamp for frame in scene.frames), strict=True))
        for position, (frame, sample) in enumerate(zip(scene.frames, samples, strict=True)):
            self.tables["sample"].append(
                {
                    "token": sample, "timestamp": frame.timestamp, "scene_token": scene_token,
                    "prev": samples[position - 1] if position else "", "next": samples[position + 1] if position + 1 < len(samples) else "",
                }
            )  # fmt: skip
            points = self._sensor_data(scene, frame, sample, last_of_channel)
            self._annotations(frame, sample, points, annotations)
            bar.update()
        self._instances(scene, annotations)

    # ---------------------------------------------------------------------------------------------------------------- sample_data

    def _sensor_data(
        self, scene: SceneFacts, frame: FrameFacts, sample: str, last_of_channel: dict[str, dict[str, Any]]
    ) -> np.ndarray | None:
        for sweep in frame.sweeps:
            self._camera_data(scene, sweep, sample, last_of_channel, is_key_frame=False)
        self._camera_data(scene, frame, sample, last_of_channel, is_key_frame=True)
        file_name = self._file_name(scene.name, LIDAR, frame.name, "samples") + ".pcd.bin"
        points = self._write_cloud(frame, self.root / file_name)
        self.written.media[file_name] = sha256_file(self.root / file_name)
        row = self._sample_data_row(
            sample,
            LIDAR,
            frame.timestamp,
            file_name=file_name,
            world_from_ego=frame.world_from_lidar @ invert_rigid(ego_from_lidar()),
            ego_from_sensor=ego_from_lidar(),
        )
        self._link(row, last_of_channel, LIDAR)
        return points

    def _camera_data(
        self,
        scene: SceneFacts,
        moment: SweepFacts,
        sample: str,
        last_of_channel: dict[str, dict[str, Any]],
        *,
        is_key_frame: bool,
    ) -> None:
        world_from_ego = moment.world_from_lidar @ invert_rigid(ego_from_lidar())
        for channel, camera in moment.cameras.items():
            target = self.root / self._file_name(
                scene.name, channel, moment.name, "samples" if is_key_frame else "sweeps"
            )
            path, content = bring(camera.picture, target, camera.intrinsic, camera.lens)
            file_name = path.relative_to(self.root).as_posix()
            self.written.media[file_name] = content
            linked = path.suffix == camera.picture.ending and path.samefile(camera.picture.path)
            self.written.read[camera.picture.path] = content if linked else sha256_file(camera.picture.path)
            row = self._sample_data_row(
                sample,
                channel,
                camera.timestamp,
                file_name=file_name,
                world_from_ego=world_from_ego,
                ego_from_sensor=ego_from_lidar() @ invert_rigid(camera.camera_from_lidar),
                intrinsic=camera.intrinsic,
                moment="" if is_key_frame else moment.name,
            )
            width, height = camera.picture.size
            row |= {
                "width": width,
                "height": height,
                "fileformat": path.suffix.lstrip("."),
                "is_key_frame": is_key_frame,
            }
            self._link(row, last_of_channel, channel)

    def _file_name(self, scene: str, channel: str, frame: str, folder: str) -> str:
        """A file's path without its ending: readable, of a length and an alphabet that every disk
        takes, and never one for two frames.
        """
        before, after = (re.sub(r"[^\w.+-]", "_", part) for part in (scene, frame))
        name = f"{folder}/{channel}/{before}__{channel}__{after}"
        if name.casefold() in self.file_names or max(len(before.encode()), len(after.encode())) > _LONGEST_PART:
            before, after = (part.encode()[:_SHORTENED].decode(errors="ignore") for part in (before, after))
            name = f"{folder}/{channel}/{before}__{channel}__{after}-{token(scene, frame)[:10]}"
        self.file_names.add(name.casefold())
        return name

    def _write_cloud(self, frame: FrameFacts, path: Path) -> np.ndarray | None:
        """Write x, y, z, intensity, ring as the devkit reads them; return the points in the lidar
        frame, None where there is no cloud.
        """
        if frame.cloud is None:
            self.written.frames_without_cloud += 1
            path.write_bytes(b"")
            return None
        self.written.read[frame.cloud] = sha256_file(frame.cloud)
        points = read_pcd(frame.cloud, ("x", "y", "z", "intensity", "ring"))
        points[:, :3] = transform_points(self.lidar_from_cloud, points[:, :3] * self.cloud_unit)
        points.astype("<f4").tofile(path)
        return points

    def _sample_data_row(
        self, sample: str, channel: str, timestamp: int, *, file_name: str, world_from_ego: np.ndarray, ego_from_sensor: np.ndarray,
        intrinsic: np.ndarray | None = None, moment: str = "",
    ) -> dict[str, Any]:  # fmt: skip
        data_token = token("sample_data", sample, channel, *([moment] if moment else []))
        self.tables["ego_pose"].append({"token": data_token, "timestamp": timestamp, **_pose(world_from_ego)})
        calibration = _pose(ego_from_sensor) | {"camera_intrinsic": [] if intrinsic is None else intrinsic.tolist()}
        calibration_token = token("calibrated_sensor", channel, json.dumps(calibration, sort_keys=True))
        if calibration_token not in self.calibrations:
            self.calibrations.add(calibration_token)
            self.tables["calibrated_sensor"].append(
                {"token": calibration_token, "sensor_token": token("sensor", channel), **calibration}
            )
        return {
            "token": data_token, "sample_token": sample, "ego_pose_token": data_token, "calibrated_sensor_token": calibration_token,
            "timestamp": timestamp, "fileformat": "pcd", "is_key_frame": True, "height": 0, "width": 0, "filename": file_name,
            "prev": "", "next": "",
        }  # fmt: skip

    def _link(self, row: dict[str, Any], last_of_channel: dict[str, dict[str, Any]], channel: str) -> None:
        previous = last_of_channel.get(channel)
        if previous is not None:
            previous["next"], row["prev"] = row["token"], previous["token"]
        last_of_channel[channel] = row
        self.tables["sample_data"].append(row)

    # ---------------------------------------------------------------------------------------------------------------- annotations

    def _annotations(
        self,
        frame: FrameFacts,
        sample: str,
        points: np.ndarray | None,
        annotations: dict[tuple[str, str], list[dict[str, Any]]],
    ) -> None:
        counts = np.array(frame.point_counts, dtype=int)
        unsaid = counts == 0
        if points is not None:
            counts[unsaid] = points_in_boxes(points, frame.boxes[unsaid])
        else:
            # With neither pointN nor a cloud nothing says the box is empty; 0 would drop it from
            # training and evaluation.
            counts[unsaid] = 1
            self.written.boxes_assumed_seen += int(unsaid.sum())
        rotation = matrix_to_quaternion(frame.world_from_lidar[:3, :3])
        centers = transform_points(frame.world_from_lidar, frame.boxes[:, :3])
        rotations = quaternion_multiply(rotation, yaw_to_quaternion(frame.boxes[:, 6]))
        seen: set[str] = set()
        for index, (box, category) in enumerate(zip(frame.boxes, frame.categories, strict=True)):
            track = frame.tracks[index]
            if track in seen:
                self.written.repeated_tracks += 1
                track = ""
            seen.add(track or f"box {index}")
            row = {
                "token": token("sample_annotation", sample, index), "sample_token": sample, "instance_token": "", "visibility_token": "",
                "attribute_tokens": [], "translation": centers[index].tolist(), "size": box[3:6].tolist(),
                "rotation": rotations[index].tolist(), "prev": "", "next": "", "num_lidar_pts": int(counts[index]), "num_radar_pts": 0,
            }  # fmt: skip
            self.categories.add(category)
            self.tables["sample_annotation"].append(row)
            linked = bool(track) and self.velocities
            annotations.setdefault((track if linked else f"alone {row['token']}", category), []).append(row)

    def _instances(self, scene: SceneFacts, annotations: dict[tuple[str, str], list[dict[str, Any]]]) -> None:
        for (track, category), rows in annotations.items():
            instance = token("instance", scene.name, track, category)
            for position, row in enumerate(rows):
                row["instance_token"] = instance
                row["prev"] = rows[position - 1]["token"] if position else ""
                row["next"] = rows[position + 1]["token"] if position + 1 < len(rows) else ""
                step = self.time_of[row["sample_token"]] - self.time_of[rows[max(position - 1, 0)]["sample_token"]]
                self.written.has_velocity |= 0 < step <= VELOCITY_SECONDS * 1e6
            self.tables["instance"].append(
                {
                    "token": instance, "category_token": token("category", category), "nbr_annotations": len(rows),
                    "first_annotation_token": rows[0]["token"], "last_annotation_token": rows[-1]["token"],
                }
            )  # fmt: skip

    # ---------------------------------------------------------------------------------------------------------------- tables

    def write_tables(self, scenes: Sequence[SceneFacts]) -> None:
        tables = self.tables
        tables["category"] = [
            {"token": token("category", name), "name": name, "description": ""} for name in sorted(self.categories)
        ]
        tables["attribute"] = [
            {"token": token("attribute", name), "name": name, "description": ""} for name in ATTRIBUTES
        ]
        tables["visibility"] = [
            {"token": str(i + 1), "level": level, "description": ""} for i, level in enumerate(VISIBILITIES)
        ]
        # The devkit wants every log to have a map whose file exists.
        (self.root / "maps").mkdir()
        Image.new("L", (8, 8)).save(self.root / "maps" / "blank.png")
        tables["map"] = [
            {
                "token": token("map"),
                "log_tokens": [log["token"] for log in tables["log"]],
                "category": "semantic_prior",
                "filename": "maps/blank.png",
            }
        ]
        folder = self.root / self.version
        folder.mkdir()
        for name, rows in tables.items():
            (folder / f"{name}.json").write_text(json.dumps(rows, allow_nan=False) + "\n")
        splits = {split: [scene.name for scene in scenes if scene.split == split] for split in ("train", "val")}
        write_splits(folder, splits)
        self.written.counts = {
            "scenes": len(tables["scene"]), "keyframes": len(tables["sample"]), "sample_data": len(tables["sample_data"]),
            "annotations": len(tables["sample_annotation"]),
        }  # fmt: skip


def _pose(matrix: np.ndarray) -> dict[str, list[float]]:
    return {"translation": matrix[:3, 3].tolist(), "rotation": matrix_to_quaternion(matrix[:3, :3]).tolist()}
