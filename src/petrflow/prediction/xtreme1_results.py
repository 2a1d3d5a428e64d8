"""Detections as results that Xtreme1 takes in an upload: ``result/NAME.json`` beside the media.

What the server accepts was read from its code (v0.7 to v0.9.1): a list with one object, a class by
its number in the data set, and no file for a frame without a box. Frames that are in a data set
already are skipped together with their results, so that this way is for new data.
"""

from __future__ import annotations

import json
import math
import uuid
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from petrflow.errors import InputError
from petrflow.evaluation.thresholds import class_scores
from petrflow.files import atomic_path, read_json
from petrflow.geometry import FloatArray, boxes_to_xtreme1, invert_rigid, transform_boxes
from petrflow.nuscenes.names import CATEGORY_OF_DETECTION
from petrflow.prediction.detections import read_detections

_NAMESPACE = uuid.UUID("6ba7b811-9dad-11d1-80b4-00c04fd430c8")
_EARLIEST = (1980, 1, 1, 0, 0, 0)  # a fixed time of files in the zip: same detections, same bytes


@dataclass(frozen=True)
class FrameResult:
    """Detections of one frame of an export.

    Attributes
    ----------
    token : str
        Sample token of the frame in the imported root.
    boxes : (N, 7) float64
        x, y, z, w, l, h, yaw in LIDAR_TOP's frame, m and rad.
    names : list of str
        Class of each box, as the model calls it.
    scores : (N,) float64
    tracks : list of str
        Track of each box; '' where it has none.
    """

    token: str
    boxes: FloatArray
    names: Sequence[str]
    scores: FloatArray
    tracks: Sequence[str]


def in_the_tools_terms(
    boxes: FloatArray, cloud_from_lidar: FloatArray, conventions: Mapping[str, Any]
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return boxes as an export of these conventions writes them.

    Parameters
    ----------
    boxes : (N, 7 or more) float64
        x, y, z, w, l, h, yaw in LIDAR_TOP's frame, m and rad.
    cloud_from_lidar : (4, 4) float64
        LIDAR_TOP's frame to that of the point cloud, m.
    conventions : mapping
        ``length_unit`` (m), ``size_order``, ``yaw_offset`` (degrees) and ``angle_unit``.

    Returns
    -------
    centres, sizes : (N, 3) float64
        In the export's unit of length, the sizes in its order.
    yaws : (N,) float64
        About the cloud's z axis, in the export's unit of angles.
    """
    centres, sizes, yaws = boxes_to_xtreme1(transform_boxes(boxes[:, :7], cloud_from_lidar))
    yaws = yaws - math.radians(conventions["yaw_offset"])
    if conventions["angle_unit"] == "deg":
        yaws = np.degrees(yaws)
    places = ["lwh".index(axis) for axis in conventions["size_order"]]
    return centres / conventions["length_unit"], sizes[:, places] / conventions["length_unit"], yaws


class Way:
    """The way back into one export: its frames' names, its classes' numbers and its conventions.

    Parameters
    ----------
    path : Path
        ``frames.json`` of the import.
    class_ids : mapping, optional
        Numbers of classes in the data set on the server, by the export's class name; they win over
        those that the imported labels had.

    Raises
    ------
    InputError
        When the import left no such file: it was made by an older petrflow.
    """

    def __init__(self, path: Path, class_ids: Mapping[str, int] | None = None) -> None:
        if not path.exists():
            raise InputError(
                f"{path} is not there, which the way back into Xtreme1 needs: the import that made this data set was an "
                "older petrflow's. Give the data set another name in the config, and it is imported again."
            )
        content = read_json(path)
        self.frames: dict[str, dict[str, Any]] = {frame["sample"]: frame for frame in content["frames"]}
        self._cloud_from_lidar = invert_rigid(np.array(content["lidar_from_cloud"]))
        self._conventions: dict[str, Any] = content["conventions"]
        self._names: dict[str, str] = content["names"]
        self._ids: dict[str, int] = {**content["class_ids"], **(class_ids or {})}

    def class_of(self, name: str) -> tuple[str, int | None]:
        """Return the export's name of a model's class, and its number there; None where it is not
        known, so that the labeller classes the box.
        """
        own = self._names.get(CATEGORY_OF_DETECTION.get(name, name), name)
        return own, self._ids.get(own)

    def contours(self, boxes: FloatArray) -> list[dict[str, Any]]:
        """Return Xtreme1's contours of boxes, with the units, the order of sizes, the axes and the
        yaw of the export: the exact inverse of the import.

        Parameters
        ----------
        boxes : (N, 7) float64
            x, y, z, w, l, h, yaw in LIDAR_TOP's frame, m and rad.
        """
        centres, sizes, yaws = in_the_tools_terms(boxes, self._cloud_from_lidar, self._conventions)
        return [
            {
                "center3D": _xyz(centre),
                "size3D": _xyz(size),
                "rotation3D": {"x": 0, "y": 0, "z": float(yaw)},
                "pointN": 0,
                "points": [],
                "viewIndex": 0,
            }
            for centre, size, yaw in zip(centres, sizes, yaws, strict=True)
        ]

    def result(self, found: FrameResult, source_name: str) -> list[dict[str, Any]]:
        """Return the content of one frame's result file; an empty list where it has no box."""
        objects: list[dict[str, Any]] = []
        for index, contour in enumerate(self.contours(found.boxes)):
            name, number = self.class_of(found.names[index])
            track = found.tracks[index] or f"{found.token}/{index}"
            objects.append(
                {
                    "id": str(uuid.uuid5(_NAMESPACE, f"{source_name}/{found.token}/{index}")),
                    "type": "3D_BOX",
                    "classId": number,
                    "className": name,
                    "trackId": uuid.uuid5(_NAMESPACE, f"{source_name}/{track}").hex[:16],
                    "trackName": str(index + 1),
                    "classValues": [],
                    "contour": contour,
                    "modelConfidence": round(float(found.scores[index]), 4),
                    "modelClass": name,
                }
            )
        if not objects:
            return []
        frame = self.frames[found.token]
        return [
            {
                "version": "1.0",
                "dataId": frame["data_id"],
                "sourceName": source_name,
                "classificationValues": None,
                "objects": objects,
            }
        ]


def frame_results(detections: Path, thresholds: Path, way: Way) -> list[FrameResult]:
    """Return the detections of a data set that are worth handing over.

    Parameters
    ----------
    detections : Path
        ``detections.parquet``.
    thresholds : Path
        ``thresholds.json``: the score of each class from which on its boxes are handed over.
    way : Way
        Of the data set.
    """
    table = read_detections(detections)
    scores = class_scores(thresholds, table.class_names)
    found = []
    for index, (token, every) in enumerate(zip(table.tokens, table.found, strict=True)):
        keep = np.asarray(every.scores) >= scores[every.labels]
        numbers = np.full(len(keep), -1) if table.tracks is None else table.tracks[index]
        scene = way.frames.get(token, {}).get("scene", "")
        found.append(
            FrameResult(
                token,
                np.asarray(every.boxes, np.float64)[keep, :7],
                [table.class_names[label] for label in every.labels[keep]],
                np.asarray(every.scores)[keep],
                [f"{scene}/{number}" if number >= 0 else "" for number in numbers[keep]],
            )
        )
    return found


def write_results(path: Path, way: Way, found: Sequence[FrameResult], source_name: str) -> dict[str, Any]:
    """Write a zip of ``SCENE/result/NAME.json``, to be unpacked over the upload's media; whole or
    not at all.

    Parameters
    ----------
    path : Path
        The zip.
    found : sequence of FrameResult
        Frames that the import does not know are an error.
    source_name : str
        Name of the model as the labeller sees it.

    Returns
    -------
    dict
        ``frames``, ``boxes``, and ``classes_without_id``: names whose number is not known, with
        counts.

    Raises
    ------
    InputError
        When a frame is not of this import.
    """
    boxes, frames = 0, 0
    unknown: dict[str, int] = {}
    with atomic_path(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive:
        for one in sorted(found, key=lambda each: each.token):
            if one.token not in way.frames:
                raise InputError(
                    f"The detections name the frame {one.token}, which the import of this data set does not hold: predict it again."
                )
            content = way.result(one, source_name)
            if not content:
                continue  # the server refuses an empty list
            frame = way.frames[one.token]
            name = "/".join(filter(None, [frame["scene"], "result", f"{frame['name']}.json"]))
            archive.writestr(zipfile.ZipInfo(name, _EARLIEST), json.dumps(content, ensure_ascii=True, allow_nan=False))
            frames, boxes = frames + 1, boxes + len(content[0]["objects"])
            for entry in content[0]["objects"]:
                if entry["classId"] is None:
                    unknown[entry["className"]] = unknown.get(entry["className"], 0) + 1
    return {"frames": frames, "boxes": boxes, "classes_without_id": dict(sorted(unknown.items()))}


def _xyz(values: FloatArray) -> dict[str, float]:
    return {axis: float(value) for axis, value in zip("xyz", values, strict=True)}
