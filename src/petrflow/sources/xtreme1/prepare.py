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
from pathlib import Path
from typing import Any

import numpy as np

from petrflow.errors import PetrflowError
from petrflow.fetch.archive import extract
from petrflow.files import atomic_dir, fingerprint, remove, sha256_file, temporary_path, write_json
from petrflow.files.provenance import provenance
from petrflow.geometry import invert_rigid, transform_boxes
from petrflow.sources.xtreme1 import camera_names
from petrflow.sources.xtreme1.classes import category_of
from petrflow.sources.xtreme1.frames import FrameFiles, source_mark
from petrflow.sources.xtreme1.reading import Export
from petrflow.sources.xtreme1.settings import Settings, parse_settings
from petrflow.sources.xtreme1.timing import ASSUMED_STEP
from petrflow.sources.xtreme1.writing import FrameFacts, SceneFacts, Written, write_root

__all__ = ["prepare", "source_mark"]


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
    inputs: dict[str, str | Path] = {"source": source_mark(dataset, root)}
    with (
        _opened(settings.source, root) as folder,
        atomic_dir(root) as temporary,
        provenance(temporary / "provenance.json", inputs, dict(dataset)),
    ):
        return _write(temporary, Export.read(folder, settings), settings, dataset)


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


# ------------------------------------------------------------------------------------------------------------------ writing


def _write(root: Path, export: Export, settings: Settings, dataset: Mapping[str, Any]) -> dict[str, Any]:
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
            "source_mark": source_mark(dataset, root),
            "classes": export.classes,
            "unmapped": export.unmapped,
            "reread_as_column_major": export.reread_as_column_major,
            "lidar_from_cloud": lidar_from_cloud.tolist(),
            "poses": export.poses is not None,
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
    export: Export, frame: FrameFiles, position: int, lidar_from_cloud: np.ndarray, settings: Settings
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


def _notes(export: Export, written: Written) -> list[str]:
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
