"""Reads the calibration and the images of one frame after the other, for the cameras that are used."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from petrflow.errors import PetrflowError
from petrflow.sources.xtreme1 import camera_names
from petrflow.sources.xtreme1.camera_names import folder_of
from petrflow.sources.xtreme1.frames import Document, FrameFiles, camera_of_folder
from petrflow.sources.xtreme1.images import Picture, look_at
from petrflow.sources.xtreme1.parse import Camera, camera_entries_of, read_camera
from petrflow.sources.xtreme1.settings import Settings


class CameraReader:
    """Calibration and images of frames, cameras paired with the entries of camera_config."""

    def __init__(self, present: Sequence[str], used: Sequence[str], settings: Settings) -> None:
        self.present, self.used, self.settings = present, used, settings
        self.entries: dict[str, int] = {}
        self.named: dict[str, int] | None = None
        self.axis = ""
        self.undistorted: Counter[str] = Counter()
        self.turned = 0
        self.converted = 0

    def read(self, frame: FrameFiles) -> tuple[dict[str, Camera], dict[str, Picture]]:
        """Return a frame's cameras, with intrinsics that fit the images as they are shown, and the
        images.
        """
        if frame.problem:
            raise PetrflowError(frame.problem)
        if frame.config is None:
            raise PetrflowError(
                f"Frame {frame.label} has no camera_config/{frame.name}.json. Without calibration a frame cannot be used; add it."
            )
        missing = [camera for camera in self.used if camera not in frame.images]
        if missing:
            raise PetrflowError(
                f"Frame {frame.label} has no image in {folder_of(missing[0])}/. Add the file, or choose cameras with `cameras`."
            )
        listed = camera_entries_of(frame.config)
        entries = self._by_name(listed, frame.config.where) or camera_names.camera_entries(
            self.present, len(listed), self.settings, frame.config.where
        )
        self.entries = self.entries or {camera: entries[camera] for camera in self.used}
        cameras, pictures = {}, {}
        for camera in self.used:
            if entries[camera] >= len(listed):
                raise PetrflowError(
                    f"{frame.config.where} has {len(listed)} cameras, and {folder_of(camera)} would be number {entries[camera] + 1}. Add its "
                    "calibration."
                )
            calibrated = read_camera(
                f"{frame.config.where}, camera {entries[camera]}", listed[entries[camera]], self.settings
            )
            pictures[camera] = look_at(frame.images[camera])
            cameras[camera] = _fit_to_image(pictures[camera], frame.config, calibrated, self.settings.scale_intrinsics)
            self.undistorted[calibrated.lens.model if calibrated.lens else ""] += 1
            self.turned += pictures[camera].orientation != 1
            self.converted += not pictures[camera].ending
        return cameras, pictures

    def _by_name(self, listed: list[Any], where: str) -> dict[str, int] | None:
        """Pair folders that are named by where they look, such as camera_image_front, with the
        entries that look there.
        """
        if self.settings.camera_order is not None or len(listed) != len(self.present):
            return None
        if self.named is None:
            try:
                cameras = [
                    read_camera(f"{where}, camera {index}", entry, self.settings) for index, entry in enumerate(listed)
                ]
            except PetrflowError:
                return None
            self.named, self.axis = camera_names.entries_by_name(
                self.present, [camera.camera_from_cloud[2, :3] for camera in cameras]
            )
        return self.named or None

    def notes(self) -> list[str]:
        """What happens to images."""
        notes = (
            ["image folders are paired with the entries of camera_config that look where their names say."]
            if self.named
            else []
        )
        notes += [
            f"{count} images are undistorted by OpenCV's {model} model, with the calibration's own coefficients and intrinsics."
            for model, count in sorted(self.undistorted.items())
            if model
        ]
        if self.turned:
            notes.append(f"{self.turned} images are turned as their EXIF says, and as Xtreme1 shows them.")
        if self.converted:
            notes.append(f"{self.converted} images are neither JPEG nor PNG and are converted to JPEG.")
        return notes


def cameras_used(present: Sequence[str], settings: Settings) -> list[str]:
    """Cameras to use, 1 to 12 of them."""
    held = ", ".join(map(folder_of, present)) or "no images"
    used = list(present)
    if settings.cameras:
        used = []
        for folder in settings.cameras:
            camera = camera_of_folder(folder)
            if camera is None or camera not in present:
                raise PetrflowError(f"`cameras` names {folder}, and the export holds {held}.")
            used.append(camera)
    if not 1 <= len(used) <= 12:
        raise PetrflowError(
            f"The export holds {len(used)} cameras ({held}); from 1 to 12 can be used. Image folders are camera_image_0/ or image0/ and so on; "
            "choose with `cameras`."
        )
    return used


def _fit_to_image(picture: Picture, config: Document, camera: Camera, scale: bool) -> Camera:
    if camera.size == picture.size or 0 in camera.size:
        return replace(camera, size=picture.size)
    if not scale:
        turned = " (as its EXIF turns it, and as Xtreme1 shows it)" if picture.orientation != 1 else ""
        raise PetrflowError(
            f"{picture.path} is {picture.size[0]}x{picture.size[1]} pixels{turned}, and {config.where} says {camera.size[0]}x{camera.size[1]}: "
            "the intrinsics are for another size. Set `scale_intrinsics: true` if the images were resized, or put the original ones back."
        )
    factors = np.diag([picture.size[0] / camera.size[0], picture.size[1] / camera.size[1], 1.0])
    return replace(camera, intrinsic=factors @ camera.intrinsic, size=picture.size)
