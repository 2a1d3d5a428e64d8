"""Read an annotation store: keyframes, their cameras, boxes and previous camera frames, straight
from a memory map.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from petrflow import geometry
from petrflow.annotations import layout

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class CameraFrames:
    """Images of several cameras, seen from one keyframe. N cameras, in the store's order.

    Attributes
    ----------
    image_paths : list of N str
        Relative to the nuScenes root.
    image_tokens : list of N str
        sample_data tokens.
    image_timestamps : (N,) int64
        µs.
    image_sizes : (N, 2) int32
        Width and height in pixels, as sample_data.json has them.
    intrinsics : (N, 3, 3) float64
        Camera matrices, pixels.
    lidar_from_camera : (N, 4, 4) float64
        Camera frame at the image's own time to the lidar frame of the keyframe at the keyframe's
        time, ego motion included; m.
    """

    image_paths: list[str]
    image_tokens: list[str]
    image_timestamps: NDArray[np.int64]
    image_sizes: NDArray[np.int32]
    intrinsics: FloatArray
    lidar_from_camera: FloatArray


@dataclass(frozen=True, eq=False)
class Keyframe(CameraFrames):
    """One annotated moment. M boxes.

    Attributes
    ----------
    token, scene_name, scene_token : str
        Of the sample and of its scene.
    timestamp : int
        Of the sample, µs.
    lidar_token, lidar_path : str
        sample_data token and path (relative to the root) of LIDAR_TOP; the file may be absent.
    lidar_to_ego, ego_to_global : tuple of ((3,), (4,)) float64
        Translation in m and quaternion w, x, y, z of LIDAR_TOP's calibration and of its ego pose.
    boxes : (M, 7) float64
        Lidar frame: x, y, z of the centre, w, l, h in m, yaw in rad.
    velocities : (M, 2) float64
        vx, vy in the lidar frame, m/s; NaN where unknown.
    names : list of M str
        Detection class; the nuScenes category itself where it belongs to none.
    num_lidar_pts, num_radar_pts : (M,) int32
    valid : (M,) bool
        At least one lidar or radar point.
    annotation_tokens, instance_tokens : list of M str
    attributes : list of M str
        nuScenes attribute name, '' where there is none.
    visibility : (M,) int8
        1 (0-40 %) to 4 (80-100 %), 0 unknown.
    num_sweeps : int
        Previous camera frames that :meth:`sweep` gives.
    """

    token: str
    scene_name: str
    scene_token: str
    timestamp: int
    lidar_token: str
    lidar_path: str
    lidar_to_ego: tuple[FloatArray, FloatArray]
    ego_to_global: tuple[FloatArray, FloatArray]
    boxes: FloatArray
    velocities: FloatArray
    names: list[str]
    num_lidar_pts: NDArray[np.int32]
    num_radar_pts: NDArray[np.int32]
    valid: NDArray[np.bool_]
    annotation_tokens: list[str]
    instance_tokens: list[str]
    attributes: list[str]
    visibility: NDArray[np.int8]
    num_sweeps: int
    global_from_lidar: FloatArray = field(repr=False)
    """(4, 4) float64: the keyframe's lidar frame to the global frame, m."""
    _store: AnnotationStore = field(repr=False, compare=False)
    _index: int = field(repr=False)

    def sweep(self, k: int) -> CameraFrames:
        """Return the previous frames of all cameras, ``k`` steps back (0 is the nearest), relative
        to this keyframe's lidar.
        """
        if not 0 <= k < self.num_sweeps:
            raise IndexError(f"keyframe {self.token} has {self.num_sweeps} sweeps, none numbered {k}")
        first = int(self._store.columns["keyframe.sweep_offset"][self._index])
        frames = self._store.columns["sweep.camera_frame"][first + k]
        return CameraFrames(**self._store.camera_fields(frames, self.global_from_lidar))


class AnnotationStore:
    """Keyframes of one split in time order, memory-mapped: processes that open the same file share
    its pages.

    Attributes
    ----------
    camera_names : tuple of str
        Channels in the order of every array of cameras.
    version : str
        nuScenes version of the tables, such as ``v1.0-mini``.
    split : str
    dataset_fingerprint : str
        Of the tables that the store was built from.
    columns : dict
        The raw columns (docs/annotation-store.md).
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self.columns, self.metadata = layout.read(self.path)
        self.camera_names: tuple[str, ...] = tuple(self.metadata["cameras"])
        self.version: str = self.metadata["version"]
        self.split: str = self.metadata["split"]
        self.dataset_fingerprint: str = self.metadata["dataset_fingerprint"]

    @classmethod
    def open(cls, path: Path) -> AnnotationStore:
        """Map a store; PetrflowError if it is missing, damaged or of another format version."""
        return cls(path)

    def __reduce__(self) -> tuple[Any, ...]:
        # A worker opens the file itself: a pickled copy would not share its pages.
        return AnnotationStore.open, (self.path,)

    def __len__(self) -> int:
        return len(self.columns["keyframe.timestamp"])

    @cached_property
    def _ego_from_camera(self) -> FloatArray:
        """(C, 4, 4) of every calibrated sensor."""
        poses = self.columns["calibration.camera_to_ego"]
        return geometry.transform(poses[:, :3], poses[:, 3:])

    def camera_fields(self, frames: NDArray[np.int32], global_from_lidar: FloatArray) -> dict[str, Any]:
        """Return the fields of :class:`CameraFrames` for (N,) camera frames, seen from a lidar pose
        ``(4, 4)``.
        """
        columns = self.columns
        calibration = columns["camera_frame.calibration"][frames]
        pose = columns["camera_frame.ego_pose"][frames]
        global_from_camera = geometry.transform(pose[:, :3], pose[:, 3:]) @ self._ego_from_camera[calibration]
        return {
            "image_paths": columns["camera_frame.path"].take(frames),
            "image_tokens": columns["camera_frame.token"].take(frames),
            "image_timestamps": columns["camera_frame.timestamp"][frames],
            "image_sizes": columns["camera_frame.size"][frames],
            "intrinsics": columns["calibration.intrinsic"][calibration],
            "lidar_from_camera": geometry.invert_rigid(global_from_lidar) @ global_from_camera,
        }

    def __getitem__(self, index: int) -> Keyframe:
        """Return a keyframe; negative indices count from the end."""
        if index < 0:
            index += len(self)
        if not 0 <= index < len(self):
            raise IndexError(f"{self.path} holds {len(self)} keyframes, none numbered {index}")
        columns = self.columns
        box_offset, sweep_offset = columns["keyframe.box_offset"], columns["keyframe.sweep_offset"]
        rows = slice(int(box_offset[index]), int(box_offset[index + 1]))
        numbers = range(rows.start, rows.stop)
        lidar_to_ego, ego_to_global = columns["keyframe.lidar_to_ego"][index], columns["keyframe.ego_to_global"][index]
        pose = geometry.transform(ego_to_global[:3], ego_to_global[3:]) @ geometry.transform(
            lidar_to_ego[:3], lidar_to_ego[3:]
        )
        names, attributes = self.metadata["names"], self.metadata["attributes"]
        return Keyframe(
            **self.camera_fields(columns["keyframe.camera_frame"][index], pose),
            token=columns["keyframe.token"][index],
            scene_name=columns["keyframe.scene_name"][index],
            scene_token=columns["keyframe.scene_token"][index],
            timestamp=int(columns["keyframe.timestamp"][index]),
            lidar_token=columns["keyframe.lidar_token"][index],
            lidar_path=columns["keyframe.lidar_path"][index],
            lidar_to_ego=(lidar_to_ego[:3], lidar_to_ego[3:]),
            ego_to_global=(ego_to_global[:3], ego_to_global[3:]),
            boxes=columns["box.box"][rows],
            velocities=columns["box.velocity"][rows],
            names=[names[code] for code in columns["box.name"][rows]],
            num_lidar_pts=columns["box.num_lidar_pts"][rows],
            num_radar_pts=columns["box.num_radar_pts"][rows],
            valid=columns["box.valid"][rows].view(bool),
            annotation_tokens=columns["box.token"].take(numbers),
            instance_tokens=columns["box.instance_token"].take(numbers),
            attributes=[attributes[code] for code in columns["box.attribute"][rows]],
            visibility=columns["box.visibility"][rows],
            num_sweeps=int(sweep_offset[index + 1] - sweep_offset[index]),
            global_from_lidar=pose,
            _store=self,
            _index=index,
        )
