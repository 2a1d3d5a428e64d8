"""A stand-in for an annotation store, with JPEGs to go with it, for tests of the dataset and the loader."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np

CLASS_NAMES = [
    "car", "truck", "construction_vehicle", "bus", "trailer", "barrier", "motorcycle", "bicycle", "pedestrian", "traffic_cone",
]  # fmt: skip
NAMES = [*CLASS_NAMES, "animal"]
CAMERAS = ("CAM_FRONT", "CAM_FRONT_RIGHT", "CAM_FRONT_LEFT", "CAM_BACK", "CAM_BACK_LEFT", "CAM_BACK_RIGHT")


def model_config(image_size: tuple[int, int] = (320, 800), **changes: Any) -> dict[str, Any]:
    """The published settings; `changes` go into the sections `input` and `augmentation`."""
    config: dict[str, Any] = {
        "class_names": CLASS_NAMES,
        "input": {
            "image_size": list(image_size),
            "resize_lim": [0.47, 0.625],
            "bot_pct_lim": [0.0, 0.0],
            "rand_flip": True,
            "mean": [103.530, 116.280, 123.675],
            "std": [57.375, 57.120, 58.395],
            "size_divisor": 32,
            "sweep_range": [3, 27],
            "point_cloud_range": [-51.2, -51.2, -5.0, 51.2, 51.2, 3.0],
        },
        "augmentation": {"rotation": [-0.3925, 0.3925], "scale": [0.95, 1.05], "reverse_angle": True, "enabled": True},
    }
    for key, value in changes.items():
        config["augmentation" if key in config["augmentation"] else "input"][key] = value
    return config


@dataclass
class FakeFrames:
    image_paths: list[str]
    image_timestamps: np.ndarray
    image_sizes: np.ndarray
    intrinsics: np.ndarray
    lidar_from_camera: np.ndarray


@dataclass
class FakeKeyframe(FakeFrames):
    token: str
    timestamp: int
    boxes: np.ndarray
    velocities: np.ndarray
    names: list[str]
    valid: np.ndarray
    sweeps: list[FakeFrames] = field(default_factory=list)

    @property
    def num_sweeps(self) -> int:
        return len(self.sweeps)

    def sweep(self, k: int) -> FakeFrames:
        return self.sweeps[k]


class FakeStore:
    """Keyframes in memory, with the columns and metadata that the dataset reads."""

    def __init__(self, keyframes: list[FakeKeyframe], camera_names: tuple[str, ...] = CAMERAS) -> None:
        self.keyframes = keyframes
        self.camera_names = camera_names
        self.metadata = {"names": NAMES}

    @property
    def columns(self) -> dict[str, np.ndarray]:
        counts = [len(keyframe.names) for keyframe in self.keyframes]
        return {
            "box.box": np.concatenate([keyframe.boxes for keyframe in self.keyframes]),
            "box.valid": np.concatenate([keyframe.valid for keyframe in self.keyframes]),
            "box.name": np.array(
                [NAMES.index(name) for keyframe in self.keyframes for name in keyframe.names], np.int64
            ),
            "keyframe.box_offset": np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        }

    def __len__(self) -> int:
        return len(self.keyframes)

    def __getitem__(self, index: int) -> FakeKeyframe:
        return self.keyframes[index]


def write_pictures(
    folder: Path, count: int, size: tuple[int, int] = (1600, 900), seed: int = 0, noise: float = 8
) -> list[str]:
    """Write `count` JPEGs with edges, gradients and noise; return their names."""
    rng = np.random.default_rng(seed)
    width, height = size
    y, x = np.mgrid[:height, :width]
    names = []
    for number in range(count):
        picture = np.stack([x * 255 // width, y * 255 // height, (x + y + 40 * number) % 256], axis=-1)
        for _ in range(20):
            left, top = int(rng.integers(width)), int(rng.integers(height))
            picture[top : top + height // 6, left : left + width // 8] = rng.integers(0, 256, 3)
        picture = np.clip(picture + rng.normal(0, noise, picture.shape), 0, 255).astype(np.uint8)
        names.append(f"{seed}-{number}.jpg")
        assert cv2.imwrite(str(folder / names[-1]), picture, [cv2.IMWRITE_JPEG_QUALITY, 92])
    return names


def frames(paths: list[str], timestamp: int, size: tuple[int, int], seed: int) -> FakeFrames:
    """Cameras all around, each looking along its own direction, with a little noise."""
    rng = np.random.default_rng(seed)
    count = len(paths)
    poses = np.zeros((count, 4, 4))
    for camera in range(count):
        yaw = 2 * math.pi * camera / count + rng.normal(0, 0.05)
        c, s = math.cos(yaw), math.sin(yaw)
        looking = np.array([[s, 0, c], [-c, 0, s], [0, -1, 0]], dtype=np.float64)
        poses[camera, :3, :3] = looking
        poses[camera, :3, 3] = [1.5 * c, 1.5 * s, -0.3 + rng.normal(0, 0.1)]
        poses[camera, 3, 3] = 1
    focal = 0.79 * size[0]
    intrinsic = np.array([[focal, 0, size[0] / 2 + 16.3], [0, focal, size[1] / 2 + 41.2], [0, 0, 1]])
    return FakeFrames(
        image_paths=paths,
        image_timestamps=timestamp + rng.integers(-40_000, 10_000, count),
        image_sizes=np.tile(np.array(size, np.int32), (count, 1)),
        intrinsics=np.tile(intrinsic, (count, 1, 1)),
        lidar_from_camera=poses,
    )


def keyframe(
    number: int, paths: list[str], sweep_paths: list[list[str]], size: tuple[int, int], boxes: int = 20
) -> FakeKeyframe:
    """One keyframe with boxes in and out of range, seen and unseen, of known and unknown class and velocity."""
    rng = np.random.default_rng(1000 + number)
    timestamp = 1_532_402_927_647_951 + number * 500_000
    here = frames(paths, timestamp, size, number)
    velocities = rng.normal(0, 5, (boxes, 2))
    velocities[::5] = np.nan
    return FakeKeyframe(
        **vars(here),
        token=f"token-{number:04d}",
        timestamp=timestamp,
        boxes=np.concatenate(
            [
                rng.uniform(-60, 60, (boxes, 2)),
                rng.uniform(-2, 1, (boxes, 1)),
                rng.uniform(0.5, 5, (boxes, 3)),
                rng.uniform(-np.pi, np.pi, (boxes, 1)),
            ],
            axis=1,
        ),
        velocities=velocities,
        names=[NAMES[int(code)] for code in rng.integers(0, len(NAMES), boxes)],
        valid=rng.random(boxes) < 0.8,
        sweeps=[
            frames(names, timestamp - (k + 1) * 83_000, size, 7000 + 100 * number + k)
            for k, names in enumerate(sweep_paths)
        ],
    )


def small_store(
    folder: Path, keyframes: int = 6, size: tuple[int, int] = (160, 90), cameras: int = 2, sweeps: int = 3
) -> FakeStore:
    """Small pictures, shared by all keyframes in changing order."""
    names = write_pictures(folder, 5, size)
    made = []
    for number in range(keyframes):
        pick = [names[(number + k) % len(names)] for k in range(cameras * (1 + sweeps))]
        chunks = [pick[k : k + cameras] for k in range(0, len(pick), cameras)]
        made.append(keyframe(number, chunks[0], chunks[1:], size))
    return FakeStore(made, CAMERAS[:cameras])


def with_changes(store: FakeStore, index: int, **changes: Any) -> FakeStore:
    """The same store with one keyframe changed."""
    keyframes = list(store.keyframes)
    keyframes[index] = replace(keyframes[index], **changes)
    return FakeStore(keyframes, store.camera_names)
