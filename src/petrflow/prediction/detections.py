"""Detections of a data set in one columnar file, ``detections.parquet``: what everything that hands boxes over reads.

One row a detection, keyframes in the store's order, the highest score of a keyframe first. pyarrow is a dependency
already, and Parquet is what pandas, polars, DuckDB and Spark open without petrflow. It takes a tenth of a submission's bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from petrflow.annotations import AnnotationStore
from petrflow.errors import PetrflowError
from petrflow.files import atomic_path
from petrflow.samples.types import Detections

FILE = "detections.parquet"
BOX = ("x", "y", "z", "width", "length", "height", "yaw", "vx", "vy")
"""Columns of a box: lidar frame of its keyframe, nuScenes' order, m, rad and m/s."""

_FRAME = (
    "lidar frame of the keyframe: x right, y ahead, z up; centre and size in m, yaw in rad from x to y, velocity in m/s"
)


@dataclass(frozen=True)
class DetectionTable:
    """What ``detections.parquet`` holds.

    Attributes
    ----------
    tokens : list of str
        Sample tokens of all keyframes, those without a detection too.
    class_names : list of str
    found : list of Detections
        One a keyframe.
    tracks : list of (K,) int64, optional
        Number of each detection's track within its scene, -1 for none; None where nothing was tracked.
    """

    tokens: list[str]
    class_names: list[str]
    found: list[Detections]
    tracks: list[np.ndarray] | None = None


def write_detections(
    path: Path,
    store: AnnotationStore,
    found: Sequence[Detections],
    class_names: Sequence[str],
    tracks: Sequence[np.ndarray] | None = None,
) -> None:
    """Write the detections of all keyframes of a store; the same detections give the same bytes.

    Parameters
    ----------
    found : sequence of Detections
        One a keyframe, in the store's order.
    tracks : sequence of (K,) int64, optional
        As in :class:`DetectionTable`.
    """
    tokens = store.columns["keyframe.token"].take(range(len(store)))
    scenes = store.columns["keyframe.scene_name"].take(range(len(store)))
    counts = [len(one.scores) for one in found]
    keyframe = np.repeat(np.arange(len(found), dtype=np.int32), counts)
    boxes = np.concatenate([np.asarray(one.boxes, np.float64).reshape(-1, 9) for one in found] or [np.zeros((0, 9))])
    joined = {
        "score": np.concatenate([np.asarray(one.scores, np.float64) for one in found] or [np.zeros(0)]),
        "label": np.concatenate([np.asarray(one.labels, np.int64) for one in found] or [np.zeros(0, np.int64)]),
    }
    columns: dict[str, Any] = {
        "sample_token": _texts(keyframe, tokens),
        "scene": _texts(keyframe, scenes),
        "timestamp": np.asarray(store.columns["keyframe.timestamp"], dtype=np.int64)[keyframe],
        "class": _texts(joined["label"].astype(np.int32), list(class_names)),
        "score": joined["score"],
        **{name: np.ascontiguousarray(boxes[:, k]) for k, name in enumerate(BOX)},
    }
    if tracks is not None:
        columns["track"] = np.concatenate([*tracks, np.zeros(0, np.int64)]).astype(np.int64)
    metadata = {"frame": _FRAME, "classes": "\n".join(class_names), "keyframes": "\n".join(tokens)}
    arrays = {name: pa.array(column) for name, column in columns.items()}
    schema = pa.schema([pa.field(name, array.type, nullable=False) for name, array in arrays.items()], metadata)
    with atomic_path(path) as temporary:
        # pyarrow 26.0 leaves the spare bits of dictionary codes and of null flags as they are in memory, so that the same
        # table gives other bytes: neither is used. Repeated texts cost nothing once they are compressed.
        pq.write_table(
            pa.table(arrays, schema), temporary, compression="zstd", row_group_size=1 << 18, use_dictionary=False
        )


def _texts(codes: np.ndarray, texts: list[str]) -> pa.Array:
    return pa.array(texts, pa.string()).take(pa.array(codes))


def read_detections(path: Path) -> DetectionTable:
    """Read ``detections.parquet``.

    Raises
    ------
    PetrflowError
        When it is no file that :func:`write_detections` wrote.
    """
    try:
        table = pq.read_table(path)
        about = {key.decode(): text.decode() for key, text in (table.schema.metadata or {}).items()}
        tokens, names = (about[key].split("\n") if about[key] else [] for key in ("keyframes", "classes"))
        boxes = np.stack([table.column(name).to_numpy() for name in BOX], axis=1)
        scores = table.column("score").to_numpy()
        keyframe, labels = (
            _numbers(table.column(column), known) for column, known in (("sample_token", tokens), ("class", names))
        )
        tracks = table.column("track").to_numpy() if "track" in table.column_names else None
    except (OSError, KeyError, ValueError, pa.ArrowException) as error:
        raise PetrflowError(
            f"{path} holds no detections of petrflow ({error}): run the predict stage that writes it again."
        ) from error
    ends = np.searchsorted(keyframe, np.arange(max(1, len(tokens))), side="right")[:-1]
    parts = [np.split(column, ends) for column in (boxes, scores, labels)]
    found = [Detections(*one) for one in zip(*parts, strict=True)][: len(tokens)]
    return DetectionTable(tokens, names, found, None if tracks is None else np.split(tracks, ends))


def _numbers(column: pa.ChunkedArray, known: list[str]) -> np.ndarray:
    """Return the place of each text among those known: (n,) int64."""
    coded = pc.index_in(column.cast(pa.string()), value_set=pa.array(known, pa.string()))
    return np.asarray(coded.to_numpy(), dtype=np.int64)
