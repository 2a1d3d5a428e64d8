"""Read an export whole, frame by frame, and settle what its files leave open: labels' source, cameras, time, poses, scenes."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import numpy as np
from PIL import Image

from petrflow.errors import PetrflowError
from petrflow.sources.xtreme1 import camera_names
from petrflow.sources.xtreme1.frames import FrameFiles, find_frames, image_folder_index, natural_key
from petrflow.sources.xtreme1.parse import Camera, Objects, choose_source, read_cameras, read_objects, read_results
from petrflow.sources.xtreme1.scenes import Scene, cut_scenes
from petrflow.sources.xtreme1.settings import Settings
from petrflow.sources.xtreme1.timing import read_poses, read_timestamps, timestamps_of_names


@dataclass
class Export:
    """An export read and understood, before anything is written."""

    frames: list[FrameFiles]
    objects: dict[str, Objects]
    cameras: dict[str, dict[int, Camera]]
    names: dict[int, str]
    axis: str
    times: dict[str, int] | None
    camera_times: dict[str, dict[int, int]]
    poses: dict[str, np.ndarray] | None
    scenes: list[Scene]
    reread_as_column_major: bool = False
    classes: Counter[str] = field(default_factory=Counter)
    unmapped: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)

    @classmethod
    def read(cls, folder: Path, settings: Settings) -> Export:
        notes: list[str] = []
        frames = find_frames(folder, settings.media_root)
        labelled = [frame for frame in frames if frame.result is not None]
        if len(labelled) < len(frames):
            notes.append(
                f"{len(frames) - len(labelled)} of {len(frames)} frames have no result/ and are left out: unlabelled, not empty."
            )
        objects = _read_objects(labelled, settings, notes)
        labelled = [frame for frame in labelled if frame.label in objects]
        indices = _camera_indices(labelled, settings)
        cameras = {frame.label: _frame_cameras(frame, indices, settings) for frame in labelled}
        reread = any(camera.reread_as_column_major for frame in cameras.values() for camera in frame.values())
        if reread:
            notes.append(
                "cameraExternal holds its translation in the last row although rowMajor does not say false: read as column-major, as Xtreme1's "
                "own viewer does. `external_layout: column_major` says so; `row_major` forces the other reading."
            )
        first = cameras[labelled[0].label]
        directions = {index: first[index].camera_from_cloud[2, :3] for index in indices}
        given = None
        if settings.cameras:
            given = {
                index: settings.cameras[name]
                for name in settings.cameras
                if (index := image_folder_index(name)) is not None
            }
        axis = camera_names.forward_axis(directions, given, settings.forward)
        names = given or camera_names.derive_names(directions, axis)
        notes += camera_names.describe_directions(directions, names, axis)
        times, camera_times = _read_times(labelled, settings, notes)
        labelled.sort(key=lambda frame: (frame.scene, times[frame.label] if times else 0, natural_key(frame.name)))
        _check_times(labelled, times)
        poses = _read_poses(labelled, settings, times, notes)
        tracks = {label: {track for track in found.tracks if track} for label, found in objects.items()}
        scenes = cut_scenes(labelled, times, tracks, settings.splits, settings.scene_gap)
        return cls(labelled, objects, cameras, names, axis, times, camera_times, poses, scenes, reread, notes=notes)


# ------------------------------------------------------------------------------------------------------------------ reading


def _read_objects(frames: list[FrameFiles], settings: Settings, notes: list[str]) -> dict[str, Objects]:
    results = {frame.label: read_results(frame.result) for frame in frames if frame.result is not None}
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
        frame.label: read_objects(_result_of(frame), results[frame.label][source], settings)
        for frame in frames
        if source in results[frame.label]
    }
    if len(objects) < len(frames):
        notes.append(f"{len(frames) - len(objects)} frames have no result of source '{source}' and are left out.")
    if not any(len(found.boxes) for found in objects.values()):
        raise PetrflowError(
            "The results hold objects but no 3D_BOX with a size. PETR needs 3D boxes: label in the point cloud view, not in images alone."
        )
    skipped: Counter[str] = Counter()
    for found in objects.values():
        skipped.update(found.skipped)
    notes += [f"{count} 3D boxes {reason} are left out." for reason, count in sorted(skipped.items())]
    tilted = sum(found.tilted for found in objects.values())
    if tilted:
        notes.append(
            f"{tilted} boxes are tilted (rotation3D.x or y beyond 3 degrees): nuScenes' detection boxes are upright, only the yaw is kept."
        )
    return objects


def _result_of(frame: FrameFiles) -> Path:
    assert frame.result is not None
    return frame.result


def _camera_indices(frames: list[FrameFiles], settings: Settings) -> list[int]:
    """Folder numbers of the cameras to use, 1 to 12 of them."""
    if not frames:
        raise PetrflowError(
            "No frame has a result/NAME.json: there is nothing to train on. Export with annotations included."
        )
    present = sorted({index for frame in frames for index in frame.images})
    if settings.cameras:
        indices = []
        for name in settings.cameras:
            index = image_folder_index(name)
            if index is None or index not in present:
                held = ", ".join(f"camera_image_{found}" for found in present) or "no images"
                raise PetrflowError(f"`cameras` names {name}, and the export holds {held}.")
            indices.append(index)
    else:
        indices = present
    if not 1 <= len(indices) <= 12:
        raise PetrflowError(
            f"The export holds {len(indices)} cameras; from 1 to 12 can be used. Choose with `cameras`."
        )
    return indices


def _frame_cameras(frame: FrameFiles, indices: list[int], settings: Settings) -> dict[int, Camera]:
    """A frame's cameras by folder number, with intrinsics that fit the images as they are on disk."""
    if frame.config is None:
        raise PetrflowError(
            f"Frame {frame.label} has no camera_config/{frame.name}.json. Without calibration a frame cannot be used; add it."
        )
    entries = read_cameras(frame.config, settings)
    cameras = {}
    for index, entry in camera_names.camera_entries(indices, settings).items():
        if index not in frame.images:
            raise PetrflowError(
                f"Frame {frame.label} has no image in camera_image_{index}/. Add the file, or choose cameras with `cameras`."
            )
        if entry >= len(entries):
            raise PetrflowError(
                f"{frame.config} has {len(entries)} cameras, and camera_image_{index} would be number {entry + 1}. Add its calibration."
            )
        cameras[index] = _fit_to_image(frame.images[index], frame.config, entries[entry], settings.scale_intrinsics)
    return cameras


def _fit_to_image(image: Path, config: Path, camera: Camera, scale: bool) -> Camera:
    try:
        with Image.open(image) as opened:
            size = opened.size
    except OSError as error:
        raise PetrflowError(f"{image} is no readable image ({error}). Copy it again.") from error
    if camera.size == size or 0 in camera.size:
        return Camera(camera.intrinsic, camera.camera_from_cloud, size, camera.reread_as_column_major)
    if not scale:
        raise PetrflowError(
            f"{image} is {size[0]}x{size[1]} pixels, and {config} says {camera.size[0]}x{camera.size[1]}: the intrinsics are for another size. "
            "Set `scale_intrinsics: true` if the images were resized, or put the original ones back."
        )
    factors = np.diag([size[0] / camera.size[0], size[1] / camera.size[1], 1.0])
    return Camera(factors @ camera.intrinsic, camera.camera_from_cloud, size, camera.reread_as_column_major)


def _read_times(
    frames: list[FrameFiles], settings: Settings, notes: list[str]
) -> tuple[dict[str, int] | None, dict[str, dict[int, int]]]:
    if settings.timestamps not in (None, "names", "none"):
        return read_timestamps(Path(str(settings.timestamps)).expanduser(), frames)
    times = None if settings.timestamps == "none" else timestamps_of_names(frames)
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
    frames: list[FrameFiles], settings: Settings, times: dict[str, int] | None, notes: list[str]
) -> dict[str, np.ndarray] | None:
    if settings.poses:
        return read_poses(settings.poses, frames)
    notes.append(
        "poses: none. The vehicle is taken as standing still: if it moves, the previous frame is placed as though it had not"
        + (", and velocities from tracks are relative to the vehicle, not to the ground." if times else ".")
        + " Give `poses` if it moves."
    )
    return None
