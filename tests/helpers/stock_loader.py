"""Stock Paddle3D's dataset and transform chain for PETRv2, fed from our annotation store, with the random numbers given."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from petrflow.samples.settings import InputSettings
from petrflow.samples.transforms import Augmentation, camera_from_lidar, pad_intrinsics


def stock_info(keyframe: Any, cameras: tuple[str, ...]) -> dict[str, Any]:
    """A keyframe in the form of Paddle3D's annotation pickle."""
    sweeps = []
    for k in range(keyframe.num_sweeps):
        frames = keyframe.sweep(k)
        intrinsics, extrinsics = pad_intrinsics(frames.intrinsics), camera_from_lidar(frames.lidar_from_camera)
        sweeps.append(
            {
                camera: {
                    "data_path": frames.image_paths[n],
                    "timestamp": int(frames.image_timestamps[n]),
                    "intrinsics": intrinsics[n].astype(np.float32),
                    "extrinsics": np.ascontiguousarray(extrinsics[n].T).astype(np.float32),
                    "lidar2img": (intrinsics[n] @ extrinsics[n]).astype(np.float32),
                }
                for n, camera in enumerate(cameras)
            }
        )
    boxes = np.array(keyframe.boxes)
    return {
        "token": keyframe.token,
        "lidar_path": "none",
        "sweeps": sweeps,
        "timestamp": keyframe.timestamp,
        "cams": {
            camera: {
                "data_path": keyframe.image_paths[n],
                "timestamp": int(keyframe.image_timestamps[n]),
                "sensor2lidar_rotation": keyframe.lidar_from_camera[n, :3, :3],
                "sensor2lidar_translation": keyframe.lidar_from_camera[n, :3, 3],
                "cam_intrinsic": np.asarray(keyframe.intrinsics[n]),
            }
            for n, camera in enumerate(cameras)
        },
        "gt_boxes": np.concatenate([boxes[:, :6], -boxes[:, 6:7] - np.pi / 2], axis=1),
        "gt_names": np.array(keyframe.names),
        "gt_velocity": np.array(keyframe.velocities),
        "num_lidar_pts": np.ones(len(boxes), int),
        "valid_flag": np.array(keyframe.valid, bool),
    }


class StockLoader:
    """`NuscenesMVDataset` with the transforms of petrv2_vovnet_gridmask_p4_800x320.yml."""

    def __init__(self, store: Any, root: Path, settings: InputSettings, training: bool, folder: Path) -> None:
        from paddle3d.datasets import NuscenesMVDataset

        # Stock sorts by timestamp; the store is sorted already.
        self.infos = [stock_info(store[index], tuple(store.camera_names)) for index in range(len(store))]
        annotations = folder / "stock.pkl"
        annotations.write_bytes(pickle.dumps({"infos": self.infos, "metadata": {"version": "v1.0-mini"}}))
        self.dataset = NuscenesMVDataset(
            dataset_root=str(root),
            ann_file=str(annotations),
            mode="train" if training else "val",
            use_valid_flag=True,
            class_names=list(settings.class_names),
            transforms=stock_transforms(settings, training, tuple(store.camera_names)),
        )
        self.training = training

    def load(self, index: int, augmentation: Augmentation) -> dict[str, Any]:
        """One sample as stock makes it, for the given augmentation."""
        # Stock writes augmented intrinsics and longer paths back into its annotations at each access.
        self.dataset.data_infos[index] = copy.deepcopy(self.infos[index])
        with given(augmentation):
            sample = self.dataset[index]
        return {
            "img": np.asarray(sample["img"]),
            "lidar2img": np.stack(sample.meta["lidar2img"]),
            "intrinsics": np.stack(sample.meta["intrinsics"]),
            "timestamp": np.array(sample.meta["timestamp"]),
            **({key: np.asarray(sample[key]) for key in ("gt_bboxes_3d", "gt_labels_3d")} if self.training else {}),
        }


def stock_transforms(settings: InputSettings, training: bool, cameras: tuple[str, ...]) -> list[Any]:
    """The published chain."""
    from paddle3d.transforms import reader, transform

    height, width = settings.image_size
    chain = [
        reader.LoadMultiViewImageFromFiles(to_float32=True),
        reader.LoadMultiViewImageFromMultiSweepsFiles(
            sweeps_num=1,
            to_float32=True,
            pad_empty_sweeps=True,
            sweep_range=list(settings.sweep_range),
            test_mode=not training,
            sensors=list(cameras),
        ),
    ]
    if training:
        chain += [
            reader.LoadAnnotations3D(with_bbox_3d=True, with_label_3d=True),
            transform.SampleRangeFilter(point_cloud_range=list(settings.point_cloud_range)),
            transform.SampleNameFilter(classes=list(settings.class_names)),
        ]
    chain.append(
        transform.ResizeCropFlipImage(
            sample_aug_cfg={
                "resize_lim": settings.resize_limits,
                "final_dim": (height, width),
                "bot_pct_lim": settings.bottom_limits,
                "rot_lim": settings.image_rotation,
                "H": 900,
                "W": 1600,
                "rand_flip": settings.random_flip,
            },
            training=training,
        )
    )
    if training:
        chain.append(
            transform.GlobalRotScaleTransImage(
                rot_range=settings.scene_rotation,
                scale_ratio_range=settings.scene_scale,
                reverse_angle=settings.reverse_angle,
                training=True,
            )
        )
    chain += [
        transform.NormalizeMultiviewImage(mean=settings.mean, std=settings.std),
        transform.PadMultiViewImage(size_divisor=32),
        transform.SampleFilerByKey(
            keys=["gt_bboxes_3d", "gt_labels_3d", "img"] if training else ["img"],
            meta_keys=["lidar2img", "intrinsics", "extrinsics", "timestamp"],
        ),
    ]
    return chain


@contextmanager
def given(augmentation: Augmentation) -> Iterator[None]:
    """Make numpy's global generator return `augmentation` to stock's chain, in the order in which stock asks."""
    uniforms = iter(
        [
            augmentation.resize,
            augmentation.bottom,
            None,  # where the crop lies: a share of a freedom that stock works out
            augmentation.image_rotation,
            augmentation.scene_rotation,
            augmentation.scene_scale,
        ]
    )

    def uniform(low: float, high: float) -> Any:
        value = next(uniforms)
        return low + (high - low) * augmentation.left if value is None else value

    def choice(values: Any, size: int | None = None, replace: bool = True) -> Any:
        return int(augmentation.flip) if size is None else [augmentation.sweep]

    with (
        mock.patch.object(np.random, "uniform", uniform),
        mock.patch.object(np.random, "random", lambda: 0.0),
        mock.patch.object(np.random, "choice", choice),
    ):
        yield
