"""From a nuScenes root to annotation stores: joins over whole tables, no record is visited one by
one.

What a store holds is what Paddle3D's ``tools/create_petr_nus_infos.py`` puts into its infos (read
at its develop branch, 2022 to 2026), which walks the devkit record by record and takes hours at the
size of trainval.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from petrflow.annotations import boxes, frames, layout, runs
from petrflow.annotations.check import check_frames
from petrflow.annotations.tables import camera_names, read_tables
from petrflow.annotations.values import check_values
from petrflow.files.provenance import provenance
from petrflow.nuscenes.columns import Columns
from petrflow.nuscenes.root import Root, describe_root


def assemble(
    root: Root,
    tables: dict[str, Columns],
    split: str,
    num_prev_keyframes: int,
    sweeps_per_keyframe: int,
    chosen: np.ndarray | None = None,
) -> tuple[Columns, dict[str, Any]]:
    """Join the tables into the columns and the metadata of one split's store (see
    docs/annotation-store.md).

    ``chosen`` (samples,) bool leaves out the other keyframes; the scenes are those of the whole
    split.
    """
    cameras = camera_names(root, tables)
    keyframe_rows = frames.keyframes_of(root, tables, split)
    scene_rows = frames.scenes_of(tables, keyframe_rows)
    if chosen is not None:
        keyframe_rows = keyframe_rows[chosen[keyframe_rows]]
    before = tables["sample"]["prev_row"][keyframe_rows]
    number = frames.number_of(keyframe_rows, len(tables["sample"]["timestamp"]))
    frame_rows, current, frame_prev = frames.camera_frames_of(tables, keyframe_rows, cameras)
    sweeps, counts = frames.walk_back(
        current,
        frame_prev,
        np.where(before >= 0, number[before], -1),
        cameras,
        num_prev_keyframes=num_prev_keyframes,
        sweeps_per_keyframe=sweeps_per_keyframe,
    )
    kept = frames.every(tables["sample"]["scene_row"][keyframe_rows], root.load_every)
    keyframe_rows, current, sweeps, counts = keyframe_rows[kept], current[kept], sweeps[kept], counts[kept]
    used = frames.used_frames(current, sweeps, len(frame_rows))
    renumbered = frames.number_of(used, len(frame_rows))
    filled = np.arange(sweeps.shape[1]) < counts[:, None]
    keyframes = frames.keyframe_columns(tables, keyframe_rows, scene_rows)
    box_columns, box_offset = boxes.box_columns(tables, keyframe_rows, keyframes, root.has_points)
    if root.leave_out_unseen:
        images = frames.images_of(tables, frame_rows[current])
        box_columns["valid"] &= boxes.seen(box_columns, box_offset, keyframes, images)
    groups = {
        "keyframe": {
            **keyframes,
            "camera_frame": renumbered[current],
            "sweep_offset": np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
            "box_offset": box_offset,
        },
        "sweep": {"camera_frame": renumbered[sweeps[filled]]},
        "camera_frame": frames.camera_frame_columns(tables, frame_rows[used], keyframe_rows),
        "calibration": frames.calibration_columns(tables),
        "box": box_columns,
        "scene": frames.scene_columns(tables, scene_rows),
    }
    metadata = {
        "version": root.version,
        "split": split,
        "dataset_fingerprint": root.fingerprint,
        "cameras": list(cameras),
        "num_prev_keyframes": num_prev_keyframes,
        "sweeps_per_keyframe": sweeps_per_keyframe,
        **boxes.box_labels(tables),
    }
    return {
        f"{group}.{name}": column for group, columns in groups.items() for name, column in columns.items()
    }, metadata


def annotate(
    root: Path,
    outputs: Mapping[str, Path],
    *,
    about: Path | None = None,
    progress: bool = True,
    threads: int | None = None,
) -> None:
    """Make the annotate stage's outputs: check every image that a keyframe may use, build the
    stores, leave ``provenance.json``.

    Parameters
    ----------
    root : Path
        A nuScenes root that a door has finished.
    outputs : mapping
        Split name (``train``, ``val``) to the store's path, all in one folder.
    about : Path, optional
        ``results/{dataset}/root/``, where the door left its receipt.
    """
    inputs: dict[str, str | Path] = {"tables": describe_root(root, about=about).fingerprint}
    folder = Path(next(iter(outputs.values()))).parent
    with provenance(folder / "provenance.json", inputs, {}) as record:
        checked = build_all(
            root,
            outputs,
            about=about,
            check_images=True,
            progress=progress,
            threads=threads,
        )
        record.record(images_checked=checked)


def build_all(
    root: Path,
    outputs: Mapping[str, Path],
    *,
    about: Path | None = None,
    check_images: bool = False,
    num_prev_keyframes: int = 5,
    sweeps_per_keyframe: int = 5,
    progress: bool = True,
    threads: int | None = None,
    version: str | None = None,
    splits: Mapping[str, Sequence[str]] | None = None,
    runs_of_scenes: int | None = None,
) -> int:
    """Build the stores of several splits from one reading of the tables; return the number of
    images checked.

    Parameters
    ----------
    root : Path
        A nuScenes root.
    outputs : mapping
        Split name (``train``, ``val``) to the store's path.
    check_images : bool
        Look at every image file first; see :func:`petrflow.annotations.check.check_frames`.
    num_prev_keyframes, sweeps_per_keyframe : int
        Length of the chain of previous camera frames: stock's ``--num_prev`` and ``--num_sweep``.
    progress : bool
        Show a bar of scenes on stderr.
    threads : int, optional
        Default: one per core. The stores' bytes do not depend on it.
    version, splits, about : optional
        See :func:`describe_root`.
    runs_of_scenes : int, optional
        How many runs of scenes are joined one after another, so that memory is bounded; by default
        as many as the tables' size asks for. The stores' bytes do not depend on it.
    """
    described = describe_root(root, version, splits, about)
    number = runs.runs_needed(described) if runs_of_scenes is None else runs_of_scenes
    if number > 1:
        return _build_in_runs(
            described, outputs, number, check_images, num_prev_keyframes, sweeps_per_keyframe, progress, threads
        )
    tables = read_tables(described, progress, threads)
    check_values(described, tables)
    stores = [assemble(described, tables, split, num_prev_keyframes, sweeps_per_keyframe) for split in outputs]
    del tables
    checked = 0
    if check_images:
        checked = check_frames(described.folder, stores, progress=progress)
    for path, (columns, metadata) in zip(outputs.values(), stores, strict=True):
        layout.write(Path(path), columns, metadata)
    return checked


def _build_in_runs(
    root: Root,
    outputs: Mapping[str, Path],
    number: int,
    check_images: bool,
    num_prev_keyframes: int,
    sweeps_per_keyframe: int,
    progress: bool,
    threads: int | None,
) -> int:
    folder = Path(next(iter(outputs.values()))).parent
    checked = 0
    with runs.dealt(root, list(outputs), number, folder, progress, threads) as dealt:
        for run in range(dealt.number):
            tables, chosen = dealt.tables(run), dealt.run_of_sample == run
            check_values(root, tables)
            stores = [
                assemble(root, tables, split, num_prev_keyframes, sweeps_per_keyframe, chosen) for split in outputs
            ]
            del tables
            if check_images:
                checked += check_frames(root.folder, stores, decode=False, progress=progress)
            for split, (columns, metadata) in zip(outputs, stores, strict=True):
                layout.write(dealt.piece(split, run), columns, metadata)
            del stores, columns
        for split, path in outputs.items():
            runs.join_pieces([dealt.piece(split, run) for run in range(dealt.number)], Path(path))
    return checked


def build(
    root: Path,
    split: str,
    out: Path,
    *,
    num_prev_keyframes: int = 5,
    sweeps_per_keyframe: int = 5,
    progress: bool = True,
    threads: int | None = None,
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
        threads=threads,
        version=version,
        splits=splits,
    )
