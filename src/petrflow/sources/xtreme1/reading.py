"""Read an export whole, frame by frame, and settle what its files leave open: labels' source,
cameras, time, poses, scenes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import numpy as np

from petrflow.errors import CannotWrite, PetrflowError
from petrflow.sources.xtreme1 import camera_names
from petrflow.sources.xtreme1.camera_reader import CameraReader, cameras_used
from petrflow.sources.xtreme1.finding import find_frames
from petrflow.sources.xtreme1.frames import FrameFiles, camera_of_folder, natural_key
from petrflow.sources.xtreme1.images import Picture
from petrflow.sources.xtreme1.labels import read_labels
from petrflow.sources.xtreme1.media import Media
from petrflow.sources.xtreme1.parse import Camera, Objects
from petrflow.sources.xtreme1.pcd import check_cloud
from petrflow.sources.xtreme1.scenes import Scene, cut_scenes
from petrflow.sources.xtreme1.settings import Settings
from petrflow.sources.xtreme1.timing import read_poses, read_timestamps, timestamps_of_names
from petrflow.sources.xtreme1.tracks import doubt_tracks

# Unlabelled frames longer before a keyframe than this are no previous frames of it, µs.
_LONGEST_LOOK_BACK = 3_000_000
# Where time is unknown: at most so many.
_MOST_SWEEPS = 10
_REREAD = (
    "cameraExternal holds its translation in the last row although rowMajor does not say false: read as column-major, as Xtreme1's "
    "own viewer does. `external_layout: column_major` says so; `row_major` forces the other reading."
)


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
        """Read the export at `source`, a folder or a JSON file; media from elsewhere goes to
        `media_place`.
        """
        notes: list[str] = []
        frames = find_frames(source, notes)
        # Which frames are labelled, and by whom.
        labelled = [frame for frame in frames if frame.result is not None]
        objects = read_labels(labelled, settings, notes)
        labelled = [frame for frame in labelled if frame.label in objects]
        # Files and calibration of the frames that are used.
        present = sorted({camera for frame in labelled for camera in frame.cameras}, key=natural_key)
        if not present and labelled and labelled[0].problem:
            raise PetrflowError(labelled[0].problem)
        used = cameras_used(present, settings)
        media = Media(settings, media_place)
        media.bring(labelled, used)
        reader = CameraReader(present, used, settings)
        cameras, pictures, faults = _read_cameras(labelled, reader)
        labelled = _without_faults(labelled, faults, settings, notes)
        objects = {frame.label: objects[frame.label] for frame in labelled}
        reread = any(camera.reread_as_column_major for frame in cameras.values() for camera in frame.values())
        if reread:
            notes.append(_REREAD)
        notes += reader.notes()
        # What the cameras are called.
        names, axis = _name_cameras(cameras[labelled[0].label], used, reader, settings, notes)
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


def _read_cameras(
    frames: Sequence[FrameFiles], reader: CameraReader
) -> tuple[dict[str, dict[str, Camera]], dict[str, dict[str, Picture]], dict[str, PetrflowError]]:
    """Return, by frame, its cameras, its images, and the error of a frame that cannot be used."""
    cameras: dict[str, dict[str, Camera]] = {}
    pictures: dict[str, dict[str, Picture]] = {}
    faults: dict[str, PetrflowError] = {}
    for frame in frames:
        try:
            cameras[frame.label], pictures[frame.label] = reader.read(frame)
            check_cloud(frame.cloud)
        except PetrflowError as error:
            faults[frame.label] = error
    return cameras, pictures, faults


def _name_cameras(
    cameras: Mapping[str, Camera], used: Sequence[str], reader: CameraReader, settings: Settings, notes: list[str]
) -> tuple[dict[str, str], str]:
    """Return the channel of each camera, and the axis of the point cloud that points forward."""
    directions = {camera: cameras[camera].camera_from_cloud[2, :3] for camera in used}
    given = None
    if settings.cameras:
        given = {str(camera_of_folder(folder)): channel for folder, channel in settings.cameras.items()}
    forward = reader.axis if reader.axis and settings.forward == "auto" else settings.forward
    axis = camera_names.forward_axis(directions, given, forward)
    names = given or camera_names.derive_names(directions, axis)
    notes += camera_names.describe_directions(directions, names, axis)
    return names, axis


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
