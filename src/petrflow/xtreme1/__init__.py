"""The Xtreme1 door: an upload or export folder, or its zip, becomes a nuScenes root.

    prepare({"kind": "xtreme1", "source": "/data/xtreme1_export"}, Path("data/parking_lot"))

Settings of a ``kind: xtreme1`` dataset (docs/xtreme1.md explains each):

===================== ============================================================================================================
source                folder or zip of the upload or export (required)
version               name of the tables' folder; default v1.0-xtreme1
media_root            folder that holds images and clouds which the export names only in ``data/*.json``
cameras               ``{camera_image_0: CAM_FRONT, ...}``: which image folders to use, their channels and order; default: all, named by
                      where they look
camera_order          image folders in the order of camera_config's entries; default: folder N has entry N
class_map             ``{className: car | vehicle.car | null, ...}`` on top of the built-in names; null leaves boxes out
timestamps            ``names``, ``none`` or a CSV; default: from file names where every name holds a time
poses                 CSV or JSON of the point cloud's poses in the world; default: the vehicle is taken as still
splits                ``{train: [scenes] | file, val: [scenes] | file}`` or ``{ratio: 0.2, seed: 0, by: scene | frame}``, the share
                      that goes to val
scene_gap             seconds without a frame after which a new scene starts; default 10
result_source         ``sourceName`` of the labels; default Ground Truth, else Without Task, else the only one
external_layout       ``file`` (what rowMajor says; default), ``row_major``, ``column_major``
external_direction    ``cloud_to_camera`` (default), ``camera_to_cloud``
external_rotation     ``as_given`` (default), ``transposed``
scale_intrinsics      true: where an image has another size than camera_config says, scale the intrinsics to it
yaw_offset            degrees added to every rotation3D.z; default 0
size_order            what size3D's x, y and z are; default lwh
length_unit           m (default), cm or mm; or ``{boxes: mm, externals: m, cloud: m}``
forward               the cloud's axis that points ahead: auto (default), +x, -x, +y, -y
origin_height         height of the cloud's origin above the ground, m; default: the cloud's origin is where the lidar is
doctor                false: the data step does not ask the doctor; default true
===================== ============================================================================================================
"""

from __future__ import annotations

import contextlib
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from petrflow.archive import extract
from petrflow.files import PetrflowError, atomic_dir, fingerprint, remove, sha256_file, temporary_path, write_json
from petrflow.geometry import invert_rigid, transform_boxes
from petrflow.xtreme1 import cameras as camera_names
from petrflow.xtreme1.classes import category_of
from petrflow.xtreme1.layout import FrameFiles, find_frames, image_folder_index, natural_key
from petrflow.xtreme1.parse import Camera, Objects, choose_source, read_cameras, read_objects, read_results
from petrflow.xtreme1.scenes import Scene, cut_scenes
from petrflow.xtreme1.settings import Settings, parse_settings
from petrflow.xtreme1.tables import FrameFacts, SceneFacts, Written, write_root
from petrflow.xtreme1.timing import ASSUMED_STEP, read_poses, read_timestamps, timestamps_of_names

__all__ = ["prepare"]


def prepare(dataset: Mapping[str, Any], root: Path) -> dict[str, Any]:
    """Turn an Xtreme1 upload or export into a nuScenes root. `petrflow.doctor.examine` should look at it next.

    Parameters
    ----------
    dataset
        The config's entry; the module's docstring lists its keys.
    root
        Folder to write, `data/{dataset}`: it appears whole, with `.complete.json`, or not at all.

    Returns
    -------
    The content of `.complete.json`.

    Raises
    ------
    PetrflowError
        Where the export cannot be read, or none of it could be trained on; the message names the cause and the setting that mends it.
    """
    settings = parse_settings(dataset)
    root = Path(root)
    with _opened(settings.source, root) as folder:
        export = _Export.read(folder, settings)
        with atomic_dir(root) as temporary:
            return _write(temporary, export, settings, dataset)


@contextlib.contextmanager
def _opened(source: Path, root: Path) -> Iterator[Path]:
    """Yield the export's folder; an archive is unpacked beside the root, so that images can be linked, and removed in the end."""
    if source.is_dir():
        yield source
        return
    folder = temporary_path(root, ".unpacked")
    try:
        extract(source, folder)
        yield folder
    finally:
        remove(folder)


@dataclass
class _Export:
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
    classes: Counter[str] = field(default_factory=Counter)
    unmapped: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)

    @classmethod
    def read(cls, folder: Path, settings: Settings) -> _Export:
        notes: list[str] = []
        frames = find_frames(folder, settings.media_root)
        labelled = [frame for frame in frames if frame.result is not None]
        if len(labelled) < len(frames):
            notes.append(
                f"{len(frames) - len(labelled)} of {len(frames)} frames have no result/ and are left out: unlabelled, not empty."
            )
        objects = _read_objects(labelled, settings, notes)
        indices = _camera_indices(labelled, settings)
        cameras = {frame.label: _frame_cameras(frame, indices, settings) for frame in labelled}
        if any(camera.reread_as_column_major for frame in cameras.values() for camera in frame.values()):
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
        return cls(labelled, objects, cameras, names, axis, times, camera_times, poses, scenes, notes=notes)


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
        frame.label: read_objects(_result_of(frame), results[frame.label].get(source, []), settings) for frame in frames
    }
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


# ------------------------------------------------------------------------------------------------------------------ writing


def _write(root: Path, export: _Export, settings: Settings, dataset: Mapping[str, Any]) -> dict[str, Any]:
    lidar_from_cloud = camera_names.lidar_from_cloud(export.axis, settings.origin_height)
    scenes = [
        SceneFacts(
            scene.name,
            scene.split,
            [
                _facts(export, frame, position, lidar_from_cloud, settings)
                for position, frame in enumerate(scene.frames)
            ],
        )
        for scene in export.scenes
    ]
    if export.unmapped and not sum(export.classes.values()) - sum(export.unmapped.values()):
        raise PetrflowError(
            f"No box has a class that training knows: {_listing(export.unmapped)}. Map them with `class_map`, as in {{{next(iter(export.unmapped))}: car}}."
        )
    written = write_root(
        root,
        settings.version,
        scenes,
        list(export.names.values()),
        lidar_from_cloud=lidar_from_cloud,
        cloud_unit=settings.length_unit["cloud"],
        times_known=export.times is not None,
    )
    notes = export.notes + _notes(export, written)
    for line in notes:
        print(f"xtreme1: {line}", file=sys.stderr)
    write_json(
        root / "import.json",
        {
            "notes": notes,
            "classes": export.classes,
            "unmapped": export.unmapped,
            "cameras": {
                export.names[index]: {"folder": f"camera_image_{index}", "entry": entry}
                for index, entry in camera_names.camera_entries(list(export.names), settings).items()
            },
        },
    )
    tables = {path.name: sha256_file(path) for path in sorted((root / settings.version).glob("*.json"))}
    # Other images under the same names are another data set; their sizes tell without reading them all.
    media = {str(path.relative_to(root)): path.stat().st_size for path in sorted((root / "samples").rglob("*.*"))}
    complete = {
        "kind": "xtreme1",
        "version": settings.version,
        "splits": {split: [scene.name for scene in scenes if scene.split == split] for split in ("train", "val")},
        "cameras": list(export.names.values()),
        "counts": written.counts,
        "has_velocity": written.has_velocity,
        "has_attributes": False,
        "fingerprint": fingerprint({"tables": tables, "media": media, "settings": dict(dataset)}),
    }
    write_json(root / ".complete.json", complete)
    return complete


def _facts(
    export: _Export, frame: FrameFiles, position: int, lidar_from_cloud: np.ndarray, settings: Settings
) -> FrameFacts:
    """One frame in LIDAR_TOP's axes, with nuScenes' categories."""
    found = export.objects[frame.label]
    keep, categories = [], []
    for index, name in enumerate(found.names):
        category, mapped = category_of(name, settings.class_map)
        export.classes[name] += 1
        if not mapped:
            export.unmapped[name] += 1
        if category is not None:
            keep.append(index)
            categories.append(category)
    timestamp = export.times[frame.label] if export.times else (position + 1) * ASSUMED_STEP
    times = export.camera_times.get(frame.label, {})
    cloud_from_lidar = invert_rigid(lidar_from_cloud)
    still = camera_names.ego_from_lidar()
    cameras = export.cameras[frame.label]
    return FrameFacts(
        name=frame.name,
        timestamp=timestamp,
        world_from_lidar=still if export.poses is None else export.poses[frame.label] @ cloud_from_lidar,
        cameras={
            name: (
                frame.images[index], cameras[index].camera_from_cloud @ cloud_from_lidar, cameras[index].intrinsic, cameras[index].size,
                times.get(index, timestamp),
            )
            for index, name in export.names.items()
        },
        cloud=frame.cloud,
        boxes=transform_boxes(found.boxes[keep], lidar_from_cloud),
        categories=categories,
        tracks=[found.tracks[index] for index in keep],
        point_counts=[found.point_counts[index] for index in keep],
    )  # fmt: skip


def _notes(export: _Export, written: Written) -> list[str]:
    counts = written.counts
    notes = [
        f"{counts['keyframes']} frames in {counts['scenes']} scenes, {counts['annotations']} boxes; classes: {_listing(export.classes)}."
    ]
    if export.unmapped:
        notes.append(
            f"unmapped class names: {_listing(export.unmapped)}. Their boxes are kept and neither trained on nor scored; name them in `class_map`."
        )
    if written.frames_without_cloud:
        notes.append(
            f"{written.frames_without_cloud} frames have no point cloud: an empty one stands in, and pointN is taken as it is."
        )
    if written.boxes_assumed_seen:
        notes.append(
            f"{written.boxes_assumed_seen} boxes have neither pointN nor a point cloud to count in: taken as holding one point, so that they count."
        )
    if written.repeated_tracks:
        notes.append(
            f"{written.repeated_tracks} boxes repeat a trackId of their own frame: each became an instance of its own."
        )
    return notes


def _listing(counts: Counter[str]) -> str:
    return ", ".join(
        f"{name or '(no name)'} {count}" for name, count in sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    )
