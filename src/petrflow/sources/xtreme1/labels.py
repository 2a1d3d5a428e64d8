"""Reads which boxes the frames of an export are labelled with, and refuses labels that no training
could use.
"""

from __future__ import annotations

from collections import Counter

from petrflow.errors import PetrflowError
from petrflow.sources.xtreme1.frames import Document, FrameFiles
from petrflow.sources.xtreme1.parse import Objects, choose_source, data_id_of, read_objects, read_results
from petrflow.sources.xtreme1.settings import Settings

# rad; Xtreme1 writes angles within a turn, other tools a few turns of them.
_LARGEST_ANGLE = 20.0


def read_labels(frames: list[FrameFiles], settings: Settings, notes: list[str]) -> dict[str, Objects]:
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
