"""Record a scene: render its sensors, write their files and table rows."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from petrflow import geometry
from petrflow.nuscenes.names import LIDAR
from petrflow.nuscenes.writer import link_chain, token, visibility_token
from petrflow.sources.synthetic.rig import CAMERA_NAMES, TRIGGER_LEAD, euler_matrix
from petrflow.sources.synthetic.scene import KEYFRAME_PERIOD, SceneSettings, Simulation
from petrflow.sources.synthetic.sensors import lidar

_EPOCH = 1_531_200_000  # s, the morning on which the first of all synthetic scenes was "recorded"


class _Recorder:
    """Writes one scene's files and collects its rows."""

    def __init__(self, simulation: Simulation, root: Path) -> None:
        self.sim, self.root = simulation, root
        self.base = (simulation.settings.seed, simulation.name)
        number = int(simulation.name.rpartition("-")[2])  # a name has its hour, whatever other scenes a set holds
        self.start = (_EPOCH + number * 3600) * 1_000_000 + 500_000  # microseconds
        date = datetime.datetime.fromtimestamp(self.start // 1_000_000, tz=datetime.UTC)
        self.logfile = f"{simulation.vehicle}-{date:%Y-%m-%d-%H-%M-%S}+0000"
        self.date = f"{date:%Y-%m-%d}"
        self.rows: dict[str, list[dict]] = {
            n: []
            for n in (
                "log",
                "map",
                "calibrated_sensor",
                "scene",
                "sample",
                "sample_data",
                "ego_pose",
                "instance",
                "sample_annotation",
            )
        }
        self.channels: dict[str, list[dict]] = {channel: [] for channel in (*CAMERA_NAMES, LIDAR)}

    def seconds(self, timestamp: int) -> float:
        """Seconds since scene start of a timestamp in microseconds."""
        return (timestamp - self.start) * 1e-6

    def calibration(self) -> None:
        log = {
            "token": token(*self.base, "log"),
            "logfile": self.logfile,
            "vehicle": self.sim.vehicle,
            "date_captured": self.date,
            "location": "synthetic",
        }
        self.rows["log"].append(log)
        filename = f"maps/{token(*self.base, 'map')}.png"
        self.rows["map"].append(
            {
                "token": token(*self.base, "map"),
                "log_tokens": [log["token"]],
                "category": "semantic_prior",
                "filename": filename,
            }
        )
        _write(self.root / filename, _encode(".png", self.sim.drivable, []))
        for channel, sensor in self.sim.rig.items():
            self.rows["calibrated_sensor"].append(
                {
                    "token": token(*self.base, "calibrated_sensor", channel),
                    "sensor_token": token("sensor", channel),
                    "translation": sensor.translation.tolist(),
                    "rotation": geometry.matrix_to_quaternion(sensor.rotation).tolist(),
                    "camera_intrinsic": [] if sensor.intrinsic is None else sensor.intrinsic.tolist(),
                }
            )

    def sample_data(self, channel: str, timestamp: int, sample: str, key: bool, content: bytes) -> None:
        """Write one sensor file and add its row and its ego pose."""
        camera = channel != LIDAR
        folder = "samples" if key else "sweeps"
        filename = f"{folder}/{channel}/{self.logfile}__{channel}__{timestamp}{'.jpg' if camera else '.pcd.bin'}"
        _write(self.root / filename, content)
        row_token = token(*self.base, "sample_data", channel, timestamp)
        position, angles = self.sim.world.drive.ego_pose(self.seconds(timestamp))
        rotation = geometry.matrix_to_quaternion(euler_matrix(angles))
        self.rows["ego_pose"].append(
            {
                "token": row_token,
                "timestamp": timestamp,
                "rotation": rotation.tolist(),
                "translation": position.tolist(),
            }
        )
        width, height = self.sim.settings.image_size if camera else (0, 0)
        row = {
            "token": row_token,
            "sample_token": sample,
            "ego_pose_token": row_token,
            "calibrated_sensor_token": token(*self.base, "calibrated_sensor", channel),
            "timestamp": timestamp,
            "fileformat": "jpg" if camera else "pcd",
            "is_key_frame": key,
            "height": height,
            "width": width,
            "filename": filename,
        }
        self.channels[channel].append(row)

    def image(self, channel: str, timestamp: int, sample: str, key: bool) -> tuple[np.ndarray, np.ndarray]:
        """Draw, encode and record one image; returns the samples each thing shows and would show
        alone.
        """
        picture, _, seen, alone = self.sim.draw(channel, self.seconds(timestamp))
        quality = [cv2.IMWRITE_JPEG_QUALITY, self.sim.settings.jpeg_quality]
        self.sample_data(channel, timestamp, sample, key, _encode(".jpg", picture, quality))
        return seen, alone

    def keyframe(self, k: int) -> None:
        """Everything of keyframe `k`: the sweeps that lead up to it, its images, its points, its
        annotations.
        """
        settings = self.sim.settings
        period = round(KEYFRAME_PERIOD * 1e6)
        timestamp = self.start + k * period
        sample = token(*self.base, "sample", k)
        self.rows["sample"].append({"token": sample, "timestamp": timestamp, "scene_token": token(*self.base, "scene")})
        things = len(self.sim.world.things)
        seen, alone = np.zeros(things), np.zeros(things)
        for channel in CAMERA_NAMES:
            trigger = timestamp - round(TRIGGER_LEAD[channel] * 1e6)
            for step in range(1, settings.sweeps + 1) if k else ():
                self.image(channel, trigger - period + step * period // (settings.sweeps + 1), sample, False)
            shown, whole = self.image(channel, trigger, sample, True)
            seen += shown
            alone += whole
        points = self.sim.sweep(self.seconds(timestamp))
        self.sample_data(LIDAR, timestamp, sample, True, points.tobytes())
        self.annotate(k, sample, timestamp, points[:, :3].astype(np.float64), seen / np.maximum(alone, 1))

    def annotate(self, k: int, sample: str, timestamp: int, points: np.ndarray, shares: np.ndarray) -> None:
        """Annotate every thing with a category within range at keyframe `k`, with the lidar points
        found in its box.
        """
        world = self.sim.world
        time = self.seconds(timestamp)
        centres, yaws = world.poses(time)
        ego, _ = world.drive.ego_pose(time)
        rotation, position = self.sim.sensor_pose(LIDAR, time)
        near = np.linalg.norm(centres[:, :2] - ego[:2], axis=1) <= self.sim.settings.max_range
        chosen = [i for i, thing in enumerate(world.things) if thing.category and near[i]]
        turned = rotation.T @ geometry.quaternion_to_matrix(geometry.yaw_to_quaternion(yaws[chosen]))
        sizes = np.array([world.things[i].size for i in chosen]).reshape(-1, 3)
        counts = lidar.count_inside(points, (centres[chosen] - position) @ rotation, turned, sizes)
        for i, count in zip(chosen, counts.tolist(), strict=True):
            thing = world.things[i]
            self.rows["sample_annotation"].append(
                {
                    "token": token(*self.base, "annotation", k, i),
                    "sample_token": sample,
                    "instance_token": token(*self.base, "instance", i),
                    "visibility_token": visibility_token(float(shares[i])),
                    "attribute_tokens": [token("attribute", thing.attribute)] if thing.attribute else [],
                    "translation": centres[i].tolist(),
                    "size": thing.size.tolist(),
                    "rotation": geometry.yaw_to_quaternion(yaws[i]).tolist(),
                    "num_lidar_pts": count,
                    "num_radar_pts": 0,
                }
            )

    def finish(self) -> dict[str, list[dict]]:
        """Link the chains and return all rows."""
        sim = self.sim
        samples = self.rows["sample"]
        link_chain(samples)
        for rows in self.channels.values():
            link_chain(rows)
            self.rows["sample_data"].extend(rows)
        by_instance: dict[str, list[dict]] = {}
        for row in self.rows["sample_annotation"]:
            by_instance.setdefault(row["instance_token"], []).append(row)
        for i, thing in enumerate(sim.world.things):
            rows = by_instance.get(token(*self.base, "instance", i), [])
            if rows:
                link_chain(rows)
                self.rows["instance"].append(
                    {
                        "token": rows[0]["instance_token"],
                        "category_token": token("category", thing.category),
                        "nbr_annotations": len(rows),
                        "first_annotation_token": rows[0]["token"],
                        "last_annotation_token": rows[-1]["token"],
                    }
                )
        self.rows["scene"].append(
            {
                "token": token(*self.base, "scene"),
                "log_token": token(*self.base, "log"),
                "nbr_samples": len(samples),
                "first_sample_token": samples[0]["token"],
                "last_sample_token": samples[-1]["token"],
                "name": sim.name,
                "description": f"Synthetic: {sim.world.drive.length:.0f} m of street, {len(self.rows['instance'])} objects",
            }
        )
        return self.rows


def _encode(suffix: str, image: np.ndarray, options: list[int]) -> bytes:
    done, data = cv2.imencode(suffix, image, options)
    if not done:
        raise RuntimeError(f"OpenCV could not encode a {suffix} image of shape {image.shape}")
    return data.tobytes()


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def make_scene(name: str, settings: dict[str, Any], root: Path) -> dict[str, list[dict]]:
    """Write the files of scene `name` below `root` and return its table rows; `settings` are
    `SceneSettings`.
    """
    simulation = Simulation(name, SceneSettings(**settings))
    recorder = _Recorder(simulation, root)
    recorder.calibration()
    for k in range(simulation.settings.keyframes):
        recorder.keyframe(k)
    return recorder.finish()
