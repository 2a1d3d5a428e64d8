"""Read an export whole, frame by frame, and settle what its files leave open: labels' source,
cameras, time, poses, scenes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from petrflow.errors import CannotWrite, PetrflowError
from petrflow.sources.xtreme1 import camera_names
from petrflow.sources.xtreme1.camera_names import folder_of
from petrflow.sources.xtreme1.frames import Document, FrameFiles, camera_of_folder, find_frames, natural_key
from petrflow.sources.xtreme1.images import Picture, look_at
from petrflow.sources.xtreme1.media import Media
from petrflow.sources.xtreme1.parse import (
    Camera,
    Objects,
    camera_entries_of,
    choose_source,
    data_id_of,
    read_camera,
    read_objects,
    read_results,
)
from petrflow.sources.xtreme1.pcd import check_cloud
from petrflow.sources.xtreme1.scenes import Scene, cut_scenes
from petrflow.sources.xtreme1.settings import Settings
from petrflow.sources.xtreme1.timing import read_poses, read_timestamps, timestamps_of_names
from petrflow.sources.xtreme1.tracks import doubt_tracks

# rad; Xtreme1 writes angles within a turn, other tools a few turns of them.
_LARGEST_ANGLE = 20.0
# Unlabelled frames longer before a keyframe than this are no previous frames of it, µs.
_LONGEST_LOOK_BACK = 3_000_000
# Where time is unknown: at most so many.
_MOST_SWEEPS = 10


@dataclass
class Export:
    """An export read and understood, before anything is written.

    Everything by frame goes by the frame's label, and within it by camera. `sweeps` holds the
    unlabelled frames before a labelled one.
    """

    frames: list[FrameFiles]
    objects: dict[str, Objects]
    cameras: dict[str, dict[str, Camera]]
    pictures: dict[str, dict[str, Picture]]
    names: dict[str, str]
    entries: dict[str, int]
    axis: str
    times: dict[str, int] | None
    camera_times: dict[str, dict[str, int]]
    poses: dict[str, np.ndarray] | None
    scenes: list[Scene]
    sweeps: dict[str, list[FrameFiles]] = field(default_factory=dict)
    tracks_used: bool = False
    cameras_left_out: bool = False
    reread_as_column_major: bool = False
    classes: Counter[str] = field(default_factory=Counter)
    unmapped: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)

    @classmethod
    def read(cls, source: Path, settings: Settings, media_place: Path) -> Export:
        notes: list[str] = []
        frames = find_frames(source, notes)
        # Which frames are labelled, and by whom.
        labelled = [frame for frame in frames if frame.result is not None]
        objects = _read_objects(labelled, settings, notes)
        labelled = [frame for frame in labelled if frame.label in objects]
        # Files and calibration of the frames that are used.
        present = sorted({camera for frame in labelled for camera in frame.cameras}, key=natural_key)
        if not present and labelled and labelled[0].problem:
            raise PetrflowError(labelled[0].problem)
        used = cameras_used(present, settings)
        media = Media(settings, media_place)
        media.bring(labelled, used)
        reader = CameraReader(present, used, settings)
        cameras: dict[str, dict[str, Camera]] = {}
        pictures: dict[str, dict[str, Picture]] = {}
        faults: dict[str, PetrflowError] = {}
        for frame in labelled:
            try:
                cameras[frame.label], pictures[frame.label] = reader.read(frame)
                check_cloud(frame.cloud)
            except PetrflowError as error:
                faults[frame.label] = error
        labelled = _without_faults(labelled, faults, settings, notes)
        objects = {frame.label: objects[frame.label] for frame in labelled}
        reread = any(camera.reread_as_column_major for frame in cameras.values() for camera in frame.values())
        if reread:
            notes.append(
                "cameraExternal holds its translation in the last row although rowMajor does not say false: read as column-major, as Xtreme1's "
                "own viewer does. `external_layout: column_major` says so; `row_major` forces the other reading."
            )
        notes += reader.notes()
        # What the cameras are called.
        first = cameras[labelled[0].label]
        directions = {camera: first[camera].camera_from_cloud[2, :3] for camera in used}
        given = None
        if settings.cameras:
            given = {str(camera_of_folder(folder)): channel for folder, channel in settings.cameras.items()}
        forward = reader.axis if reader.axis and settings.forward == "auto" else settings.forward
        axis = camera_names.forward_axis(directions, given, forward)
        names = given or camera_names.derive_names(directions, axis)
        notes += camera_names.describe_directions(directions, names, axis)
        # Time, motion, scenes.
        others = [frame for frame in frames if frame.label not in objects and frame.label not in faults]
        times, camera_times = _read_times(labelled, others, settings, notes)
        labelled.sort(key=lambda frame: (frame.scene, times[frame.label] if times else 0, natural_key(frame.name)))
        _check_times(labelled, times)
        poses = _read_poses(labelled, others, settings, notes)
        tracks = {label: {track for track in found.tracks if track} for label, found in objects.items()}
        scenes = cut_scenes(labelled, times, tracks, settings.splits, settings.scene_gap)
        export = cls(
            labelled, objects, cameras, pictures, names, reader.entries, axis, times, camera_times, poses, scenes,
            cameras_left_out=len(names) < len(present), reread_as_column_major=reread, notes=notes,
        )  # fmt: skip
        export.tracks_used = export._judge_tracks(settings)
        export._add_sweeps(others, reader, media)
        return export

    def _judge_tracks(self, settings: Settings) -> bool:
        """Whether tracks give velocities over the ground: with time, with poses or a vehicle that
        stood, and with ids that are tracks.
        """
        if self.times is None:
            return False
        runs = [
            [(self.times[frame.label], self.objects[frame.label]) for frame in scene.frames] for scene in self.scenes
        ]
        if doubt := doubt_tracks(runs):
            self.notes.append(doubt)
        return (self.poses is not None or settings.ego == "still") and not doubt

    def _add_sweeps(self, others: Sequence[FrameFiles], reader: CameraReader, media: Media) -> None:
        """Make unlabelled frames the previous frames of the labelled ones after them, where they
        have all that this takes.
        """
        known = [
            frame
            for frame in others
            if (self.times is None or frame.label in self.times) and (self.poses is None or frame.label in self.poses)
        ]
        in_scenes: dict[str, list[FrameFiles]] = {}
        for frame in known:
            in_scenes.setdefault(frame.scene, []).append(frame)
        wanted: dict[str, list[FrameFiles]] = {}
        last: dict[str, FrameFiles] = {}
        for scene in self.scenes:
            for frame in scene.frames:
                if self.times is not None or len(scene.frames) > 1 or frame.scene:
                    before = last.get(frame.scene)
                    wanted[frame.label] = _between(in_scenes.get(frame.scene, []), before, frame, self.times)
                last[frame.scene] = frame
        dropped: list[str] = []
        for label, frames in wanted.items():
            for frame in frames:
                try:
                    media.bring([frame], self.names)
                    self.cameras[frame.label], self.pictures[frame.label] = reader.read(frame)
                except CannotWrite:  # a full disk is no fault of the frame
                    raise
                except PetrflowError as error:
                    dropped.append(str(error))
                    continue
                self.sweeps.setdefault(label, []).append(frame)
        count = sum(map(len, self.sweeps.values()))
        if others:
            self.notes.append(
                f"{len(others)} of {len(others) + len(self.frames)} frames have no labels: unlabelled, not empty. {count} of them, taken shortly "
                "before a labelled one, are its previous frames; the others are left out."
            )
        if dropped:
            self.notes.append(
                f"{len(dropped)} unlabelled frames cannot be previous frames; the first: {dropped[0].splitlines()[0]}"
            )


def _without_faults(
    frames: list[FrameFiles], faults: Mapping[str, PetrflowError], settings: Settings, notes: list[str]
) -> list[FrameFiles]:
    """Drop frames whose image, calibration or cloud is missing or broken, up to the share that the
    settings allow.
    """
    if not faults:
        return frames
    first = next(iter(faults.values()))
    share = len(faults) / len(frames)
    if share > settings.max_missing:
        if len(faults) == 1:
            raise first
        raise PetrflowError(
            f"{first} {len(faults)} of {len(frames)} labelled frames cannot be used ({100 * share:.1f} %; `max_missing` allows "
            f"{100 * settings.max_missing:.1f} %)."
        ) from first
    listed = ", ".join(list(faults)[:5]) + (" …" if len(faults) > 5 else "")
    notes.append(f"{len(faults)} of {len(frames)} labelled frames are left out ({listed}); the first: {first}")
    return [frame for frame in frames if frame.label not in faults]


def _between(
    others: Sequence[FrameFiles], before: FrameFiles | None, frame: FrameFiles, times: Mapping[str, int] | None
) -> list[FrameFiles]:
    """Unlabelled frames after the labelled one before and shortly before this one, in order."""
    if times is not None:
        start = max(times[before.label] if before else 0, times[frame.label] - _LONGEST_LOOK_BACK)
        found = [other for other in others if start < times[other.label] < times[frame.label]]
        return sorted(found, key=lambda other: times[other.label])
    if before is None:
        return []
    first, last = natural_key(before.name), natural_key(frame.name)
    found = [other for other in others if first < natural_key(other.name) < last]
    return sorted(found, key=lambda other: natural_key(other.name))[-_MOST_SWEEPS:]


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


# ------------------------------------------------------------------------------------------------------------------ reading


def _read_objects(frames: list[FrameFiles], settings: Settings, notes: list[str]) -> dict[str, Objects]:
    if not frames:
        raise PetrflowError(
            "No frame has a result/NAME.json: there is nothing to train on. Export with annotations included."
        )
    results = {frame.label: read_results(_result_of(frame)) for frame in frames}
    sources = {source for found in results.values() for source, objects in found.items() if objects}
    if not sources:
        raise PetrflowError(
            f"The results are empty: {len(results)} result files hold no object. Export with annotations included, and check that the frames are labelled."
        )
    source = choose_source(sources, settings.result_source)
    if len(sources) > 1:
        notes.append(
            f"labels are those of source '{source}'; others in the results: {', '.join(sorted(sources - {source}))}."
        )
    objects = {
        frame.label: read_objects(_result_of(frame).where, results[frame.label][source], settings)
        for frame in frames
        if source in results[frame.label]
    }
    for frame in frames:
        if frame.label in objects:
            objects[frame.label].data_id = data_id_of(_result_of(frame))
    if len(objects) < len(frames):
        notes.append(
            f"{len(frames) - len(objects)} frames have a result, and none of source '{source}': they count as unlabelled."
        )
    if not any(len(found.boxes) for found in objects.values()):
        raise PetrflowError(
            "The results hold objects but no 3D_BOX with a size. PETR needs 3D boxes: label in the point cloud view, not in images alone."
        )
    skipped: Counter[str] = Counter()
    for found in objects.values():
        skipped.update(found.skipped)
    notes += [f"{count} 3D boxes {reason} are left out." for reason, count in sorted(skipped.items())]
    largest = max(found.largest_angle for found in objects.values())
    if largest > _LARGEST_ANGLE and settings.angle_unit == "rad":
        raise PetrflowError(
            f"rotation3D reaches {largest:.0f}, which is no angle in radians. Set `angle_unit: deg` if the labels are in degrees, or correct them."
        )
    tilted = sum(found.tilted for found in objects.values())
    if tilted:
        notes.append(
            f"{tilted} boxes are tilted (rotation3D.x or y beyond 3 degrees): nuScenes' detection boxes are upright, only the yaw is kept."
        )
    return objects


def _result_of(frame: FrameFiles) -> Document:
    assert frame.result is not None
    return frame.result


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


def _read_times(
    frames: list[FrameFiles], others: list[FrameFiles], settings: Settings, notes: list[str]
) -> tuple[dict[str, int] | None, dict[str, dict[str, int]]]:
    """Timestamps in µs by frame, and by frame those of cameras; of `others` where they have one."""
    if settings.timestamps not in (None, "names", "none"):
        return read_timestamps(Path(str(settings.timestamps)).expanduser(), frames, others)
    times = None if settings.timestamps == "none" else timestamps_of_names(frames, others)
    if times is None and settings.timestamps == "names":
        raise PetrflowError(
            "`timestamps: names`, but not every file name holds a time since 1970 (10, 13, 16 or 19 digits). Give a CSV, or `none`."
        )
    notes.append(
        "timestamps: from the file names."
        if times
        else "timestamps: unknown. Frames follow their names, half a second apart for the previous-frame input; no velocity is derived from tracks. "
        "Give `timestamps` to have velocities."
    )
    return times, {}


def _check_times(frames: list[FrameFiles], times: dict[str, int] | None) -> None:
    for earlier, later in pairwise(frames):
        if times and earlier.scene == later.scene and times[earlier.label] == times[later.label]:
            raise PetrflowError(
                f"Frames {earlier.label} and {later.label} have one timestamp, {times[later.label]} µs. Correct `timestamps`."
            )


def _read_poses(
    frames: list[FrameFiles], others: list[FrameFiles], settings: Settings, notes: list[str]
) -> dict[str, np.ndarray] | None:
    if settings.poses:
        return read_poses(settings.poses, frames, others)
    if settings.ego != "still":
        notes.append(
            "poses: none. The previous frame is placed as though the vehicle had stood, and tracks give no velocity, as the vehicle's own motion "
            "is unknown. Give `poses` if it moved, or `ego: still` if it stood."
        )
    return None
