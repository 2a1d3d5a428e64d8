"""The Xtreme1 door: an upload or export folder, or its zip, becomes a nuScenes root.

    prepare({"kind": "xtreme1", "source": "/data/xtreme1_export"}, Path("data/parking_lot"))

docs/config.md lists the settings of a ``kind: xtreme1`` data set, docs/xtreme1.md explains them.
"""

from __future__ import annotations

import contextlib
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from petrflow.errors import PetrflowError
from petrflow.fetch.archive import extract
from petrflow.files import file_stamp, fingerprint, patient_lock, remove, sha256_file, write_json
from petrflow.files.provenance import provenance
from petrflow.geometry import invert_rigid, transform_boxes
from petrflow.nuscenes.names import CATEGORY_OF_DETECTION
from petrflow.nuscenes.root import COMPLETE
from petrflow.nuscenes.synonyms import labels_of
from petrflow.nuscenes.writer import token
from petrflow.sources.ownership import claim, new_root, write_receipt
from petrflow.sources.xtreme1 import camera_names
from petrflow.sources.xtreme1.classes import category_of, class_map_to_paste
from petrflow.sources.xtreme1.frames import FrameFiles
from petrflow.sources.xtreme1.mark import cache_of, remember_digests, source_mark
from petrflow.sources.xtreme1.reading import Export
from petrflow.sources.xtreme1.settings import Settings, parse_settings
from petrflow.sources.xtreme1.timing import ASSUMED_STEP
from petrflow.sources.xtreme1.writing import CameraFacts, FrameFacts, SceneFacts, SweepFacts, Written, write_root

__all__ = ["FRAMES", "prepare", "source_mark"]

FRAMES = "frames.json"
"""In ``results/{dataset}/root/``: what the way back into Xtreme1 needs."""


def prepare(
    dataset: Mapping[str, Any], root: Path, about: Path | None = None, class_names: Sequence[str] = ()
) -> dict[str, Any]:
    """Turn an Xtreme1 upload or export into a nuScenes root. `petrflow.doctor.examine` should look
    at it next.

    Parameters
    ----------
    dataset
        The config's entry.
    root
        Folder to write, `data/{dataset}`: it appears whole, with `.complete.json`, or not at all. A
        folder that petrflow did not make is left alone.
    about
        `results/{dataset}/root/`, where the receipt goes.
    class_names
        Classes of the models that are trained on it, where they are others than nuScenes' ten.

    Returns
    -------
    The content of `.complete.json`.

    Raises
    ------
    PetrflowError
        Where the export cannot be read, or none of it could be trained on, or the root would take
        the place of what petrflow did not make; the message names the cause and what mends it.
    """
    settings = parse_settings(dataset)
    root = Path(root)
    reads = [settings.source, *(path for path in (settings.media_root, settings.poses) if path is not None)]
    named = [settings.timestamps, settings.splits.get("train"), settings.splits.get("val")]
    reads += [path for name in named if isinstance(name, str) and (path := Path(name).expanduser()).exists()]
    claim(root, reads, about)
    mark = source_mark(dataset, root)
    inputs: dict[str, str | Path] = {"source": mark}
    with (
        new_root(root, kind="xtreme1", version=settings.version, reads=reads, about=about) as temporary,
        provenance(temporary / "provenance.json", inputs, dict(dataset)),
        _opened(settings.source, cache_of(root)) as opened,
    ):
        export = Export.read(opened, settings, cache_of(root) / "media")
        complete, written = _write(temporary, export, settings, mark, class_names, dataset.get("unseen_boxes"))
    if settings.source.is_dir() or settings.media_root:
        remember_digests(root, written.read)
    if about is not None:
        write_json(about / FRAMES, _way_back(export, settings))
    write_receipt(about, complete)
    return complete


@contextlib.contextmanager
def _opened(source: Path, place: Path) -> Iterator[Path]:
    """Yield the export's folder or JSON file. An archive is unpacked into a place of petrflow's
    own.

    A killed import leaves it there, and the next one goes on from where it was; a finished one
    removes it. What an import leaves that failed, because a setting was missing, is used by the
    next one, too. Another archive under the same name begins anew.
    """
    if source.is_dir() or source.suffix.lower() == ".json":
        yield source
        return
    place.mkdir(parents=True, exist_ok=True)
    with patient_lock(place.parent / f".{place.name}.lock"):
        folder = place / f"unpacked-{fingerprint([source.name, *file_stamp(source)])[:12]}"
        for other in place.glob("unpacked-*"):
            if other != folder:
                remove(other)
        try:
            extract(source, folder)
            yield folder
        except PetrflowError as error:
            # People know the archive, not where it was unpacked.
            raise type(error)(
                str(error).replace(f"{folder}/", f"{source}: ").replace(str(folder), str(source))
            ) from error
        remove(folder)
        for empty in (place, place.parent):
            with contextlib.suppress(OSError):
                empty.rmdir()


# ------------------------------------------------------------------------------------------------------------------ writing


def _write(
    folder: Path, export: Export, settings: Settings, mark: str, class_names: Sequence[str], unseen: str | None
) -> tuple[dict[str, Any], Written]:
    """Write the tables, the media and the notes into `folder`; return the content of
    `.complete.json` and what was written.
    """
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
    _refuse_unknown_classes(export, class_names)
    written = write_root(
        folder,
        settings.version,
        scenes,
        list(export.names.values()),
        lidar_from_cloud=lidar_from_cloud,
        cloud_unit=settings.length_unit["cloud"],
        velocities=export.tracks_used,
    )
    notes = export.notes + _notes(export, written)
    for line in notes:
        print(f"xtreme1: {line}", file=sys.stderr)
    write_json(folder / "import.json", _account(export, notes, mark, lidar_from_cloud))
    tables = {path.name: sha256_file(path) for path in sorted((folder / settings.version).glob("*.json"))}
    leave_out = unseen == "leave_out" or (unseen is None and export.cameras_left_out)
    chosen = {"leave_out_unseen": True} if leave_out else {}
    complete = {
        "kind": "xtreme1",
        "version": settings.version,
        "splits": {split: [scene.name for scene in scenes if scene.split == split] for split in ("train", "val")},
        "cameras": list(export.names.values()),
        "counts": written.counts,
        "has_velocity": written.has_velocity,
        "has_attributes": False,
        "fingerprint": fingerprint({"tables": tables, "media": written.media, **chosen}),
        **chosen,
    }
    write_json(folder / COMPLETE, complete)
    return complete, written


def _way_back(export: Export, settings: Settings) -> dict[str, Any]:
    """What petrflow.prediction needs to write boxes as results of this export: names, numbers and
    conventions.
    """
    names: dict[str, str] = {}
    for name in _by_count(export.classes):  # the commonest name of a category
        category, _ = category_of(name, settings.class_map)
        if category is not None:
            names.setdefault(category, name)
    return {
        "lidar_from_cloud": camera_names.lidar_from_cloud(export.axis, settings.origin_height).tolist(),
        "conventions": {
            "length_unit": settings.length_unit["boxes"],
            "size_order": settings.size_order,
            "yaw_offset": settings.yaw_offset,
            "angle_unit": settings.angle_unit,
        },
        "names": names,
        "class_ids": {name: number for found in export.objects.values() for name, number in found.class_ids.items()},
        "frames": [
            {
                "sample": token("sample", scene.name, frame.name),
                "scene": frame.scene,
                "name": frame.name,
                "data_id": export.objects[frame.label].data_id,
            }
            for scene in export.scenes
            for frame in scene.frames
        ],
    }


def _refuse_unknown_classes(export: Export, class_names: Sequence[str]) -> None:
    """Raise where not one box has a class that training knows."""
    own = max(labels_of(list(export.unmapped), class_names), default=-1) >= 0
    if export.unmapped and not own and not sum(export.classes.values()) - sum(export.unmapped.values()):
        raise PetrflowError(
            f"No box has a class that training knows: {_listing(export.unmapped)}. Map them: paste `{class_map_to_paste(_by_count(export.unmapped))}` "
            f"into the data set's entry, each null replaced by one of {', '.join(class_names or CATEGORY_OF_DETECTION)}, or left where boxes are to go."
        )


def _account(export: Export, notes: list[str], mark: str, lidar_from_cloud: np.ndarray) -> dict[str, Any]:
    """Return the content of `import.json`: what the import took for granted, for the doctor."""
    return {
        "notes": notes,
        "source_mark": mark,
        "classes": export.classes,
        "unmapped": export.unmapped,
        "reread_as_column_major": export.reread_as_column_major,
        "lidar_from_cloud": lidar_from_cloud.tolist(),
        "poses": export.poses is not None,
        "cameras": {
            export.names[camera]: {"folder": camera_names.folder_of(camera), "entry": entry}
            for camera, entry in export.entries.items()
        },
    }


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
    earlier = export.sweeps.get(frame.label, [])
    # Without time, unlabelled frames lie evenly between the labelled ones.
    steps = [timestamp - ASSUMED_STEP * (len(earlier) - index) // (len(earlier) + 1) for index in range(len(earlier))]
    facts = _moment(export, frame, timestamp, lidar_from_cloud)
    return FrameFacts(
        name=facts.name,
        timestamp=timestamp,
        world_from_lidar=facts.world_from_lidar,
        cameras=facts.cameras,
        cloud=frame.cloud,
        boxes=transform_boxes(found.boxes[keep], lidar_from_cloud),
        categories=categories,
        tracks=[found.tracks[index] for index in keep],
        point_counts=[found.point_counts[index] for index in keep],
        sweeps=[
            _moment(export, sweep, export.times[sweep.label] if export.times else step, lidar_from_cloud)
            for sweep, step in zip(earlier, steps, strict=True)
        ],
    )


def _moment(export: Export, frame: FrameFiles, timestamp: int, lidar_from_cloud: np.ndarray) -> SweepFacts:
    """Pose and images of one frame, labelled or not."""
    times = export.camera_times.get(frame.label, {})
    cloud_from_lidar = invert_rigid(lidar_from_cloud)
    still = camera_names.ego_from_lidar()
    cameras, pictures = export.cameras[frame.label], export.pictures[frame.label]
    return SweepFacts(
        name=frame.name,
        timestamp=timestamp,
        world_from_lidar=still if export.poses is None else export.poses[frame.label] @ cloud_from_lidar,
        cameras={
            name: CameraFacts(
                pictures[camera],
                cameras[camera].camera_from_cloud @ cloud_from_lidar,
                cameras[camera].intrinsic,
                cameras[camera].lens,
                times.get(camera, timestamp),
            )
            for camera, name in export.names.items()
        },
    )


def _notes(export: Export, written: Written) -> list[str]:
    counts = written.counts
    notes = [
        f"{counts['keyframes']} frames in {counts['scenes']} scenes, {counts['annotations']} boxes; classes: {_listing(export.classes)}."
    ]
    if export.unmapped:
        notes.append(
            f"unmapped class names: {_listing(export.unmapped)}. Their boxes are kept and neither trained on nor scored. To train on them, paste "
            f"`{class_map_to_paste(_by_count(export.unmapped))}` into the data set's entry and put a class in the place of each null."
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


def _by_count(counts: Counter[str]) -> list[str]:
    return sorted(counts, key=lambda name: (-counts[name], name))


def _listing(counts: Counter[str]) -> str:
    return ", ".join(f"{name or '(no name)'} {counts[name]}" for name in _by_count(counts))
