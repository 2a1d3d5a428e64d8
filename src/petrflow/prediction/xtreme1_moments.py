"""One moment of Xtreme1's, as files: what the model finds in it, in the tool's own terms.

Cameras and pictures are read by the importer, and the sample is made by the data set that training
uses, so that a moment gives here what its frame gives after an import.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from petrflow.errors import InputError
from petrflow.evaluation.thresholds import confident
from petrflow.files import read_json
from petrflow.geometry import invert_rigid
from petrflow.nuscenes.names import in_camera_order
from petrflow.pictures.read import header_size
from petrflow.prediction.xtreme1_results import in_the_tools_terms
from petrflow.samples.dataset import PetrDataset
from petrflow.samples.types import Predicts
from petrflow.sources.xtreme1 import camera_names
from petrflow.sources.xtreme1.camera_reader import CameraReader, cameras_used
from petrflow.sources.xtreme1.frames import Document, FrameFiles, camera_of_folder, natural_key
from petrflow.sources.xtreme1.images import bring
from petrflow.sources.xtreme1.parse import Camera
from petrflow.sources.xtreme1.settings import Settings

MOST_PIXELS = 64_000_000
"""Pixels of the largest picture that is decoded."""
_AXES = ("+x", "-x", "+y", "-y")


@dataclass(frozen=True)
class Found:
    """Objects of one moment.

    Attributes
    ----------
    names : list of str
        Class of each, as the model calls it.
    scores : (N,) float64
    centres, sizes : (N, 3) float64
    yaws : (N,) float64
        As :func:`petrflow.prediction.xtreme1_results.in_the_tools_terms` gives them.
    """

    names: list[str]
    scores: np.ndarray
    centres: np.ndarray
    sizes: np.ndarray
    yaws: np.ndarray


def cameras_of(urls: Sequence[str], paths: Sequence[str]) -> list[str]:
    """Return the camera of each picture of a request: the number or the name of its image folder.

    Xtreme1 keeps the folder in a picture's address. Where an address has none, the pictures come
    in the order of the folders' names as text: ``camera_image_10`` before ``camera_image_2``.

    Parameters
    ----------
    urls : sequence of str
        Addresses, one a picture.
    paths : sequence of str
        Their paths, unquoted.
    """
    named = [camera_of_folder(Path(path).parent.name) for path in paths]
    if None not in named and len(set(named)) == len(named):
        return [str(camera) for camera in named]
    return sorted(str(number) for number in range(len(urls)))


class MomentModel:
    """A model that is asked about single moments of Xtreme1's.

    Parameters
    ----------
    model : ExportedModel
        Anything with ``predict(batch)``.
    model_config : mapping
        The parsed model file.
    settings : Settings
        Of the data set whose frames these are.
    scores : (C,) float64
        Score from which on a box of each class is handed over.
    way_back : Path, optional
        ``frames.json`` of the data set's import, which settled the direction ahead. Without it the
        cameras settle it anew, by the importer's rule.
    """

    def __init__(
        self,
        model: Predicts,
        model_config: Mapping[str, Any],
        settings: Settings,
        scores: np.ndarray,
        way_back: Path | None = None,
    ) -> None:
        self._model, self._config, self.settings, self._scores = model, dict(model_config), settings, scores
        self._names = list(model_config["class_names"])
        self._axis = ""
        if way_back is not None and way_back.is_file():
            known = np.array(read_json(way_back)["lidar_from_cloud"])
            self._axis = next(axis for axis in _AXES if np.allclose(camera_names.lidar_from_cloud(axis, None)[:3, :3], known[:3, :3]))  # fmt: skip

    def wanted(self, cameras: Sequence[str]) -> list[str]:
        """Return which of a moment's cameras the model is given; a wrong number is said here."""
        used = cameras_used(sorted(cameras, key=natural_key), self.settings)
        expected = self.num_cameras
        if expected and len(used) != expected:
            raise InputError(
                f"The frame has {len(used)} cameras, and the model was exported for {expected}: choose them with `cameras` of the data set."
            )
        return used

    @property
    def num_cameras(self) -> int:
        """Cameras that the model takes; 0 where it does not say."""
        record = getattr(self._model, "record", None)
        return int(record["inputs"]["images"][1]) // 2 if record else 0

    def find(self, config: Path, pictures: Mapping[str, Path], cameras: Sequence[str], scratch: Path) -> Found:
        """Return what the model finds; the present pictures stand for those of the frame before.

        Parameters
        ----------
        config : Path
            camera_config of the moment.
        pictures : mapping
            File of each wanted camera's picture.
        cameras : sequence of str
            All cameras of the moment.
        scratch : Path
            An empty folder, for pictures that must be turned, undistorted or converted.
        """
        used = self.wanted(cameras)
        reader = CameraReader(sorted(cameras, key=natural_key), used, self.settings)
        frame = FrameFiles("", "moment", images=dict(pictures), config=Document("camera_config", config))
        calibrated, files = reader.read(frame)
        for camera, file in files.items():
            if file.size[0] * file.size[1] > MOST_PIXELS:
                raise InputError(
                    f"The picture of {camera_names.folder_of(camera)} is {file.size[0]}x{file.size[1]} px, and {MOST_PIXELS // 1_000_000} million are the most that is decoded."
                )
        channels, axis = self._names_of(calibrated, used, reader.axis)
        cloud_from_lidar = invert_rigid(camera_names.lidar_from_cloud(axis, self.settings.origin_height))
        order = in_camera_order(channels.values())
        of_channel = {channel: camera for camera, channel in channels.items()}
        rig = [calibrated[of_channel[channel]] for channel in order]
        paths = [
            bring(files[of_channel[channel]], scratch / str(number), camera.intrinsic, camera.lens)[0]
            for number, (channel, camera) in enumerate(zip(order, rig, strict=True))
        ]
        keyframe = SimpleNamespace(
            token="moment",
            timestamp=0,
            num_sweeps=0,
            image_paths=[path.name for path in paths],
            image_timestamps=np.zeros(len(order), np.int64),
            image_sizes=np.array([header_size(path) for path in paths]),
            intrinsics=np.stack([camera.intrinsic for camera in rig]),
            lidar_from_camera=np.stack([invert_rigid(camera.camera_from_cloud @ cloud_from_lidar) for camera in rig]),
        )
        dataset = PetrDataset(None, scratch, self._config, training=False, store=_Moment(keyframe, order))
        sample: dict[str, Any] = dict(dataset.load(0))
        batch: Any = {key: sample[key][None] for key in ("img", "lidar2img", "intrinsics", "timestamp")}
        (every,) = self._model.predict(batch | {"token": [sample["token"]]})
        best = confident(every, self._scores)
        rules = {
            "length_unit": self.settings.length_unit["boxes"],
            "size_order": self.settings.size_order,
            "yaw_offset": self.settings.yaw_offset,
            "angle_unit": self.settings.angle_unit,
        }
        boxes = np.asarray(best.boxes, np.float64).reshape(-1, 9)
        terms = in_the_tools_terms(boxes, cloud_from_lidar, rules)
        return Found([self._names[int(label)] for label in best.labels], np.asarray(best.scores, np.float64), *terms)

    def _names_of(self, cameras: Mapping[str, Camera], used: Sequence[str], named: str) -> tuple[dict[str, str], str]:
        """Return the channel of each camera, and the cloud's axis ahead: ``named`` where the names of
        the folders tell it.
        """
        directions = {camera: cameras[camera].camera_from_cloud[2, :3] for camera in used}
        given = None
        if self.settings.cameras:
            given = {str(camera_of_folder(folder)): channel for folder, channel in self.settings.cameras.items()}
        ahead = named if named and self.settings.forward == "auto" else self.settings.forward
        axis = self._axis or camera_names.forward_axis(directions, given, ahead)
        return given or camera_names.derive_names(directions, axis), axis


class _Moment:
    """Stands for an annotation store of one keyframe without boxes."""

    def __init__(self, keyframe: SimpleNamespace, cameras: Sequence[str]) -> None:
        self._keyframe, self.camera_names = keyframe, tuple(cameras)
        self.metadata: dict[str, list[str]] = {"names": []}

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> SimpleNamespace:
        return self._keyframe
