"""From a nuScenes root to annotation stores: joins over whole tables, no record is visited one by one.

What a store holds is what Paddle3D's ``tools/create_petr_nus_infos.py`` puts into its infos (read at its develop branch, 2022 to
2026), which walks the devkit record by record and takes hours at the size of trainval.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from petrflow.annotations import layout
from petrflow.annotations.boxes import boxes_of
from petrflow.annotations.frames import calibrations, camera_frames, keyframes_of, lidar_frames, renumber, walk_back
from petrflow.annotations.roots import Root, camera_names, describe_root, lookup, read_tables
from petrflow.annotations.tables import Columns


def assemble(
    root: Root, tables: dict[str, Columns], split: str, num_prev_keyframes: int, sweeps_per_keyframe: int
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Join the tables into the columns and the metadata of one split's store (see docs/annotation-store.md)."""
    cameras = camera_names(root, tables)
    keyframes, sample_rows = keyframes_of(root, tables, split)
    samples = tables["sample"]["token"].take(pa.array(sample_rows))
    frames, current = camera_frames(tables, samples, cameras)
    previous = lookup(
        pc.take(tables["sample"]["prev"], pa.array(sample_rows)), samples, "sample", "sample", optional=True
    )
    sweeps, sweep_count = walk_back(
        current,
        frames.pop("prev"),
        previous,
        cameras,
        num_prev_keyframes=num_prev_keyframes,
        sweeps_per_keyframe=sweeps_per_keyframe,
    )
    used, renumbered = renumber(current, sweeps, len(frames["timestamp"]))
    offsets = np.concatenate([[0], np.cumsum(sweep_count)])
    filled = np.arange(sweeps.shape[1]) < sweep_count[:, None]
    lidar, lidar_pose = lidar_frames(tables, samples)
    columns = {
        **{f"keyframe.{name}": column for name, column in {**keyframes, **lidar}.items()},
        "keyframe.camera_frame": renumbered[current],
        "keyframe.sweep_offset": offsets.astype(np.int64),
        "sweep.camera_frame": renumbered[sweeps[filled]],
        **{f"camera_frame.{name}": _take(column, used) for name, column in frames.items()},
        **calibrations(tables),
        **{
            f"box.{name}": column
            for name, column in boxes_of(tables, samples, keyframes["timestamp"], lidar_pose).items()
        },
    }
    columns["keyframe.box_offset"] = columns.pop("box.offset")
    metadata = {
        "version": root.version,
        "split": split,
        "dataset_fingerprint": root.fingerprint,
        "cameras": list(cameras),
        "num_prev_keyframes": num_prev_keyframes,
        "sweeps_per_keyframe": sweeps_per_keyframe,
        "names": columns.pop("box.names"),
        "attributes": columns.pop("box.attributes"),
    }
    return columns, metadata


def _take(column: Any, rows: np.ndarray) -> Any:
    return column[rows] if isinstance(column, np.ndarray) else pc.take(column, pa.array(rows))


def build_all(
    root: Path,
    outputs: Mapping[str, Path],
    *,
    num_prev_keyframes: int = 5,
    sweeps_per_keyframe: int = 5,
    progress: bool = True,
    version: str | None = None,
    splits: Mapping[str, Sequence[str]] | None = None,
) -> None:
    """Build the stores of several splits from one reading of the tables.

    Parameters
    ----------
    root : Path
        A nuScenes root.
    outputs : mapping
        Split name (``train``, ``val``) to the store's path.
    num_prev_keyframes, sweeps_per_keyframe : int
        Length of the chain of previous camera frames: stock's ``--num_prev`` and ``--num_sweep``.
    progress : bool
        Show a bar of scenes on stderr.
    version, splits : optional
        See :func:`describe_root`.
    """
    described = describe_root(root, version, splits)
    tables = read_tables(described, progress)
    for split, path in outputs.items():
        columns, metadata = assemble(described, tables, split, num_prev_keyframes, sweeps_per_keyframe)
        layout.write(Path(path), columns, metadata)


def build(
    root: Path,
    split: str,
    out: Path,
    *,
    num_prev_keyframes: int = 5,
    sweeps_per_keyframe: int = 5,
    progress: bool = True,
    version: str | None = None,
    splits: Mapping[str, Sequence[str]] | None = None,
) -> None:
    """Build the store of one split; see :func:`build_all`, which reads the tables once for both."""
    build_all(
        root,
        {split: out},
        num_prev_keyframes=num_prev_keyframes,
        sweeps_per_keyframe=sweeps_per_keyframe,
        progress=progress,
        version=version,
        splits=splits,
    )
